"""Pictures beside the control: photographs, what else geometry might do, distances by pairs."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.structure.data import MANIFOLD

# colour of Okabe and Ito, marker, line
_Look = tuple[str, str, str]
PHOTOGRAPHS: dict[str, _Look] = {
    "contrastive": ("#999999", "", "--"),
    "contrastive predicted by a head": ("#56B4E9", "v", "-"),
    "isometry, contrastive": ("#009E73", "o", "-"),
    "control: contrastive, shuffled": ("#D55E00", "X", "-"),
    "cross-entropy": ("#000000", "s", "-"),
}
_TITLES = {
    "contrastive": "what features are compared with",
    "contrastive predicted by a head": "the same predicted by a second head",
    "isometry, contrastive": "isometry",
    "control: contrastive, shuffled": "its control: distances shuffled",
}
_TITLES_OF_PAIRS = {
    f"isometry, {MANIFOLD}": "isometry",
    f"control: {MANIFOLD}, shuffled": "its control: distances shuffled",
    f"{MANIFOLD} predicted by a head": "what enters a second head",
}
NEIGHBOURS: dict[str, tuple[str, str]] = {
    "isometry, pixels": ("#009E73", "o"),
    "control: pixels, shuffled": ("#009E73", "x"),
    "isometry, manifold": ("#0072B2", "D"),
    "control: manifold, shuffled": ("#0072B2", "+"),
    "raw pixels": ("#999999", "s"),
}
LOWER_IS_BETTER = "calibration error"


def draw_photographs(results: dict[str, Any], path: Path) -> None:
    """Accuracy on the ten classes over the examples of each that are known."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis = figure.subplots()
    shots = {f"{examples} a class": examples for examples, _ in results["settings"]["examples"]}
    for name, look in PHOTOGRAPHS.items():
        of_name = (run for run in results["runs"] if run["key"]["method"] == name)
        runs = [run["figures"] for run in of_name if "few-shot" in run["figures"]]
        if not runs:
            continue
        by_shot = [[_accuracy(figures, shot) for figures in runs] for shot in shots]
        color, marker, line = look
        axis.errorbar(
            list(shots.values()),
            [mean(values) for values in by_shot],
            yerr=[_spread(values) for values in by_shot],
            color=color,
            marker=marker,
            linestyle=line,
            capsize=2,
            label=_TITLES.get(name, name),
        )
    axis.set(
        xscale="log",
        xlabel="examples of each of the ten classes",
        ylabel="accuracy on the ten classes (%)",
    )
    axis.set_xticks(list(shots.values()), list(map(str, shots.values())))
    axis.minorticks_off()
    finish(axis)
    figure.savefig(path, dpi=130)


def draw_neighbours(results: dict[str, Any], path: Path) -> None:
    """Of every question, what each method gains over cross-entropy."""
    rows: list[tuple[str, dict[str, list[float]]]] = []
    for question in dict.fromkeys(run["key"]["question"] for run in results["runs"]):
        by_method: dict[str, list[dict[str, float]]] = {}
        for run in results["runs"]:
            if run["key"]["question"] == question:
                by_method.setdefault(run["key"]["method"], []).append(run["figures"])
        for answer in by_method["cross-entropy"][0]:
            rows.append((f"{question}: {answer}", _gains(by_method, answer)))
    figure = Figure(figsize=(10, 0.33 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    named: set[str] = set()
    for place, (_, gains) in enumerate(rows):
        for offset, (name, (color, marker)) in enumerate(NEIGHBOURS.items()):
            if name in gains:
                axis.errorbar(
                    mean(gains[name]),
                    place + 0.16 * (offset - 2),
                    xerr=_spread(gains[name]),
                    color=color,
                    marker=marker,
                    linestyle="",
                    elinewidth=1,
                    label=None if name in named else name,
                )
                named.add(name)
    axis.axvline(0, color="#000000", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [title for title, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel("points better than cross-entropy (bars: over seeds of the method)")
    finish(axis)
    figure.savefig(path, dpi=130)


def draw_distances(results: dict[str, Any], path: Path) -> None:
    """Distances by the manifold and by the features, of the pairs that were kept."""
    drawn = [run for run in results["runs"] if "pairs" in run["figures"]]
    figure = Figure(figsize=(3.1 * max(1, len(drawn)), 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(drawn)), squeeze=False, sharex=True, sharey=True)[0]
    for axis, run in zip(axes, drawn, strict=False):
        wanted, found = run["figures"]["pairs"]
        axis.axline((0, 0), slope=1, color="#D55E00", linewidth=1)
        axis.scatter(wanted, found, s=3, color="#0072B2", alpha=0.5, linewidths=0)
        r = run["figures"][MANIFOLD]["r"]
        name = run["key"]["method"]
        axis.set_title(f"{_TITLES_OF_PAIRS.get(name, name)}\nr {r:.2f}", fontsize=9)
        axis.set_xlabel("distance by the reference", fontsize=9)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("distance of the features", fontsize=9)
    figure.savefig(path, dpi=130)


def _gains(by_method: dict[str, list[dict[str, float]]], answer: str) -> dict[str, list[float]]:
    """Of every method and seed, in points over the mean of cross-entropy; positive is better."""
    sign = -100 if answer == LOWER_IS_BETTER else 100
    plain = mean(found[answer] for found in by_method["cross-entropy"])
    return {
        name: [sign * (found[answer] - plain) for found in runs]
        for name, runs in by_method.items()
        if all(answer in found for found in runs)
    }


def _accuracy(figures: dict[str, Any], shot: str) -> float:
    draws: list[float] = figures["few-shot"][shot]["accuracy"]
    return 100 * mean(draws)


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def finish(axis: Axes) -> None:
    """Grid, frame and legend, as in all pictures of this benchmark."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
