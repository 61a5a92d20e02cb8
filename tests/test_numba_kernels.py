"""The compiled loops against plain sums, on batches so small that Python can run the loops too.

That is how `tests/mutants.py` tries changes of the loops, without compiling each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoreg import InputError
from isoreg.masks import IGNORED

pytest.importorskip("numba")

from isoreg._pairs.backends import numba_blocks
from isoreg._pairs.plan import Call


class Batch(NamedTuple):
    """What is compared, as whole tables, and which rows are local."""

    features: list[Tensor]
    inputs: Tensor
    labels: Tensor | None
    targets: Tensor | None
    weights: Tensor | None
    rows: slice

    def call(self) -> Call:
        rows = self.rows
        targets, weights = (None if x is None else x[rows] for x in (self.targets, self.weights))
        inputs = self.inputs if targets is None else None
        return Call(inputs, self.features, self.labels, targets, weights, rows)


def lengths(differences: Tensor) -> Tensor:
    """Norms whose gradient at 0 is 0."""
    squares = differences.square().sum(-1)
    return torch.where(squares > 0, squares.where(squares > 0, 1).sqrt(), 0)


def plain_sums(batch: Batch, scales: Tensor) -> tuple[Tensor, Tensor, list[Tensor], float]:
    """(L,) sums of G (D - s d)^2, (2, L) of G D d and G d^2, gradients, and the sum of G."""
    n, rows = len(batch.inputs), batch.rows
    x = batch.inputs.double()
    targets = lengths(x[:, None] - x) if batch.targets is None else batch.targets.double()
    y = batch.labels
    if y is None:
        pairs = torch.ones(n, n)
    elif y.is_floating_point():
        pairs = y.double() @ y.double().T
    else:
        pairs = (y[:, None] == y) & (y != IGNORED)
    pairs = pairs.double().fill_diagonal_(0)
    if batch.weights is not None:
        pairs = torch.where(pairs > 0, pairs * batch.weights.double(), 0)
    known = (pairs > 0) & ~targets.isnan()
    pairs, targets = torch.where(known, pairs, 0), torch.where(known, targets, 0)
    stress, moments, gradients = [], [], []
    for points, scale in zip(batch.features, scales, strict=True):
        phi = points.double().requires_grad_()
        drawn = lengths(phi[:, None] - phi)
        terms = pairs * (targets - scale * drawn) ** 2
        gradients.append(torch.autograd.grad(terms.sum(), phi)[0][rows])
        drawn = drawn.detach()
        stress.append(terms.detach()[rows].sum())
        moments.append(torch.stack([(pairs * t * drawn)[rows].sum() for t in (targets, drawn)]))
    return torch.stack(stress), torch.stack(moments, 1), gradients, pairs[rows].sum().item()


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    n = draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    features = [drawn(n, width) for width in draw(st.sampled_from([[2], [5, 1]]))]
    offset = draw(st.sampled_from([0.0, 30.0]))
    for points in features:
        copies = int(draw(st.integers(0, n // 2)))
        points[n - copies :] = points[:copies] + draw(st.sampled_from([0.0, 1e-7]))
        points += offset
    kind = draw(st.sampled_from(["none", "classes", "soft"]))
    labels = None
    if kind == "classes":
        names = st.sampled_from([0, 0, 0, 1, 7, IGNORED])
        labels = torch.tensor(draw(st.lists(names, min_size=n, max_size=n)))
    elif kind == "soft":
        labels = drawn(n, 3).softmax(1)
        labels[:: draw(st.sampled_from([3, 20]))] = 0
    targets = weights = None
    if draw(st.booleans()):
        targets = drawn(n, n) + 0.1
        targets = targets + targets.T
        holes = drawn(n, n) < 0.1
        targets[holes | holes.T] = math.nan
        targets.fill_diagonal_(-5)  # is not read
    if draw(st.booleans()):
        weights = drawn(n, n)
        weights = (weights + weights.T).masked_fill(weights + weights.T < 0.4, 0)
        weights.fill_diagonal_(-5)
    first, last = sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))
    rows = draw(st.sampled_from([slice(0, n), slice(first, last)]))
    return Batch(features, drawn(n, 3), labels, targets, weights, rows)


# two rows of one class, subtracted directly, before tiles of others that are multiplied
ROWS_OF_TWO = Batch(
    [torch.eye(17)[:, :4].double()], torch.eye(17).double(), *[None] * 3, slice(0, 2)
)


@example(batch=ROWS_OF_TWO, tile=8, chunk=1 << 18)
@settings(max_examples=120)
@given(batch=batches(), tile=st.sampled_from([5, 8, 256]), chunk=st.sampled_from([9, 1 << 18]))
def test_sums_and_gradients_are_those_of_plain_sums(batch: Batch, tile: int, chunk: int) -> None:
    scales = torch.tensor([0.7, 1.3][: len(batch.features)], dtype=torch.float64)
    stress, moments, gradients, whole = plain_sums(batch, scales)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_blocks, "_TILES", (tile, tile))
        patch.setattr(numba_blocks, "_PAIRS_AT_ONCE", chunk)
        call = batch.call()
        plan = numba_blocks.plan_blocks(call)
        sides = plan.blocks[:, 1::2] - plan.blocks[:, ::2]
        assert plan.ends[-1:].sum() == sides.prod(1).sum()
        found, slopes, weight = numba_blocks.compare(call, scales, 3.0, needs_grad=True)
        sums = numba_blocks.compare(call, None, 1.0, needs_grad=False).sums
        torch.testing.assert_close(sums, moments, rtol=1e-9, atol=1e-12)
        alone = numba_blocks.compare(batch.call(), scales, 3.0, needs_grad=False)
    torch.testing.assert_close(found, stress / 3, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(alone, (found, [], weight))
    if call.has_tables:
        assert weight == pytest.approx(whole, rel=1e-12)
    expected = [gradient / 3 for gradient in gradients]
    torch.testing.assert_close(slopes, expected, rtol=1e-6, atol=1e-9)


def test_float32_keeps_its_digits_where_points_lie_close_together_far_away() -> None:
    clusters = torch.randn(3, 4).repeat(5, 1)
    features = [1000 + clusters + 1e-2 * torch.randn(15, 4), clusters + 1e-4 * torch.randn(15, 4)]
    batch = Batch(features, torch.randn(15, 3), None, None, None, slice(0, 15))
    scales = torch.ones(2)
    stress, _, gradients, _ = plain_sums(batch, scales)
    found, slopes, _ = numba_blocks.compare(batch.call(), scales, 1.0, needs_grad=True)
    torch.testing.assert_close(found.double(), stress, rtol=1e-6, atol=0)
    for slope, gradient in zip(slopes, gradients, strict=True):
        assert (slope - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_point_that_is_not_finite_is_seen_also_where_it_is_alone(place: int) -> None:
    labels = torch.tensor([0, 0, 0, 1, 9, 1, 0, 1, IGNORED])
    phi = torch.randn(9, 2)
    phi[place, 1] = math.nan
    call = Batch([phi], torch.randn(9, 3), labels, None, None, slice(0, 9)).call()
    found, *_ = numba_blocks.compare(call, torch.ones(1), 1.0, needs_grad=True)
    assert found.isnan()


REFUSED = {
    "negative": (-0.1, -0.1),
    "infinite": (math.inf, math.inf),
    "more than a thousandth off": (0.5, 0.5 + 2e-3),
    "less than it": (0.5, 0.5 - 2e-3),
    "known in one order alone": (0.5, math.nan),
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("name", ["targets", "weights"])
@pytest.mark.parametrize("first", [0, 2])
def test_tables_that_cannot_be_used_are_refused_where_they_count(
    entries: tuple[float, float], name: str, first: int
) -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    rows = slice(first, 6)

    def values(i: int, j: int) -> Tensor:
        table = torch.ones(6, 6)
        table[i, j], table[j, i] = entries
        batch = Batch([torch.rand(6, 2)], torch.rand(6, 3), labels, None, None, rows)
        call = batch._replace(**{name: table}).call()
        return numba_blocks.compare(call, torch.ones(1), 1.0, needs_grad=False).sums

    for i, j in ((3, 4), (4, 3), (5, 2)):
        with pytest.raises(InputError, match="input_distances|pair_weights"):
            values(i, j)
    assert values(2, 3).isfinite(), "of two classes"
    assert values(4, 4).isfinite(), "the diagonal"


def test_a_pair_known_in_one_order_alone_is_refused_without_another_pair() -> None:
    table = torch.tensor([[0.0, math.nan], [1.0, 0.0]])
    batch = Batch([torch.rand(2, 2)], torch.rand(2, 3), None, table, None, slice(0, 2))
    with pytest.raises(InputError, match="input_distances"):
        numba_blocks.compare(batch.call(), torch.ones(1), 1.0, needs_grad=False)


def test_tables_may_be_off_by_half_a_thousandth_of_their_largest_entry() -> None:
    table = torch.full((4, 4), 2.0)
    table[2, 1] = 2.001
    batch = Batch([torch.rand(4, 2)], torch.rand(4, 3), None, table, None, slice(0, 4))
    assert numba_blocks.compare(batch.call(), None, 1.0, needs_grad=False).sums.isfinite().all()
