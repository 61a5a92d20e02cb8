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
"""(L,) scales, one scale for all layers, or None to ask for the moments."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the engine: r rows against the n columns of a batch.

    The sums run over i in ``rows`` and all j, i != j. The gradient by the features of row i takes
    both orders of a pair: 4 sum_j W_ij (phi_j - phi_i) with W_ij = s G_ij (D_ij - s d_ij) / d_ij.

    Attributes:
        inputs: (n, p) points; None if distances are given.
        features: L tensors (n, d), of the dtype of the inputs.
        labels: (n,) integers, (n, C) probabilities, or None for one class that holds everything.
        targets: (r, n) given distances, NaN where a pair is not known; None if points are given.
        weights: (r, n) weights by which those of the labels are multiplied, or None.
        rows: Which samples are the rows, which are compared with all columns; None: all samples.
        past: For each tensor of `points`, the points of the first columns, those of a queue; None:
            `points` holds all columns. They stay apart, because joining them copies a large queue.
        plans: What backends store about this call until they are asked again, by name.
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
        past = 0 if self.past is None else self.past[0].shape[0]
        return past + self.features[0].shape[0]  # len() is slower: it asks whether torch traces

    @property
    def device(self) -> torch.device:
        """The device of the features."""
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
    def tables(self) -> tuple[Tensor | None, Tensor]:
        """(r, n) checked distances, if any are given, and given weights times those of labels."""
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
    """The result of a backend for a call.

    Attributes:
        sums: With a scale, (L,) sums of G (D - s d)^2, divided by ``total``; without a scale,
            (2, L) moments in the widest dtype of the device: sums of G D d and of G d^2.
        gradients: For each layer the gradient (r, d) of its sum; empty if none is needed.
        weight: The sum of G, if the backend has computed it; else None.
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
    if labels is not None:  # int64, because in uint8 class 156 equals the ignored label -100
        labels = labels.to(reference.device, None if labels.is_floating_point() else torch.int64)
    inputs, targets = (None, reference) if options.given else (reference, None)
    call = Call(inputs, [*features], labels, targets, weights, rows, past)
    tensors = reference, weights, *features, *(past or ())
    dtypes = {x.dtype for x in tensors if x is not None}
    return call if len(dtypes) == 1 else call.to(functools.reduce(torch.promote_types, dtypes))


def known_pairs(call: Call, counted: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
    """(r, n) given distances and weights (without those of labels), 0 if a pair does not count."""
    # counted (r, n): the pairs that count by their labels, overwritten here; None: all pairs
    targets, weights, local = call.targets, call.weights, call.local
    if counted is None:
        shape, device = (local.stop - local.start, call.size), call.device
        counted = torch.ones(shape, dtype=torch.bool, device=device)
    counted.diagonal(local.start).fill_(False)
    if weights is not None:
        weights = check_pairs(weights, counted, "pair_weights", local).masked_fill(~counted, 0)
        counted = weights != 0  # NaN counts, so that it reaches the penalty
    if targets is not None:
        counted = counted & (targets == targets)  # not NaN
        targets = check_pairs(targets, counted, "input_distances", local)
        targets = targets.masked_fill(~counted, 0)
        weights = counted.to(targets.dtype) if weights is None else weights.masked_fill(~counted, 0)
    assert weights is not None
    return targets, weights


def total_weight(call: Call) -> Tensor | int:
    """Sum of G_ij over i in the rows and all j, i != j; this never waits for an accelerator."""
    exact = exact_dtype(call.device)
    if call.has_tables:
        total: Tensor = call.tables[1].sum(dtype=exact)
        return total
    if call.labels is None:
        return max(0, int(call.local.stop - call.local.start) * (call.size - 1))
    local, labels = call.labels[call.local], call.labels
    if call.is_soft:
        local, labels = local.to(exact), labels.to(exact)
        all_pairs: Tensor = torch.dot(local.sum(0), labels.sum(0))
        return all_pairs - local.square().sum()
    if can_look(call.device):
        rows, members = Counter(local.tolist()), Counter(labels.tolist())
        return sum(k * (members[label] - 1) for label, k in rows.items() if label != IGNORED)
    ordered = labels.sort().values
    counts = torch.searchsorted(ordered, local, right=True) - torch.searchsorted(ordered, local)
    pairs_of_each: Tensor = (counts - 1) * (local != IGNORED)
    return pairs_of_each.sum()
