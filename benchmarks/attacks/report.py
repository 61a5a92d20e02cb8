"""The table, from the results."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.tables import markdown_table


def report(results: Results, console: Console) -> None:
    """Print the table and save it beside the results."""
    publish(results, console, table)


def table(results: dict[str, Any]) -> str:
    """A row a model: each attack as torchattacks has it and as we call it, beside plain PGD."""
    names = list(dict.fromkeys(name for run in results["runs"] for name in run["figures"]["ours"]))
    rows = []
    for run in results["runs"]:
        figures = run["figures"]
        cells = [
            f"{_percent(figures['theirs'][name])} / {_percent(ours)}"
            if (ours := figures["ours"].get(name)) is not None
            else ""
            for name in names
        ]
        optimum = "" if figures["optimum"] is None else _percent(figures["optimum"])
        model = f"{run['key']['model']}, {run['key']['norm']} {figures['eps']:.2g}"
        rows.append([model, *cells, _percent(figures["plain PGD"]), optimum])
    return (
        "\n\n".join([
            "# Attacks against plain PGD and known optima",
            f"Share in % of {results['settings']['images']} images that survive, all of them "
            "classified rightly when clean. Before the slash the class of torchattacks as a user "
            "would call it (the same number of steps; DeepFool and CW with their defaults), an "
            "image being fooled if it is misclassified within the ball, or the error that it "
            "raises; after the slash what `isoreg.robustness.evaluate` calls (its PGD is its own). "
            "Plain PGD: 100 steps on cross-entropy and on the margin, from two starts each, worst "
            "case. Optimum: the exact worst case of a linear model.",
            markdown_table(["model", *names, "plain PGD", "optimum"], rows),
        ])
        + "\n"
    )


def _percent(value: float | str) -> str:
    return value if isinstance(value, str) else f"{100 * value:.0f}"
