"""One forward pass that leaves a model as it was, to see which modules run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isoreg._compiled import as_written


def trial_pass(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Run a model uncompiled on copies; buffers and random numbers are put back.

    Args:
        model: The model, perhaps compiled; its own hooks do not run, those of its parts do.
        args: What it is called with.
        kwargs: By keyword.

    Returns:
        What it returned.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    run = getattr(model, "_orig_mod", model.forward)
    try:
        with as_written(), torch.random.fork_rng(devices):
            return run(*copies(list(args)), **copies(kwargs))
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def copies(value: Any) -> Any:
    """The same with all tensors copied that stand in it, also in lists, tuples and dicts.

    Args:
        value: What a model is called with.

    Returns:
        The same, without the caller's tensors.

    Example:
        >>> x = torch.ones(2)
        >>> copies([x, 3])[0] is x
        False
    """
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)([copies(item) for item in value])
    if type(value) is dict:
        return {key: copies(item) for key, item in value.items()}
    return value
