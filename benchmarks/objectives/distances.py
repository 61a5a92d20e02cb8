"""Distances between the samples of a batch, kept in the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.objectives.step import Part, Step
from isoreg import IsometryRegularizer
from isoreg.layers import find_layers
from isoreg.pooling import resolve_pool
from isoreg.recorder import Recorder

_ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU)


def isometry(
    model: nn.Module,
    *,
    beta: float,
    scale: float = 1.0,
    layers: str | Sequence[str] | None = None,
    inputs: str | None = None,
    pool: str = "flatten",
) -> Part:
    """The penalty of this library; ``layers="activations"`` takes the output of every activation.

    Pairs of equal label; the other options are those of `isoreg.IsometryRegularizer`.
    """
    chosen = _activations(model) if layers == "activations" else layers
    iso = IsometryRegularizer(model, chosen, beta=beta, scale=scale, inputs=inputs, pool=pool)
    return Part(term=lambda step: iso(step.labels), finish=iso.detach)


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


def _activations(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _ACTIVATIONS)]
