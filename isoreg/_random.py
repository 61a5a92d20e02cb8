"""Random numbers of whatever a model may draw from: torch, Python and, where it is used, numpy."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_all(seed: int) -> None:
    """Seed them.

    Args:
        seed: An integer.
    """
    torch.manual_seed(seed)
    random.seed(seed % 2**64)  # of which Python drops the sign
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def same_numbers() -> Iterator[None]:
    """Put them back.

    Yields:
        Nothing.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    numpy, of_python = sys.modules.get("numpy"), random.getstate()
    of_numpy = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(of_python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)
