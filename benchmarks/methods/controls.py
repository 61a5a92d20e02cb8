"""Penalties that act where the isometry penalty does, without its geometry. Axes: p = pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.methods.distances import on_features
from benchmarks.methods.registry import method
from benchmarks.methods.step import Part, Step


@method("isometry-control", title="isometry's control")
def isometry_control(model: nn.Module, *, beta: float, target: str, scale: float = 1.0) -> Part:
    """The isometry penalty of the features that enter the classifier, towards other distances.

    The target "shuffled" has the input distances of the batch, shuffled among the pairs of each
    class; "constant" their mean, for all pairs. Feature distances are multiplied by ``scale``.

    Raises:
        ValueError: If the target is neither.
    """
    if target not in ("shuffled", "constant"):
        raise ValueError(f"target must be 'shuffled' or 'constant', got {target!r}")

    def value(features: Tensor, step: Step) -> Tensor:
        first, second = _pairs_within(step.labels)
        pixels = step.reference.detach().flatten(1)
        # all pairs are faster than a copy of both images of each
        wanted = torch.cdist(pixels, pixels)[first, second]
        if target == "shuffled":
            wanted = _shuffled_within(wanted, step.labels[first])
        elif len(wanted):
            wanted = wanted.mean().expand_as(wanted)
        squares = (features[first] - features[second]).square().sum(1)
        # the root of an exact 0 would give the gradient NaN
        gaps = wanted - scale * squares.clamp_min(1e-12).sqrt()
        return 2 * beta * gaps.square().sum() / len(features) ** 2

    return on_features(model, value)


@method("feature-norm", title="feature norm")
def feature_norm(model: nn.Module, *, weight: float, length: float = 0.0) -> Part:
    """Features of one length: their norm minus it, squared, averaged over images."""

    def value(features: Tensor, _: Step) -> Tensor:
        if length == 0:
            return weight * features.square().sum(1).mean()
        gaps: Tensor = features.norm(dim=1) - length
        return weight * gaps.square().mean()

    return on_features(model, value)


def _pairs_within(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples of every pair of equal label, each pair once."""
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    same = labels[first] == labels[second]
    return first[same], second[same]


def _shuffled_within(values_p: Tensor, labels_p: Tensor) -> Tensor:
    """The values of each label, in random order among the pairs of that label."""
    positions = labels_p.argsort(stable=True)
    random = torch.randperm(len(labels_p), device=labels_p.device)
    sources = random[labels_p[random].argsort(stable=True)]
    found = torch.empty_like(values_p)
    found[positions] = values_p[sources]
    return found
