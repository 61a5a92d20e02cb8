"""Fine-tuning: what two more epochs with the penalty do to a model that was trained without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.results import Figures, Key
from benchmarks.study import Lab, Study
from benchmarks.timm_models.evaluation import measure
from benchmarks.timm_models.experiment import USES, Bench, determined_by
from benchmarks.timm_models.report import finetune_tables
from benchmarks.timm_models.settings import STAGES, Settings, settings

BASE = "as it was"
_SHARE = 1.0
TUNINGS: dict[str, dict[str, Any]] = {
    "two more epochs, plain": {},
    "two more epochs, isometry on the features": {"isometry": {"share": _SHARE, "scale": "fit"}},
    "two more epochs, isometry on the stages": {
        "isometry": {"share": _SHARE, "scale": "fit", "layers": STAGES, "pool": "mean"}
    },
}


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Each network once a seed, then on in each way from there."""
    for seed in range(lab.seeds):
        for name in lab.settings.networks:
            for tuning in (BASE, *TUNINGS):
                yield {"network": name, "tuning": tuning, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings, and how it goes on."""
    return determined_by(settings, "finetune", TUNINGS.get(key["tuning"], {}))


def measure_key(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures, before or after."""
    bench = Bench(lab)
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


STUDY = Study(
    "timm-finetune",
    settings,
    keys,
    measure_key,
    finetune_tables,
    shows="fine-tuning",
    time="ten minutes a network",
    data="CIFAR-10",
    seeds=1,
    device=True,
    determines=determines,
    uses=USES,
    without_control="one seed, and nothing is claimed of it but what it costs",
    committed={"timm-finetune": {"model": ["resnet10t", "convnext_atto"], "attacked_images": 100}},
)
