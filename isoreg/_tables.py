"""Checks of the tables that users give: distances or weights of pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isoreg._pairs.precision import can_look
from isoreg.errors import InputError


def check_dense(values: Tensor, name: str) -> None:
    """Refuse values that are no dense tensor of numbers.

    Args:
        values: The values as the user gave them.
        name: Their name in errors.

    Raises:
        InputError: If they are no tensor, or a sparse or nested one, or one of floats in eight
            bits, or one without data.

    Example:
        >>> check_dense([[0.0]], "input_distances")
        Traceback (most recent call last):
        isoreg.errors.InputError: input_distances must be a tensor, got list. ...
    """
    if not isinstance(values, Tensor):
        raise InputError(
            f"{name} must be a tensor, got {type(values).__name__}. "
            f"torch.as_tensor({name}) makes one of an array or a list of numbers."
        )
    if values.is_meta or (values.is_floating_point() and values.itemsize < 2):
        kind = "the meta device" if values.is_meta else str(values.dtype)
        raise InputError(f"{name} must hold numbers to compute with, got a tensor of {kind}.")
    if values.is_nested:
        raise InputError(
            f"{name} must have rows of one length, got a nested tensor. "
            "Pad it, or reduce each sample to one vector."
        )
    if values.layout != torch.strided:
        raise InputError(
            f"{name} must be a dense tensor, got one of layout {values.layout}. "
            "Convert it with .to_dense()."
        )


def pair_table(values: Tensor, name: str, rows: int, columns: int | None, like: Tensor) -> Tensor:
    """Check type and shape of a table with a number for each pair; return it in float32 or better.

    Args:
        values: (rows, columns) distances or weights of pairs, floating or integers.
        name: Their name in errors.
        rows: Number of samples.
        columns: Number of samples that they are compared with; None if it is not known yet.
        like: A tensor whose device the table gets, and whose dtype integers and booleans get.

    Returns:
        The table, which is copied only where its type or device changes.

    Raises:
        InputError: If the values are no dense real tensor of this shape.

    Example:
        >>> pair_table(torch.eye(2).long(), "pair_weights", 2, 2, torch.zeros(1)).dtype
        torch.float32
    """
    check_dense(values, name)
    if values.is_complex():
        raise InputError(f"{name} must be real numbers, got {values.dtype}.")
    fits = values.ndim == 2 and len(values) == rows
    if not fits or columns not in (None, values.shape[1]):
        shape = f"({rows}, samples of all ranks)" if columns is None else f"({rows}, {columns})"
        raise InputError(
            f"{name} must be of shape {shape} for {rows} samples, got {tuple(values.shape)}."
        )
    dtype = values.dtype if values.is_floating_point() else like.dtype
    return values.to(like.device, torch.promote_types(dtype, torch.float32))


def check_pairs(values: Tensor, counted: Tensor, name: str, local: slice | None = None) -> Tensor:
    """Refuse a table with wrong entries; on an accelerator, turn these entries into NaN.

    An entry is right if it is finite, 0 or more, and differs by at most a thousandth of the largest
    entry from the entry of the mirrored pair, where the table has that.

    Args:
        values: (r, n) distances or weights of pairs.
        counted: (r, n) booleans, which pairs count; entries of other pairs are not checked.
        name: Their name in errors.
        local: The columns of the samples that are the rows; None: all columns are, in their order.

    Returns:
        The table.

    Raises:
        InputError: If an entry that counts is wrong; on an accelerator, where reading would wait
            for the device, such entries become NaN instead.

    Example:
        >>> check_pairs(-torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), "input_distances")
        Traceback (most recent call last):
        isoreg.errors.InputError: input_distances must be finite, ... got -1 for samples 0 and 0.
    """
    local = slice(0, len(values)) if local is None else local
    with torch.no_grad():
        largest = values.masked_fill(~counted | values.isnan(), 0).amax() if values.numel() else 0.0
        mirrored = values[:, local].T
        if mirrored.shape != values.shape:
            mirrored = torch.cat([values[:, : local.start], mirrored, values[:, local.stop :]], 1)
        is_mirrored = (values - mirrored).abs() <= 1e-3 * largest
        bad = counted & ~((values >= 0) & (values < math.inf) & is_mirrored)
    if values.device.type != "cpu":
        return values.masked_fill(bad, math.nan)
    if bool(bad.any()):
        i, j = bad.nonzero()[0]
        entry, mirror = values[i, j], mirrored[i, j]
        i += local.start
        got = f"{entry:.6g} for samples {i} and {j}"
        if 0 <= entry < math.inf:
            got += f" and {mirror:.6g} for {j} and {i}"
        if name == "input_distances" and bool(entry.isnan() ^ mirror.isnan()):
            got += " (a pair that is not known is NaN in both orders)"
        raise InputError(
            f"{name} must be finite, 0 or more, and the same for both orders of a pair, got {got}."
        )
    return values


def check_distances(
    values: Tensor, name: str, *, mirrored: Tensor | None = None, own: int | None = None
) -> None:
    """Refuse numbers that cannot be distances; NaN is allowed and means that one is not known.

    Args:
        values: (r, n) numbers, in float32 or better.
        name: Their name in errors.
        mirrored: (r, n) distances in the other direction, equal within a thousandth; None: unknown.
        own: The column in which the first row's own sample is, with those of the next rows behind
            it; None: do not check distances of samples from themselves.

    Raises:
        InputError: If some are negative, infinite or not symmetric, or if samples are further from
            themselves than from others.

    Example:
        >>> check_distances(torch.eye(3), "metric", own=0)
        Traceback (most recent call last):
        isoreg.errors.InputError: metric must be 0 between a sample and itself, got ...
    """
    if bool(((values < 0) | values.isinf()).any()):
        least, most = values[~values.isnan()].aminmax()
        raise InputError(
            f"{name} must be at least 0 and finite (NaN: not known), got {least:.4g} to {most:.4g}."
        )
    if mirrored is not None and values.numel():
        # many metrics multiply matrices, which leaves errors of a millionth of the largest entry
        rounding = 1e-6 * float(values.nan_to_num(0).amax())
        if not torch.allclose(values, mirrored, rtol=1e-3, atol=rounding, equal_nan=True):
            gap = (values - mirrored).abs().nan_to_num(math.inf)
            worst = gap.masked_fill(values.isnan() & mirrored.isnan(), 0).argmax()
            entry, mirror = values.flatten()[worst], mirrored.flatten()[worst]
            raise InputError(
                f"{name} must be symmetric, got {entry:.4g} in one direction and {mirror:.4g} in "
                "the other. If the difference means nothing, give the mean."
            )
    if own is not None:
        on_diagonal = torch.zeros_like(values, dtype=torch.bool)
        on_diagonal.diagonal(own).fill_(True)
        within, between = values[on_diagonal].nanmean(), values[~on_diagonal].nanmean()
        if within > between:  # false if one of them is NaN
            raise InputError(
                f"{name} must be 0 between a sample and itself, got {within:.4g} there and "
                f"{between:.4g} between two samples. Is it a similarity? Turn it round: for "
                "example 1 - similarity."
            )


_APART, _ROUNDED, _EQUAL = 0.3, 0.1, 0.01  # what is no fault of a metric: see `check_metric`


def check_metric(values: Tensor, points: Tensor) -> Tensor:
    """Refuse a metric's values that are no distances; on an accelerator, turn all into NaN.

    A similarity is found by its order: no pair, or far from every pair, has less than a sample has
    with itself. Points are judged if one is apart from the first by 0.3 of the largest length: the
    roots of squares that products left in TF32 or bfloat16 are then wrong by less than a tenth of
    the largest distance. Of points that almost coincide, a metric may show its rounding alone, as
    it may if no value is larger than what a hundred roundings of 1 make.

    Args:
        values: (n, n) values of a callable that a user gave.
        points: (n, d) points from which it computed them.

    Returns:
        The values.

    Raises:
        InputError: If some are negative or not symmetric, or samples are nearest to others. On an
            accelerator, where reading would wait for the device, all values become NaN instead.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> check_metric(points @ points.T, points)
        Traceback (most recent call last):
        isoreg.errors.InputError: the metric must give 0 between a sample and itself, got 1 at ...
    """
    with torch.no_grad():
        d, x = values.detach(), points.detach()
        apart = torch.linalg.vector_norm(x - x[:1], dim=1).amax()
        largest = d.abs().amax()
        judged = apart > _APART * torch.linalg.vector_norm(x, dim=1).amax()
        judged = judged & (largest > 100 * torch.finfo(x.dtype).eps)
        negative = d < -_ROUNDED * largest
        lopsided = (d - d.T).abs() > _ROUNDED * largest
        own = d.diagonal()
        excess = (own[:, None] + own) / 2 - d
        least, most = excess.aminmax()
        inverted = (least >= -_EQUAL * largest) & (most > _EQUAL * largest)
        mean = excess.sum() / max(1, excess.numel() - len(own))
        inverted = inverted | (mean > _ROUNDED * largest)
        bad = judged & (negative.any() | lopsided.any() | inverted)
    if not can_look(values.device):
        return values * torch.where(bad, math.nan, 1.0).to(values.dtype)
    if bool(bad):
        raise InputError(_metric_fault(d, negative, lopsided, excess))
    return values


def _metric_fault(d: Tensor, negative: Tensor, lopsided: Tensor, excess: Tensor) -> str:
    """What is wrong with the values of a metric."""
    similarity = "Is it a similarity? Turn it round: for example 1 - similarity."

    def at(place: Tensor) -> str:
        i, j = divmod(int(place), len(d))
        return f"{d[i, j]:.4g} at pair ({i}, {j})"

    if negative.any():
        return f"the metric must give distances of 0 or more, got {at(d.argmin())}. {similarity}"
    if lopsided.any():
        i, j = lopsided.nonzero()[0]
        return (
            f"the metric must give the same distance in both directions, got {at(i * len(d) + j)} "
            f"and {at(j * len(d) + i)}. Give the mean of both: (d + d.T) / 2."
        )
    place = excess.argmax()
    itself = place // len(d) * (len(d) + 1)
    return (
        f"the metric must give 0 between a sample and itself, got {at(itself)} and {at(place)}. "
        f"{similarity}"
    )
