"""Tables of the robustness study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found, Run
from benchmarks.robust.plans import OURS, TITLES
from benchmarks.tables import SEEDS, Column, page, percent, runs_by, table, with_keys

_NORMS = ("Linf", "L2")


def by_training(results: Found, name: str) -> dict[str, list[Run]]:
    """The measured runs on a network by training, in the order in which they were run."""
    return runs_by(with_keys(results, phase="test", network=name), "training")


def costs(results: Found, name: str) -> dict[str, float]:
    """The cost in units of each training on a network, as far as it was measured."""
    runs = with_keys(results, phase="cost", network=name)
    return {run["key"]["training"]: run["figures"]["cost"] for run in runs}


def score(figures: Figures) -> float:
    """Mean of the clean accuracy and the accuracies under attack at each radius."""
    accuracies: list[float] = [figures["clean"], *figures["attacked"].values()]
    return sum(accuracies) / len(accuracies)


def tables(results: Found) -> str:
    """The page: for each network the test, the attacks one by one, and the choice of settings."""
    parts = ["# Robustness on MNIST without adversarial images", _introduction(results)]
    begun = {run["key"]["network"] for run in results["runs"]}
    for name in (name for name in results["settings"]["networks"] if name in begun):
        parts += [f"## {TITLES[name]}"]
        if by_training(results, name):
            parts += ["### What was measured", _measured(results, name)]
            parts += [*_timed_otherwise(results, name), *_durations(results, name)]
            parts += ["### Attack by attack", *_attacks(results, name)]
        else:
            parts += ["Not measured on test images yet: the run stopped during the choice."]
        parts += ["### The choice on validation images", *_choice(results, name)]
    return page(*parts)


def _introduction(results: Found) -> str:
    return (
        f"{results['settings']['test_images']:,} test images, sampled evenly over all. Worst case "
        "for each image over those attacks of the report card (`isoreg.robustness.evaluate`) that "
        "decide it: PGD-40 on cross-entropy, PGD-40 on the margin with 2 starts and APGD-T; on "
        f"seed 0 of {title_of(OURS)} the whole standard preset, and once more the last preset "
        "named below. "
        "Mean and standard deviation over seeds; a number in brackets: of so many seeds only. "
        "Cost: in trainings of five epochs of cross-entropy on batches of "
        "100; steps of the trainings of each group and of that one were timed in turn in one "
        "process. Trained on all 60,000 images, the choice of settings on the first 50,000."
    )


def _measured(results: Found, name: str) -> str:
    def worst(norm: str, eps: str) -> Column:
        title = f"{'L-inf' if norm == 'Linf' else norm} {eps}"
        return Column(title, text=lambda runs: _worst(runs, norm, eps))

    s, cost = results["settings"], costs(results, name)
    columns = [SEEDS, Column("clean", "clean"), *(worst("Linf", f"{e:g}") for e in s["linf"])]
    columns += [*(worst("L2", f"{e:g}") for e in s["l2"]), Column("warnings", text=_warned)]
    rows = []
    for title, runs in by_training(results, name).items():
        plan = runs[0]["key"]["plan"]
        names = (title, _settings(plan), plan["schedule"]["epochs"])
        price = f"{cost[title]:.1f}" if title in cost else ""
        rows.append(((*names, price), [run["figures"] for run in runs]))
    return table(("training", "settings", "epochs", "cost"), rows, columns)


def _worst(figures: Sequence[Figures], norm: str, eps: str) -> str:
    shares = [f[norm]["shares"]["worst case"][eps] for f in figures if norm in f]
    few = f" ({len(shares)})" if len(shares) < len(figures) else ""
    return percent(shares) + few if shares else ""


def _warned(figures: Sequence[Figures]) -> str:
    """How many warnings the report card gave over all seeds and norms."""
    return str(sum(len(_warnings(f)) for f in figures))


def _warnings(figures: Figures) -> list[str]:
    return [text for norm in _NORMS if norm in figures for text in figures[norm]["warnings"]]


def _settings(plan: dict[str, Any]) -> str:
    """Options, optimizer and learning rate, for a table."""
    options = [
        f"{option} {value:.3g}" if isinstance(value, int | float) else f"{value}"
        for method_options in plan["recipe"].values()
        for option, value in method_options.items()
    ]
    schedule = plan["schedule"]
    return ", ".join([*options, f"{schedule['optimizer'].title()} {schedule['learning_rate']:g}"])


def _timed_otherwise(results: Found, name: str) -> list[str]:
    """Which costs were timed with another learning rate, of which a step's time is independent."""
    runs = with_keys(results, phase="cost", network=name)
    found = [(run["key"]["training"], run["figures"].get("timed with")) for run in runs]
    timed = "; ".join(f"{training}, {other}" for training, other in found if other)
    return [f"Costs timed before the choice changed: {timed}."] if timed else []


def _durations(results: Found, name: str) -> list[str]:
    """How long whole trainings took, where that was measured."""
    for run in with_keys(results, phase="alone", network=name):
        seconds = (f"{title} {value:.1f} s" for title, value in run["figures"].items())
        return [f"Trained one after the other, nothing beside them: {'; '.join(seconds)}."]
    return []


def _attacks(results: Found, name: str) -> list[str]:
    """Tables of every attack on our recipe: over all seeds, on seed 0, and with the last preset."""
    measured = [run["figures"] for run in by_training(results, name)[title_of(OURS)]]
    parts = [_by_attack(measured, f"{len(measured)} seeds")]
    parts += [_by_attack(measured[:1], "seed 0 alone")]
    for run in with_keys(results, phase="last", network=name):
        figures = run["figures"]
        parts.append(_by_attack([figures], f"seed 0, {figures['Linf']['attacks']} preset"))
        parts.append(f"Warnings: {'; '.join(_warnings(figures)) or 'none'}.")
    return parts


def _by_attack(figures: Sequence[Figures], title: str) -> str:
    norms = [norm for norm in _NORMS if norm in figures[0]]
    radii = [(norm, eps) for norm in norms for eps in figures[0][norm]["shares"]["worst case"]]
    columns = [Column(f"{norm} {eps}", f"{norm}/{eps}") for norm, eps in radii]
    attacks = dict.fromkeys(a for norm in norms for a in figures[0][norm]["shares"])
    rows = {
        attack: [
            {norm: f[norm]["shares"].get(attack) for norm in norms if norm in f} for f in figures
        ]
        for attack in attacks
    }
    return table(f"{title_of(OURS)}, {title}", rows, columns)


def _choice(results: Found, name: str) -> list[str]:
    s, rows = results["settings"], []
    for run in with_keys(results, phase="choose", network=name):
        key = run["key"]
        names = (title_of(key["method"]), key["setting"], key["plan"]["schedule"]["epochs"])
        rows.append((names, [run["figures"]]))
    attacked = [Column(f"L-inf {eps:g}", f"attacked/{eps:g}") for eps in s["choice_radii"]]
    columns = [Column("clean", "clean"), *attacked, Column("mean", score)]
    return [
        f"PGD-{s['choice_steps']} on the margin, one start, {s['choice_images']:,} validation "
        "images, seed 0. The largest mean of clean and attacked accuracy among those with a clean "
        f"accuracy of {100 * s['clean_floor']:g} % or more is taken.",
        table(("method", "setting", "epochs"), rows, columns),
    ]
