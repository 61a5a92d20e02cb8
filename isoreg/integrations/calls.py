"""Tells which keywords a model takes, and keeps other ones out of its call."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module inside a compiled one, whose layers have the names that the user knows.

    Args:
        model: The model, perhaps compiled, even several times.

    Returns:
        The module that was compiled, or the model itself.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> uncompiled(model) is model
        True
    """
    while (inner := model._modules.get("_orig_mod")) is not None:
        model = inner
    return model


def names_taken(model: nn.Module) -> tuple[set[str], bool]:
    """Return the keywords that the forward pass of a model takes.

    Args:
        model: The model, perhaps with adapters of peft, or in a wrapper.

    Returns:
        The names, and whether any other keyword is taken too.

    Example:
        >>> names_taken(nn.Linear(2, 2))
        ({'input'}, False)
    """
    base: Any = getattr(model, "get_base_model", None)
    model = model if base is None else base()
    while True:
        kinds = inspect.signature(model.forward).parameters.values()
        names = {p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        children = list(model.children())
        if names or len(children) != 1:
            return names, any(p.kind is p.VAR_KEYWORD for p in kinds)
        model = children[0]  # a wrapper passes all arguments on


@contextlib.contextmanager
def leaving_out(model: nn.Module, is_left_out: Callable[[str], bool]) -> Iterator[None]:
    """Keep keywords out of a model's calls inside the block.

    A hook removes them from the call, because a loss of the user's own may need them: the batch
    must keep what the model does not take.

    Args:
        model: The model as it is called, with its wrappers.
        is_left_out: Says whether a keyword is left out.

    Yields:
        Nothing.

    Example:
        >>> model = nn.Identity()
        >>> with leaving_out(model, lambda name: name == "labels"):
        ...     model(input=3, labels=4)
        3
    """

    def without(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {name: x for name, x in kwargs.items() if not is_left_out(name)}

    handle = model.register_forward_pre_hook(without, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()
