"""The user's model: unwrapped, copied, and left as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from isoreg._compiled import as_written
from isoreg._random import same_numbers
from isoreg.errors import InputError

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")


def refuse_sharded(model: nn.Module) -> None:
    """Refuse what is not a model, or a model whose parameters FSDP spreads over ranks."""
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
    """Refuse a model whose gradients DistributedDataParallel would average too early."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and model.static_graph:
        raise InputError(
            "model must be wrapped by DistributedDataParallel without static_graph=True: it takes "
            "the first gradient, here that by the images, for the end of the backward pass, and "
            "the ranks drift apart."
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, whose hooks serve training alone.

    Returns:
        The model.

    Raises:
        InputError: If it is no module, FSDP shards it, it was built in inference mode, or lacks
            parameters that its first call makes.
    """
    refuse_sharded(model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    for name, module in model.named_modules():
        if any(map(is_lazy, (*module._parameters.values(), *module._buffers.values()))):
            raise InputError(
                "model must have been called once, which makes the parameters of lazy layers, got "
                f"{type(module).__name__} {name!r} without. Call it on two images."
            )
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            "model must be built outside torch.inference_mode, got parameters or buffers that "
            "were made inside it. Attacks need gradients, which torch refuses such tensors."
        )
    return model


@contextmanager
def refusing_unlisted(model: nn.Module, *, owner: str = "") -> Iterator[None]:
    """Refuse layers that the model calls without listing them, if they are in training mode.

    Nobody can put such a layer in eval mode or give it back as it was. It is refused before it
    runs, so that its statistics stay what they are.

    Args:
        model: A model in eval mode that is called inside the block.
        owner: What the model is of, for the error.

    Yields:
        Nothing.
    """
    listed, thread = set(model.modules()), get_ident()

    def check(layer: nn.Module, _: Any) -> None:
        matters = layer.training and isinstance(layer, _BatchNorm | _DropoutNd)
        if matters and layer not in listed and get_ident() == thread:
            raise InputError(
                f"the model{owner} must list every layer that it calls, got "
                f"{type(layer).__name__} in training mode, which model.eval() does not reach. Keep "
                "it as an attribute of the model, several in torch.nn.ModuleList; or call eval() "
                "of the network that it belongs to."
            )

    handle = register_module_forward_pre_hook(check)
    try:
        with as_written(), catch_warnings():  # compiled code could keep the hook
            filterwarnings("ignore", ".*when there are global hooks on modules")
            yield
    finally:
        handle.remove()


def copied(model: nn.Module, *, share: bool = True) -> nn.Module | None:
    """A copy with a state of its own; with ``share`` it has the model's own parameters.

    An attribute that cannot be copied, such as a lock or an open file, belongs to both.

    Returns:
        The copy; None if the model cannot be copied.
    """
    source = getattr(model, "_orig_mod", model)  # the copy would be compiled again
    memo = {id(p): p for p in source.parameters()} if share else {}
    with suppress(Exception):  # the user's attributes may raise anything
        return copy.deepcopy(source, dict(memo))
    common = {id(value): value for value in in_common(source).values()}
    with suppress(Exception):
        return copy.deepcopy(source, {**_cut_off(source), **common, **memo})
    return None


def in_common(model: nn.Module) -> dict[str, object]:
    """Attributes by name that cannot be copied, and that a copy has in common with the model."""
    source = getattr(model, "_orig_mod", model)
    memo = {**_cut_off(source), **{id(p): p for p in source.parameters()}}
    uncopied = {}
    for place, module in source.named_modules():
        # A module that defines its own copy, as TorchScript's do, is trusted to copy all.
        attributes = {} if hasattr(type(module), "__deepcopy__") else vars(module)
        for name, value in attributes.items():
            if name not in ("_modules", "_parameters", "_buffers"):
                try:
                    copy.deepcopy(value, dict(memo))
                except Exception:
                    uncopied[f"{place}.{name}".lstrip(".")] = value
    return uncopied


def _cut_off(model: nn.Module) -> dict[int, object]:
    """By id, stored results of earlier passes without their graphs, which cannot be copied."""
    places = [value for m in model.modules() for value in (*vars(m).values(), *m._buffers.values())]
    tensors = [x for place in places for x in _tensors_in(place)]
    return {id(x): x.detach().clone() for x in tensors if not x.is_leaf}


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item)


class Forgetful(nn.Module):
    """A model that starts each call from the state in which it was given.

    Args:
        model: A model that can be copied.
        share: Whether copies may share its parameters, because calls do not change them.
    """

    def __init__(self, model: nn.Module, *, share: bool = True) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, x: Tensor) -> Any:
        """What a fresh copy returns."""
        fresh = copied(self.model, share=self.share)
        assert fresh is not None
        return fresh(x)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, with gradients on even if the caller has switched them off.

    Afterwards modes, parameters, gradients, buffers and random numbers are what they were.

    Yields:
        Nothing.
    """
    # A module that was frozen or exported may lack this attribute, as it has one mode only.
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]

    tables = [(m, kind) for m in model.modules() for kind in ("_parameters", "_buffers")]
    places = [(m, kind, name, x) for m, kind in tables for name, x in getattr(m, kind).items()]
    values = [(x, x.detach().clone()) for x in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with same_numbers(), torch.inference_mode(False), torch.enable_grad():
        try:
            with suppress(NotImplementedError, AttributeError):
                model.eval()
            for parameter, _, _ in gradients:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                # Their own train() may do more than set the mode: that of LoRA may merge weights.
                if type(module).train is not nn.Module.train:
                    module.train(mode)
            for module, mode in modes:
                module.training = mode
            for module, kind, name, x in places:
                table = getattr(module, kind)
                if dict(table.items()).get(name) is not x:  # TorchScript's table has no get
                    table[name] = x
            with torch.no_grad():
                for x, before in values:
                    if not same(x, before):
                        x.copy_(before)
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, numbers and NaN; False if torch cannot compare."""
    try:
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    except (RuntimeError, NotImplementedError):  # torch cannot compare some dtypes of eight bits
        return False
