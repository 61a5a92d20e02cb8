"""Settings by validation data: every method tried at several strengths and rates, at one cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.progress import progress_bar
from benchmarks.results import Results
from benchmarks.robust.evaluation import quickly_attacked
from benchmarks.robust.plans import RATES, STRENGTHS, Choice, Chosen, Plan, plan_of
from benchmarks.robust.settings import Settings
from benchmarks.robust.training import load, network, train

CLEAN = 0.965
_SEED = 0


def choose_settings(
    settings: Settings, *, networks: tuple[str, ...], data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``: every strength, then the best at another rate."""
    results = Results(out, settings.to_dict())
    fit = load("fit", data_dir, device, settings.train_images)
    validation = load("validation", data_dir, device, settings.choice_images)
    with progress_bar() as progress:
        total = sum(len(strengths) + 1 for strengths in STRENGTHS.values()) * len(networks)
        bar = progress.add_task("", total=total)
        for key, plan in _tries(results, networks):
            progress.update(bar, description=f"{key['network']}, {key['method']}")
            if not results.has(key):
                torch.manual_seed(_SEED)
                model = network(key["network"]).to(device)
                schedule = settings.shortened(plan.schedule)
                seconds = train(model, *fit, recipe=plan.recipe, schedule=schedule)
                figures = quickly_attacked(
                    model, *validation, settings.choice_radii, steps=settings.choice_steps
                )
                results.add(key, {**figures, "training seconds": seconds, **plan.to_dict()})
            progress.advance(bar)
    return results


def chosen_in(path: Path) -> Chosen:
    """What was best, from the file of a choice: by network and method."""
    results = json.loads(path.read_text())
    return lambda name, method: best(results, name, method)


def best(results: dict[str, Any], name: str, method: str) -> Choice:
    """Strength and rate that were best on the validation images.

    The largest mean of the accuracies under attack, among those whose clean accuracy is at least
    96.5 %; where there is none, the cleanest.

    Raises:
        SystemExit: If nothing was tried.
    """
    wanted = {"network": name, "method": method}
    tried = [run for run in results["runs"] if wanted.items() <= run["key"].items()]
    if not tried:
        raise SystemExit(f"no settings were tried for {method} on {name}: run with --choose first")
    key = max(tried, key=lambda run: score(run["figures"]))["key"]
    return key["strength"], key["rate"]


def score(figures: dict[str, Any]) -> tuple[float, float]:
    """What the choice maximises."""
    attacked = list(figures["attacked"].values())
    return min(figures["clean"], CLEAN), sum(attacked) / len(attacked)


def _tries(results: Results, networks: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], Plan]]:
    first, second = RATES
    for name in networks:
        for method, strengths in STRENGTHS.items():
            for strength in strengths:
                yield _try(name, method, (strength, first))
            strength, _ = best(results.to_dict(), name, method)
            yield _try(name, method, (strength, second))


def _try(name: str, method: str, choice: Choice) -> tuple[dict[str, Any], Plan]:
    strength, rate = choice
    key = {"network": name, "method": method, "strength": strength, "rate": rate}
    return key, plan_of(name, method, choice)
