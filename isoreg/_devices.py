"""Which device is meant."""

from __future__ import annotations

import torch

from isoreg.errors import InputError


def pick_device(device: str | torch.device) -> torch.device:
    """The device that is meant.

    Args:
        device: "auto" or what `torch.device` takes.

    Returns:
        The device.

    Raises:
        InputError: If torch does not know it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty((), device=device).item()  # the meta device holds no numbers
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch may add a list of backends
        raise InputError(
            f"device must be 'auto' or a device of this torch, got {device!r} ({reason})."
        ) from error
