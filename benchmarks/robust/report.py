"""Tables of the study, from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found, Run
from benchmarks.robust.plans import OURS, TITLES
from benchmarks.tables import (
    SEEDS,
    Column,
    grouped,
    markdown_table,
    percent,
    spread,
    table,
    with_keys,
)

_NORMS = ("Linf", "L2")


def by_training(found: Found, name: str) -> dict[str, list[Run]]:
    """The measured runs on a network by training, in the order in which they were run."""
    runs: dict[str, list[Run]] = {}
    for run in with_keys(found, phase="test", network=name):
        runs.setdefault(run["key"]["training"], []).append(run)
    return runs


def costs(found: Found, name: str) -> dict[str, float]:
    """The cost of each training on a network, in units; those that were measured so far."""
    runs = with_keys(found, phase="cost", network=name)
    return {run["key"]["training"]: run["figures"]["cost"] for run in runs}


def score(figures: Figures) -> float:
    """Mean of the clean accuracy and those at each radius."""
    accuracies: list[float] = [figures["clean"], *figures["attacked"].values()]
    return sum(accuracies) / len(accuracies)


def tables(found: Found) -> str:
    """Of each network: what came out, the attacks one by one, and the choice of settings."""
    parts = ["# Robustness on MNIST without adversarial images\n", _introduction(found)]
    begun = {run["key"]["network"] for run in found["runs"]}
    for name in (name for name in found["settings"]["networks"] if name in begun):
        parts += [f"## {TITLES[name]}\n"]
        measured = by_training(found, name)
        if not measured:
            parts += ["Not measured on test images yet: the run stopped during the choice.\n"]
        else:
            parts += ["### What was measured\n", _measured(found, name, measured)]
            parts += _alone(found, name)
            parts += ["### Attack by attack\n", _attacks(found, name)]
        parts += ["### The choice on validation images\n", _choice(found, name)]
    return "\n".join(parts)


def _introduction(found: Found) -> str:
    return (
        f"{found['settings']['test_images']:,} test images, sampled evenly over all. Worst case "
        "for each image over those attacks of the report card (`isoreg.robustness.evaluate`) that "
        "decide it: PGD-40 on cross-entropy, PGD-40 on the margin with 2 starts and APGD-T; on "
        f"seed 0 of {title_of(OURS)} the whole standard preset, and once more the last preset "
        "named below. "
        "Mean and standard deviation over seeds; a number in brackets: of so many seeds only. "
        "Cost: in trainings of five epochs of cross-entropy on batches of "
        "100; steps of the trainings of each group and of that one were timed in turn in one "
        "process. Trained on all 60,000 images, the choice of settings on the first 50,000.\n"
    )


def _measured(found: Found, name: str, measured: dict[str, list[Run]]) -> str:
    radii = [("Linf", eps) for eps in found["settings"]["linf"]]
    radii += [("L2", eps) for eps in found["settings"]["l2"]]
    cost = costs(found, name)
    columns = [
        SEEDS,
        Column("clean", "clean"),
        *(
            Column(
                f"{'L-inf' if norm == 'Linf' else norm} {eps:g}",
                text=lambda runs, n=norm, e=f"{eps:g}": _worst(runs, n, e),  # type: ignore[misc]
            )
            for norm, eps in radii
        ),
        Column("warnings", text=_warned),
    ]
    rows = []
    for title, runs in measured.items():
        plan = runs[0]["key"]["plan"]
        names = (title, _settings(plan), plan["schedule"]["epochs"])
        price = f"{cost[title]:.1f}" if title in cost else ""
        rows.append(((*names, price), [run["figures"] for run in runs]))
    return table(("training", "settings", "epochs", "cost"), rows, columns) + "\n"


def _alone(found: Found, name: str) -> list[str]:
    """How long whole trainings took, where that was measured."""
    for run in with_keys(found, phase="alone", network=name):
        seconds = (f"{title} {value:.1f} s" for title, value in run["figures"].items())
        return [f"Trained one after the other, nothing beside them: {'; '.join(seconds)}.\n"]
    return []


def _worst(figures: Sequence[Figures], norm: str, eps: str) -> str:
    shares = [found[norm]["shares"]["worst case"][eps] for found in figures if norm in found]
    few = f" ({len(shares)})" if len(shares) < len(figures) else ""
    return percent(shares) + few if shares else ""


def _warned(figures: Sequence[Figures]) -> str:
    """How many warnings the report card gave over all seeds and norms."""
    return str(sum(len(found[norm]["warnings"]) for found in figures for norm in _norms(found)))


def _norms(figures: Figures) -> list[str]:
    return [norm for norm in _NORMS if norm in figures]


def _settings(plan: dict[str, Any]) -> str:
    """Options, optimizer and learning rate, for a table."""
    options = [
        f"{option} {value:.3g}" if isinstance(value, int | float) else f"{value}"
        for of_method in plan["recipe"].values()
        for option, value in of_method.items()
    ]
    schedule = plan["schedule"]
    return ", ".join([*options, f"{schedule['optimizer'].title()} {schedule['learning_rate']:g}"])


def _attacks(found: Found, name: str) -> str:
    """Every attack on the recipe: over the seeds, and the last preset on seed 0."""
    measured = [run["figures"] for run in by_training(found, name)[title_of(OURS)]]
    parts = [_by_attack(measured, f"{len(measured)} seeds")]
    parts += [_by_attack(measured[:1], "seed 0 alone")]
    for figures in grouped(with_keys(found, phase="last", network=name), "phase").get("last", []):
        parts.append(_by_attack([figures], f"seed 0, {figures['Linf']['attacks']} preset"))
        warnings = [text for norm in _norms(figures) for text in figures[norm]["warnings"]]
        parts.append("Warnings: " + ("; ".join(warnings) if warnings else "none") + ".\n")
    return "\n".join(parts)


def _by_attack(figures: Sequence[Figures], title: str) -> str:
    norms = _norms(figures[0])
    columns = [
        Column(f"{norm} {eps}", lambda row, n=norm, e=eps: row.get(n, {}).get(e))  # type: ignore[misc]
        for norm in norms
        for eps in figures[0][norm]["shares"]["worst case"]
    ]
    attacks = dict.fromkeys(a for norm in norms for a in figures[0][norm]["shares"])
    rows = {
        attack: [{norm: f[norm]["shares"].get(attack, {}) for norm in _norms(f)} for f in figures]
        for attack in attacks
    }
    return table(f"{title_of(OURS)}, {title}", rows, columns) + "\n"


def _choice(found: Found, name: str) -> str:
    settings = found["settings"]
    rows = []
    for run in with_keys(found, phase="choose", network=name):
        key, figures = run["key"], run["figures"]
        row = [title_of(key["method"]), key["setting"], str(key["plan"]["schedule"]["epochs"])]
        row += [percent([figures["clean"]])]
        row += [percent([share]) for share in figures["attacked"].values()]
        rows.append([*row, spread([100 * score(figures)], 1)])
    radii = settings["choice_radii"]
    header = ["method", "setting", "epochs", "clean", *(f"L-inf {eps:g}" for eps in radii), "mean"]
    return (
        f"PGD-{settings['choice_steps']} on the margin, one start, "
        f"{settings['choice_images']:,} validation images, seed 0. The largest mean "
        f"of clean and attacked accuracy among those with a clean accuracy of "
        f"{100 * settings['clean_floor']:g} % or more is taken.\n\n"
        f"{markdown_table(header, rows)}\n"
    )
