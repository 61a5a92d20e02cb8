"""Tables and the figure, from the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results, Run
from benchmarks.robust.budgets import OURS
from benchmarks.robust.choice import score
from benchmarks.robust.figure import draw
from benchmarks.robust.measured import by_training, costs
from benchmarks.robust.plans import title_of
from benchmarks.robust.training import TITLES
from benchmarks.tables import markdown_table, percent, spread


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, draw)


def tables(results: dict[str, Any]) -> str:
    """Of each network: what came out, the attacks one by one, and the choice of settings."""
    settings = results["settings"]
    parts = ["# Robustness on MNIST without adversarial images\n", _introduction(results)]
    begun = {run["key"]["network"] for run in results["runs"]}
    for name in (name for name in settings["networks"] if name in begun):
        parts += [f"## {TITLES[name]}\n"]
        measured = by_training(results, name)
        if not measured:
            parts += ["Not measured on test images yet: the run stopped during the choice.\n"]
        else:
            parts += ["### What was measured\n", _measured(results, name, measured)]
            parts += _alone(results, name)
            parts += ["### Attack by attack\n", _attacks(results, name)]
        parts += ["### The choice on validation images\n", _choice(results, name)]
    return "\n".join(parts)


def _introduction(results: dict[str, Any]) -> str:
    settings = results["settings"]
    return (
        f"{settings['test_images']:,} test images, sampled evenly over all. Worst case for each "
        "image over those attacks of the report card (`isoreg.robustness.evaluate`) that decide "
        "it: PGD-40 on cross-entropy, PGD-40 on the margin with 2 starts and APGD-T; on seed 0 of "
        f"{title_of(OURS)} the whole standard preset, and once more the last preset named below. "
        "Mean and standard deviation over seeds; a number in brackets: of so many seeds only. "
        "Cost: in trainings of five epochs of cross-entropy on batches of "
        "100; steps of the trainings of each group and of that one were timed in turn in one "
        "process. Trained on all 60,000 images, the choice of settings on the first 50,000.\n"
    )


def _measured(results: dict[str, Any], name: str, measured: dict[str, list[Run]]) -> str:
    radii = [("Linf", eps) for eps in results["settings"]["linf"]]
    radii += [("L2", eps) for eps in results["settings"]["l2"]]
    cost = costs(results, name)
    rows = []
    for title, runs in measured.items():
        figures = [run["figures"] for run in runs]
        row = [title, _settings(figures[0]), str(figures[0]["schedule"]["epochs"])]
        row += [f"{cost[title]:.1f}" if title in cost else ""]
        row += [str(len(runs)), percent([found["clean"] for found in figures])]
        row += [_worst(figures, norm, f"{eps:g}") for norm, eps in radii]
        rows.append([*row, _warned(figures)])
    header = ["training", "settings", "epochs", "cost", "seeds", "clean"]
    header += [f"{'L-inf' if norm == 'Linf' else norm} {eps:g}" for norm, eps in radii]
    return markdown_table([*header, "warnings"], rows) + "\n"


def _alone(results: dict[str, Any], name: str) -> list[str]:
    """How long whole trainings took, where that was measured."""
    for run in results["runs"]:
        if run["key"] == {"phase": "alone", "network": name}:
            seconds = (f"{title} {value:.1f} s" for title, value in run["figures"].items())
            return [f"Trained one after the other, nothing beside them: {'; '.join(seconds)}.\n"]
    return []


def _worst(figures: Sequence[dict[str, Any]], norm: str, eps: str) -> str:
    shares = [found[norm]["shares"]["worst case"][eps] for found in figures if norm in found]
    few = f" ({len(shares)})" if len(shares) < len(figures) else ""
    return percent(shares) + few if shares else ""


def _warned(figures: Sequence[dict[str, Any]]) -> str:
    """How many warnings the report card gave over all seeds and norms."""
    return str(sum(len(found[norm]["warnings"]) for found in figures for norm in _norms(found)))


def _norms(figures: dict[str, Any]) -> list[str]:
    return [norm for norm in ("Linf", "L2") if norm in figures]


def _settings(figures: dict[str, Any]) -> str:
    """Options, optimizer and learning rate, for a table."""
    options = [
        f"{option} {value:.3g}" if isinstance(value, int | float) else f"{value}"
        for found in figures["recipe"].values()
        for option, value in found.items()
    ]
    schedule = figures["schedule"]
    return ", ".join([*options, f"{schedule['optimizer'].title()} {schedule['learning_rate']:g}"])


def _attacks(results: dict[str, Any], name: str) -> str:
    """Every attack on the recipe: over the seeds, and the last preset on seed 0."""
    measured = by_training(results, name)[title_of(OURS)]
    parts = [_by_attack([run["figures"] for run in measured], f"{len(measured)} seeds")]
    parts += [_by_attack([measured[0]["figures"]], "seed 0 alone")]
    for run in results["runs"]:
        if run["key"]["phase"] == "last" and run["key"]["network"] == name:
            figures = run["figures"]
            parts.append(_by_attack([figures], f"seed 0, {figures['Linf']['attacks']} preset"))
            warnings = [text for norm in _norms(figures) for text in figures[norm]["warnings"]]
            parts.append("Warnings: " + ("; ".join(warnings) if warnings else "none") + ".\n")
    return "\n".join(parts)


def _by_attack(figures: Sequence[dict[str, Any]], title: str) -> str:
    columns = [
        (norm, eps)
        for norm in _norms(figures[0])
        for eps in figures[0][norm]["shares"]["worst case"]
    ]
    attacks = dict.fromkeys(a for norm in _norms(figures[0]) for a in figures[0][norm]["shares"])
    rows = []
    for attack in attacks:
        cells = []
        for norm, eps in columns:
            shares = [f[norm]["shares"][attack][eps] for f in figures if _made(f, norm, attack)]
            cells.append(percent(shares) if shares else "")
        rows.append([attack, *cells])
    header = [f"{title_of(OURS)}, {title}", *(f"{norm} {eps}" for norm, eps in columns)]
    return markdown_table(header, rows) + "\n"


def _made(figures: dict[str, Any], norm: str, attack: str) -> bool:
    return norm in figures and attack in figures[norm]["shares"]


def _choice(results: dict[str, Any], name: str) -> str:
    rows = []
    for run in results["runs"]:
        key, figures = run["key"], run["figures"]
        if key["phase"] == "choose" and key["network"] == name:
            row = [title_of(key["method"]), key["setting"], str(figures["schedule"]["epochs"])]
            row += [percent([figures["clean"]])]
            row += [percent([share]) for share in figures["attacked"].values()]
            rows.append([*row, spread([100 * score(figures)], 1)])
    radii = results["settings"]["choice_radii"]
    header = ["method", "setting", "epochs", "clean", *(f"L-inf {eps:g}" for eps in radii), "mean"]
    floor = results["settings"]["clean_floor"]
    return (
        f"PGD-{results['settings']['choice_steps']} on the margin, one start, "
        f"{results['settings']['choice_images']:,} validation images, seed 0. The largest mean "
        f"of clean and attacked accuracy among those with a clean accuracy of {100 * floor:g} % or "
        "more is taken.\n\n"
        f"{markdown_table(header, rows)}\n"
    )
