"""Fine-tuning: what two more epochs with the penalty do to a model that was trained without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.results import Results
from benchmarks.timm_models.evaluation import measure
from benchmarks.timm_models.experiment import Bench, Job, Key, run_jobs
from benchmarks.timm_models.settings import STAGES

BASE = "as it was"
_SHARE = 1.0
TUNINGS: dict[str, dict[str, Any]] = {
    "two more epochs, plain": {},
    "two more epochs, isometry on the features": {"isometry": {"share": _SHARE, "scale": "fit"}},
    "two more epochs, isometry on the stages": {
        "isometry": {"share": _SHARE, "scale": "fit", "layers": STAGES, "pool": "mean"}
    },
}


def run(bench: Bench, *, seeds: int) -> Results:
    """Train each network once a seed, then go on in each way from there."""
    results = Results(bench.out, {**asdict(bench.settings), "tunings": TUNINGS})
    count = seeds * len(bench.settings.networks) * (1 + len(TUNINGS))
    run_jobs(bench, results, _jobs(bench, seeds), count)
    return results


def _jobs(bench: Bench, seeds: int) -> Iterator[tuple[Key, Job]]:
    for seed in range(seeds):
        for name in bench.settings.networks:
            for tuning in (BASE, *TUNINGS):
                key = {"network": name, "tuning": tuning, "seed": seed}
                yield key, partial(_measure, bench, key)


def _measure(bench: Bench, key: Key) -> dict[str, Any]:
    model = _trained(bench, key)
    if key["tuning"] != BASE:
        recipe = TUNINGS[key["tuning"]]
        model = bench.train(key, model, recipe, bench.settings.finetuning, mixup=True)
    return measure(model, bench.splits.test, bench.settings, bench.device)


def _trained(bench: Bench, key: Key) -> nn.Sequential:
    """The model that all ways start from: trained once, then read from its file."""
    base = {**key, "tuning": BASE}
    model = bench.network(key["network"], key["seed"])
    path = bench.folder(base) / "model.pt"
    if not path.exists():
        average = bench.train(base, copy.deepcopy(model), {}, bench.settings.schedule, mixup=True)
        torch.save(average.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model.to(bench.device).eval()
