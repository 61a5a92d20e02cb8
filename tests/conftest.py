"""One hypothesis profile, one thread and one seed for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings

settings.register_profile("isoreg", deadline=None, max_examples=25)
settings.load_profile("isoreg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


_BACKENDS = ["numba", "torch"] if find_spec("numba") else ["torch"]


@pytest.fixture(params=_BACKENDS, scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend by itself: every claim about the penalty must hold for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOREG_BACKEND", request.param)
        yield request.param
