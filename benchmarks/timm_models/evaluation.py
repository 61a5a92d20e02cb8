"""What is measured on a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.internals import Layer, choose_layers, resolve_pool
from benchmarks.timm_models.corruptions import STRENGTHS, corrupted
from benchmarks.timm_models.data import Split, evenly
from benchmarks.timm_models.networks import stages
from benchmarks.timm_models.settings import PIXEL, Settings
from benchmarks.timm_models.training import accuracy
from isoreg.diagnostics import distortion
from isoreg.robustness import evaluate

_ATTACKED_AT_ONCE = 128  # activations of more do not fit the caches of a CPU


def measure(model: nn.Sequential, test: Split, settings: Settings, device: str) -> dict[str, Any]:
    """All figures of a trained model, on test images."""
    attacked = evenly(test, settings.attacked_images)
    sample = evenly(test, settings.corrupted_images)
    return {
        "clean": accuracy(model, test, device),
        "corrupted": under_corruptions(model, sample, device),
        "attacked": worst_case(model, attacked, settings.radii, settings.attacks),
        "distortion": by_layer(model, evenly(test, 1_000), device),
    }


def worst_case(
    model: nn.Module, split: Split, radii: Sequence[int], attacks: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The share of images that stay correct under every attack, by rising radius in 1/255, L-inf.

    An image that one attack fools counts as fooled at this and every larger radius, so attacks get
    only images that still stand. Each group of attacks is one call of `isoreg.robustness.evaluate`.
    Radius 0 is the share of correct clean images.
    """
    images, labels = split[0].float() / 255, split[1]
    standing = torch.arange(len(labels))
    shares: dict[str, float] = {}
    warnings: list[str] = []
    for radius in radii:
        for group in attacks:
            if len(standing):
                report = evaluate(
                    model,
                    images[standing],
                    labels[standing],
                    eps=radius * PIXEL,
                    attacks=list(group),
                    batch_size=_ATTACKED_AT_ONCE,
                    progress=False,
                )
                shares.setdefault("0", sum(report.correct) / len(labels))
                survived = (f for by in report.survived.values() for f in by.values())
                standing = standing[torch.tensor([report.correct, *survived]).all(0)]
                warnings += [f"{radius}/255: {text}" for text in report.warnings]
        shares[f"{radius}"] = len(standing) / len(labels)
    return {"images": len(labels), "shares": shares, "warnings": warnings}


def under_corruptions(model: nn.Module, split: Split, device: str) -> dict[str, float]:
    """Accuracy under each kind of corruption, the mean of its five strengths."""
    return {
        kind: mean(
            accuracy(model, (corrupted(split[0], kind, strength), split[1]), device)
            for strength in strengths
        )
        for kind, strengths in STRENGTHS.items()
    }


@torch.no_grad()
def by_layer(model: nn.Sequential, split: Split, device: str) -> dict[str, dict[str, float]]:
    """Distortion within classes of each stage, averaged over space or tokens, and of the features.

    The last entry, "features", is what enters the classifier. Each entry also has the stress at
    its best scale, "fitted stress".
    """
    names = stages(model)
    layers = [*(choose_layers(model, names) if names else []), *choose_layers(model, None)]
    x, labels = split[0].float() / 255, split[1]
    by_name = {}
    for layer, features in zip(layers, _features(model, layers, x, device), strict=True):
        name = "features" if layer.at_input else layer.name.removeprefix("net.")
        figures = asdict(distortion(x, features, labels))
        figures["fitted stress"] = distortion(x, figures["scale"] * features, labels).stress
        by_name[name] = figures
    return by_name


def _features(model: nn.Module, layers: Sequence[Layer], x: Tensor, device: str) -> list[Tensor]:
    """Features of the images at each layer, pooled to one vector for each image."""
    pool, parts = resolve_pool("mean"), [list[Tensor]() for _ in layers]

    def keep(index: int, value: object) -> None:
        features = pool(value)
        assert features is not None
        parts[index].append(features.float().cpu().clone())

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            hook = lambda _, *values, index=index: keep(index, values[-1])  # noqa: E731
            module, before = layer.module, layer.at_input
            add = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(add(hook).remove)
        for images in x.split(500):
            model(images.to(device))
    return [torch.cat(batches) for batches in parts]
