"""The table of the speed benchmark."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.results import Results, write_atomically
from benchmarks.speed.penalties import Case
from benchmarks.tables import markdown_table

_HEADER = (
    "batch",
    "plain, ms",
    "isoreg, ms",
    "ratio to plain",
    "ratio to pytorch-metric-learning",
    "of the arithmetic bound",
    "peak memory, isoreg / plain, MB",
    "gradient error",
)


def report(results: Results, console: Console) -> None:
    """Print the table and save it beside the results."""
    text = table(results.to_dict())
    path = results.path.with_suffix(".md")
    write_atomically(path, text)
    console.print(Markdown(text))
    console.print(f"saved {results.path} and {path.name}")


def table(results: dict[str, Any]) -> str:
    """One row a cell, in the order of the measurements."""
    rows = [_row(Case(**run["key"]), run["figures"]) for run in results["runs"]]
    settings = results["settings"]
    intro = (
        f"# What the penalty costs\n\nValue and gradients, {settings['threads']} thread(s), "
        f"{settings['device']}; N samples of 784 input and D feature dimensions, C classes, "
        "L layers. Medians of interleaved calls in one process.\n\n"
    )
    return intro + markdown_table(_HEADER, rows) + "\n"


def _row(case: Case, figures: dict[str, Any]) -> list[str]:
    memory, error = figures.get("peak megabytes"), figures.get("gradient error")
    return [
        str(case),
        f"{figures['milliseconds']['plain']:.1f}",
        f"{figures['milliseconds']['isoreg']:.2f}",
        f"{figures['ratio']['plain']:.1f}",
        f"{figures['ratio']['pytorch-metric-learning']:.1f}",
        f"{100 * figures['share of the arithmetic bound']:.0f} %",
        f"{memory['isoreg']:.0f} / {memory['plain']:.0f}" if memory else "",
        f"{error:.0e}" if error is not None else "",
    ]
