"""The compiled loops behind `numba_blocks`: distances, penalty and gradient of blocks of pairs.

A block compares the points at some places of a batch, called a, with those at others, called b:
the members of a class with themselves, or one tile of a large class with another. A pair of rows
stands in one block only and counts for both of its orders; one of a row and another sample counts
once. Points are gathered into small arrays that stay in the cache, and seen from the mean of a.
Behind the last point the arrays are filled with 0 up to a multiple of four, so that products go
four by four.

Legend: x (n, d) are points. The order (n,) holds the places of the rows in the batch, those of a
class together, and behind them those of the other samples. Blocks (k, 4) are from and to where in
the order a and b reach; what is found for their pairs stands one block behind the other. The rows
are ``rows`` samples from ``first`` on. Pairs whose squared distance is below the share
``cancelled`` of |a|^2 + |b|^2 are subtracted directly. Targets are the distances D of the inputs,
shares the weights G, empty if every pair counts once. A gradient (rows, d) is added to; (0, d) if
none is needed.

Needs numba, which only this file imports.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np

# Sums may be reordered, as vectorising them does; NaN and infinity keep their meaning.
_compiled = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)
Array: TypeAlias = Any  # a numpy array; numba infers and checks the types of all that follows

AVAILABLE = not getattr(numba.config, "DISABLE_JIT", False)
"""False where numba is told to interpret: that would be slower than all else."""


@_compiled
def blocks_of(
    labels: Array, ignored: int, side: int, first: int, last: int
) -> tuple[Array, Array, int]:
    """Cut the pairs of rows first to last with all samples of equal label into blocks."""
    by_label, n, pairs = np.argsort(labels, kind="mergesort"), len(labels), 0
    order, local, rest = np.empty(n, np.int64), 0, last - first
    tiles = n // side + 1
    blocks, count, start = np.empty((2 * (n + tiles * tiles), 4), np.int64), 0, 0
    while start < n:
        label, stop = labels[by_label[start]], start + 1
        while label != ignored and stop < n and labels[by_label[stop]] == label:
            stop += 1
        begin, other = local, rest
        for place in by_label[start:stop]:
            if first <= place < last:
                order[local] = place
                local += 1
            else:
                order[rest] = place
                rest += 1
        length, others = local - begin, rest - other
        parts = (length + side - 1) // side
        more = (others + side - 1) // side
        for i in range(parts):
            for j in range(i, parts + more):
                blocks[count, 0] = begin + length * i // parts
                blocks[count, 1] = begin + length * (i + 1) // parts
                if j < parts:
                    blocks[count, 2] = begin + length * j // parts
                    blocks[count, 3] = begin + length * (j + 1) // parts
                else:
                    blocks[count, 2] = other + others * (j - parts) // more
                    blocks[count, 3] = other + others * (j - parts + 1) // more
                a, b = blocks[count, :2], blocks[count, 2:]
                pairs += (a[1] - a[0]) * (b[1] - b[0])
                count += 1
        start = stop
    return order, blocks[:count].copy(), pairs


@_compiled
def input_distances(x: Array, order: Array, blocks: Array, cancelled: float, out: Array) -> None:
    """Distances between the inputs of each block."""
    points, others, distances, is_cancelled = _workspace(x, blocks)
    begin = 0
    for start, stop, other, end in blocks:
        a, b = order[start:stop], order[other:end]
        _distances(x, a, b, start == other, cancelled, points, others, distances, is_cancelled)
        for i in range(len(a)):
            for j in range(len(b)):
                out[begin + j] = distances[i, j]
            begin += len(b)


@_compiled
def pair_weights(labels: Array, order: Array, blocks: Array, out: Array) -> None:
    """Inner products of the soft labels of each block: the probability of the same class."""
    points, others, products, _ = _workspace(labels, blocks)
    origin, begin = np.zeros(labels.shape[1], labels.dtype), 0
    for start, stop, other, end in blocks:
        a, b, same = order[start:stop], order[other:end], start == other
        _gather(labels, a, origin, points)
        _gather(labels, b, origin, others)
        _multiply(points, others, len(a), len(b), same, products)
        for i in range(len(a)):
            for j in range(len(b)):
                out[begin + j] = products[i, j]
            begin += len(b)


@_compiled
def read_table(
    table: Array,
    order: Array,
    blocks: Array,
    first: int,
    rows: int,
    missing: bool,
    shares: Array,
    out: Array,
) -> tuple[float, float, float]:
    """Entries of a table at the pairs of each block that count, for j < i alone if a is b."""
    least, largest, difference, begin = 0.0, 0.0, 0.0, 0
    for start, stop, other, end in blocks:
        same = start == other
        for i in range(stop - start):
            a = order[start + i]
            row = table[a - first]
            for j in range(end - other):
                out[begin + j] = 0
                if (same and j >= i) or shares[begin + j] == 0:
                    continue
                b = order[other + j]
                entry = row[b]
                mirrored = table[b - first, a] if other < rows else entry
                if missing and np.isnan(entry) and np.isnan(mirrored):
                    shares[begin + j] = 0
                    continue
                out[begin + j] = entry
                gap = abs(entry - mirrored)
                least = min(least, entry, mirrored)
                largest = max(largest, entry, mirrored)
                difference = np.inf if np.isnan(gap) else max(difference, gap)
            begin += end - other
    return least, largest, difference


@_compiled
def penalty_and_gradient(
    x: Array,
    order: Array,
    blocks: Array,
    first: int,
    rows: int,
    cancelled: float,
    targets: Array,
    shares: Array,
    scale: float,
    strength: float,
    gradient: Array,
) -> float:
    """Sum of G_ij (D_ij - s d_ij)^2 over the pairs of the rows with all samples."""
    points, others, weights, is_cancelled = _workspace(x, blocks)
    total, begin = 0.0, 0
    for start, stop, other, end in blocks:
        a, b, same, mirrored = order[start:stop], order[other:end], start == other, other < rows
        any_cancelled = _distances(x, a, b, same, cancelled, points, others, weights, is_cancelled)
        block = slice(begin, begin + len(a) * len(b))
        begin = block.stop
        stress = _compare(targets[block], shares[block], weights, a, b, same, scale, strength)
        total += 2 * stress if mirrored else stress
        if len(gradient) == 0:
            continue
        if any_cancelled:
            _add_cancelled(x, a, b, same, mirrored, first, weights, is_cancelled, gradient)
        if same:
            for i in range(len(a)):
                for j in range(i):
                    weights[j, i] = weights[i, j]
            _add_pull(weights, points, points, a, first, len(b), gradient)
        else:
            _add_pull(weights, points, others, a, first, len(b), gradient)
            if mirrored:
                _add_pull(weights.T.copy(), others, points, b, first, len(a), gradient)
    return total


@_compiled
def scale_moments(
    x: Array,
    order: Array,
    blocks: Array,
    rows: int,
    cancelled: float,
    targets: Array,
    shares: Array,
) -> tuple[float, float]:
    """Sums of G_ij D_ij d_ij and of G_ij d_ij^2 over the pairs of the rows with all samples."""
    points, others, distances, is_cancelled = _workspace(x, blocks)
    mixed, squared, begin = 0.0, 0.0, 0
    for start, stop, other, end in blocks:
        a, b, same = order[start:stop], order[other:end], start == other
        _distances(x, a, b, same, cancelled, points, others, distances, is_cancelled)
        times = 2 if other < rows else 1
        for i in range(len(a)):
            row, square = x.dtype.type(0), x.dtype.type(0)
            for j in range(i + 1 if same else len(b)):
                distance = distances[i, j]
                counted = distance * shares[begin + j] if len(shares) else distance
                row += targets[begin + j] * counted
                square += distance * counted
            mixed, squared = mixed + times * row, squared + times * square
            begin += len(b)
    return mixed, squared


@_compiled
def _workspace(x: Array, blocks: Array) -> tuple[Array, Array, Array, Array]:
    """Arrays for the points a and b of the longest block and for what is between them."""
    longest = 0
    for start, stop, other, end in blocks:
        longest = max(longest, stop - start, end - other)
    side = _padded(longest)
    points, others = np.empty((side, x.shape[1]), x.dtype), np.empty((side, x.shape[1]), x.dtype)
    return points, others, np.empty((side, side), x.dtype), np.empty((side, side), np.bool_)


@_compiled
def _padded(count: int) -> int:
    return (count + 3) // 4 * 4


@_compiled
def _distances(
    x: Array,
    a: Array,
    b: Array,
    same: bool,
    cancelled: float,
    points: Array,
    others: Array,
    out: Array,
    is_cancelled: Array,
) -> int:
    """Fill in the distances, for j <= i alone if a is b; return how many pairs are cancelled."""
    zero = x.dtype.type(0)
    centre = np.zeros(x.shape[1], x.dtype)
    for i in a:
        for k in range(x.shape[1]):
            centre[k] += x[i, k]
    for k in range(x.shape[1]):
        centre[k] /= x.dtype.type(len(a))
    norms = _gather(x, a, centre, points)
    other_norms = norms if same else _gather(x, b, centre, others)
    _multiply(points, points if same else others, len(a), len(b), same, out)
    count = 0
    for i in range(len(a)):
        row = 0
        for j in range(i if same else len(b)):
            both = norms[i] + other_norms[j]
            square = both - (out[i, j] + out[i, j])
            is_cancelled[i, j] = not square > cancelled * both
            row += is_cancelled[i, j]
            out[i, j] = square
        if row:
            count += row
            for j in range(i if same else len(b)):
                if is_cancelled[i, j]:
                    square, left, right = zero, x[a[i]], x[b[j]]
                    for k in range(len(left)):
                        difference = left[k] - right[k]
                        square += difference * difference
                    out[i, j] = square
        for j in range(i if same else len(b)):
            out[i, j] = np.sqrt(out[i, j])
        if same:
            out[i, i] = norms[i] * zero  # NaN if the point is not finite
    return count


@_compiled
def _gather(x: Array, rows: Array, centre: Array, points: Array) -> Array:
    """Copy rows, seen from the centre, and return their squared lengths."""
    norms = np.zeros(len(rows), x.dtype)
    for i in range(len(rows)):
        norm, source, point = x.dtype.type(0), x[rows[i]], points[i]
        for k in range(len(centre)):
            value = source[k] - centre[k]
            point[k] = value
            norm += value * value
        norms[i] = norm
    points[len(rows) : _padded(len(rows))] = 0
    return norms


@_compiled
def _multiply(x: Array, y: Array, a: int, b: int, same: bool, out: Array) -> None:
    """Inner products of rows of x with rows of y, sixteen at a time, for the registers' sake."""
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
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = s00, s01, s02, s03
            i1, i2, i3 = i + 1, i + 2, i + 3
            out[i1, j], out[i1, j + 1], out[i1, j + 2], out[i1, j + 3] = s10, s11, s12, s13
            out[i2, j], out[i2, j + 1], out[i2, j + 2], out[i2, j + 3] = s20, s21, s22, s23
            out[i3, j], out[i3, j + 1], out[i3, j + 2], out[i3, j + 3] = s30, s31, s32, s33


@_compiled
def _compare(
    targets: Array,
    shares: Array,
    weights: Array,
    a: Array,
    b: Array,
    same: bool,
    scale: float,
    strength: float,
) -> float:
    """Replace distances d by strength G (D - s d) / d, 0 where d is 0; return sum G (D - s d)^2."""
    zero, weighted = targets.dtype.type(0), len(shares) > 0
    total = 0.0
    for i in range(len(a)):
        row, begin = zero, i * len(b)
        for j in range(i + 1 if same else len(b)):
            distance = weights[i, j]
            gap = targets[begin + j] - scale * distance
            pull = gap * shares[begin + j] if weighted else gap
            row += gap * pull
            weights[i, j] = zero if distance == zero else strength * pull / distance
        total += row
    return total


@_compiled
def _add_cancelled(
    x: Array,
    a: Array,
    b: Array,
    same: bool,
    mirrored: bool,
    first: int,
    weights: Array,
    is_cancelled: Array,
    gradient: Array,
) -> None:
    """Move cancelled pairs from the weights to the gradient, their differences as they are."""
    for i in range(len(a)):
        for j in range(i if same else len(b)):
            if is_cancelled[i, j]:
                weight, left, right = weights[i, j], x[a[i]], x[b[j]]
                left_pulls = gradient[a[i] - first]
                for k in range(len(left)):
                    left_pulls[k] += weight * (right[k] - left[k])
                if mirrored:
                    right_pulls = gradient[b[j] - first]
                    for k in range(len(left)):
                        right_pulls[k] -= weight * (right[k] - left[k])
                weights[i, j] = 0


@_compiled
def _add_pull(
    weights: Array,
    points: Array,
    others: Array,
    rows: Array,
    first: int,
    count: int,
    gradient: Array,
) -> None:
    """Add sum_j W_ij (others_j - points_i) to the gradient's rows."""
    pulls = np.empty((4, points.shape[1]), points.dtype)
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
            row, pull, point = gradient[rows[i + s] - first], pulls[s], points[i + s]
            total = points.dtype.type(0)
            for j in range(count):
                total += weights[i + s, j]
            for k in range(len(point)):
                row[k] += pull[k] - total * point[k]
