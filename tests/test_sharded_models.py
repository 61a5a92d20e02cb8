"""Models whose weights are spread over processes: the value of one process, or refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.ranks import run_ranks
from isoreg import IsometryRegularizer, isometry_penalty
from isoreg.errors import IsoregError

Y = torch.arange(12) % 3


def model_and_batch() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)), torch.randn(12, 8)


def in_rank(_: int, kind: str, order: str) -> dict[str, object]:
    """Three steps of a spread model, with the penalty on its first layer."""
    model, x = model_and_batch()
    iso = IsometryRegularizer(model, "0") if order == "attached before" else None
    if kind == "fully sharded":
        fully_shard(model[0])
        fully_shard(model)
    else:
        first = ColwiseParallel(use_local_output=kind == "plain parts")
        mesh = init_device_mesh("cpu", (2,))
        parallelize_module(model, mesh, {"0": first, "2": RowwiseParallel()})
    iso = iso or IsometryRegularizer(model, "0")
    values = []
    try:
        for _ in range(3):
            model.zero_grad()
            model(x)
            value = iso(Y)
            value.backward()
            values.append(float(value.detach()))
    except IsoregError as error:
        return {"error": str(error)}
    return {"values": values, "gradient": model[0].weight.grad.full_tensor()}


@pytest.mark.parametrize("order", ["attached before", "attached after"])
@pytest.mark.parametrize("kind", ["whole", "plain parts", "fully sharded"])
def test_each_step_has_the_penalty_of_all_dimensions_or_an_error(kind: str, order: str) -> None:
    model, x = model_and_batch()
    twin = copy.deepcopy(model)
    right = isometry_penalty(x, twin[0](x), Y)
    right.backward()
    for found in run_ranks(in_rank, 2, kind, order):
        if "error" in found:
            assert kind == "plain parts"
            assert "use_local_output=False" in found["error"]
            continue
        torch.testing.assert_close(found["values"], 3 * [float(right.detach())])
        torch.testing.assert_close(found["gradient"], twin[0].weight.grad)
