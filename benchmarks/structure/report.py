"""Tables that several of these studies share."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from statistics import mean

from benchmarks.results import Figures, Found, Run
from benchmarks.structure.trials import FITTED, TRIALS
from benchmarks.tables import SEEDS, Column, grouped, percent, table, with_keys

SHORT = (
    Column("coarse", "coarse"),
    Column("1 a class", "1 a class"),
    Column("10 a class", "10 a class"),
    Column("5 neighbours", "kNN"),
)
"""Columns for the figures of `measure_shortly`."""


def in_order(results: Found) -> Found:
    """The same results with the runs in the order of `TRIALS`; wider networks come last."""
    order = {name: place for place, name in enumerate(TRIALS)}

    def place(run: Run) -> tuple[int, int, int]:
        key = run["key"]
        return key.get("width", 0), key.get("epochs", 0), order.get(key["method"], 0)

    return {**results, "runs": sorted(results["runs"], key=place)}


def every_task(results: Found) -> str:
    """A heading and a table for each task."""
    tasks = dict.fromkeys(run["key"]["task"] for run in results["runs"])
    return "\n\n".join(f"## {task.capitalize()}\n\n{task_table(results, task)}" for task in tasks)


def task_table(results: Found, task: str) -> str:
    """A table with a row for each method."""
    shots = [f"{examples} a class" for examples, _ in results["settings"]["examples"]]
    columns = [
        SEEDS,
        Column("coarse", "coarse", empty="-"),
        *(Column(shot, text=lambda f, shot=shot: percent(over_seeds(f, shot))) for shot in shots),  # type: ignore[misc]
        Column("5 neighbours", "kNN"),
        Column("full probe", "probe"),
        Column("NMI", "NMI"),
    ]
    return table("training", grouped(with_keys(results, task=task), _name), columns)


def _name(run: Run) -> str:
    key, name = run["key"], str(run["key"]["method"])
    name += f", chosen by {key['by']}" if "by" in key else ""
    name += f", {key['width']} units a layer" if "width" in key else ""
    name += f", {key['epochs']} epochs, moved" if "epochs" in key else ""
    return name + (", fitted" if "epochs" in key and key["method"] in FITTED else "")


def over_seeds(figures: Sequence[Figures], shot: str) -> list[float]:
    """Mean accuracy over the draws of each seed; the draws themselves if there is one seed."""
    draws: list[list[float]] = [f["few-shot"][shot]["accuracy"] for f in figures]
    return draws[0] if len(draws) == 1 else [mean(accuracies) for accuracies in draws]


def tries_table(
    runs: list[Run],
    chosen: dict[str, float],
    columns: Sequence[Column] = SHORT,
    *,
    unchosen: Container[str] = (),
    reference: Callable[[str], str] | None = None,
) -> str:
    """A table of every strength of every method; chosen ones are marked, except in ``unchosen``.

    With ``reference`` a column says what the distances of each method are compared with.
    """
    order, rows = list(chosen), []
    for run in sorted(runs, key=lambda r: (order.index(r["key"]["method"]), r["key"]["strength"])):
        name, strength = run["key"]["method"], run["key"]["strength"]
        is_chosen = chosen[name] == strength and name not in unchosen
        names = (name, *([reference(name)] if reference else []), f"{strength:g}")
        rows.append((names, [{**run["figures"], "chosen": "chosen" if is_chosen else ""}]))
    heads = ("training", *(["distances"] if reference else []), "strength")
    return table(heads, rows, [*columns, Column("", "chosen")])
