"""Tables of the study of rivals."""

from __future__ import annotations

import re

from benchmarks.methods import Recipe
from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found, Run
from benchmarks.tables import Column, count, grouped, page, runs_by, table, with_keys

_FOOLED = re.compile(r"fooled (\d+) of")
_NAMES = ("training", "setting")
_COSTS = (
    Column("time", "cost/ratio", form=".1f"),
    Column("memory, MB", "cost/megabytes", form=".1f", empty="-"),
)


def tables(results: Found) -> str:
    """The page: the test, its warnings, and what was tried on validation images."""
    settings, tested = results["settings"], with_keys(results, phase="test")
    seeds = max(map(len, grouped(tested, "method").values()))
    floor = 100 * settings["clean_floor"]
    at = " and ".join(f"{eps:g}" for eps in settings["chosen_at"])
    return page(
        "# Rivals",
        f"MLP 4 x {settings['width']} tanh, {settings['epochs']} epochs of Adam at "
        f"{settings['learning_rate']:g} on {settings['train_images']:,} images of MNIST, "
        f"{count(seeds, 'seed')}; "
        f"{settings['test_images']:,} test images, an even sample of all 10,000. "
        "In %, mean ± standard deviation over seeds: the share of images that survive every one "
        f"of {', '.join(settings['attacks'])} (L-inf) or {', '.join(settings['attacks_l2'])} "
        "(L2). Time is that of a training step as a ratio to cross-entropy's; memory that by which "
        "the process grows while it trains.",
        _test_table(results),
        "## Warnings of the report cards",
        _warnings(results),
        "## What was tried",
        f"{settings['validation_images']:,} validation images, one seed. For each method the "
        f"setting was taken with the best mean of the worst cases at {at} (L-inf, "
        f"{' and '.join(settings['choosing_attacks'])}) among those with at least {floor:g} % "
        "clean accuracy on all 10,000 validation images.",
        _choice_table(results),
    )


def costs_of(results: Found) -> dict[str, Figures]:
    """What a step of each method costs."""
    return {run["key"]["method"]: run["figures"] for run in with_keys(results, phase="cost")}


def _test_table(results: Found) -> str:
    columns = [Column("clean", "clean")]
    for norm, title, radii in (("Linf", "L-inf", "eps"), ("L2", "L2", "eps_l2")):
        columns += [
            Column(f"{title} {eps:g}", f"{norm}/worst case/{index}")
            for index, eps in enumerate(results["settings"][radii])
        ]
    costs = costs_of(results)
    rows = {}
    for names, runs in runs_by(with_keys(results, phase="test"), _names).items():
        cost = dict(costs[runs[0]["key"]["method"]])
        cost["megabytes"] = cost["memory"] / 1e6 if cost["memory"] else None
        rows[names] = [{**run["figures"], "cost": cost} for run in runs]
    return table(_NAMES, rows, [*columns, *_COSTS])


def _names(run: Run) -> tuple[str, str]:
    return title_of(run["key"]["method"]), setting(run["key"]["recipe"])


def setting(recipe: Recipe) -> str:
    """The options of a recipe as text for readers."""
    return ", ".join(
        f"{name} {value:g}" for options in recipe.values() for name, value in options.items()
    )


def _warnings(results: Found) -> str:
    lines = []
    for method, runs in grouped(with_keys(results, phase="test"), "method").items():
        for norm in ("Linf", "L2"):
            alike: dict[str, list[int]] = {}
            for run in runs:
                for warning in run[norm]["warnings"]:
                    counts = [int(count) for count in _FOOLED.findall(warning)]
                    alike.setdefault(_FOOLED.sub("fooled # of", warning), []).append(sum(counts))
            lines += [
                f"- {title_of(method)}, {norm}, {len(counts)} of {len(runs)} seeds: "
                + warning.replace("#", " to ".join(map(str, sorted({min(counts), max(counts)}))))
                for warning, counts in alike.items()
            ]
    return "\n".join(lines) or "None."


def _choice_table(results: Found) -> str:
    picked = [run["key"]["recipe"] for run in with_keys(results, phase="test")]
    rows = {
        _names(run): [{**run["figures"], "chosen": "yes" if run["key"]["recipe"] in picked else ""}]
        for run in with_keys(results, phase="choose")
    }
    radii = [
        Column(f"L-inf {eps:g}", f"worst case/{index}")
        for index, eps in enumerate(results["settings"]["chosen_at"])
    ]
    return table(_NAMES, rows, [Column("clean", "clean"), *radii, Column("chosen", "chosen")])
