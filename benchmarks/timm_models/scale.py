"""The scale question: pixels, and features of another width or behind a norm, have other units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.images import SHUFFLED, Uses
from benchmarks.results import Figures, Key
from benchmarks.study import Lab, Study
from benchmarks.timm_models.data import evenly
from benchmarks.timm_models.evaluation import by_layer
from benchmarks.timm_models.experiment import Bench, determined_by
from benchmarks.timm_models.figure import draw_scale
from benchmarks.timm_models.report import scale_tables
from benchmarks.timm_models.settings import UNTRAINED, VARIANTS, Settings, settings
from benchmarks.timm_models.training import accuracy, read_log


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every variant on every network, with the weight chosen by its share of the gradient."""
    for seed in range(lab.seeds):
        for name in lab.settings.networks:
            for where, scale in VARIANTS:
                yield {"network": name, "where": where, "scale": scale, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings, and the options of the penalty."""
    options = VARIANTS.get((key["where"], key["scale"]))
    return determined_by(settings, "scale", {"isometry": options} if options else {})


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Figures on validation images, and the weight at the end."""
    bench = Bench(lab)
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


STUDY = Study(
    "timm-scale",
    settings,
    keys,
    measure,
    scale_tables,
    draw_scale,
    shows="in which unit to compare",
    time="half an hour on one core",
    data="CIFAR-10",
    seeds=3,
    device=True,
    determines=determines,
    uses=Uses((SHUFFLED[0, 12_000],), (SHUFFLED[45_000, 50_000],)),
)
