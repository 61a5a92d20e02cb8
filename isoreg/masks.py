"""Labels -> which pairs of a batch are compared, and how much each pair weighs (the paper's G)."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from isoreg._pairs.precision import full_precision, rounds_products
from isoreg.errors import InputError, check_integer, error_prefix

IGNORED = -100
"""Label of samples that pair with nobody, the default ``ignore_index`` of cross-entropy."""
_INT64 = 2**63  # the first integer that a label cannot be
_NO_LABELS = "labels=None (isometry_labels=None of IsometryTrainer)"
_SEVERAL = (
    f"If a sample has several labels, no class is its own: use {_NO_LABELS}, with pair_weights= or "
    "distances that are NaN for the pairs that are not to count."
)


def pair_weights(
    labels: Tensor | None,
    n: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weights G of the pairs of a batch.

    - ``labels`` None: ``G_ij = 1``, global isometry.
    - integers (n,): ``G_ij = 1`` if the labels are equal, else 0. Samples labelled -100
      (`IGNORED`) pair with nobody.
    - floats (n, c), rows of class probabilities as Mixup, CutMix and label smoothing make them:
      ``G = Y Y^T``, the probability that both samples show the same class. A row of zeros pairs
      with nobody. One-hot rows give the same G as integers.

    Values of labels are checked only on a CPU.

    Source: equation 2 of the paper has the integer case; the soft one is its expectation.

    Args:
        labels: None, (n,) integers or (n, c) probabilities.
        n: Number of samples in the batch.
        dtype: Dtype of the result, floating for probabilities.
        device: Device of the result; default: that of ``labels``.

    Returns:
        (n, n) symmetric weights from 0 to 1.

    Raises:
        InputError: If n is no integer of at least 0, or there are not n labels, or they are neither
            integers nor probabilities.

    Example:
        >>> pair_weights(torch.tensor([0, 1, 0]), 3)
        tensor([[1., 0., 1.],
                [0., 1., 0.],
                [1., 0., 1.]])
    """
    with error_prefix("pair_weights"):
        check_integer("n", n, 0)
        if labels is None:
            return torch.ones(n, n, dtype=dtype, device=device)
        check_labels(labels, n)
        if labels.is_floating_point() and not dtype.is_floating_point:
            raise InputError(
                f"dtype must be floating for probabilities, got {dtype}, which would round the "
                "weights to 0 and 1."
            )
        labels = labels.to(device or labels.device)
        return weights_between(labels, labels, dtype)


def weights_between(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights G of the pairs of left with right samples; see `pair_weights`.

    Args:
        left: (..., a) integers or (..., a, c) probabilities.
        right: (..., b) or (..., b, c), of the same kind.
        dtype: Floating dtype of the result.

    Returns:
        (..., a, b) weights from 0 to 1.

    Example:
        >>> weights_between(torch.tensor([0]), torch.tensor([0, 1]), torch.float32)
        tensor([[1., 0.]])
    """
    if left.is_floating_point():
        # in float32 at least, without autocast, because bf16 rounds a Mixup weight to 3 digits
        wide = torch.promote_types(left.dtype, dtype)
        if wide == torch.float32 and rounds_products(left.device):
            wide = torch.float64
        with full_precision(left.device):
            return (left.to(wide) @ right.to(wide).mT).to(dtype)
    left, right = left.long(), right.long()  # in uint8, class 156 equals IGNORED
    left = left.masked_fill(left == IGNORED, IGNORED - 1)  # equals no label, so it has no pair
    return (left[..., None] == right[..., None, :]).to(dtype)


def top_classes(labels: Tensor) -> Tensor:
    """One class a sample, of labels of any kind.

    Args:
        labels: (n,) integers or (n, c) probabilities.

    Returns:
        (n,) integers: the labels, or the most probable classes, `IGNORED` for rows of zeros.

    Example:
        >>> top_classes(torch.tensor([[0.2, 0.8], [0.0, 0.0]])).tolist()
        [1, -100]
    """
    if not labels.is_floating_point():
        return labels
    return labels.argmax(1).masked_fill((labels == 0).all(1), IGNORED)


def check_labels(labels: Tensor, n: int) -> None:
    """Refuse labels that `pair_weights` cannot use.

    Type and shape are always checked, values only on a CPU. On an accelerator, reading values would
    wait for the device, so they are checked there only by a call of `check_label_values`.

    Args:
        labels: The labels to check.
        n: Number of samples that they must belong to.

    Raises:
        InputError: If there are not n labels, or they are neither integers nor probabilities.

    Example:
        >>> check_labels(torch.tensor([0, 1]), 3)
        Traceback (most recent call last):
        isoreg.errors.InputError: 2 labels for a batch of 3.
    """
    check_shape(labels, n)
    if labels.device.type == "cpu":
        check_label_values(labels)


def check_shape(labels: Tensor, n: int) -> None:
    """Refuse labels of a wrong type or shape; values are read only for the advice in the error.

    Args:
        labels: The labels to check.
        n: Number of samples that they must belong to.

    Raises:
        InputError: If there are not n labels, or they are neither integers nor probabilities.

    Example:
        >>> check_shape(torch.zeros(2, 1, dtype=torch.int64), 2)
        Traceback (most recent call last):
        isoreg.errors.InputError: integer labels must be class numbers of shape (n,), ...
    """
    if not isinstance(labels, Tensor):
        raise InputError(
            f"labels must be a tensor or None, got {type(labels).__name__}. "
            "torch.as_tensor(labels) makes one of an array or a list."
        )
    if labels.is_nested or labels.layout != torch.strided:
        kind = "nested" if labels.is_nested else str(labels.layout)
        raise InputError(f"labels must be a dense tensor, got a {kind} one.")
    if labels.is_meta:
        raise InputError("labels must have values, got a tensor of the meta device.")
    if labels.is_complex() or (labels.is_floating_point() and labels.itemsize < 2):
        raise InputError(f"labels must be integers or probabilities, got {labels.dtype}.")
    if labels.ndim != (2 if labels.is_floating_point() else 1) or labels.shape[1:] in ((0,), (1,)):
        _refuse_shape(labels)
    if labels.shape[0] != n:
        raise InputError(f"{len(labels)} labels for a batch of {n}.")


def check_label_values(labels: Tensor) -> None:
    """Refuse labels of the right shape whose values are wrong; this waits for the device.

    Args:
        labels: (n,) integers or (n, c) floats.

    Raises:
        InputError: If integers other than `IGNORED` are negative, or rows of floats are no
            probabilities.

    Example:
        >>> check_label_values(torch.tensor([0, -1]))
        Traceback (most recent call last):
        isoreg.errors.InputError: integer labels must be 0 or more, ... got -1 at position 1. ...
    """
    if not labels.is_floating_point():
        labels = labels.long()  # torch cannot compare all unsigned types
        if labels.numel() == 0 or labels.min().item() >= 0:
            return
    valid = valid_labels(labels)
    if bool(valid.all()):
        return
    row = int((~valid).nonzero()[0])
    if not labels.is_floating_point():
        raise InputError(
            f"integer labels must be 0 or more, or {IGNORED} for samples that pair with nobody, "
            f"got {int(labels[row])} at position {row}. If it stands for samples without a label, "
            f"write {IGNORED}: labels.masked_fill(labels < 0, {IGNORED})."
        )
    values = labels[row]
    got = f"got row {row} with minimum {values.min():.4g} and sum {values.float().sum():.4g}"
    if bool(values.isnan().any()):
        advice = "NaN stands for no label: give such samples a row of zeros."
    elif bool(((labels == 0) | (labels == 1)).all()):
        advice = _SEVERAL
    else:
        advice = "Logits are not labels: apply softmax, or pass class numbers."
    raise InputError(
        f"rows of floating labels must be non-negative and sum to 1 (or be all 0), {got}. {advice}"
    )


@torch.no_grad()
def valid_labels(labels: Tensor) -> Tensor:
    """Which labels have values that `pair_weights` can use; this does not wait for the device.

    Args:
        labels: (n,) integers or (n, c) floats.

    Returns:
        (n,) booleans.

    Example:
        >>> valid_labels(torch.tensor([0, -1, -100]))
        tensor([ True, False,  True])
    """
    if not labels.is_floating_point():
        labels = labels.long()
        return (labels >= 0) | (labels == IGNORED)
    sums = labels.sum(1)
    rounding = max(1e-3, torch.finfo(labels.dtype).eps)
    one_or_none = ((sums - 1).abs() <= rounding) | (sums == 0)
    return (labels >= 0).all(1) & one_or_none


def _refuse_shape(labels: Tensor) -> None:
    """Say what labels of this shape probably are, and what to give instead."""
    shape = tuple(labels.shape)
    if labels.is_floating_point():
        raise InputError(
            "floating labels must be class probabilities of shape (n, classes) with two classes or "
            f"more, got shape {shape}. {_advice_on_floats(labels, is_column=shape[1:] == (1,))}"
        )
    advice = _advice_on_integers(labels, is_column=shape[1:] == (1,))
    raise InputError(
        f"integer labels must be class numbers of shape (n,), got shape {shape}. {advice}"
    )


def _advice_on_integers(labels: Tensor, *, is_column: bool) -> str:
    if is_column:
        return "Take the column: labels.squeeze(1)."
    if labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all()):
        is_one_hot = bool((labels.sum(1) <= 1).all())
        one_hot = "If these are one-hot rows, convert them with .argmax(1), or with .float()."
        return one_hot if is_one_hot else _SEVERAL
    return (
        "If there is one a token or pixel, say what the class of the whole sample is; one-hot rows "
        "can be converted with .float()."
    )


def _advice_on_floats(labels: Tensor, *, is_column: bool) -> str:
    if bool((labels == labels.round()).all()):
        how = "take the column: labels.squeeze(1)" if is_column else "convert them with "
        return f"If these are class numbers, {how}.long()."
    take = "labels.squeeze(1)" if is_column else "labels"
    return (
        f"Targets of a regression are no classes: use {_NO_LABELS}, or bins of them, "
        f"torch.bucketize({take}, boundaries)."
    )


def partition(labels: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Coarser labels from a partition of the classes, one level of a label hierarchy.

    Source: the nested partitions of section 3.3 of the paper.

    Args:
        labels: Integer labels of any shape.
        groups: The classes of each group, as ``[[0, 2], [1, 3]]``.

    Returns:
        Integers of the same shape, the index of the group that holds each label, and -100
        (`IGNORED`) for labels that no group holds.

    Raises:
        InputError: If labels or classes are not integers, or a class is in two groups.

    Example:
        >>> partition(torch.tensor([0, 1, 2, 3, 9]), [[0, 2], [1, 3]]).tolist()
        [0, 1, 0, 1, -100]
    """
    with error_prefix("partition"):
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels must be a tensor of integers, got {kind}.")
        labels = labels.long()  # a small integer type would wrap large members around
        coarse = torch.full_like(labels, IGNORED)
        for member, group in _group_of_each(groups).items():
            coarse[labels == member] = group
        return coarse


def _group_of_each(groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Each class with the index of its group."""
    named = isinstance(groups, Sequence) and not isinstance(groups, str)
    if not named or any(not isinstance(group, Sequence) for group in groups):
        raise InputError(f"groups must be a list of lists of classes, got {groups!r}.")
    group_of: dict[int, int] = {}
    for index, group in enumerate(groups):
        for member in group:
            if not isinstance(member, numbers.Integral) or not -_INT64 <= member < _INT64:
                raise InputError(
                    f"classes must be integers of 64 bits, got {member!r} in group {index}."
                )
            if member in group_of:
                raise InputError(
                    "each class must stand in one group, "
                    f"got class {member} in groups {group_of[member]} and {index}."
                )
            group_of[member] = index
    return group_of
