"""Under the launchers of Lightning and Accelerate, two processes are one batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from isoreg import IsometryRegularizer
from tests.launched import LAYERS, data, net

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_two_processes_have_value_and_gradient_of_one(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    command = [sys.executable, "-m", "tests.launched", name, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    model, (x, y) = net(), data()
    iso = IsometryRegularizer(model, LAYERS)
    loss = F.cross_entropy(model(x), y)
    penalty = iso(y)
    (loss + penalty).backward()
    values, gradients = zip(*(torch.load(tmp_path / f"{r}.pt") for r in (0, 1)), strict=True)
    assert sum(values) / 2 == pytest.approx(penalty.item(), rel=1e-5)
    for found in gradients:
        torch.testing.assert_close(found, [p.grad for p in model.parameters()])
