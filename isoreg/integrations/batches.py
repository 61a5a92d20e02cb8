"""Where the labels of a batch are, when nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isoreg.errors import InputError

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def find_labels(batch: Any) -> Tensor:
    """The labels of a batch in one of the usual forms.

    Args:
        batch: A mapping with one of `LABEL_KEYS`, or a tuple or list whose second entry they are.

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
        found = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        seen = f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        found, seen = batch[1], f"a {type(batch).__name__} whose second entry is none"
    else:
        found, seen = None, f"{type(batch).__name__}"
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"labels are looked for in a batch's second entry or under {', '.join(LABEL_KEYS)}, got "
        f"{seen}. Say where they are: labels=lambda batch: ..."
    )
