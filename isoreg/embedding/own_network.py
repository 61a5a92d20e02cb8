"""Checks that a map can be learned by the network that the user gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isoreg.embedding.network import MapNetwork
from isoreg.errors import InputError


def copied(network: nn.Module) -> nn.Module:
    """A copy of the user's network, to be trained.

    Args:
        network: The user's network.

    Returns:
        The copy.

    Raises:
        InputError: If it cannot be copied, or has parameters that are not float32 or float64.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise InputError(  # torch's copy of a ScriptModule cannot be trained
            "network must be a module of Python, got one of TorchScript. Give the module that it "
            "was made of."
        )
    try:
        body = copy.deepcopy(network)
    except RuntimeError as error:
        raise InputError(
            f"network must be one that copy.deepcopy can copy, got torch's error: {error}. Is it "
            "torch.nn.utils.weight_norm? Take that of torch.nn.utils.parametrizations."
        ) from error
    for name, parameter in body.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64) or parameter.is_meta:
            raise InputError(
                "network must hold float32 or float64 numbers, got "
                f"{'none yet' if parameter.is_meta else parameter.dtype} in {name!r}."
            )
    return body


def check_output(network: MapNetwork, rows: NDArray[Any], components: int) -> None:
    """Refuse a network whose output is not a map of these rows, or cannot be trained.

    Args:
        network: The map, with the user's network as its body.
        rows: Two rows of the data.
        components: Dimensions of the map.

    Raises:
        InputError: If the network is one of these.
    """
    inputs, shape = network.eval().standard(torch.tensor(rows)), (len(rows), components)
    try:
        points = network.body(inputs)
    except RuntimeError as error:
        points = f"torch's error: {error}"
    got = str(points) if isinstance(points, str) else type(points).__name__
    if isinstance(points, Tensor):
        got = f"{points.dtype} of shape {tuple(points.shape)}"
        if points.is_floating_point() and points.shape == shape:
            if not points.isfinite().all():
                got = "points that are not finite"
            elif not points.requires_grad:
                got = "points that no parameter changes (are all of them frozen?)"
            elif (network.body(inputs[[1, 1]]) - points)[1].abs().max() > 1e-4 * points.abs().max():
                got = "a point that depends on the row beside it, or on chance, in eval mode"
            else:
                return
    raise InputError(f"network must map {tuple(inputs.shape)} rows to {shape} points, got {got}.")


@torch.no_grad()
def refuse_one_point(body: nn.Module, inputs: Tensor) -> None:
    """Refuse a map on which different samples all lie in one point, where no gradient moves them.

    Args:
        body: The trained network.
        inputs: (n, d) standardised rows.

    Raises:
        InputError: If all points are equal, but not all inputs.
    """
    points = body(inputs)
    if bool((inputs != inputs[0]).any()) and bool((points == points[0]).all()):
        raise InputError(
            f"the map must tell samples apart, got one point for all {len(inputs)} measured ones. "
            "Does the last layer of the network begin at 0, is the learning rate too large, or "
            "does one sample lie far beyond the others?"
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers that a network draws, as dropout does, and restore torch's after.

    Yields:
        Nothing.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
