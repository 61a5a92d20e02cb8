"""The choice of a backend: backends are asked in order, and the first that accepts computes.

A backend is a module of `isoreg._pairs.backends` with the two functions of `Backend`. A new backend
needs a file there and its name in `_BACKENDS`.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple, Protocol, cast

import torch

from isoreg._pairs.plan import Answer, Call, Scales, Total
from isoreg._pairs.precision import LostDigitsError, full_precision
from isoreg.errors import InputError

FORCED = "ISOREG_BACKEND"
"""The environment variable that names the only backend to be used: triton, numba or torch."""

# in the order in which they are asked
_BACKENDS = ("triton", "numba", "torch")


class Backend(Protocol):
    """The functions of a backend. All tensors of a call are on one device and have one dtype.

    A backend may raise `LostDigitsError` where products in float32 have lost too many digits: the
    next backend is asked, and then all are asked again in float64. A backend that does not set
    ``READS_PAST = True`` gets calls in which `Call.past` is joined with the other points.
    """

    def refuses(self, call: Call) -> str | None:
        """Why this backend should not compute the call, as half a sentence; None if it can."""

    def compare(self, call: Call, scale: Scales, total: Total, *, needs_grad: bool) -> Answer:
        """Sums over the pairs of a call, divided by ``total``; without a scale, the moments.

        A row with a NaN or infinite entry must make the sum NaN, even if it has no pair.
        """


class Choice(NamedTuple):
    """The backend that computed a call, and why each backend asked before it refused."""

    name: str
    refused: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} ({_listed(self.refused)})" if self.refused else self.name


_last = threading.local()
_failed: dict[str, str] = {}


def last_choice() -> Choice | None:
    """The backend that computed the last call of this thread; None before the first call."""
    return getattr(_last, "choice", None)


def compare(call: Call, scale: Scales, total: Total, *, needs_grad: bool) -> Answer:
    """The answer of the first backend that accepts the call, in float64 if digits were lost."""
    # the node calls this with autograd off, so it is not switched off again
    names, refused = _names(), dict[str, str]()
    with full_precision(call.device):
        for typed in _precisions(call):
            for name in names:
                backend = _load(name)
                try:
                    reason = _failed.get(name) or backend.refuses(typed)
                    if reason is None:
                        request = typed if getattr(backend, "READS_PAST", False) else typed.joined
                        answer = backend.compare(request, scale, total, needs_grad=needs_grad)
                        refused.pop(name, None)
                        _last.choice = Choice(name, refused)
                        return answer
                except InputError:
                    raise
                except LostDigitsError as error:
                    reason = str(error)
                except Exception as error:
                    if name == "torch":
                        raise
                    reason = _give_up(name, error)
                refused.setdefault(name, reason)
    raise InputError(
        f"{FORCED} must name a backend that can compute this on {call.device}, got {names[0]!r}, "
        f"which cannot ({_listed(refused)}). Unset it, so that another one serves."
    )


def _listed(refused: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in refused.items())


def _names() -> tuple[str, ...]:
    """The backends that may be asked."""
    forced = os.environ.get(FORCED)
    if forced and forced not in _BACKENDS:
        raise InputError(f"{FORCED} must be one of {', '.join(_BACKENDS)}, got {forced!r}.")
    return (forced,) if forced else _BACKENDS


def _precisions(call: Call) -> Iterator[Call]:
    """The call as it is, and then in float64 if it is in float32 and the device has float64."""
    yield call
    if call.features[0].dtype == torch.float32 and call.device.type != "mps":
        yield call.to(torch.float64)


@functools.cache
def _load(name: str) -> Backend:
    try:
        return cast("Backend", importlib.import_module(f"isoreg._pairs.backends.{name}_blocks"))
    except ImportError as error:
        reason = f"{error} (the extra 'fast')" if name == "numba" else str(error)
    except Exception as error:
        # for example, numba fails here if it may not write to any folder for its cache
        if name == "torch":
            raise
        reason = _give_up(name, error)
    return cast("Backend", SimpleNamespace(refuses=lambda _: reason))


def _give_up(name: str, error: Exception) -> str:
    """Note that a backend failed, so that it is not asked again, and warn once."""
    line = str(error).partition("\n")[0].rstrip(".")
    hint = " (NUMBA_CACHE_DIR names a folder for it)" if line.startswith("cannot cache") else ""
    reason = _failed[name] = f"it failed with {type(error).__name__}: {line}{hint}"
    text = f"isoreg: the backend {name} is not used from now on, because {reason}. "
    warnings.warn(text + "Another one serves.", stacklevel=3)
    return reason
