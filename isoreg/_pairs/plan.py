"""What is computed: rows of a batch against all its columns, and how much each pair weighs."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.options import Options
from isoreg._pairs.precision import can_look
from isoreg._tables import check_pairs
from isoreg.distances import exact_dtype
from isoreg.masks import IGNORED, weights_between

Total: TypeAlias = Tensor | float
Scales: TypeAlias = Tensor | float | None
"""(L,) scales, one for all layers, or none, where the moments are asked for."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the engine: r rows against the n columns of a batch.

    The sums run over i in ``rows`` and all j, i != j. Gradients are those by the features of the
    rows, of sums in which each pair counts for both orders: 4 sum_j W_ij (phi_i - phi_j).

    Attributes:
        inputs: (n, p) points; None if distances are given.
        features: L tensors (n, d), of the dtype of the inputs.
        labels: (n,) integers, (n, C) probabilities, or None for one class that holds everything.
        targets: (r, n) given distances, NaN where a pair is not known; None if points are given.
        weights: (r, n) weights that those of the labels are multiplied with, or None.
        rows: Which rows of the batch are compared with all; None: all of them.
        past: Points of the first columns, for each of `points`, which hold those behind them; None:
            they hold all. A queue is large, so that a copy beside the batch would cost.
        plans: What backends keep of this call between two questions, by their name.
    """

    inputs: Tensor | None
    features: list[Tensor]
    labels: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None
    rows: slice | None = None
    past: list[Tensor] | None = None
    plans: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number n of columns."""
        held = 0 if self.past is None else self.past[0].shape[0]
        return held + self.features[0].shape[0]  # len() asks if it is traced, which takes longer

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.features[0].device

    @property
    def local(self) -> slice:
        """Which rows are compared with all columns."""
        return slice(0, self.size) if self.rows is None else self.rows

    @property
    def points(self) -> list[Tensor]:
        """Inputs, if they are points, and features."""
        return self.features if self.inputs is None else [self.inputs, *self.features]

    @property
    def is_soft(self) -> bool:
        """Whether labels are probabilities."""
        return self.labels is not None and self.labels.is_floating_point()

    @property
    def has_tables(self) -> bool:
        """Whether distances or weights of pairs are given."""
        return self.targets is not None or self.weights is not None

    @functools.cached_property
    def known(self) -> tuple[Tensor | None, Tensor]:
        """(r, n) given distances, if any, and weights of pairs times those of labels, checked."""
        dtype = self.features[0].dtype if self.is_soft else torch.bool
        if self.labels is None:
            return known_pairs(self)
        labels = weights_between(self.labels[self.local], self.labels, dtype)
        targets, weights = known_pairs(self, labels > 0 if self.is_soft else labels)
        return targets, weights * labels if self.is_soft else weights

    def to(self, dtype: torch.dtype) -> Call:
        """The same call in another floating dtype."""
        inputs, targets, weights = (
            None if x is None else x.to(dtype) for x in (self.inputs, self.targets, self.weights)
        )
        features = [x.to(dtype) for x in self.features]
        past = None if self.past is None else [x.to(dtype) for x in self.past]
        return Call(inputs, features, self.labels, targets, weights, self.rows, past)

    @property
    def joined(self) -> Call:
        """The same call with the points of all columns in one tensor."""
        if self.past is None:
            return self
        points = [torch.cat(pair) for pair in zip(self.past, self.points, strict=True)]
        inputs = None if self.inputs is None else points.pop(0)
        return Call(inputs, points, self.labels, self.targets, self.weights, self.rows)


class Answer(NamedTuple):
    """What a backend found of a call.

    Attributes:
        sums: With scales (L,) sums of G (D - s d)^2 divided by a number; else, in the widest
            dtype of the device, (2, L) moments: sums of G D d and of G d^2.
        gradients: For each layer that of its sum (r, d); empty if none is needed.
        weight: The sum of G, if it was found on the way.
    """

    sums: Tensor
    gradients: list[Tensor]
    weight: float | None = None


def make_call(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    weights: Tensor | None,
    rows: slice | None = None,
    past: list[Tensor] | None = None,
) -> Call:
    """A call of the engine, in one dtype and on one device; reference: inputs or distances."""
    if labels is not None:  # in small integer types a class may be equal to the ignored label
        labels = labels.to(reference.device, None if labels.is_floating_point() else torch.int64)
    inputs, targets = (None, reference) if options.given else (reference, None)
    call = Call(inputs, [*features], labels, targets, weights, rows, past)
    given = reference, weights, *features, *(past or ())
    dtypes = {x.dtype for x in given if x is not None}
    return call if len(dtypes) == 1 else call.to(functools.reduce(torch.promote_types, dtypes))


def known_pairs(call: Call, counted: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
    """(r, n) given distances and weights, those of labels left out, 0 where no pair counts."""
    # counted (r, n): the pairs whose labels let them count, to be changed here; None: all
    targets, weights, local = call.targets, call.weights, call.local
    if counted is None:
        shape, device = (local.stop - local.start, call.size), call.device
        counted = torch.ones(shape, dtype=torch.bool, device=device)
    counted.diagonal(local.start).fill_(False)
    if weights is not None:
        weights = check_pairs(weights, counted, "pair_weights", local).masked_fill(~counted, 0)
        counted = weights != 0  # NaN counts
    if targets is not None:
        counted = counted & (targets == targets)  # not NaN
        targets = check_pairs(targets, counted, "input_distances", local)
        targets = targets.masked_fill(~counted, 0)
        weights = counted.to(targets.dtype) if weights is None else weights.masked_fill(~counted, 0)
    assert weights is not None
    return targets, weights


def total_weight(call: Call) -> Tensor | int:
    """Sum of G_ij over i in the rows and all j, i != j; does not look at any value."""
    exact = exact_dtype(call.device)
    if call.has_tables:
        total: Tensor = call.known[1].sum(dtype=exact)
        return total
    if call.labels is None:
        return max(0, int(call.local.stop - call.local.start) * (call.size - 1))
    local, every = call.labels[call.local], call.labels
    if call.is_soft:
        local, every = local.to(exact), every.to(exact)
        both: Tensor = torch.dot(local.sum(0), every.sum(0))
        return both - local.square().sum()
    if can_look(call.device):
        rows, members = Counter(local.tolist()), Counter(every.tolist())
        return sum(k * (members[label] - 1) for label, k in rows.items() if label != IGNORED)
    ordered = every.sort().values
    counts = torch.searchsorted(ordered, local, right=True) - torch.searchsorted(ordered, local)
    pairs_of_each: Tensor = (counts - 1) * (local != IGNORED)
    return pairs_of_each.sum()
