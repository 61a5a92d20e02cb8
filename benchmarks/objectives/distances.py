"""Distances between the samples of a batch, kept in the features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.objectives.shuffling import Exchanged
from benchmarks.objectives.step import Part, Step
from isoreg import AutoBeta, IsometryRegularizer
from isoreg.layers import find_layers
from isoreg.pooling import resolve_pool
from isoreg.recorder import Recorder

_ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU)


def isometry(
    model: nn.Module,
    *,
    beta: float = 1.0,
    share: float | None = None,
    scale: float | Literal["fit", "learned"] = 1.0,
    layers: str | Sequence[str] | None = None,
    inputs: str | None = None,
    pool: str = "flatten",
    per_dimension: bool = False,
    shuffled: bool = False,
) -> Part:
    """The penalty of this library; ``layers="activations"`` takes the output of every activation.

    Pairs of equal label. With a ``share`` the weight is `isoreg.AutoBeta` of it, in place of beta.
    ``scale="learned"`` is a parameter that starts at 1. With ``per_dimension`` both distances are
    root mean squared differences. ``shuffled`` is the control: each image's features are compared
    with another image of its class, so that scale and labels stay and the geometry goes. The other
    options are those of `isoreg.IsometryRegularizer`.
    """
    learned = _one(model)
    others = Exchanged()
    iso = IsometryRegularizer(
        model,
        _activations(model) if layers == "activations" else layers,
        beta=beta if share is None else AutoBeta(share),
        scale=learned if scale == "learned" else scale,
        inputs=others if shuffled else inputs,
        pool=pool,
        distance=_root_mean_square if per_dimension else "euclidean",
    )
    return Part(
        before=(lambda step: others.use(step.labels)) if shuffled else None,
        term=lambda step: iso(step.labels),
        finish=iso.detach,
        parameters=(learned,) if scale == "learned" else (),
        state=iso,
        log=lambda: iso.log_dict(""),
    )


def relational_distillation(model: nn.Module, *, weight: float) -> Part:
    """The distance loss of relational knowledge distillation, with the pixels as the teacher.

    Distances over all pairs of the batch, divided by their mean, in pixels and in the features that
    enter the classifier; the Huber loss between the two.

    Source: Park et al. (2019), "Relational Knowledge Distillation", equations 5 to 8.
    """
    recorder = Recorder(model, find_layers(model, None), resolve_pool("flatten"))

    def term(step: Step) -> Tensor:
        del step
        record = recorder.take()
        assert record.reference is not None
        (features,) = record.features.values()
        student, teacher = _relative_distances(features), _relative_distances(record.reference)
        return weight * F.smooth_l1_loss(student, teacher.detach())

    return Part(term=term, finish=recorder.remove)


def _relative_distances(x: Tensor) -> Tensor:
    """Distances of all pairs of different samples, divided by their mean."""
    distances = F.pdist(x.flatten(1))
    return distances / distances.mean().clamp_min(torch.finfo(x.dtype).tiny)


def _one(model: nn.Module) -> nn.Parameter:
    return nn.Parameter(torch.ones((), device=next(model.parameters()).device))


def _root_mean_square(x: Tensor) -> Tensor:
    """Distances (n, n) of points (n, d), as if they had one dimension."""
    return torch.cdist(x, x) / math.sqrt(x.shape[1])


def _activations(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _ACTIVATIONS)]
