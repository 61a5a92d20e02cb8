"""Certified accuracy: never above what attacks leave, exact where it can be, refused elsewhere."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from isoreg import InputError, IsometryRegularizer
from isoreg.robustness import RobustnessReport, evaluate
from isoreg.robustness.certified import _lines, certified, least_margin
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.mlp import layers_of

Change = Callable[[nn.Sequential], object]
ACTIVATIONS = st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid])


def mlp(kind: type[nn.Module], widths: list[int], seed: int, gain: float = 2.0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), kind()]
    for layer in layers[1::2]:
        nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
        nn.init.normal_(layer.bias, std=0.3)
    return nn.Sequential(*layers[:-1])


def margins(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    logits = model(x.float()).double()
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf)).amin(1)


@given(
    ACTIVATIONS,
    st.integers(0, 10_000),
    st.floats(0, 0.6),
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
)
def test_no_point_of_a_box_has_a_smaller_margin_than_the_bound(kind, seed, size, hidden) -> None:
    model = mlp(kind, [2, *hidden, 3], seed)
    middle, labels = torch.rand(4, 2).double(), torch.arange(4) % 3
    bound = least_margin(layers_of(model), middle - size, middle + size, labels)
    side = torch.linspace(-1, 1, 41).double()
    for step in torch.cartesian_prod(side, side):
        assert bool((margins(model, middle + size * step, labels) >= bound - 1e-4).all())


@given(st.integers(0, 10_000), st.floats(0, 0.4), st.booleans())
def test_without_activations_and_on_one_side_of_them_the_bound_is_exact(
    seed: int, size: float, active: bool
) -> None:
    model = mlp(nn.ReLU, [3, 5, 4], seed)
    model[1].bias.data += 50 if active else -50  # each unit always on, or always off
    middle, labels = torch.rand(6, 3).double(), torch.arange(6) % 4
    bound = least_margin(layers_of(model), middle - size, middle + size, labels)
    weight = (model[3].weight @ model[1].weight * active).double()
    rows = weight[labels][:, None] - weight
    away = torch.arange(4) == labels[:, None]
    values = model(middle.float()).double()
    worst = values.gather(1, labels[:, None]) - values - size * rows.abs().sum(2)
    torch.testing.assert_close(
        bound, worst.masked_fill(away, torch.inf).amin(1), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_the_bound_meets_the_margin_as_the_box_shrinks_and_beats_intervals(kind) -> None:
    model = mlp(kind, [8, 16, 16, 4], 0)
    x, labels = torch.rand(20, 8).double(), torch.arange(20) % 4
    layers = layers_of(model)
    at_zero = least_margin(layers, x, x, labels)
    torch.testing.assert_close(at_zero, margins(model, x, labels), atol=1e-4, rtol=1e-4)
    low, high = x - 0.05, x + 0.05
    for layer in model[1:]:
        if isinstance(layer, nn.Linear):
            middle, radius = (low + high) / 2, (high - low) / 2
            middle = layer.double()(middle)
            radius = radius @ layer.weight.abs().T
            low, high = middle - radius, middle + radius
        else:
            low, high = layer(low), layer(high)
    own = labels[:, None]
    intervals = (low.gather(1, own) - high.scatter(1, own, -torch.inf)).amin(1)
    bound = least_margin(layers, x - 0.05, x + 0.05, labels)
    assert bool((bound >= intervals - 1e-9).all())
    assert (bound - intervals).mean() > 0.3 * (at_zero - intervals).mean()


def test_a_margin_of_zero_is_no_proof() -> None:
    tie = nn.Sequential(nn.Linear(1, 2, bias=False))
    tie[0].weight.data.fill_(1.0)
    classifier = PixelClassifier(tie, bounds=(0, 1), mean=None, std=None)
    assert certified(classifier, torch.tensor([[0.5]]), torch.tensor([0]), 0.1) == [False]


def test_the_lines_touch_what_they_enclose() -> None:
    low, high = torch.tensor([-2.0, -1.0, 0.5, -3.0]), torch.tensor([1.0, 2.0, 3.0, -0.2])
    lines = _lines(nn.ReLU, low, high)
    assert lines.low.tolist() == [0, 1, 1, 0], "the one that leaves less between the two"
    torch.testing.assert_close(lines.high, torch.tensor([1 / 3, 2 / 3, 1.0, 0.0]))
    for kind, value in ((nn.Tanh, torch.tanh), (nn.Sigmoid, torch.sigmoid)):
        lines = _lines(kind, low, high)
        at = low + (high - low) * torch.linspace(0, 1, 2001)[:, None]
        above = lines.high * at + lines.high_at - value(at)
        below = value(at) - lines.low * at - lines.low_at
        for gap in (above, below):
            assert gap.min() > -1e-6
            assert bool((gap.amin(0) < 1e-5).all())
            # a line over a bend touches it twice, or is a tangent in the middle
            ends = torch.minimum(gap[0], gap[-1])
            middle = gap[1000]
            assert bool((torch.minimum(ends, middle) < 1e-4).all())


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_the_lines_enclose_ranges_that_end_at_zero_or_are_a_point(kind: type[nn.Module]) -> None:
    low = torch.tensor([0.0, -2.0, -1.0, 0.0, 0.5, -0.5], dtype=torch.float64)
    high = torch.tensor([2.0, 0.0, 1.0, 0.0, 0.5, -0.5], dtype=torch.float64)
    lines = _lines(kind, low, high)
    at = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    value = kind()(at)
    above = lines.high * at + lines.high_at - value
    below = value - lines.low * at - lines.low_at
    for gap in (above, below):
        assert gap.min() > -1e-9
        assert bool((gap.amin(0) < 1e-6).all())
    points = low == high
    assert above[:, points].max() < 1e-9
    if kind is not nn.ReLU:  # over a bend a tangent in the middle
        assert torch.stack([above[50, 0], below[50, 1]]).max() < 1e-9


def subject() -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp(nn.ReLU, [16, 12, 12, 3], 3)
    x = torch.rand(60, 1, 4, 4)
    return model, x, model(x).argmax(1)


def test_a_report_says_between_which_two_numbers_the_truth_lies() -> None:
    model, x, y = subject()
    radii = [0.0, 0.01, 0.03, 0.1]
    report = evaluate(model, x, y, eps=radii, attacks="quick", certified=True)
    for eps in radii:
        proven, survived = report.certified[eps], report.survivors(eps)
        assert all(after for before, after in zip(proven, survived, strict=True) if before)
    bounds = [report.lower_bound[eps] for eps in radii]
    assert bounds[0] == report.clean == 1.0
    assert 1 > bounds[1] > bounds[2] > bounds[3]
    assert bounds[1] > report.worst_case[0.01] - 0.15, "it is no empty bound"
    line = f"{100 * bounds[1]:.1f} and {100 * report.worst_case[0.01]:.1f} % at 0.01"
    assert line in str(report)
    (proven,) = [row for row in str(report).splitlines() if row.startswith("proven")]
    cells = [float(cell.rstrip("%")) for cell in proven.split() if cell.endswith("%")]
    assert cells == pytest.approx([100 * bound for bound in bounds], abs=0.051)
    assert RobustnessReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_without_being_asked_nothing_is_bounded_and_old_reports_are_read() -> None:
    model, x, y = subject()
    report = evaluate(model, x, y, eps=0.01, attacks="fgsm")
    assert report.lower_bound == {}
    assert "between" not in str(report)
    old = {k: v for k, v in report.to_dict().items() if k != "certified"}
    assert RobustnessReport.from_dict(old) == report


def test_units_and_the_ends_of_the_pixels_count() -> None:
    model, x, y = subject()
    plain = PixelClassifier(model, bounds=(0, 1), mean=None, std=None)
    expected = certified(plain, x, y, 0.02)
    assert 0 < sum(expected) < len(expected)
    turned = mlp(nn.ReLU, [16, 12, 12, 3], 3)
    # the same function of images from -1 to 3, normalised: x = (4 p - 1 - 0.5) / 2
    turned[1].weight.data /= 2
    turned[1].bias.data += 0.75 * turned[1].weight.data.sum(1)
    moved = PixelClassifier(turned, bounds=(-1, 3), mean=0.5, std=2.0)
    torch.testing.assert_close(moved(x), plain(x), atol=1e-4, rtol=1e-4)
    assert certified(moved, x, y, 0.02) == expected
    # a model that fails beyond 1 alone is safe, since pixels end there
    end = nn.Sequential(nn.Linear(1, 2))
    end[0].weight.data.copy_(torch.tensor([[0.0], [1.0]]))
    end[0].bias.data.copy_(torch.tensor([1.01, 0.0]))
    safe = PixelClassifier(end, bounds=(0, 1), mean=None, std=None)
    assert certified(safe, torch.tensor([[0.9]]), torch.tensor([0]), 0.5) == [True]


def test_images_in_parts_are_bounded_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = subject()
    plain = PixelClassifier(model, bounds=(0, 1), mean=None, std=None)
    expected = certified(plain, x, y, 0.02)
    monkeypatch.setattr("isoreg.robustness.certified._NUMBERS_AT_ONCE", 7 * 16**2)
    assert certified(plain, x, y, 0.02) == expected


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x.flatten(1))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), {}, "got Conv2d"),
        (Wrapped(), {}, "bounds MLPs alone.*got Wrapped"),
        (Doubled(16, 3), {}, "got Doubled"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.GELU()), {}, "got GELU"),
        (nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(12, 3)), {}, "got Flatten"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {"norm": "L2"}, "L-inf balls alone, got"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).half(),
            {},
            "in float32 or float64.*float16",
        ),
    ],
)
def test_what_cannot_be_bounded_is_refused_before_anything_is_attacked(
    model: nn.Module, options: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoreg.robustness.evaluation._evaluated", None)
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4).long()
    with pytest.raises(InputError, match=f"evaluate: certified=True.*{words}"):
        evaluate(model, x, y, eps=0.1, certified=True, **options)


def test_what_no_removal_helps_is_said_before_what_may_be_removed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="bounds MLPs alone.*got Conv2d"):
        evaluate(model, torch.rand(4, 1, 4, 4), torch.zeros(4).long(), eps=0.1, certified=True)


class Averaged(nn.parallel.DistributedDataParallel):
    """As it is once there are ranks."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


def test_the_model_inside_ddp_is_bounded() -> None:
    model, x, y = subject()
    inside, alone = (
        evaluate(m, x, y, eps=0.03, attacks="quick", certified=True)
        for m in (Averaged(model), model)
    )
    assert inside.certified == alone.certified != {}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: x.flatten(1), "a model must be a torch.nn.Module, got function"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "model must have been called once"),
    ],
)
def test_what_no_attack_takes_is_refused_as_without_certified(model, words: str) -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4).long()
    for bounded in (False, True):
        with pytest.raises(InputError, match=f"evaluate: {words}"):
            evaluate(model, x, y, eps=0.1, attacks="quick", certified=bounded)


def test_a_recorder_changes_nothing_that_layers_return_nor_does_a_copy_of_one() -> None:
    model, x, y = subject()
    with IsometryRegularizer(model):
        for kept in (model, copy.deepcopy(model)):
            report = evaluate(kept, x, y, eps=0.01, attacks="fgsm", certified=True)
            assert report.lower_bound[0.01] > 0


def hooked(register: str) -> Change:
    return lambda model: getattr(model[1], register)(lambda *_: None)


def replaced(model: nn.Sequential) -> None:
    forward = model[1].forward
    model[1].forward = lambda x: forward(x).clamp(-1, 1)


def compiled(model: nn.Sequential) -> None:
    model[1].compile(backend="eager")


def pruned(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[1], "weight", 0.5)


class Jitter(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.01 * torch.randn_like(weight)


def jittered(model: nn.Sequential) -> None:
    nn.utils.parametrize.register_parametrization(model[1], "weight", Jitter())


def computed(name: str) -> type[nn.Linear]:
    """A layer whose class computes its weight, or its bias."""

    def get(self: nn.Linear) -> Tensor:
        return self.kept if torch.is_grad_enabled() else 2 * self.kept

    return type("Computed", (nn.Linear,), {name: property(get, lambda s, x: setattr(s, "kept", x))})


class Halves(Tensor):
    """Multiplies with half of what it says it holds."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> object:
        found = super().__torch_function__(func, types, args, kwargs or {})
        return found / 2 if func is nn.functional.linear else found


def halved(model: nn.Sequential) -> None:
    model[1].weight = nn.Parameter(model[1].weight.detach().as_subclass(Halves))


class Called(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).clamp(-1, 1)


def in_place_of_the_first(kind: type[nn.Module]) -> Change:
    return lambda model: model.__setitem__(1, kind(16, 12))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hooked("register_forward_hook"), "got a hook at Linear '1', which may change that. Remo"),
        (hooked("register_forward_pre_hook"), "got a hook at Linear '1'"),
        (lambda model: model.register_forward_hook(lambda *_: None), "got a hook at the model"),
        (pruned, "got a hook at Linear '1'"),
        (replaced, "got a method 'forward' that was replaced at Linear '1'"),
        (lambda model: setattr(model, "forward", model.forward), "'forward' .* at the model"),
        (compiled, r"got a call that compile\(\) replaced at Linear '1'"),
        (jittered, "got a parametrization that gives other weights each time"),
        (in_place_of_the_first(computed("weight")), "got a property 'weight' at Computed '1'"),
        (in_place_of_the_first(computed("bias")), "got a property 'bias' at Computed '1'"),
        (in_place_of_the_first(Called), "got Called"),
        (halved, "got Halves, Parameter"),
    ],
)
def test_whatever_may_change_what_a_layer_computes_is_refused_before_anything_is_attacked(
    change: Change, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoreg.robustness.evaluation._evaluated", None)
    model, x, y = subject()
    change(model)
    with pytest.raises(InputError, match=f"evaluate: certified=True.*{words}"):
        evaluate(model, x, y, eps=0.01, certified=True)


@pytest.mark.parametrize("register", ["forward_hook", "forward_pre_hook"])
def test_a_hook_on_all_modules_and_autocast_are_refused_by_their_names(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoreg.robustness.evaluation._evaluated", None)
    model, x, y = subject()
    handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *_: None)
    try:
        with pytest.raises(InputError, match="got a hook on all modules"):
            evaluate(model, x, y, eps=0.01, certified=True)
    finally:
        handle.remove()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="torch.autocast w"):
        evaluate(model, x, y, eps=0.01, certified=True)


def test_no_lower_bound_stands_beside_attacks_that_contradict_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, y = subject()
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, h: h - 20 * (h - h[:1].amax()).relu())
    with pytest.raises(InputError, match="got a model that returns something else. Leave"):
        evaluate(model, x, y, eps=0.1, attacks="fgsm", certified=True)
    monkeypatch.setattr("isoreg.robustness.evaluation.check_same", lambda *_: None)
    report = evaluate(model, x, y, eps=[0.0, 0.1], attacks="fgsm", certified=True)
    assert report.lower_bound == {}
    assert report.warnings[0].startswith("NO LOWER BOUND: attacks fool images that certified=True")
    assert "at eps 0" in report.warnings[0]
    assert "proven" not in str(report).split("WARNING")[0]


def test_dropout_and_identity_are_nothing_in_eval_mode_and_a_bias_may_lack() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(16, 8, bias=False)),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.utils.parametrizations.orthogonal(nn.Linear(8, 3)),
    ).train()
    x = torch.rand(30, 1, 4, 4)
    y = model.eval()(x).argmax(1)
    report = evaluate(model.train(), x, y, eps=[0.0, 0.01], attacks="fgsm", certified=True)
    assert report.lower_bound[0.0] == 1
    assert 0 < report.lower_bound[0.01] <= report.worst_case[0.01]


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_a_second_implementation_agrees(kind) -> None:
    other = pytest.importorskip("bound_propagation")
    model = mlp(kind, [16, 12, 12, 3], 0)
    x = torch.rand(30, 16)
    y = model(x).argmax(1)
    bound = least_margin(layers_of(model), x.double() - 0.03, x.double() + 0.03, y)
    theirs = []
    for row, label in zip(x, y, strict=True):
        last = nn.Linear(3, 2, bias=False)
        last.weight.data = torch.eye(3)[label] - torch.eye(3)[[j for j in range(3) if j != label]]
        net = other.BoundModelFactory().build(nn.Sequential(*model[1:], last))
        region = other.HyperRectangle.from_eps(row[None], 0.03)
        theirs.append(net.crown(region).concretize().lower.min().item())
    # each may take other lines
    assert abs(bound.mean().item() - sum(theirs) / len(theirs)) < 0.1
