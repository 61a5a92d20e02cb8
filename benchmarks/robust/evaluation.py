"""Attacks on a trained network, as the report card makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from isoreg.robustness import RobustnessReport, evaluate

# what decides the worst case of these networks; the other attacks of the presets only confirm it
DECISIVE = ("pgd-ce", "pgd-margin", "apgd-t")


def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radii: Mapping[str, Sequence[float]],
    attacks: str | Sequence[str],
) -> dict[str, Any]:
    """Clean accuracy, and by norm and radius what survives each attack and all of them."""
    figures: dict[str, Any] = {"attacks": attacks, "warnings": []}
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
