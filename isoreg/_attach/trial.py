"""One forward pass that leaves a model as it was, to see which modules run."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isoreg._attach.pooling import tensors_in
from isoreg._compiled import as_written
from isoreg._random import same_numbers

_TORCHS = frozenset(vars(nn.Module()))  # attributes that every module has


def trial_pass(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Run a model uncompiled on copied arguments; restore attributes, buffers, random states."""
    with as_written(), same_numbers(), _same_attributes(model):
        return model.forward(*copies(list(args)), **copies(kwargs))


@contextmanager
def _same_attributes(model: nn.Module) -> Iterator[None]:
    """Put back a model's buffers, and its modules' attributes and the containers in them."""
    # torch's wrappers for several processes note in attributes that they are set up: these stay
    wrappers = ("torch.distributed", "torch.nn.parallel")
    modules = (m for m in model.modules() if not type(m).__module__.startswith(wrappers))
    saved = [(m, type(m), dict(vars(m)), dict(m._buffers)) for m in modules]
    containers: dict[int, tuple[Any, Any]] = {}
    for _, _, attributes, _ in saved:
        for name in attributes.keys() - _TORCHS:
            _save_items(attributes[name], containers)
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, kind, attributes, buffers in saved:
            if type(module) is kind:  # a lazy module that has its parameters now keeps them
                for current, earlier in ((vars(module), attributes), (module._buffers, buffers)):
                    current.clear()
                    current.update(earlier)
        for container, items in containers.values():
            if [*map(id, _items(container))] != [*map(id, _items(items))]:
                container.clear()
                (container.update if hasattr(container, "update") else container.extend)(items)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def _save_items(value: Any, containers: dict[int, tuple[Any, Any]]) -> None:
    """Note the items of a container, and those of the containers in it."""
    if isinstance(value, list | dict | set | deque) and id(value) not in containers:
        containers[id(value)] = value, copy.copy(value)
        for item in _items(value):
            _save_items(item, containers)


def _items(container: Any) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


def copies(value: Any) -> Any:
    """Return a value with all its tensors copied, also those in containers and attributes.

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
    if torch.compiler.is_compiling():
        return value
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make([copies(item) for item in value])
    if isinstance(value, nn.Module | type):
        return value
    attributes = {name: x for name, x in _attributes(value).items() if list(tensors_in(x))}
    is_container = isinstance(value, list | MutableMapping)
    if not attributes and not is_container:
        return value
    twin = copy.copy(value)
    for name, x in attributes.items():  # attributes first, because one of them may hold the items
        object.__setattr__(twin, name, copies(x))
    if is_container:
        for key in list(value) if isinstance(value, MutableMapping) else range(len(value)):
            twin[key] = copies(value[key])
    return twin


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's own attributes, which a dataclass may keep in slots."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return getattr(value, "__dict__", {})
