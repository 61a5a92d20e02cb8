"""On an accelerator the penalty looks at no value, and `torch.compile` puts it into one graph.

There is none here: fake CUDA tensors raise wherever a value is looked at, or a shape depends on it.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from isoreg import FeatureQueue, IsometryRegularizer, isometry_penalty, memory, penalty
from isoreg._pairs import engine, node
from isoreg._pairs.backends import torch_blocks, torch_plan
from isoreg._pairs.plan import Call
from isoreg.masks import IGNORED, valid_labels


class Launches(TorchDispatchMode):
    """Counts the operations that are no views: what an accelerator would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        aliases = [value.alias_info for value in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        answers_at_once = func.namespace == "prim" or "promote_types" in str(func)
        self.count += not is_view and not answers_at_once
        return func(*args, **(kwargs or {}))


CASES = list(
    itertools.product(
        ["integers", "none", "soft", "uint8"],
        [1.0, "fit", "learned"],
        ["batch", "pairs"],
        ["points", "distances", "weights"],
    )
)


# Where there is no GPU, PyTorch 2.4 and 2.9 abort on fake CUDA tensors that need a gradient.
needs_fake_cuda = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14), reason="fake CUDA tensors abort"
)


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    # it is asked first on CUDA, and finds no driver here; its own tests are in test_triton
    monkeypatch.setitem(engine._failed, "triton", "no driver")


@needs_fake_cuda
@pytest.mark.parametrize("kind, scale, reduction, reference", CASES)
def test_no_value_is_looked_at_and_few_operations_are_launched(
    kind: str, scale: Any, reduction: str, reference: str
) -> None:
    for n, layers in ((100, 1), (1024, 1), (1024, 6)):
        with FakeTensorMode():
            x = torch.rand(n, 784, device="cuda")
            features = [torch.randn(n, 512, device="cuda", requires_grad=True)] * layers
            labels = {
                "none": None,
                "integers": torch.zeros(n, dtype=torch.int64, device="cuda"),
                "uint8": torch.zeros(n, dtype=torch.uint8, device="cuda"),
                "soft": torch.rand(n, 10, device="cuda"),
            }[kind]
            options: dict[str, Any] = {"scale": scale, "reduction": reduction}
            if scale == "learned":
                options["scale"] = torch.ones((), device="cuda", requires_grad=True)
            if reference != "points":
                name = "input_distances" if reference == "distances" else "pair_weights"
                options[name] = torch.rand(n, n, device="cuda")
            with Launches() as launches:
                found = isometry_penalty(x, features, labels, **options)
            assert (found.shape, found.device.type) == ((layers,), "cuda")
            assert found.requires_grad
        choice = engine.last_choice()
        assert choice is not None
        assert choice.name == "torch"
        assert "on cuda" in choice.refused["numba"]
        assert launches.count <= 60 + 40 * layers


@needs_fake_cuda
def test_bfloat16_features_and_autocast_are_no_reason_to_look() -> None:
    with FakeTensorMode():
        x = torch.rand(64, 3, 8, 8, device="cuda", dtype=torch.bfloat16)
        phi = torch.rand(64, 9, device="cuda", dtype=torch.float16, requires_grad=True)
        found = isometry_penalty(x, phi, torch.zeros(64, dtype=torch.int64, device="cuda"))
        assert found.dtype == torch.float32


@needs_fake_cuda
@pytest.mark.parametrize("labelled", [True, False])
def test_a_queue_looks_at_no_value(labelled: bool) -> None:
    with FakeTensorMode():
        queue = FeatureQueue(100)
        for _ in range(4):
            phi = torch.rand(32, 9, device="cuda", requires_grad=True)
            labels = torch.zeros(32, dtype=torch.int64, device="cuda") if labelled else None
            found = isometry_penalty(torch.rand(32, 5, device="cuda"), phi, labels, queue=queue)
        assert (len(queue), found.device.type) == (100, "cuda")


@pytest.mark.parametrize("soft", [True, False])
def test_where_nobody_looks_a_sample_that_is_not_finite_pairs_with_nobody_later(
    soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "can_look", lambda _: False)
    queue, clean = FeatureQueue(10), FeatureQueue(10)
    x, phi, y = torch.rand(6, 3), torch.rand(6, 4), torch.arange(6) % 2
    labels = torch.eye(2)[y] if soft else y
    kept = torch.tensor([0, 2, 3, 5])
    isometry_penalty(x[kept], phi[kept], labels[kept], queue=clean)
    bad = phi.clone()
    bad[1, 2], bad[4, 0] = torch.inf, torch.nan
    assert isometry_penalty(x, bad, labels, queue=queue).isnan()
    options: dict[str, Any] = {"reduction": "pairs"}
    found, expected = (isometry_penalty(x, phi, labels, queue=q, **options) for q in (queue, clean))
    assert_close(found, expected)


def difficult(kind: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features on which the usual expansion of squared distances loses its digits."""
    x, features, y = torch.randn(n, 12), torch.randn(n, 20), torch.arange(n) % 3
    if kind == "offset":
        features = features + 100
    elif kind == "collapsed":
        features = 1e-3 * features + 30 * torch.randn(3, 20)[y]
    elif kind == "duplicates":
        features[n // 2 :] = features[: n - n // 2]
    elif kind == "clusters":
        features = 1e-4 * features + torch.randn(10, 20)[torch.arange(n) % 10]
    y[::17] = IGNORED
    return x, features, y


@pytest.fixture
def _as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic of an accelerator, on tensors whose values can be checked."""
    for module in (torch_plan, torch_blocks):
        monkeypatch.setattr(module, "can_look", lambda _: False)


@pytest.mark.usefixtures("_as_on_an_accelerator")
@pytest.mark.parametrize("kind", ["plain", "offset", "collapsed", "duplicates", "clusters"])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("rows", [None, slice(20, 90)])
def test_what_an_accelerator_computes_keeps_six_digits(
    kind: str, labelled: bool, rows: slice | None
) -> None:
    x, features, y = difficult(kind, 150)
    labels = y if labelled else None
    call = Call(x, [features, 2 * features], labels, rows=rows)
    scales = torch.tensor([1.0, 0.3], dtype=torch.float64)
    sums, gradients, _ = torch_blocks.compare(call, scales, 1.0, needs_grad=True)
    wide, inputs = call.local, x.double()
    for value, gradient, s, layer in zip(sums, gradients, (1.0, 0.3), call.features, strict=True):
        phi = layer.double()
        differences = phi[wide, None] - phi
        distances = differences.norm(dim=2)
        gaps = (inputs[wide, None] - inputs).norm(dim=2) - s * distances
        counted = torch.ones(len(gaps), 150, dtype=torch.bool)
        if labels is not None:
            counted = (labels[wide, None] == labels) & (labels[wide, None] != IGNORED)
        gaps = gaps * counted
        assert_close(value.double(), gaps.square().sum(), rtol=1e-6, atol=0)
        pulls = (-4 * s * gaps / distances).masked_fill(distances == 0, 0)
        expected = (pulls[:, :, None] * differences).sum(1)
        error = (gradient.double() - expected).norm() / expected.norm()
        assert error < 3e-7


def test_bad_labels_on_an_accelerator_make_the_penalty_nan() -> None:
    """Where nobody looks, what is not allowed must not count silently: checked on the result."""
    for labels in (torch.tensor([0, -1, 0, 1]), torch.full((4, 2), 0.4)):
        assert penalty.spoil(torch.tensor([2.0]), valid_labels(labels).all()).isnan()
        good = labels[:1].abs() if labels.ndim == 1 else labels * 1.25
        assert penalty.spoil(torch.tensor([2.0]), valid_labels(good).all()) == 2


OPTIONS: list[dict[str, Any]] = [
    {},
    {"scale": "fit"},
    {"scale": "learned"},
    {"reduction": "pairs"},
    {"input_distances": True},
    {"pair_weights": True},
    {"soft": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_is_one_graph_and_equal_to_eager(
    options: dict[str, Any], backend: str
) -> None:
    network, options = nn.Linear(8, 5), dict(options)
    leaves = list(network.parameters())
    if options.get("scale") == "learned":
        options["scale"] = torch.tensor(0.5, requires_grad=True)
        leaves.append(options["scale"])
    soft = options.pop("soft", False)

    def step(x: Tensor, y: Tensor) -> Tensor:
        tables = {name: torch.cdist(x, x) for name in options if options[name] is True}
        features = network(x)
        return isometry_penalty(x, [features, features.tanh()], y, **{**options, **tables}).sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for n in (40, 30, 50):
        x, y = torch.rand(n, 8), torch.arange(n) % 3
        labels = torch.eye(3)[y] if soft else y
        found, expected = (torch.autograd.grad(f(x, labels), leaves) for f in (compiled, step))
        assert_close(found, expected)


def test_a_compiled_step_refuses_bad_labels_when_it_runs() -> None:
    compiled = torch.compile(
        lambda x, y: isometry_penalty(x, 2 * x, y), fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="write -100"):
        compiled(torch.rand(4, 2), torch.tensor([0, -1, 0, -1]))


@pytest.mark.parametrize("scale", [0.5, "fit", torch.tensor(0.7, requires_grad=True)])
def test_the_operator_has_the_second_derivatives_of_the_penalty(scale: Any) -> None:
    x, y, phi = torch.rand(9, 3).double(), torch.arange(9) % 2, torch.rand(9, 2).double()
    phi.requires_grad_()
    learned = scale if isinstance(scale, Tensor) else None
    numbers = learned, scale if isinstance(scale, float) else 0.0, "pairs"
    found, *_ = node._operator(x, [phi], y, None, None, *numbers, True, learned is not None)
    derivatives = []
    for value in (found, isometry_penalty(x, [phi], y, scale=scale, reduction="pairs")):
        (first,) = torch.autograd.grad(value.sum(), phi, create_graph=True)
        derivatives.append((first, *torch.autograd.grad(first.square().sum(), phi)))
    assert_close(*derivatives)


def test_the_operator_is_registered_as_torch_wants_it() -> None:
    x, y = torch.rand(9, 3), torch.arange(9) % 2
    features = [torch.rand(9, 2, requires_grad=True), torch.rand(9, 4, requires_grad=True)]
    arguments = (x, features, y, None, None, None, 1.0, "batch", True, False)
    torch.library.opcheck(
        node._operator,
        arguments,
        test_utils=["test_schema", "test_faketensor", "test_autograd_registration"],
    )


@pytest.mark.filterwarnings("error:Dynamo does not know")  # which sends people to torch's tracker
def test_a_compiled_step_with_a_queue_is_that_of_eager() -> None:
    def trained(compiled: bool, **options: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        iso = IsometryRegularizer(model, queue=20)

        def step(x: Tensor, y: Tensor) -> Tensor:
            return model(x).square().mean() + iso(y)

        run = torch.compile(step, backend="eager", **options) if compiled else step
        seen = []
        for seed in range(5):
            draws = torch.Generator().manual_seed(seed)
            x, y = torch.rand(8, 6, generator=draws), torch.randint(2, (8,), generator=draws)
            loss = run(x, y)
            seen += [loss.detach(), torch.autograd.grad(loss, model[0].weight)[0]]
        return [*seen, *iso.state_dict()["queue"]["rows"]]

    torch.testing.assert_close(trained(True), trained(False))
    torch._dynamo.reset()
    # torch 2.9 says only that it breaks
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="without fullgraph=True|active context"
    ):
        trained(True, fullgraph=True)


def test_a_compiled_penalty_with_a_queue_is_that_of_eager() -> None:
    values = []
    for compiled in (False, True):
        queue = FeatureQueue(9)

        def penalty(x: Tensor, phi: Tensor, queue: FeatureQueue = queue) -> Tensor:
            return isometry_penalty(x, phi, queue=queue)

        run = torch.compile(penalty, backend="eager") if compiled else penalty
        for seed in range(3):
            draws = torch.Generator().manual_seed(seed)
            x, phi = (torch.rand(5, 2, generator=draws) for _ in range(2))
            value = run(x, phi.requires_grad_())
            values += [value.detach(), torch.autograd.grad(value, phi)[0]]
    torch.testing.assert_close(values[:6], values[6:])
