"""The report card calls masked models out, or attacks them as well as who knows the mask would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from zoo import EPS, FRESH, HONEST, MASKED, Answers, Memory, classifier_of, fresh, honest, images_of

from isoreg.datasets import digits
from isoreg.robustness import RobustnessReport, evaluate
from isoreg.robustness.checks import check_directions, check_gradients
from isoreg.robustness.consistency import _neighbours
from isoreg.robustness.pgd import cross_entropy, margin, pgd

RADII = [0.1, 0.2]


def second_attack(masked: nn.Module, x: Tensor, y: Tensor) -> float:
    """Who knows the networks behind the mask attacks them, and tries each step on the mask."""
    left = masked(x).argmax(1) == y
    members = [honest("plain", seed) for seed in (0, 1, 2)]

    def mean(images: Tensor) -> Tensor:
        return sum(m(images).log_softmax(1) for m in members)

    for other in (members[0], mean):
        for loss in (cross_entropy, margin):
            found, _ = pgd(other, x, y, eps=EPS, loss=loss, steps=30, judge=masked)
            left &= masked(found).argmax(1) == y
    return left.float().mean().item()


def test_a_memory_is_looked_for_at_random_uphill_and_half_way_to_the_next_image() -> None:
    model, (x, y) = honest("plain"), images_of("test", 9)
    classifier = classifier_of(model)
    random, uphill, between = _neighbours(classifier, x, y, 0.05, "Linf")
    losses = [cross_entropy(model(points), y) for points in (x, random, uphill)]
    assert bool((losses[2] > losses[0]).all())
    assert losses[2].sum() > losses[1].sum() + 0.5 * (losses[1].sum() - losses[0].sum()).abs()
    assert (random - x).abs().amax() <= 0.05 + 1e-6
    assert (uphill - x).abs().amax() <= 0.05 + 1e-6
    torch.testing.assert_close(between[1:], (x[1:] + x[:-1]) / 2)


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_is_called_out_or_as_weak_as_a_second_attack_leaves_it(name: str) -> None:
    x, y = images_of("test", 60)
    report = evaluate(MASKED[name](), x, y, eps=RADII, attacks="quick")
    called_out = [w for w in report.warnings if "last restart" not in w]
    assert called_out or report.worst_case[EPS] <= second_attack(MASKED[name](), x, y) + 0.05
    if called_out:
        assert "student" in report.survived


@pytest.mark.parametrize("preset", ["quick", "standard"])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_raises_no_alarm(name: str, preset: str) -> None:
    x, y = images_of("test", 60)
    report = evaluate(honest(name), x, y, eps=RADII, attacks=preset)
    assert [w for w in report.warnings if "last restart" not in w] == []
    assert ("student" in report.survived) is (preset == "standard")


@pytest.mark.parametrize(("norm", "radii"), [("Linf", [0.05, 0.15, 0.3]), ("L2", [0.3, 1.0])])
@pytest.mark.parametrize("training", ["plain", "adversarial"])
@pytest.mark.parametrize("name", FRESH)
def test_honest_models_that_no_threshold_was_set_on_raise_no_alarm(
    name: str, training: str, norm: str, radii: list[float]
) -> None:
    images, labels = digits("test")
    report = evaluate(
        *(fresh(name, training, 11), images[100:200], labels[100:200]),
        eps=radii,
        norm=norm,
        attacks="quick",
    )
    assert [w for w in report.warnings if "last restart" not in w] == []


@pytest.mark.parametrize("name", ["Votes", "Thermometer", "Integers", "Waves", "WrongBackward"])
def test_a_student_of_its_answers_takes_what_attacks_with_gradients_leave(name: str) -> None:
    x, y = images_of("test", 60)
    report = evaluate(MASKED[name](), x, y, eps=EPS, attacks="quick")
    white = min(report.accuracy[row][EPS] for row in ("fgsm", "pgd-ce", "pgd-margin"))
    assert report.accuracy["student"][EPS] < white - 0.15
    assert report.seconds["student"] > 0
    assert "'student', which sees no gradient, beats every iterated attack" in str(report)


def test_a_model_that_remembers_is_attacked_as_a_fresh_copy_too_and_keeps_its_memory() -> None:
    x, y = images_of("test", 60)
    model = Memory()
    report = evaluate(model, x, y, eps=RADII, attacks="quick")
    plain = evaluate(honest("plain"), x, y, eps=RADII, attacks="quick")
    assert report.accuracy["pgd-margin"][EPS] == report.clean, "the memory hides it"
    assert report.worst_case[EPS] <= plain.worst_case[EPS] + 0.05
    assert "keeps a state" in str(report)
    assert model.shown == []


@pytest.mark.parametrize("name", ["BatchStatistics", "Positions"])
def test_an_answer_that_depends_on_its_neighbours_is_said_and_radius_zero_costs_nothing(
    name: str,
) -> None:
    x, y = images_of("test", 60)
    report = evaluate(MASKED[name](), x, y, eps=[0.0, EPS], attacks=["pgd-margin"], batch_size=25)
    assert "changes with the images beside them" in str(report)
    assert report.worst_case[0.0] == report.clean
    assert report.worst_case[EPS] < report.clean - 0.2


def test_a_gradient_that_does_not_keep_its_promise_is_a_sign_and_an_honest_one_is_not() -> None:
    x, y = images_of("test", 60)

    def signs(model: nn.Module) -> list[str]:
        classifier = classifier_of(model)
        inside = classifier(x).argmax(1) == y
        return check_gradients(classifier, x[inside], y[inside])

    for name in ("Waves", "WrongBackward"):
        assert "of what the gradient promises" in signs(MASKED[name]())[0]
    assert [signs(honest(name)) for name in HONEST] == [[]] * len(HONEST)


def test_logits_that_are_flat_and_jump_from_class_to_class_are_called_out() -> None:
    x, y = images_of("test", 60)
    report = evaluate(MASKED["Ranks"](), x, y, eps=EPS, attacks="quick")
    assert "times the radius (median): the gradient at the images does not see" in str(report)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("Linf", 0.15), ("L2", 0.5)])
def test_a_class_that_is_always_second_and_never_first_does_not_hide_the_others(
    norm: str, eps: float
) -> None:
    x, y = images_of("test", 60)

    def signs(model: nn.Module, attacks: str) -> list[str]:
        report = evaluate(model, x, y, eps=eps, norm=norm, attacks=attacks)
        return [w for w in report.warnings if "another class than the next one" in w]

    (sign,) = signs(MASKED["SecondPlace"](), "quick")
    assert sign.startswith(f"at eps {eps} about ")
    assert signs(honest("plain"), "quick") == signs(MASKED["SecondPlace"](), "noise") == []


def coarse(images: Tensor) -> Tensor:
    """Computes in half precision inside."""
    with torch.autocast("cpu", torch.bfloat16):
        return honest("plain")(images).float()


def test_a_gradient_of_a_part_of_the_model_is_a_sign_and_coarse_numbers_are_not() -> None:
    x, y = images_of("test", 60)

    def signs(model: nn.Module, count: int = 60) -> list[str]:
        classifier = classifier_of(model)
        inside = model(x).argmax(1) == y
        return check_directions(classifier, x[inside][:count], y[inside][:count])

    for name in ("LowFrequencies", "Ensemble", "WinnersTakeAll", "FewLevels"):
        (sign,) = signs(MASKED[name]())
        assert "in random directions change the margin otherwise than the gradient says" in sign
    for model in (*map(honest, HONEST), Answers(coarse)):
        assert signs(model) == []
    assert signs(MASKED["Votes"]()) == [], "where nothing changes nothing is said"
    assert signs(MASKED["LowFrequencies"](), 0) == []


def eight_bits(images: Tensor) -> Tensor:
    """Trained to be quantised: pixels of 129 levels, whose gradient is the identity's."""
    return honest("plain")(torch.fake_quantize_per_tensor_affine(images, 1 / 128, 0, 0, 128))


def test_fake_quantisation_of_pixels_raises_no_alarm_and_hides_no_wrong_gradient() -> None:
    x, y = images_of("test", 60)
    assert evaluate(Answers(eight_bits), x, y, eps=EPS, attacks="quick").warnings == []
    wrong = nn.Sequential(MASKED["WrongBackward"](), nn.Identity())
    wrong[0].model = Answers(eight_bits)
    assert evaluate(wrong, x, y, eps=EPS, attacks="quick").warnings != []


@pytest.mark.parametrize("name", ["smooth", "adversarially trained"])
def test_an_honest_model_under_autocast_raises_no_alarm(name: str) -> None:
    x, y = images_of("test", 60)
    with torch.autocast("cpu", torch.bfloat16):
        report = evaluate(honest(name), x, y, eps=EPS, attacks=["fgsm", "pgd-ce", "pgd-margin"])
    assert report.warnings == []


class Part(nn.Module):
    """What it is, and next to nothing, is cut from the graph, and a gradient that leads astray."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self.astray = copy.deepcopy(honest("plain")), nn.Linear(64, 10)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        assert self.dtype in (None, images.dtype)
        return self.model(images.detach()) + 1e-3 * self.astray(images.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_hides_no_cut_graph(dtype: torch.dtype) -> None:
    x, y = images_of("test", 60)

    def quick(model: nn.Module) -> RobustnessReport:
        model = copy.deepcopy(model).to(dtype)
        report = evaluate(model, x.to(dtype), y, eps=EPS, attacks="quick")
        assert {p.dtype for p in model.parameters()} == {dtype}
        return report

    report = quick(Part())
    assert "in random directions change the margin otherwise than the gradient" in str(report)
    assert report.worst_case[EPS] == report.accuracy["student"][EPS]
    assert quick(Part(dtype)).warnings[0].startswith("the model computes in half precision alone")
    for name in ("plain", "smooth", "tanh", "robust loss"):
        assert quick(honest(name)).warnings == []
