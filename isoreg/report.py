"""What a regularizer reports of its layers, and what its warnings say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isoreg.diagnostics import Distortion

# A penalty drowns the loss if its gradient is more than DROWNS times the loss's, and the loss
# suffers: a step along both gradients raises it, or its gradient is as large as at the start,
# because nothing fits it. A penalty whose gradient is below IDLE times the loss's is idle.
DROWNS, IDLE = 3.0, 1e-3
# Features have collapsed if all their distances are below this part of the inputs' distances.
COLLAPSED = 0.01
_COLUMNS = "pairs  Pearson r   stress  contraction  expansion    scale   penalty  gradient"

_UNSEEN = "No step was looked at yet. Steps compiled as one graph never are: see iso.log_dict()."


@dataclass(frozen=True)
class LayerReport:
    """One layer on the last sampled batch.

    Attributes:
        distortion: What the map from the inputs to the features did to the compared pairs, of at
            most 256 samples. Feature distances are multiplied by the regularizer's ``scale``;
            the distortion's own ``scale`` is the factor that would make the stress smallest.
        penalty: The layer's penalty in the last call, without its weight.
        gradient: Norm of the penalty's gradient at the layer divided by that of the rest of the
            loss: the median over the sampled steps, NaN before the first backward pass.
        progress: How much a small step along both gradients lowers the loss, as a share of what a
            step along the loss's gradient alone does, to the first order in the layer's features:
            1 if the two gradients are orthogonal, below 0 if the loss rises. It is a median too.
        remaining: Norm of the loss's gradient at the layer in the last sampled steps, as a share of
            that in the first ones: below 1 if the loss is being fitted, NaN in the first three.

    Example:
        >>> import torch
        >>> from isoreg.diagnostics import distortion
        >>> LayerReport(distortion(torch.eye(3), torch.eye(3)), 0.0, 0.1).gradient
        0.1
    """

    distortion: Distortion
    penalty: float
    gradient: float
    progress: float = math.nan
    remaining: float = math.nan


@dataclass(frozen=True)
class IsometryReport:
    """How a regularizer fares, layer by layer, and what should be done about it.

    Attributes:
        beta: Weight of the penalty in the last call.
        steps: Calls of the regularizer so far.
        without_pairs: How many of them had a penalty of 0, nearly always because no pair counted.
        layers: A `LayerReport` by name.
        looked_at: The step whose distances are shown; the penalties are the last step's.

    Example:
        >>> print(IsometryReport(beta=0.1, steps=0, without_pairs=0))
        beta 0.1, 0 steps, 0 of them without pairs
        No step was looked at yet. Steps compiled as one graph never are: see iso.log_dict().
    """

    beta: float
    steps: int
    without_pairs: int
    layers: Mapping[str, LayerReport] = field(default_factory=dict)
    looked_at: int = 0

    @property
    def warnings(self) -> list[str]:
        """The problems that were found, each with what to do about it."""
        return [text for _, text in self.problems()]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield kind and text of each warning."""
        if 2 * self.without_pairs > self.steps:
            yield (
                "pairs",
                f"{self.without_pairs} of {self.steps} batches held no two samples of one class, "
                "so nothing was penalised there. Use larger batches, a sampler that draws several "
                "samples of a class, or coarser labels (isoreg.masks.partition).",
            )
        for name, layer in self.layers.items():
            yield from _problems(name, layer, self.beta)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as a dict for JSON; unknown and infinite numbers are None."""
        return {**asdict(self, dict_factory=_json_fields), "warnings": self.warnings}

    def __str__(self) -> str:
        width = max([12, *map(len, self.layers)])
        counts = f"{self.steps} steps, {self.without_pairs} of them without pairs"
        lines = [f"beta {self.beta:.4g}, {counts}", _UNSEEN]
        if self.layers:
            lines[1] = "layer".ljust(width) + "  " + _COLUMNS
            if self.looked_at < self.steps:
                lines[0] += f"; distances of step {self.looked_at}, one in 32 is looked at"
        for name, layer in self.layers.items():
            d = layer.distortion
            lines.append(
                f"{name:<{width}}{d.pairs:>7}{d.correlation:>11.3f}{_short(d.stress):>9}"
                f"{d.contraction:>13.3g}{d.expansion:>11.3g}{d.scale:>9.3g}"
                f"{layer.penalty:>10.3g}{layer.gradient:>10.2g}"
            )
        return "\n".join([*lines, *[f"WARNING: {warning}" for warning in self.warnings]])


def _json_fields(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return fields by name, with None for NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in items
    }


def _short(stress: float) -> str:
    """Format with three decimals, or with three digits if those do not fit the column."""
    return f"{stress:.3f}" if stress < 1000 else f"{stress:.3g}"


def _problems(name: str, layer: LayerReport, beta: float) -> Iterator[tuple[str, str]]:
    d, gradient = layer.distortion, layer.gradient
    if d.pairs and d.expansion < COLLAPSED:
        advice = f"Give scale={d.scale:.3g} or scale='fit', or" if d.expansion else "Do"
        yield (
            "collapsed",
            f"the features of layer {name!r} have collapsed, or are on another scale than the "
            f"inputs: their distances are at most {d.expansion:.2g} times as large. {advice} "
            "raise beta.",
        )
    if not math.isfinite(gradient) or beta == 0:
        return
    if gradient == 0 and d.pairs and layer.penalty > 0:
        yield (
            "gradient",
            f"the penalty of layer {name!r} is {layer.penalty:.2g} and gives no gradient. Are all "
            "its features equal, or is everything up to it frozen or detached?",
        )
    drowns = gradient > DROWNS and (layer.progress < 0 or layer.remaining >= 1)
    if drowns or 0 < gradient < IDLE:
        drowned = "and the loss is not being fitted: it drowns"
        yield (
            "drowns" if drowns else "idle",
            f"at layer {name!r} the penalty's gradient is {gradient:.2g} times the loss's, "
            f"{drowned if drowns else 'so it changes next to nothing'}. "
            f"With beta={beta * 0.1 / gradient:.2g} it would be a tenth; "
            "beta='auto' keeps it there.",
        )
