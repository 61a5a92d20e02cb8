"""The ways to train, each a loss of a batch with one strength, chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.objectives import attach
from benchmarks.objectives.shuffling import shuffle_within
from benchmarks.structure.data import MANIFOLD
from isoreg import IsometryRegularizer, isometry_penalty
from isoreg.layers import Layers
from isoreg.penalty import Scale

TARGET = 10.0
"""Root mean squared distance of all references; also what the controls without geometry aim at."""


class Batch(NamedTuple):
    """Inputs, coarse labels, and for each sample what its features are compared with."""

    x: Tensor
    labels: Tensor
    reference: Tensor


class Objective(NamedTuple):
    """The loss of a batch, and parameters of its own to be trained."""

    loss: Callable[[Batch], Tensor]
    parameters: list[nn.Parameter]


Build: TypeAlias = Callable[[nn.Sequential, float, int], AbstractContextManager[Objective]]
Loss: TypeAlias = Callable[[nn.Sequential, float, Batch], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        build: The model, the strength and the width of the reference to an objective.
        reference: What features are compared with, a name in `Data.references`.
        strengths: What to choose from on validation images.
        strength: Chosen by ``structure --part search`` (see results/structure-search.md).
        dropout: Whether the strength is the share of units to drop.
    """

    build: Build
    strengths: tuple[float, ...] = ()
    strength: float = 0.0
    reference: str = "pixels"
    dropout: bool = False


def without_hooks(loss: Loss) -> Build:
    """A method that is a function of model, strength and batch."""

    @contextmanager
    def build(model: nn.Sequential, strength: float, _: int) -> Iterator[Objective]:
        yield Objective(lambda batch: loss(model, strength, batch), [])

    return build


def isometry(
    layers: Layers = None,
    *,
    pairs: str = "class",
    shuffled: bool = False,
    reduction: str = "batch",
    scale: Scale = 1.0,
    inputs: str | None = None,
) -> Build:
    """The penalty of this library, by default on what enters the classifier.

    Args:
        layers: Whose outputs are compared; None: what enters the classifier.
        pairs: "class" or "all".
        shuffled: Whether each sample gets the reference of another of its class, the control.
        reduction: Of the penalty.
        scale: Of the penalty.
        inputs: Name of a layer whose output is the reference; None: that of the batch.
    """
    assert not (inputs and shuffled), "the output of a layer is not shuffled"

    @contextmanager
    def build(model: nn.Sequential, strength: float, _: int) -> Iterator[Objective]:
        rows: list[Tensor] = []
        iso = IsometryRegularizer(
            model,
            layers,
            beta=strength,
            inputs=inputs or (lambda *_: rows[0]),
            reduction=reduction,
            scale=scale,
        )

        def loss(batch: Batch) -> Tensor:
            order = shuffle_within(batch.labels) if shuffled else slice(None)
            rows[:] = [batch.reference[order]]
            logits = model(batch.x)
            penalty = iso(batch.labels if pairs == "class" else None)
            return F.cross_entropy(logits, batch.labels) + penalty

        with iso:
            yield Objective(loss, [])

    return build


def cross_entropy(model: nn.Sequential, strength: float, batch: Batch) -> Tensor:
    """Nothing else."""
    del strength
    return F.cross_entropy(model(batch.x), batch.labels)


def from_distances(distances: Callable[[Tensor], Tensor], *, shuffled: bool = False) -> Build:
    """The penalty on what enters the classifier, for given distances, which no points need have.

    Args:
        distances: References of a batch to (b, b).
        shuffled: Whether each sample gets the reference of another of its class, the control.
    """

    def loss(model: nn.Sequential, strength: float, batch: Batch) -> Tensor:
        logits, features = _logits_and_features(model, batch)
        order = shuffle_within(batch.labels) if shuffled else slice(None)
        wanted = distances(batch.reference[order])
        penalty = isometry_penalty(None, features, batch.labels, input_distances=wanted)
        return F.cross_entropy(logits, batch.labels) + strength * penalty

    return without_hooks(loss)


def constant_distance(points: Tensor) -> Tensor:
    """One and the same distance for all pairs."""
    return TARGET * (1 - torch.eye(len(points)))


def feature_norm(model: nn.Sequential, strength: float, batch: Batch) -> Tensor:
    """Features of one length: (|phi| - 10 / sqrt 2)^2."""
    logits, features = _logits_and_features(model, batch)
    penalty: Tensor = (features.norm(dim=1) - TARGET / 2**0.5).square().mean()
    return F.cross_entropy(logits, batch.labels) + strength * penalty


def from_objectives(name: str, option: str) -> Build:
    """A method of `benchmarks.objectives`, with one of its options as the strength."""

    @contextmanager
    def build(model: nn.Sequential, strength: float, _: int) -> Iterator[Objective]:
        with attach(model, {name: {option: strength}}) as objective:
            yield Objective(lambda batch: objective(batch.x, batch.labels), [])

    return build


@contextmanager
def supervised_contrastive(model: nn.Sequential, strength: float, _: int) -> Iterator[Objective]:
    """Beside cross-entropy the contrastive loss of Khosla et al. (2020) on the features."""
    from pytorch_metric_learning.losses import SupConLoss

    contrastive = SupConLoss(temperature=0.1)

    def loss(batch: Batch) -> Tensor:
        logits, features = _logits_and_features(model, batch)
        term: Tensor = contrastive(features, batch.labels)
        return F.cross_entropy(logits, batch.labels) + strength * term

    yield Objective(loss, [])


@contextmanager
def regression(model: nn.Sequential, strength: float, width: int) -> Iterator[Objective]:
    """A second linear head that predicts the reference itself: what else it could be used for."""
    head = nn.Linear(width_of(model), width)

    def loss(batch: Batch) -> Tensor:
        logits, features = _logits_and_features(model, batch)
        error: Tensor = (head(features) - batch.reference.flatten(1)).square().sum(1).mean()
        return F.cross_entropy(logits, batch.labels) + strength * error

    yield Objective(loss, list(head.parameters()))


def compared_with(
    reference: str,
    *,
    name: str,
    strengths: tuple[float, ...],
    of_control: tuple[float, ...],
    of_head: tuple[float, ...],
) -> dict[str, Method]:
    """Isometry, its control and a second head, with one reference.

    Args:
        reference: A name in `Data.references`.
        name: Of the reference in the methods' names.
        strengths: To choose from for isometry.
        of_control: To choose from for its control.
        of_head: To choose from for the second head.
    """
    control = isometry(shuffled=True)
    return {
        f"isometry, {name}": Method(isometry(), strengths, reference=reference),
        f"control: {name}, shuffled": Method(control, of_control, reference=reference),
        f"{name} predicted by a head": Method(regression, of_head, reference=reference),
    }


def width_of(model: nn.Sequential) -> int:
    """Number of features that enter the classifier."""
    classifier = model[-1]
    assert isinstance(classifier, nn.Linear)
    return classifier.in_features


def _logits_and_features(model: nn.Sequential, batch: Batch) -> tuple[Tensor, Tensor]:
    features: Tensor = model[:-1](batch.x)
    logits: Tensor = model[-1](features)
    return logits, features


_BETAS = (0.02, 0.1, 0.5)

# three strengths each, and more where the best lay at an end of those; the best of the control of
# pixels and of dropout is the smallest still
METHODS: dict[str, Method] = {
    "cross-entropy": Method(without_hooks(cross_entropy)),
    "isometry, pixels": Method(isometry(nn.Tanh), _BETAS, 0.1),
    "isometry, patches": Method(isometry(nn.Tanh), (0.004, *_BETAS), 0.02, "patches"),
    "isometry, manifold": Method(isometry(), (*_BETAS, 2.0), 0.5, MANIFOLD),
    "all pairs, manifold": Method(isometry(pairs="all"), (*_BETAS, 2.0), 0.5, MANIFOLD),
    "control: pixels, shuffled": Method(isometry(nn.Tanh, shuffled=True), (0.004, *_BETAS), 0.004),
    "control: manifold, shuffled": Method(isometry(shuffled=True), _BETAS, 0.1, MANIFOLD),
    "control: constant distance": Method(from_distances(constant_distance), _BETAS, 0.1),
    "control: feature norm": Method(without_hooks(feature_norm), (0.002, 0.01, 0.05, 0.2), 0.05),
    "manifold predicted by a head": Method(regression, (0.004, 0.02, 0.1, 0.5), 0.1, MANIFOLD),
    "supervised contrastive": Method(supervised_contrastive, (0.02, 0.1, 0.5, 2.0), 0.1),
    "Jacobian": Method(
        from_objectives("jacobian", "weight"), (0.01, 0.1, 0.5, 2.0, 10.0, 50.0), 10.0
    ),
    "label smoothing": Method(
        from_objectives("label-smoothing", "share"), (0.05, 0.15, 0.4, 0.7, 0.85, 0.95), 0.85
    ),
    "dropout": Method(without_hooks(cross_entropy), (0.02, 0.05, 0.15, 0.4), 0.02, dropout=True),
}

# with the scale of each batch fitted, at the strengths that were chosen without
FITTED: dict[str, Method] = {
    "isometry, manifold": Method(isometry(scale="fit"), (), 0.5, MANIFOLD),
    "control: manifold, shuffled": Method(isometry(shuffled=True, scale="fit"), (), 0.1, MANIFOLD),
}
