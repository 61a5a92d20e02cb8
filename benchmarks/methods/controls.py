"""Penalties that act where the isometry penalty does, without its geometry."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.methods.distances import on_features
from benchmarks.methods.registry import method
from benchmarks.methods.step import Part, Step


@method("feature-norm", title="feature norm")
def feature_norm(model: nn.Module, *, weight: float, length: float = 0.0) -> Part:
    """Features of one length: their norm minus it, squared, averaged over images."""

    def value(features: Tensor, _: Step) -> Tensor:
        if length == 0:
            return weight * features.square().sum(1).mean()
        gaps: Tensor = features.norm(dim=1) - length
        return weight * gaps.square().mean()

    return on_features(model, value)
