"""The logits in whatever a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isoreg.errors import InputError


def logits_of(output: Any, images: int) -> Tensor:
    """The logits, be they all that a model returns or a part of it that cannot be mistaken.

    A mapping, as of transformers, has them under "logits"; in another mapping, or in a tuple, they
    are the only tensor of shape (n, classes). Several such tensors are refused, not guessed among.

    Args:
        output: What the model returned.
        images: How many images it was given.

    Returns:
        (n, classes) logits.

    Raises:
        InputError: If they cannot be told.

    Example:
        >>> import torch
        >>> logits_of((torch.tensor(0.5), torch.zeros(3, 2)), 3).shape
        torch.Size([3, 2])
    """
    if isinstance(output, Tensor):
        parts: dict[Any, Any] = {"": output}
    elif isinstance(output, Mapping):
        parts = {"logits": output["logits"]} if "logits" in output else dict(output)
    elif isinstance(output, (tuple, list)):
        parts = dict(enumerate(output))
    else:
        parts = {}
    logits = {key: part for key, part in parts.items() if _are_logits(part, images)}
    if len(logits) == 1:
        return next(iter(logits.values()))  # type: ignore[no-any-return]
    if logits:
        given = f"{len(logits)} tensors of that shape, at {', '.join(map(repr, logits))}"
    else:
        given = str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(
        f"the model must return logits of shape (n, classes), got {given}. Wrap it in a module "
        "that returns them alone."
    )


def _are_logits(part: Any, images: int) -> bool:
    return (
        isinstance(part, Tensor)
        and part.ndim == 2
        and part.shape[0] == images
        and part.shape[1] >= 2
        and part.is_floating_point()
    )
