"""The user's model: unwrapped, copied, and left as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isoreg.errors import InputError

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")


def refuse_sharded(model: nn.Module) -> None:
    """Say so of what is no model, or one whose parameters are spread over ranks by FSDP.

    Args:
        model: The user's model.

    Raises:
        InputError: If it is no module, or FSDP holds it.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(
            f"a model must be a torch.nn.Module, got {kind}. Wrap a function in a module whose "
            "forward calls it."
        )
    for name, module in model.named_modules():
        if any(kind.__name__ in _SHARDED for kind in type(module).__mro__):
            raise InputError(
                "model must be whole on this rank, got one that FSDP shards"
                f"{f' at {name!r}' if name else ''}. Gradients by the images pass through it a "
                "second time, which its hooks do not allow: load its full state dict "
                "(torch.distributed.checkpoint.state_dict.get_model_state_dict with "
                "full_state_dict=True) into a model that is not sharded."
            )


def refuse_static_graph(model: nn.Module) -> None:
    """Say so of a model whose gradients DistributedDataParallel would average too early.

    Args:
        model: The user's model.

    Raises:
        InputError: If it was wrapped with ``static_graph=True``.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel) and model.static_graph:
        raise InputError(
            "model must be wrapped by DistributedDataParallel without static_graph=True: it takes "
            "the first gradient, here that by the images, for the end of the backward pass, and "
            "the ranks drift apart."
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, whose hooks serve training alone.

    Args:
        model: The user's model.

    Returns:
        The model.

    Raises:
        InputError: If it is no module, FSDP shards it, or it was built in inference mode.
    """
    refuse_sharded(model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            "model must be built outside torch.inference_mode, got parameters or buffers that "
            "were made inside it. Attacks need gradients, which torch refuses such tensors."
        )
    return model


def copied(model: nn.Module) -> nn.Module | None:
    """A copy with a state of its own that shares the parameters.

    Args:
        model: The user's model.

    Returns:
        The copy; None if the model cannot be copied.
    """
    source = getattr(model, "_orig_mod", model)  # a compiled copy would be compiled anew
    try:
        return copy.deepcopy(source, {id(p): p for p in source.parameters()})
    except Exception:  # whatever the user's attributes raise: then there is no copy
        return None


class Forgetful(nn.Module):
    """A model that starts each call from the state in which it was given.

    Args:
        model: A model that can be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """What a fresh copy returns.

        Args:
            x: Images.

        Returns:
            Its output.
        """
        fresh = copied(self.model)
        assert fresh is not None
        return fresh(x)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluate in eval mode, with gradients also where the caller has switched them off.

    Afterwards modes, gradients, buffers and random numbers are what they were.

    Args:
        model: The user's model.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    # their train() may do more than set the mode, as that of layers that merge weights does
    acting = [m for m in model.modules() if type(m).train is not nn.Module.train]
    weights = [(p, p.detach().clone()) for m in acting for p in m.parameters(recurse=False)]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        try:
            model.eval()
            for parameter, _, _ in gradients:
                parameter.requires_grad_(False)
            yield
        finally:
            training = dict(modes)
            for module in acting:
                module.train(training[module])
            for module, mode in modes:
                module.training = mode
            _restore_weights(weights)
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            _restore(buffers)


@torch.no_grad()
def _restore_weights(weights: list[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, before in weights:
        if not _same(parameter, before):
            parameter.copy_(before)


@torch.no_grad()
def _restore(buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]]) -> None:
    for module, name, buffer, before in buffers:
        module._buffers[name] = buffer
        if buffer is not None and before is not None and not _same(buffer, before):
            buffer.copy_(before)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
