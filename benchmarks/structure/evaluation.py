"""All figures of one trained network, or of a reference that needs no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import probes
from benchmarks.networks import accuracy_of, features_in
from benchmarks.structure.data import Data
from benchmarks.structure.settings import Settings

Embed = Callable[[Tensor], Tensor]


class Frozen(NamedTuple):
    """Features of known, validation and test samples with their fine labels."""

    known: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def freeze(embed: Embed, data: Data, settings: Settings) -> Frozen:
    """The features that the probes see."""
    known = data.train.take(slice(settings.known))
    parts = [(embed(s.x), s.fine) for s in (known, data.validation, data.test)]
    return Frozen(*parts)


def coarse_accuracy(model: nn.Module, data: Data) -> float:
    """Accuracy on test samples of the coarse labels, which the network was trained on."""
    return accuracy_of(model, data.test.x, data.coarse(data.test.fine))


def few_shot(frozen: Frozen, settings: Settings) -> dict[str, Any]:
    """For each number of examples, the probe's strength and its test accuracy on every draw.

    The strength is the inverse penalty that does best on validation samples.
    """
    figures = {}
    for examples, draws in settings.examples:
        strength = probes.chosen_strength(
            frozen.known, frozen.validation, examples, settings.strengths
        )
        how: dict[str, Any] = {"examples": examples, "draws": range(draws), "strength": strength}
        accuracies = probes.few_shot_accuracy(*frozen.known, *frozen.test, **how)
        figures[f"{examples} a class"] = {"strength": strength, "accuracy": accuracies}
    return figures


def fine_figures(embed: Embed, data: Data, settings: Settings, *, seed: int) -> dict[str, Any]:
    """How well the fine labels, which training never saw, can be read from the features."""
    frozen = freeze(embed, data, settings)
    shots = few_shot(frozen, settings)
    strength = shots[f"{max(examples for examples, _ in settings.examples)} a class"]["strength"]
    return {
        "few-shot": shots,
        "kNN": probes.knn_accuracy(*frozen.known, *frozen.test),
        "probe": probes.probe_accuracy(*frozen.known, *frozen.test, strength=strength),
        "NMI": probes.cluster_information(*frozen.test, seed=seed),
    }


def features_of(model: nn.Sequential) -> Embed:
    """An embedding: it maps inputs to what enters the classifier."""
    return lambda x: features_in(model, x)


def pixels_of(x: Tensor) -> Tensor:
    """The inputs themselves, flattened."""
    return x.flatten(1).to(torch.float32)
