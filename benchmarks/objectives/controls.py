"""Penalties that act where the isometry penalty does, without its geometry. Axes: p = pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.objectives.step import Part, Step
from isoreg.layers import find_layers
from isoreg.pooling import resolve_pool
from isoreg.recorder import Recorder


def isometry_control(model: nn.Module, *, beta: float, target: str, scale: float = 1.0) -> Part:
    """The isometry penalty of the features that enter the classifier, towards other distances.

    Args:
        model: Images to logits.
        beta: Weight.
        target: "shuffled": the input distances of the batch, shuffled among the pairs of each
            class; "constant": their mean, for all pairs.
        scale: What the feature distances are multiplied by.

    Returns:
        The term.

    Raises:
        ValueError: If the target is neither.
    """
    if target not in ("shuffled", "constant"):
        raise ValueError(f"target must be 'shuffled' or 'constant', got {target!r}")
    recorder = last_features(model)

    def term(step: Step) -> Tensor:
        record = recorder.take()
        assert record.reference is not None
        (features,) = record.features.values()
        first, second = _pairs_within(step.labels)
        pixels = record.reference.detach().flatten(1)
        # all pairs are faster than a copy of both images of each
        wanted = torch.cdist(pixels, pixels)[first, second]
        if target == "shuffled":
            wanted = shuffled_within(wanted, step.labels[first])
        elif len(wanted):
            wanted = wanted.mean().expand_as(wanted)
        gaps = wanted - scale * _distances(features.flatten(1), first, second)
        return 2 * beta * gaps.square().sum() / len(features) ** 2

    return Part(term=term, finish=recorder.remove)


def feature_norm(model: nn.Module, *, weight: float) -> Part:
    """The squared norm of the features that enter the classifier, averaged over images."""
    recorder = last_features(model)

    def term(step: Step) -> Tensor:
        del step
        (features,) = recorder.take().features.values()
        return weight * features.flatten(1).square().sum(1).mean()

    return Part(term=term, finish=recorder.remove)


def last_features(model: nn.Module) -> Recorder:
    """A recorder of what enters the classifier."""
    return Recorder(model, find_layers(model, None), resolve_pool("flatten"))


def _pairs_within(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples of every pair of equal label, each pair once."""
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    same = labels[first] == labels[second]
    return first[same], second[same]


def _distances(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    squares = (x[first] - x[second]).square().sum(1)
    # the root of an exact 0 would give the gradient NaN
    return squares.clamp_min(1e-12).sqrt()


def shuffled_within(values_p: Tensor, labels_p: Tensor) -> Tensor:
    """The values of each label, in random order among the pairs of that label."""
    positions = labels_p.argsort(stable=True)
    random = torch.randperm(len(labels_p), device=labels_p.device)
    sources = random[labels_p[random].argsort(stable=True)]
    found = torch.empty_like(values_p)
    found[positions] = values_p[sources]
    return found
