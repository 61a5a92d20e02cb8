"""Train every plan on every seed, attack what comes out, and time the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.progress import progress_bar
from benchmarks.results import Results
from benchmarks.robust.cost import relative_costs
from benchmarks.robust.evaluation import DECISIVE, attacked
from benchmarks.robust.plans import Chosen, Plan, measured
from benchmarks.robust.settings import Settings
from benchmarks.robust.training import load, network, train

Split = tuple[Tensor, Tensor]


def run(
    settings: Settings,
    *,
    networks: tuple[str, ...],
    chosen: Chosen,
    seeds: int,
    data_dir: Path | None,
    device: str,
    out: Path,
) -> Results:
    """Run what is not yet in the file ``out``: the costs, then seed by seed."""
    results = Results(out, settings.to_dict())
    plans = {name: measured(name, chosen) for name in networks}
    todo = [
        {"network": name, "training": title, "seed": seed}
        for name in networks
        for seed in range(seeds)
        for title in plans[name]
    ]
    todo = [key for key in todo if not results.has(key)]
    for name in networks:
        if not results.has(_cost_key(name)):
            costs = relative_costs(name, plans[name], seconds=settings.timing_seconds)
            results.add(_cost_key(name), costs)
    if not todo:
        return results
    train_set = load("train", data_dir, device, settings.train_images)
    test_set = load("test", data_dir, device, settings.test_images)
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo))
        for key in todo:
            progress.update(bar, description=f"{key['network']}, {key['training']}, {key['seed']}")
            plan = plans[key["network"]][key["training"]]
            results.add(key, _measure(key, plan, settings, train_set, test_set))
            progress.advance(bar)
    return results


def _measure(
    key: dict[str, Any], plan: Plan, settings: Settings, train_set: Split, test_set: Split
) -> dict[str, Any]:
    torch.manual_seed(key["seed"])
    images, labels = train_set
    model = network(key["network"]).to(images.device)
    kept = len(images) - plan.held_out if plan.held_out < len(images) else len(images)
    seconds = train(
        model,
        images[:kept],
        labels[:kept],
        recipe=plan.recipe,
        schedule=settings.shortened(plan.schedule),
    )
    figures = attacked(
        model,
        *test_set,
        radii={"Linf": settings.linf, "L2": settings.l2},
        attacks=DECISIVE if plan.attacks == "decisive" else plan.attacks,
    )
    return {**figures, "training seconds": seconds, **plan.to_dict()}


def _cost_key(name: str) -> dict[str, Any]:
    return {"network": name, "training": "cost of a plan", "seed": None}
