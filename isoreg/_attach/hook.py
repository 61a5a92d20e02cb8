"""A hook's whole life: registered on a module, silent in copies of it, and removed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack
from torch.utils.hooks import RemovableHandle

from isoreg.errors import LayerError


class _CannotScriptError(LayerError, AttributeError):
    """Raised when `torch.jit.script` asks a hook for its name."""


class Owner(Protocol):
    """The object whose functions hooks call, which is a recorder."""

    def ran_in_a_copy(self) -> None:
        """Hooks call this when they run for a replica of their module."""


class Hook:
    """Calls a function of its owner without keeping the owner alive.

    A hook acts only for the module that it was registered on. Replicas and quantisation copy a
    module with its hooks, and such a copy must not write into the owner's record. In a backward
    pass a hook does nothing, because a checkpoint only computes an earlier pass once more there.

    A deep copy or a pickle of the model must not write into that record, and must load without
    isoreg. It therefore holds, in the place of this object, a callable of the standard library
    that accepts anything and does nothing.
    """

    def __init__(
        self, owner: Owner, module: nn.Module, function: Callable[..., None], *args: Any
    ) -> None:
        self._owner = weakref.ref(owner)
        self._module = weakref.ref(module)
        self._function = function
        self._args = args

    def register(self, register: Callable[..., RemovableHandle], **options: Any) -> RemovableHandle:
        """Register this hook by one of the module's ``register_`` methods."""
        handle, module = register(self, **options), self._module()
        assert module is not None
        _number_within_module(handle, module)
        return handle

    def __call__(self, module: nn.Module, *args: Any) -> None:
        owner = self._owner()
        if owner is None or _in_backward():
            return
        if self._module() is module:
            with _unseen_by_modes():
                self._function(owner, *self._args, module, *args)
        elif getattr(module, "_is_replica", False):
            owner.ran_in_a_copy()

    @property
    def __name__(self) -> str:
        raise _CannotScriptError(
            "torch.jit.script compiles hooks as well, and IsometryRegularizer's are Python. Script "
            "the model before attaching or after detach(); torch.jit.trace and torch.export work."
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def _number_within_module(handle: RemovableHandle, module: nn.Module) -> None:
    """Give a hook the next number below 0 that no hook of its module has had.

    torch counts the hooks of a process. `torch.compile` compiles anew for another number, so once
    for each model of a search. Also, a loaded copy of a hook keeps its number, which torch gives to
    another hook in a new process, with all flags of the copy; torch's numbers are not below 0.
    """
    tables = [table() for table in (handle.hooks_dict_ref, *handle.extra_dict_ref)]
    number = _last_numbers.get(module, 0) - 1
    while any(number in table for table in tables):  # of a model that this one was copied from
        number -= 1
    _last_numbers[module] = number
    for table in tables:
        if handle.id in table:
            table[number] = table.pop(handle.id)
    handle.id = number


_last_numbers: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def _in_backward() -> bool:
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _unseen_by_modes() -> contextlib.AbstractContextManager[object]:
    """Return a context without the dispatch modes of a pass, unless one of them traces it.

    A selective checkpoint finds saved results by the order of operations. A hook's operations do
    not run when the layer is computed once more, so their results would pass for the layer's own.
    """
    if torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():
        return contextlib.nullcontext()
    tracing = any(mode.is_infra_mode() for mode in _get_current_dispatch_mode_stack())
    return contextlib.nullcontext() if tracing else _disable_current_modes()


def remove_all(handles: Sequence[RemovableHandle]) -> None:
    """Remove hooks from their modules; hooks that are already removed are ignored."""
    for handle in handles:
        handle.remove()
