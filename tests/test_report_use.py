"""The report card where people call it: other modes, units, types of labels, and kinds of model."""

from __future__ import annotations

import copy
import io
import random
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import Answers, classifier_of, honest, images_of

from isoreg import InputError
from isoreg.robustness import ATTACKS, PRESETS, RobustnessReport, attacks, evaluate
from isoreg.robustness.checks import boundary_distances, check_gradients, check_model, check_radii
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import pgd, project, steepest
from isoreg.robustness.results import check_distances
from isoreg.robustness.run import Run
from isoreg.robustness.straight_through import StraightThrough
from isoreg.robustness.student import _scale, taught
from isoreg.robustness.task import Task

EPS = 0.1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_a_mode_without_gradients_the_report_is_the_same(mode) -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    expected = evaluate(model, x, y, eps=EPS, attacks="quick")
    with mode():
        found = evaluate(model, x.clone(), y.clone(), eps=EPS, attacks="quick")
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert found.survived == expected.survived
    assert found.warnings == expected.warnings == []


def test_in_lightning_s_test_step_the_report_is_the_same() -> None:
    lightning = pytest.importorskip("lightning")
    x, y = images_of("test", 40)
    reports = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = honest("plain")

        def test_step(self, batch: list[Tensor]) -> None:
            reports.append(evaluate(self.net, *batch, eps=EPS, attacks="quick"))

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        trainer.test(Module(), loader, verbose=False)
    expected = evaluate(honest("plain"), x, y, eps=EPS, attacks="quick")
    assert reports[0].survived == expected.survived


def test_a_model_built_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = nn.Linear(64, 2)
    with pytest.raises(InputError, match=r"evaluate: model must be built outside torch.inference"):
        evaluate(model, torch.rand(4, 64), torch.zeros(4).long(), eps=EPS, attacks="quick")


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-255.0, 0.0), (3.0, 5.0)])
def test_a_radius_is_a_share_of_the_whole_range(bounds) -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    low, high = bounds
    shifted = Answers(lambda images: model((images - low) / (high - low)))
    expected = evaluate(model, x, y, eps=EPS, attacks="quick").worst_case[EPS]
    eps = EPS * (high - low)
    images = (low + x * (high - low)).clamp(low, high)
    found = evaluate(shifted, images, y, eps=eps, bounds=bounds, attacks="quick")
    assert abs(found.worst_case[eps] - expected) <= 0.026


def test_bounds_and_sizes_may_be_of_any_type_of_number() -> None:
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images_of("test", 20)
    names = ["fgsm", "pgd-margin", "noise"]
    expected = evaluate(model, x, y, eps=EPS, attacks=names, batch_size=8)
    for bounds in ((False, True), (np.float32(0), np.float32(1)), torch.tensor([0, 1])):
        found = evaluate(model, x, y, eps=EPS, attacks=names, bounds=bounds, batch_size=np.int64(8))
        assert found.survived == expected.survived


@pytest.mark.parametrize(
    "norm, names",
    [("Linf", ["noise", "apgd-ce", "apgd-t", "fab", "square"]), ("L2", ["cw", "deepfool"])],
)
def test_attacks_are_the_same_whatever_the_default_dtype_is(norm, names) -> None:
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images_of("test", 20)
    seen: set[torch.dtype] = set()
    model.register_forward_pre_hook(lambda *_: seen.add(torch.get_default_dtype()))
    options = {"eps": EPS, "norm": norm, "attacks": names}
    expected = evaluate(model, x, y, **options)
    assert seen == {torch.float32}
    seen.clear()
    torch.set_default_dtype(torch.float64)
    try:
        found = evaluate(model, x, y, **options)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == {torch.float64}, "the model's own default is left to it"
    assert found.survived == expected.survived


def test_a_radius_in_other_units_than_the_bounds_is_remarked_on() -> None:
    model, (x, y) = honest("plain"), images_of("test", 10)
    found = evaluate(model, 255 * x, y, eps=8 / 255, bounds=(0, 255), attacks="fgsm")
    assert "less than one step of 255: is eps in the units of bounds?" in str(found)
    (one,) = check_radii([0.001, 0.6, 0.002, 0.7], "Linf")
    assert "radius of 0.001 of" in one, "the first of them is enough"


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
)
def test_labels_may_be_integers_of_any_type(dtype: torch.dtype) -> None:
    model, (x, y) = honest("plain"), images_of("test", 20)
    expected = evaluate(model, x, y, eps=EPS, attacks="quick")
    found = evaluate(model, x, y.to(dtype), eps=EPS, attacks="quick")
    assert found.survived == expected.survived


def test_a_seed_may_be_an_integer_of_numpy() -> None:
    model, (x, y) = honest("plain"), images_of("test", 20)
    expected = evaluate(model, x, y, eps=EPS, attacks="quick", seed=3)
    found = evaluate(model, x, y, eps=EPS, attacks="quick", seed=np.int64(3))
    assert found.survived == expected.survived


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(honest("plain"), {nn.Linear})


def test_dynamic_int8_is_attacked_through_its_twin_in_floats() -> None:
    x, y = images_of("test", 60)
    plain = evaluate(honest("plain"), x, y, eps=EPS, attacks="quick")
    found = evaluate(quantised(), x, y, eps=EPS, attacks="quick")
    assert abs(found.clean - plain.clean) <= 0.04
    assert found.worst_case[EPS] <= plain.worst_case[EPS] + 0.05


def test_other_quantised_layers_are_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.GRU(8, 4)), {nn.GRU})
    with pytest.raises(InputError, match="got GRU"):
        classifier_of(model)


def exported() -> nn.Module:
    sizes = ({0: torch.export.Dim("n")},)
    return torch.export.export(
        honest("plain"), (torch.rand(2, 1, 8, 8),), dynamic_shapes=sizes
    ).module()


def frozen() -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(copy.deepcopy(honest("plain")))), file)
    file.seek(0)
    return torch.jit.load(file)


def scripted() -> nn.Module:
    return torch.jit.script(copy.deepcopy(honest("plain")))


def traced() -> nn.Module:
    return torch.jit.trace(copy.deepcopy(honest("plain")), torch.rand(2, 1, 8, 8))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [exported, frozen, scripted, traced])
def test_a_model_that_has_one_mode_alone_is_attacked_like_any_other(kind) -> None:
    x, y = images_of("test", 20)
    names = ["pgd-margin", "apgd-ce"]
    expected = evaluate(honest("plain"), x, y, eps=EPS, attacks=names)
    model = kind()
    found = evaluate(model, x, y, eps=EPS, attacks=names)
    assert abs(found.worst_case[EPS] - expected.worst_case[EPS]) <= 0.051
    assert found.warnings == []
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "size == 4, and 2 images"), ({0: torch.export.Dim("n", max=9)}, "size <= 9, and 20")],
)
def test_a_model_exported_for_some_sizes_of_batches_alone_is_refused_by_them(size, words) -> None:
    x, y = images_of("test", 20)
    model = torch.export.export(honest("plain"), (x[:4],), dynamic_shapes=(size,)).module()
    with pytest.raises(InputError, match=f"^evaluate: the model must take .* a batch {words}"):
        evaluate(nn.Sequential(model), x, y, eps=EPS, attacks="quick")


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return honest("plain")(self.norm(x.flatten(1)) / 4)


def test_batch_normalisation_without_statistics_is_attacked_and_said_also_in_batches_of_one() -> (
    None
):
    x, y = images_of("test", 21)
    report = evaluate(
        Statistics(), x, y, eps=EPS, attacks=["fgsm", "apgd-ce", "student"], batch_size=20
    )
    assert "batch normalisation without running statistics" in str(report)
    classifier = classifier_of(Statistics())
    torch.testing.assert_close(classifier(x[:1]), classifier(torch.cat([x[:1], x[:1]]))[:1])


class Trains(nn.Module):
    """Takes a step on the entropy of each batch, as adaptation at test time does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3)

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        entropy = torch.distributions.Categorical(logits=self.net(x)).entropy()
        entropy.mean().backward()
        self.optimizer.step()
        return self.net(x)


class Counted(nn.Linear):
    """Has an integer among its parameters."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.steps = nn.Parameter(torch.tensor(0), requires_grad=False)


@pytest.mark.parametrize(
    ("model", "dtype", "words"),
    [
        (
            lambda: nn.Linear(64, 10),
            torch.float64,
            "images must have the type that the model takes, got images of torch.float64 and "
            r"parameters of torch.float32\. Convert them with images.to\(torch.float32\)",
        ),
        (lambda: Counted(64, 10), torch.float64,
         r"images must .* parameters of torch.float32\. Convert them with images.to\(torch.floa"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), torch.float32,
         "model must have been called once, .* got LazyLinear '1' without"),
        (Trains, torch.float32, "the model must answer without gradients of its parameters"),
    ],
)  # fmt: skip
def test_what_would_end_in_an_error_of_torch_has_a_sentence(model, dtype, words: str) -> None:
    x, y = torch.rand(4, 64, dtype=dtype), torch.zeros(4).long()
    with pytest.raises(InputError, match=f"evaluate: {words}"):
        evaluate(model(), x, y, eps=EPS, attacks="quick")


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (torch.nested.nested_tensor([torch.rand(64), torch.rand(32)]), "a nested one"),
        (torch.rand(2, 64).to_sparse(), "one of torch.sparse_coo on cpu"),
        (torch.empty(2, 64, device="meta"), "one of torch.strided on meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_images_that_are_no_table_of_numbers_are_refused(images: Tensor, kind: str) -> None:
    with pytest.raises(InputError, match=f"evaluate: images must be a dense .* got {kind}"):
        evaluate(nn.Linear(64, 10), images, torch.zeros(2).long(), eps=EPS, attacks="quick")


def test_a_model_that_keeps_its_first_batch_is_told_and_keeps_none_of_ours() -> None:
    class Kept(nn.Linear):
        first = None

        def forward(self, x: Tensor) -> Tensor:
            if self.first is None:
                self.first = x.detach()
            return super().forward(x.flatten(1) - self.first.flatten(1).mean(0))

    model, (x, y) = Kept(64, 10), images_of("test", 10)
    report = evaluate(model, x, y, eps=EPS, attacks="quick")
    assert "it keeps a state" in report.warnings[0]
    assert model.first is None


class Listed(nn.Module):
    """An ensemble that keeps its networks in a list, in which torch does not look for modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.networks = [network]

    def forward(self, x: Tensor) -> Tensor:
        return sum(network(x) for network in self.networks)


def calling(network: nn.Module) -> nn.Module:
    """A model that finds its network in the function that it is given."""
    return Answers(lambda x: network(x))


def calling_compiled(network: nn.Module) -> nn.Module:
    return calling(torch.compile(network, backend="eager", fullgraph=True))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(10), nn.Dropout(0.5)])
@pytest.mark.parametrize("wrap", [Listed, calling, calling_compiled])
@pytest.mark.filterwarnings("error:.*global hooks")
def test_a_network_that_its_model_does_not_list_is_refused_in_training_mode(wrap, layer) -> None:
    network, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), layer), images_of("test", 20)
    network.train()
    model, before = wrap(network), copy.deepcopy(network.state_dict())
    words = f"must list every layer that it calls, got {type(layer).__name__} in training mode"
    with pytest.raises(InputError, match=f"evaluate: the model {words}"):
        evaluate(model, x, y, eps=EPS, attacks="quick")
    with pytest.raises(InputError, match=f"evaluate: the model of transfer_from {words}"):
        evaluate(honest("plain"), x, y, eps=EPS, attacks="quick", transfer_from=model)
    expected = evaluate(network, x, y, eps=EPS, attacks="quick")
    network.eval()
    assert evaluate(model, x, y, eps=EPS, attacks="quick").survived == expected.survived
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["deepfool", "cw", "fab", "apgd-t"])
def test_parameters_that_are_not_listed_get_no_gradient(name: str) -> None:
    network, (x, y) = copy.deepcopy(honest("plain")).requires_grad_(), images_of("test", 10)
    expected = evaluate(network, x, y, eps=1.0, norm="L2", attacks=name)
    found = evaluate(calling(network), x, y, eps=1.0, norm="L2", attacks=name)
    assert found.survived == expected.survived
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_another_thread_trains_meanwhile_is_left_alone() -> None:
    network = nn.BatchNorm1d(10)

    def answer(x: Tensor) -> Tensor:
        errors: list[Exception] = []
        hook = threading.excepthook
        threading.excepthook = lambda args: errors.append(args.exc_value)
        thread = threading.Thread(target=network, args=(torch.rand(4, 10),))
        thread.start()
        thread.join()
        threading.excepthook = hook
        assert not errors
        return x.flatten(1)[:, 20:30]

    x, y = images_of("test", 5)
    evaluate(Answers(answer), x, y, eps=EPS, attacks="fgsm")
    assert network.num_batches_tracked > 0


class FSDPModule(nn.Linear):
    """Stands for what fully_shard makes of a module, which needs a process group."""


def test_a_sharded_model_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="evaluate: model must be whole on this rank, got one tha"):
        evaluate(FSDPModule(64, 2), torch.rand(4, 64), torch.zeros(4).long(), eps=EPS)


def test_buffers_and_random_numbers_are_what_they_were() -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(64, 10)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            drawn = torch.rand(()) + np.random.random() + random.random()
            return super().forward(x.flatten(1)) + 0 * drawn

    def drawn() -> list[float]:
        return [torch.rand(()).item(), np.random.random(), random.random()]

    def seed() -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    model, (x, y) = Counts(), images_of("test", 10)
    seed()
    expected = drawn()
    seed()
    evaluate(model, x, y, eps=EPS, attacks="quick")
    assert model.calls == 0
    assert drawn() == expected


@pytest.mark.parametrize("name", ["round", "floor", "ceil", "trunc", "sign"])
def test_rounding_keeps_its_values_to_the_bit_and_passes_gradients_in_every_spelling(
    name: str,
) -> None:
    start = torch.randn(50) * 3
    expected = getattr(torch, name)(start)
    ways = [
        lambda x: getattr(torch, name)(x),
        lambda x: getattr(torch, name)(input=x),
        lambda x: getattr(x, name)(),
        lambda x: getattr(1 * x, f"{name}_")(),
        lambda x: getattr(torch, f"{name}_")(input=1 * x) if name != "sign" else torch.sgn(x),
    ]
    for way in ways:
        x = start.clone().requires_grad_()
        with StraightThrough():
            found = way(x)
            (2 * found).sum().backward()
        assert torch.equal(found.detach(), expected)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.full_like(x, 2.0))


# what rounds, and its gradient by x as if nothing did
SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "x // 0.5": (lambda x: x // 0.5, lambda x: 0 * x + 2),
    "3 // x": (lambda x: 3 // x, lambda x: -3 / x.square()),
    "floor_divide": (lambda x: torch.floor_divide(x, 0.5), lambda x: 0 * x + 2),
    "by itself": (lambda x: torch.floor_divide(x * x, x), lambda x: 0 * x + 1),
    "//=": (lambda x: (1 * x).__ifloordiv__(0.5), lambda x: 0 * x + 2),
    "div": (lambda x: x.div(0.5, rounding_mode="floor"), lambda x: 0 * x + 2),
    "divide": (lambda x: torch.divide(x, 4, rounding_mode="trunc"), lambda x: 0 * x + 0.25),
    "div_": (lambda x: (1 * x).div_(other=0.5, rounding_mode="trunc"), lambda x: 0 * x + 2),
    "true": (lambda x: torch.div(x, 4), lambda x: 0 * x + 0.25),
    "x - x % 1": (lambda x: x - x % 1, lambda x: 0 * x + 1),
    "5 % x": (lambda x: 5 - 5 % x, lambda x: (5 / x).floor() - 5 / x),
    "remainder": (lambda x: x - torch.remainder(x, 0.5), lambda x: 0 * x + 1),
    "fmod": (lambda x: x - x.fmod(0.5), lambda x: 0 * x + 1),
    "remainder_": (lambda x: x - (1 * x).remainder_(0.5), lambda x: 0 * x + 1),
    "frac": (lambda x: x - x.frac(), lambda x: 0 * x + 1),
    "frac_": (lambda x: x - (1 * x).frac_(), lambda x: 0 * x + 1),
    "heaviside": (lambda x: torch.heaviside(x, values=torch.ones(1)), lambda x: 0 * x + 1),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_other_function_that_rounds_passes_gradients_and_keeps_its_values(name: str) -> None:
    function, slope = SPELLINGS[name]
    start = torch.randn(50) * 3
    x = start.clone().requires_grad_()
    with StraightThrough() as mode:
        found = function(x)
        found.sum().backward()
    assert mode.used is (name != "true")
    assert torch.equal(found.detach(), function(start))
    torch.testing.assert_close(x.grad, slope(start), atol=1e-4, rtol=1e-4)
    with StraightThrough() as mode:
        assert torch.equal(function(start), found.detach())
    assert not mode.used


def interpolated(x: Tensor) -> Tensor:
    """From the entries of a table, by what rounding leaves: here nothing changes."""
    below = (16 * x).floor()
    return honest("plain")((below.detach() + (16 * x - below)) / 16)


def test_a_right_gradient_that_rounding_takes_away_is_climbed_as_it_is_too() -> None:
    x, y = images_of("test", 40)
    plain = evaluate(honest("plain"), x, y, eps=EPS, attacks="quick")
    found = evaluate(Answers(interpolated), x, y, eps=EPS, attacks="quick")
    assert found.warnings == []
    assert found.accuracy["pgd-margin"][EPS] <= plain.accuracy["pgd-margin"][EPS] + 0.026


def test_a_function_without_a_derivative_cuts_the_graph_and_raises_no_error_of_torch() -> None:
    def answer(x: Tensor) -> Tensor:
        z = honest("plain")(x)
        return torch.nextafter(z, z + 1) + z // 10

    x, y = images_of("test", 6)
    report = evaluate(Answers(answer), x, y, eps=EPS, attacks=["pgd-ce", "apgd-ce"])
    assert "the gradient of cross-entropy is exactly zero at 100 % of the images" in str(report)


def test_a_rounding_with_options_has_them_and_a_call_that_is_wrong_stays_wrong() -> None:
    start = torch.tensor([0.26, -1.33])
    for way in (lambda x: torch.round(x, decimals=1), lambda x: (1 * x).round_(decimals=1)):
        x = start.clone().requires_grad_()
        with StraightThrough():
            torch.testing.assert_close(way(x).detach(), torch.tensor([0.3, -1.3]))
            with pytest.raises(TypeError):
                torch.round(x, 1)
            with pytest.raises(TypeError):
                (1 * x).round_(1)
            with pytest.raises(RuntimeError, match="leaf"):
                x.round_()
            assert torch.equal(x, start)
            out = torch.empty(2)
            assert torch.round(start, out=out) is out
            assert torch.equal(out, start.round())
            assert not out.requires_grad


def test_the_worst_case_counts_every_row() -> None:
    keep = [True] * 4
    rows = {f"a{i}": {EPS: list(keep)} for i in range(7)}
    rows["a6"][EPS][2] = False
    assert RobustnessReport("Linf", [EPS], keep, rows).worst_case == {EPS: 0.75}


def first_images(**options) -> list[Tensor]:
    """What pgd shows first in each of two restarts."""
    shown: list[Tensor] = []

    def classifier(x: Tensor) -> Tensor:
        shown.append(x.detach())
        return torch.stack([x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1)

    images = 0.5 + torch.zeros(3, 64)
    pgd(classifier, images, torch.zeros(3).long(), eps=EPS, steps=2, restarts=2, **options)
    return [shown[0] - images, shown[3] - images]


def test_starts_of_pgd_are_random_and_later_ones_always() -> None:
    first, second = first_images()
    assert first.std() > 0.05
    assert second.std() > 0.05
    assert not torch.equal(first, second)
    clean, later = first_images(random_start=False)
    assert bool((clean == 0).all())
    assert later.std() > 0.05


def test_in_l2_a_step_has_its_length_however_small_the_gradient_is() -> None:
    x, y = images_of("test", 20)
    model = honest("plain")
    options = {"eps": 0.5, "norm": "L2", "steps": 5, "random_start": False}
    found, _ = pgd(lambda images: 1e-12 * model(images), x, y, **options)
    torch.testing.assert_close(found, pgd(model, x, y, **options)[0])


def test_the_other_model_is_attacked_in_eval_mode_and_given_back_in_its_own() -> None:
    model, (x, y) = honest("plain"), images_of("test", 20)
    modes = []

    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            modes.append(self.training)
            return model(images)

    other = Other().train()
    evaluate(model, x, y, eps=EPS, attacks="fgsm", transfer_from=other)
    assert modes
    assert not any(modes)
    assert other.training


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_first_order_distances_of_a_linear_model_are_exact(norm: str) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(9, 1, 3, 4)
    y = model(x).argmax(1)
    found = boundary_distances(classifier_of(model), x, y, norm)
    weight, logits = model[1].weight, model(x)
    slope = (weight[0] - weight[1]).norm(p=1 if norm == "Linf" else 2)
    torch.testing.assert_close(found, (logits[:, 0] - logits[:, 1]).abs() / slope)
    assert check_gradients(classifier_of(model), x, y) == []
    none = classifier_of(model), x[:0], y[:0]
    assert (check_gradients(*none), boundary_distances(*none, norm).shape) == ([], (0,))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_noise_lies_at_the_end_of_the_ball_in_random_directions(norm: str) -> None:
    fooled = classifier_of(lambda x: torch.tensor([[0.0, 1.0]]).repeat(len(x), 1))
    x = torch.full((50, 1, 6, 6), 0.5)
    task = Task(fooled, x, torch.zeros(50).long(), EPS, norm, 0)
    change = (ATTACKS["noise"](task)[0] - x).flatten(1)
    order = torch.inf if norm == "Linf" else 2
    torch.testing.assert_close(change.norm(p=order, dim=1), torch.full((50,), EPS))
    assert change.mean(0).abs().max() < 3 * change.std() / 50**0.5
    spread = change.abs().std() / change.abs().mean()
    assert spread < 1e-3 if norm == "Linf" else spread > 0.5


def test_another_model_behind_the_same_units_is_in_eval_mode() -> None:
    first = PixelClassifier(nn.Identity(), bounds=(0, 4), mean=1.0, std=2.0)
    other = first.with_model(nn.Sequential(nn.Dropout(), nn.Flatten()).train())
    assert not any(module.training for module in other.modules())
    x = torch.rand(3, 2)
    torch.testing.assert_close(other(x), (4 * x - 1) / 2)


def test_images_that_are_fooled_far_from_where_their_gradients_say_are_a_sign() -> None:
    distances, falls = torch.full((100,), 2.0), torch.arange(100) >= 5
    assert "takes 20 times the radius" in check_distances(distances, falls, 8, EPS, 1)[0]
    assert check_distances(distances / 2, falls, 8, EPS, 1) == []
    assert check_distances(distances, torch.arange(100) >= 4, 8, EPS, 1) == []
    zero_gradients = torch.where(falls, distances, torch.inf)
    assert check_distances(zero_gradients, falls, 8, EPS, 1) == []


def test_large_margins_and_zero_gradients_are_looked_for_in_more_than_two_images() -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    scale = 60 / (model(x).topk(2).values.diff(dim=1).abs().median().item())

    def scaled(images: Tensor) -> Tensor:
        logits = scale * model(images)
        return torch.cat([logits[:2], logits[2:].detach()])

    warned = evaluate(Answers(scaled), x, y, eps=EPS, attacks="fgsm").warnings
    for signs in (check_model(classifier_of(scaled), x, y), warned):
        assert "logits are very large" in " ".join(signs)
        assert "exactly zero at 95 %" in " ".join(signs)


def test_transfer_climbs_the_other_model_and_judges_by_this_one() -> None:
    model, (x, y) = honest("plain"), images_of("test", 60)

    def row(other: nn.Module) -> float:
        found = evaluate(model, x, y, eps=EPS, attacks=["noise"], transfer_from=other)
        return found.accuracy["transfer"][EPS]

    def wrong(images: Tensor) -> Tensor:
        logits = honest("plain", 1)(images)
        return logits - 100 * nn.functional.one_hot(logits.argmax(1), 10)

    useless = row(Answers(lambda images: 0 * model(images) + images.flatten(1)[:, :10]))
    assert useless > 0.85
    assert row(model) < row(honest("plain", 1)) < useless - 0.1
    assert row(Answers(wrong)) < useless - 0.1, "what fools the other one first is not kept"


def test_the_seed_alone_decides_and_not_what_was_drawn_before_or_runs_beside() -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    torch.manual_seed(1)
    first = evaluate(model, x, y, eps=EPS, attacks=["noise", "pgd-margin"], batch_size=7)
    torch.manual_seed(2)
    second = evaluate(model, x, y, eps=EPS, attacks=["pgd-margin", "noise"], batch_size=7)
    assert first.survived == second.survived
    shown: list[Tensor] = []

    def answer(images: Tensor) -> Tensor:
        shown.append(images.detach().clone())
        return model(images)

    runs = []
    for seed in (0, 0, 2**64 - 1):
        shown.clear()
        evaluate(Answers(answer), x, y, eps=EPS, attacks="pgd-margin", seed=seed)
        runs.append([s for s in shown if len(s) == int((model(x).argmax(1) == y).sum())])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


@pytest.mark.parametrize("draw", [np.random.random, random.random])
def test_a_model_that_draws_its_numbers_elsewhere_follows_the_seed_too(draw) -> None:
    model, (x, y) = honest("plain"), images_of("test", 20)

    def noisy(images: Tensor) -> Tensor:
        noise = torch.tensor([draw() for _ in range(64)]).view_as(images[0])
        return model(images + 0.2 * noise)

    def survived(seed: int) -> dict:
        return evaluate(Answers(noisy), x, y, eps=EPS, attacks="paper", seed=seed).survived

    assert survived(0) == survived(0)
    assert survived(2**64 - 1) == survived(2**64 - 1) != survived(0)


@pytest.mark.parametrize("name", ["check_consistency", "check_model", "check_unbounded"])
def test_what_is_checked_before_and_after_the_attacks_draws_by_the_seed_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from isoreg.robustness import evaluation

    model, (x, y) = honest("plain"), images_of("test", 20)
    check, drawn = getattr(evaluation, name), []

    def watched(*arguments):
        drawn.append(torch.rand(3))
        return check(*arguments)

    monkeypatch.setattr(evaluation, name, watched)
    for before, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(before)
        evaluate(model, x, y, eps=EPS, attacks="fgsm", seed=seed)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("shape", [(5, 7), (20,)])
def test_a_student_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 4))
    x = torch.rand(6, *shape)
    student = taught(classifier, x, eps=0.1, norm="Linf")
    assert student(x).shape == (6, 4)
    assert (student(x).argmax(1) == classifier(x).argmax(1)).float().mean() > 0.6
    assert not any(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("shape", [(3, 20, 20), (5,)])
def test_noise_that_a_student_learns_from_is_about_as_long_as_the_radius(shape) -> None:
    images = torch.zeros(2000, *shape)
    for norm, order in (("Linf", float("inf")), ("L2", 2)):
        noise = _scale(images, norm) * (2 * torch.rand_like(images) - 1)
        lengths = noise.flatten(1).norm(p=order, dim=1)
        typical = lengths.amax() if norm == "Linf" else lengths.square().mean().sqrt()
        assert typical.item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_counts_of_restarts_are_summed_over_batches(norm: str) -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    task = Task(classifier_of(model), x, y, EPS, norm, 0)
    run = Run(task, {EPS: EPS}, 15, whole_batches=False)
    run.attack("pgd-margin", EPS)
    (counts,) = run.history.values()
    left = run.survived["pgd-margin"][EPS]
    assert counts[-1] == int(run.correct.sum()) - sum(left)
    assert counts == sorted(counts)


def test_a_student_may_be_asked_for_by_name_and_is_in_no_list_of_attacks() -> None:
    model, (x, y) = honest("plain"), images_of("test", 40)
    found = evaluate(model, x, y, eps=EPS, attacks=["student"])
    assert found.accuracy["student"][EPS] < found.clean - 0.1
    assert not any("student" in names for names in PRESETS.values())
    assert attacks.chosen("quick", norm="Linf", transfer=False) == list(PRESETS["quick"])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20])
def test_steps_have_length_one_in_their_norm(size: float) -> None:
    gradient = torch.randn(4, 1, 3, 3) * size
    gradient[1] = 0
    gradient[2, 0, 0, 0] = torch.nan
    lengths = steepest(gradient, "L2").flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert set(steepest(gradient, "Linf")[0].abs().flatten().tolist()) == {1.0}


@pytest.mark.parametrize(("norm", "order"), [("Linf", torch.inf), ("L2", 2)])
def test_projection_keeps_the_ball_and_the_pixels_and_what_lies_in_both(norm, order) -> None:
    images = torch.rand(50, 1, 3, 3)
    candidates = images + 0.2 * torch.randn_like(images)
    found = project(candidates, images, EPS, norm)
    lengths = (found - images).flatten(1).norm(p=order, dim=1)
    assert bool((lengths <= EPS * (1 + 1e-5)).all())
    assert lengths.max() > 0.99 * EPS
    assert bool(((found >= 0) & (found <= 1)).all())
    torch.testing.assert_close(project(found, images, EPS, norm), found)
    if norm == "Linf":  # the nearest point, pixel by pixel
        nearest = candidates.clamp(images - EPS, images + EPS).clamp(0, 1)
        torch.testing.assert_close(found, nearest)
    broken = candidates.clone()
    broken[0, 0, 0] = torch.nan
    assert torch.equal(project(broken, images, EPS, norm)[0, 0, 0], images[0, 0, 0])
