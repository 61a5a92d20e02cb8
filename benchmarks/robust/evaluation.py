"""Attacks on a trained network, as the report card makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoreg.robustness import evaluate

# what decides the worst case of these networks; the other attacks of the presets only confirm it
DECISIVE = ("pgd-ce", "pgd-margin", "apgd-t")


def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    eps: Sequence[float],
    attacks: str | Sequence[str],
) -> dict[str, Any]:
    """Clean accuracy, and by radius what survives each attack and all of them."""
    found = evaluate(
        model, images, labels, eps=list(eps), norm=norm, attacks=attacks, batch_size=500
    )
    rows = {"worst case": found.worst_case, **found.accuracy}
    shares = {row: {f"{e:g}": value for e, value in of.items()} for row, of in rows.items()}
    preset = attacks if isinstance(attacks, str) else "decisive"
    return {
        "clean": found.clean,
        norm: {"attacks": preset, "shares": shares, "warnings": found.warnings},
    }


def survival(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radii: Sequence[float],
    attacks: Sequence[str],
) -> dict[str, Any]:
    """Clean accuracy, and the share of images that survive all attacks, by radius, in L-inf.

    The largest radius is attacked first. An image that survives it counts as surviving the smaller
    ones, whose balls lie within its ball; the others are attacked there again, by each attack those
    that are still correct. So the costly attacks see few images.
    """
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    safe = torch.zeros_like(correct)
    shares: dict[str, float] = {}
    for eps in sorted(radii, reverse=True):
        left = correct & ~safe
        for attack in attacks:
            chosen = left.nonzero()[:, 0]
            if len(chosen) > 0:
                x, y = images[chosen], labels[chosen]
                found = evaluate(model, x, y, eps=eps, attacks=[attack], batch_size=500)
                left[chosen] = torch.tensor(found.survived[attack][eps], device=left.device)
        safe |= left
        shares[f"{eps:g}"] = safe.float().mean().item()
    clean = correct.float().mean().item()
    return {"clean": clean, "worst case": {f"{eps:g}": shares[f"{eps:g}"] for eps in radii}}
