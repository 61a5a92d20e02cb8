"""Attacks on a trained network, as the report card makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
