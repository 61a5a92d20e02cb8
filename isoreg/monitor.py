"""What a regularizer keeps of its steps: counts, a sample of distances, norms of gradients."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor

from isoreg.balance import Norms
from isoreg.diagnostics import distortion_of
from isoreg.distances import Metric, distances_by, flatten_points, resolve_metric
from isoreg.masks import pair_weights
from isoreg.report import IsometryReport, LayerReport

EVERY = 32
"""A step in so many is looked at closely; the first one is."""
WARN_AT = (129, 1025)
"""Steps at which the warnings of the report are given unasked: later than the first, in which the
penalty pulls several times harder than after a while."""
_SAMPLES = 256
_KEPT_NORMS = 16


class Monitor:
    """Watches the steps of a regularizer at little cost, and reports on demand.

    Each step costs a comparison on the device. One in `EVERY` also costs the distances between at
    most 256 samples, of which the (n, n) results are kept, not the features.

    Args:
        metric: As in `isoreg.isometry_penalty`.

    Example:
        >>> monitor = Monitor("euclidean")
        >>> x = torch.eye(3)
        >>> monitor.saw(x, {"layer": x}, None, torch.zeros(1), scale=1.0)
        >>> print(monitor.report(0.1))
        beta 0.1, 1 steps, 1 of them without pairs
        ...
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = resolve_metric(metric)
        self._steps = 0
        self._with_pairs = torch.zeros((), dtype=torch.long)
        self._layers: list[str] = []
        self._penalties = torch.zeros(0)
        self._norms: deque[Norms] = deque(maxlen=_KEPT_NORMS)
        self._targets: Tensor | None = None
        self._distances: dict[str, Tensor] = {}
        self._labels: Tensor | None = None
        self._scale: float | str = 1.0
        self._warned: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether the next step is one to be looked at closely."""
        return self._steps % EVERY == 0

    @torch.no_grad()
    def saw(
        self,
        reference: Tensor,
        features: Mapping[str, Tensor],
        labels: Tensor | None,
        penalties: Tensor,
        *,
        scale: float | Tensor | str,
    ) -> None:
        """Take in one step.

        Args:
            reference: (N, ...) what the features are compared with.
            features: (N, d) by layer.
            labels: The batch's labels.
            penalties: (L,) penalty of each layer.
            scale: Factor of the feature distances.
        """
        due = self.due
        self._steps += 1
        self._layers, self._penalties = list(features), penalties.detach()
        self._with_pairs = self._with_pairs.to(penalties.device) + self._penalties.any()
        if not due:
            return
        self._targets = self._measure(reference)
        self._distances = {name: self._measure(x) for name, x in features.items()}
        self._labels = labels if labels is None else labels.detach()[:_SAMPLES]
        self._scale = scale if isinstance(scale, str) else float(scale)

    def saw_gradients(self, norms: Norms) -> None:
        """Take in the gradients of a step, for the median over the last ones.

        Args:
            norms: From `isoreg.balance.GradientNorms.take`.
        """
        if norms:
            self._norms.append(norms)

    def report(self, beta: float) -> IsometryReport:
        """What came of it so far; waits for the device.

        Args:
            beta: Weight of the penalty.

        Returns:
            The report.
        """
        penalties = dict(zip(self._layers, self._penalties.tolist(), strict=True))
        layers = {
            name: self._layer(name, penalties.get(name, math.nan)) for name in self._distances
        }
        return IsometryReport(beta, self._steps, self._steps - int(self._with_pairs), layers)

    def warn(self, report: IsometryReport, *, stacklevel: int) -> None:
        """Give each kind of warning once.

        Args:
            report: What `report` returned.
            stacklevel: As of `warnings.warn`.
        """
        for kind, text in report.problems():
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(f"IsometryRegularizer: {text}", stacklevel=stacklevel + 1)

    @property
    def wants_to_warn(self) -> bool:
        """Whether this step is one of `WARN_AT`."""
        return self._steps in WARN_AT

    def _measure(self, x: Tensor) -> Tensor:
        return distances_by(self._metric, flatten_points(x.detach()[:_SAMPLES], "features"))

    def _layer(self, name: str, penalty: float) -> LayerReport:
        targets, distances = self._targets, self._distances[name]
        assert targets is not None
        labels = self._labels
        if labels is not None and labels.is_floating_point():  # soft ones count as their largest
            labels = labels.argmax(1)
        compared = pair_weights(labels, len(distances), device=distances.device).bool().triu(1)
        dx = targets.to(distances.device)[compared].double()
        dphi = distances[compared].double()
        scale = distortion_of(dx, dphi).scale if self._scale == "fit" else float(self._scale)
        ratios = [
            float(own / rest)
            for norms in self._norms
            for rest, own in [norms.get(name, (torch.zeros(()), torch.zeros(())))]
            if rest > 0
        ]
        found = distortion_of(dx, scale * dphi)
        return LayerReport(
            distortion=dataclasses.replace(found, scale=scale * found.scale),
            penalty=penalty,
            gradient=median(ratios) if ratios else math.nan,
        )
