"""The steps of `IsometricEmbedding.fit` in their order, from checked data to a trained map."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isoreg._devices import pick_device
from isoreg.diagnostics import distortion_of
from isoreg.distances import exact_dtype
from isoreg.embedding.blocks import NAMES, Blocks, Places
from isoreg.embedding.layout import FEW, NOTHING, drowning, lay_out
from isoreg.embedding.network import MapNetwork, batches, mlp
from isoreg.embedding.own_network import check_output, copied, refuse_one_point
from isoreg.embedding.targets import UNKNOWN, Targets, classmates_first
from isoreg.embedding.training import Pairs, Recipe, train
from isoreg.errors import InputError

MEASURED = 1000  # most samples on which the unit of a map and its stress are measured
APART, CLOSEST = 4.0, 2.0  # median and least distance of two prototypes, in radii of the classes
STEPS, STEPS_A_SAMPLE, MOST_STEPS, EPOCHS = 100, 0.5, 1200, 10  # see `default_epochs`
# Rejected: half of the noise in the shape of the class (differences of two of its samples). On
# validation folds kNN gains 0.9 to 1.5 points on oils and -0.2 to 0.5 on tissues and tumours, but
# loses 0.3 on digits and 0.8 to 1.9 on cells; r falls by 0.01 to 0.02.
NOISE, NOISE_WITHOUT_CLASSES = 1.0, 0.0


@dataclass(frozen=True)
class Fitted:
    """The trained map, its stress, the course of its training and the places of the classes."""

    network: MapNetwork
    stress: float
    history: dict[str, list[Any]]
    prototypes: NDArray[np.float32] | None


def fit_map(
    settings: Any, rows: NDArray[Any], blocks: Blocks, targets: Targets | None, seed: int
) -> Fitted:
    """Train a map with the checked settings of an `isoreg.embedding.IsometricEmbedding`.

    Returns:
        The trained map and its measurements.

    Raises:
        InputError: If too few samples are left to learn from, no distance is above 0, or the
            network does not fit.
    """
    generator, size = torch.Generator().manual_seed(seed), int(settings.batch_size)
    shuffled = torch.randperm(len(rows), generator=generator).numpy()
    n_held = _n_held_out(settings, len(rows))
    classes = None if targets is None else targets.classes
    if n_held and classes is not None:
        shuffled = _with_classmates(shuffled, n_held, classes)
    learned = shuffled[n_held:]
    learned_sample = classmates_first(learned, classes)[:MEASURED]
    measured = classmates_first(shuffled[:n_held], classes)[:MEASURED] if n_held else learned_sample
    pairs = _scaled_pairs(settings, rows, blocks, targets, learned)
    network, noise = _network(settings, rows, pairs, learned, seed)
    inputs = network.standard(torch.tensor(rows))
    if isinstance(settings.metric, str) and settings.metric == "euclidean":
        pairs.rows = inputs * float(network.spread / pairs.radius)
    per_epoch = max(1, len(learned) // size)
    epochs = int(settings.max_epochs or 0) or default_epochs(len(learned), per_epoch)
    recipe = Recipe(
        steps=epochs * per_epoch,
        learning_rate=settings.learning_rate,
        noise=noise,
        beta=settings.beta,
        beta_all=settings.beta_all,
        near=settings.near,
        patience=settings.n_iter_no_change if settings.early_stopping else None,
        verbose=settings.verbose,
    )
    if settings.early_stopping:
        _check_held_out(pairs, measured[:size], settings.n_components)
    places = torch.as_tensor(learned)
    order = (places[batch] for batch in batches(len(places), size, generator))
    history = train(network.body, inputs, order, pairs, recipe, generator, measured[:size])
    refuse_one_point(network.body, inputs[torch.as_tensor(measured, device=inputs.device)])
    stress = _rescale(network, inputs, pairs, learned_sample, measured, size)
    if settings.network is None:  # so that a point does not depend on the rows beside it
        network.body.to(network.mean.dtype)
    prototypes = None if targets is None else (network.unit * pairs.prototypes).cpu().numpy()
    return Fitted(network, stress, history, prototypes)


def default_epochs(n: int, per_epoch: int) -> int:
    """Epochs of a training: at least 10, and enough for the lesser of 100 + n/2 and 1,200 steps.

    Args:
        n: Number of training samples.
        per_epoch: Steps an epoch.

    Returns:
        The number.

    Example:
        >>> default_epochs(100, 1), default_epochs(1000, 1), default_epochs(60_000, 234)
        (150, 600, 10)
    """
    steps = min(STEPS + STEPS_A_SAMPLE * n, MOST_STEPS)
    return max(EPOCHS, math.ceil(steps / per_epoch))


def _n_held_out(settings: Any, n: int) -> int:
    if not settings.early_stopping:
        return 0
    n_held: int = max(2, math.ceil(n * settings.validation_fraction))
    if n - n_held < 2:
        raise InputError(
            f"early_stopping must leave at least 2 samples to learn from, got {n - n_held} of {n} "
            f"with validation_fraction={settings.validation_fraction}."
        )
    return n_held


def _with_classmates(shuffled: Places, n_held: int, classes: Places) -> Places:
    """The same draw; two of the largest class come first if no two held-out ones share a class."""
    counts = np.bincount(classes[shuffled[:n_held]] + 1)[1:]  # UNKNOWN is -1
    if counts.max(initial=0) > 1:
        return shuffled
    largest = np.bincount(classes + 1)[1:].argmax()
    mates = shuffled[classes[shuffled] == largest][:2]
    return np.concatenate([mates, shuffled[~np.isin(shuffled, mates)]])


def _check_held_out(pairs: Pairs, measured: Places, components: int) -> None:
    distances, _ = pairs.compared(torch.zeros(len(measured), components), measured)
    if not (distances > 0).any():  # without such a pair there is no stress that could fall
        raise InputError(
            "early_stopping must hold out two samples whose distance is known and above 0, of one "
            f"class if there are classes, got none among {len(measured)}. Hold out more: "
            "validation_fraction=..."
        )


def _scaled_pairs(
    settings: Any, rows: NDArray[Any], blocks: Blocks, targets: Targets | None, learned: Places
) -> Pairs:
    """The pairs; one batch of samples gives the radius and the places of the classes."""
    k = 0 if targets is None else len(targets.names)
    classes = np.full(len(learned), UNKNOWN) if targets is None else targets.classes[learned]
    chosen = _from_each_class(classes, max(settings.batch_size, 2 * k))
    table = blocks(learned[chosen]).numpy()
    if not (table > 0).any():  # by chance all are copies of one sample: take distinct ones
        distinct = np.unique(rows[learned], axis=0, return_index=True)[1]
        chosen = distinct[: settings.batch_size] if len(distinct) > 1 else chosen
        table = blocks(learned[chosen]).numpy()
    layout = lay_out(table, classes[chosen], k, settings.n_components, apart=APART, closest=CLOSEST)
    _warn_of_few(settings, rows, blocks, learned[chosen], table)
    device = pick_device(settings.device)
    prototypes = torch.as_tensor(layout.prototypes, dtype=torch.float32, device=device)
    return Pairs(blocks, layout.radius, targets, prototypes)


def _warn_of_few(
    settings: Any, rows: NDArray[Any], blocks: Blocks, places: Places, table: NDArray[Any]
) -> None:
    """Warn if distances to a few samples are so large that they drown all others.

    With a metric by name, the samples furthest from the mean in any column are looked at as well.
    """
    if isinstance(settings.metric, str) and settings.metric in NAMES:
        gaps = np.abs(rows - rows.mean(0, dtype=np.float64)).max(1)
        furthest = np.argsort(-gaps)[:FEW]
        places = np.r_[furthest, np.setdiff1d(places, furthest)][: len(places)]
        table = blocks(places).numpy()
    few, share = drowning(table)
    if len(few):
        warnings.warn(
            "IsometricEmbedding.fit: distances to sample "
            f"{', '.join(map(str, sorted(places[few])))} drown all others: those among the other "
            f"{len(places) - len(few)} make up {share:.1g} of the sum of squares, so that the map "
            "need not keep them. Is a number or a unit wrong there? Correct it, leave the sample "
            "out, or take logarithms of columns with long tails.",
            stacklevel=5,
        )


def _from_each_class(classes: NDArray[np.int64], most: int) -> Places:
    """At most ``most`` places, from the classes in turn; unlabelled ones only if all are."""
    order = np.argsort(classes, kind="stable")
    order = order[classes[order] != UNKNOWN] if (classes != UNKNOWN).any() else order
    starts = np.searchsorted(classes[order], classes[order])
    return order[np.argsort(np.arange(len(order)) - starts, kind="stable")][:most]


def _network(
    settings: Any, rows: NDArray[Any], pairs: Pairs, learned: Places, seed: int
) -> tuple[MapNetwork, float]:
    """The network before training, and the standard deviation of the noise on its body's input."""
    learned_rows = rows[learned].astype(np.float64)
    mean = learned_rows.mean(0)
    # Division by a power of two rounds nothing, and keeps all squares in the range of float64.
    size = 2.0 ** int(np.frexp(np.abs(learned_rows - mean).max())[1] - 1)
    spread = size * float(np.sqrt((((learned_rows - mean) / size) ** 2).mean())) or 1.0
    if settings.network is None:
        body: nn.Module = mlp(rows.shape[1], settings.n_components, seed)
    else:
        body = copied(settings.network)
    device = pick_device(settings.device)
    centre = torch.as_tensor(mean, dtype=exact_dtype(device))
    network = MapNetwork(body, centre, spread, pairs.radius).to(device)
    check_output(network, rows[learned[:2]], settings.n_components)
    if pairs.targets is None:
        return network, NOISE_WITHOUT_CLASSES if settings.noise is None else settings.noise
    classes = pairs.targets.classes[learned]
    share = NOISE if settings.noise is None else settings.noise
    return network, share * _class_radius((learned_rows - mean) / size, classes) * (size / spread)


def _class_radius(rows: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """Mean over the classes of their root mean square deviation a column; 0 if all are single."""
    squares = [
        float(((rows[classes == k] - rows[classes == k].mean(0)) ** 2).mean())
        for k in np.unique(classes[classes != UNKNOWN])
        if (classes == k).sum() > 1
    ]
    return float(np.mean(np.sqrt(squares))) if squares else 0.0


@torch.no_grad()
def _rescale(
    network: MapNetwork, inputs: Tensor, pairs: Pairs, learned: Places, measured: Places, size: int
) -> float:
    """Scale the map to the data's unit, and return the stress of the measured samples."""
    body: nn.Module = network.body

    def compared(places: Places, *, within: bool = True) -> list[Tensor]:
        results = []
        for start in range(0, len(places) - 1, size):  # a metric is called for one batch at a time
            batch = places[start : start + size]
            points = body(inputs[torch.as_tensor(batch, device=inputs.device)])
            results.append(pairs.compared(points, batch, within=within))
        return [torch.cat(tensors) for tensors in zip(*results, strict=True)]

    scale, measured_pairs = 1.0, compared(measured)
    if pairs.targets:
        distances, map_distances = measured_pairs if measured is learned else compared(learned)
        if not (distances > NOTHING).any():  # no class has two samples that differ
            distances, map_distances = compared(learned, within=False)
        scale = distortion_of(distances, map_distances).scale
    scale = scale if math.isfinite(scale) else 1.0
    network.unit.mul_(scale)
    distances, map_distances = measured_pairs
    return distortion_of(distances, scale * map_distances).stress
