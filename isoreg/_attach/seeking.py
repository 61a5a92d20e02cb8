"""The hooks by which a recorder searches for the classifier, until a pass has shown it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from isoreg._attach.classifier import ClassifierSearch
from isoreg._attach.hook import Hook, remove_all
from isoreg.errors import IsoregError

MakeHook: TypeAlias = Callable[[nn.Module, Callable[..., None]], Hook]
"""Makes a module's hook, which calls a function of the pass's `ClassifierSearch`."""


class Seeking:
    """The search for the classifier of a model, and its hooks on all modules while it lasts.

    Args:
        handles: The handles that the recorder removes at its end; this adds its own to them.

    Attributes:
        is_on: Whether the next pass is to show the classifier.
        lock: Held by the pass that ends the search.
        failure: Kind and text of the error of the last trial pass before a compiled one, or None.
    """

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self.is_on = False
        self.failure: tuple[type[IsoregError], str] | None = None
        self._handles, self._recorder_handles = list[RemovableHandle](), handles
        self.lock = threading.Lock()
        self._known_modules: weakref.WeakSet[nn.Module] | None = None

    def begin(self, model: nn.Module, make_hook: MakeHook) -> None:
        """Hook all modules, so that the next pass shows the classifier."""
        remove_all(self._handles)
        self.is_on, self._known_modules = True, weakref.WeakSet(model.modules())
        self._handles = [
            make_hook(module, note).register(register, with_kwargs=True)
            for module in [*model.modules()][1:]
            if not isinstance(module, torch.jit.ScriptModule)
            for note, register in (
                (ClassifierSearch.note_input, module.register_forward_pre_hook),
                (ClassifierSearch.note_call, module.register_forward_hook),
            )
        ]
        self._recorder_handles += self._handles

    def tidy(self) -> None:
        """Remove the hooks, if the search is over."""
        if not self.is_on:
            remove_all(self._handles)

    def has_grown(self, model: nn.Module) -> bool:
        """Whether the model has new modules since the last call, or since the search began."""
        if torch.compiler.is_compiling() or self._known_modules is None:
            return False
        grown = any(module not in self._known_modules for module in model.modules())
        if grown:
            self._known_modules.update(model.modules())
        return grown
