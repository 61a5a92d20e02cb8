"""Seeds and restores the generators of random numbers that a model may use."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_all(seed: int) -> None:
    """Seed the generators of torch, Python and, if it is imported, numpy.

    Args:
        seed: An integer.
    """
    torch.manual_seed(seed)
    random.seed(seed % 2**64)  # Python drops the sign of a seed
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def same_numbers() -> Iterator[None]:
    """Put the states of torch's, Python's and numpy's generators back after the block.

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
