"""The scale question: pixels, and features of another width or behind a norm, have other units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.results import Results
from benchmarks.timm_models.data import evenly
from benchmarks.timm_models.evaluation import by_layer
from benchmarks.timm_models.experiment import Bench, Job, Key, run_jobs
from benchmarks.timm_models.settings import STAGES
from benchmarks.timm_models.training import accuracy, read_log

UNTRAINED = "of the untrained network"
_FEATURES: dict[str, Any] = {"share": 0.3}
_POOLED: dict[str, Any] = {"share": 0.3, "layers": STAGES, "pool": "mean"}
_FLAT: dict[str, Any] = {"share": 0.3, "layers": STAGES}

# where, which scale -> options of the penalty; None: no penalty
VARIANTS: dict[tuple[str, str], dict[str, Any] | None] = {
    ("plain", ""): None,
    ("features", "1"): _FEATURES,
    ("features", UNTRAINED): _FEATURES,
    ("features", "learned"): _FEATURES | {"scale": "learned"},
    ("features", "fit"): _FEATURES | {"scale": "fit"},
    ("features", "per dimension"): _FEATURES | {"per_dimension": True},
    ("stages, pooled", "1"): _POOLED,
    ("stages, pooled", "fit"): _POOLED | {"scale": "fit"},
    ("stages, pooled", "per dimension"): _POOLED | {"per_dimension": True},
    ("stages, flattened", "1"): _FLAT,
    ("stages, flattened", "fit"): _FLAT | {"scale": "fit"},
    ("stages, flattened", "per dimension"): _FLAT | {"per_dimension": True},
}


def run(bench: Bench, *, seeds: int) -> Results:
    """Every variant on every network, with the weight chosen by its share of the gradient."""
    variants = [[*key, options] for key, options in VARIANTS.items()]
    results = Results(bench.out, {**asdict(bench.settings), "variants": variants})
    count = seeds * len(bench.settings.networks) * len(VARIANTS)
    run_jobs(bench, results, _jobs(bench, seeds), count)
    return results


def _jobs(bench: Bench, seeds: int) -> Iterator[tuple[Key, Job]]:
    for seed in range(seeds):
        for name in bench.settings.networks:
            for where, scale in VARIANTS:
                key = {"network": name, "where": where, "scale": scale, "seed": seed}
                yield key, partial(_measure, bench, key)


def _measure(bench: Bench, key: Key) -> dict[str, Any]:
    """Figures on validation images, and the weight at the end."""
    options = VARIANTS[key["where"], key["scale"]]
    model = bench.network(key["network"], key["seed"])
    if options is not None and key["scale"] == UNTRAINED:
        options = {**options, "scale": _ratio(bench, model)}
    recipe = {} if options is None else {"isometry": options}
    average = bench.train(key, model, recipe, bench.settings.choice, mixup=True)
    held = bench.splits.validation
    beta = float(read_log(bench.folder(key))[-1]["train_beta"]) if options else None
    return {
        "clean": accuracy(average, held, bench.device),
        "beta": beta,
        "scale": options.get("scale", 1.0) if options else None,
        "distortion": by_layer(average, evenly(held, 1_000), bench.device),
    }


@torch.no_grad()
def _ratio(bench: Bench, model: torch.nn.Sequential) -> float:
    """Pixel distances over feature distances within classes, before training."""
    sample = evenly(bench.splits.train, 512)
    return by_layer(model.to(bench.device).eval(), sample, bench.device)["features"]["scale"]
