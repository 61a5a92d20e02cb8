"""The network of a map, its scaling, optimizer and batches, and its pickles. Axes: b = batch."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HIDDEN = 160, 3
ROUNDS = 3  # steps of Muon's orthogonalisation: its default of 5 gives the same maps more slowly


def mlp(columns: int, components: int, seed: int = 0) -> nn.Sequential:
    """The default network: three hidden layers of 160 ReLU units, no dropout.

    Args:
        columns: Columns of the data.
        components: Dimensions of the map.
        seed: Seed of the weights, which have torch's own distribution. The global random numbers,
            which all threads share, are not drawn from.

    Returns:
        The network.

    Example:
        >>> mlp(4, 2)(torch.rand(3, 4)).shape
        torch.Size([3, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    linears = []
    for a, b in itertools.pairwise([columns, *[WIDTH] * HIDDEN, components]):
        linear = nn.utils.skip_init(nn.Linear, a, b, dtype=torch.float32)
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5), generator=generator)
        nn.init.uniform_(linear.bias, -1 / math.sqrt(a), 1 / math.sqrt(a), generator=generator)
        linears.append(linear)
    hidden = [layer for linear in linears[:-1] for layer in (linear, nn.ReLU())]
    return nn.Sequential(*hidden, linears[-1])


class MapNetwork(nn.Module):
    """From rows of the data to points of the map, in the data's unit: ``unit * body(standard(x))``.

    Args:
        body: The network that is trained.
        mean: (d,) numbers that are subtracted from the rows.
        spread: The one number that all columns are divided by, so that distances keep their ratios.
        unit: The number that the body's output is multiplied by.
    """

    mean: Tensor
    spread: Tensor
    unit: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, spread: float, unit: float) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", mean)
        self.register_buffer("spread", torch.tensor(spread, dtype=mean.dtype))
        self.register_buffer("unit", torch.tensor(unit, dtype=mean.dtype))

    def standard(self, rows: Tensor) -> Tensor:
        """The body's input: rows centred in the widest precision, so that an offset is harmless."""
        exact = rows.to(self.mean.device, self.mean.dtype)
        dtype = next((p.dtype for p in self.body.parameters()), torch.float32)
        return ((exact - self.mean) / self.spread).to(dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """(b, d) rows to (b, components) points."""
        points: Tensor = self.unit * self.body(self.standard(rows))
        return points


class Optimizer:
    """Muon on the matrices and AdamW on the rest, through one cycle of the learning rate.

    Args:
        network: The network to train.
        learning_rate: The largest learning rate of the cycle.
        steps: Number of steps of the cycle.
    """

    def __init__(self, network: nn.Module, learning_rate: float, steps: int) -> None:
        usual: dict[str, Any] = {"lr": learning_rate, "weight_decay": 0.01}
        of_muon = usual | {"adjust_lr_fn": "match_rms_adamw", "ns_steps": ROUNDS}
        matrices = [p for p in network.parameters() if p.ndim == 2]
        rest = [p for p in network.parameters() if p.ndim != 2]
        self._optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self._optimizers.append(torch.optim.Muon(matrices, **of_muon))
        if rest:
            self._optimizers.append(torch.optim.AdamW(rest, fused=True, **usual))
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1)
            for optimizer in self._optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """Take one step down the loss, and one step of the learning rate's cycle."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Places of the samples of one batch after another, without end; each epoch has a new order.

    Samples that would not fill a last batch are left out of an epoch.

    Yields:
        (size,) places.
    """
    size = min(size, n)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n // size * size].split(size)


def pack(state: dict[str, Any]) -> dict[str, Any]:
    """An estimator's state without parts that other machines, or skops, cannot read.

    The default network becomes arrays; a network of the user is copied to the CPU.

    Returns:
        The same state with another ``network_``.
    """
    network = state.get("network_")
    if network is None:
        return state
    if state.get("_fitted_own", state.get("network") is not None):
        return {**state, "network_": copy.deepcopy(network).cpu()}
    arrays = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    return {**state, "network_": arrays}


def unpack(state: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `pack`: the same state, with a module as ``network_``."""
    arrays = state.get("network_")
    if not isinstance(arrays, dict):
        return state
    tensors = {name: torch.tensor(value) for name, value in arrays.items()}
    components = len(tensors[f"body.{2 * HIDDEN}.bias"])  # n_components may have been set since
    body = mlp(len(tensors["mean"]), components).to(tensors["mean"].dtype)
    network = MapNetwork(body, tensors["mean"], 1.0, 1.0)
    network.load_state_dict(tensors)
    return {**state, "network_": network.eval()}
