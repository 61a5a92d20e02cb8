"""How well the distances of features follow those of a reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isoreg.diagnostics import distortion_of

AMONG = 10
"""The nearest sample by the reference is looked for among so many nearest by the features."""


def agreement(by_reference: Tensor, by_features: Tensor, labels: Tensor) -> dict[str, float]:
    """How well (n, n) distances, ``by_features``, follow others, ``by_reference``.

    Measured are Pearson's r and the stress of `isoreg.diagnostics.Distortion` (in the reference's
    unit) over the pairs of equal label, r over all pairs, and the share of samples whose nearest
    other one by the reference is among the ten nearest by the features. n must be above ten.
    """
    pairs = torch.ones_like(by_reference, dtype=torch.bool).triu(1)
    alike = pairs & (labels[:, None] == labels)
    within = distortion_of(by_reference[alike].double(), by_features[alike].double())
    over_all = distortion_of(by_reference[pairs].double(), by_features[pairs].double())
    oneself = torch.eye(len(by_reference), dtype=torch.bool)
    nearest = by_reference.masked_fill(oneself, torch.inf).argmin(1)
    few = by_features.masked_fill(oneself, torch.inf).topk(AMONG, largest=False).indices
    return {
        "r": within.correlation,
        "stress": within.stress,
        "r of all pairs": over_all.correlation,
        "nearest": (few == nearest[:, None]).any(1).float().mean().item(),
    }


def linear_fit(features: Tensor, places: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear map with a constant, from features to places, that has the least squared error."""
    # float64, because in float32 directions of small variance would be cut off
    fit = torch.linalg.lstsq(_with_one(features).double(), places.double(), driver="gelsd")
    weights = fit.solution.to(features.dtype)
    return lambda more: _with_one(more) @ weights


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)
