"""Relatives of isometry between the samples of a batch: metrics, one-sided. Axes: p = pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.objectives.controls import last_features, shuffled_within
from benchmarks.objectives.step import Part, Step


def _manhattan(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return x[first].sub_(x[second]).abs_().sum(1)


def _euclidean(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    # all pairs are faster than a copy of both images of each
    return torch.cdist(x, x)[first, second]


def _chebyshev(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return x[first].sub_(x[second]).abs_().amax(1)


# the attack's own metric is Chebyshev's, and Manhattan's its dual
METRICS = {"manhattan": _manhattan, "euclidean": _euclidean, "chebyshev": _chebyshev}
# of the gaps between what a distance of features is and what it should be
PUNISHED: dict[str, Callable[[Tensor], Tensor]] = {
    "both": lambda gaps: gaps,
    "stretching": lambda gaps: gaps.clamp_min(0),
    "shrinking": lambda gaps: gaps.clamp_max(0),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "within": lambda same: same,
    "between": lambda same: ~same,
    "all": torch.ones_like,
}


def batch_pairs(
    model: nn.Module,
    *,
    beta: float,
    size: float,
    metric: str = "euclidean",
    punish: str = "both",
    pairs: str = "within",
    shuffled: bool = False,
) -> Part:
    r"""Distances of the features that enter the classifier, held to those of the images.

    .. math::
        \frac{2 \beta}{N^2} \sum_p h(|\phi_i - \phi_j| - s\, d(x_i, x_j) / \bar d)^2

    over the pairs p = (i, j), i < j, with d the metric, d bar its mean over these pairs, so that
    one size s fits all metrics, and h the identity or one of its halves: ``"stretching"`` is
    punished by max(., 0) (non-expansive), ``"shrinking"`` by min(., 0) (non-contracting).

    Args:
        model: Images to logits.
        beta: Weight.
        size: What the features' distances are to be on average.
        metric: A name in `METRICS`.
        punish: A name in `PUNISHED`.
        pairs: Of the same class ("within"), of different classes ("between"), or "all".
        shuffled: The control: the distances of images, shuffled among the pairs of the same two
            classes, so that their sizes stay and the geometry goes.

    Returns:
        The term.

    Raises:
        ValueError: If a name is unknown.
    """
    for name, allowed in ((metric, METRICS), (punish, PUNISHED), (pairs, KEPT)):
        if name not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} is needed, got {name!r}")
    recorder = last_features(model)

    def term(step: Step) -> Tensor:
        record = recorder.take()
        assert record.reference is not None
        (features,) = record.features.values()
        first, second = _pairs(step.labels, pairs)
        pixels = record.reference.detach().flatten(1)
        wanted = METRICS[metric](pixels, first, second)
        if len(wanted) == 0:
            return 0 * features.sum()
        if shuffled:
            wanted = shuffled_within(wanted, _classes(step.labels, first, second))
        gaps = _euclidean(features.flatten(1), first, second) - size * wanted / wanted.mean()
        return 2 * beta * PUNISHED[punish](gaps).square().sum() / len(features) ** 2

    return Part(term=term, finish=recorder.remove)


def _pairs(labels: Tensor, kept: str) -> tuple[Tensor, Tensor]:
    """Both samples of every pair, each pair once."""
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    chosen = KEPT[kept](labels[first] == labels[second])
    return first[chosen], second[chosen]


def _classes(labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A number for each two classes."""
    low, high = (
        torch.minimum(labels[first], labels[second]),
        torch.maximum(labels[first], labels[second]),
    )
    return low * (int(labels.max()) + 1) + high
