"""What the report card asks of a model before it attacks, each on a model made for the question."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import Answers, classifier_of

from isoreg import InputError
from isoreg.robustness import consistency, evaluate, student
from isoreg.robustness.adapter import Adapted
from isoreg.robustness.checks import (
    boundary_distances,
    check_gradients,
    check_model,
    check_unbounded,
)
from isoreg.robustness.consistency import (
    Consistency,
    _changed,
    _neighbours,
    _tolerance,
    check_consistency,
)
from isoreg.robustness.outputs import usual_range
from isoreg.robustness.pgd import cross_entropy, pgd
from isoreg.robustness.student import taught
from isoreg.robustness.task import evenly
from isoreg.robustness.units import Normalisation

Answer = Callable[[Tensor], Tensor]


class Model(Answers):
    """It keeps what it was shown."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return self.answer(x)


WEIGHT = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


def linear(x: Tensor) -> Tensor:
    return (x.flatten(1) - 0.5) @ WEIGHT.to(x)


def images_of(n: int) -> tuple[Tensor, Tensor]:
    """Images away from black and white, and how they are classified."""
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 4)
    return x, linear(x).argmax(1)


# Logits of clean images


def given(logits: list[list[float]], slope: float = -1.0) -> Answer:
    """These logits, with a slope along the first pixel alone, where the images are 0.5."""

    def answer(x: Tensor) -> Tensor:
        moved = slope * (x.flatten(1)[:, :1] - 0.5)
        given = torch.tensor(logits)
        return given + torch.cat([moved, -moved, *[0 * moved] * (given.shape[1] - 2)], 1)

    return answer


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ([[2.0, 0.0]] * 4, ""),
        ([[2.0, 0.0]] * 3 + [[torch.nan, 0.0]], "not finite at 25 %"),
        ([[2.0, 0.0]] * 3 + [[0.0, torch.inf]], "not finite at 25 %"),
        ([[2.0, 0.0]] * 3 + [[-torch.inf, 0.0]], "not finite at 25 %"),
        ([[2.0, 0.0, -torch.inf]] * 4, ""),
        ([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5], [0.2, 0.80005]], "looks like probabilities"),
        ([[0.4, 0.0], [0.3, 0.7], [0.5, 0.5], [0.2, 0.8]], ""),
        ([[1.01, 0.0]] * 4, ""),
        ([[1.5, -0.5]] * 4, ""),
        ([[50.0, 0.0]] * 3 + [[0.0, 0.0]], ""),
        ([[51.0, 0.0]] * 3 + [[0.0, 0.0]], "very large (median margin 51)"),
        ([[0.0, 51.0]] * 3 + [[0.0, 0.0]], "very large (median margin 51)"),
    ],
)
def test_what_is_said_of_logits(logits: list[list[float]], said: str) -> None:
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4).long()
    found = " ".join(check_model(classifier_of(given(logits)), x, y))
    saturated = "exactly zero" in found  # of cross-entropy, where a margin is large
    assert said in found
    assert (found == "") is (said == "") or saturated
    assert not x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_are_recognised_after_rounding_too(dtype: torch.dtype) -> None:
    x, y = torch.rand(500, 1, 4, 4), torch.zeros(500).long()
    weight = torch.randn(3, 16)

    def probabilities(images: Tensor) -> Tensor:
        return (images.flatten(1) @ weight.T).softmax(1).to(dtype)

    found = " ".join(check_model(classifier_of(probabilities), x, y))
    assert "looks like probabilities" in found
    found = " ".join(check_model(classifier_of(lambda x: 1.02 * probabilities(x)), x, y))
    assert "looks like probabilities" not in found


def test_a_gradient_is_zero_only_where_no_pixel_has_any() -> None:
    x, y = torch.full((20, 1, 4, 4), 0.5), torch.zeros(20).long()
    for slope in (-1.0, 1.0):
        assert check_model(classifier_of(given([[2.0, 0.0]] * 20, slope)), x, y) == []
    for cut, said in ((2, False), (3, True)):

        def partly(images: Tensor, cut: int = cut) -> Tensor:
            images = torch.cat([images[:cut].detach(), images[cut:]])
            return given([[2.0, 0.0]] * 20)(images)

        found = " ".join(check_model(classifier_of(partly), x, y))
        assert ("exactly zero at 15 % of the images" in found) is said


def hidden(cut: bool = True) -> Answer:
    """A network that its model does not list, so that its parameters are not frozen."""
    net = nn.Linear(16, 3)
    return lambda x: net((x.detach() if cut else x).flatten(1))


def test_a_cut_graph_is_one_also_where_parameters_that_are_not_listed_want_gradients() -> None:
    classifier, (x, y) = classifier_of(hidden()), images_of(6)
    assert "exactly zero at 100 %" in check_model(classifier, x, y)[0]
    assert bool(boundary_distances(classifier, x, y, "Linf").isinf().all())
    assert len(_neighbours(classifier, x, y, 0.1, "Linf")) == 2
    found, history = pgd(classifier, x, y, eps=0.1, restarts=2)
    assert found.shape == x.shape
    assert len(history) == 2
    adapted = Adapted(classifier, x)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(adapted(leaf).sum(), leaf)
    assert bool((gradient == 0).all())
    black = torch.cat([0 * x[:1], x[1:]])
    torch.testing.assert_close(adapted(black.clone().requires_grad_()), adapted(black))


# Gradients


def test_small_steps_move_every_pixel_by_a_thousandth_and_by_one_of_255() -> None:
    model, (x, y) = Model(linear), images_of(150)
    assert not boundary_distances(classifier_of(model), x, y, "L2").requires_grad
    assert check_gradients(classifier_of(model), x, y) == []
    steps = [shown - evenly(x, 100) for shown in model.shown[-2:]]
    for step, size in zip(steps, (1e-3, 1 / 255), strict=True):
        torch.testing.assert_close(step.abs(), torch.full_like(step, size), rtol=1e-3, atol=0)
    assert max(map(len, model.shown)) == 100, "no more at once"


class Backwards(torch.autograd.Function):
    """Nothing, with a gradient that leads away; none for the first two images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.cat([0 * gradient[:2], -gradient[2:]])


def test_a_gradient_that_leads_away_has_one_sentence_also_where_some_have_none() -> None:
    x, y = images_of(12)
    classifier = classifier_of(lambda x: linear(Backwards.apply(x)))
    (sign,) = check_gradients(classifier, x, y)
    assert sign.startswith("a step of 0.001 along the gradient raises the margin's loss by -")
    everywhere = classifier_of(lambda x: 0 * linear(x))
    ties = everywhere, x, torch.zeros(12).long()
    assert check_gradients(*ties) == []
    assert bool((boundary_distances(*ties, "Linf") == torch.inf).all()), (
        "also where all classes tie"
    )


@pytest.mark.parametrize(
    ("end", "factor", "said"),
    [
        (1.0, 4.0, "a step of 0.001 along the gradient raises the margin's loss by 25 %"),
        (1.0, 2.5, ""),
        (6.0e-4, 1.0, ""),
        (3.6e-4, 1.0, "a step of 0.0039 along the gradient raises the margin's loss by 9 %"),
    ],
)
def test_a_gradient_may_promise_three_times_what_a_thousandth_keeps_and_ten_what_255ths_keep(
    end: float, factor: float, said: str
) -> None:
    def rises(x: Tensor) -> Tensor:
        """By the mean step up to an end, with a gradient that is larger by a factor."""
        mean = (x.flatten(1) - 0.5).mean(1).clamp_max(end)
        promised = mean + (factor - 1) * (mean - mean.detach())
        return torch.stack([torch.ones_like(mean), promised], 1)

    x, y = torch.full((9, 1, 4, 4), 0.5), torch.zeros(9).long()
    found = check_gradients(classifier_of(rises), x, y)
    assert len(found) == bool(said)
    assert "".join(found).startswith(said)


def test_of_a_model_in_half_precision_small_steps_are_not_asked_for() -> None:
    x, y = images_of(12)
    model = Model(linear)
    assert check_gradients(classifier_of(model), x.bfloat16(), y) == []
    assert model.shown == []


def test_whoever_survives_the_change_of_every_pixel_is_not_attacked() -> None:
    model, (x, y) = Model(linear), images_of(150)
    assert check_unbounded(classifier_of(model), x, y) == []
    assert [len(shown) for shown in model.shown] == [100] * 42, "41 points, and the answer"
    assert not torch.equal(model.shown[0], evenly(x, 100)), "from a random one on"
    stuck = torch.arange(100) < 2
    shown = x.clone()

    def partly(images: Tensor) -> Tensor:
        logits = linear(images)
        fixed = linear(shown[:100]) + 0 * logits
        return torch.where(stuck[:, None], fixed, logits)

    (sign,) = check_unbounded(classifier_of(partly), x, y)
    assert sign.startswith("2 % of the images survive although every pixel may be changed")
    assert check_unbounded(classifier_of(partly), x[:0], y[:0]) == []


@pytest.mark.parametrize(("n", "count"), [(150, 100), (127, 64), (64, 64), (3, 64), (0, 5)])
def test_rows_are_taken_evenly_from_the_first_to_the_last(n: int, count: int) -> None:
    rows = evenly(torch.arange(n), count)
    assert len(rows) == min(n, count)
    assert bool((rows.diff() > 0).all())
    steps = torch.cat([rows[:1], rows.diff(), n - rows[-1:]])
    assert steps.numel() == 0 or steps.max() - 1 <= n / count


def test_images_sorted_by_class_hide_no_mask_on_the_last_classes() -> None:
    x, y = images_of(300)
    x, y = x[y.argsort()], y.sort().values
    assert bool((y[:100] != 2).all())

    def last(images: Tensor) -> Tensor:
        z = linear(images)
        cut = (z.argmax(1, keepdim=True) == 2).float()
        return cut * z.detach() + (1 - cut) * z

    said = str(evaluate(Answers(last), x, y, eps=0.001, attacks="fgsm", batch_size=100))
    assert "the gradient of cross-entropy is exactly zero" in said
    assert "of the images survive although every pixel may be changed" in said


# Whether a model answers the same image in the same way


def test_few_images_are_asked_about_from_all_over_and_the_model_itself_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (x, y) = Model(linear), images_of(200)
    labels: list[Tensor] = []

    def near(*arguments: Any) -> list[Tensor]:
        labels.append(arguments[2])
        return _neighbours(*arguments)

    monkeypatch.setattr(consistency, "_neighbours", near)
    found = check_consistency(classifier_of(model), x, y, 0.1, "Linf")
    assert (found.signs, found.stateful, found.beside) == ([], False, False)
    assert found.baseline is not None
    torch.testing.assert_close(found.baseline[0], evenly(x, 64))
    torch.testing.assert_close(found.baseline[1], linear(evenly(x, 64)))
    assert torch.equal(labels[0], evenly(y, 64))
    assert model.shown == [], "its copies were"
    assert not x.requires_grad
    few = check_consistency(classifier_of(model), x[:10], y[:10], 0.1, "Linf").baseline
    assert few is not None
    assert len(few[0]) == 10
    one = check_consistency(classifier_of(model), x[:1], y[:1], 0.1, "Linf")
    assert one.signs == []


def masking(x: Tensor) -> Tensor:
    """Random, and sure that one class is not the answer."""
    logits = linear(x) + 0.1 * torch.randn(len(x), 3)
    return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)


HELD = torch.zeros(12, 3)


def one_tensor(x: Tensor) -> Tensor:
    """Random by a little, and all its answers are one tensor."""
    return HELD.copy_(linear(x) + 0.001 * torch.randn(len(x), 3))


@pytest.mark.parametrize("answer", [masking, one_tensor])
def test_a_random_model_is_called_random_however_it_answers(answer: Answer) -> None:
    found = check_consistency(classifier_of(answer), *images_of(12), 0.1, "Linf")
    assert len(found.signs) == 1
    assert "the output is random" in found.signs[0]
    assert found.baseline is None


@pytest.mark.parametrize("chance", [0.3, 0.4, 0.5])
def test_a_model_that_is_seldom_random_is_called_random_and_not_said_to_remember(
    chance: float,
) -> None:
    def seldom(x: Tensor) -> Tensor:
        return linear(x) + torch.randn(len(x), 3) * (torch.rand(()) < chance)

    found = check_consistency(classifier_of(seldom), *images_of(12), 0.1, "Linf")
    (sign,) = found.signs
    assert "the output is random" in sign
    assert not found.stateful


DRAWS = {"numpy": np.random.random, "random": random.random, "system": random.SystemRandom().random}


class Elsewhere(nn.Module):
    """Random in some calls, by numbers that are none of torch; it may not be copied."""

    def __init__(self, source: str, chance: float, alone: bool = False) -> None:
        super().__init__()
        self.source, self.chance, self.alone = source, chance, alone

    def forward(self, x: Tensor) -> Tensor:
        draw = DRAWS[self.source]
        return linear(x) + (draw() < self.chance) * draw()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.alone:
            raise TypeError("it is the only one")
        return super().__reduce_ex__(protocol)


@pytest.mark.parametrize(
    ("source", "chance", "alone"),
    [
        *((source, chance, False) for source in ("numpy", "random") for chance in (0.1, 1.0)),
        *(("numpy", 1.0, True), ("random", 1.0, True), ("system", 1.0, False)),
    ],
)
def test_numbers_that_are_not_drawn_by_torch_are_random_too(
    source: str, chance: float, alone: bool
) -> None:
    model = classifier_of(Elsewhere(source, chance, alone))
    found = check_consistency(model, *images_of(12), 0.1, "Linf")
    (sign,) = found.signs
    assert "the output is random" in sign
    assert not found.stateful


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", ["noise", "square"])
def test_a_model_that_seeds_torch_leaves_the_attacks_their_random_numbers(
    name: str, seed: int
) -> None:
    def seeding(images: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return linear(images) + 0.01 * torch.randn(3)

    x, y = images_of(100)
    torch.manual_seed(seed)
    added = 0.01 * torch.randn(3)
    same = evaluate(Answers(lambda images: linear(images) + added), x, y, eps=0.2, attacks=name)
    found = evaluate(Answers(seeding), x, y, eps=0.2, attacks=name)
    assert found.survived == same.survived
    assert found.worst_case[0.2] < found.clean - 0.05
    assert found.warnings == same.warnings


@pytest.mark.parametrize(("factor", "said"), [(1.0, ""), (2.0, "of 100 % of the images changes")])
def test_afterwards_the_same_images_are_asked_about_again(factor: float, said: str) -> None:
    x, _ = images_of(12)
    classifier = classifier_of(lambda images: factor * linear(images))
    found = " ".join(Consistency(baseline=(x, linear(x))).afterwards(classifier))
    assert (found == "") is (said == "")
    assert said in found
    assert Consistency(baseline=(x, linear(x)), stateful=True).afterwards(classifier) == []
    assert Consistency().afterwards(classifier) == []


def test_a_model_that_counts_its_calls_keeps_a_state() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return linear(x) + self.calls

    model = Counting()
    found = check_consistency(classifier_of(model), *images_of(12), 0.1, "Linf")
    assert found.stateful
    assert model.calls == 0
    (sign,) = found.signs
    assert "changes with what the model was shown before: it keeps a state" in sign


class Counts(nn.Module):
    """Counts its calls, and cannot be copied: it holds a lock, or refuses."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.calls, self.alone = [0], alone
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls[0] += 1
        return linear(x) + self.calls[0]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.alone:
            raise TypeError("it is the only one")
        return super().__reduce_ex__(protocol)


@pytest.mark.parametrize("alone", [False, True])
def test_a_state_is_noticed_where_something_cannot_be_copied_and_that_is_said(alone: bool) -> None:
    model = Counts(alone)
    found = check_consistency(classifier_of(model), *images_of(12), 0.1, "Linf")
    assert found.stateful
    (remark,) = found.remarks
    if alone:
        assert remark.startswith("the model cannot be copied (copy.deepcopy), so it was asked its")
    else:
        assert remark.startswith("'lock' of the model cannot be copied (copy.deepcopy), so a state")
        assert model.calls == [0]


def test_a_model_that_says_how_it_is_copied_is_copied_so() -> None:
    class Locked(Counts):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return Counts(alone=False)

    model = Locked(alone=False)
    found = check_consistency(classifier_of(nn.Sequential(model)), *images_of(12), 0.1, "Linf")
    assert found.stateful
    assert found.remarks == []
    assert model.calls == [0]


def test_what_a_pass_left_with_its_graph_is_copied_without_it() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kept = nn.Linear(16, 3), []

        def forward(self, x: Tensor) -> Tensor:
            self.features = self.layer(x.flatten(1))
            self.kept = [*self.kept, {"features": self.features}]
            return self.features

    model, (x, y) = Keeps(), images_of(12)
    model(x)
    found = check_consistency(classifier_of(model), x, y, 0.1, "Linf")
    assert (found.signs, found.remarks) == ([], [])
    assert len(model.kept) == 1, "its copies were asked"
    assert model.features.requires_grad


class Adapts(nn.Module):
    """Moves its bias with each batch, as adaptation at test time does."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.bias += 0.1 * torch.eye(3)[0]
        return linear(x) + self.bias


def test_parameters_that_change_in_a_pass_are_a_state_and_are_what_they_were_afterwards() -> None:
    model, (x, y) = Adapts(), images_of(12)
    bias = model.bias
    report = evaluate(model, x, y, eps=0.01, attacks="fgsm")
    assert "it keeps a state" in str(report)
    assert "fresh-copy" in report.survived
    assert model.bias is bias
    assert bool((bias == 0).all())
    honest = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    check_consistency(honest, x, y, 0.1, "Linf")
    assert honest.copied().model[1].weight is honest.model[1].weight, "else copies share them"


def test_a_model_that_changes_where_it_is_shown_the_same_again_keeps_a_state() -> None:
    class Bored(nn.Module):
        before = torch.zeros(0)

        def forward(self, x: Tensor) -> Tensor:
            again, self.before = torch.equal(x, self.before), x.detach()
            return linear(x) + 3.0 * again * torch.eye(3)[0]

    found = check_consistency(classifier_of(Bored()), *images_of(12), 0.1, "Linf")
    assert found.stateful
    assert found.signs[0].startswith("the answer to the same images changes with what the model")


def test_a_model_that_compares_images_answers_beside_others() -> None:
    x, y = images_of(12)
    found = check_consistency(classifier_of(lambda x: linear(x - x.mean(0))), x, y, 0.1, "Linf")
    assert found.beside
    assert len(found.signs) == 1
    shifted = classifier_of(lambda x: linear(x) + torch.arange(len(x))[:, None] * torch.eye(3)[0])
    assert check_consistency(shifted, x, y, 0.1, "Linf").beside, "their places alone count"


@pytest.mark.parametrize(("norm", "order"), [("Linf", torch.inf), ("L2", 2)])
def test_where_nothing_is_attacked_a_hundredth_is_near(norm: str, order: float) -> None:
    x, y = images_of(12)
    random, uphill, between = _neighbours(classifier_of(linear), x, y, 0.0, norm)
    for points in (random, uphill):
        lengths = (points - x).flatten(1).norm(order, dim=1)
        torch.testing.assert_close(lengths, torch.full((12,), 0.01), rtol=1e-3, atol=0)
    assert not any(points.requires_grad for points in (x, random, uphill, between))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(linear(leaf), y).sum(), leaf)
    if norm == "L2":
        step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    else:
        step = gradient.sign()
    torch.testing.assert_close(uphill, x + 0.01 * step)
    torch.testing.assert_close(between, (x + x[[-1, *range(11)]]) / 2)


@pytest.mark.parametrize(
    ("change", "tolerance", "share"),
    [(0.7, 0.1, 0.0), (1.0, 0.125, 0.0), (1.1, 0.125, 0.25), (-1.1, 0.125, 0.25),
     (torch.nan, 0.1, 0.0), (torch.inf, 0.1, 0.0)],
)  # fmt: skip
def test_a_change_counts_from_a_share_of_the_usual_range_on(
    change: float, tolerance: float, share: float
) -> None:
    logits = torch.tensor([[0.0, 8.0], [-4.0, 4.0], [0.0, 8.0], [0.0, 0.0]])
    after = logits.clone()
    after[3, 0] += change
    assert _changed(logits, after, tolerance) == share
    assert _changed(after, logits, tolerance) == share
    assert _changed(after, after, tolerance) == 0


@pytest.mark.parametrize("value", [-3e3, -1e9, -torch.inf])
@pytest.mark.parametrize("classes", [1, 5])
def test_classes_that_are_ruled_out_hide_no_change_of_the_others(
    value: float, classes: int
) -> None:
    x, _ = images_of(12)
    out = torch.full((12, classes), value)
    before = torch.cat([linear(x), out], 1)
    moved = torch.cat([1.1 * linear(x), out], 1)
    other_digits = torch.cat([linear(x), 1.001 * out], 1)
    assert _changed(before, moved, 1e-2) == _changed(moved, before, 1e-2) > 0.9
    assert _changed(before, other_digits, 1e-5) == 0


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([0.0, 8.0, 3.0], 8.0), ([0.0, 8.0, -1e4], 8.0), ([-1e9, 1.0, -1e9, 0.5], 0.5),
     ([1.0, 1.0, 0.0], 1.0), ([0.0, 1.0, -99.0], 100.0), ([0.0, 1.0, -100.0], 1.0),
     ([1.0, -torch.inf], 0.0), ([20.0, 30.0, -torch.inf], 10.0), ([torch.nan, 1.0, 0.0], 1.0),
     ([1.0, 1.0 - 1e-6, 0.0], 1.0), ([0.0, 0.0], 0.0)],
)  # fmt: skip
def test_the_usual_range_is_that_of_the_classes_that_are_not_ruled_out(
    logits: list[float], expected: float
) -> None:
    both = torch.tensor([logits, logits[::-1]])
    assert usual_range(both) == pytest.approx(expected)


def test_half_precision_and_autocast_are_compared_coarsely() -> None:
    x = torch.zeros(2, 3)
    assert _tolerance(x) == _tolerance(x.double()) == 1e-3
    assert _tolerance(x.half()) == _tolerance(x.bfloat16()) == 3e-2
    with torch.autocast("cpu"):
        assert _tolerance(x) == 3e-2


# The student


@pytest.mark.parametrize(("n", "repeated"), [(7, 301), (300, 300), (1200, 1000)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_student_asks_nine_questions_an_image_in_the_ball_and_a_half(
    monkeypatch: pytest.MonkeyPatch, norm: str, n: int, repeated: int
) -> None:
    learnt: list[tuple[Tensor, Tensor]] = []
    climbed: list[dict[str, Any]] = []

    def climb(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Any:
        assert not any(p.grad is not None for p in net.parameters())
        climbed.append(options)
        assert torch.equal(y, linear(x).argmax(1))
        return x.clone(), []

    monkeypatch.setattr(student, "pgd", climb)
    monkeypatch.setattr(student, "_learn", lambda net, _, x, y: learnt.append((x, y)))
    model, images = Model(linear), torch.full((n, 16), 0.5)
    assert not any(p.requires_grad for p in taught(model, images, eps=0.1, norm=norm).parameters())
    assert [len(x) for x, _ in learnt] == [(1 + 2 * k) * repeated for k in range(5)]
    assert max(map(len, model.shown)) == min(n, 128)
    assert (
        climbed
        == [{"eps": pytest.approx(0.15), "norm": norm, "loss": cross_entropy, "steps": 10}] * 4
    )
    x, answers = learnt[-1]
    assert torch.equal(answers, linear(x).argmax(1))
    noise = (x[repeated : 2 * repeated] - 0.5).double()
    assert noise.mean().abs() < 0.01
    if norm == "Linf":
        assert noise.abs().max() <= 0.15 + 1e-6
        assert noise.std() == pytest.approx(0.15 / 3**0.5, rel=0.1)
    else:
        lengths = noise.norm(dim=1)
        assert lengths.max() <= 0.15 + 1e-6
        assert 0.3 < (lengths < 0.149).double().mean() < 0.7, "about as long as the radius"


def test_images_from_sixteen_pixels_a_side_on_are_learnt_by_convolutions() -> None:
    for shape, convolutions in (((3, 16, 20), 2), ((3, 20, 16), 2), ((3, 15, 20), 0), ((3, 20), 0)):
        images = torch.rand(1, *shape).double()
        net = student._network(images, 4)
        assert sum(isinstance(layer, nn.Conv2d) for layer in net) == convolutions
        found = net(images)
        assert found.shape == (1, 4)
        assert found.dtype == torch.float64


def test_a_student_learns_from_128_answers_a_hundred_times() -> None:
    net = nn.Linear(16, 3)
    seen = Model(net)
    x = torch.rand(500, 16)
    student._learn(seen, torch.optim.SGD(net.parameters(), lr=0.0), x, linear(x).argmax(1))
    assert [len(shown) for shown in seen.shown] == [128] * 100
    (single,) = torch.autograd.grad(cross_entropy(net(x), linear(x).argmax(1)).mean(), net.weight)
    assert net.weight.grad is not None
    assert net.weight.grad.norm() < 3 * single.norm(), "of the last batch alone"
    right = (net(x).argmax(1) == linear(x).argmax(1)).float().mean()
    student._learn(net, torch.optim.SGD(net.parameters(), lr=1.0), x, linear(x).argmax(1))
    assert (net(x).argmax(1) == linear(x).argmax(1)).float().mean() > max(0.8, right)


# Units


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mean", [], "mean must be a finite number, or one a channel, got []."),
        ("mean", [0.1, torch.nan], "mean must be a finite number, or one a channel, got ["),
        ("std", torch.inf, "std must be a finite number, or one a channel, got inf."),
        ("std", [0.5, 0.0], "std must be above 0, got [0.5, 0.0]."),
        ("std", -1.0, "std must be above 0, got [-1.0]."),
        ("mean", [0.1, 0.2], "mean must be one number, or one for each of 3 channels of images of "
         "shape (2, 3, 2, 5), got 2."),
        ("std", [0.1] * 5, "std must be one number, or one for each of 3 channels of images of "
         "shape (2, 3, 2, 5), got 5."),
    ],
)  # fmt: skip
def test_a_mean_or_std_that_cannot_be_is_refused_by_its_name(
    name: str, value: Any, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        Normalisation(**{"mean": None, "std": None, name: value})(torch.rand(2, 3, 2, 5))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "value",
    [0.3, [0.3], [0.1, 0.2, 0.3], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1),
     torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)],
)  # fmt: skip
def test_mean_and_std_are_along_channels_in_the_precision_of_the_images(value: Any) -> None:
    x = torch.rand(2, 3, 2, 5).double()
    along = torch.as_tensor(value, dtype=torch.float64).detach().view(1, -1, 1, 1)
    found = Normalisation(value, value)(x)
    torch.testing.assert_close(found, (x - along) / along, rtol=0, atol=1e-14)
    torch.testing.assert_close(Normalisation(value, None)(x), x - along, rtol=0, atol=1e-14)
    assert not found.requires_grad
    assert Normalisation(0.1, 0.1)(x.float()).dtype == torch.float32
