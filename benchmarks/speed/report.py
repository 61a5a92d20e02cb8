"""The table of the speed benchmark."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.results import Results, write_atomically
from benchmarks.speed.figure import draw
from benchmarks.speed.penalties import Case
from benchmarks.speed.steps import Step
from benchmarks.tables import markdown_table

_HEADER = (
    "batch",
    "plain, ms",
    "isoreg, ms",
    "ratio to plain",
    "without numba",
    "ratio to pytorch-metric-learning",
    "of the arithmetic bound",
    "peak memory, isoreg / plain, MB",
    "gradient error",
)

_STEP_HEADER = (
    "training step",
    "without a penalty, ms",
    "plain penalty, ms",
    "isoreg, ms",
    "plain's share",
    "isoreg's without numba",
    "isoreg's",
    "the whole step longer by",
)
_ABOUT_STEPS = (
    "Share of a training step (forward, backward, Adam): value and gradients of the penalty in the "
    "layers' outputs, against a step without a penalty. The last column is the difference of whole "
    "steps, hooks included; where a step takes long it is mostly noise."
)


def report(results: Results, console: Console) -> None:
    """Print the table and save it and the figure beside the results."""
    text = table(results.to_dict())
    path = results.path.with_suffix(".md")
    write_atomically(path, text)
    figure = results.path.with_suffix(".png")
    draw(results.to_dict(), figure)
    console.print(Markdown(text))
    console.print(f"saved {results.path}, {path.name} and {figure.name}")


def table(results: dict[str, Any]) -> str:
    """One row a cell, in the order of the measurements; training steps in a table of their own."""
    runs = results["runs"]
    rows = [_row(Case(**run["key"]), run["figures"]) for run in runs if "n" in run["key"]]
    of_steps = [
        _step_row(Step(**run["key"]), run["figures"]) for run in runs if "network" in run["key"]
    ]
    settings = results["settings"]
    intro = (
        f"# What the penalty costs\n\nValue and gradients, {settings['threads']} thread(s), "
        f"{settings['device']}; N samples of 784 input and D feature dimensions, C classes, "
        "L layers. Medians of interleaved calls in one process. Ratios say how many times faster "
        "than the other isoreg is, and how many times faster than plain it is without numba.\n\n"
    )
    text = intro + markdown_table(_HEADER, rows) + "\n"
    if of_steps:
        text += f"\n{_ABOUT_STEPS}\n\n{markdown_table(_STEP_HEADER, of_steps)}\n"
    return text


def _step_row(step: Step, figures: dict[str, Any]) -> list[str]:
    times, shares = figures["milliseconds"], figures["share"]
    return [
        str(step),
        f"{times['step']:.1f}",
        *(f"{times['penalty'][name]:.2f}" for name in ("plain", "isoreg")),
        *(f"{100 * shares[name]:.1f} %" for name in ("plain", "isoreg without numba", "isoreg")),
        f"{100 * figures['share by difference']['isoreg']:.1f} %",
    ]


def _row(case: Case, figures: dict[str, Any]) -> list[str]:
    memory, error = figures.get("peak megabytes"), figures.get("gradient error")
    return [
        str(case),
        f"{figures['milliseconds']['plain']:.1f}",
        f"{figures['milliseconds']['isoreg']:.2f}",
        f"{figures['ratio']['plain']:.1f}",
        f"{figures['milliseconds']['plain'] / figures['milliseconds']['isoreg without numba']:.1f}",
        f"{figures['ratio']['pytorch-metric-learning']:.1f}",
        f"{100 * figures['share of the arithmetic bound']:.0f} %",
        f"{memory['isoreg']:.0f} / {memory['plain']:.0f}" if memory else "",
        f"{error:.0e}" if error is not None else "",
    ]
