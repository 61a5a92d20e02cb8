"""What every reference needs: its type, what it has learnt, and a set of samples as points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from isoreg._attach.reference import Teacher
from isoreg.distances import flatten_points
from isoreg.errors import InputError

Reference: TypeAlias = Callable[..., Tensor]


class Learnt:
    """A function of samples and of what was learnt, called on all that a model is called on.

    The samples are the first argument, or the only one. No other argument of the call, whatever its
    name, takes the place of what was learnt.

    Args:
        function: Takes the samples, and what was learnt by its names.
        learnt: By name.
    """

    def __init__(self, function: Callable[..., Tensor], /, **learnt: Any) -> None:
        self.function, self.learnt = function, learnt

    def __call__(self, /, *args: Any, **named: Any) -> Tensor:
        """What the function makes of the samples."""
        first = args or (tuple(named.values()) if len(named) == 1 else ())
        if not first:
            names = ", ".join(named) or "no argument"
            raise InputError(
                f"a reference needs the samples as its first argument, got {names}. Give the "
                "regularizer inputs=lambda *args, **named: reference(named[<their name>])."
            )
        return self.function(first[0], **self.learnt)


def as_reference(reference: Reference | None) -> Reference | None:
    """What was given, a network as a teacher: in eval mode, without gradients, left as it was."""
    if isinstance(reference, nn.Module):
        return Teacher(reference)
    if reference is not None and not callable(reference):
        raise InputError(
            "reference must be None, a network, or a callable from samples to points, got "
            f"{type(reference).__name__}."
        )
    return reference


def as_points(samples: Tensor, reference: Reference | None) -> Tensor:
    """Samples, or what a reference makes of them, as (n, d) constants."""
    points = samples if reference is None else reference(samples)
    return flatten_points(points, "samples").detach()
