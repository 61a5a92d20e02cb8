"""Finds the labels of a batch, and the other tensors in it that a penalty is computed with."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from isoreg._attach.samples import LABEL_NAMES
from isoreg.errors import InputError

Finder: TypeAlias = str | Callable[[Any], Tensor | None] | None
"""A key of the batch, a callable on the batch, or None."""


def find_labels(
    batch: Any,
    names: Sequence[str] = LABEL_NAMES,
    argument: str = "labels",
    advice: str = "",
) -> Tensor:
    """Find the labels of a batch that has one of the usual forms.

    Args:
        batch: A mapping with one of the names, or a tuple or list with the labels as second entry.
        names: Keys of labels, in the order in which they are looked for.
        argument: Name of the adapter's argument that says where the labels are, for the error.
        advice: What else the user may do, for the error.

    Returns:
        The labels.

    Raises:
        InputError: If they are not found.

    Example:
        >>> import torch
        >>> find_labels((torch.rand(2, 3), torch.tensor([0, 1])))
        tensor([0, 1])
    """
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in names if key in batch), None)
        form = f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        labels, form = batch[1], f"a {type(batch).__name__} whose second entry is none"
    else:
        labels, form = None, f"{type(batch).__name__}"
    if isinstance(labels, Tensor):
        return labels
    raise InputError(
        f"labels are looked for in a batch's second entry or under {', '.join(names)}, got "
        f"{form}. Say where they are: {argument}=lambda batch: ... {advice}".rstrip()
    )


def labels_finder(
    labels: Finder, argument: str = "labels", advice: str = ""
) -> Callable[[Any], Tensor | None]:
    """Return a callable that finds the labels of a batch.

    Args:
        labels: A key of the batch, a callable, or None for all pairs.
        argument: Name of the adapter's argument, for errors.
        advice: What else the user may do, for errors.

    Returns:
        A callable from a batch to its labels or None. It can be pickled if a given callable can.

    Raises:
        InputError: If ``labels`` is none of these; later, if a batch lacks the key.

    Example:
        >>> import torch
        >>> labels_finder("kind")({"x": torch.ones(2, 3), "kind": torch.tensor([0, 1])})
        tensor([0, 1])
    """
    if labels is find_labels:
        return find_labels
    if not (labels is None or isinstance(labels, str) or callable(labels)):
        raise InputError(f"{argument} must be a key, a callable or None, got {labels!r}.")
    return functools.partial(_labels, labels, argument, advice)


def _labels(finder: Finder, argument: str, advice: str, batch: Any) -> Tensor | None:
    if finder is None:
        return None
    labels: Tensor | None = _find(finder, argument, advice, batch)
    return _as_tensor(labels, argument) if isinstance(finder, str) else labels


def _find(finder: str | Callable[[Any], Any], argument: str, advice: str, batch: Any) -> Any:
    """What stands under a key of the batch, or what the callable finds in it."""
    keys = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else "no keys"
    if isinstance(finder, str):
        if isinstance(batch, Mapping) and finder in batch:
            return batch[finder]
        raise InputError(
            f"{argument} is to be found under {finder!r}, got a batch with {keys}. "
            f"Say where it is: {argument}=lambda batch: ... {advice}".rstrip()
        )
    try:
        return finder(batch)
    except KeyError as error:
        raise InputError(
            f"{argument} must find its keys, got KeyError({error}) for a batch with {keys}. "
            f"{advice}".rstrip()
        ) from error


def _as_tensor(value: Any, argument: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"{argument} must be a tensor, got {type(value).__name__}.")
    return value


class Named:
    """Finds the reference, distances and pair weights of a batch that an adapter was told of.

    Args:
        reference: Where the points are that the features are compared with.
        distances: Where the distances are.
        pair_weights: Where the weights of the pairs are.
        prefix: What the adapter puts in front of these names, for errors.
        advice: What else the user may do if one is not found, for errors.

    Example:
        >>> import torch
        >>> named = Named(reference="embedding", distances=None, pair_weights=None)
        >>> list(named({"x": torch.ones(2, 3), "embedding": torch.ones(2, 4)}))
        ['reference']
    """

    def __init__(
        self,
        *,
        reference: Finder,
        distances: Finder,
        pair_weights: Finder,
        prefix: str = "",
        advice: str = "",
    ) -> None:
        finders = {"reference": reference, "distances": distances, "pair_weights": pair_weights}
        for name, finder in finders.items():
            if finder is not None and not isinstance(finder, str) and not callable(finder):
                raise InputError(
                    f"{prefix}{name} must be a key of the batch or a callable on it, got "
                    f"{finder!r}. Of a tuple: {prefix}{name}=lambda batch: batch[2]."
                )
        self._finders = {name: finder for name, finder in finders.items() if finder is not None}
        self._prefix, self._advice = prefix, advice

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return what is found, as keywords of `isoreg.IsometryRegularizer`'s call."""
        found = {}
        for name, finder in self._finders.items():
            argument = self._prefix + name
            found[name] = _as_tensor(_find(finder, argument, self._advice, batch), argument)
        return found


def check_options(options: Mapping[str, Any], allowed: Callable[..., Any]) -> None:
    """Refuse keywords that the callable ``allowed`` does not take, before training starts."""
    names = [*inspect.signature(allowed).parameters][1:]
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, cutoff=0.4) or names
            raise InputError(f"there is no option {name!r}. Close matches: {', '.join(close)}.")
