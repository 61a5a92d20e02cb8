"""Methods that keep the distances between the samples of a batch; their rivals and controls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.internals import last_features
from benchmarks.methods.plain import ACTIVATIONS
from benchmarks.methods.registry import grid, method
from benchmarks.methods.step import Part, Step
from isoreg import AutoBeta, IsometryRegularizer, ReferenceHead, isometry_penalty

_rival = partial(method, family="distances of a batch")
_BETAS = grid("beta", 0.01, 0.1, 1.0, 10.0)


@_rival("isometry-every-layer", title="isometry, every layer", grid=_BETAS, layers="activations")
@_rival("isometry", title="isometry", grid=_BETAS)
def isometry(
    model: nn.Module,
    *,
    beta: float = 1.0,
    share: float | None = None,
    scale: float | Literal["fit"] = 1.0,
    layers: str | None = None,
    pairs: str = "class",
    shuffled: bool = False,
) -> Part:
    """The penalty of this library; ``layers="activations"`` takes the output of every activation.

    Features are compared with the reference of the step, on pairs of equal label, or on all pairs
    with ``pairs="all"``. If ``share`` is given, the weight is ``AutoBeta(share)`` in place of beta.
    ``shuffled`` is the control: each image's features are compared with the reference of a random
    image of its class, which keeps scale and labels and destroys the geometry. The other options
    are those of `isoreg.IsometryRegularizer`.
    """
    rows: list[Tensor] = []

    def before(step: Step) -> None:
        order = shuffle_within(step.labels) if shuffled else slice(None)
        rows[:] = [step.reference[order]]

    iso = IsometryRegularizer(
        model,
        _activations(model) if layers == "activations" else layers,
        beta=beta if share is None else AutoBeta(share),
        scale=scale,
        inputs=lambda *_: rows[0],
    )
    return Part(
        before=before,
        term=lambda step: iso(step.labels if pairs == "class" else None),
        finish=iso.detach,
    )


_WEIGHTS = grid("weight", 0.1, 1.0, 10.0, 100.0)
# The first of equal scores is chosen, so the smallest weights, which do almost nothing, come last.
_SMALLER = grid("weight", 0.1, 1.0, 10.0, 100.0, 0.01, 0.001)


@_rival("relational-distillation", title="relational distillation", grid=_SMALLER)
def relational_distillation(model: nn.Module, *, weight: float) -> Part:
    """The distance loss of relational knowledge distillation, with the reference as the teacher.

    It is the Huber loss between the distances of all pairs of the batch in the reference and in the
    features that enter the classifier, each divided by their mean.

    Source: Park et al. (2019), "Relational Knowledge Distillation", equations 5 to 8.
    """

    def value(features: Tensor, step: Step) -> Tensor:
        student, teacher = _relative_distances(features), _relative_distances(step.reference)
        return weight * F.smooth_l1_loss(student, teacher.detach())

    return on_features(model, value)


@method("given-distances", title="isometry, given distances")
def given_distances(
    model: nn.Module,
    *,
    weight: float,
    distances: Callable[[Tensor], Tensor],
    shuffled: bool = False,
) -> Part:
    """The penalty on the features that enter the classifier, for arbitrary given distances.

    ``distances`` computes them from the references of the batch, and they need not be Euclidean
    distances of any points. ``shuffled`` is the same control as in `isometry`.
    """

    def value(features: Tensor, step: Step) -> Tensor:
        order = shuffle_within(step.labels) if shuffled else slice(None)
        targets = distances(step.reference[order])
        return weight * isometry_penalty(None, features, step.labels, input_distances=targets)

    return on_features(model, value)


@method("second-head", title="a second head")
def second_head(model: nn.Module, *, weight: float, outputs: int) -> Part:
    """The best rival, `isoreg.ReferenceHead`: a linear head predicts the reference itself."""
    head = ReferenceHead(model, outputs, weight=weight)
    parameters = tuple(head.parameters())
    return Part(term=lambda step: head(step.reference), finish=head.detach, parameters=parameters)


@method("supervised-contrastive", title="supervised contrastive")
def supervised_contrastive(model: nn.Module, *, weight: float) -> Part:
    """The contrastive loss of Khosla et al. (2020) on the features, added to cross-entropy."""
    from pytorch_metric_learning.losses import SupConLoss

    contrastive = SupConLoss(temperature=0.1)

    def value(features: Tensor, step: Step) -> Tensor:
        loss: Tensor = contrastive(features, step.labels)
        return weight * loss

    return on_features(model, value)


@method("isometry-and-head", title="isometry and a second head")
def isometry_and_head(
    model: nn.Module, *, weight: float, outputs: int, head: float, until: float | None
) -> Part:
    """Isometry together with its best rival, a head that predicts the reference.

    The weight of the head's loss falls linearly from ``head`` to 0 at the share ``until`` of
    training; with None it stays the same.
    """
    penalty, second = isometry(model, beta=weight), ReferenceHead(model, outputs)

    def term(step: Step) -> Tensor:
        second.weight = head * (1.0 if until is None else max(0.0, 1 - step.progress / until))
        predicted: Tensor = second(step.reference)
        assert penalty.term is not None
        return penalty.term(step) + predicted

    def take_off() -> None:
        second.detach()
        if penalty.finish:
            penalty.finish()

    parameters = tuple(second.parameters())
    return Part(before=penalty.before, term=term, finish=take_off, parameters=parameters)


@method("feature-norm", title="feature norm")
def feature_norm(model: nn.Module, *, weight: float, length: float) -> Part:
    """A control without geometry: the mean squared gap between features' norms and ``length``."""

    def value(features: Tensor, _: Step) -> Tensor:
        gaps: Tensor = features.norm(dim=1) - length
        return weight * gaps.square().mean()

    return on_features(model, value)


def on_features(model: nn.Module, value: Callable[[Tensor, Step], Tensor]) -> Part:
    """A `Part` whose term is a function of the features (n, d) before the classifier and the step.

    The recorder is removed at the end.
    """
    recorder = last_features(model)

    def term(step: Step) -> Tensor:
        (features,) = recorder.take().features.values()
        return value(features.flatten(1), step)

    return Part(term=term, finish=recorder.remove)


def shuffle_within(labels: Tensor) -> Tensor:
    """Indices that permute samples within each class; a mixed label counts as its largest class."""
    labels = labels if labels.ndim == 1 else labels.argmax(1)
    partners = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        partners[members] = members[torch.randperm(len(members))]
    return partners


def _relative_distances(x: Tensor) -> Tensor:
    """Distances of all pairs of different samples, divided by their mean."""
    distances = F.pdist(x.flatten(1))
    return distances / distances.mean().clamp_min(torch.finfo(x.dtype).tiny)


def _activations(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, ACTIVATIONS)]
