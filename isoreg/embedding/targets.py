"""Labels in levels -> the classes of a map, and which classes a sample may belong to.

Axes: n = samples, l = levels (coarse to fine), k = classes of the finest level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from isoreg.embedding.blocks import as_array
from isoreg.errors import InputError, refuse_masked
from isoreg.masks import IGNORED

UNKNOWN = -1
_FILL = "Write -1 where a label is not known, in pandas by y.astype(object).fillna(-1)."


@dataclass(frozen=True)
class Targets:
    """What a map knows of the labels.

    Attributes:
        names: (k, l) the labels of each class, as the user wrote them.
        levels: (l, n) for each level the number of a sample's label, or `IGNORED`.
        allowed: (sets, k) the classes that samples of the same known labels may belong to.
        group: (n,) which of these sets holds for a sample.
    """

    names: NDArray[Any]
    levels: Tensor
    allowed: Tensor
    group: Tensor

    @property
    def classes(self) -> NDArray[np.int64]:
        """(n,) the class of each sample, -1 where the finest label is not known."""
        finest = self.levels[-1]
        return torch.where(finest == IGNORED, UNKNOWN, finest).numpy()

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels of each class as scikit-learn has them: (k,), or (k, l) for several levels."""
        return np.array(self.names[:, 0].tolist()) if self.names.shape[1] == 1 else self.names

    def cross_entropy(self, logits: Tensor, places: Tensor) -> Tensor:
        """Mean over the labelled samples of -log p(the classes that a sample may belong to).

        With one level this is the usual cross-entropy. A batch without labels gives 0.

        Args:
            logits: (b, k) of the classes.
            places: (b,) the samples of the batch.

        Returns:
            The mean.
        """
        allowed = self.allowed[self.group[places]].to(logits.device)
        log_p = F.log_softmax(logits, 1).masked_fill(~allowed, -torch.inf)
        labelled = (~allowed.all(1)).sum().clamp_min(1)
        return -log_p.logsumexp(1).sum() / labelled


def read_targets(y: Any, n: int, *, to_learn: bool = True) -> Targets:
    """Read classes, -1 for unknown ones, one column or several from coarse to fine.

    Labels of a finer level are told apart by the coarser ones: "other" in two regions is two
    classes.

    Args:
        y: (n,) or (n, l) labels: integers, or strings.
        n: Number of samples.
        to_learn: Whether a map is learned from the labels. There must then be two classes, and at
            least one class under each label.

    Returns:
        The targets.

    Raises:
        InputError: If y does not hold n labels of classes, if it is masked, one-hot, or mixes
            strings and numbers, or if a known label stands under an unknown one. With to_learn
            also if there are fewer than two classes, or only unknown labels under a label.
    """
    table = _columns(y, n)
    coded = [class_codes(column) for column in table.T]
    known = np.stack([codes != UNKNOWN for codes, _ in coded])
    if (known[1:] & ~known[:-1]).any():
        level, place = np.argwhere(known[1:] & ~known[:-1])[0]
        raise InputError(
            "the labels of a sample must be known from coarse to fine, got sample "
            f"{place} with a label in column {level + 1} and -1 in column {level}."
        )
    levels, members = [], []
    path = np.zeros((n, 0), dtype=np.int64)
    for (codes, _), is_known in zip(coded, known, strict=True):
        path = np.column_stack([path, codes])
        fine, numbers = np.unique(path[is_known], axis=0, return_inverse=True)
        level = np.full(n, IGNORED)
        level[is_known] = numbers.ravel()
        levels.append(level)
        members.append(fine)
    if to_learn and len(fine) < 2:
        raise InputError(
            f"y must hold at least two classes, got {len(fine) or 'no'} class. Leave y out for "
            "a map without classes."
        )
    names = np.array(
        [[values[code] for code, (_, values) in zip(row, coded, strict=True)] for row in fine],
        dtype=object,
    )
    allowed, group = _allowed_sets(members, np.stack(levels), fine)
    empty = (~allowed.any(1))[group].nonzero()
    if to_learn and len(empty):
        place = int(empty[0])
        raise InputError(
            "each label must have a sample whose labels are known to the last column, got "
            f"{table[place].tolist()} for sample {place}, and no other of that label has more. "
            "Write a label of its own there."
        )
    return Targets(names, torch.as_tensor(np.stack(levels)), allowed, group)


def _columns(y: Any, n: int) -> NDArray[Any]:
    """(n, l) labels, a column for each level."""
    refuse_masked(y, "y", "Fill them with -1, which says that a label is not known.")
    if isinstance(y, Tensor):
        tensor, y = y, as_array(y, "y")
        if tensor.is_floating_point():  # as_array may have widened y: the eps is the tensor's
            _refuse_rounded(np.abs(y).max(initial=0), torch.finfo(tensor.dtype).eps, tensor.dtype)
    try:
        table = np.asarray(y)
    except ValueError:  # rows of several lengths
        table = np.asarray(y, dtype=object)
    if table.dtype.kind in "US" and not isinstance(y, np.ndarray):
        table = np.asarray(y, dtype=object)  # of a list numpy wrote NaN as 'nan', and 1 as '1'
    if table.dtype == object and table.ndim == 1:  # tuples, as pandas' MultiIndex has them
        table = np.array(table.tolist(), dtype=object)
    is_ragged = table.ndim == 1 and any(isinstance(row, list | tuple) for row in table.tolist())
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n or not table.shape[1] or is_ragged:
        got = f"shape {table.shape}" if table.ndim else type(y).__name__
        raise InputError(
            f"y must hold a label for each of {n} samples, or a row of them, got "
            f"{'rows of several lengths' if is_ragged else got}."
        )
    if table.shape[1] > 1 and _is_one_hot(table):
        raise InputError(
            "y must hold class numbers or names, a column for each level, got one-hot rows. "
            "y.argmax(1) makes class numbers of them."
        )
    return table


def class_codes(column: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Numbers of the labels of a column, -1 for unknown ones, and the labels by number.

    Returns:
        (n,) numbers, and (k,) labels.
    """
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise InputError(f"y must not hold NaN or infinity. {_FILL}")
    if any(map(_is_missing, column.tolist())):
        raise InputError(f"y must not hold None or NaN. {_FILL}")
    # Among strings, numpy turns the number -1 into a string.
    unknown = np.array([v in (UNKNOWN, "-1", "-1.0") for v in column.tolist()])
    labels = column[~unknown]
    codes = np.full(len(column), UNKNOWN)
    if not len(labels):
        return codes, labels
    _refuse_mixed(labels.tolist())
    if labels.dtype == object:  # a table of columns of several types, as pandas gives it
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f":
        _refuse_rounded(np.abs(labels).max(), np.finfo(labels.dtype).eps, labels.dtype)
    try:
        if labels.dtype.kind == "S":  # older versions of scikit-learn accept bytes
            raise TypeError("Unknown label type: bytes")
        check_classification_targets(labels)
    except (ValueError, TypeError) as error:  # its text speaks of classifiers
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputError(
            f"y must hold classes, as integers or strings, got {labels[0]!r} ({reason}). Leave y "
            "out if it is the target of a regression."
        ) from error
    values, codes[~unknown] = np.unique(labels, return_inverse=True)
    return codes, values


def classmates_first(
    places: NDArray[np.int64], classes: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The same places, ordered in couples of one class, so that any part holds pairs of a class.

    If classes are many and small, a few random samples hold hardly any such pair.

    Args:
        places: (m,) samples, in any order.
        classes: (n,) the class of each sample, or -1; None: without classes.

    Returns:
        (m,) places: couples in the order of their first members, then samples without a mate.
    """
    if classes is None:
        return places
    labels = classes[places]
    order = np.argsort(labels, kind="stable")
    rank = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    first = order[np.arange(len(labels)) - rank % 2]
    single = (np.bincount(first)[first] == 1) | (labels[order] == UNKNOWN)
    ordered: NDArray[np.int64] = places[order[np.lexsort((rank, first, single))]]
    return ordered


def _is_one_hot(table: NDArray[Any]) -> bool:
    if table.dtype.kind not in "biuf":
        return False
    return bool(((table == 0) | (table == 1)).all() and (table.sum(1) == 1).all())


def _refuse_rounded(largest: Any, eps: Any, dtype: Any) -> None:
    """Refuse floating labels so large that their dtype skips integers."""
    if largest * eps >= 2:
        raise InputError(
            f"y must hold whole numbers that {dtype} tells apart, got {largest:.17g}, which may be "
            "another label rounded. Is it an integer beside floating numbers, or beside NaN? Write "
            "the column as integers or strings."
        )


def _refuse_mixed(labels: list[Any]) -> None:
    """Refuse strings beside numbers: in one array, 1 and '1' become one class."""
    number = next((label for label in labels if not isinstance(label, str)), None)
    text = next((label for label in labels if isinstance(label, str)), None)
    if number is not None and text is not None:
        raise InputError(
            f"labels of a column of y must be all strings or all numbers, got {text!r} and "
            f"{number!r}. Write all of them in one way."
        )


def _is_missing(label: Any) -> bool:
    try:  # among strings, numpy writes NaN as "nan"
        return label is None or label == "nan" or bool(label != label)
    except TypeError:  # a comparison with pandas' NA has no truth value
        return True


def _allowed_sets(
    members: list[NDArray[np.int64]], levels: NDArray[np.int64], fine: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """``allowed`` and ``group`` of `Targets`: a set of all classes, then one set for each label."""
    sets = [np.ones((1, len(fine)), dtype=bool)]
    group = np.zeros(levels.shape[1], dtype=np.int64)
    for depth, (labels, level) in enumerate(zip(members, levels, strict=True), start=1):
        known = level != IGNORED
        group[known] = sum(map(len, sets)) + level[known]
        sets.append((fine[None, :, :depth] == labels[:, None, :]).all(-1))
    return torch.as_tensor(np.concatenate(sets)), torch.as_tensor(group)
