"""Points -> pairwise distances. Axes: b = batch, d = dimensions of a flattened point."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.precision import CANCELLED
from isoreg._tables import check_dense, check_metric
from isoreg.errors import InputError, check_integer, error_prefix

Metric: TypeAlias = str | Callable[[Tensor], Tensor]

_NUMBERS_AT_ONCE = 1 << 22
"""Wide points are converted in pieces of at most this many numbers: the copies stay small."""


def sqeuclidean(points: Tensor) -> Tensor:
    """Squared Euclidean distances ``|x_i - x_j|^2``.

    The square is expanded for centred points, in float64 where the device has it. Pairs that are
    much closer to each other than to the mean are subtracted directly. Thus points far from the
    origin and nearly equal points keep their digits, which the usual expansion loses.

    Args:
        points: (b, d) points of a floating dtype; other types are refused.

    Returns:
        (b, b) squared distances, in the dtype of ``points``; exactly 0 for duplicates and on the
        diagonal.

    Example:
        >>> sqeuclidean(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    return _squares(points).to(points.dtype)


def euclidean(points: Tensor) -> Tensor:
    """Euclidean distances ``|x_i - x_j|``, the metric of the paper.

    Args:
        points: (b, d) points of a floating dtype; other types are refused.

    Returns:
        (b, b) distances, in the dtype of ``points``. Duplicates have distance 0 and gradient 0.
        Only squares of distances below 1e-154 of the largest entry leave the range of float64.

    Example:
        >>> euclidean(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    _check_points(points)
    if points.dtype != torch.float64 or not points.numel():  # float64 holds squares of the rest
        return _root(_squares(points)).to(points.dtype)
    size = _power_of_two(points)
    return _root(_squares(points / size)) * size


def manhattan(points: Tensor) -> Tensor:
    """City-block distances ``sum_k |x_ik - x_jk|``, which need memory for (b, b, d).

    Args:
        points: (b, d) points of a floating dtype; other types are refused.

    Returns:
        (b, b) distances.

    Example:
        >>> manhattan(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 7.],
                [7., 0.]])
    """
    return _gaps(points).sum(-1)


def chebyshev(points: Tensor) -> Tensor:
    """Chebyshev (L-infinity) distances ``max_k |x_ik - x_jk|``, which need memory for (b, b, d).

    Args:
        points: (b, d) points of a floating dtype, d >= 1; other types are refused.

    Returns:
        (b, b) distances.

    Example:
        >>> chebyshev(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 4.],
                [4., 0.]])
    """
    return _gaps(points, 1).amax(-1)


def cosine(points: Tensor) -> Tensor:
    """Cosine distances ``1 - <x_i, x_j> / (|x_i| |x_j|)``, from 0 to 2.

    A zero vector has no direction: its similarity with every other point counts as 0.

    Args:
        points: (b, d) points of a floating dtype, d >= 1; other types are refused.

    Returns:
        (b, b) distances with an exact zero diagonal.

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor([[0., 1., 2.],
                [1., 0., 1.],
                [2., 1., 0.]])
    """
    # Half the squared distance between unit vectors keeps its digits for nearly parallel points.
    unit = _unit(points)
    zero_b = (points == 0).all(1).to(points.dtype)
    missing_bb = (zero_b[:, None] + zero_b[None, :]) / 2
    return _zero_diagonal(sqeuclidean(unit) / 2 + missing_bb)


def angular(points: Tensor) -> Tensor:
    """Angles between points seen from the origin, in radians, from 0 to pi.

    They are computed as ``2 atan2(|u - v|, |u + v|)`` of the unit vectors, which equals
    ``arccos <u, v>`` but keeps its digits near 0 and pi. A zero vector is at pi / 2 from every
    other point.

    Args:
        points: (b, d) points of a floating dtype, d >= 1; other types are refused.

    Returns:
        (b, b) angles in radians with an exact zero diagonal.

    Example:
        >>> angular(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.0000, 1.5708],
                [1.5708, 0.0000]])
    """
    unit, n = _unit(points), len(points)
    lengths = _root(_squares(torch.cat([unit, -unit])))[:n]
    angles_bb = 2 * torch.atan2(lengths[:, :n], lengths[:, n:])
    zero_b = (points == 0).all(1)
    angles_bb = angles_bb.masked_fill(zero_b[:, None] & zero_b[None, :], math.pi / 2)
    return _zero_diagonal(angles_bb).to(points.dtype)


def geodesic(points: Tensor, *, neighbors: int = 10) -> Tensor:
    """Lengths of the shortest paths along the graph of nearest neighbours, as in Isomap.

    The graph joins every point with its ``neighbors`` nearest ones (Euclidean, symmetric) and
    adds a minimum spanning tree, so that all points are connected. Gradients are those of the
    edges along each shortest path. The time is O(b^3). For another number of neighbours, give
    ``functools.partial(geodesic, neighbors=5)`` as the metric.

    Source: Tenenbaum, de Silva and Langford (2000), Science 290. The spanning tree is ours; the
    original drops all but the largest component.

    Args:
        points: (b, d) points of a floating dtype; other types are refused.
        neighbors: Number of nearest neighbours of each point in the graph.

    Returns:
        (b, b) path lengths, in the unit of ``points``.

    Raises:
        InputError: If ``neighbors`` is no positive integer.

    Example:
        >>> corner = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
        >>> geodesic(corner, neighbors=1)[0, 2]
        tensor(2.)
    """
    check_integer("neighbors", neighbors, 1)
    edges_bb = euclidean(points)
    if len(points) < 2:
        return edges_bb
    if not edges_bb.isfinite().all():
        return edges_bb * math.nan
    with torch.no_grad():
        predecessors_bb = _shortest_paths(edges_bb, _neighbor_graph(edges_bb, neighbors))
    at = torch.arange(len(points), device=points.device).expand_as(predecessors_bb)
    lengths_bb = 0 * edges_bb
    for _ in range(len(points) - 1):  # each step walks back one edge, from all ends to all starts
        before = predecessors_bb.gather(1, at)
        if bool((before == at).all()):
            break
        lengths_bb = lengths_bb + edges_bb[before, at]
        at = before
    return lengths_bb


METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    metric.__name__: metric
    for metric in (euclidean, sqeuclidean, manhattan, chebyshev, cosine, angular, geodesic)
}


def pairwise_distances(points: Tensor, metric: Metric = "euclidean") -> Tensor:
    """Distances between all pairs of a batch: ``D_ij = d(x_i, x_j)``.

    They are computed in float32 or better, whatever the dtype of the points and the autocast mode.

    Args:
        points: (b, ...) floating points, flattened behind the batch axis.
        metric: A name in `METRICS`, or a callable from (b, d) points to (b, b) distances.

    Returns:
        (b, b) distances, float64 for float64 points and float32 otherwise. An empty batch gives
        (0, 0), and NaN points give NaN distances.

    Raises:
        InputError: If the points are not floating, have no batch axis, or the metric is unknown
            or does not return (b, b) distances.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), "chebyshev")
        tensor([[0., 4.],
                [4., 0.]])
    """
    with error_prefix("pairwise_distances"):
        return distances_by(resolve_metric(metric), flatten_points(points, "points"))


def resolve_metric(metric: Metric) -> Callable[[Tensor], Tensor]:
    """Turn a metric's name into its function; a callable is returned as it is.

    Args:
        metric: A name in `METRICS` or a callable.

    Returns:
        A function from (b, d) points to (b, b) distances.

    Raises:
        InputError: If the name is unknown, or the argument is neither a name nor a callable.

    Example:
        >>> resolve_metric("cosine") is cosine
        True
    """
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if callable(metric):
        return metric
    raise InputError(
        f"a distance must be a callable or one of {', '.join(map(repr, METRICS))}, got {metric!r}."
    )


def flatten_points(points: Tensor, name: str) -> Tensor:
    """Flatten points behind their batch axis, in float32 or better.

    Args:
        points: (b, ...) floating points.
        name: Their name in errors.

    Returns:
        (b, d) points, in float64 if they were in float64, else in float32.

    Raises:
        InputError: If the points are no floating tensor or have no batch axis.

    Example:
        >>> flatten_points(torch.ones(2, 3, 4, dtype=torch.bfloat16), "inputs").shape
        torch.Size([2, 12])
    """
    check_dense(points, name)
    if not points.is_floating_point():
        raise InputError(
            f"{name} must be floating, got {points.dtype}. Integers such as token ids have no "
            "distances: convert pixels to float, or compare with an embedding of the tokens."
        )
    if points.ndim == 0:
        raise InputError(f"{name} must have a batch axis first, got a 0-dimensional tensor.")
    is_wide = points.dtype in (torch.float32, torch.float64)  # this is tested first: it is fast
    wide = points if is_wide else points.to(torch.promote_types(points.dtype, torch.float32))
    return wide if wide.ndim == 2 else wide.reshape(len(wide), math.prod(wide.shape[1:]))


def distances_by(metric: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Apply a metric with autocast off, check the result, and return it in the points' precision.

    Args:
        metric: A function from (b, d) points to (b, b) distances.
        points: (b, d) points of float32 or better.

    Returns:
        (b, b) distances, in the dtype of the points or a wider one.

    Raises:
        InputError: If the metric does not take one tensor, or does not return a tensor of (b, b)
            real numbers, or if these are no distances: negative, not symmetric, or similarities.

    Example:
        >>> distances_by(manhattan, torch.tensor([[0.0, 0.0], [3.0, 4.0]]))[0, 1]
        tensor(7.)
    """
    n = len(points)
    if n == 0 or points.shape[1] == 0:
        return points.sum() * points.new_zeros(n, n)
    with torch.autocast(points.device.type, enabled=False):
        try:
            distances_bb = metric(points)
        except TypeError as error:
            raise InputError(
                f"the metric is called on one tensor of points, got {error}. Of a function of two "
                "make one of one: lambda x: torch.cdist(x, x)."
            ) from error
    is_tensor = isinstance(distances_bb, Tensor)
    if is_tensor:
        check_dense(distances_bb, "what the metric returns")
    if not is_tensor or distances_bb.shape != (n, n) or distances_bb.is_complex():
        raise InputError(
            f"the metric must map ({n}, {points.shape[1]}) points to a tensor of ({n}, {n}) "
            f"distances, got {_described(distances_bb)}."
        )
    distances_bb = distances_bb.to(torch.promote_types(distances_bb.dtype, points.dtype))
    # a graph, and torch.func, cannot look at values
    blind = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return (
        distances_bb if blind or metric in METRICS.values() else check_metric(distances_bb, points)
    )


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device: float64, but float32 on Apple's MPS.

    Args:
        device: A device.

    Returns:
        The dtype.

    Example:
        >>> exact_dtype(torch.device("cpu"))
        torch.float64
    """
    return torch.float32 if device.type == "mps" else torch.float64


def _check_points(points: Tensor, least: int = 0) -> None:
    """Refuse points that give wrong distances, such as integers, whose distances are rounded."""
    check_dense(points, "points")
    if points.ndim != 2 or not points.is_floating_point():
        raise InputError(
            f"points must be a floating tensor (b, d), got {_described(points)}. "
            "Convert integers with .float(); pairwise_distances flattens other shapes."
        )
    if points.shape[1] < least:
        raise InputError(f"points must be (b, d) with d >= {least}, got {tuple(points.shape)}.")


def _described(values: object) -> str:
    if not isinstance(values, Tensor):
        return type(values).__name__
    return f"{values.dtype} of shape {tuple(values.shape)}"


def _gaps(points: Tensor, least: int = 0) -> Tensor:
    """(b, b, d) absolute differences of points in at least so many dimensions."""
    _check_points(points, least)
    return (points[:, None] - points[None, :]).abs()


def _squares(points: Tensor) -> Tensor:
    """Squared distances of `sqeuclidean`, in the widest dtype of the device."""
    _check_points(points)
    wide, (n, d) = exact_dtype(points.device), points.shape
    gram_bb = points.new_zeros(n, n, dtype=wide)
    for part in points.split(max(1, _NUMBERS_AT_ONCE // max(1, n)), 1):
        exact = part.to(wide)
        shifted = exact - exact[:1]  # equal points become exact zeros, whatever the mean rounds to
        centred = shifted - shifted.mean(0)
        gram_bb = gram_bb + centred @ centred.T
    norms_b = gram_bb.diagonal()
    sums_bb = norms_b[:, None] + norms_b[None, :]
    squares_bb = sums_bb - 2 * gram_bb
    with torch.no_grad():
        cancelled = (squares_bb <= CANCELLED[wide] * sums_bb) & (sums_bb > 0)
        rows, columns = cancelled.triu(1).nonzero(as_tuple=True)
    pairs = max(1, _NUMBERS_AT_ONCE // max(1, d))
    # slices, because torch 2.9 cannot trace the split of an empty tensor
    pieces = [slice(k, k + pairs) for k in range(0, max(len(rows), 1), pairs)]
    patch = torch.cat([
        (points[rows[k]].to(wide) - points[columns[k]].to(wide)).square().sum(1) for k in pieces
    ])
    squares_bb = squares_bb.index_put((rows, columns), patch)
    squares_bb = squares_bb.index_put((columns, rows), patch)
    return _zero_diagonal(squares_bb)


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is 0 where the square is 0, to every order; NaN stays NaN."""
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _power_of_two(points: Tensor) -> Tensor:
    """A power of two near the largest entry; division by it rounds nothing."""
    exponent = points.detach().abs().amax().frexp().exponent
    return torch.ldexp(points.new_ones(()), exponent.clamp(-1000, 1000))


def _unit(points: Tensor) -> Tensor:
    """Points scaled to length 1; zero vectors stay 0."""
    _check_points(points, 1)
    largest = points.detach().abs().amax(1, keepdim=True)  # so that no square over- or underflows
    points = points / largest.masked_fill(largest == 0, 1)
    squares = points.to(exact_dtype(points.device)).square().sum(1, keepdim=True)
    lengths = _root(squares).to(points.dtype)
    return points / lengths.masked_fill(lengths == 0, 1)


def _zero_diagonal(values_bb: Tensor) -> Tensor:
    """Set the diagonal to 0, except where it is NaN."""
    diagonal = torch.eye(len(values_bb), dtype=torch.bool, device=values_bb.device)
    return values_bb.masked_fill(diagonal & ~values_bb.isnan(), 0)


def _neighbor_graph(edges_bb: Tensor, neighbors: int) -> Tensor:
    """Boolean adjacency of the symmetric nearest-neighbour graph joined with a spanning tree."""
    n = len(edges_bb)
    nearest = edges_bb.argsort()[:, : neighbors + 1]
    adjacent = torch.zeros_like(edges_bb, dtype=torch.bool).scatter_(1, nearest, True)
    reached = torch.zeros(n, dtype=torch.bool, device=edges_bb.device)
    reached[:1] = True
    parent, cost = torch.zeros_like(nearest[:, 0]), edges_bb[0]
    for _ in range(n - 1):  # Prim's algorithm, one row of distances a step
        nearest_point = cost.masked_fill(reached, math.inf).argmin()
        adjacent[parent[nearest_point], nearest_point] = True
        reached[nearest_point] = True
        closer = edges_bb[nearest_point] < cost
        parent[closer] = nearest_point
        cost = torch.minimum(cost, edges_bb[nearest_point])
    return adjacent | adjacent.T


def _shortest_paths(edges_bb: Tensor, adjacent: Tensor) -> Tensor:
    """Floyd-Warshall algorithm: ``predecessors[i, j]`` is the point before j on the path from i."""
    n = len(edges_bb)
    lengths = edges_bb.masked_fill(~adjacent, math.inf)
    predecessors = torch.arange(n, device=edges_bb.device)[:, None]
    for k in range(n):
        through_k = lengths[:, k, None] + lengths[None, k]
        shorter = through_k < lengths
        lengths = torch.where(shorter, through_k, lengths)
        predecessors = torch.where(shorter, predecessors[None, k], predecessors)
    return predecessors
