"""Table and figure of the torus, from the results."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.results import Results, figures_by, write_atomically
from benchmarks.tables import markdown_table, percent, spread
from benchmarks.torus.experiment import CLASSES
from benchmarks.torus.figure import draw


def report(results: Results, console: Console) -> None:
    """Print the table; save it and the figure beside the results."""
    found = results.to_dict()
    text = table(found)
    write_atomically(results.path.with_suffix(".md"), text)
    draw(found, results.path.with_suffix(".png"))
    console.print(Markdown(text))


def table(results: dict[str, Any]) -> str:
    """A Markdown table: accuracy and distances of every variant at every level."""
    settings = results["settings"]
    seeds = len({run["key"]["seed"] for run in results["runs"]})
    by_level = {c: figures_by(results, "variant", f"{c} classes") for c in CLASSES}
    order = dict.fromkeys(run["key"]["variant"] for run in results["runs"])
    rows = []
    for variant in order:
        row = [variant]
        for classes in CLASSES:
            found = by_level[classes][variant]
            row.append(percent([f["accuracy"] for f in found]))
            row.append(spread([f["distortion"]["correlation"] for f in found], 3))
            row.append(spread([f["distortion"]["stress"] for f in found], 3))
        rows.append(row)
    header = ["training"]
    for classes in CLASSES:
        header += [f"{classes} classes: accuracy %", "r", "stress"]
    return (
        "# Torus with a label hierarchy\n\n"
        f"{settings['points']:,} points, {settings['epochs']:,} epochs unless said, "
        f"{seeds} seed{'s' if seeds > 1 else ''}. Training accuracy; r and stress of the distances "
        "within each class of the level, against the input's.\n\n"
        f"{markdown_table(header, rows)}\n"
    )
