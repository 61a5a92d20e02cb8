"""One hypothesis profile, one thread and one seed for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import settings

from isoreg import blockwise, compiled

settings.register_profile("isoreg", deadline=None, max_examples=25)
settings.load_profile("isoreg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[compiled, blockwise], ids=["compiled", "blockwise"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """With numba and as if it were missing: every claim about the penalty must hold for both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param is blockwise:
            patch.setattr(compiled, "load_kernel", lambda: None)
        yield request.param
