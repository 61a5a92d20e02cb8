"""Distortion, histograms and embeddings of a representation, stored so that they can be drawn."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from isoreg.diagnostics import distortion

# The histograms cover distances from 0 to 10; longer ones are left out.
BIN_WIDTH = 0.05
_BINS = 200
_SHEPARD_PAIRS = 1500


def geometry(x: Tensor, features: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Distortion, histograms of distances and a sample of pairs; labels limit these to classes."""
    dx, dphi = _distances(x, labels), _distances(features, labels)
    sample = torch.randperm(len(dx), generator=torch.Generator().manual_seed(0))[:_SHEPARD_PAIRS]
    return {
        "distortion": asdict(distortion(x, features, labels)),
        "input histogram": _histogram(dx),
        "feature histogram": _histogram(dphi),
        "pairs": [_rounded(dx[sample]), _rounded(dphi[sample])],
    }


def embedding(features: Tensor, seed: int) -> list[list[float]]:
    """UMAP in two dimensions, with the paper's settings."""
    import umap

    neighbors = min(40, len(features) - 1)
    reducer = umap.UMAP(n_neighbors=neighbors, min_dist=0.25, random_state=seed, n_jobs=1)
    return [_rounded(row) for row in torch.as_tensor(reducer.fit_transform(features.numpy()))]


def _distances(x: Tensor, labels: Tensor | None) -> Tensor:
    distances = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    n = len(x)
    equal = torch.ones(n, n) if labels is None else labels[:, None] == labels
    return distances[equal.bool().triu(1)]


def _histogram(distances: Tensor) -> list[int]:
    counts = torch.histc(distances, bins=_BINS, min=0, max=_BINS * BIN_WIDTH)
    return [int(count) for count in counts]


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 3) for value in values]
