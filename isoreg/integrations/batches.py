"""Where the labels of a batch are, when nobody says."""

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


def find_labels(batch: Any, names: Sequence[str] = LABEL_NAMES) -> Tensor:
    """The labels of a batch in one of the usual forms.

    Args:
        batch: A mapping with one of the names, or a tuple or list whose second entry they are.
        names: Keys of labels, in the order in which they are looked for.

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
        found = next((batch[key] for key in names if key in batch), None)
        seen = f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        found, seen = batch[1], f"a {type(batch).__name__} whose second entry is none"
    else:
        found, seen = None, f"{type(batch).__name__}"
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"labels are looked for in a batch's second entry or under {', '.join(names)}, got "
        f"{seen}. Say where they are: labels=lambda batch: ..."
    )


def labels_finder(labels: Finder) -> Callable[[Any], Tensor | None]:
    """A callable that finds the labels of a batch.

    Args:
        labels: A key of the batch, a callable, or None for all pairs.

    Returns:
        From a batch to labels or None; it can be pickled where the callable can.

    Raises:
        InputError: If it is none of these; later, if a batch lacks the key.

    Example:
        >>> import torch
        >>> labels_finder("kind")({"x": torch.ones(2, 3), "kind": torch.tensor([0, 1])})
        tensor([0, 1])
    """
    if labels is None or isinstance(labels, str):
        return functools.partial(_labels_under, labels)
    if not callable(labels):
        raise InputError(f"labels must be a key, a callable or None, got {labels!r}.")
    return labels


def _labels_under(key: str | None, batch: Any) -> Tensor | None:
    return None if key is None else _find("labels", key, batch)


def _find(name: str, finder: str | Callable[[Any], Tensor | None], batch: Any) -> Tensor:
    if isinstance(finder, str):
        if not isinstance(batch, Mapping) or finder not in batch:
            keys = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else "no keys"
            raise InputError(
                f"{name} is to be found under {finder!r}, got a batch with {keys}. "
                f"Say where it is: {name}=lambda batch: ..."
            )
        found = batch[finder]
    else:
        found = finder(batch)
    if not isinstance(found, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(found).__name__}.")
    return found


class Named:
    """The reference and the distances of a batch, where an adapter was told that they are in it.

    Args:
        reference: Where the points are that the features are compared with.
        distances: Where the distances are.
        pair_weights: Where the weights of the pairs are.

    Example:
        >>> import torch
        >>> named = Named(reference="embedding", distances=None, pair_weights=None)
        >>> list(named({"x": torch.ones(2, 3), "embedding": torch.ones(2, 4)}))
        ['reference']
    """

    def __init__(self, *, reference: Finder, distances: Finder, pair_weights: Finder) -> None:
        given = {"reference": reference, "distances": distances, "pair_weights": pair_weights}
        self._finders = {name: finder for name, finder in given.items() if finder is not None}

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """What is found, as keywords of `isoreg.IsometryRegularizer`'s call."""
        return {name: _find(name, finder, batch) for name, finder in self._finders.items()}


def check_options(options: Mapping[str, Any], allowed: Callable[..., Any]) -> None:
    """Refuse keywords that nobody takes, before training starts.

    Args:
        options: What the user gave.
        allowed: The callable that will get them.

    Raises:
        InputError: If one is unknown.
    """
    known = [*inspect.signature(allowed).parameters][1:]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.4) or known
            raise InputError(f"there is no option {name!r}. Close matches: {', '.join(near)}.")
