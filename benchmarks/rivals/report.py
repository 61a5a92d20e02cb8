"""Tables of the rivals."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.methods import Recipe
from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found
from benchmarks.tables import Column, count, grouped, markdown_table, page, table, with_keys

_FOOLED = re.compile(r"fooled (\d+) of")


def tables(found: Found) -> str:
    """The test, its warnings, and what was tried on validation images."""
    settings, tested = found["settings"], with_keys(found, phase="test")
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
        _test_table(found),
        "## Warnings of the report cards",
        _warnings(found),
        "## What was tried",
        f"{settings['validation_images']:,} validation images, one seed. For each method the "
        f"setting was taken with the best mean of the worst cases at {at} (L-inf, "
        f"{' and '.join(settings['choosing_attacks'])}) among those with at least {floor:g} % "
        "clean accuracy on all 10,000 validation images.",
        _choice_table(found),
    )


def costs_of(found: Found) -> dict[str, Figures]:
    """What a step of each method costs."""
    return {run["key"]["method"]: run["figures"] for run in with_keys(found, phase="cost")}


def _test_table(found: Found) -> str:
    settings, costs = found["settings"], costs_of(found)
    columns = [Column("clean", "clean")]
    for norm, title, radii in (("Linf", "L-inf", "eps"), ("L2", "L2", "eps_l2")):
        columns += [
            Column(f"{title} {eps:g}", lambda f, n=norm, i=index: f[n]["worst case"][i])  # type: ignore[misc]
            for index, eps in enumerate(settings[radii])
        ]
    of_cost = [
        Column("time", text=lambda f: f"{f[0]['ratio']:.1f}"),
        Column(
            "memory, MB", text=lambda f: f"{f[0]['memory'] / 1e6:.1f}" if f[0]["memory"] else "-"
        ),
    ]
    rows = []
    by_recipe = grouped(
        with_keys(found, phase="test"),
        lambda run: (run["key"]["method"], setting(run["key"]["recipe"])),
    )
    for (method, chosen), figures in by_recipe.items():
        cells = [column.cell(figures) for column in columns]
        cells += [column.cell([costs[method]]) for column in of_cost]
        rows.append([title_of(method), chosen, *cells])
    header = ["training", "setting", *(column.title for column in [*columns, *of_cost])]
    return markdown_table(header, rows)


def setting(recipe: Recipe) -> str:
    """The options of a recipe, for readers."""
    return ", ".join(
        f"{name} {value:g}" for options in recipe.values() for name, value in options.items()
    )


def _warnings(found: Found) -> str:
    lines = []
    for method, runs in grouped(with_keys(found, phase="test"), "method").items():
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


def _choice_table(found: Found) -> str:
    picked: list[Any] = [run["key"]["recipe"] for run in with_keys(found, phase="test")]
    rows = {
        (title_of(run["key"]["method"]), setting(run["key"]["recipe"])): [
            {**run["figures"], "picked": run["key"]["recipe"] in picked}
        ]
        for run in with_keys(found, phase="choose")
    }
    radii = found["settings"]["chosen_at"]
    columns = [
        Column("clean", "clean"),
        *(
            Column(f"L-inf {eps:g}", lambda f, i=index: f["worst case"][i])  # type: ignore[misc]
            for index, eps in enumerate(radii)
        ),
        Column("chosen", text=lambda f: "yes" if f[0]["picked"] else ""),
    ]
    return table(("training", "setting"), rows, columns)
