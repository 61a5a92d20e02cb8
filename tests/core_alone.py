"""Run by ``make core`` with nothing installed but torch: the core imports and works."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import nn

import isoreg

model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
iso = isoreg.IsometryRegularizer(model, beta=0.1)
x, y = torch.rand(16, 8), torch.randint(2, (16,))
loss = nn.functional.cross_entropy(model(x), y) + iso(y)
loss.backward()
assert torch.isfinite(loss)
assert all(p.grad is not None for p in model.parameters())

try:
    isoreg.datasets.digits("train")
except isoreg.MissingExtraError as error:
    assert "isoreg[data]" in str(error), error
else:
    raise AssertionError("scikit-learn is installed: this is not the environment of torch alone")
print(f"isoreg works with torch {torch.__version__} alone")
