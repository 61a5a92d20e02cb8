"""Attacks on a trained network, as the report card makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoreg.robustness import RobustnessReport, evaluate
from isoreg.robustness.pgd import pgd

# what decides the worst case of these networks; every other attack of the presets only confirms it
DECISIVE = ("pgd-ce", "pgd-margin", "apgd-t")


def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radii: Mapping[str, Sequence[float]],
    attacks: str | Sequence[str],
) -> dict[str, Any]:
    """Clean accuracy, and the worst case over the attacks of every radius in every norm."""
    figures: dict[str, Any] = {"attacks": attacks, "images": len(images), "warnings": []}
    for norm, eps in radii.items():
        report = evaluate(
            model, images, labels, eps=list(eps), norm=norm, attacks=attacks, batch_size=500
        )
        figures["clean"] = report.clean
        figures[norm] = _shares(report)
        figures["warnings"] += [f"{norm}: {warning}" for warning in report.warnings]
    return figures


def _shares(report: RobustnessReport) -> dict[str, dict[str, float]]:
    rows = {"worst case": report.worst_case, **report.accuracy}
    return {row: {f"{eps:g}": share for eps, share in found.items()} for row, found in rows.items()}


def quickly_attacked(
    model: nn.Module, images: Tensor, labels: Tensor, radii: Sequence[float], *, steps: int = 30
) -> dict[str, Any]:
    """Clean accuracy and what survives PGD on the margin, L-inf, for choosing on validation data."""
    torch.manual_seed(1)
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    found: dict[str, float] = {}
    x, y = images[correct], labels[correct]
    for eps in radii:
        _, fooled = pgd(model, x, y, eps=eps, steps=steps)
        found[f"{eps:g}"] = (len(x) - fooled[-1]) / len(images)
    return {"clean": correct.float().mean().item(), "attacked": found}
