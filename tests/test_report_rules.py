"""The report card's rules, each from where on it holds: signs, arguments, attacks' options."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import Answers, classifier_of

from isoreg import InputError
from isoreg.robustness import ATTACKS, PRESETS, adapter, attacks, corruption
from isoreg.robustness.arguments import (
    check_arguments,
    check_classes,
    device_of,
    known_norm,
    radii_of,
)
from isoreg.robustness.attacks import ITERATED, OF_THE_PAPER, WITHOUT_GRADIENT, chosen
from isoreg.robustness.checks import check_radii
from isoreg.robustness.outputs import logits_of
from isoreg.robustness.pgd import cross_entropy, margin, pgd
from isoreg.robustness.results import check_distances, check_restarts, check_results
from isoreg.robustness.state import Forgetful, left_as_it_was
from isoreg.robustness.task import Task

EPS = 0.1
Rows = dict[str, "float | list[float]"]


# Signs in the accuracies


def signs(rows: Rows, *, images: int = 1000, clean: float = 0.9, worst: float | None = None) -> str:
    """All sentences; a row has one radius, or two of them."""
    radii = [0.1, 0.2] if any(isinstance(row, list) for row in rows.values()) else [0.1]
    accuracy = {
        name: dict(zip(radii, row if isinstance(row, list) else [row], strict=True))
        for name, row in rows.items()
    }
    lowest = {eps: min(by_eps[eps] for by_eps in accuracy.values()) for eps in radii}
    under = lowest if worst is None else dict.fromkeys(radii, worst)
    return " ".join(check_results(accuracy, radii, clean, images=images, worst_case=under))


def test_an_idle_step_is_held_against_the_iterated_attacks_alone() -> None:
    idle = "the gradient at the images does not lead to what fools the model"
    assert idle in signs({"fgsm": 0.9, "pgd-ce": 0.5})
    assert idle not in signs({"fgsm": 0.9, "pgd-ce": 0.89, "square": 0.5})


# rows, number of images, and what is said of them; "" is nothing
BEATEN: list[tuple[Rows, int, str]] = [
    ({"fgsm": 0.5, "pgd-margin": 0.5099}, 1000, ""),
    ({"fgsm": 0.5, "pgd-margin": 0.5101}, 1000, "beats every iterated attack: the gradient"),
    ({"fgsm": 0.5, "pgd-margin": 0.5149}, 100, ""),
    ({"fgsm": 0.5, "pgd-margin": 0.5151}, 100, "a single step (fgsm) beats"),
    ({"fgsm": 0.5, "pgd-margin": 0.52, "apgd-t": 0.4}, 1000, "(fgsm) beats 'pgd-margin': the"),
    ({"fgsm": 0.5, "pgd-ce": 0.5299, "apgd-t": 0.4}, 1000, ""),
    ({"fgsm": 0.5, "apgd-ce": 0.5301, "apgd-t": 0.4}, 1000, "(fgsm) beats 'apgd-ce': the"),
    ({"fgsm": 0.5, "deepfool": 0.8, "apgd-t": 0.4}, 1000, ""),
    (
        {"noise": 0.5, "pgd-ce": 0.6, "apgd-t": 0.4},
        1000,
        "'noise', which sees no gradient, beats 'p",
    ),
    ({"square": 0.5, "pgd-ce": 0.8, "apgd-t": 0.4}, 1000, ""),
    ({"student": 0.5, "apgd-ce": 0.8, "apgd-t": 0.4}, 1000, ""),
    ({"square": 0.5, "pgd-ce": 0.8}, 1000, "'square', which sees no gradient, beats every iter"),
    ({"square": 0.5, "pgd-margin": 0.8, "fab": 0.4}, 1000, "beats 'pgd-margin': the gradient"),
    ({"transfer": 0.5, "pgd-ce": 0.8, "fab": 0.4}, 1000, "'transfer', which sees no gradient, b"),
    ({"corruption": 0.5, "pgd-ce": 0.8, "fab": 0.4}, 1000, "'corruption', which sees no"),
    ({"fgsm": 0.5, "square": 0.4}, 1000, ""),
]
DISAGREEING: list[tuple[Rows, int, float, str]] = [
    ({"pgd-ce": 0.5, "fab": 0.6}, 1000, 0.4501, ""),
    ({"pgd-ce": 0.5, "fab": 0.6}, 1000, 0.4499, "worst case (45.0 %) lies well below every attack"),
    ({"pgd-ce": 0.5, "fab": 0.6}, 50, 0.42, ""),
    ({"pgd-ce": 0.5, "fab": 0.6}, 50, 0.40, "(the best leaves 50.0 %)"),
    ({"pgd-ce": 0.5, "fgsm": 0.55}, 1000, 0.2, ""),
]
IDLE: list[tuple[Rows, int, str]] = [
    ({"fgsm": 0.9, "pgd-margin": 0.701}, 1000, ""),
    ({"fgsm": 0.8815, "pgd-margin": 0.69}, 1000, "(fgsm) fools 1.9 % of the images and many steps"),
    ({"fgsm": 0.878, "pgd-margin": 0.69}, 1000, ""),
    ({"fgsm": 0.9, "pgd-margin": 0.69}, 20, ""),
    ({"fgsm": 0.9, "pgd-margin": 0.65}, 20, "steps 25.0 %"),
    ({"fgsm": 0.9, "pgd-margin": 0.69}, 25, "steps 21.0 %: the gradient at the images does not"),
    ({"fgsm": 0.9, "square": 0.1}, 1000, ""),
    ({"noise": 0.9, "pgd-margin": 0.1}, 1000, ""),
]
FALLING: list[tuple[Rows, int, str]] = [
    ({"pgd-ce": [0.5, 0.5101]}, 1000, "under 'pgd-ce' rises from eps 0.1 to 0.2: it is not a good"),
    ({"fab": [0.5, 0.5099]}, 1000, ""),
    ({"pgd-ce": [0.5, 0.5]}, 1000, "does not fall from eps 0.1 to 0.2 (50.0 %)"),
    ({"pgd-ce": [0.5, 0.499]}, 1000, ""),
    ({"fab": [0.5, 0.5]}, 1000, ""),
    ({"pgd-ce": [0.1, 0.1]}, 1000, ""),
    ({"pgd-ce": [0.101, 0.101]}, 1000, "does not fall"),
    ({"pgd-ce": [0.8951, 0.8951]}, 1000, ""),
    ({"pgd-ce": [0.8949, 0.8949]}, 1000, "does not fall"),
]


# rows, accuracies when clean and in the worst case, number of images: exactly at a limit
AT_THE_LIMIT: list[tuple[Rows, float, float, int, str]] = [
    ({"fgsm": 0.5, "pgd-margin": 0.75}, 0.75, 0.5, 6, ""),
    ({"fgsm": 0.5, "pgd-margin": 0.75, "apgd-t": 0.5}, 0.75, 0.5, 6, ""),
    ({"pgd-ce": 0.5, "fab": 0.6}, 0.9, 0.25, 18, ""),
    ({"fgsm": 0.2, "pgd-ce": 0.0}, 0.2, 0.0, 25, "many steps 20.0 %"),
    ({"fgsm": 0.5625, "pgd-ce": 0.0}, 0.625, 0.0, 100, ""),
    ({"pgd-ce": [0.5, 0.75]}, 0.75, 0.5, 6, ""),
    ({"pgd-ce": [0.5, 0.5]}, 0.75, 0.5, 20, "does not fall from eps 0.1 to 0.2"),
]


@pytest.mark.parametrize(("rows", "clean", "worst", "images", "said"), AT_THE_LIMIT)
def test_what_is_exactly_at_a_limit_is_judged_as_the_rule_says(
    rows: Rows, clean: float, worst: float, images: int, said: str
) -> None:
    found = signs(rows, clean=clean, worst=worst, images=images)
    assert (found == "") is (said == "")
    assert said in found


@pytest.mark.parametrize(
    ("rows", "images", "worst", "said"),
    [
        *((rows, images, None, said) for rows, images, said in (*BEATEN, *IDLE, *FALLING)),
        *DISAGREEING,
    ],
)
def test_a_sign_is_one_from_its_limit_on(
    rows: Rows, images: int, worst: float | None, said: str
) -> None:
    clean = 0.55 if rows in [row for row, *_ in BEATEN] else 0.9
    found = signs(rows, images=images, worst=worst, clean=clean)
    assert (found == "") is (said == "")
    assert said in found


def test_radii_less_than_half_as_large_again_may_have_equal_accuracies() -> None:
    for large, said in ((0.749, False), (0.75, True)):
        rows = {"pgd-ce": {0.5: 0.5, large: 0.5}, "apgd-t": {0.5: 0.5, large: 0.4}}
        worst = {0.5: 0.5, large: 0.4}
        found = check_results(rows, [large, 0.5], 0.9, images=1000, worst_case=worst)
        assert any("does not fall" in sentence for sentence in found) is said
    rows = {"pgd-ce": {0.0: 0.9, 0.1: 0.9}}
    assert check_results(rows, [0.0, 0.1], 1.0, images=1000, worst_case=rows["pgd-ce"]) == []


@pytest.mark.parametrize(
    ("counts", "images", "said"),
    [([50], 100, False), ([50, 52], 100, False), ([50, 53], 100, True), ([5, 15], 1000, False),
     ([5, 16], 1000, True), ([5, 6, 50], 100, True), ([0, 50, 50], 100, False)],
)  # fmt: skip
def test_a_last_restart_that_finds_more_than_a_hundredth_is_told(
    counts: list[int], images: int, said: bool
) -> None:
    found = check_restarts({"pgd": counts}, images)
    assert bool(found) is said
    assert all(f"fooled {counts[-1] - counts[-2]} of {images} more" in each for each in found)


@pytest.mark.parametrize(
    ("near", "survivors", "n", "clean", "said"),
    [
        (5, 5, 100, 1.0, "5 %"), (4, 4, 40, 1.0, ""), (5, 5, 101, 1.0, ""), (10, 10, 100, 0.49, ""),
        (10, 10, 100, 0.51, "5 %"), (60, 11, 100, 1.0, ""), (50, 10, 100, 1.0, "10 %"),
    ],
)  # fmt: skip
def test_near_survivors_are_a_sign_from_a_twentieth_and_a_fifth_of_those_near(
    near: int, survivors: int, n: int, clean: float, said: str
) -> None:
    distances = torch.full((n,), 0.5)
    distances[:near] = 0.49
    survived = torch.arange(n) < survivors
    survived[near:] = True
    found = check_distances(distances, survived, 8, 2.0, clean)
    assert [f"at eps 8 {said} of the images survive" in each for each in found] == [True] * bool(
        said
    )


@pytest.mark.parametrize(
    ("radius", "norm", "said"),
    [
        (0.05, "L2", ""), (0.049, "L2", "as small as L-inf radii are"), (0.0, "L2", ""),
        (0.7, "L2", ""), (0.0, "Linf", ""), (1 / 255, "Linf", ""), (0.5, "Linf", ""),
        (0.999 / 255, "Linf", ""), (0.00391, "Linf", "less than one step of 255"),
        (0.51, "Linf", "more than half of it"),
    ],
)  # fmt: skip
def test_radii_that_look_like_another_unit_are_remarked_on(
    radius: float, norm: str, said: str
) -> None:
    found = " ".join(check_radii([radius], norm))
    assert (found == "") is (said == "")
    assert said in found


# Arguments

GOOD: dict[str, Any] = {
    "images": torch.rand(4, 2, 3),
    "labels": torch.zeros(4).long(),
    "radii": [0.1],
    "norm": "Linf",
    "bounds": (0.0, 1.0),
    "batch_size": 1,
}
BORDER: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"radii": [1.0]}, ""),
    ({"radii": [0.1, 1.01]}, "eps must be at most 1, the whole range of Linf"),
    ({"radii": [2.4], "norm": "L2"}, ""),
    ({"radii": [2.5], "norm": "L2"}, "eps must be at most 2.44949, the whole range of L2"),
    ({"radii": [3.0], "bounds": (-2.0, 1.0)}, ""),
    ({"radii": [3.1], "bounds": (-2.0, 1.0)}, "eps must be at most 3"),
    ({"images": torch.tensor([[0.0, 1.0]] * 4)}, ""),
    ({"images": torch.tensor([[0.0, 1.0 + 5e-7]] * 4)}, ""),
    ({"images": torch.tensor([[-1e-6, 1.0 + 1e-6]] * 4, dtype=torch.float64)}, ""),
    ({"images": torch.rand(1, 2), "labels": torch.zeros(1).long(), "norm": "L2"}, ""),
    ({"images": torch.tensor([[-1e-5, 1.0]] * 4)}, "images must lie within bounds"),
    ({"images": torch.tensor([[0.0, 1.0 + 1e-5]] * 4)}, "images must lie within bounds"),
    ({"images": torch.rand(4)}, "images must be floating of shape"),
    ({"images": torch.rand(4, 0, 3)}, r"images must be floating .* of shape \(4, 0, 3\)"),
    ({"labels": torch.zeros(4)}, "labels must be 4 integers, got torch.float32"),
    ({"labels": torch.zeros(4).cfloat()}, "labels must be 4 integers, got torch.complex64"),
    ({"labels": torch.zeros(4, 1).long()}, r"labels must be 4 integers, got .* shape \(4, 1\)"),
    ({"bounds": (1.0, 1.0)}, "bounds must be"),
    ({"bounds": (-math.inf, math.inf)}, "two finite numbers, .* without bounds give the least"),
    ({"bounds": (-math.inf, 1.0)}, "bounds must be .* two finite numbers"),
    ({"bounds": (None, None)}, "bounds must be"),
    ({"bounds": 1.0}, "bounds must be"),
    ({"bounds": (0.0, 0.5, 1.0)}, "bounds must be"),
    ({"batch_size": 2.5}, "batch_size must be an integer"),
    ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
    ({"images": torch.rand(4, 2, device="meta")}, "images must be a dense tensor that holds"),
    ({"labels": torch.zeros(4).long().to_sparse()}, "labels must be a dense tensor that holds"),
    ({"labels": [0] * 4}, "labels must be a tensor, got list"),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
]


@pytest.mark.parametrize(("change", "text"), BORDER)
def test_arguments_are_refused_from_the_border_on(change: dict[str, Any], text: str) -> None:
    if text:
        with pytest.raises(InputError, match=text):
            check_arguments(**{**GOOD, **change})
    else:
        check_arguments(**{**GOOD, **change})


def test_radii_are_numbers_from_zero_up_all_different() -> None:
    assert [known_norm(norm) for norm in ("Linf", "L2")] == ["Linf", "L2"]
    assert radii_of(0.0) == [0.0]
    assert radii_of(torch.tensor([0.25, 0.5])) == [0.25, 0.5]
    assert radii_of([0.1, 0.3]) == [0.1, 0.3], "as they are written"
    assert radii_of(8 / 255) == [8 / 255]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert radii_of(torch.tensor([0.1, 0.02, 8], dtype=dtype)) == [0.1, 0.02, 8.0]
    single = np.array([0.1, 0.3], np.float32)
    for given in (single, [single[0], 0.3], [single[:1], [0.3]], list(torch.tensor([0.1, 0.3]))):
        assert radii_of(given) == [0.1, 0.3], "as whoever made float32 of them wrote them"
    assert radii_of(range(1, 3)) == radii_of(np.array([1, 2])) == [1.0, 2.0]
    assert radii_of(torch.tensor(8 / 255)) == pytest.approx([8 / 255], rel=1e-7)
    for bad in (
        [],
        [-0.1],
        [0.1, float("nan")],
        [float("inf")],
        single * np.float32("nan"),
        [0.5, 0.5],
        [0.1, single[0]],
        "0.1",
        {0.1},
        [None],
        True,
        1j,
    ):
        with pytest.raises(InputError, match="eps must be"):
            radii_of(bad)


def test_labels_are_classes_of_the_model() -> None:
    classifier, images = classifier_of(nn.Linear(6, 3)), torch.rand(4, 6)
    check_classes(classifier, images, torch.tensor([0, 2, 1, 0]))
    for wrong in (3, -1):
        with pytest.raises(InputError, match=rf"classes from 0 to 2, got {wrong}\."):
            check_classes(classifier, images, torch.tensor([0, 2, wrong, 0]))


def test_the_model_is_where_its_tensors_are_or_else_where_the_images_are() -> None:
    images = torch.rand(1, 2, device="meta")
    assert device_of(nn.ReLU(), images).type == "meta"
    assert device_of(nn.Linear(1, 1), images).type == "cpu"
    assert device_of(nn.BatchNorm1d(1, affine=False), images).type == "cpu"


@pytest.mark.parametrize(
    ("output", "given"),
    [
        ((torch.zeros(3, 2), torch.zeros(3, 4)), r"2 tensors that may be them, at \[0\], \[1\]"),
        (
            (torch.zeros(3, 5), [torch.zeros(3, 2)] * 2),
            r"3 tensors that may be them, at \[0\], \[1\]\[0\], \[1\]\[1\]",
        ),
        (
            {"features": torch.zeros(3, 5), "scores": torch.zeros(3, 2, 1)},
            r"2 tensors that may be them, at \['features'\], \['scores'\]",
        ),
        ({"scores": torch.zeros(3, 2, 1)}, "dict"),
        ((1, [torch.zeros(3, 2)]), "tuple"),
        ({"a": torch.zeros(3, 2).long(), "b": 1}, "dict"),
        (torch.zeros(2, 2), r"\(2, 2\)"),
        (torch.zeros(3, 2, 2), r"\(3, 2, 2\)"),
        (torch.zeros(3, 2).long(), r"\(3, 2\) of torch.int64, which is not floating"),
        (object(), "object"),
    ],
)
def test_what_are_no_logits_is_refused_by_what_it_is(output: Any, given: str) -> None:
    with pytest.raises(InputError, match=rf"\(n, classes\), got {given}\. Wrap it"):
        logits_of(output, 3)


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_one_logit_is_told_how_to_become_two(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape)
    with pytest.raises(InputError, match=r"with one logit z .*torch.cat\(\[0 \* z, z\], 1\)"):
        logits_of(z, 3)
    z = z.view(3, 1)
    torch.testing.assert_close(torch.cat([0 * z, z], 1).softmax(1)[:, 1:], z.sigmoid())


def test_logits_are_found_by_name_or_as_the_only_ones() -> None:
    logits = torch.zeros(3, 2)
    maps = torch.zeros(3, 2, 4, 4)
    beside = (1, logits), [logits], {0: logits}, (logits, maps, [maps])
    for output in (logits, {"logits": logits, "other": logits}, *beside):
        assert logits_of(output, 3) is logits


# Attacks


def test_every_attack_that_is_named_exists() -> None:
    named = {*WITHOUT_GRADIENT, *ITERATED, *OF_THE_PAPER}.union(*PRESETS.values())
    assert named | {"student", "fgsm"} == set(ATTACKS)
    assert set(PRESETS["quick"]) <= set(PRESETS["standard"])
    assert set(PRESETS["standard"]) - {"pgd-margin"} <= set(PRESETS["full"])


@pytest.mark.parametrize(
    ("attacks", "options", "expected"),
    [
        ("quick", {}, ["fgsm", "pgd-ce", "pgd-margin"]),
        ("pgd-ce", {}, ["pgd-ce"]),
        (["fab", "transfer"], {"transfer": True}, ["fab", "transfer"]),
        ("full", {"norm": "L2"}, [*PRESETS["full"]]),
        ("full", {}, [name for name in PRESETS["full"] if name not in {"cw", "deepfool"}]),
        ("paper", {}, ["fgsm", "paper-pgd"]),
        ("paper", {"training_loss": True}, [*PRESETS["paper"]]),
        ("quick", {"transfer": True}, ["fgsm", "pgd-ce", "pgd-margin", "transfer"]),
        ("deepfool", {}, "'deepfool' needs norm='L2'"),
        ("paper-pgd-training-loss", {}, "needs training_loss=, what the model"),
        ("transfer", {}, "'transfer' needs transfer_from=, an independent model"),
        ([], {}, "at least one attack, got none"),
        ("pgd-ce", {"training_loss": True}, "training_loss is climbed by .*got attacks 'pgd-ce'"),
        (["fgms"], {}, r"got 'fgms'\. Close matches: 'fgsm'"),
    ],
)
def test_a_preset_leaves_out_what_cannot_be_and_a_name_is_refused(
    attacks: Any, options: dict[str, Any], expected: Any
) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            chosen(attacks, **{"norm": "Linf", "transfer": False, **options})
    else:
        assert chosen(attacks, **{"norm": "Linf", "transfer": False, **options}) == expected


class Sure(nn.Module):
    """Class 0 whatever it is shown, with a gradient; it counts how often it is asked."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.asked, self.classes = 0, classes

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        logits = torch.full((len(x), self.classes), -1.0)
        logits[:, 0] = 1.0
        return logits + 0.001 * x.flatten(1)[:, :1]


def task_of(model: nn.Module, norm: str = "Linf", n: int = 3, **options: Any) -> Task:
    images = torch.full((n, 1, 6, 6), 0.5)
    return Task(classifier_of(model), images, torch.zeros(n).long(), EPS, norm, 5, **options)


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd-margin", "noise", "corruption", "transfer", *OF_THE_PAPER[1:]]
)
def test_an_attack_stays_within_the_radius_also_of_zero_and_leaves_its_images_alone(
    name: str,
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    for norm, order in (("Linf", math.inf), ("L2", 2)):
        given = {"transfer": model, "training_loss": lambda x, _, y: model(x)[:, y].sum()}
        task = task_of(model, norm, 5, **given)
        for eps in (0.0, EPS):
            found, _ = ATTACKS[name](replace(task, eps=eps))
            lengths = (found - 0.5).flatten(1).norm(order, dim=1)
            assert lengths.max() <= eps * (1 + 1e-5)
            assert bool((task.images == 0.5).all())
            assert not found.requires_grad
            assert not task.images.requires_grad


CLIMBS: dict[str, dict[str, Any]] = {
    "fgsm": {"loss": cross_entropy, "steps": 1, "random_start": False, "step_size": EPS},
    "pgd-ce": {"loss": cross_entropy, "steps": 40},
    "pgd-margin": {"loss": margin, "steps": 40, "restarts": 2},
    "pgd-margin-long": {"loss": margin, "steps": 100, "restarts": 5},
    "paper-pgd": {"loss": cross_entropy, "steps": 10, "random_start": False},
    "transfer": {"loss": cross_entropy, "steps": 40, "random_start": False},
    "student": {"loss": margin, "steps": 40, "random_start": False, "restarts": 2},
}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", CLIMBS)
def test_what_each_attack_climbs_and_how(
    monkeypatch: pytest.MonkeyPatch, name: str, norm: str
) -> None:
    told: dict[str, Any] = {}

    def climbed(classifier: Any, images: Tensor, labels: Tensor, **options: Any) -> Any:
        told.update(options, classifier=classifier)
        return images, []

    monkeypatch.setattr(attacks, "pgd", climbed)
    model, other = Sure(), Sure()
    task = task_of(model, norm, transfer=other, student=other)
    ATTACKS[name](task)
    defaults = {"loss": margin, "steps": 40, "restarts": 1, "random_start": True}
    defaults |= {"step_size": None, "judge": None}
    expected = {**defaults, "eps": EPS, "norm": norm, "classifier": task.classifier}
    if name in {"transfer", "student"}:
        expected |= {"classifier": other, "judge": task.classifier}
    assert {**defaults, **told} == {**expected, **CLIMBS[name]}


def test_another_network_is_climbed_as_often_and_this_one_judges_each_step() -> None:
    for name, rounds in (("transfer", 1), ("student", 2)):
        model, other = Sure(), Sure()
        ATTACKS[name](task_of(model, **{name: other}))
        assert (model.asked, other.asked) == (rounds * 41, rounds * 41)


OPTIONS: dict[str, dict[str, Any]] = {
    "apgd-ce": {"name": "APGD", "steps": 50, "n_restarts": 1, "loss": "ce"},
    "apgd-t": {"name": "APGDT", "steps": 50, "n_restarts": 1, "n_classes": 10},
    "fab": {"name": "FAB", "steps": 50, "n_restarts": 1, "n_classes": 10, "multi_targeted": True},
    "square": {"name": "Square", "n_queries": 1000, "n_restarts": 1},
}


def stubbed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What torchattacks is told from now on, and which images it gets; it adds 9 to them."""
    told: dict[str, Any] = {}

    def attack(images: Tensor, _: Tensor) -> Tensor:
        told["shape"] = images.shape
        return images + 9

    def made(name: str, model: adapter.Adapted, **options: Any) -> Any:
        told.update(options, name=name, classes=model.classes, padding=model.padding)
        return attack

    monkeypatch.setattr(adapter, "_torchattack", made)
    return told


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_torchattacks_is_told(monkeypatch: pytest.MonkeyPatch, name: str, norm: str) -> None:
    told = stubbed(monkeypatch)
    found, _ = ATTACKS[name](task_of(Sure(12), norm))
    classes, padding = 4 if name == "apgd-t" else 2, [0] * (4 if name == "square" else 2)
    expected = {**OPTIONS[name], "norm": norm, "eps": EPS, "seed": 5, "shape": (3, 1, 6, 6)}
    assert told == {**expected, "classes": classes, "padding": padding}
    order = torch.inf if norm == "Linf" else 2
    torch.testing.assert_close((found - 0.5).flatten(1).norm(order, dim=1), torch.full((3,), EPS))


@pytest.mark.parametrize("name", ["square", "apgd-ce", "fab"])
def test_square_alone_is_given_square_images(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    told, model = stubbed(monkeypatch), nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    images = torch.rand(4, 3, 4, 9)
    found, _ = ATTACKS[name](
        Task(classifier_of(model), images, torch.zeros(4).long(), 0, "Linf", 0)
    )
    torch.testing.assert_close(found, images)
    assert (told["shape"][2] == told["shape"][3]) is (name == "square")


@pytest.mark.parametrize("classes", [4, 10])
def test_fab_goes_for_every_class_where_there_are_no_more_than_ten(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    told = stubbed(monkeypatch)
    ATTACKS["fab"](task_of(Sure(classes)))
    assert (told["multi_targeted"], told["n_classes"]) == (False, classes)


@pytest.mark.parametrize(("name", "least", "most"), [("noise", 20, 20), ("square", 1000, 1100)])
def test_noise_is_the_worst_of_20_and_square_asks_a_thousand_times(
    name: str, least: int, most: int
) -> None:
    model = Sure()
    ATTACKS[name](task_of(model))
    assert least <= model.asked <= most


def test_deepfool_and_cw_are_told_their_steps_and_cw_keeps_the_nearest_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    shown: list[Tensor] = []

    def made(name: str, _: adapter.Adapted, **options: Any) -> Any:
        told.append((name, options))

        def attack(images: Tensor, labels: Tensor) -> Tensor:
            shown.append(images)
            moved = images.clone()
            moved[: len(told), 0, 0, 0] += 0.01 * len(told)  # each finds one image more
            return moved

        return attack

    def threshold(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([0.505 - first, first - 0.505], 1)

    monkeypatch.setattr(adapter, "_torchattack", made)
    task = task_of(Answers(threshold), "L2", n=4)
    found = (ATTACKS["cw"](task)[0] - 0.5).flatten(1)
    assert told == [("CW", {"c": c, "steps": 100, "lr": 0.05}) for c in (1.0, 10.0, 100.0)]
    torch.testing.assert_close(found[:, 0], torch.tensor([0.01, 0.02, 0.03, 0.0]))
    assert bool((task.images == 0.5).all())
    told.clear()
    found = (ATTACKS["deepfool"](task)[0] - 0.5).flatten(1)
    assert told == [("DeepFool", {"steps": 10})]
    torch.testing.assert_close(found[0, 0].item(), 1.02 * 0.01, rtol=1e-4, atol=0)
    for value, inside in ((0.0, 0.01), (1.0, 0.99)):  # black and white, moved inside
        images = torch.full((4, 1, 6, 6), value)
        ATTACKS["cw"](Task(task.classifier, images, task.labels, EPS, "L2", 0))
        torch.testing.assert_close(shown[-1], torch.full_like(images, inside))


def shown_by(norm: str = "Linf", **options: Any) -> Tensor:
    """What pgd shows a linear model, as differences from the images."""
    seen: list[Tensor] = []
    weight = torch.tensor([1.0, -2.0, 0.5])

    def classifier(x: Tensor) -> Tensor:
        seen.append(x.detach() - 0.5)
        return torch.stack([1 - x @ weight, x @ weight - 1], 1)

    images, labels = torch.full((4000, 3), 0.5), torch.zeros(4000).long()
    pgd(classifier, images, labels, eps=EPS, norm=norm, **options)
    return torch.stack(seen)


def test_pgd_goes_two_and_a_half_radii_in_all_its_steps_or_what_it_is_told() -> None:
    clean = shown_by(steps=10, random_start=False)
    assert len(clean) == 11
    torch.testing.assert_close(clean[1, 0], torch.tensor([0.025, -0.025, 0.025]))
    torch.testing.assert_close(clean[-1, 0], torch.tensor([0.1, -0.1, 0.1]))
    told = shown_by(steps=2, random_start=False, step_size=0.01, norm="L2")
    torch.testing.assert_close(told[1].norm(dim=1), torch.full((4000,), 0.01))


def test_starts_are_spread_over_the_whole_ball() -> None:
    start = shown_by(steps=1)[0]
    assert start.abs().max() <= EPS
    torch.testing.assert_close(start.std(0), torch.full((3,), EPS / 3**0.5), rtol=0.05, atol=0)
    lengths = shown_by("L2", steps=1)[0].norm(dim=1)
    assert lengths.max() <= EPS * (1 + 1e-6)
    torch.testing.assert_close(lengths.mean().item(), EPS / 2, rtol=0.05, atol=0)
    torch.testing.assert_close(lengths.std().item(), EPS / 12**0.5, rtol=0.05, atol=0)


def test_pgd_keeps_the_first_that_fools_and_counts_each_image_once() -> None:
    asked = 0

    def classifier(x: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        wrong = torch.arange(4) < asked  # one image more each time
        logits = torch.stack([(~wrong).float(), wrong.float()], 1)
        return logits + 0 * x[:, :1]

    images, labels = torch.full((4, 3), 0.5), torch.zeros(4).long()
    found, history = pgd(classifier, images, labels, eps=EPS, steps=1, restarts=3)
    assert history == [2, 4, 4]
    assert not found.requires_grad
    assert bool((found != images).all())


def test_pgd_goes_on_where_a_gradient_is_not_finite_or_there_is_none() -> None:
    def broken(x: Tensor) -> Tensor:
        first = x[:, :1] * torch.tensor([[torch.inf], [1.0]])
        return torch.cat([0 * first.nan_to_num(0, 0, 0), (first - 0.52)], 1)

    images, labels = torch.full((2, 3), 0.5), torch.zeros(2).long()
    found, _ = pgd(broken, images, labels, eps=EPS, steps=4, random_start=False, loss=cross_entropy)
    assert found[1, 0] > 0.52
    cut = pgd(lambda x: x.detach()[:, :2], images, labels, eps=EPS, steps=4, restarts=2)
    assert len(cut[1]) == 2


# Corruptions


def test_each_corruption_is_what_it_is_called() -> None:
    x = torch.rand(200, 2, 5, 6)
    bright = corruption._brightness(x)
    assert bright.shape == x.shape
    assert set(bright.flatten().tolist()) == {-1.0, 1.0}
    assert bool((bright == bright[:, :1, :1, :1]).all())
    contrast = corruption._contrast(x)
    torch.testing.assert_close(contrast.flatten(1).mean(1), torch.zeros(200), atol=1e-6, rtol=0)
    ratio = contrast / (x - x.flatten(1).mean(1)[:, None, None, None])
    assert set(ratio.round().flatten().tolist()) == {-1.0, 1.0}
    pixels = corruption._pixels(x)
    changed = pixels != 0
    assert 0.09 < changed.float().mean() < 0.11
    ends = (x + pixels)[changed]
    torch.testing.assert_close(ends, ends.round(), atol=1e-6, rtol=0)
    assert 0.4 < ends.mean() < 0.6
    blurred = x + corruption._blur(x)
    torch.testing.assert_close(blurred[:, :, 2, 2], x[:, :, 1:4, 1:4].mean((2, 3)))
    torch.testing.assert_close(corruption._blur(torch.ones(1, 1, 3, 3)), torch.zeros(1, 1, 3, 3))


SHAPES = [(1, 8, 8), (3, 3, 40), (3, 40, 3), (3, 1, 90), (3, 90, 1), (3, 2, 45), (80,), (3, 50)]


@pytest.mark.parametrize(("norm", "order"), [("Linf", torch.inf), ("L2", 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_corruptions_have_the_length_of_the_radius_and_blur_what_has_an_inside(
    shape: tuple[int, ...], norm: str, order: float
) -> None:
    images = 0.3 + 0.4 * torch.rand(60, *shape)
    images[0] = 0.5  # without contrast, and the same when blurred
    task = Task(None, images, torch.zeros(60).long(), 0.2, norm, seed=0)  # type: ignore[arg-type]
    found, _ = ATTACKS["corruption"](task)
    assert bool(found.isfinite().all())
    lengths = (found - images).flatten(1).norm(order, dim=1)[1:]
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.2))
    if images.ndim == 4:
        changes = [x.flatten(1) for x in (found - images, corruption._blur(images))]
        alike = torch.cosine_similarity(*changes).gt(0.999).sum()
        assert bool(alike > 3) is (min(shape[1:]) > 2)


# The model's state


def test_a_model_is_given_back_as_it_was_also_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].eval().requires_grad_(False)
    gradient = model[2].weight.grad = torch.ones(2, 2)
    buffers = {name: (x, x.clone()) for name, x in model.named_buffers()}
    parameters = {name: (x, x.detach().clone()) for name, x in model.named_parameters()}
    with pytest.raises(KeyError), torch.no_grad(), left_as_it_was(model):
        assert torch.is_grad_enabled()
        assert not any(p.requires_grad for p in model.parameters())
        assert not any(module.training for module in model.modules())
        model.train()(torch.rand(5, 2))
        model[0].running_var = torch.zeros(2)
        model[2].weight.grad = None
        model[2].weight.data.add_(1)
        model[2].bias = nn.Parameter(torch.full_like(model[2].bias, 9))
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False, True, True]
    assert model[2].weight.grad is gradient
    for found, before in ((model.named_buffers(), buffers), (model.named_parameters(), parameters)):
        for name, tensor in found:
            assert tensor is before[name][0]
            assert torch.equal(tensor, before[name][1])


def test_a_forgetful_model_answers_every_call_as_a_fresh_one() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    model = Forgetful(Counting())
    assert [float(model(torch.zeros(()))) for _ in range(3)] == [1.0] * 3
