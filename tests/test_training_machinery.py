"""Beside the rest of a training loop: sharding, gradient scaling, and thousands of steps."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import IsometryRegularizer, RecordError

LAYERS = ["1", "3"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def batch() -> tuple[Tensor, Tensor]:
    x = torch.rand(16, 5, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(16) % 3


def sharded_gradients(rank: int, folder: str, first: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    model, (x, y) = net(), batch()
    mine = slice(8 * rank, 8 * rank + 8)
    mesh = init_device_mesh("cpu", (2,))
    if first == "attached":
        iso = IsometryRegularizer(model, LAYERS)
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh)
    if first == "sharded":
        iso = IsometryRegularizer(model, LAYERS)
    (F.cross_entropy(model(x[mine]), y[mine]) + iso(y[mine])).backward()
    found = [p.grad.full_tensor() for p in model.parameters()]
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    torch.distributed.barrier()  # the other rank may still wait for this one
    os._exit(0)  # gloo's threads may abort a process that ends by itself


@pytest.mark.parametrize("first", ["attached", "sharded"])
def test_under_fsdp2_gradients_are_those_of_the_two_batches_averaged(
    tmp_path: Path, first: str
) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    mp.spawn(sharded_gradients, args=(str(tmp_path), first), nprocs=2)
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, LAYERS)
    for part in (slice(0, 8), slice(8, 16)):
        ((F.cross_entropy(model(x[part]), y[part]) + iso(y[part])) / 2).backward()
    for found, parameter in zip(
        torch.load(tmp_path / "gradients.pt"), model.parameters(), strict=True
    ):
        torch.testing.assert_close(found, parameter.grad)


def test_a_gradient_scaler_changes_no_update() -> None:
    updated = []
    for enabled in (False, True):
        model, (x, y) = net(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**10)
        with IsometryRegularizer(model, LAYERS) as iso:
            for _ in range(3):
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(model(x), y) + iso(y)).backward()
                scaler.step(optimizer)
                scaler.update()
        updated.append([p.detach().clone() for p in model.parameters()])
    for plain, scaled in zip(*updated, strict=True):
        torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("use", ["read", "unread", "failing", "copied"])
def test_a_thousand_steps_keep_no_more_than_the_last_graph(use: str) -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, LAYERS)
    alive: list[weakref.ref[Tensor]] = []
    model[1].register_forward_hook(lambda _m, _a, out: alive.append(weakref.ref(out)))
    fails = model[4].register_forward_hook(lambda *_: 1 / 0) if use == "failing" else None
    gc.collect()
    gc.disable()  # a cycle would keep its graph until the collector runs
    try:
        for _ in range(1000):
            try:
                loss = F.cross_entropy(model(x), y)
            except ZeroDivisionError:
                continue
            if use != "unread":
                loss = loss + iso(y)
            loss.backward()
            if use == "copied":
                copy.deepcopy(model)
            del loss
        assert sum(ref() is not None for ref in alive) <= 1
    finally:
        gc.enable()
    assert len(alive) >= 1000
    if fails is not None:
        with pytest.raises(RecordError, match="failed"):
            iso(y)
        fails.remove()
    model(x)
    assert iso(y).requires_grad


def test_a_forward_that_returns_none_is_named() -> None:
    class Silent(nn.Sequential):
        def forward(self, x: Tensor) -> None:
            super().forward(x)

    model = Silent(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    iso = IsometryRegularizer(model)
    model(batch()[0])
    with pytest.raises(RecordError, match="returned None"):
        iso(batch()[1])
