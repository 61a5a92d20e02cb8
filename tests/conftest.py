"""One hypothesis profile, one thread and one seed for all tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("isoreg", deadline=None, max_examples=25)
settings.load_profile("isoreg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
