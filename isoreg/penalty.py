"""The isometry penalty of tensors; models play no part. Axes: b = batch, d = dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from isoreg._compiled import between_graphs
from isoreg._pairs.dense import dense_by_options
from isoreg._pairs.node import Terms, engine_penalty
from isoreg._pairs.options import REDUCTIONS, Options, Scale, check_reduction, check_scale
from isoreg._pairs.plan import make_call
from isoreg._ranks.exchange import Group, resolve_group
from isoreg._ranks.penalty import penalty_across
from isoreg._tables import pair_table
from isoreg.distances import Metric, euclidean, flatten_points, resolve_metric
from isoreg.errors import InputError, error_prefix
from isoreg.masks import check_shape, valid_labels
from isoreg.memory import FeatureQueue

__all__ = ["REDUCTIONS", "Scale", "check_reduction", "check_scale", "isometry_penalty"]

_between_graphs = between_graphs(
    penalty_across,
    "a graph holds the pairs of one batch in one process: with queue or process_group compile "
    "without fullgraph=True, so that the penalty runs between two graphs",
)
_densely_between_graphs = between_graphs(
    dense_by_options,
    "a graph holds Euclidean distances: with another metric, or a reference or labels that need a "
    "gradient, compile without fullgraph=True, so that the penalty runs between two graphs",
)


def isometry_penalty(
    inputs: Tensor | None,
    features: Tensor | Sequence[Tensor],
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
    input_distance: Metric | None = None,
    scale: Scale = 1.0,
    reduction: str = "batch",
    input_distances: Tensor | None = None,
    pair_weights: Tensor | None = None,
    process_group: Group = None,
    queue: FeatureQueue | None = None,
) -> Tensor:
    r"""How far features are from keeping the distances of their inputs.

    .. math::
        \frac{1}{N^2} \sum_{ij} G_{ij} (d'(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

    with x the inputs, phi the features, G the pair weights of the labels
    (`isoreg.masks.pair_weights`) times the given ``pair_weights``, d' and d the metrics, which are
    the same unless ``input_distance`` is given, and s the scale. ``reduction="pairs"`` divides by
    the sum of G_ij over i != j instead of N^2, so that the value does not shrink with the number
    of classes. ``scale="fit"`` uses the s that makes the penalty smallest for each layer and
    batch, sum(G d_x d_phi) / sum(G d_phi^2): any multiple of an isometry then costs nothing.

    The penalty is computed in float32 or better, whatever autocast says, and can be differentiated
    twice. Pairs at distance 0 have gradient 0. A batch without pairs, or without samples, gives 0,
    still attached to the graph. A NaN or infinite feature anywhere gives NaN. Wrong values of
    labels, given distances, pair weights and metrics raise an error on a CPU. On an accelerator,
    where reading them would wait for the device, they make the penalty NaN.

    A pair whose given distance is NaN is not known: it has no effect on the value, the gradient,
    the sum that "pairs" divides by, and the fitted scale. ``reduction="batch"`` still divides by
    N^2. The diagonal of given distances and pair weights is not read, and neither are the entries
    of pairs that do not count.

    With a ``process_group`` of R ranks, the batch is that of all ranks. The ranks' parts may have
    different sizes, also 0, and every rank must call this in every step. Rank r returns V_r, whose
    **mean over the ranks is the penalty** of the whole batch, with R times the gradient of the
    penalty by its own features. The average of these gradients over the ranks, as
    `DistributedDataParallel` and FSDP compute it, is what one process would get. V_r is R times the
    part of the sum with i in the rank's own batch. With a distance other than the Euclidean, or
    with inputs, given distances or labels that need a gradient, every rank computes all pairs and
    V_r is the penalty itself. Features are gathered once; the backward pass communicates nothing.
    There are no second derivatives. A scale in a tensor must be the same on all ranks, which is not
    checked.

    The first backend that can computes the pairs: Triton on CUDA where it is installed, numba on a
    CPU (extra ``fast``), else torch. The environment variable ``ISOREG_BACKEND`` (triton, numba or
    torch) forces one backend. Inside `torch.compile` the penalty is one operator.

    Source: equation 2 of "Isometric Representations in Neural Networks Improve Robustness"
    (Beshkov, Verhellen and Lepperød, 2022), which has Euclidean distances, the class mask and
    s = 1; the released code multiplies the feature distances by a constant K, here ``scale``.

    Args:
        inputs: (N, ...) what the features are compared with; not read where ``input_distances``
            are given.
        features: (N, ...), or a sequence of L such tensors, one a layer.
        labels: None (all pairs), (N,) integers (pairs of equal label; -100 pairs with nobody) or
            (N, C) probabilities.
        distance: A name in `isoreg.distances.METRICS`, or a callable (N, D) -> (N, N).
        input_distance: The same for the inputs; None: as ``distance``.
        scale: A positive number or 0-dimensional tensor, or "fit".
        reduction: "batch" (divide by N^2, the paper's) or "pairs" (by the weight of the pairs).
        input_distances: (N, N) distances to use in place of those between ``inputs``, symmetric,
            0 or more, NaN where a pair is not known. Across ranks they are (n, N), from the own
            samples to those of all ranks in rank order. With a queue they may be (n, N + held),
            with the distances to the held samples in the last columns, the oldest first.
        pair_weights: (N, N) weights by which those of the labels are multiplied, symmetric, 0 or
            more; across ranks and with a queue they have the shape of ``input_distances``.
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
    with error_prefix("isometry_penalty"):
        _refuse_vmap(labels, scale)  # before their values are read
        metric = resolve_metric(distance)
        input_metric = metric if input_distance is None else resolve_metric(input_distance)
        scale = check_scale(scale)
        check_reduction(reduction)
        if queue is not None and not isinstance(queue, FeatureQueue):
            raise InputError(
                f"queue must be an isoreg.FeatureQueue or None, got {type(queue).__name__}."
            )
        # two tests, because torch 2.9 cannot compile a union of types
        if not isinstance(features, Tensor) and not isinstance(features, Iterable):
            raise InputError(
                f"features must be a tensor or a sequence of them, got {type(features).__name__}."
            )
        layers = [features] if isinstance(features, Tensor) else list(features)
        single = isinstance(features, Tensor)
        names = ["features"] if single else [f"features[{i}]" for i in range(len(layers))]
        points = _points(layers, names)
        if labels is not None:
            check_shape(labels, points[0].shape[0])
        penalties, _ = layer_penalties(
            inputs,
            points,
            labels,
            Options(metric, input_metric, scale, reduction, input_distances is not None),
            input_distances=input_distances,
            pair_weights=pair_weights,
            process_group=process_group,
            queue=queue,
            narrow=[x.dtype for x in layers],
            names=names,
        )
        # reshape, because its gradient costs less than that of an index
        return penalties.reshape(()) if isinstance(features, Tensor) else penalties


def layer_penalties(
    inputs: Tensor | None,
    points: list[Tensor],
    labels: Tensor | None,
    options: Options,
    *,
    input_distances: Tensor | None = None,
    pair_weights: Tensor | None = None,
    process_group: Group = None,
    queue: FeatureQueue | None = None,
    narrow: Sequence[torch.dtype] = (),
    names: Sequence[str] = (),
) -> tuple[Tensor, int]:
    """`isometry_penalty` of features, labels and options that have been checked.

    Args:
        inputs: (N, ...) what the features are compared with, or None.
        points: (N, d) features of each layer, in float32 or better.
        labels: As in `isometry_penalty`; of the right type and shape.
        options: How distances are compared.
        input_distances: (N, N) distances in place of the inputs, or None.
        pair_weights: (N, N) weights of the pairs, or None.
        process_group: The ranks whose batches are one batch.
        queue: Past samples to compare with too.
        narrow: Dtypes in which the features were given.
        names: Names of the features in errors, the same on all ranks.

    Returns:
        (L,) penalties, and the column of the first own sample in given distances and weights.

    Raises:
        InputError: If the reference or the weights cannot be used.
        RankError: If the ranks disagree.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> layer_penalties(x, [3 * x], None, Options(euclidean, euclidean, 1.0, "batch", False))[0]
        tensor([2.])
    """
    _refuse_vmap(inputs, input_distances, pair_weights, *points)
    group = resolve_group(process_group)
    square = group is None and queue is None
    reference = _reference(inputs, input_distances, points[0], square=square)
    if pair_weights is not None:
        pair_weights = _weights(pair_weights, points[0], square=square)
    by_engine = _by_engine(options, labels, reference)
    first = 0
    if not square:
        source = reference if inputs is None or options.given else inputs
        across = _between_graphs if torch.compiler.is_compiling() else penalty_across
        penalties, first = across(
            reference,
            points,
            labels,
            options,
            pair_weights,
            by_engine=by_engine,
            narrow=[source.dtype, *narrow],
            names=names,
            group=group,
            queue=queue,
        )
    elif by_engine:
        call = make_call(reference, points, labels, options, pair_weights)
        penalties = engine_penalty(call, Terms(options.scale, options.reduction))
    else:
        dense = _densely_between_graphs if torch.compiler.is_compiling() else dense_by_options
        penalties = dense(reference, points, labels, options, pair_weights)
    if labels is not None and not labels.device.type == reference.device.type == "cpu":
        penalties = spoil(penalties, valid_labels(labels).all())
    return penalties, first


def spoil(penalties: Tensor, valid: Tensor) -> Tensor:
    """Make penalties and their gradients NaN unless a flag is true, without waiting for the device.

    Args:
        penalties: (L,) penalties.
        valid: The flag, a 0-dimensional boolean.

    Returns:
        (L,) penalties.

    Example:
        >>> spoil(torch.ones(2), torch.tensor(False))
        tensor([nan, nan])
    """
    return penalties * torch.where(valid.to(penalties.device), 1.0, math.nan).to(penalties.dtype)


def _by_engine(options: Options, labels: Tensor | None, reference: Tensor) -> bool:
    """Whether the engine covers these options, which it does for most users."""
    compiling = torch.compiler.is_compiling()
    transformed = not compiling and torch._C._are_functorch_transforms_active()
    # also within torch.autograd.forward_ad, because the engine does not carry its tangents
    transformed = transformed or (not compiling and forward_ad._current_level >= 0)
    return (
        options.metric is euclidean
        and (options.given or options.input_metric is euclidean)
        and (labels is None or not labels.requires_grad)
        and not reference.requires_grad
        and not transformed
    )


def _weights(values: Tensor, like: Tensor, *, square: bool) -> Tensor:
    n = like.shape[0]  # len() is slower: it asks whether torch traces
    table = pair_table(values, "pair_weights", n, n if square else None, like)
    if table.requires_grad:
        raise InputError(
            "pair_weights must be constants, got weights that require a gradient. "
            "Pass pair_weights.detach()."
        )
    return table


def _points(layers: list[Tensor], names: list[str]) -> list[Tensor]:
    """The flattened features of each layer, checked to have the same number of samples."""
    if not layers:
        raise InputError("features must hold at least one tensor, got an empty sequence.")
    points = [flatten_points(x, name) for x, name in zip(layers, names, strict=True)]
    for x, name in zip(points, names, strict=True):
        _check_length(name, x.shape[0], points[0].shape[0], names[0])
    return points


def _refuse_vmap(*values: object) -> None:
    """Refuse tensors of `torch.vmap`, also those that another transform has wrapped again."""
    if torch.compiler.is_compiling():
        return
    wrapped = torch._C._functorch
    for value in values:
        while isinstance(value, Tensor) and wrapped.is_functorch_wrapped_tensor(value):
            if wrapped.is_batchedtensor(value):
                raise InputError(
                    "torch.vmap is not supported, because how pairs are computed depends on the "
                    "data. Compare the samples of one model after another; several layers of it "
                    "may be a sequence."
                )
            value = wrapped.get_unwrapped(value)


def _reference(
    inputs: Tensor | None, distances_bb: Tensor | None, like: Tensor, *, square: bool
) -> Tensor:
    """What features are compared with: the given distances, or the flattened inputs."""
    n = like.shape[0]
    if distances_bb is not None:
        return pair_table(distances_bb, "input_distances", n, n if square else None, like)
    if inputs is None:
        raise InputError("inputs must be a tensor unless input_distances is given, got None.")
    points = flatten_points(inputs, "inputs")
    _check_length("inputs", points.shape[0], n, "features")
    _refuse_table(points)
    return points.to(like.device)


def _refuse_table(points: Tensor) -> None:
    """Refuse distances in the place of points; values are looked at on the CPU, if a row is N."""
    n, columns = points.shape
    if n != columns or n < 3 or points.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():  # values cannot be read inside one
        return
    table = points.detach()
    largest = float(table.amax())
    if not largest > 0 or table.diagonal().abs().amax() > 0.01 * largest or bool((table < 0).any()):
        return
    if torch.allclose(table, table.T, rtol=1e-3, atol=1e-3 * largest):
        raise InputError(
            f"inputs must be points, got what looks like the distances of {n} samples: symmetric, "
            "0 from each sample to itself. Give them as distances: input_distances= of "
            "isometry_penalty, iso(labels, distances=...) of a regularizer."
        )


def _check_length(name: str, length: int, n: int, other: str) -> None:
    if length != n:
        raise InputError(
            f"{name} and {other} must hold the same samples, got {length} and {n} of them."
        )
