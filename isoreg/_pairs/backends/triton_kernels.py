"""The Triton kernels of `isoreg._pairs.backends.triton_blocks`, which says what they are for.

Rows are a slab of local samples and columns are all samples, both in the order of their labels.
``rows`` and ``columns`` hold their positions in the batch; a row has its pairs with the columns
from ``starts`` to ``ends``. These include the sample itself, even if it pairs with nobody. That
pair has distance 0, or NaN if the sample is not finite, so that the NaN reaches every sum.

Axes: m = row of a tile, n = column of a tile, d = dimension of a chunk.
"""
# mypy: ignore-errors
# ruff: noqa: N803
# Triton compiles this file, so annotations and capital constants follow the rules of Triton.

from __future__ import annotations

import triton
import triton.language as tl

DIFFERENCES, PRODUCTS, LABELS = (tl.constexpr(mode) for mode in range(3))
"""How `square_kernel` computes: subtract points directly, expand |a - b|^2, or multiply labels."""

_CANCELLED = tl.constexpr(1e-2)  # below this share of |a|^2 + |b|^2 the expansion has lost digits
_SIZES = ["n", "count", "across", "splits", "share", "slab", "local", "chunks"]
"""Arguments that change in a last, smaller batch; Triton must not compile a kernel again for it."""


@triton.jit
def _kahan(total, lost, term):
    """Add to a long sum by Kahan's method; `lost` holds the rounding error of earlier additions."""
    term -= lost
    longer = total + term
    return longer, (longer - total) - term


@triton.jit
def _root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _ratio(x, y):
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def _rows_of(rows, starts, ends, tile, n, count, M: tl.constexpr):
    """Indices, positions and bounds of the rows of a tile; rows behind the last have no columns."""
    r = tile * M + tl.arange(0, M)
    real = r < count
    i = tl.load(rows + r, mask=real, other=-1)
    return (
        r.to(tl.int64),
        i,
        tl.load(starts + r, mask=real, other=n),
        tl.load(ends + r, mask=real, other=0),
    )


@triton.jit
def _direct(
    x, i_m, j_n, begin, stop, width, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """Sums over the dimensions of (a - b)^2, or of a b for labels, one dimension at a time."""
    total_mn = tl.zeros((M, N), x.dtype.element_ty)
    lost_mn = tl.zeros((M, N), x.dtype.element_ty)
    for first in range(begin, stop, D):
        part_mn = tl.zeros((M, N), x.dtype.element_ty)
        for k in range(first, tl.minimum(first + D, stop)):
            a_m = tl.load(x + i_m * width + k, mask=i_m >= 0, other=0)
            b_n = tl.load(x + j_n * width + k, mask=j_n >= 0, other=0)
            if MODE == LABELS:
                part_mn += a_m[:, None] * b_n[None, :]
            else:
                gap_mn = a_m[:, None] - b_n[None, :]
                part_mn += gap_mn * gap_mn
        total_mn, lost_mn = _kahan(total_mn, lost_mn, part_mn)
    return total_mn


@triton.jit
def _expanded(
    x, centred, i_m, j_n, pair_mn, begin, stop, width, M: tl.constexpr, N: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """|a|^2 + |b|^2 - 2 a b; pairs so near that this loses digits are subtracted directly."""
    total_mn = tl.zeros((M, N), x.dtype.element_ty)
    lost_mn = tl.zeros((M, N), x.dtype.element_ty)
    both_mn = tl.zeros((M, N), x.dtype.element_ty)
    both_lost_mn = tl.zeros((M, N), x.dtype.element_ty)
    for first in range(begin, stop, D):
        k_d = first + tl.arange(0, D)
        inside = (k_d < stop)[None, :]
        a_md = tl.load(
            centred + i_m[:, None] * width + k_d[None, :],
            mask=(i_m >= 0)[:, None] & inside,
            other=0,
        )
        b_nd = tl.load(
            centred + j_n[:, None] * width + k_d[None, :],
            mask=(j_n >= 0)[:, None] & inside,
            other=0,
        )
        part_mn = tl.dot(a_md, tl.trans(b_nd), input_precision=PRECISION)
        total_mn, lost_mn = _kahan(total_mn, lost_mn, part_mn)
        norms_mn = tl.sum(a_md * a_md, 1)[:, None] + tl.sum(b_nd * b_nd, 1)[None, :]
        both_mn, both_lost_mn = _kahan(both_mn, both_lost_mn, norms_mn)
    same_mn = i_m[:, None] == j_n[None, :]
    square_mn = tl.where(same_mn, 0 * both_mn, both_mn - 2 * total_mn)
    cancelled_mn = pair_mn & (square_mn < both_mn * _CANCELLED) & ~same_mn
    if tl.max(cancelled_mn.to(tl.int32)) > 0:
        # from the original points, because centred points were rounded
        exact_mn = _direct(x, i_m, j_n, begin, stop, width, M, N, D, DIFFERENCES)
        square_mn = tl.where(cancelled_mn, exact_mn, square_mn)
    return square_mn


@triton.jit(do_not_specialize=_SIZES)
def square_kernel(
    x, centred, rows, columns, starts, ends, out, width, n, count, across, splits, share,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Squared distances, or products of labels, of one tile of pairs and one share of dimensions.

    Args:
        x: (samples, width) points as they were given, or labels.
        centred: Points relative to a member of their class; x where no products are used.
        rows: (count,) positions of the rows in x.
        columns: (n,) positions of the columns in x.
        starts: (count,) first column of each row.
        ends: (count,) column behind the last of each row.
        out: (splits, count, n) takes the sums over each share of the dimensions.
        width: Number of dimensions.
        n: Number of columns.
        count: Number of rows.
        across: Number of tiles that hold n columns.
        splits: Into how many shares the dimensions are cut.
        share: How many dimensions a share holds.
        M: Rows of a tile.
        N: Columns of a tile.
        D: Dimensions of a chunk.
        MODE: DIFFERENCES, PRODUCTS or LABELS.
        PRECISION: Precision of the products of `tl.dot`.
    """
    program = tl.program_id(0)
    split, tile = program % splits, program // splits
    r_m, i_m, start_m, end_m = _rows_of(rows, starts, ends, tile // across, n, count, M)
    first, last = tl.min(start_m), tl.max(end_m)
    c_n = first + (tile % across) * N + tl.arange(0, N)
    if first + (tile % across) * N < last:
        j_n = tl.load(columns + c_n, mask=c_n < last, other=-1)
        pair_mn = (c_n[None, :] >= start_m[:, None]) & (c_n[None, :] < end_m[:, None])
        begin = split * share
        stop = tl.minimum(begin + share, width)
        if MODE == PRODUCTS:
            sums_mn = _expanded(
                x, centred, i_m, j_n, pair_mn, begin, stop, width, M, N, D, PRECISION
            )
        else:
            sums_mn = _direct(x, i_m, j_n, begin, stop, width, M, N, D, MODE)
        at_mn = (split.to(tl.int64) * count + r_m[:, None]) * n + c_n[None, :]
        tl.store(out + at_mn, sums_mn, mask=pair_mn)


@triton.jit
def _pull_direct(
    w_mn, x, i_m, j_n, begin, width, M: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Sum over n of w (x_m - x_n), one dimension of a chunk at a time."""
    k_d = tl.arange(0, D)
    pull_md = tl.zeros((M, D), x.dtype.element_ty)
    for k in range(tl.minimum(D, width - begin)):
        a_m = tl.load(x + i_m * width + begin + k, mask=i_m >= 0, other=0)
        b_n = tl.load(x + j_n * width + begin + k, mask=j_n >= 0, other=0)
        pull_m = tl.sum(w_mn * (a_m[:, None] - b_n[None, :]), 1)
        pull_md += tl.where(k_d[None, :] == k, pull_m[:, None], 0)
    return pull_md


@triton.jit
def _pull_expanded(
    w_mn, squares_mn, x, centred, i_m, j_n, a_md, begin, width, M: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same sum as (sum of w) x_m - w x_n; pairs too near for its digits are subtracted."""
    k_d = begin + tl.arange(0, D)
    b_nd = tl.load(
        centred + j_n[:, None] * width + k_d[None, :],
        mask=(j_n >= 0)[:, None] & (k_d < width)[None, :],
        other=0,
    )
    both_mn = tl.sum(a_md * a_md, 1)[:, None] + tl.sum(b_nd * b_nd, 1)[None, :]
    cancelled_mn = (squares_mn < both_mn * _CANCELLED) & (w_mn != 0)
    far_mn = tl.where(cancelled_mn, 0, w_mn)
    pull_md = tl.sum(far_mn, 1)[:, None] * a_md
    pull_md -= tl.dot(far_mn, b_nd, input_precision=PRECISION)
    if tl.max(cancelled_mn.to(tl.int32)) > 0:
        pull_md += _pull_direct(w_mn - far_mn, x, i_m, j_n, begin, width, M, D)
    return pull_md


@triton.jit
def _pairs_of(
    targets, weights, at_mn, pair_mn, same_mn, GIVEN: tl.constexpr, WEIGHTED: tl.constexpr
):
    """Input distances and weights of pairs; both are 0 where a pair does not count."""
    target_mn = tl.load(targets + at_mn, mask=pair_mn, other=0)
    g_mn = pair_mn.to(target_mn.dtype)
    if WEIGHTED:
        g_mn = tl.load(weights + at_mn, mask=pair_mn, other=0)
    if GIVEN:
        unknown_mn = target_mn != target_mn
        g_mn = tl.where(unknown_mn, 0, g_mn)
        target_mn = tl.where(unknown_mn | same_mn, 0, target_mn)
    else:
        target_mn = _root(target_mn)
    # A sample counts with itself, so that its NaN is found. Targets of pairs without weight become
    # 0, because they may be infinite.
    g_mn = tl.where(same_mn & pair_mn, 1, g_mn)
    return tl.where(g_mn != 0, target_mn, 0), g_mn


@triton.jit(do_not_specialize=_SIZES)
def compare_kernel(
    x, centred, rows, columns, starts, ends, targets, squares, weights, scale, factor, sums,
    gradient, width, n, count, slab, local, chunks,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, MODE: tl.constexpr,
    PRECISION: tl.constexpr, GIVEN: tl.constexpr, STORED: tl.constexpr, WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr,
):  # fmt: skip
    """Sums over all pairs of a tile of rows, and a chunk of the gradient by these rows.

    No other program writes the sums and the part of the gradient of a program, so there are no
    atomics and the order of additions is fixed. Arguments that `square_kernel` does not have:

    - targets: (count, n) squared input distances, or given distances, NaN where not known.
    - squares: (count, n) squared feature distances, if `STORED`.
    - weights: (count, n) weights of the pairs, if `WEIGHTED`; else each pair counts once.
    - scale, factor: point to s and to 4 s / total.
    - sums: (tiles, 3) float64; takes the sums of G (D - s d)^2, of G D d and of G d^2.
    - gradient: (local rows, width) takes sum_j factor G (s d - D) / d (x_i - x_j), 0 where d is 0.
    - slab: number of the slab's first tile in sums.
    - local: position in the batch of the first local sample.
    - chunks: number of chunks that hold the gradient's dimensions.
    - GIVEN: whether the targets are distances and not squares.
    - STORED: whether squares are read; else they are computed here, and D is at least the width.
    - GRADIENT: whether the gradient is computed.
    """
    program = tl.program_id(0)
    tile, begin = program // chunks, (program % chunks) * D
    r_m, i_m, start_m, end_m = _rows_of(rows, starts, ends, tile, n, count, M)
    s, f = tl.load(scale).to(x.dtype.element_ty), tl.load(factor).to(x.dtype.element_ty)
    k_d = begin + tl.arange(0, D)
    inside_md = (i_m >= 0)[:, None] & (k_d < width)[None, :]
    a_md = tl.load(centred + i_m[:, None] * width + k_d[None, :], mask=inside_md, other=0)
    pull_md, lost_md = tl.zeros_like(a_md), tl.zeros_like(a_md)
    stress_m, cross_m, squared_m = (tl.zeros((M,), tl.float64),) * 3
    first, last = tl.min(start_m), tl.max(end_m)
    for c in range(first, last, N):
        c_n = c + tl.arange(0, N)
        j_n = tl.load(columns + c_n, mask=c_n < last, other=-1)
        pair_mn = (c_n[None, :] >= start_m[:, None]) & (c_n[None, :] < end_m[:, None])
        same_mn = i_m[:, None] == j_n[None, :]
        at_mn = r_m[:, None] * n + c_n[None, :]
        target_mn, g_mn = _pairs_of(targets, weights, at_mn, pair_mn, same_mn, GIVEN, WEIGHTED)
        if STORED:
            square_mn = tl.load(squares + at_mn, mask=pair_mn, other=0)
        else:
            square_mn = _direct(x, i_m, j_n, 0, width, width, M, N, D, DIFFERENCES)
        square_mn = tl.where(g_mn != 0, square_mn, 0)
        distance_mn = _root(square_mn)
        gap_mn = s * distance_mn - target_mn
        stress_m += tl.sum(g_mn * gap_mn * gap_mn, 1).to(tl.float64)
        cross_m += tl.sum(g_mn * target_mn * distance_mn, 1).to(tl.float64)
        squared_m += tl.sum(g_mn * square_mn, 1).to(tl.float64)
        if GRADIENT:
            apart_mn = tl.where(square_mn == 0, 1, distance_mn)
            w_mn = tl.where(square_mn == 0, 0, f * g_mn * _ratio(gap_mn, apart_mn))
            if MODE == PRODUCTS:
                part_md = _pull_expanded(
                    w_mn, square_mn, x, centred, i_m, j_n, a_md, begin, width, M, D, PRECISION
                )
            else:
                part_md = _pull_direct(w_mn, x, i_m, j_n, begin, width, M, D)
            pull_md, lost_md = _kahan(pull_md, lost_md, part_md)
    if GRADIENT:
        at_md = (i_m - local)[:, None] * width + k_d[None, :]
        tl.store(gradient + at_md, pull_md, mask=inside_md)
    if program % chunks == 0:
        at = sums + (slab + tile) * 3
        tl.store(at, tl.sum(stress_m))
        tl.store(at + 1, tl.sum(cross_m))
        tl.store(at + 2, tl.sum(squared_m))


INTERPRETED = not isinstance(compare_kernel, triton.JITFunction)
"""Whether Triton interprets (``TRITON_INTERPRET=1``), so that it takes tensors on a processor."""
