"""Tables of the search, from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results, Run
from benchmarks.robust.selection import (
    SearchSettings,
    best,
    differences,
    kept,
    of_seeds,
    promising,
    score,
)
from benchmarks.robust.variants import EPS, LONGER, NORM, OPTIMIZER, PLAIN, RATE
from benchmarks.tables import markdown_table, percent, spread

BASELINES = (PLAIN, NORM, LONGER)


def report_search(results: Results, console: Console) -> None:
    """Print the tables; save them beside the results."""
    publish(results, console, tables)


def tables(results: dict[str, Any]) -> str:
    """What each variant gives on one seed, what promised and was kept on all, and every try."""
    recorded = {k: v for k, v in results["settings"].items() if k != "tried"}
    settings, runs = SearchSettings(**recorded), results["runs"]
    parts = ["# The search for robustness by geometry\n", _introduction(settings)]
    parts += ["## One seed\n", _one_seed(runs, settings)]
    parts += ["## What promised, on more seeds\n"]
    found = promising(runs, settings)
    parts += [_over_seeds(runs, found, "search", settings) if found else "Nothing did.\n"]
    parts += ["## What was kept, on test images\n"]
    found = kept(runs, settings)
    parts += [_over_seeds(runs, found, "test", settings) if found else "Nothing was.\n"]
    parts += ["## Every try on one seed\n", _tries(runs)]
    return "\n".join(parts)


def _introduction(settings: SearchSettings) -> str:
    floor, lead = 100 * settings.clean_floor, 100 * settings.noise
    return (
        f"ReLU MLP 4 x 200, trained on the first-order margin (radius {EPS:g}, {OPTIMIZER.title()} "
        f"{RATE:g}) for {settings.epochs} epochs of the first 50,000 images, with something added; "
        f"in % of {settings.images:,} validation images, sampled evenly. An image counts if it "
        f"survives {' and '.join(settings.attacks)}; the larger radius is attacked first, and what "
        "survives it counts as surviving the smaller. Mean: of both radii. Of several settings the "
        f"one with the best mean is shown, among those with a clean accuracy of {floor:g} % or "
        f"more. The baseline is {PLAIN}; of variants that cost about as much {LONGER}. Cost: "
        "steps of all trainings, timed in turn in one process. A variant promises if on this seed "
        f"it leads its baseline and then its control by more than {lead:g} % of the images; it is "
        "kept if over all seeds it leads both by two standard errors of the difference.\n"
    )


def _one_seed(runs: Sequence[Run], settings: SearchSettings) -> str:
    cost: dict[str, float] = next(
        (run["figures"] for run in runs if run["key"] == {"phase": "cost"}), {}
    )
    rows = []
    for title in (*BASELINES, *settings.tried):
        run, control = (best(runs, title, settings, control=which) for which in (False, True))
        if run is None:
            continue
        row = [title, _setting(run), f"{cost[title]:.1f}" if title in cost else ""]
        others = (best(runs, name, settings) for name in (_baseline(title, settings), NORM))
        row += [*_accuracies([run]), *(_over(run, other) for other in others)]
        row += [_control_setting(title, control, settings), _over(run, control)]
        rows.append(row)
    header = ["added", "setting", "cost", *_header(settings), "minus baseline"]
    header += ["minus feature norm", "control's setting", "minus control"]
    return markdown_table(header, rows) + "\n"


def _baseline(title: str, settings: SearchSettings) -> str:
    return settings.tried[title].baseline if title in settings.tried else PLAIN


def _setting(run: Run) -> str:
    epochs = run["figures"]["schedule"]["epochs"]
    return run["key"]["setting"] or f"{epochs} epochs"


def _control_setting(title: str, control: Run | None, settings: SearchSettings) -> str:
    if control is None:
        has_one = title in settings.tried and settings.tried[title].control is not None
        return "not run" if has_one else ""
    return str(control["key"]["setting"])


def _over_seeds(
    runs: Sequence[Run], titles: Sequence[str], phase: str, settings: SearchSettings
) -> str:
    """Baselines, variants and controls over the seeds, with the differences seed by seed."""
    rows = []
    for name in BASELINES:
        found = of_seeds(runs, best(runs, name, settings), phase)
        rows += [[name, "", str(len(found)), *_accuracies(found), "", ""]] if found else []
    for name in titles:
        for control in (False, True):
            found = of_seeds(runs, best(runs, name, settings, control=control), phase)
            if found:
                row = [f"control of: {name}" if control else name, found[0]["key"]["setting"]]
                rows.append([*row, str(len(found)), *_accuracies(found)])
                rows[-1] += ["", ""] if control else _gaps(runs, name, phase, settings)
    header = ["added", "setting", "seeds", *_header(settings), "minus baseline", "minus control"]
    return markdown_table(header, rows) + "\n"


def _gaps(runs: Sequence[Run], title: str, phase: str, settings: SearchSettings) -> list[str]:
    base = _baseline(title, settings)
    return [
        _points(differences(runs, title, base, settings, phase=phase)),
        _points(differences(runs, title, title, settings, control=True, phase=phase)),
    ]


def _tries(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        key = run["key"]
        if key["phase"] == "search" and key["seed"] == 0:
            name = f"control of: {key['training']}" if key["control"] else key["training"]
            rows.append([name, _setting(run), *_accuracies([run])])
    radii = runs[0]["figures"]["worst case"] if runs else {}
    header = ["added", "setting", "clean", *(f"L-inf {eps}" for eps in radii), "mean"]
    return markdown_table(header, rows) + "\n"


def _header(settings: SearchSettings) -> list[str]:
    return ["clean", *(f"L-inf {eps:g}" for eps in settings.radii), "mean"]


def _accuracies(runs: Sequence[Run]) -> list[str]:
    """Clean, at each radius, and the mean of these."""
    radii = runs[0]["figures"]["worst case"]
    found = [[run["figures"]["clean"] for run in runs]]
    found += [[run["figures"]["worst case"][eps] for run in runs] for eps in radii]
    return [*map(percent, found), percent([score(run) for run in runs])]


def _over(run: Run, other: Run | None) -> str:
    return "" if other is None or other is run else f"{100 * (score(run) - score(other)):+.1f}"


def _points(gaps: Sequence[float]) -> str:
    found = spread([100 * gap for gap in gaps], digits=1) if gaps else ""
    return found if not found or found.startswith("-") else f"+{found}"
