"""Tables of the benchmark, from its results."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.structure import cifar
from benchmarks.structure.choices import CHOICES
from benchmarks.structure.curves import draw_neighbours, draw_photographs
from benchmarks.structure.experiment import SLACK, chosen_strengths, tries
from benchmarks.structure.figure import draw_digits, draw_search
from benchmarks.structure.methods import FITTED, METHODS
from benchmarks.tables import markdown_table, percent, spread


def report_digits(results: Results, console: Console) -> None:
    """Print and save the tables of all tasks."""

    def draw(found: dict[str, Any], path: Path) -> None:
        draw_digits(_in_order(found), path)

    publish(results, console, lambda found: digits_tables(_in_order(found)), draw)


def _in_order(results: dict[str, Any]) -> dict[str, Any]:
    """With the runs in the order of the methods, whatever was run first; wider networks last."""
    order = {name: place for place, name in enumerate(METHODS)}

    def place(run: dict[str, Any]) -> tuple[int, int, int]:
        key = run["key"]
        return key.get("width", 0), key.get("epochs", 0), order.get(key["method"], 0)

    return {**results, "runs": sorted(results["runs"], key=place)}


def report_torus(results: Results, console: Console) -> None:
    """Print and save the tables of the torus."""
    text = (
        "# Coarse to fine on the torus\n\n"
        "Networks learn 2 or 4 sectors of the torus; then its 8 sectors are read from their "
        "frozen last hidden layer. New points, in %, mean ± standard deviation over seeds; "
        "strengths are those of the digits.\n"
    )
    publish(results, console, lambda found: text + _every_task(found))


def report_recipe(results: Results, console: Console) -> None:
    """Print and save the tables of the small digits."""
    text = (
        "# The recipe on scikit-learn's digits\n\n"
        "Networks learn even or odd from 1,077 images of 8 by 8 pixels; then the ten digits are "
        "read from their frozen last hidden layer. 360 test images, in %, mean ± standard "
        "deviation over seeds (over draws where there is one seed). References have root mean "
        "squared distance 10 and every strength is 0.1: the recipe, untuned.\n"
    )
    publish(results, console, lambda found: text + _every_task(found))


def report_cifar(results: Results, console: Console) -> None:
    """Print and save the tables and the figure of CIFAR-10 (JPEG)."""
    settings = results.settings
    text = (
        "# Coarse to fine on CIFAR-10 (JPEG)\n\n"
        f"A small resnet10t learns animal or vehicle from {settings['train_images']:,} images in "
        f"{settings['epochs']} epochs; then the ten classes are read from what enters its "
        f"classifier. {settings['test_images']:,} test images, in %, mean ± standard deviation "
        "over seeds (over draws where there is one seed). References have root mean squared "
        "distance 10.\n"
    )
    publish(results, console, lambda found: text + _cifar_tables(found), draw_photographs)


def _cifar_tables(results: dict[str, Any]) -> str:
    order = [*cifar.UNTRAINED, *cifar.CIFAR_METHODS, *cifar.ALSO_TRIED]
    runs = sorted(results["runs"], key=lambda run: order.index(run["key"]["method"]))
    measured = {**results, "runs": [run for run in runs if "task" in run["key"]]}
    table = _tries_table(tries(runs), cifar.SLACK)
    return (
        f"{_every_task(measured)}\n## Strengths, chosen on validation images\n\n"
        "One seed, half of the epochs, in %. Chosen: the best probe of ten examples a class among "
        f"those whose coarse accuracy is at most {100 * cifar.SLACK:g} point below that of "
        "cross-entropy. No test image was shown to the last ones, from "
        f"*{next(iter(cifar.ALSO_TRIED))}* on.\n\n"
        f"{table}\n"
    )


def _every_task(results: dict[str, Any]) -> str:
    tasks = dict.fromkeys(run["key"]["task"] for run in results["runs"])
    return "".join(f"\n## {task.capitalize()}\n\n{_task_table(results, task)}\n" for task in tasks)


def report_neighbours(results: Results, console: Console) -> None:
    """Print and save one table a question, and the figure."""
    publish(results, console, neighbours_tables, draw_neighbours)


def report_search(results: Results, console: Console) -> None:
    """Print and save what was tried on validation images, and what was chosen."""
    publish(results, console, search_table, draw_search)


def report_choices(results: Results, console: Console) -> None:
    """Print and save the table of choices."""
    publish(results, console, choices_table)


def digits_tables(results: dict[str, Any]) -> str:
    """One Markdown table a task, and one of what needs no labels."""
    settings = results["settings"]
    found = dict.fromkeys(run["key"]["task"] for run in results["runs"])
    tasks = sorted(found, key=lambda task: task == "none")
    parts = [
        "# Coarse to fine on MNIST",
        f"Networks (tanh, {settings['depth']} x {settings['width']}, {settings['epochs']} epochs, "
        f"{settings['train_images']:,} images) learn the coarse labels alone; then the ten digits "
        f"are read from the frozen last hidden layer. {settings['test_images']:,} test images, in "
        "%, mean ± standard deviation over seeds (over draws where there is one seed). "
        f"Neighbours and the full probe know {settings['known']:,} labelled digits; NMI: of the "
        "digits and ten clusters of k-means, x 100.",
    ]
    for task in tasks:
        title = "Without labels" if task == "none" else f"Trained on {task}"
        parts += [f"## {title}", _task_table(results, task)]
    return "\n\n".join(parts) + "\n"


def _task_table(results: dict[str, Any], task: str) -> str:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        key = run["key"]
        if key["task"] == task:
            width = f", {key['width']} units a layer" if "width" in key else ""
            width += f", {key['epochs']} epochs, moved" if "epochs" in key else ""
            width += ", fitted" if "epochs" in key and key["method"] in FITTED else ""
            by_method.setdefault(key["method"] + width, []).append(run["figures"])
    shots = [f"{examples} a class" for examples, _ in results["settings"]["examples"]]
    header = ["training", "seeds", "coarse", *shots, "5 neighbours", "full probe", "NMI"]
    rows = []
    for name, found in by_method.items():
        coarse = percent([f["coarse"] for f in found]) if "coarse" in found[0] else "-"
        row = [name, str(len(found)), coarse]
        row += [percent(over_seeds(found, shot)) for shot in shots]
        row += [percent([f[figure] for f in found]) for figure in ("kNN", "probe", "NMI")]
        rows.append(row)
    return markdown_table(header, rows)


def over_seeds(found: list[dict[str, Any]], shot: str) -> list[float]:
    """Mean accuracy over the draws of each seed; the draws themselves if there is one seed."""
    draws: list[list[float]] = [f["few-shot"][shot]["accuracy"] for f in found]
    return draws[0] if len(draws) == 1 else [mean(each) for each in draws]


def search_table(results: dict[str, Any]) -> str:
    """All strengths on the digits, and the chosen ones."""
    return (
        "# Strengths, chosen on validation images\n\n"
        "Even or odd, one seed, in %. Chosen: the best probe of ten examples a digit among those "
        f"whose coarse accuracy is at most {100 * SLACK:g} points below that of cross-entropy.\n\n"
        f"{_tries_table(results['runs'], SLACK)}\n"
    )


def _tries_table(runs: list[dict[str, Any]], slack: float) -> str:
    chosen = chosen_strengths(runs, slack=slack)
    rows = []
    order = list(chosen)
    for run in sorted(runs, key=lambda r: (order.index(r["key"]["method"]), r["key"]["strength"])):
        key, figures = run["key"], run["figures"]
        row = [key["method"], f"{key['strength']:g}"]
        row += [spread([100 * figures[f]], 1) for f in ("coarse", "1 a class", "10 a class", "kNN")]
        taken = chosen[key["method"]] == key["strength"] and key["method"] not in cifar.ALSO_TRIED
        rows.append([*row, "chosen" if taken else ""])
    header = ["training", "strength", "coarse", "1 a class", "10 a class", "5 neighbours", ""]
    return markdown_table(header, rows)


def choices_table(results: dict[str, Any]) -> str:
    """A Markdown table: one line a choice."""
    figures = ("coarse", "1 a class", "10 a class", "kNN")
    order = list(CHOICES)
    rows = [
        [run["key"]["choice"], *[spread([100 * run["figures"][f]], 1) for f in figures]]
        for run in sorted(results["runs"], key=lambda run: order.index(run["key"]["choice"]))
    ]
    header = ["choice", "coarse", "1 a class", "10 a class", "5 neighbours"]
    return (
        "# Which choice makes it work\n\n"
        "Even or odd, 8,000 validation images, one seed, in %. Where a line says nothing else: "
        "the last hidden layer, pairs of equal label, against the manifold of patches, "
        f"beta chosen by `--part search`.\n\n{markdown_table(header, rows)}\n"
    )


def _percent_of(found: list[dict[str, float]], figure: str) -> str:
    values = [figures[figure] for figures in found if figure in figures]
    return percent(values) if values else "-"


def neighbours_tables(results: dict[str, Any]) -> str:
    """A Markdown table for each network that was trained, one column a method."""
    parts = [
        "# What else geometry might be good for",
        "Test digits, in % (AUROC and calibration error x 100), mean ± standard deviation over "
        "seeds; strengths are those that were chosen for even or odd.",
    ]
    questions = dict.fromkeys(run["key"]["question"] for run in results["runs"])
    for question in questions:
        by_method: dict[str, list[dict[str, float]]] = {}
        for run in results["runs"]:
            if run["key"]["question"] == question:
                by_method.setdefault(run["key"]["method"], []).append(run["figures"])
        rows = [
            [figure, *[_percent_of(found, figure) for found in by_method.values()]]
            for figure in next(iter(by_method.values()))[0]
        ]
        parts += [f"## {question.capitalize()}", markdown_table(["", *by_method], rows)]
    return "\n\n".join(parts) + "\n"
