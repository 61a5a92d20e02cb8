"""How distances are compared: the options that a user chooses, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg.errors import InputError, is_number

Scale: TypeAlias = float | Tensor | Literal["fit"]
REDUCTIONS = ("batch", "pairs")
_LARGEST = torch.finfo(torch.float32).max
NUMBER = (int, float)  # a tuple, because torch.compile cannot trace a union of types in 2.9


class Options(NamedTuple):
    """How `isoreg.isometry_penalty` compares distances; ``given``: the inputs' are a table."""

    metric: Callable[[Tensor], Tensor]
    input_metric: Callable[[Tensor], Tensor]
    scale: Scale
    reduction: str
    given: bool

    def __str__(self) -> str:
        scale = "a tensor" if isinstance(self.scale, Tensor) else self.scale
        names = [getattr(m, "__name__", type(m).__name__) for m in (self.metric, self.input_metric)]
        inputs = "" if self.input_metric is self.metric else f"; input_distance {names[1]}"
        reference = "input_distances" if self.given else "inputs"
        return (
            f"distance {names[0]}{inputs}; scale {scale}; reduction {self.reduction}; "
            f"with {reference}"
        )


def check_scale(scale: Scale) -> Scale:
    """Return a positive number (one of numpy as a float) or "fit"; refuse any other scale."""
    if isinstance(scale, Tensor):  # its value is read only where that does not wait for a device
        unseen = scale.device.type != "cpu" or torch.compiler.is_compiling()
        is_real = not (scale.is_complex() or scale.is_meta or scale.dtype == torch.bool)
        usable = scale.ndim == 0 and is_real and (unseen or 0 < scale.detach().item() <= _LARGEST)
        if usable and not torch.compiler.is_compiling():
            scale = savable(scale)
    elif isinstance(scale, str):
        usable = scale == "fit"
    else:
        if not isinstance(scale, NUMBER) and is_number(scale):
            scale = float(scale)
        is_real = isinstance(scale, NUMBER) and not isinstance(scale, bool)
        usable = is_real and 0 < scale <= _LARGEST
    if not usable:
        raise InputError(
            "scale must be a positive number that float32 holds, a 0-dimensional tensor or 'fit', "
            f"got {scale!r}."
        )
    return scale


def savable(x: Tensor) -> Tensor:
    """A tensor that autograd may save: a copy if it comes from inference mode (a teacher's may)."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction."""
    if reduction not in REDUCTIONS:
        allowed = " or ".join(map(repr, REDUCTIONS))
        raise InputError(f"reduction must be {allowed}, got {reduction!r}.")


def refuse_queue(options: Options) -> None:
    """Raise the error that says which options a queue needs."""
    raise InputError(
        "queue needs the Euclidean distance, a number as scale, and inputs, distances and "
        f"labels without gradient, got {options}. Leave the queue or the option out."
    )
