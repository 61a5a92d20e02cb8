"""The states of forward passes, one for each thread: threads share a model, not records."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Iterator

import torch

from isoreg._attach.classifier import ClassifierSearch
from isoreg._attach.record import Record

NEVER = "the model was not called since the recorder was attached"
_TRACED = 0  # the key of compiled passes: torch.compile cannot ask for the thread in them


@dataclasses.dataclass
class State:
    """The state of one thread's forward passes.

    Attributes:
        running: The record of the pass that runs now.
        search: The search for the classifier in that pass, or None.
        finished: The record of the last pass that ended, or None.
        why_missing: Why there is no such record.
        pauses: How many `paused` blocks the thread is in.
        begun: How many passes began and did not end.
        thread: The thread; None for compiled passes.
    """

    running: Record | None = None
    search: ClassifierSearch | None = None
    finished: Record | None = None
    why_missing: str = NEVER
    pauses: int = 0
    begun: int = 0
    thread: weakref.ref[threading.Thread] | None = None


class States:
    """The states of all threads that call a model, and one state for compiled passes."""

    def __init__(self) -> None:
        self._by_thread = {_TRACED: State()}

    @property
    def current(self) -> State:
        """The state of this thread; in a compiled pass, that of compiled passes."""
        if torch.compiler.is_compiling():
            return self._by_thread[_TRACED]
        thread = threading.current_thread()
        number = id(thread)
        state = self._by_thread.get(number)
        if state is None or state.thread is None or state.thread() is not thread:
            # States of ended threads are dropped: Python may give their numbers to new threads.
            for old_number, old_state in list(self._by_thread.items()):
                if old_state.thread is not None and old_state.thread() is None:
                    self._by_thread.pop(old_number, None)
            state = self._by_thread[number] = State(thread=weakref.ref(thread))
        return state

    @property
    def readable(self) -> list[State]:
        """The states that may hold a record: that of compiled passes, then this thread's."""
        traced = self._by_thread[_TRACED]
        return [traced] if torch.compiler.is_compiling() else [traced, self.current]

    @property
    def recording(self) -> State | None:
        """The state whose forward pass is recorded now, or None."""
        state = self.current
        if state.running is None:
            # an uncompiled part of a compiled pass, or a compiled part of an uncompiled pass
            states = list(self._by_thread.values())
            candidates = states if torch.compiler.is_compiling() else [self._by_thread[_TRACED]]
            running = [candidate for candidate in candidates if candidate.running is not None]
            state = running[0] if len(running) == 1 else state
        return None if state.running is None or state.pauses else state

    @property
    def are_searching(self) -> bool:
        """Whether a pass that runs now looks for the classifier."""
        return any(state.search is not None for state in list(self._by_thread.values()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Record neither this thread's passes nor compiled ones, and keep the last record."""
        states = self.readable
        for state in states:
            state.pauses += 1
        try:
            yield
        finally:
            for state in states:
                state.pauses -= 1

    def clear(self, why: str) -> None:
        """Forget all records, and note why there is none from now on."""
        self._by_thread.clear()
        self._by_thread[_TRACED] = State()
        self.current.why_missing = why
