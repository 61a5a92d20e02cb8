"""Keeps functions and passes that must not be compiled out of `torch.compile`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch

ATTACH_FIRST = (
    "If it is compiled, attach before its first call: torch.compile ignores hooks that come later, "
    "also on a second model of the same class; torch._dynamo.reset() forgets earlier calls."
)
P = ParamSpec("P")
R = TypeVar("R")


def between_graphs(function: Callable[P, R], reason: str) -> Callable[P, R]:
    """Wrap a function so that it runs uncompiled, between two graphs of `torch.compile`.

    Args:
        function: The function that runs uncompiled.
        reason: The reason, shown to users who ask for one graph.

    Returns:
        A function of the same arguments and result.
    """

    def uncompiled(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = torch.compiler.disable(function)(*args, **kwargs)
        return result

    # torch.compiler.disable sets these too, but it would import the compiler for everybody
    vars(uncompiled).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=reason)
    return uncompiled


def as_written() -> AbstractContextManager[None]:
    """Return a context in which compiled modules run uncompiled.

    Returns:
        The context.
    """
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def was_used() -> bool:
    """Whether anything was compiled in this process.

    Returns:
        True if so, also while something is being compiled.
    """
    if torch.compiler.is_compiling():
        return True
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["frames"])
