"""Tables of the comparison, from the results."""

from __future__ import annotations

from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks.auto.figure import draw
from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.tables import markdown_table, percent, spread

DEFAULT = "auto 0.1"
# What a weight may cost in accuracy on the labels that are trained on, to be chosen
TOLERANCE = 0.01
NAMES = {"mnist": "MNIST, even or odd", "cifar10": "CIFAR-10 (JPEG), animal or vehicle"}

Runs = dict[str, list[dict[str, Any]]]


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, draw)


def tables(results: dict[str, Any]) -> str:
    """For each task the validation figures of all weights, and the test figures of a few."""
    parts = [
        '# A weight chosen by hand, and beta="auto"',
        "Networks learn a coarse question; afterwards a linear probe on their features sees ten "
        "examples of each of ten classes, which training never named (mean over "
        f"{results['settings']['draws']} draws). Pearson's r: distances within a coarse class. "
        "'auto s' keeps the penalty's gradient at the share s of the loss's; 0.1 is the default. "
        "Mean ± standard deviation over seeds.",
    ]
    for task in dict.fromkeys(run["key"]["task"] for run in results["runs"]):
        runs = by_weight(results, task)
        seeds = len(next(iter(runs.values())))
        chosen = choose(runs, [w for w in runs if not w.startswith("auto")])
        rows = [_row(weight, figures, "validation") for weight, figures in runs.items()]
        weights = dict.fromkeys([w for w in ("0", chosen, DEFAULT) if w in runs])
        tested = [
            _row(f"{weight} (chosen)" if weight == chosen else weight, runs[weight], "test")
            for weight in weights
        ]
        header = [
            "beta",
            "coarse, %",
            "ten classes, %",
            "Pearson's r",
            "stress",
            "beta, first to last",
        ]
        parts += [
            f"## {NAMES[task]}",
            f"{seeds} seed{'s' if seeds > 1 else ''}. On validation images:",
            markdown_table(header, rows),
            f"On test images. The number was chosen on validation images: the best on ten classes "
            f"of those within {100 * TOLERANCE:g} point of the best coarse accuracy.",
            markdown_table(header, tested),
        ]
    return "\n\n".join(parts) + "\n"


def by_weight(results: dict[str, Any], task: str) -> Runs:
    """Figures of all seeds by weight, in the order of the settings."""
    groups: Runs = {}
    for run in results["runs"]:
        if run["key"]["task"] == task:
            groups.setdefault(run["key"]["beta"], []).append(run["figures"])
    return groups


def choose(runs: Runs, weights: list[str]) -> str:
    """The weight with the best mean few-shot accuracy on validation images at little cost."""

    def average(weight: str, figure: str) -> float:
        return float(mean(figures["validation"][figure] for figures in runs[weight]))

    best = max(average(weight, "coarse") for weight in weights)
    cheap = [weight for weight in weights if average(weight, "coarse") >= best - TOLERANCE]
    return max(cheap, key=lambda weight: average(weight, "few-shot"))


def _row(weight: str, figures: list[dict[str, Any]], split: str) -> list[str]:
    found = [figure[split] for figure in figures]
    first, last = (mean(figure["betas"][index] for figure in figures) for index in (0, -1))
    return [
        weight,
        percent([f["coarse"] for f in found]),
        percent([f["few-shot"] for f in found]),
        spread([f["correlation"] for f in found], 2),
        spread([f["stress"] for f in found], 2),
        f"{first:.2g} to {last:.2g}",
    ]
