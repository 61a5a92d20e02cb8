"""Tables and the figure of the rivals, from the results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.objectives import METHODS
from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.rivals.figure import draw
from benchmarks.tables import markdown_table, percent

Figures = dict[str, Any]


_FOOLED = re.compile(r"fooled (\d+) of")


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, _draw)


def _draw(results: dict[str, Any], path: Path) -> None:
    draw(tested(results), cost(results), results["settings"], path)


def title(method: str) -> str:
    """The name of a method for readers."""
    return METHODS[method].title if method in METHODS else method


def tested(results: dict[str, Any]) -> dict[str, list[Figures]]:
    """Figures on test images of each method, one entry a seed."""
    found: dict[str, list[Figures]] = {}
    for run in results["runs"]:
        if run["key"]["phase"] == "test":
            found.setdefault(run["key"]["method"], []).append(run["figures"])
    return found


def cost(results: dict[str, Any]) -> Figures:
    """Figures of the costs."""
    (found,) = [run["figures"] for run in results["runs"] if run["key"]["phase"] == "cost"]
    return dict(found)


def tables(results: dict[str, Any]) -> str:
    """The test, its warnings, and what was tried on validation images."""
    settings = results["settings"]
    seeds = max(len(runs) for runs in tested(results).values())
    floor = 100 * settings["clean_floor"]
    at = " and ".join(f"{eps:g}" for eps in settings["chosen_at"])
    parts = [
        "# Rivals",
        f"MLP 4 x {settings['width']} tanh, {settings['epochs']} epochs of Adam at "
        f"{settings['learning_rate']:g} on {settings['train_images']:,} images of MNIST, "
        f"{seeds} seed{'s' if seeds > 1 else ''}; "
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
    ]
    return "\n\n".join(parts) + "\n"


def _test_table(results: dict[str, Any]) -> str:
    settings, price = results["settings"], cost(results)
    header = ["training", "setting", "clean"]
    header += [f"L-inf {eps:g}" for eps in settings["eps"]]
    header += [f"L2 {eps:g}" for eps in settings["eps_l2"]]
    header += ["time", "memory, MB"]
    rows = []
    for method, runs in tested(results).items():
        row = [title(method), setting(runs[0]["recipe"]), percent([run["clean"] for run in runs])]
        for norm in ("Linf", "L2"):
            columns = zip(*(run[norm]["worst case"] for run in runs), strict=True)
            row += [percent(values) for values in columns]
        memory = price["memory"]
        row.append(f"{price['ratio'][method]:.1f}")
        row.append(f"{memory[method] / 1e6:.1f}" if memory else "-")
        rows.append(row)
    return markdown_table(header, rows)


def setting(recipe: dict[str, Any]) -> str:
    """The options of a recipe, for readers."""
    return ", ".join(
        f"{name} {value:g}" for options in recipe.values() for name, value in options.items()
    )


def _warnings(results: dict[str, Any]) -> str:
    lines = []
    for method, runs in tested(results).items():
        for norm in ("Linf", "L2"):
            alike: dict[str, list[int]] = {}
            for run in runs:
                for warning in run[norm]["warnings"]:
                    counts = [int(count) for count in _FOOLED.findall(warning)]
                    alike.setdefault(_FOOLED.sub("fooled # of", warning), []).append(sum(counts))
            lines += [
                f"- {title(method)}, {norm}, {len(counts)} of {len(runs)} seeds: "
                + warning.replace("#", " to ".join(map(str, sorted({min(counts), max(counts)}))))
                for warning, counts in alike.items()
            ]
    return "\n".join(lines) or "None."


def _choice_table(results: dict[str, Any]) -> str:
    picked = [runs[0]["recipe"] for runs in tested(results).values()]
    header = ["training", "setting", "clean"]
    header += [f"L-inf {eps:g}" for eps in results["settings"]["chosen_at"]]
    return markdown_table([*header, "chosen"], _choice_rows(results, picked))


def _choice_rows(results: dict[str, Any], picked: list[Any]) -> Iterable[list[str]]:
    for run in results["runs"]:
        if run["key"]["phase"] == "choose":
            figures = run["figures"]
            yield [
                title(run["key"]["method"]),
                setting(figures["recipe"]),
                *[f"{100 * share:.1f}" for share in (figures["clean"], *figures["worst case"])],
                "yes" if figures["recipe"] in picked else "",
            ]
