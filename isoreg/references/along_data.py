"""Distances along the data: the commute times of a random walk over samples.

Axes: n = samples, b = batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg.errors import InputError, check_integer, check_positive, error_prefix
from isoreg.references._points import Learnt, Reference, as_points, as_reference
from isoreg.references._walks import commute_places, place_among


def manifold(
    samples: Tensor,
    *,
    reference: Reference | None = None,
    neighbors: int = 10,
    dimensions: int = 30,
    spread: float = 10.0,
) -> Reference:
    r"""Distances along the data: how long a random walk over near samples takes between two points.

    The walk steps from a sample to one of its nearest neighbours, with weights
    ``w_ij = exp(-d_ij^2 / (s_i s_j))`` that are made symmetric; s_i is the distance of i to its
    k-th neighbour. With D the row sums of w and (l_m, v_m) the largest eigenpairs of
    ``D^{-1/2} w D^{-1/2}`` except the constant one, a sample is placed at

    .. math::
        r(x_i)_m = \frac{v_m(i)}{\sqrt{D_i}\,\sqrt{1 - (1 - \epsilon)\, l_m}}

    so that squared distances are commute times of the walk, computed from its ``dimensions``
    slowest modes. In each step the walk jumps to any sample with the small probability
    epsilon = 0.001, which keeps unconnected parts at a finite distance. All places are multiplied
    by one number, so that the r(x_i) have root mean squared distance ``spread``, the scale for
    which ``beta=0.1`` was chosen. The callable places a point at the mean of its nearest samples,
    weighted by w. It does so for samples too, each among its own nearest samples. Such means lie
    nearer to each other than the r(x_i).

    Each call compares its points with all samples. Call it once for a training set and look it up::

        table = manifold(images)(images)
        for batch in torch.randperm(len(images)).split(100):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss = loss + iso(labels[batch], reference=table[batch])

    Source: Coifman and Lafon (2006), "Diffusion maps"; Qiu and Hancock (2007), "Clustering and
    Embedding Using Commute Times"; the scale s of Zelnik-Manor and Perona (2004). The jump and
    the placing of new points are ours.

    Args:
        samples: (n, ...) floating points without labels; ten thousand cover MNIST. Time and
            memory of the graph grow as n^2 and n.
        reference: What to measure distances between samples in, for example `patches`, or a
            network in eval mode; None: the samples as they are.
        neighbors: Number k of neighbours of each sample in the graph.
        dimensions: Number of dimensions of the result.
        spread: Root mean squared distance between the places of two samples, drawn with
            replacement, before means are taken. To give the means this distance, pass the result
            and the samples to `scaled`.

    Returns:
        A callable from points (b, ...) to (b, dimensions). It ignores further arguments.

    Raises:
        InputError: If there are too few samples, all of them coincide, a distance between them is
            not finite, or an option is out of range. The callable raises it if points are of
            another size than the samples.

    Example:
        >>> turn = torch.linspace(0, 6, 60)  # a spiral: its ends are near in the plane
        >>> spiral = torch.stack([turn.cos(), turn.sin()], 1)
        >>> place = manifold(spiral, neighbors=4, dimensions=1)(spiral[[0, 30, 59]])[:, 0]
        >>> bool(place[0] < place[1] < place[2] or place[0] > place[1] > place[2])
        True
    """
    with error_prefix("manifold"):
        check_integer("neighbors", neighbors, 1)
        check_integer("dimensions", dimensions, 1)
        check_positive("spread", spread)
        reference = as_reference(reference)
        points = as_points(samples, reference)
        least = max(neighbors + 2, 3 * (dimensions + 1))
        if len(points) < least:
            raise InputError(
                f"{neighbors} neighbors and {dimensions} dimensions need at least {least} samples, "
                f"got {len(points)}."
            )
        if bool((points == points[:1]).all()):
            raise InputError(
                f"samples must differ from each other, got {len(points)} that all coincide"
                f"{'' if reference is None else ' in the reference'}. Give other samples."
            )
        places, scales = commute_places(points, neighbors, dimensions)
    size = (2 * places.var(0, correction=0).sum()).sqrt()
    graph = points, scales, places * spread / size
    return Learnt(_placed, reference=reference, graph=graph, neighbors=neighbors)


def _placed(
    x: Tensor, *, reference: Reference | None, graph: tuple[Tensor, ...], neighbors: int
) -> Tensor:
    """Places of points x among a graph: its samples, their scales and their places."""
    with torch.no_grad(), error_prefix("manifold"):
        points = as_points(x, reference)
        samples, scales, places = (table.to(points.device) for table in graph)
        if points.shape[1] != samples.shape[1]:
            raise InputError(
                f"points must be of {samples.shape[1]} numbers like the samples, got "
                f"{points.shape[1]}."
            )
        dtype = torch.promote_types(points.dtype, samples.dtype)
        return place_among(points, samples, scales, places, neighbors).to(dtype)
