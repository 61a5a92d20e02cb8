"""What scikit-learn asks of an estimator, and which settings a map refuses."""

from __future__ import annotations

import numbers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from isoreg.embedding.blocks import as_array
from isoreg.errors import InputError, refuse_masked

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
        """Check X, and keep or compare its number and names of columns."""
        return estimator._validate_data(X, **options)


# name: kind, least value, whether the least value itself is allowed, most value
_NUMBERS: dict[str, tuple[type, float, bool, float]] = {
    "n_components": (numbers.Integral, 1, True, float("inf")),
    "beta": (numbers.Real, 0, True, float("inf")),
    "beta_all": (numbers.Real, 0, True, float("inf")),
    "near": (numbers.Real, 0, True, 10),  # weights reach 20^near: more is too much for float32
    "max_epochs": (numbers.Integral, 1, True, float("inf")),
    "batch_size": (numbers.Integral, 2, True, float("inf")),
    "learning_rate": (numbers.Real, 0, False, 1000),
    "noise": (numbers.Real, 0, True, float("inf")),
    "validation_fraction": (numbers.Real, 0, False, 1),
    "n_iter_no_change": (numbers.Integral, 1, True, float("inf")),
}
_MAY_BE_NONE = {"max_epochs", "noise"}
_MISSING = "Some are missing in one of the two: drop them in both"


def read_rows(estimator: Any, X: Any, **options: Any) -> Any:
    """X as an array (n, d) of floating numbers, each of them known.

    Returns:
        The samples, checked by scikit-learn's `validate_data`, to which options are given.

    Raises:
        InputError: If X holds strings or other objects, or some of its entries are masked.
        ValueError: scikit-learn's own, if X is no table of finite numbers.
    """
    given = as_array(X, "X") if isinstance(X, torch.Tensor) else X
    refuse_masked(given, "X", "Fill them with numbers, as an imputer does: a map knows no NaN.")
    try:
        rows = validate_data(estimator, given, dtype=[np.float64, np.float32], **options)
    except (TypeError, ValueError) as error:
        listed = isinstance(error, TypeError) and isinstance(given, list | tuple)
        if not listed and "could not convert string" not in str(error):
            raise
        raise InputError(
            "X must be numbers, which the network takes, a row for each object, got other objects "
            f"({error}). With metric_takes='indices' the metric gets places, and looks the objects "
            "up itself."
        ) from error
    return np.ascontiguousarray(rows)  # torch takes no arrays with negative strides


def refuse_other_order(X: Any, **tables: Any) -> None:
    """Refuse pandas objects whose index has X's samples in another order: a fit goes by place.

    An index that only counts rows names no samples, and is not compared. If the index of X names
    none, y and the distances are compared with each other.
    """
    pandas: Any = sys.modules.get("pandas")
    if pandas is None:
        return
    named = {
        name: table
        for name, table in {"X": X, **tables}.items()
        if isinstance(table, pandas.DataFrame | pandas.Series)
        and not isinstance(table.index, pandas.RangeIndex)
    }
    first = next(iter(named), "")
    for name, table in [*named.items()][1:]:
        ours, keys = named[first].index, f"{first}.index"
        indexes = [table.index]
        if name == "distances" and hasattr(table, "columns"):
            indexes, keys = [table.index, table.columns], f"{keys}, {keys}"
        for theirs in indexes:
            if isinstance(theirs, pandas.RangeIndex) or not _is_in_other_order(ours, theirs):
                continue
            place = int(_moved(ours, theirs).argmax())
            here, there = (_plain(index[place]) for index in (theirs, ours))
            if set(ours) != set(theirs):
                advice = _MISSING
            elif ours.is_unique:
                advice = f"{name}.loc[{keys}] has it"
            else:
                advice = f"The names repeat: order it by other means, and pass {name}.to_numpy()"
            raise InputError(
                f"{name} must have the samples in the order of {first}, got {here!r} in place "
                f"{place} where {first} has {there!r}. {advice}."
            )


def _plain(name: Any) -> Any:
    """The name of a sample in Python's own types, in which its text is plain."""
    if isinstance(name, tuple):
        return tuple(map(_plain, name))
    return name.item() if isinstance(name, np.generic) else name


def _is_in_other_order(ours: Any, theirs: Any) -> bool:
    """Whether ``theirs`` names the samples of ``ours``, but in other places."""
    if len(ours) != len(theirs) or not _moved(ours, theirs).any():
        return False
    counts = [*range(len(ours))]
    names = all(index.is_unique and [*index] != counts for index in (ours, theirs))
    return names or set(ours) == set(theirs)  # an index with repeats may only count rows


def _moved(ours: Any, theirs: Any) -> Any:
    """(n,) whether ``theirs`` has at a place a sample that has another place in ``ours``."""
    return theirs.isin(ours) & (ours.to_numpy(dtype=object) != theirs.to_numpy(dtype=object))


@contextmanager
def columns_unless_raised(estimator: Any) -> Iterator[None]:
    """If a fit raises, restore the columns of the last fit: all other attributes are of it too."""
    names = ("n_features_in_", "feature_names_in_")
    before = {name: vars(estimator)[name] for name in names if name in vars(estimator)}
    try:
        yield
    except BaseException:
        for name in names:
            vars(estimator).pop(name, None)
        vars(estimator).update(before)
        raise


def check_settings(estimator: Any) -> None:
    """Refuse settings of a wrong type or out of their range, before anything is computed."""
    for name, (kind, least, closed, most) in _NUMBERS.items():
        value = getattr(estimator, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if not is_number or not (least <= value < most if closed else least < value < most):
            what = "an integer" if kind is numbers.Integral else "a number"
            bound = f"{'at least' if closed else 'above'} {least:g}"
            below = "" if most == float("inf") else f" and below {most:g}"
            none = " or None" if name in _MAY_BE_NONE else ""
            raise InputError(f"{name} must be {what} {bound}{below}{none}, got {value!r}.")
    if estimator.early_stopping not in (True, False):  # the text "no" would count as true
        got = repr(estimator.early_stopping)
        raise InputError(f"early_stopping must be True or False, got {got}.")
    if not isinstance(estimator.cache, str | os.PathLike | None):
        got = type(estimator.cache).__name__
        raise InputError(f"cache must be the path of a file or None, got {got}.")
    network = estimator.network
    if network is not None and not isinstance(network, nn.Module):
        raise InputError(f"network must be a torch.nn.Module or None, got {network!r}.")
    if estimator.clusterer is not None and not hasattr(estimator.clusterer, "fit_predict"):
        raise InputError(
            "clusterer must have fit_predict, as scikit-learn's clusterers do, got "
            f"{estimator.clusterer!r}."
        )
