"""The Triton backend without a GPU: interpreted in a process of its own, compiled, and traced."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from isoreg._pairs.backends import triton_blocks

triton = pytest.importorskip("triton")


def test_interpreted_kernels_equal_the_oracle() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("--noconftest", "-W", "ignore", str(Path(__file__).parent / "triton_interpreted.py")),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


def call(
    kind: str = "hard", *, given: bool = False, local: slice | None = None, n: int = 300
) -> Any:
    labels = {"one": None, "hard": torch.zeros(n, dtype=torch.long), "soft": torch.ones(n, 3)}
    features = [torch.ones(n, width) for width in (2, 64, 700)]
    local = slice(0, n) if local is None else local
    table = torch.ones(local.stop - local.start, n)
    inputs, targets = (None, table) if given else (torch.ones(n, 784), None)
    tables = {"targets": targets, "weights": table if given else None}
    return SimpleNamespace(
        inputs=inputs, features=features, labels=labels[kind], local=local, **tables
    )


class Launches(list[tuple[str, dict[str, Any], tuple[Any, ...]]]):
    """What would have been launched."""

    def __getattr__(self, kernel: str) -> Any:
        def at(grid: tuple[int]) -> Any:
            return lambda *flat, **constants: self.append((kernel, constants, flat))

        return type("Kernel", (), {"__getitem__": lambda _, grid: at(grid)})()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    found = Launches()
    monkeypatch.setattr(triton_blocks, "_load_kernels", lambda: found)
    monkeypatch.setattr(torch.cuda, "device", lambda _: triton_blocks.contextlib.nullcontext())
    return found


@pytest.mark.parametrize("local", [None, slice(10, 250)])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", ["one", "hard", "soft"])
def test_the_host_never_looks_at_a_value_on_the_gpu(
    kind: str, given: bool, local: slice | None, launches: Launches
) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        c = call(kind, given=given, local=local)
        scales, total = torch.ones(3, dtype=torch.float64), torch.ones(())
        assert triton_blocks.compare(c, None, 1.0, needs_grad=False).sums.shape == (2, 3)
        launches.clear()
        sums, gradients, _ = triton_blocks.compare(c, scales, total, needs_grad=True)
        assert sums.device.type == "cuda"
        assert [x.shape for x in gradients] == [x[c.local].shape for x in c.features]
    assert len(launches) <= 6, "a launch a layer, one more for inputs, labels and a wide layer"


def test_a_last_smaller_batch_needs_no_other_launches(launches: Launches) -> None:
    names = []
    for n in (300, 37):
        launches.clear()
        scales = torch.ones(3, dtype=torch.float64)
        triton_blocks.compare(call(n=n), scales, 1.0, needs_grad=True)
        names.append([(kernel, constants) for kernel, constants, _ in launches])
    assert names[0] == names[1]


TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64"}


def variants(launches: Launches) -> dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]]:
    """Every kernel, with types and constants, that the host can ask for."""
    found = {}
    scales = torch.ones(3, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        for kind in ("hard", "soft"):
            for given in (False, True):
                c = call(kind, given=given)
                c.features = [x.to(dtype) for x in c.features]
                for name in ("inputs", "targets", "weights"):
                    value = getattr(c, name)
                    setattr(c, name, value if value is None else value.to(dtype))
                triton_blocks.compare(c, scales, 1.0, needs_grad=True)
        triton_blocks.compare(c, None, 1.0, needs_grad=False)
    for kernel, constants, flat in launches:
        types = tuple(TYPES[x.dtype] if isinstance(x, torch.Tensor) else "i32" for x in flat)
        found[f"{kernel} {types} {constants}"] = (kernel, constants, types)
    return found


@pytest.mark.parametrize("capability", [80, 90])
def test_every_variant_compiles_and_fits_the_shared_memory(
    capability: int, launches: Launches
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from isoreg._pairs.backends import triton_kernels

    asked = variants(launches)
    assert len(asked) >= 20
    for kernel, constants, types in asked.values():
        function, options = getattr(triton_kernels, kernel), dict(constants)
        warps = options.pop("num_warps")
        plain = dict(zip(function.arg_names, types, strict=False))
        signature = {name: plain.get(name, "constexpr") for name in function.arg_names}
        assert set(options) == {name for name in signature if name not in plain}
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(function.arg_names)
            if name == "width" or plain.get(name, "").startswith("*")
        }
        compiled = triton.compile(
            ASTSource(function, signature, constexprs=options, attrs=aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps},
        )
        assert compiled.asm["cubin"][:4] == b"\x7fELF"
        assert compiled.metadata.shared <= 99 << 10
        assert "tf32" not in compiled.asm["ptx"], "products are in full float32"


def test_without_triton_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("triton") or "triton_kernels" in (rest[2] or ()):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    triton_blocks._load_kernels.cache_clear()
    try:
        assert triton_blocks.refuses(call()) == "triton is not installed"
    finally:
        triton_blocks._load_kernels.cache_clear()


@pytest.mark.parametrize(
    ("capability", "reason"), [((7, 5), "8.0, this one has 7.5"), ((9, 0), "")]
)
def test_refusals_name_what_is_missing(
    capability: tuple[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not for cpu" in str(triton_blocks.refuses(call()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with FakeTensorMode(), torch.device("cuda"):
        c = call()
        assert reason in (triton_blocks.refuses(c) or "")
        c.features = [x.half() for x in c.features]
        assert "float16" in str(triton_blocks.refuses(c))
