"""The compiled loops behind `numba_blocks`: distances, penalty and gradient of blocks of pairs.

A block compares rows (side a) with samples of their class (side b). If a class has few rows, a are
these rows and b is the whole class, a first. Else the class is cut into tiles, and a block is a
tile of rows with itself or with another tile. If b is a, or another tile of rows, a pair stands in
one block only and counts for both of its orders. Points are copied into small arrays that stay in
the cache, relative to the mean of a; wide points are copied in pieces. Behind the last point the
arrays hold 0 up to a multiple of four, because products go four by four.

Legend: x (n, d) are points, or two arrays: (m, d) of this batch and (n - m, d) of a queue, whose
points are numbered first. The order (n,) holds the samples class by class, the rows of each class
first. Blocks (k, 4) hold start and stop in the order of a, then of b; the numbers of their pairs
stand one block behind the other. The rows are the samples from ``first`` to ``last``. Pairs whose
squared distance is below the share ``cancelled`` of |a|^2 + |b|^2 are subtracted directly. So are
all pairs of a block of few points, which are then not copied.
Targets are the distances D of the inputs; shares are the weights G, empty if every pair counts
once. Terms are added to the gradient (rows, d), which is (0, d) if no gradient is needed.

Needs numba, which only this file imports.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba.extending import intrinsic

# Sums may be reordered, because vectorising needs that; NaN and infinity keep their meaning.
_compiled = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)
Array: TypeAlias = Any  # a numpy array; numba infers and checks the types of all that follows
Points: TypeAlias = Array | tuple[Array, Array]
_PIECE = 1024
"""Dimensions that are multiplied at a time, so that eight rows stay in the nearest cache."""
_FEW = 6
"""Pairs of blocks up to this side are subtracted directly, as in batches of many classes."""
_LINE = 64
"""Bytes of a cache line, and of the widest vectors."""


class _Space(NamedTuple):
    """Memory for one block.

    Points a and b relative to the centre are (pieces, rows, dimensions), with ``per_piece``
    dimensions in a piece. ``norms`` are their squared lengths, ``table`` the products, distances or
    weights.
    """

    points: Array
    others: Array
    per_piece: int
    norms: Array
    centre: Array
    table: Array
    is_cancelled: Array


AVAILABLE = not getattr(numba.config, "DISABLE_JIT", False)
"""False if numba is told to interpret, which would be slower than every other backend."""


def _prefer_widest(_: Any) -> Any:
    """Tell LLVM to use vectors of 512 bits where there are any: on Intel it uses 256 bits."""

    def tell(context: Any, builder: Any, *_: Any) -> Any:
        # llvmlite's own add refuses attributes that are not in its list, such as this one
        attributes = builder.function.attributes
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return numba.types.none(), tell


_use_widest_vectors: Any = intrinsic(_prefer_widest) if AVAILABLE else lambda: None


@_compiled
def blocks_of(
    labels: Array, ignored: int, side: int, first: int, last: int
) -> tuple[Array, Array, Array]:
    """Cut the pairs of rows first to last with all samples of equal label into blocks."""
    n, start, count, tiles = len(labels), 0, 0, len(labels) // side + 1
    samples = np.concatenate((np.arange(first, last), np.arange(first), np.arange(last, n)))
    order = samples[np.argsort(labels[samples], kind="mergesort")]
    blocks = np.empty((2 * (n + tiles * tiles), 4), np.int64)
    while start < n:
        label, stop, middle = labels[order[start]], start + 1, start
        while label != ignored and stop < n and labels[order[stop]] == label:
            stop += 1
        while middle < stop and first <= order[middle] < last:
            middle += 1
        if start < middle <= start + _FEW and stop - start <= side:
            blocks[count] = start, middle, start, stop
            count += 1
        elif start < middle:
            rows, others = (middle - start + side - 1) // side, (stop - middle + side - 1) // side
            cuts = np.full(rows + others + 1, stop)
            for i in range(rows):
                cuts[i] = start + (middle - start) * i // rows
            for i in range(others):
                cuts[rows + i] = middle + (stop - middle) * i // others
            for i in range(rows):
                for j in range(i, rows + others):
                    blocks[count] = cuts[i], cuts[i + 1], cuts[j], cuts[j + 1]
                    count += 1
        start = stop
    blocks = blocks[:count].copy()
    return order, blocks, np.cumsum((blocks[:, 1] - blocks[:, 0]) * (blocks[:, 3] - blocks[:, 2]))


@_compiled
def input_distances(x: Points, order: Array, blocks: Array, cancelled: float, out: Array) -> None:
    """Distances between the inputs of each block; inner products if ``cancelled`` is below 0."""
    space, begin, previous = _workspace(x, blocks), 0, -1
    for start, stop, other, end in blocks:
        a, b = order[start:stop], order[other:end]
        if cancelled < 0:
            _products(x, a, b, start != previous, space)
        else:
            _distances(x, a, b, cancelled, start != previous, space)
        block = slice(begin, begin + len(a) * len(b))
        out[block].reshape(len(a), len(b))[:] = space.table[: len(a), : len(b)]
        begin, previous = block.stop, -1 if _are_few(a, b) else start


@_compiled
def read_table(
    table: Array, order: Array, blocks: Array, first: int, shares: Array, out: Array
) -> tuple[float, float, float]:
    """Read given distances into ``out``; if that is empty, multiply the shares by given weights."""
    # Pairs that do not count get the share 0; if a is b, only pairs with j < i count. The result is
    # the least entry, the largest, and the largest difference between the two orders of a pair.
    least, largest, difference, begin = 0.0, 0.0, 0.0, 0
    for start, stop, other, end in blocks:
        same = _is_same(order[start:stop], order[other:end])
        for i in range(stop - start):
            a = order[start + i]
            for j in range(end - other):
                at, b = begin + j, order[other + j]
                if len(out) > 0:
                    out[at] = 0
                if (same and j >= i) or a == b:
                    shares[at] = 0
                if shares[at] == 0:
                    continue
                entry = table[a - first, b]
                mirrored = table[b - first, a] if 0 <= b - first < len(table) else entry
                if len(out) == 0:
                    shares[at] *= entry
                elif np.isnan(entry) and np.isnan(mirrored):
                    shares[at] = 0
                    continue
                else:
                    out[at] = entry
                gap = abs(entry - mirrored)
                least = min(least, entry, mirrored)
                largest = max(largest, entry, mirrored)
                difference = np.inf if np.isnan(gap) else max(difference, gap)
            begin += end - other
    return least, largest, difference


@_compiled
def compare(
    x: Points, pairs: Any, scale: float, strength: float, sums: Array, gradient: Array
) -> None:
    """Add sums of G (D - s d)^2, G D d, G d^2 and G over the pairs of the rows with all samples."""
    order, blocks, first, last, cancelled, targets, shares = pairs
    space, begin, previous = _workspace(x, blocks), 0, -1
    weights = space.table
    for start, stop, other, end in blocks:
        a, b = order[start:stop], order[other:end]
        same, both = _is_same(a, b), start != other and first <= b[0] < last
        any_cancelled = _distances(x, a, b, cancelled, start != previous, space)
        block = slice(begin, begin + len(a) * len(b))
        begin, previous = block.stop, -1 if _are_few(a, b) else start
        times = 2 if same or both else 1
        terms = _weigh(targets[block], shares[block], weights, a, b, scale, strength)
        for k in range(len(terms)):
            sums[k] += times * terms[k]
        if len(gradient) == 0:
            continue
        if any_cancelled:
            _add_cancelled(x, a, b, same or both, first, space, gradient)
        if _are_few(a, b):
            continue
        if same:
            for i in range(len(a)):
                for j in range(i):
                    weights[j, i] = weights[i, j]
        points, others = space.points, space.points if start == other else space.others
        turned = weights.T.copy() if both else weights
        for p in range(len(points)):
            place = slice(p * space.per_piece, (p + 1) * space.per_piece)
            _add_pull(weights, points[p], others[p], a, first, len(b), gradient, place)
            if both:
                _add_pull(turned, others[p], points[p], b, first, len(a), gradient, place)


@_compiled
def _point(x: Points, i: int) -> Array:
    """Point number i; of two arrays, the points of the queue come first."""
    if isinstance(x, tuple):  # numba decides this while it compiles
        batch, past = x
        return past[i] if i < len(past) else batch[i - len(past)]
    return x[i]


@_compiled
def _batch_points(x: Points) -> Array:
    return x[0] if isinstance(x, tuple) else x


@_compiled
def _is_same(a: Array, b: Array) -> bool:
    """Whether a is b, so that pairs are computed for j < i only."""
    return a[0] == b[0] and len(a) == len(b)


@_compiled
def _are_few(a: Array, b: Array) -> bool:
    """Whether all pairs are subtracted directly, so that no point needs to be copied."""
    return len(a) <= _FEW and len(b) <= _FEW


@_compiled
def _workspace(x: Points, blocks: Array) -> _Space:
    """Arrays for the points a and b of the longest block and for the numbers of their pairs."""
    longest, batch = 0, _batch_points(x)
    width = batch.shape[1]
    for start, stop, other, end in blocks:
        longest = max(longest, stop - start, end - other)
    side = _padded(longest)
    pieces = max(1, (width + _PIECE - 1) // _PIECE)
    per_piece = (width + pieces - 1) // pieces
    lines = pieces * side
    points, others = _lines(lines, per_piece, batch), _lines(lines, per_piece, batch)
    shape, table = (pieces, side, points.shape[1]), _lines(side, side, batch)
    norms, centre = np.empty((2, side), batch.dtype), np.zeros(width, batch.dtype)
    points, others = points.reshape(shape), others.reshape(shape)
    is_cancelled = np.empty((side, side), np.bool_)
    return _Space(points, others, per_piece, norms, centre, table, is_cancelled)


@_compiled
def _lines(rows: int, width: int, like: Array) -> Array:
    """Rows of zeros. A wide row fills an odd number of cache lines, so few share a cache place."""
    numbers = _LINE // like.itemsize
    stride = width if 2 * width < numbers else ((width + numbers - 1) // numbers | 1) * numbers
    flat = np.zeros(rows * stride + numbers, like.dtype)
    skipped = -flat.ctypes.data % _LINE // like.itemsize
    return flat[skipped : skipped + rows * stride].reshape(rows, stride)


@_compiled
def _padded(count: int) -> int:
    return (count + 3) // 4 * 4


@_compiled
def _distances(x: Points, a: Array, b: Array, cancelled: float, fresh: bool, space: _Space) -> int:
    """Fill in the distances, only for j <= i if a is b; return the number of cancelled pairs."""
    out, is_cancelled, centre = space.table, space.is_cancelled, space.centre
    zero, same, a_in_b, few = out.dtype.type(0), _is_same(a, b), a[0] == b[0], _are_few(a, b)
    if fresh and not few:
        centre[:] = zero
        for i in a:
            point = _point(x, i)
            for k in range(len(centre)):
                centre[k] += point[k]
        for k in range(len(centre)):
            centre[k] /= out.dtype.type(len(a))
    if few:
        for i in range(len(a)):
            space.norms[:, i] = _point(x, a[i]).sum()
    else:
        _products(x, a, b, fresh, space)
    norms, other_norms, count = space.norms[0], space.norms[0 if a_in_b else 1], 0
    for i in range(len(a)):
        row = 0
        for j in range(i if same else len(b)):
            both = norms[i] + other_norms[j]
            square = both - (out[i, j] + out[i, j])
            is_cancelled[i, j] = few or not square > cancelled * both
            row += is_cancelled[i, j]
            out[i, j] = square
        if a_in_b and not same:
            row -= is_cancelled[i, i]
            is_cancelled[i, i] = False
        if row:
            count += row
            for j in range(i if same else len(b)):
                if is_cancelled[i, j]:
                    square, left, right = zero, _point(x, a[i]), _point(x, b[j])
                    for k in range(len(left)):
                        difference = left[k] - right[k]
                        square += difference * difference
                    out[i, j] = square
        for j in range(i if same else len(b)):
            out[i, j] = np.sqrt(out[i, j])
        if a_in_b:
            out[i, i] = norms[i] * zero  # 0, or NaN if the point is not finite
    return count


@_compiled
def _products(x: Points, a: Array, b: Array, fresh: bool, space: _Space) -> None:
    """Fill in inner products and squared lengths of points relative to the centre."""
    points, others = space.points, space.others
    if a[0] == b[0]:
        others = points
        _gather(x, b, space, points, space.norms[0])
    else:
        if fresh:
            _gather(x, a, space, points, space.norms[0])
        _gather(x, b, space, others, space.norms[1])
    space.table[: _padded(len(a)), : _padded(len(b))] = 0
    for piece in range(len(points)):
        _multiply(points[piece], others[piece], len(a), len(b), _is_same(a, b), space.table)


@_compiled
def _gather(x: Points, rows: Array, space: _Space, points: Array, norms: Array) -> None:
    """Copy rows relative to the centre, and compute their squared lengths."""
    for i in range(len(rows)):
        norms[i], row = 0, _point(x, rows[i])
        for piece in range(len(points)):
            place = slice(piece * space.per_piece, (piece + 1) * space.per_piece)
            source, middle, point = row[place], space.centre[place], points[piece, i]
            norm = norms.dtype.type(0)
            for k in range(len(source)):
                value = source[k] - middle[k]
                point[k] = value
                norm += value * value
            norms[i] += norm
    points[:, len(rows) : _padded(len(rows))] = 0


@_compiled
def _multiply(x: Array, y: Array, a: int, b: int, same: bool, out: Array) -> None:
    """Add inner products of rows of x with rows of y, sixteen at a time, which fit in registers."""
    _use_widest_vectors()
    for i in range(0, a, 4):
        for j in range(0, i + 4 if same else b, 4):
            s00 = s01 = s02 = s03 = x.dtype.type(0)
            s10 = s11 = s12 = s13 = x.dtype.type(0)
            s20 = s21 = s22 = s23 = x.dtype.type(0)
            s30 = s31 = s32 = s33 = x.dtype.type(0)
            for k in range(x.shape[1]):
                x0, x1, x2, x3 = x[i, k], x[i + 1, k], x[i + 2, k], x[i + 3, k]
                y0, y1, y2, y3 = y[j, k], y[j + 1, k], y[j + 2, k], y[j + 3, k]
                s00, s01, s02, s03 = s00 + x0 * y0, s01 + x0 * y1, s02 + x0 * y2, s03 + x0 * y3
                s10, s11, s12, s13 = s10 + x1 * y0, s11 + x1 * y1, s12 + x1 * y2, s13 + x1 * y3
                s20, s21, s22, s23 = s20 + x2 * y0, s21 + x2 * y1, s22 + x2 * y2, s23 + x2 * y3
                s30, s31, s32, s33 = s30 + x3 * y0, s31 + x3 * y1, s32 + x3 * y2, s33 + x3 * y3
            out[i, j] += s00
            out[i, j + 1] += s01
            out[i, j + 2] += s02
            out[i, j + 3] += s03
            i1, i2, i3 = i + 1, i + 2, i + 3
            out[i1, j] += s10
            out[i1, j + 1] += s11
            out[i1, j + 2] += s12
            out[i1, j + 3] += s13
            out[i2, j] += s20
            out[i2, j + 1] += s21
            out[i2, j + 2] += s22
            out[i2, j + 3] += s23
            out[i3, j] += s30
            out[i3, j + 1] += s31
            out[i3, j + 2] += s32
            out[i3, j + 3] += s33


@_compiled
def _weigh(
    targets: Array, shares: Array, weights: Array, a: Array, b: Array, scale: float, strength: float
) -> tuple[float, float, float, float]:
    """Replace distances d by strength G (D - s d) / d, 0 where d is 0; return the four sums."""
    zero, weighted, same = targets.dtype.type(0), len(shares) > 0, _is_same(a, b)
    stress, mixed, squared, weight = 0.0, 0.0, 0.0, 0.0
    for i in range(len(a)):
        row, cross, square, total, begin = zero, zero, zero, zero, i * len(b)
        for j in range(i + 1 if same else len(b)):
            distance, target = weights[i, j], targets[begin + j]
            gap = target - scale * distance
            share = shares[begin + j] if weighted else targets.dtype.type(1)
            pull = gap * share
            row += gap * pull
            cross += target * distance * share
            square += distance * distance * share
            total += share
            weights[i, j] = zero if distance == zero else strength * pull / distance
        stress, mixed, squared = stress + row, mixed + cross, squared + square
        weight += total
    return stress, mixed, squared, weight


@_compiled
def _add_cancelled(
    x: Points, a: Array, b: Array, both: bool, first: int, space: _Space, gradient: Array
) -> None:
    """Add differences of cancelled pairs directly to the gradient, and set their weights to 0."""
    nobody = np.zeros(gradient.shape[1], gradient.dtype)
    for i in range(len(a)):
        for j in range(i if _is_same(a, b) else len(b)):
            if space.is_cancelled[i, j]:
                weight = space.table[i, j]
                left, right = _point(x, a[i]), _point(x, b[j])
                pulled = gradient[a[i] - first]
                pushed = gradient[b[j] - first] if both else nobody
                for k in range(len(left)):
                    pull = weight * (right[k] - left[k])
                    pulled[k] += pull
                    pushed[k] -= pull
                space.table[i, j] = 0


@_compiled
def _add_pull(
    weights: Array,
    points: Array,
    others: Array,
    rows: Array,
    first: int,
    count: int,
    into: Array,
    place: Any,
) -> None:
    """Add sum_j W_ij (others_j - points_i) to a piece of the gradient's rows."""
    _use_widest_vectors()
    pulls = _lines(4, points.shape[1], points)
    p0, p1, p2, p3 = pulls[0], pulls[1], pulls[2], pulls[3]
    for i in range(0, len(rows), 4):
        pulls[:] = 0
        weights[i : i + 4, count : _padded(count)] = 0
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for j in range(0, count, 4):
            w00, w01, w02, w03 = w0[j], w0[j + 1], w0[j + 2], w0[j + 3]
            w10, w11, w12, w13 = w1[j], w1[j + 1], w1[j + 2], w1[j + 3]
            w20, w21, w22, w23 = w2[j], w2[j + 1], w2[j + 2], w2[j + 3]
            w30, w31, w32, w33 = w3[j], w3[j + 1], w3[j + 2], w3[j + 3]
            o0, o1, o2, o3 = others[j], others[j + 1], others[j + 2], others[j + 3]
            for k in range(points.shape[1]):
                x0, x1, x2, x3 = o0[k], o1[k], o2[k], o3[k]
                p0[k] += w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
                p1[k] += w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
                p2[k] += w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
                p3[k] += w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3
        for s in range(min(4, len(rows) - i)):
            row, pull, point = into[rows[i + s] - first][place], pulls[s], points[i + s]
            total = points.dtype.type(0)
            for j in range(count):
                total += weights[i + s, j]
            for k in range(len(row)):
                row[k] += pull[k] - total * point[k]
