"""Run by `test_triton` with ``TRITON_INTERPRET=1``: the kernels on a processor against the oracle.

No test of its own: pytest collects this file in that process alone, by its name.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoreg._pairs.backends import triton_blocks
from isoreg._pairs.dense import dense_penalty
from isoreg.distances import euclidean
from isoreg.masks import IGNORED, pair_weights

FAR = st.sampled_from([0.0, 100.0, 1e4])


@pytest.fixture(autouse=True, scope="module")
def _small() -> Any:
    """Small tiles and slabs, so that few samples have several of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_TILE": 16, "_PAIRS_AT_ONCE": 16 * 32, "_SHARE": 32}.items():
            patch.setattr(triton_blocks, name, value)
        yield


def call(
    x: Tensor | None,
    features: list[Tensor],
    y: Tensor | None,
    *,
    targets: Tensor | None = None,
    weights: Tensor | None = None,
    local: slice | None = None,
) -> Any:
    """A call of the engine, which holds local rows, and what the oracle reads: all rows."""
    local = slice(0, len(features[0])) if local is None else local
    rows = [None if table is None else table[local] for table in (targets, weights)]
    tables = {"targets": rows[0], "weights": rows[1], "whole": (targets, weights)}
    return SimpleNamespace(inputs=x, features=features, labels=y, local=local, **tables)


def oracle(c: Any, scales: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Values and moments of local rows, and the whole batch's gradients by them; in float64.

    Last for each layer how long a row of its gradient were if no term cancelled another.
    """
    targets, weights = c.whole
    g = pair_weights(c.labels, len(c.features[0]), dtype=torch.float64).fill_diagonal_(0)
    g = g if weights is None else g * weights.double()
    if targets is None:
        targets = euclidean(c.inputs.double())
    g, targets = g.masked_fill(targets.isnan(), 0), targets.double().nan_to_num()
    values, moments, gradients, terms = [], [], [], []
    for x, s in zip(c.features, scales, strict=True):
        exact = x.double().requires_grad_()
        d = euclidean(exact)
        stress = g * (targets - s * d).square()
        (gradient,) = torch.autograd.grad(stress.sum(), exact)
        gradients.append(gradient[c.local])
        terms.append((4 * s * g * (targets + s * d.detach()))[c.local].sum(1))
        values.append(stress[c.local].sum().detach())
        moments.append(torch.stack([(g * y * d)[c.local].sum().detach() for y in (targets, d)]))
    return torch.stack(values), torch.stack(moments, 1), gradients, terms


def check(c: Any, digits: float, *, scale: float = 0.7) -> None:
    scales = scale + torch.arange(len(c.features), dtype=torch.float64)
    total = 3.0 + len(c.features[0])
    values, gradients, _ = triton_blocks.compare(c, scales, total, needs_grad=True)
    moments = triton_blocks.compare(c, None, 1.0, needs_grad=False).sums
    expected, sums, slopes, terms = oracle(c, scales)
    size = sums[1] * scales**2 + sums[0] * scales  # what the value is the difference of
    assert ((total * values.double() - expected).abs() <= digits * size + digits * expected).all()
    torch.testing.assert_close(moments, sums, rtol=digits, atol=0)
    assert (values.dtype, moments.dtype) == (c.features[0].dtype, torch.float64)
    for gradient, slope, term in zip(gradients, slopes, terms, strict=True):
        assert gradient.shape == slope.shape
        # a few rows may nearly cancel; and the oracle's own rounding leaves 1e-17 where no pair is
        assert (total * gradient.double() - slope).norm() <= digits * (
            slope.norm() + term.norm()
        ) + 1e-13


@st.composite
def calls(draw: Any) -> Any:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    n = draw(st.integers(0, 40))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64]))

    def points(width: int) -> Tensor:
        x = torch.randn(n, width) + draw(FAR)
        if n > 5 and draw(st.booleans()):
            x[: n // 4] = x[n // 4 : 2 * (n // 4)].clone()[: n // 4]  # duplicates
        return x.to(dtype)

    layers = [points(draw(st.integers(1, 40))) for _ in range(draw(st.integers(1, 2)))]
    kind = draw(st.sampled_from(["one", "hard", "hard", "soft"]))
    y = None
    if kind == "hard":
        y = torch.randint(draw(st.integers(1, 6)), (n,))
        y[torch.rand(n) < 0.2] = IGNORED
    elif kind == "soft":
        y = torch.rand(n, 3).to(dtype).softmax(1)
        y[torch.rand(n) < 0.2] = 0
    first, last = sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))
    local = draw(st.sampled_from([slice(0, n), slice(first, last)]))
    options: dict[str, Any] = {"local": local}
    if draw(st.booleans()):
        weights = torch.rand(n, n).to(dtype)
        options["weights"] = (weights + weights.T) * (weights + weights.T > 0.5)
    if draw(st.booleans()):
        distances = 1 + torch.rand(n, n).to(dtype)
        distances[torch.rand(n, n) < 0.2] = torch.nan
        distances = distances + distances.T
        distances.fill_diagonal_(torch.nan if draw(st.booleans()) else 7)
        return call(None, layers, y, targets=distances, **options)
    return call(points(draw(st.integers(1, 40))), layers, y, **options)


@pytest.mark.parametrize("narrow", [64, 4], ids=["differences", "products"])
@settings(max_examples=12, deadline=None, phases=[Phase.generate])  # a draw is slow to shrink
@given(c=calls())
def test_value_moments_and_gradient_equal_the_oracle(narrow: int, c: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_blocks, "_NARROW", narrow)
        check(c, 1e-6 if c.features[0].dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("kind", ["one", "hard", "soft"])
def test_value_and_gradient_equal_the_dense_penalty(kind: str) -> None:
    y = {"one": None, "hard": torch.arange(40) % 3, "soft": torch.rand(40, 3).softmax(1)}[kind]
    x, f = torch.randn(40, 9), torch.randn(40, 70)
    exact = f.double().requires_grad_()
    dense = dense_penalty(euclidean(x.double()), [exact], y, euclidean, 0.7, "batch")
    (expected,) = torch.autograd.grad(dense.sum(), exact)
    sums, (gradient,), _ = triton_blocks.compare(
        call(x, [f], y), torch.full((1,), 0.7).double(), 1.0, needs_grad=True
    )
    torch.testing.assert_close(sums.double() / 40**2, dense.detach(), rtol=1e-6, atol=0)
    assert (gradient / 40**2 - expected).norm() < 5e-7 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_layers_keep_their_digits(dtype: torch.dtype) -> None:
    n = 20
    y = torch.arange(n) % 2
    collapsed = 50.0 * y[:, None] + 1e-3 * torch.randn(n, 66)
    clusters = 1e-3 * torch.randn(n, 80) + torch.randn(5, 80)[torch.arange(n) % 5] + 100
    clusters[:3] = clusters[3:6].clone()
    x = 1e4 + torch.randn(n, 70)
    for labels in (y, None):
        check(call(x.to(dtype), [collapsed.to(dtype), clusters.to(dtype)], labels), 1e-6)


def test_the_same_call_gives_the_same_bits() -> None:
    y = torch.arange(50) % 3
    c = call(torch.randn(50, 100), [torch.randn(50, 5), torch.randn(50, 90)], y)
    scales = torch.ones(2, dtype=torch.float64)
    one, other = (triton_blocks.compare(c, scales, 1.0, needs_grad=True) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("width", [3, 70])
@pytest.mark.parametrize("where", ["inputs", "features"])
def test_what_is_not_finite_is_seen_also_without_a_pair(
    where: str, width: int, value: float
) -> None:
    for label in (IGNORED, 9, 0):
        y = torch.zeros(20, dtype=torch.long)
        y[7] = label
        x, f = torch.randn(20, width), torch.randn(20, width)
        (x if where == "inputs" else f)[7, -1] = value
        for local, seen in ((slice(0, 20), True), (slice(7, 8), True), (slice(0, 3), label == 0)):
            found, *_ = triton_blocks.compare(
                call(x, [f], y, local=local), torch.ones(1).double(), 1.0, needs_grad=False
            )
            assert bool(found.isfinite().all()) != seen
            assert (
                not seen or bool(found.isnan().all()) or local.stop == 3
            )  # a distance to it may be infinite


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 0), (20, 0)])
def test_nothing_to_compare_gives_zero(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    sums, (gradient,), _ = triton_blocks.compare(
        call(x, [x], None), torch.ones(1).double(), 1.0, needs_grad=True
    )
    assert sums.tolist() == [0]
    assert gradient.shape == shape
    assert not gradient.any()


def test_unknown_and_weightless_pairs_may_hold_anything() -> None:
    f, distances = torch.randn(6, 2), torch.ones(6, 6)
    distances[0, 1] = distances[1, 0] = torch.inf
    weights = torch.ones(6, 6)
    weights[0, 1] = weights[1, 0] = 0
    check_finite = call(None, [f], None, targets=distances, weights=weights)
    sums, (gradient,), _ = triton_blocks.compare(
        check_finite, torch.ones(1).double(), 1.0, needs_grad=True
    )
    assert sums.isfinite().all()
    assert gradient.isfinite().all()


def test_interpreting_serves_tensors_on_a_cpu_alone() -> None:
    assert triton_blocks.refuses(call(torch.ones(2, 2), [torch.ones(2, 2)], None)) is None
    meta = torch.ones(2, 2, device="meta")
    assert "CPU" in str(triton_blocks.refuses(call(meta, [meta], None)))
