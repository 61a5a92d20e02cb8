"""Turns the device argument of a function into a device."""

from __future__ import annotations

import torch

from isoreg.errors import InputError


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device that an argument names.

    Args:
        device: "auto" (CUDA if available, else the CPU) or what `torch.device` takes.

    Returns:
        The device.

    Raises:
        InputError: If this torch cannot use the device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty((), device=device).item()  # .item() refuses the meta device
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch may add a list of backends
        raise InputError(
            f"device must be 'auto' or a device of this torch, got {device!r} ({reason})."
        ) from error
