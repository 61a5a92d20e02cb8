"""The backend of numba: its blocks, when it is taken, and that it equals the dense penalty.

What holds for every backend is in `test_torch_backend` and `test_penalty`.
"""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isoreg import InputError, isometry_penalty
from isoreg._pairs import engine
from isoreg._pairs.backends import numba_blocks
from isoreg._pairs.backends.numba_blocks import Blocks, plan_blocks
from isoreg._pairs.dense import dense_penalty
from isoreg._pairs.plan import Call
from isoreg.distances import euclidean
from isoreg.masks import IGNORED


def blocks(labels: Tensor | None, n: int, width: int = 3, rows: slice | None = None) -> Blocks:
    points = torch.zeros(n, width)
    return plan_blocks(Call(points, [points], labels, rows=rows))


def covered(found: Blocks, n: int, local: slice) -> Tensor:
    """How often each row is compared with each sample."""
    times = torch.zeros(n, n, dtype=torch.long)
    order = torch.from_numpy(found.order)
    for start, stop, other, end in found.blocks.tolist():
        a, b = order[start:stop], order[other:end]
        times[a[:, None], b[None, :]] += 1
        if start != other and local.start <= b[0] < local.stop:
            times[b[:, None], a[None, :]] += 1
    return times.fill_diagonal_(0)[local]


@given(
    labels=st.lists(st.sampled_from([0, 1, 2, 7, 3, IGNORED]), max_size=150),
    copies=st.integers(1, 3),
    width=st.sampled_from([3, 5000]),
    cut=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 200)),
)
def test_the_blocks_hold_every_pair_of_equal_label_once(
    labels: list[int], copies: int, width: int, cut: tuple[int, int] | None
) -> None:
    y = torch.tensor(labels * copies, dtype=torch.long)
    expected = ((y[:, None] == y) & (y != IGNORED)).fill_diagonal_(False)
    local = slice(*(min(place, len(y)) for place in sorted(cut or (0, len(y)))))
    found = blocks(y, len(y), width, local)
    assert torch.equal(covered(found, len(y), local), expected.long()[local])
    assert sorted(found.order.tolist()) == list(range(len(y)))
    rows = [found.order[start:stop] for start, stop, *_ in found.blocks]
    assert {int(x) for part in rows for x in part} == set(range(local.start, local.stop))


def test_all_pairs_are_one_class_cut_into_tiles_that_fit_the_cache() -> None:
    for n, width in ((100, 3), (300, 3), (300, 800), (40, 10**6)):
        found = blocks(None, n, width)
        assert torch.equal(covered(found, n, slice(0, n)), 1 - torch.eye(n, dtype=torch.long))
        sides = found.blocks[:, 1] - found.blocks[:, 0]
        assert sides.max() <= 256
        assert sides.max() * width <= max(1 << 17, 32 * width)


def test_chunks_are_all_blocks_in_their_order_a_few_at_a_time() -> None:
    for n in (0, 1, 50, 2000):
        found = blocks(None, n, 1000)
        chunks = list(found.chunks())
        assert sum(len(part) for part, _ in chunks) == len(found.blocks)
        assert [row for part, _ in chunks for row in part.tolist()] == found.blocks.tolist()
        assert sum(pairs for _, pairs in chunks) == found.ends[-1:].sum()
        assert max((pairs for _, pairs in chunks), default=0) <= 1 << 18
    assert len(chunks) > 5


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def difficult(request: pytest.FixtureRequest) -> tuple[Tensor, list[Tensor], Tensor]:
    """Several tiles a class, near pairs within and across them, duplicates, an offset."""
    n = 301
    y = torch.arange(n) % 3
    y[::23] = IGNORED
    x = torch.randn(n, 5000)  # so wide that the tiles are short
    spread = torch.randn(n, 6)
    clusters = 0.01 * torch.randn(n, 33) + torch.randn(7, 33)[torch.randint(7, (n,))]
    clusters[100:150] = clusters[:50]
    away = 30 + torch.randn(n, 1)
    wide = 0.01 * torch.randn(n, 1101) + torch.randn(7, 1101)[torch.randint(7, (n,))]
    return x.to(request.param), [f.to(request.param) for f in (spread, clusters, away, wide)], y


@pytest.mark.parametrize("scale", [1.0, 0.3, "fit"])
def test_near_pairs_within_and_across_tiles_are_exact(
    difficult: tuple[Tensor, list[Tensor], Tensor], scale: float | str
) -> None:
    x, features, y = difficult
    assert len(blocks(y, len(y), x.shape[1]).blocks) > 20
    features = [f.requires_grad_() for f in features]
    exact = [f.detach().double().requires_grad_() for f in features]
    expected = dense_penalty(euclidean(x.double()), exact, y, euclidean, scale, "batch")
    found = isometry_penalty(x, features, y, scale=scale)
    assert found.dtype == x.dtype
    digits = 1e-6 if x.dtype == torch.float32 else 1e-11
    torch.testing.assert_close(found.double(), expected, rtol=digits, atol=0)
    gradients = torch.autograd.grad(found.sum(), features)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        assert (gradient - reference).norm() / reference.norm() < digits


@pytest.mark.parametrize("scale", [0.3, "fit"])
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("n", [60, 530])
def test_soft_labels_equal_the_dense_way_in_one_tile_and_in_several(
    n: int, reduction: str, scale: float | str
) -> None:
    x, y = torch.rand(n, 6).double(), torch.rand(n, 5).double().softmax(1)
    y[::7] = 0  # pairs with nobody
    y[1::7] = torch.eye(5)[2].double()
    phi = [torch.randn(n, d).double().requires_grad_() for d in (3, 9)]
    expected = dense_penalty(euclidean(x), phi, y, euclidean, scale, reduction)
    found = isometry_penalty(x, phi, y, scale=scale, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    weights = torch.tensor([1.0, -2.5], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, phi, weights), torch.autograd.grad(expected, phi, weights)
    )


def test_strided_expanded_and_parameter_features_are_read_as_they_are() -> None:
    x, y = torch.rand(30, 4), torch.arange(30) % 3
    wide = torch.randn(6, 60)
    for phi in (wide.T[::2], wide[:1, :30].T, torch.ones(1, 4).expand(30, 4)):
        expected = dense_penalty(euclidean(x), [phi], y, euclidean, 1.0, "batch")[0]
        torch.testing.assert_close(isometry_penalty(x, phi, y), expected)
    parameter = torch.nn.Parameter(torch.randn(30, 4))
    isometry_penalty(x, parameter, y).backward()
    assert parameter.grad is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_value_and_gradient(bad: float) -> None:
    x, y = torch.rand(30, 4), torch.arange(30) % 3
    y[7] = 99  # alone
    for place in (0, 7):
        phi = torch.randn(30, 4)
        phi[place, 2] = bad
        value = isometry_penalty(x, phi.requires_grad_(), y)
        assert value.isnan()
        if place == 0:
            gradient = torch.autograd.grad(value, phi)[0]
            assert gradient[::3].isnan().all()
            assert gradient[y > 0].isfinite().all(), "the other classes have their gradient"


def test_a_learned_scale_gets_its_gradients() -> None:
    x, y = torch.rand(40, 4, dtype=torch.float64), torch.arange(40) % 3
    phi = [torch.randn(40, d, dtype=torch.float64, requires_grad=True) for d in (2, 5)]
    weights = torch.tensor([1.0, -3.0], dtype=torch.float64)

    def penalty(scale: Tensor, *features: Tensor) -> Tensor:
        return isometry_penalty(x, features, y, scale=scale)

    for dtype in (torch.float64, torch.float32):
        scale = torch.tensor(0.7, dtype=dtype, requires_grad=True)
        expected = dense_penalty(euclidean(x), phi, y, euclidean, scale, "batch")
        torch.testing.assert_close(
            torch.autograd.grad(penalty(scale, *phi), [scale, *phi], weights),
            torch.autograd.grad(expected, [scale, *phi], weights),
        )
    # frozen features still give the scale its gradient
    frozen = [f.detach() for f in phi]
    (alone,) = torch.autograd.grad(penalty(scale, *frozen), scale, weights)
    torch.testing.assert_close(alone, torch.autograd.grad(penalty(scale, *phi), scale, weights)[0])
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    few = [f.detach()[:6].requires_grad_() for f in phi]
    assert torch.autograd.gradgradcheck(
        lambda s, *f: isometry_penalty(x[:6], f, y[:6], scale=s), (scale, *few)
    )


def test_given_distances_of_any_size_are_divided_before_they_overflow() -> None:
    phi = torch.randn(150, 3, requires_grad=True)
    far = torch.full((150, 150), 5e17)
    value = isometry_penalty(None, phi, input_distances=far, reduction="pairs")
    torch.testing.assert_close(value.item(), 25e34, rtol=1e-5, atol=0)
    assert torch.autograd.grad(value, phi)[0].isfinite().all()


def taken() -> str:
    """The backend that computed last, and why the ones before it did not."""
    return str(engine.last_choice())


class Special(Tensor):
    """A tensor that may mean anything."""


def test_numba_is_for_plain_tensors_on_the_processor_and_says_so() -> None:
    x, phi, y = torch.randn(40, 3), torch.randn(40, 2), torch.arange(40) % 2
    isometry_penalty(x, phi, y)
    assert taken().startswith("numba")
    isometry_penalty(x, phi.as_subclass(Special), y)
    assert taken().startswith("torch")
    assert "numba: the tensors are of a class of their own" in taken()


def test_where_torch_has_many_threads_large_batches_go_to_its_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for n, name in ((100, "numba"), (1500, "torch")):
        isometry_penalty(torch.randn(n, 3), torch.randn(n, 20), torch.zeros(n).long())
        assert taken().startswith(name)
    assert "8 threads" in taken()


def test_a_backend_can_be_forced_and_what_it_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, phi, y = torch.randn(40, 3), torch.randn(40, 2), torch.arange(40) % 2
    expected = isometry_penalty(x, phi, y)
    monkeypatch.setenv("ISOREG_BACKEND", "torch")
    torch.testing.assert_close(isometry_penalty(x, phi, y), expected)
    assert taken() == "torch"
    isometry_penalty(x.repeat(8, 1), phi.repeat(8, 1), y.repeat(8))  # by blocks
    assert taken() == "torch"
    monkeypatch.setenv("ISOREG_BACKEND", "numba")
    with pytest.raises(
        InputError, match="isometry_penalty: ISOREG_BACKEND .*'numba'.*of their own"
    ):
        isometry_penalty(x, phi.as_subclass(Special), y)
    monkeypatch.setenv("ISOREG_BACKEND", "cuda")
    with pytest.raises(InputError, match="one of triton, numba, torch, got 'cuda'"):
        isometry_penalty(x, phi, y)


def test_a_backend_that_fails_is_named_once_and_the_next_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel image\nand many lines more")

    x, phi, y = torch.randn(40, 3), torch.randn(40, 2), torch.arange(40) % 2
    expected = isometry_penalty(x, phi, y)
    monkeypatch.setattr(engine, "_failed", dict(engine._failed))
    monkeypatch.setattr(numba_blocks, "compare", broken)
    sentence = "backend numba .* RuntimeError: no kernel image. Another"
    with pytest.warns(UserWarning, match=sentence) as seen:
        found = [isometry_penalty(x, phi, y) for _ in range(3)]
    torch.testing.assert_close(found, [expected] * 3)
    assert len(seen) == 1
    assert "numba: it failed with RuntimeError" in taken()


def test_without_numba_the_penalty_is_the_same_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    x, phi, y = torch.randn(300, 3), torch.randn(300, 8), torch.arange(300) % 9
    expected = isometry_penalty(x, phi, y)
    real = builtins.__import__

    def missing(name: str, *args: object, **options: object) -> object:
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.9 or less")
        return real(name, *args, **options)  # type: ignore[arg-type]

    for name in ("numba_blocks", "numba_kernels"):
        monkeypatch.delitem(sys.modules, f"isoreg._pairs.backends.{name}")
        monkeypatch.delattr(f"isoreg._pairs.backends.{name}")
    monkeypatch.setattr(engine, "_failed", {})
    monkeypatch.setattr(builtins, "__import__", missing)
    engine._load.cache_clear()
    try:
        torch.testing.assert_close(isometry_penalty(x, phi, y), expected)
        assert "numba: Numba needs NumPy 2.9 or less" in taken()
    finally:
        engine._load.cache_clear()
    assert not recwarn.list


def run_alone(before: str, asked: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A penalty in a process of its own, after some lines of code, and what is asked then."""
    code = f"""
import torch
{before}
from isoreg import isometry_penalty
from isoreg._pairs import engine
isometry_penalty(torch.rand(9, 2), torch.rand(9, 2), torch.arange(9) % 2)
print({asked})
"""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, **options)


def test_where_numba_finds_no_folder_for_its_cache_another_backend_serves() -> None:
    no_folder = "from numba.core import caching\ncaching.CacheImpl._locator_classes = []"
    done = run_alone(no_folder, "engine.last_choice()")
    assert done.stdout.startswith("torch (triton: ")
    assert "numba: it failed with RuntimeError: cannot cache function" in done.stdout
    assert "(NUMBA_CACHE_DIR names a folder for it)" in done.stdout
    assert done.stderr.count("UserWarning: isoreg: the backend numba is not used from now on") == 1


def test_where_numba_may_not_compile_it_is_not_used() -> None:
    env = {"NUMBA_DISABLE_JIT": "1", "PATH": ""}
    done = run_alone("", "engine.last_choice().refused['numba']", env=env)
    assert done.stdout.strip() == "NUMBA_DISABLE_JIT is set"
