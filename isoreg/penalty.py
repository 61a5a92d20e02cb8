"""The isometry penalty: the numbers, nothing about models. Axes: b = batch, d = dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from isoreg.across import penalty_across
from isoreg.dense import Scale, dense_penalty
from isoreg.distances import Metric, distances_by, euclidean, flatten_points, resolve_metric
from isoreg.distributed import Group, resolve_group
from isoreg.errors import InputError, called
from isoreg.fast import fast_penalty
from isoreg.masks import check_labels
from isoreg.memory import FeatureQueue
from isoreg.share import Options

REDUCTIONS = ("batch", "pairs")


def isometry_penalty(
    inputs: Tensor | None,
    features: Tensor | Sequence[Tensor],
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
    scale: Scale = 1.0,
    reduction: str = "batch",
    input_distances: Tensor | None = None,
    process_group: Group = None,
    queue: FeatureQueue | None = None,
) -> Tensor:
    r"""How far features are from keeping the distances of their inputs.

    .. math::
        \frac{1}{N^2} \sum_{ij} G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

    with x the inputs, phi the features, G the pair weights of the labels
    (`isoreg.masks.pair_weights`), d the metric and s the scale. ``reduction="pairs"`` divides by
    the sum of G_ij over i != j instead of N^2, so that the value does not shrink with the number
    of classes. ``scale="fit"`` uses the s that makes the penalty smallest for each layer and
    batch, sum(G d_x d_phi) / sum(G d_phi^2): any multiple of an isometry then costs nothing.

    Computed in float32 or better whatever autocast says; twice differentiable. Pairs at distance
    0 have gradient 0. A batch without pairs, or without samples, gives 0, still attached to the
    graph. A NaN or infinite feature anywhere gives NaN.

    With a ``process_group`` of R ranks the batch is that of all ranks, of any sizes, also 0, and
    every rank must call this in every step. Rank r returns V_r, whose **mean over the ranks is the
    penalty** of the whole batch, with R times its gradient by the own features: averaging
    gradients over the ranks, as `DistributedDataParallel` and FSDP do, then gives what one
    process would have had. V_r is R times the sum over i in the own batch and all j; with an
    option that only the plain way covers (another distance, soft labels, ``input_distances``,
    inputs that need a gradient) every rank computes all pairs and V_r is the penalty itself.
    Features are gathered once; nothing is communicated in the backward pass. There are no second
    derivatives.

    Source: equation 2 of "Isometric Representations in Neural Networks Improve Robustness"
    (Beshkov, Verhellen and Lepperød, 2022), which has Euclidean distances, the class mask and
    s = 1; the released code multiplies the feature distances by a constant K, here ``scale``.

    Args:
        inputs: (N, ...) what the features are compared with; None if ``input_distances`` is given.
        features: (N, ...), or a sequence of L such tensors, one a layer.
        labels: None (all pairs), (N,) integers (pairs of equal label) or (N, C) probabilities.
        distance: A name in `isoreg.distances.METRICS`, or a callable (N, D) -> (N, N).
        scale: A positive number or 0-dimensional tensor, or "fit".
        reduction: "batch" (divide by N^2, the paper's) or "pairs" (by the weight of the pairs).
        input_distances: (N, N) distances to use in place of those between ``inputs``; across
            ranks (n, N), of the own samples to those of all ranks in their order.
        process_group: None (this process alone), a `torch.distributed` group, or "world" (the
            default group when this is called; alone if there is none).
        queue: Past samples to compare with too (`isoreg.FeatureQueue`); the batch is added to it.

    Returns:
        A scalar for one tensor of features; shape (L,) for a sequence.

    Raises:
        InputError: If shapes disagree or an argument has a wrong type or value.
        RankError: If the ranks disagree, or one does not answer within the group's timeout.

    Example:
        >>> inputs = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
        >>> isometry_penalty(inputs, 2 * inputs, torch.tensor([0, 0, 1]))  # 2 * (5 - 10)^2 / 9
        tensor(5.5556)
        >>> isometry_penalty(inputs, 2 * inputs, torch.tensor([0, 0, 1]), scale=0.5)
        tensor(0.)
    """
    with called("isometry_penalty"):
        metric = resolve_metric(distance)
        check_scale(scale)
        check_reduction(reduction)
        layers = [features] if isinstance(features, Tensor) else list(features)
        points = _points(layers, single=isinstance(features, Tensor))
        _refuse_vmap(inputs, input_distances, *points)
        group = resolve_group(process_group)
        reference = _reference(inputs, input_distances, points[0], square=group is None)
        if labels is not None:
            check_labels(labels, len(points[0]))
        common = _is_common(metric, labels, reference, input_distances)
        penalties: Tensor | None = None
        if group is not None or queue is not None:
            fast = common and (labels is None or not labels.is_floating_point())
            first = inputs if input_distances is None else reference
            penalties = penalty_across(
                reference,
                points,
                labels,
                Options(metric, scale, reduction, input_distances is not None, fast),
                narrow=[x.dtype for x in (first, *layers) if x is not None],
                group=group,
                queue=queue,
            )
        elif common:
            penalties = fast_penalty(reference, points, labels, scale, reduction)
        if penalties is None:
            targets_bb = distances_by(metric, reference) if input_distances is None else reference
            penalties = dense_penalty(targets_bb, points, labels, metric, scale, reduction)
        return penalties[0] if isinstance(features, Tensor) else penalties


def check_scale(scale: Scale) -> None:
    """Refuse a scale that is neither a positive number nor "fit".

    Args:
        scale: The scale to check.

    Raises:
        InputError: If it is not usable.
    """
    number = scale.ndim == 0 if isinstance(scale, Tensor) else isinstance(scale, int | float)
    if number and not isinstance(scale, str):
        if 0 < (scale.detach().item() if isinstance(scale, Tensor) else scale) < math.inf:
            return
    elif isinstance(scale, str) and scale == "fit":
        return
    raise InputError(
        f"scale must be a positive number, a 0-dimensional tensor or 'fit', got {scale!r}."
    )


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction.

    Args:
        reduction: The reduction to check.

    Raises:
        InputError: If it is not in `REDUCTIONS`.
    """
    if reduction not in REDUCTIONS:
        allowed = " or ".join(map(repr, REDUCTIONS))
        raise InputError(f"reduction must be {allowed}, got {reduction!r}.")


def _is_common(
    metric: Callable[[Tensor], Tensor],
    labels: Tensor | None,
    reference: Tensor,
    input_distances: Tensor | None,
) -> bool:
    """Whether the fast way covers these options: all that most users ever call."""
    return (
        metric is euclidean
        and (labels is None or not labels.requires_grad)
        and input_distances is None
        and not reference.requires_grad
        and not torch._C._are_functorch_transforms_active()
    )


def _points(layers: list[Tensor], *, single: bool) -> list[Tensor]:
    """The flattened features of each layer, once they agree on the number of samples."""
    if not layers:
        raise InputError("features must hold at least one tensor, got an empty sequence.")
    names = ["features"] if single else [f"features[{index}]" for index in range(len(layers))]
    points = [flatten_points(x, name) for x, name in zip(layers, names, strict=True)]
    for x, name in zip(points, names, strict=True):
        _check_length(name, len(x), len(points[0]), names[0])
    return points


def _refuse_vmap(*tensors: Tensor | None) -> None:
    given = [x for x in tensors if isinstance(x, Tensor)]
    if any(map(torch._C._functorch.is_batchedtensor, given)):
        raise InputError(
            "torch.vmap is not supported, because how pairs are computed depends on the data. "
            "Pass several layers as a sequence instead."
        )


def _reference(
    inputs: Tensor | None, distances_bb: Tensor | None, like: Tensor, *, square: bool
) -> Tensor:
    """What features are compared with: the given distances, or the flattened inputs."""
    n = len(like)
    if distances_bb is not None:
        fits = distances_bb.ndim == 2 and len(distances_bb) == n
        fits = fits and (not square or distances_bb.shape[1] == n)
        if not fits or not distances_bb.is_floating_point():
            wanted = f"({n}, {n})" if square else f"({n}, samples of all ranks)"
            raise InputError(
                f"input_distances must be floating of shape {wanted} for {n} samples, "
                f"got {distances_bb.dtype} of shape {tuple(distances_bb.shape)}."
            )
        return distances_bb.to(like.device, torch.promote_types(distances_bb.dtype, torch.float32))
    if inputs is None:
        raise InputError("inputs must be a tensor unless input_distances is given, got None.")
    points = flatten_points(inputs, "inputs")
    _check_length("inputs", len(points), n, "features")
    return points.to(like.device)


def _check_length(name: str, length: int, n: int, other: str) -> None:
    if length != n:
        raise InputError(
            f"{name} and {other} must hold the same samples, got {length} and {n} of them."
        )
