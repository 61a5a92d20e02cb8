"""Labels -> which pairs of a batch are compared, and how much each pair weighs (the paper's G)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isoreg.errors import InputError, called

IGNORED = -100
"""Label of samples that pair with nobody, the default ``ignore_index`` of cross-entropy."""


def pair_weights(
    labels: Tensor | None,
    n: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weights G of the pairs of a batch.

    - ``labels`` None: ``G_ij = 1``, global isometry.
    - integers (n,): ``G_ij = 1`` if the labels are equal, else 0. Samples labelled `IGNORED`
      pair with nobody.
    - floats (n, c), rows of class probabilities as Mixup, CutMix and label smoothing make them:
      ``G = Y Y^T``, the probability that both samples show the same class. A row of zeros pairs
      with nobody. One-hot rows give the same G as integers.

    Source: equation 2 of the paper has the integer case; the soft one is its expectation.

    Args:
        labels: None, (n,) integers or (n, c) probabilities.
        n: Number of samples in the batch.
        dtype: Floating dtype of the result.
        device: Device of the result; default: that of ``labels``.

    Returns:
        (n, n) symmetric weights from 0 to 1.

    Raises:
        InputError: If there are not n labels, or they are neither integers nor probabilities.

    Example:
        >>> pair_weights(torch.tensor([0, 1, 0]), 3)
        tensor([[1., 0., 1.],
                [0., 1., 0.],
                [1., 0., 1.]])
    """
    with called("pair_weights"):
        if labels is None:
            return torch.ones(n, n, dtype=dtype, device=device)
        check_labels(labels, n)
        labels = labels.to(device or labels.device)
        if labels.is_floating_point():
            # float32 at least and not under autocast: bf16 would round a Mixup weight to 3 digits
            wide = labels.to(torch.promote_types(labels.dtype, dtype))
            with torch.autocast(wide.device.type, enabled=False):
                return (wide @ wide.T).to(dtype)
        labels = labels.long()  # in uint8, class 156 equals IGNORED
        kept = labels != IGNORED
        return ((labels[:, None] == labels[None, :]) & kept[:, None]).to(dtype)


def check_labels(labels: Tensor, n: int) -> None:
    """Refuse labels that `pair_weights` cannot use.

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
    if not isinstance(labels, Tensor):
        raise InputError(f"labels must be a tensor or None, got {type(labels).__name__}.")
    if labels.is_complex():
        raise InputError(f"labels must be integers or probabilities, got {labels.dtype}.")
    shape = tuple(labels.shape)
    if labels.is_floating_point():
        if labels.ndim != 2:
            raise InputError(
                "floating labels must be class probabilities of shape (n, classes), got shape "
                f"{shape}. If these are class numbers, convert them with .long()."
            )
        _check_probabilities(labels)
    elif labels.ndim != 1:
        raise InputError(
            f"integer labels must be class numbers of shape (n,), got shape {shape}. "
            "If these are one-hot rows, convert them with .float(); if there is one a token or "
            "pixel, say what the class of the whole sample is."
        )
    if len(labels) != n:
        raise InputError(f"{len(labels)} labels for a batch of {n}.")


def partition(labels: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Coarser labels from a partition of the classes, one level of a label hierarchy.

    Source: the nested partitions of section 3.3 of the paper.

    Args:
        labels: Integer labels of any shape.
        groups: The classes of each group, as ``[[0, 2], [1, 3]]``.

    Returns:
        Integer tensor of the same shape: the index of the group that holds each label, and
        `IGNORED` for labels that no group holds.

    Raises:
        InputError: If the labels are not integers or a class stands in two groups.

    Example:
        >>> partition(torch.tensor([0, 1, 2, 3, 9]), [[0, 2], [1, 3]]).tolist()
        [0, 1, 0, 1, -100]
    """
    with called("partition"):
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels must be a tensor of integers, got {kind}.")
        labels = labels.long()  # a small integer type would wrap large members around
        coarse = torch.full_like(labels, IGNORED)
        seen: dict[int, int] = {}
        for index, group in enumerate(groups):
            for member in group:
                if member in seen:
                    raise InputError(
                        "each class must stand in one group, "
                        f"got class {member} in groups {seen[member]} and {index}."
                    )
                seen[member] = index
                coarse[labels == member] = index
        return coarse


def _check_probabilities(labels: Tensor) -> None:
    with torch.no_grad():
        sums = labels.float().sum(1)
        rounding = max(1e-3, torch.finfo(labels.dtype).eps)
        one_or_none = ((sums - 1).abs() <= rounding) | (sums == 0)
        valid = (labels >= 0).all(1) & one_or_none
    if not bool(valid.all()):
        row = int((~valid).nonzero()[0])
        raise InputError(
            "rows of floating labels must be non-negative and sum to 1 (or be all 0), "
            f"got row {row} with minimum {labels[row].min():.4g} and sum {sums[row]:.4g}. "
            "Logits are not labels: apply softmax, or pass class numbers."
        )
