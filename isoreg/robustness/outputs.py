"""The logits in whatever a model returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from isoreg.errors import InputError

RULED_OUT = 100.0  # a class so many ranges below the largest logit is ruled out
_TIE = 1e-5


def logits_of(output: Any, images: int) -> Tensor:
    """The logits: all that a model returns, or the one part of it that must be them.

    In a mapping, as of transformers, they are the entry "logits"; in a dataclass or named tuple
    the attribute of that name. In any other mapping or tuple they are the only tensor of shape
    (n, classes). If a second tensor may be the logits, none is guessed and the output is refused,
    even if that tensor is nested deeper or has extra axes of length 1.

    Args:
        output: What the model returned.
        images: How many images it was given.

    Returns:
        (n, classes) logits.

    Raises:
        InputError: If the logits cannot be told from the rest.

    Example:
        >>> import torch
        >>> logits_of((torch.tensor(0.5), torch.zeros(3, 2)), 3).shape
        torch.Size([3, 2])
    """
    in_mapping = isinstance(output, Mapping) and "logits" in output
    named = output["logits"] if in_mapping else getattr(output, "logits", None)
    container = output if named is None else {"logits": named}
    logits = {path: x for path, x in _tensors_at(container) if _may_be_logits(x, images)}
    if len(logits) == 1:
        ((path, tensor),) = logits.items()
        if tensor.ndim == 2 and len(path) < 2:
            return tensor
    if len(logits) > 1:
        places = ", ".join("".join(f"[{key!r}]" for key in path) for path in logits)
        got = f"{len(logits)} tensors that may be them, at {places}"
    elif isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" of {output.dtype}, which is not floating"
        got = f"{tuple(output.shape)}{kind}"
    else:
        got = type(output).__name__
    remedy = "Wrap it in a module that returns them alone."
    if isinstance(output, Tensor) and output.numel() == images:
        remedy = "For two classes with one logit z return those of both: torch.cat([0 * z, z], 1)."
    raise InputError(f"the model must return logits of shape (n, classes), got {got}. {remedy}")


def _tensors_at(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Each tensor in nested mappings, tuples and lists, and the keys that lead to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping | tuple | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _tensors_at(item, (*path, key))


def _may_be_logits(x: Tensor, images: int) -> bool:
    """Whether a tensor has the shape (n, classes), but for axes of length 1 behind the first."""
    if not x.is_floating_point() or x.ndim < 2 or x.shape[0] != images:
        return False
    longer = [size for size in x.shape[1:] if size != 1]
    return len(longer) == 1 and longer[0] >= 2


def answers(logits: Tensor) -> Tensor:
    """The class of the largest logit; -1, which is no class, where a logit is NaN.

    Args:
        logits: (n, classes).

    Returns:
        (n) integers.

    Example:
        >>> answers(torch.tensor([[1.0, 3.0], [torch.nan, 3.0]]))
        tensor([ 1, -1])
    """
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def usual_range(logits: Tensor) -> Tensor:
    """How far an image's smallest logit lies below its largest, the median over images.

    A class that is ruled out by -1e9 or -inf does not count: it lies more than a hundred times as
    far below the largest logit as the class above it.

    Args:
        logits: (n, classes).

    Returns:
        A scalar.

    Example:
        >>> usual_range(torch.tensor([[3.0, 1.0, -1e9], [0.0, -torch.inf, 2.0]]))
        tensor(2.)
    """
    ordered = torch.where(logits.isfinite(), logits, -torch.inf).sort(descending=True).values
    below = torch.nan_to_num(ordered[:, :1] - ordered, posinf=torch.inf)
    before = below.roll(1, 1)
    is_ruled_out = (below > RULED_OUT * before) & (before > _TIE * ordered[:, :1].abs())
    counts = (is_ruled_out.cumsum(1) == 0) & below.isfinite()
    return below.where(counts, 0).amax(1).median()
