"""A report as text, as numbers and as a drawing; a run that makes its rows; the model's twins."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoreg.datasets import digits
from isoreg.errors import InputError, MissingExtraError
from isoreg.robustness import ATTACKS, PRESETS, RobustnessReport, evaluate, progress, run, state
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import cross_entropy
from isoreg.robustness.run import Run
from isoreg.robustness.stand_in import stand_in_for
from isoreg.robustness.state import copied, left_as_it_was
from isoreg.robustness.straight_through import guided
from isoreg.robustness.task import Task

REPORT = RobustnessReport(
    "Linf",
    [0.1, 0.25],
    [True, True, True, False],
    {
        "pgd-margin": {0.1: [True, True, False, False], 0.25: [True, False, False, False]},
        "paper-pgd": {0.1: [False, True, True, False], 0.25: [True, True, True, False]},
    },
    warnings=["masked."],
    seconds={"pgd-margin": 1.25, "paper-pgd": 12.0},
    preset="list",
    certified={0.1: [True, False, False, False], 0.25: [False] * 4},
)


def test_the_text_is_a_table_with_seconds_marks_the_proof_and_the_warnings() -> None:
    assert str(REPORT).splitlines() == [
        "4 images, 75.0 % clean accuracy",
        "Linf eps           0.1     0.25  seconds",
        "pgd-margin       50.0%    25.0%      1.2",
        "paper-pgd *      50.0%    75.0%     12.0",
        "worst case       25.0%     0.0%",
        "proven           25.0%     0.0%",
        "the robust accuracy lies between 25.0 and 25.0 % at 0.1, 0.0 and 0.0 % at 0.25",
        "* the protocol of the paper, not a measure of robustness",
        "WARNING: masked.",
    ]
    bare = RobustnessReport("L2", [0.1], [True, False], {"a": {0.1: [True, False]}})
    assert str(bare).splitlines()[1:] == [
        "L2 eps            0.1",
        "a               50.0%",
        "worst case      50.0%",
    ]


def test_the_numbers_are_those_of_the_lists() -> None:
    found = REPORT.to_dict()
    assert found["clean"] == REPORT.clean == 0.75
    assert found["worst case"] == [(0.1, 0.25), (0.25, 0.0)]
    assert found["survived"]["paper-pgd"][0] == [0.1, [False, True, True, False]]
    assert found["certified"] == [[0.1, [True, False, False, False]], [0.25, [False] * 4]]
    assert found["preset"] == "list"
    assert RobustnessReport.from_dict(json.loads(json.dumps(found))) == REPORT
    assert REPORT.to_frame().to_dict("index") == {
        "pgd-margin": {0.1: 0.5, 0.25: 0.25},
        "paper-pgd": {0.1: 0.5, 0.25: 0.75},
        "worst case": {0.1: 0.25, 0.25: 0.0},
    }


def test_a_report_that_lacks_images_radii_or_parts_is_refused() -> None:
    found = REPORT.to_dict()
    with pytest.raises(InputError, match="from_dict: it must hold what to_dict wrote, got no 'eps"):
        RobustnessReport.from_dict({name: each for name, each in found.items() if name != "eps"})
    with pytest.raises(InputError, match=r"'pgd-margin' must hold 4 images .* got \[3\] for \[0.1"):
        RobustnessReport.from_dict({**found, "survived": {"pgd-margin": [[0.1, [True] * 3]]}})
    with pytest.raises(InputError, match=r"labels must be 4, one an image, or none, got 1\."):
        RobustnessReport.from_dict({**found, "labels": [3]})
    with pytest.raises(InputError, match="dictionary that to_dict wrote, got NoneType"):
        RobustnessReport.from_dict(json.loads("null"))
    with pytest.raises(InputError, match=r"'proven' must hold 4 .* got them for \[0.1\]"):
        RobustnessReport.from_dict({**found, "certified": [[0.1, [True] * 4]]})
    with pytest.raises(InputError, match=r"^compare: other must be a RobustnessReport, got dict"):
        REPORT.compare(found)


def test_what_fools_within_a_smaller_radius_fools_within_a_larger_one() -> None:
    rows = {"a": {0.2: [True, True, False], 0.1: [False, True, True], 0.0: [True] * 3}}
    report = RobustnessReport("Linf", [0.2, 0.1, 0.0], [True] * 3, rows)
    assert report.survivors(0.0) == [True] * 3
    assert report.survivors(0.1) == [False, True, True]
    assert report.survivors(0.2) == [False, True, False]
    assert report.worst_case == {0.2: 1 / 3, 0.1: 2 / 3, 0.0: 1.0}
    assert report.accuracy["a"] == {0.2: 2 / 3, 0.1: 2 / 3, 0.0: 1.0}, "a row is its own radius"
    with pytest.raises(InputError, match=r"^survivors: eps must be .* 0.2, 0.1, 0.0, got 0.15"):
        report.survivors(0.15)


def test_the_drawing_has_a_line_for_each_row_that_looks_like_no_other() -> None:
    figure = pytest.importorskip("matplotlib.figure")
    axes = figure.Figure().subplots()
    assert REPORT.plot(axes) is axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.0, 0.1, 0.25]] * 3
    assert [list(line.get_ydata()) for line in axes.lines] == [
        [75, 50, 25], [75, 50, 75], [75, 25, 0],
    ]  # fmt: skip
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["pgd-margin", "paper-pgd *", "worst case"]
    assert axes.get_ylim() == (-2, 102)
    assert axes.get_title() == "* the protocol of the paper, not a measure of robustness"
    assert axes.get_ylabel() == "accuracy (%)"
    assert axes.get_xlabel() == "Linf radius eps (units of the images)"
    rows = {name: {0.1: [True]} for name in ATTACKS}
    lines = RobustnessReport("Linf", [0.1], [True], rows).plot().lines
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(ATTACKS) + 1
    assert len({marker for *_, marker in looks}) == 9
    assert lines[-1].get_color() == "black", "the worst case"
    assert max(line.get_linewidth() for line in lines) == lines[-1].get_linewidth()


def of(first: list[bool], second: list[bool], norm: str = "Linf") -> RobustnessReport:
    rows = {"a": {0.1: first, 0.2: second}}
    return RobustnessReport(norm, [0.1, 0.2], [True] * len(first), rows)


def test_models_are_compared_at_the_radii_of_both_by_the_images_that_one_of_them_survives() -> None:
    a = of([True] * 5 + [False] * 5, [True] * 10)
    b = of([False] * 2 + [True] * 3 + [False] * 5, [True] * 10)
    assert a.compare(b) == {0.1: pytest.approx(0.5), 0.2: pytest.approx(0.5)}
    assert b.compare(a) == a.compare(b)
    c = of([True] * 4 + [False] * 2 + [True] * 4, [True] * 10)
    assert a.compare(c)[0.1] == pytest.approx(2 * (1 + 5) / 2**5)  # 1 against 4
    only = RobustnessReport("Linf", [0.2], [True] * 10, {"a": {0.2: [True] * 10}})
    assert a.compare(only) == only.compare(a) == {0.2: 1.0}, "more radii are more attacks"
    for other in (of([True] * 9, [True] * 9), of([True] * 10, [True] * 10, "L2")):
        with pytest.raises(InputError, match="^compare: reports must be on the same images in the"):
            a.compare(other)


def test_reports_on_other_images_are_not_compared() -> None:
    model, (x, y) = nn.Linear(64, 10), digits("test")
    reports = [
        evaluate(model, images.flatten(1), labels, eps=0.1, attacks="fgsm")
        for images, labels in ((x[:40], y[:40]), (x[40:80], y[40:80]))
    ]
    assert reports[0].labels == y[:40].tolist()
    different = int((y[:40] != y[40:80]).sum())
    with pytest.raises(InputError, match=f"same order, got other labels at {different} of 40"):
        reports[0].compare(reports[1])
    assert reports[0].compare(RobustnessReport.from_dict(reports[0].to_dict())) == {0.1: 1.0}
    without = {**reports[1].to_dict()}
    del without["labels"]
    assert reports[0].compare(RobustnessReport.from_dict(without)), "of old reports it is not known"


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"preset": "standard"}, "be of the same attacks, .* got 'quick' and 'standard'"),
        ({"preset": "list"}, "be of the same attacks, .* got 'quick' and fgsm, pgd"),
        (
            {"eps": [0.30000001192092896]},
            r"have a radius in common, got 0\.3 and 0\.30000001192092896",
        ),
    ],
)
def test_models_that_were_not_evaluated_alike_are_not_compared(
    other: dict[str, Any], error: str
) -> None:
    def report(eps: Any = (0.3,), preset: str = "quick", *more: str) -> RobustnessReport:
        rows = {name: {radius: [True, False] for radius in eps} for name in ("pgd", "fgsm", *more)}
        return RobustnessReport("Linf", list(eps), [True, True], rows, preset=preset)

    with pytest.raises(InputError, match=f"^compare: reports must {error}"):
        report().compare(report(**other))
    masked = report((0.3,), "list", "student")
    assert masked.compare(report(preset="list")) == {0.3: 1.0}, "a student comes with a sign"


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pandas", "attacks", lambda: REPORT.to_frame()),
        ("matplotlib", "plots", lambda: REPORT.plot()),
        ("scipy", "attacks", lambda: REPORT.compare(REPORT)),
        ("tqdm", "attacks", lambda: list(progress.shown([("a", 0.1)], True))),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, use: Callable[[], Any]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^{package} is not .* the extra '{extra}'"):
        use()


# Progress


@pytest.mark.parametrize(
    ("asked", "terminal", "installed", "bar"),
    [
        (None, True, True, True), (None, True, False, False), (None, False, True, False),
        (False, True, True, False), (True, False, True, True),
    ],
)  # fmt: skip
def test_a_bar_is_shown_where_somebody_looks_and_it_can_be(
    monkeypatch: pytest.MonkeyPatch, asked: bool, terminal: bool, installed: bool, bar: bool
) -> None:
    told: list[Any] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            told.append(options["total"])

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            told.append("end")

        def set_description(self, text: str) -> None:
            told.append(text)

        def update(self) -> None:
            told.append("done")

    tqdm = type("tqdm", (), {"tqdm": Bar})
    monkeypatch.setattr(progress, "import_extra", lambda *_: tqdm)
    monkeypatch.setattr(progress, "find_spec", lambda name: (installed and name == "tqdm") or None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    items = [("fgsm", 0.1), ("cw", 2.0)]
    assert list(progress.shown(items, asked)) == items
    expected = [2, "fgsm, eps 0.1", "done", "cw, eps 2", "done", "end"]
    assert told == (expected if bar else [])


# A run


class First(nn.Module):
    """The class is whether the first pixel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1] - 0.5
        return torch.cat([-first, first], 1)


def run_of(n: int = 6, sizes: tuple[float, ...] = (0.1, 0.3), batch_size: int = 4) -> Run:
    images = torch.linspace(0.05, 0.95, n).view(n, 1, 1, 1).expand(n, 1, 2, 2).clone()
    classifier = PixelClassifier(First(), bounds=(0, 2), mean=None, std=None)
    labels = (images[:, 0, 0, 0] > 0.25).long()
    labels[-1] = 0  # wrong when clean
    task = Task(classifier, images, labels, 0.0, "L2", seed=3)
    return Run(task, {2 * size: size for size in sizes}, batch_size, whole_batches=False)


def test_seconds_of_a_row_are_summed_over_its_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(start=10)
    monkeypatch.setattr(run.time, "perf_counter", lambda: float(next(ticks)))
    made = run_of()
    for radius in made.sizes:
        made.attack("noise", radius)
    assert made.seconds == {"noise": 2.0}
    assert list(made.survived["noise"]) == [0.2, 0.6]
    assert set(made.history) == {"noise at eps 0.2", "noise at eps 0.6"}
    report = made.report(["w"], "list")
    assert (report.warnings, report.preset, report.norm) == (["w"], "list", "L2")


def test_batches_are_of_their_size_and_attacks_see_what_is_correct_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = run_of(n=11)
    shown: list[Task] = []

    def spy(task: Task) -> tuple[Tensor, list[int]]:
        shown.append(task)
        assert torch.initial_seed() == 3
        return 0 * task.images, [1, 2]

    monkeypatch.setitem(ATTACKS, "spy", spy)
    assert torch.equal(made.sample()[0], made.task.images)
    assert torch.equal(made.sample()[1], made.task.labels)
    made.attack("spy", 0.6)
    assert [len(task.images) for task in shown] == [4, 4, 2]
    assert [task.eps for task in shown] == [0.3] * 3
    assert torch.equal(torch.cat([task.labels for task in shown]), made.correctly_classified()[1])
    assert made.survived["spy"][0.6] == (made.correct & (made.task.labels == 0)).tolist()
    assert made.history["spy at eps 0.6"] == [3, 6]


def test_a_student_is_taught_once_for_the_largest_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = run_of(), []

    def teach(classifier: Any, images: Tensor, **options: Any) -> nn.Module:
        told.append((len(images), options))
        return First()

    monkeypatch.setattr(run, "taught", teach)
    for radius in made.sizes:
        made.attack("student", radius)
    assert told == [(5, {"eps": 0.3, "norm": "L2"})]


def test_attacks_get_pixels_within_zero_and_one_without_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Task] = []

    def spy(task: Task) -> tuple[Tensor, list[int]]:
        seen.append(task)
        return task.images, []

    monkeypatch.setitem(ATTACKS, "spy", spy)
    images = torch.tensor([[-1.0 - 5e-7, 3.0], [0.0, 3.0 + 5e-7]], requires_grad=True)
    model = nn.Linear(2, 2)
    report = evaluate(model, images, model(images).argmax(1), eps=1.0, bounds=(-1, 3),
                      attacks=["spy"], seed=4)  # fmt: skip
    assert report.preset == "list"
    shown = torch.cat([task.images for task in seen])
    torch.testing.assert_close(shown, torch.tensor([[0.0, 1.0], [0.25, 1.0]]))
    for task in seen:
        assert not task.images.requires_grad
        assert 0 <= task.images.min() <= task.images.max() <= 1
        assert (task.eps, task.seed) == (0.25, 4)
    assert images.grad is None


class Cut(First):
    """Its graph is cut."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@pytest.mark.parametrize(
    ("model", "attacks", "right", "student"),
    [(First(), "fgsm", True, False), (Cut(), "fgsm", True, True), (Cut(), "paper", True, False),
     (Cut(), "fgsm", False, False), (First(), "standard", True, True),
     (First(), "full", True, True)],
)  # fmt: skip
def test_where_something_is_odd_or_much_is_asked_for_a_student_is_tried_but_not_for_the_paper(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, attacks: str, right: bool, student: bool
) -> None:
    monkeypatch.setattr(run, "taught", lambda *_, **__: First())
    for preset in ("standard", "full"):
        monkeypatch.setitem(PRESETS, preset, ("fgsm",))
    x = torch.linspace(0, 1, 10).view(10, 1, 1, 1).expand(10, 1, 2, 2).clone()
    labels = (x[:, 0, 0, 0] > 0.5).long()
    found = evaluate(model, x, labels if right else 1 - labels, eps=[0.05, 0.1], attacks=attacks)
    assert ("student" in found.survived) is student
    assert not student or list(found.survived["student"]) == [0.05, 0.1]


class Growing(First):
    """Surer with each call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * super().forward(x)


def test_of_a_model_that_keeps_a_state_copies_alone_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "taught", lambda *_, **__: First())
    x, model = torch.linspace(0, 1, 10).view(10, 1).expand(10, 4).clone(), Growing()
    found = evaluate(model, x, (x[:, 0] > 0.5).long(), eps=0.05, attacks="fgsm")
    assert list(found.survived) == ["fgsm", "fresh-copy", "student"]
    assert "The row 'fresh-copy' attacks copies that have seen nothing." in str(found)
    assert model.calls == 0


class GrowingLate(Growing):
    """Another answer from a call on that comes in the middle of the attacks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.calls * (1 if self.calls < 60 else 2)


class GrowingAlone(Growing):
    """No copies."""

    def __deepcopy__(self, memo: dict[int, object]) -> GrowingAlone:
        raise TypeError


@pytest.mark.parametrize("model", [GrowingLate(), GrowingAlone()])
def test_no_row_is_named_that_there_is_not(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module
) -> None:
    monkeypatch.setattr(run, "taught", lambda *_, **__: First())
    x = torch.linspace(0, 1, 10).view(10, 1).expand(10, 4).clone()
    found = evaluate(model, x, (x[:, 0] > 0.5).long(), eps=0.05, attacks=["fgsm", "pgd-margin"])
    assert "keeps a state" in str(found)
    assert "No copy that has seen nothing was attacked: clear the state" in str(found)
    assert "fresh-copy" not in str(found)


# The model's state, and its twin in floats


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True), ([1.0, 2.0], [1.0, 3.0], False),
        ([1.0, 2.0], [2.0, 3.0], False), ([torch.nan, 2.0], [torch.nan, 2.0], True),
        ([torch.nan, 2.0], [1.0, 2.0], False), ([1.0, 2.0], [1.0, torch.nan], False),
        ([1.0], [1.0, 1.0], False), ([[1.0]], [1.0], False), ([], [], True),
    ],
)  # fmt: skip
def test_buffers_are_the_same_if_their_numbers_and_gaps_are(
    a: list[float], b: list[float], same: bool
) -> None:
    assert state.same(torch.tensor(a), torch.tensor(b)) is same


def test_a_buffer_that_was_missing_is_so_again_and_one_that_is_the_same_is_not_written() -> None:
    model = nn.BatchNorm1d(2, track_running_stats=False)
    model.register_buffer("steady", torch.tensor([1.0, torch.nan]))
    model.register_buffer("counts", torch.zeros(()))
    steady = model.steady._version
    with left_as_it_was(model):
        model.running_mean = torch.ones(2)
        model.counts += 1
    assert model.running_mean is None
    assert model.counts == 0
    assert model.steady._version == steady


def test_a_copy_shares_the_parameters_and_has_buffers_of_its_own() -> None:
    model = nn.BatchNorm1d(2)
    copy = copied(model)
    assert copy is not None
    assert copy.weight is model.weight
    assert copy.running_mean is not model.running_mean
    compiled = torch.compile(model, backend="eager")
    assert type(copied(compiled)) is nn.BatchNorm1d

    class Alone(nn.Module):
        def __deepcopy__(self, _: Any) -> Any:
            raise TypeError("it is the only one")

    assert copied(Alone()) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_layer_s_twin_has_its_weights_and_the_rest_is_shared(bias: bool) -> None:
    plain = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=bias))
    model = torch.ao.quantization.quantize_dynamic(plain.eval(), {nn.Linear}, dtype=torch.qint8)
    twin = stand_in_for(model)
    assert twin is not None
    assert twin[2].weight is model[2].weight
    assert twin[2].running_mean is not model[2].running_mean, "its state is its own"
    x = torch.rand(8, 5)
    assert (twin(x) - model(x)).abs().max() < 0.02
    for layer, quantised in ((twin[0], model[0]), (twin[3], model[3])):
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight, quantised.weight().dequantize())
        assert (layer.bias is None) is (quantised.bias() is None)
    assert stand_in_for(plain) is None
    values, smooth = torch.rand(3, 2), torch.rand(3, 2, requires_grad=True)
    found = guided(values, 2 * smooth)
    torch.testing.assert_close(found, values)
    (gradient,) = torch.autograd.grad(found.sum(), smooth)
    assert bool((gradient == 2).all())


class Skips(nn.Module):
    """A layer, and a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


@pytest.mark.filterwarnings("ignore")
def test_the_gradient_of_a_quantised_model_is_its_twin_s_and_no_more() -> None:
    model = torch.ao.quantization.quantize_dynamic(Skips().eval(), {nn.Linear})
    classifier = PixelClassifier(model, bounds=(0, 1), mean=None, std=None)
    assert classifier.stand_in is not None
    x = torch.rand(3, 4, requires_grad=True)
    slopes = [
        torch.autograd.grad(f(x)[:, 0].sum(), x)[0] for f in (classifier, classifier.stand_in)
    ]
    torch.testing.assert_close(*slopes)


def test_a_layer_with_integers_in_and_out_is_refused_by_its_place() -> None:
    model = nn.Sequential(nn.Linear(5, 4), torch.ao.nn.quantized.Linear(4, 3))
    with pytest.raises(InputError, match=r"got Linear, .* \(first of them '1'\)"):
        stand_in_for(model)


def test_the_loss_of_each_image_is_its_own() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = -logits.log_softmax(1)[torch.arange(4), labels]
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


class Merging(nn.Linear):
    """Adds a product of small matrices to its weight for evaluation, as layers of LoRA do."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.a, self.b = nn.Parameter(torch.rand(1, 3)), nn.Parameter(torch.rand(2, 1))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.b @ self.a
            self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("mode", [True, False])
def test_a_layer_that_acts_when_its_mode_changes_is_as_it_was(mode: bool) -> None:
    layer = Merging()
    model = nn.Sequential(layer, nn.Dropout()).train(mode)
    model[1].train(not mode)
    before, merged = layer.weight.detach().clone(), layer.merged
    with left_as_it_was(model):
        assert layer.merged
        assert not model[1].training
    assert torch.equal(layer.weight, before)
    assert (layer.merged, layer.training, model[1].training) == (merged, mode, not mode)
