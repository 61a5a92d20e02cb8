"""What the classes that watch a model through hooks have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from isoreg._attach.recorder import Recorder
from isoreg.errors import RecordError, error_prefix


class Watching:
    """An object that watches a model; a copy of the object watches none."""

    _recorder: Recorder | None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record no forward pass inside the block, which is for attacks and evaluations.

        Yields:
            Nothing.
        """
        with error_prefix(type(self).__name__):
            recorder = self._attached()
        with recorder.paused():
            yield

    def detach(self) -> None:
        """Take all hooks off the model and forget the record. May be called again."""
        if self._recorder is not None:
            self._recorder.remove()

    def _attached(self) -> Recorder:
        if self._recorder is None:
            raise RecordError(
                f"this is a copy of a {type(self).__name__}, and a copy watches no model. Build "
                "one for the copied model and give it the state: "
                "load_state_dict(original.state_dict())."
            )
        return self._recorder
