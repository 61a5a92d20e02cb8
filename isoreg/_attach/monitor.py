"""What a regularizer keeps of its steps: counts, a sample of distances, norms of gradients."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg._attach.balance import Norms
from isoreg.diagnostics import best_factor, distortion_of
from isoreg.distances import Metric, distances_by, exact_dtype, flatten_points, resolve_metric
from isoreg.masks import pair_weights, top_classes
from isoreg.report import IsometryReport, LayerReport

EVERY = 32
"""One step in this many is looked at closely, beginning with the first."""
WARN_AT = (129, 1025)
"""Steps at which the report's warnings are shown unasked. These are late steps, because in the
first ones the penalty's gradient is several times larger than later."""
Beta: TypeAlias = Tensor | float
"""A weight of the penalty: a number, or a tensor if beta="auto" has set it."""
_SAMPLES = 256
_KEPT_NORMS = 16
_EARLY = 3
"""How many readings are early. The first is left out, because features have no spread then."""


class Step(NamedTuple):
    """The features of a step, and what they were compared with.

    Attributes:
        features: (n, d) by layer.
        references: (n, ...) points by layer; empty where distances were given.
        distances: (n, n) given distances, or None.
        pair_weights: (n, n) given weights of the pairs, or None.
        first: The column of the first of the n samples in given distances and weights, which have
            more columns across ranks and with a queue.
    """

    features: Mapping[str, Tensor]
    references: Mapping[str, Tensor]
    distances: Tensor | None
    pair_weights: Tensor | None
    first: int

    def among_local(self, table: Tensor, n: int) -> Tensor:
        """Return the part of a table for pairs of the first local samples."""
        return table[:n, self.first : self.first + n]


class Monitor:
    """Watches the steps of a regularizer at little cost, and reports on demand.

    Each step costs a comparison on the device. One in `EVERY` also costs the distances between at
    most 256 samples, of which the (n, n) results are kept, not the features.

    Example:
        >>> monitor = Monitor("euclidean", "euclidean")
        >>> x = torch.eye(3)
        >>> step = Step({"layer": x}, {"layer": x}, None, None, first=0)
        >>> monitor.record_step(["layer"], torch.zeros(1))
        >>> monitor.look_closely(step, None, 1.0)
        >>> print(monitor.report(0.1))
        beta 0.1, 1 steps, 1 of them without pairs
        ...
    """

    def __init__(self, metric: Metric, input_metric: Metric) -> None:
        self._metric = resolve_metric(metric)
        self._input_metric = resolve_metric(input_metric)
        self._steps = self._looked_at = 0
        self._with_pairs = torch.zeros((), dtype=torch.long, device="cpu")
        self._uncounted: list[Tensor] = []
        self._layers: list[str] = []
        self._penalties = torch.zeros(0, device="cpu")
        self._norms: deque[tuple[Norms, Beta]] = deque(maxlen=_KEPT_NORMS)
        self._early: list[Norms] = []
        self._distances: dict[str, tuple[Tensor, Tensor]] = {}  # of references and features
        self._weights: Tensor | None = None
        self._scale: float | str
        self._warned: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether the next step is to be looked at closely."""
        return self._steps % EVERY == 0

    def record_step(self, layers: list[str], penalties: Tensor) -> None:
        """Count one step, with the names of its layers and their (L,) penalties, detached."""
        self._steps += 1
        self._layers, self._penalties = layers, _unwrapped(penalties)
        self._uncounted.append(self._penalties)

    @torch.no_grad()
    def look_closely(self, step: Step, labels: Tensor | None, scale: float | Tensor | str) -> None:
        """Keep the distances of a step that was due, for the report."""
        self._count()
        self._looked_at = self._steps
        n = min(len(next(iter(step.features.values()))), _SAMPLES)
        between_features = _distances_of(self._metric, step.features)
        if step.distances is None:
            targets = _distances_of(self._input_metric, step.references)
        else:
            targets = dict.fromkeys(step.features, step.among_local(step.distances, n))
        self._distances = {name: (targets[name], x) for name, x in between_features.items()}
        weights = None if step.pair_weights is None else step.among_local(step.pair_weights, n)
        self._weights = self._pairs(labels, weights, n)
        self._scale = scale if isinstance(scale, str) else float(scale)

    def _count(self) -> None:
        """Count the steps with pairs since the last count, in a few operations for all of them."""
        by_kind: dict[tuple[torch.device, int], list[Tensor]] = {}
        for penalties in self._uncounted:
            by_kind.setdefault((penalties.device, penalties.numel()), []).append(penalties)
        for group in by_kind.values():
            with_pairs = torch.stack(group).any(1).sum()
            self._with_pairs = self._with_pairs.to(with_pairs.device) + with_pairs
        self._uncounted.clear()

    def _pairs(self, labels: Tensor | None, weights: Tensor | None, n: int) -> Tensor:
        """Return which pairs of the first samples are compared, by the top class of soft labels."""
        if labels is not None:
            labels = top_classes(labels)[:n]
        _, between_features = next(iter(self._distances.values()))
        compared = pair_weights(labels, n, device=between_features.device).bool()
        if weights is not None:
            compared &= weights.to(compared.device) > 0
        return compared.triu(1)

    def record_gradients(self, norms: Norms, beta: Beta) -> None:
        """Keep the gradient norms and the weight of a step, for medians over the last steps."""
        if norms:
            self._norms.append((norms, beta))
            if len(self._early) < _EARLY:
                self._early.append(norms)

    def report(self, beta: Beta) -> IsometryReport:
        """Report on the steps so far, for this weight of the penalty. This waits for the device."""
        self._count()
        penalties = dict(zip(self._layers, self._penalties.tolist(), strict=True))
        layers = {
            name: self._layer(name, penalties.get(name, math.nan), beta) for name in self._distances
        }
        without = self._steps - int(self._with_pairs)
        return IsometryReport(float(beta), self._steps, without, layers, looked_at=self._looked_at)

    def warn(self, report: IsometryReport, *, stacklevel: int) -> None:
        """Give each kind of warning once."""
        for kind, text in report.problems():
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(f"IsometryRegularizer: {text}", stacklevel=stacklevel + 1)

    @property
    def wants_to_warn(self) -> bool:
        """Whether this step is one of `WARN_AT`."""
        return self._steps in WARN_AT

    def _layer(self, name: str, penalty: float, beta: Beta) -> LayerReport:
        (targets, distances), shares = self._distances[name], self._shares(name, beta)
        assert self._weights is not None
        targets = targets.to(distances.device)
        compared = self._weights & ~targets.isnan()  # NaN: a pair whose distance is not known
        exact = exact_dtype(distances.device)
        dx, dphi = targets[compared].to(exact), distances[compared].to(exact)
        scale = best_factor(dx, dphi) if self._scale == "fit" else float(self._scale)
        distortion = distortion_of(dx, scale * dphi)
        return LayerReport(
            distortion=dataclasses.replace(distortion, scale=scale * distortion.scale),
            penalty=penalty,
            gradient=median(share for share, _ in shares) if shares else math.nan,
            progress=median(1 + along for _, along in shares) if shares else math.nan,
            remaining=self._remaining(name),
        )

    def _remaining(self, name: str) -> float:
        """Return the ratio of the loss's late gradient norm at a layer to its early one."""
        if len(self._norms) <= _EARLY:
            return math.nan
        early = _losses(name, self._early[1:])
        late = _losses(name, [norms for norms, _ in [*self._norms][-_EARLY:]])
        return median(late) / median(early) if early and late and median(early) > 0 else math.nan

    def _shares(self, name: str, beta: Beta) -> list[tuple[float, float]]:
        """Return a penalty's gradient norm, and its part along the loss's, over the loss's norm."""
        shares = []  # only of steps in which the loss has a gradient and nothing overflowed
        for norms, earlier in self._norms:
            if name not in norms:
                continue
            loss, penalty, along = map(float, norms[name])
            if loss > 0:
                factor = _ratio(beta, earlier)
                shares.append((factor * penalty / loss, factor * along / loss / loss))
        return [share for share in shares if all(map(math.isfinite, share))]


def _unwrapped(x: Tensor) -> Tensor:
    """Return a tensor without torch.func's wrappers: torch 2.9 cannot read values through them."""
    wrapped = torch._C._functorch
    # After a graph break a compiled step compiles this loop too; torch.compile cannot trace the
    # second condition, so the first one comes before it.
    while not torch.compiler.is_compiling() and wrapped.is_functorch_wrapped_tensor(x):
        x = wrapped.get_unwrapped(x)
    return x


def _distances_of(
    metric: Callable[[Tensor], Tensor], points: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {
        name: distances_by(metric, flatten_points(_unwrapped(x)[:_SAMPLES], "features"))
        for name, x in points.items()
    }


def _losses(name: str, steps: Sequence[Norms]) -> list[float]:
    """Return the loss's gradient norms at a layer, without those that overflowed."""
    losses = [float(norms[name].loss) for norms in steps if name in norms]
    return [loss for loss in losses if math.isfinite(loss)]


def _ratio(beta: Beta, earlier: Beta) -> float:
    """Return the ratio of a penalty's weight to its earlier weight; NaN if that was 0."""
    # learned weights each fit their own step
    learned = isinstance(beta, Tensor) and isinstance(earlier, Tensor)
    if learned or float(beta) == float(earlier):
        return 1.0
    return float(beta) / float(earlier) if float(earlier) > 0 else math.nan
