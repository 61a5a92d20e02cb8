"""Table and figure of the torus, from the results."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.tables import markdown_table, percent, spread
from benchmarks.torus.experiment import CLASSES, VARIANTS
from benchmarks.torus.figure import draw


def report(results: Results, console: Console) -> None:
    """Print the table; save it and the figure beside the results."""
    publish(results, console, table, draw)


def table(results: dict[str, Any]) -> str:
    """A Markdown table: accuracy and distances of every variant at every level."""
    settings = results["settings"]
    rows = []
    for variant, runs in _by_variant(results).items():
        for classes in CLASSES:
            found = [run[f"{classes} classes"] for run in runs]
            rows.append([
                variant if classes == CLASSES[0] else "",
                str(classes),
                percent([f["accuracy"] for f in found]),
                percent([f["accuracy on new points"] for f in found]),
                spread([f["distortion"]["correlation"] for f in found], 3),
                spread([f["distortion"]["stress"] for f in found], 3),
            ])
    header = ["training", "classes", "accuracy %", "new points %", "r", "stress"]
    return (
        "# Torus with a label hierarchy\n\n"
        f"{settings['points']:,} points, {settings['epochs']:,} epochs, learning rate from "
        f"{settings['learning_rate']:g} to 0 along a cosine; mean ± standard deviation "
        "over seeds, or one seed. Accuracy on the training points and on as many new ones; r and "
        "stress of the distances within each class of the level, against the input's.\n\n"
        f"{markdown_table(header, rows)}\n"
    )


def _by_variant(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The figures of all seeds, in the order of the variants."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        runs.setdefault(run["key"]["variant"], []).append(run["figures"])
    return {variant: runs[variant] for variant in VARIANTS if variant in runs}
