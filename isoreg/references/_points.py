"""What every reference needs: its type, its learnt values, and samples as points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from isoreg._attach.reference import Teacher
from isoreg.distances import flatten_points
from isoreg.errors import InputError

Reference: TypeAlias = Callable[..., Tensor]


class Learnt:
    """A function of samples and learnt values, called with all arguments of a model's call.

    The samples are the first positional argument, or the only argument. Other arguments of the call
    are ignored, so that none can replace a learnt value of the same name.

    Args:
        function: Takes the samples, and the learnt values by name.
        learnt: The learnt values by name.
    """

    def __init__(self, function: Callable[..., Tensor], /, **learnt: Any) -> None:
        self.function, self.learnt = function, learnt

    def __call__(self, /, *args: Any, **named: Any) -> Tensor:
        """The result of the function for the samples."""
        first = args or (tuple(named.values()) if len(named) == 1 else ())
        if not first:
            names = ", ".join(named) or "no argument"
            raise InputError(
                f"a reference needs the samples as its first argument, got {names}. Give the "
                "regularizer inputs=lambda *args, **named: reference(named[<their name>])."
            )
        return self.function(first[0], **self.learnt)


def as_reference(reference: Reference | None) -> Reference | None:
    """The reference; a network as a `Teacher`: eval mode, no gradients, its mode restored."""
    if isinstance(reference, nn.Module):
        return Teacher(reference)
    if reference is not None and not callable(reference):
        raise InputError(
            "reference must be None, a network, or a callable from samples to points, got "
            f"{type(reference).__name__}."
        )
    return reference


def as_points(samples: Tensor, reference: Reference | None) -> Tensor:
    """The samples, or the result of a reference for them, as (n, d) constants."""
    points = samples if reference is None else reference(samples)
    return flatten_points(points, "samples").detach()
