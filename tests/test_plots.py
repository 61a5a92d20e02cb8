"""The figures: they show the numbers that they are given, on the axes that they are given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from isoreg import InputError, IsometryRegularizer, plots
from isoreg.diagnostics import distances_within, distortion
from isoreg.robustness import RobustnessReport

figure = pytest.importorskip("matplotlib.figure")

X = torch.rand(30, 4, generator=torch.Generator().manual_seed(1))
PHI = 2 * X**2
Y = torch.arange(30) % 3
REPORT = RobustnessReport(
    "Linf", [0.1, 0.2], [True, True, True, False],
    {"a": {0.1: [True, True, False, False], 0.2: [True, False, False, False]},
     "b": {0.1: [False, True, True, False], 0.2: [False, True, False, False]}},
)  # fmt: skip
DRAWN: dict[str, Callable[..., Any]] = {
    "shepard": lambda **kw: plots.shepard(X, PHI, Y, **kw),
    "histograms": lambda **kw: plots.distance_histograms(X, {"a": PHI, "b": X}, Y, **kw),
    "robust": lambda **kw: plots.robust_accuracy({"a": REPORT, "b": REPORT}, **kw),
    "layers": lambda **kw: plots.layer_distortion(
        {"first": distortion(X, PHI, Y), "second": distortion(X, X, Y)}, **kw
    ),
}


AXES = {
    "shepard": ("distance between inputs", "distance between features"),
    "histograms": ("distance between two samples of a class", "share of pairs (%)"),
    "robust": ("Linf radius eps (units of the inputs)", "worst-case accuracy (%)"),
    "layers": ("layer", "feature distance / input distance"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_on_the_axes_that_it_is_given_and_says_what_they_measure(name: str) -> None:
    axes = figure.Figure().subplots()
    assert DRAWN[name](axes=axes) is axes
    assert axes.has_data()
    for drawn in (axes, DRAWN[name]()):
        assert (drawn.get_xlabel(), drawn.get_ylabel()) == AXES[name]


@pytest.mark.parametrize("name", DRAWN)
def test_its_own_figure_fits_a_column_and_all_text_can_be_read(name: str, tmp_path: Any) -> None:
    axes = DRAWN[name]()
    assert axes.figure.get_size_inches()[0] == 3.4
    axes.figure.savefig(tmp_path / "drawn.png", dpi=100)
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    box = axes.figure.bbox
    low, high = axes.get_xlim()
    shown = [t for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high]
    texts = [axes.xaxis.label, axes.yaxis.label, axes.title, *shown]
    for text in texts:
        extent = text.get_window_extent()
        assert text.get_fontsize() >= 7
        assert extent.x0 >= box.x0 - 1
        assert extent.x1 <= box.x1 + 1, text
    ticks = [text.get_window_extent() for text in shown]
    assert all(a.x1 < b.x0 for a, b in pairwise(ticks))


def test_the_shepard_diagram_holds_every_pair_of_a_class() -> None:
    axes = plots.shepard(X, PHI, Y)
    (hexagons,) = axes.collections
    dx, dphi = distances_within(X, PHI, Y)
    assert hexagons.get_array().sum() == len(dx) == 3 * 45
    assert hexagons.get_array().min() >= 1, "where there is no pair nothing is drawn"
    assert type(hexagons.norm).__name__ == "LogNorm", "one pair is seen beside hundreds"
    low, high = axes.get_xlim(), axes.get_ylim()
    assert low[0] == high[0] == 0
    assert low[1] > dx.max()
    assert high[1] > dphi.max()
    found = distortion(X, PHI, Y)
    assert (
        f"r = {found.correlation:.3f}, stress = {found.stress:.3f}, 135 pairs" in axes.get_title()
    )


def test_one_pair_is_no_pairs() -> None:
    x = torch.tensor([[0.0], [1.0]])
    assert "stress = 0.000, 1 pair\n" in plots.shepard(x, x).get_title()
    assert str(distortion(x, x)).startswith("1 pair: ")


def test_histograms_are_shares_of_the_pairs_over_common_bins() -> None:
    axes = plots.distance_histograms(X, {"a": PHI, "b": X}, Y, bins=7)
    stairs = {patch.get_label(): patch.get_data() for patch in axes.patches}
    assert list(stairs) == ["inputs", "a", "b"]
    dx, dphi = distances_within(X, PHI, Y)
    for name, distances in (("inputs", dx), ("a", dphi), ("b", dx)):
        shares, edges, _ = stairs[name]
        expected, _ = np.histogram(distances, bins=edges)
        np.testing.assert_allclose(shares, 100 * expected / len(dx), rtol=1e-5)
        assert len(shares) == 7
        assert edges[-1] == pytest.approx(max(dx.max(), dphi.max()).item())


def test_the_distance_that_is_asked_for_is_drawn_and_curves_are_told_apart_without_colour() -> None:
    dx, dphi = distances_within(X, PHI, Y, distance="manhattan")
    axes = plots.shepard(X, PHI, Y, distance="manhattan")
    assert axes.get_xlim()[1] == pytest.approx(1.05 * float(dx.max()))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kept"]
    axes = plots.distance_histograms(X, PHI, Y, distance="manhattan", bins=1)
    assert axes.get_xlim()[1] == pytest.approx(float(max(dx.max(), dphi.max())))
    inputs, features = axes.patches
    assert [inputs.get_label(), features.get_label()] == ["inputs", "features"]
    assert inputs.get_linestyle() != features.get_linestyle()


def test_the_accuracy_is_that_of_the_images_that_survive_every_attack() -> None:
    (line,) = plots.robust_accuracy(REPORT).lines
    assert line.get_xdata().tolist() == [0.0, 0.1, 0.2]
    assert line.get_ydata().tolist() == [75.0, 25.0, 0.0]
    assert "Linf" in line.axes.get_xlabel()
    assert line.axes.get_xlim()[0] == 0
    assert line.axes.get_ylim() == (0, 100)


def test_a_report_with_warnings_says_so_in_its_legend() -> None:
    doubtful = RobustnessReport("Linf", [0.1], [True], {"a": {0.1: [True]}}, warnings=["masked"])
    axes = plots.robust_accuracy({"plain": REPORT, "doubtful": doubtful})
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["plain", "doubtful (warnings)"]


def test_what_a_report_is_worth_stands_in_the_legend_and_one_that_is_sound_needs_none() -> None:
    survived = {"paper-pgd": {0.1: [True]}}
    paper = RobustnessReport("Linf", [0.1], [True], survived, warnings=["masked"], preset="paper")
    assert plots.robust_accuracy(REPORT).get_legend() is None
    (text,) = plots.robust_accuracy(paper).get_legend().get_texts()
    assert text.get_text() == f" (warnings) ({paper.note})"
    lines = plots.robust_accuracy({str(index): REPORT for index in range(7)}).lines
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == 7
    assert len({marker for _, marker, _ in looks}) == 6
    with pytest.raises(InputError, match="in one norm, got L2 and Linf"):
        plots.robust_accuracy({"a": REPORT, "b": RobustnessReport("L2", [0.1], [True], {})})


def test_axes_reach_a_little_further_than_the_longest_distance_also_if_all_are_zero() -> None:
    axes, (dx, dphi) = plots.shepard(X, PHI, Y), distances_within(X, PHI, Y)
    assert axes.get_xlim()[1] == pytest.approx(1.05 * float(dx.max()))
    assert axes.get_ylim()[1] == pytest.approx(1.05 * float(dphi.max()))
    diagonal = next(line for line in axes.lines if line.get_label() == "kept")
    assert (diagonal.get_xy1(), diagonal.get_slope()) == ((0, 0), 1)
    assert plots.shepard(X, torch.zeros(30, 2), Y).get_ylim() == axes.get_xlim()
    assert plots.shepard(torch.zeros(30, 2), X, Y).get_xlim() == axes.get_xlim()
    assert plots.shepard(torch.zeros(3, 2), torch.zeros(3, 2)).get_xlim() == (0, 1.05)
    alike = plots.distance_histograms(torch.zeros(4, 2), torch.zeros(4, 2))
    assert alike.get_xlim() == (0, 1)
    assert alike.get_ylim()[0] == 0
    assert alike.get_xlabel() == "distance"
    within = "distance between two samples of a class"
    assert plots.distance_histograms(X, PHI, Y).get_xlabel() == within


@pytest.mark.parametrize(
    "features", [2 * X[:2], torch.zeros(30, 2), torch.full((30, 2), 3.0), X * 1e-20]
)
def test_each_cell_of_a_shepard_diagram_is_a_fortieth_of_its_axes(features: torch.Tensor) -> None:
    axes = plots.shepard(X[: len(features)], features)
    cell = axes.collections[0].get_paths()[0].get_extents()
    assert cell.width == pytest.approx(axes.get_xlim()[1] / 40, rel=0.01)
    assert 0.02 < cell.height / axes.get_ylim()[1] < 0.06


@pytest.mark.parametrize("name", DRAWN)
def test_what_begins_at_0_and_layers_are_not_drawn_on_logarithmic_axes(name: str) -> None:
    axes = figure.Figure().subplots()
    axes.set_xscale("log")
    text = "axes must be one with linear scales, got log and linear"
    if name == "layers":
        text = r"^layer_distortion: axes must be .* linear, got log"
    with pytest.raises(InputError, match=text):
        DRAWN[name](axes=axes)


class OnDevice(torch.Tensor):
    """As one on an accelerator, which is no array."""

    def __array__(self, *_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("name", ["shepard", "histograms"])
def test_distances_on_an_accelerator_are_drawn(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = DRAWN[name]()
    monkeypatch.setattr(
        plots,
        "distances_within",
        lambda *args, **kw: [d.as_subclass(OnDevice) for d in distances_within(*args, **kw)],
    )
    assert DRAWN[name]().dataLim.bounds == expected.dataLim.bounds


@pytest.mark.parametrize("name", DRAWN)
def test_only_two_straight_axes_are_drawn_on(name: str) -> None:
    bad = {
        "ndarray": figure.Figure().subplots(1, 2),
        "Figure": figure.Figure(),
        "polar": figure.Figure().add_subplot(projection="polar"),
        "3d": figure.Figure().add_subplot(projection="3d"),
    }
    for kind, axes in bad.items():
        with pytest.raises(
            InputError, match=f"axes must be matplotlib axes in a plane, got {kind}"
        ):
            DRAWN[name](axes=axes)


def test_names_are_written_as_they_are_and_none_is_missing() -> None:
    names = ("_orig_mod.0", "$a$", "$")
    axes = plots.distance_histograms(X, dict.fromkeys(names, PHI))
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["inputs", " _orig_mod.0", r"\$a\$", r"\$"]
    axes.figure.draw_without_rendering()
    assert not any(text._preprocess_math(text.get_text())[1] for text in axes.get_legend().texts)
    report = RobustnessReport("Linf", [0.1], [True, True], {"pgd": {0.1: [True, False]}})
    axes = plots.robust_accuracy({"_a": report, "b": report})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [" _a", "b"]


def test_the_inputs_curve_is_seen_on_any_ground() -> None:
    colours = []
    for ground in ("white", "black"):
        axes = figure.Figure(facecolor=ground).subplots()
        axes.set_facecolor(ground)
        plots.distance_histograms(X, PHI, axes=axes)
        colours.append(axes.patches[0].get_edgecolor()[:3])
    assert colours == [(0, 0, 0), (1, 1, 1)]


def test_distances_of_any_size_are_drawn_over_their_whole_range() -> None:
    tiny = 1e-30 * X.double()
    axes, (dx, _) = plots.shepard(tiny, 2 * tiny), distances_within(tiny, tiny)
    assert axes.get_xlim()[1] == pytest.approx(1.05 * float(dx.max()), abs=0)
    assert axes.get_ylim()[1] == pytest.approx(2.1 * float(dx.max()), abs=0)
    huge = 1e100 * X.double()
    counts = plots.distance_histograms(huge, huge).patches[0].get_data().values
    expected = plots.distance_histograms(X, X).patches[0].get_data().values
    assert counts == pytest.approx(expected)


def test_a_layer_that_puts_points_together_has_a_bar_down_to_the_least_that_is_shown() -> None:
    joined = PHI.clone()
    joined[0] = joined[3]
    named = {"joined": distortion(X, joined, Y), "none": distortion(X, 0 * X, Y)}
    named |= {"other": distortion(X, X / 50, Y)}
    axes = plots.layer_distortion(named)
    bars = [line for line in axes.lines if line.get_linewidth() == 5]
    assert [list(bar.get_xdata()) for bar in bars] == [[0, 0], [1, 1]]
    least = min(named["joined"].expansion / 1000, named["other"].contraction)
    assert bars[0].get_ydata()[0] == pytest.approx(least)
    assert axes.lines[0].get_ydata() == [1, 1]
    alone = plots.layer_distortion({"joined": named["joined"]})
    low = next(line for line in alone.lines if line.get_linewidth() == 5).get_ydata()[0]
    assert low == pytest.approx(named["joined"].expansion / 1000)


def test_long_names_of_layers_are_turned_and_minor_numbers_shown_where_there_are_few() -> None:
    for name, turn in (("a" * 29, 0.0), ("a" * 30, 90.0)):
        axes = plots.layer_distortion({name: distortion(X, PHI, Y), "b": distortion(X, X, Y)})
        assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {turn}
    for factor, shown in ((1, True), (1e4, False)):
        layers = {"a": distortion(X, PHI, Y), "b": distortion(X, factor * X, Y)}
        axes = plots.layer_distortion(layers)
        axes.figure.draw_without_rendering()
        assert any(tick.get_text() for tick in axes.get_yticklabels(minor=True)) is shown


def test_of_many_layers_no_number_and_no_name_covers_another() -> None:
    layers = {f"blocks.{k}.mlp.fc1": distortion(X, PHI, Y) for k in range(30)}
    axes = plots.layer_distortion(layers)
    axes.figure.draw_without_rendering()
    numbers = [text.get_window_extent() for text in axes.texts]
    assert all(a.x1 < b.x0 for a, b in pairwise(numbers))
    ticks = axes.get_xticklabels()
    between = pairwise(tick.get_window_extent().x1 for tick in ticks)
    sine = np.sin(np.deg2rad(ticks[0].get_rotation()))
    height = ticks[0].get_fontsize() * axes.figure.dpi / 72
    assert all((b - a) * sine > height for a, b in between)


@pytest.mark.parametrize("size", [20, 21, 60])
def test_names_of_any_length_leave_room_for_the_bars(size: int) -> None:
    names = ["a" * size, "b" * size]
    axes = plots.layer_distortion(dict.fromkeys(names, distortion(X, PHI, Y)))
    assert axes.get_xticklabels()[0].get_rotation() == (30 if size == 20 else 90)
    axes.figure.draw_without_rendering()
    box, page = axes.get_window_extent(), axes.figure.bbox
    assert box.height > 0.3 * plots._SIZE[1] * axes.figure.dpi
    assert box.width > 0.5 * page.width
    labels = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert all(page.y0 <= label.y0 for label in labels)


def test_reports_and_layers_may_be_named_by_numbers_too() -> None:
    legend = plots.robust_accuracy({1: REPORT}).get_legend()  # type: ignore[dict-item]
    assert [text.get_text() for text in legend.get_texts()] == ["1"]
    axes = plots.layer_distortion({1: distortion(X, PHI, Y)})  # type: ignore[dict-item]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1"]


def test_layers_span_from_contraction_to_expansion_with_the_typical_factor_between() -> None:
    found = {"first": distortion(X, PHI, Y), "second": distortion(X, 3 * X, Y)}
    axes = plots.layer_distortion(found)
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 5]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    for d, bar, dot in zip(found.values(), bars, dots, strict=True):
        assert list(bar.get_ydata()) == [d.contraction, d.expansion]
        assert dot.get_ydata() == [1 / d.scale]
    assert [text.get_text() for text in axes.texts][1] == "1.00"
    assert axes.get_yscale() == "log"
    axes.figure.draw_without_rendering()
    numbers = [label.get_text() for label in axes.get_yticklabels(which="both")]
    assert any(numbers)
    assert not any("10^" in number or "mathdefault" in number for number in numbers)


def test_a_regularizers_report_can_be_drawn_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    iso = IsometryRegularizer(model, ["0", "1"])
    model(X)
    iso(Y)
    axes = plots.layer_distortion(iso.report())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: plots.shepard(X, PHI[:2]), "shepard: inputs and features must be the same"),
        (lambda: plots.shepard(X[:3], PHI[:3], Y[:3]), "shepard: there must be a pair to draw"),
        (lambda: plots.distance_histograms(X[:3], PHI[:3], Y[:3]),
         "distance_histograms: there must be a pair to draw"),
        (lambda: plots.shepard(X * torch.inf, PHI), "shepard: distances must be finite to be d"),
        (lambda: plots.shepard(X, 1e200 * X.double()), "shepard: distances must be finite to be d"),
        (lambda: plots.distance_histograms(X, {"a": PHI, "b": X * torch.nan}),
         "distance_histograms: distances must be finite to be drawn, got 435 that are not"),
        (lambda: plots.distance_histograms(X, {}),
         "distance_histograms: features must be at least one Tensor, got none"),
        (lambda: plots.distance_histograms(X, {"inputs": PHI}),
         "distance_histograms: features must have other names than 'inputs'"),
        (
            lambda: plots.distance_histograms(X, [PHI]),  # type: ignore[arg-type]
            "distance_histograms: features must be a Tensor, or several of them by name, got list",
        ),
        (lambda: plots.distance_histograms(X, PHI, bins=0),
         "distance_histograms: bins must be an integer of at least 1, got 0"),
        (lambda: plots.robust_accuracy({}),
         "robust_accuracy: reports must be at least one RobustnessReport, got none"),
        (
            lambda: plots.robust_accuracy([REPORT]),  # type: ignore[arg-type]
            "robust_accuracy: reports must be a RobustnessReport, or several of them by name",
        ),
        (
            lambda: plots.layer_distortion(["fc"]),  # type: ignore[arg-type]
            "layer_distortion: layers must be a Distortion, or several of them by name, got list",
        ),
        (
            lambda: plots.layer_distortion({
                "a": distortion(X, X),
                "fc": distortion(X, X * float("nan")),
            }),
            "layer_distortion: the stress of a layer must be a number, got NaN for 'fc'",
        ),
        (lambda: plots.layer_distortion({"a": distortion(X[:1], X[:1])}),
         "layer_distortion: at least one layer must have pairs and features that differ, got 1"),
    ],
)  # fmt: skip
def test_errors_say_who_speaks_and_what_is_wrong(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(text)
