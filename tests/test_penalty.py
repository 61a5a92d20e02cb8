"""`isometry_penalty`, forward and backward, against plain loops in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

import isoreg
from isoreg.distances import METRICS, geodesic
from isoreg.errors import InputError
from isoreg.masks import IGNORED, partition, valid_labels
from isoreg.penalty import isometry_penalty, spoil

Point = list[float]
Table = list[list[float]]

METRIC_NAMES = ["angular", "chebyshev", "cosine", "euclidean", "geodesic", "manhattan"]
METRIC_NAMES += ["sqeuclidean"]

pytestmark = pytest.mark.usefixtures("way")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


# Oracles: the formula, one pair at a time


def angle_by_loops(p: Point, q: Point) -> float:
    return math.acos(
        sum(a * b for a, b in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q)
    )


METRIC_ORACLES: dict[str, Callable[[Point, Point], float]] = {
    "angular": angle_by_loops,
    "chebyshev": lambda p, q: max(abs(a - b) for a, b in zip(p, q, strict=True)),
    "cosine": lambda p, q: 1 - math.cos(angle_by_loops(p, q)),
    "euclidean": math.dist,
    "geodesic": math.dist,  # among no more points than neighbours
    "manhattan": lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)),
    "sqeuclidean": lambda p, q: math.dist(p, q) ** 2,
}


def distances_by_loops(points: Tensor, metric: str = "euclidean") -> Table:
    rows, pair = points.double().flatten(1).tolist(), METRIC_ORACLES[metric]
    return [[0.0 if i == j else pair(p, q) for j, q in enumerate(rows)] for i, p in enumerate(rows)]


def weights_by_loops(labels: Tensor | None, n: int) -> Table:
    if labels is None:
        return [[1.0] * n for _ in range(n)]
    rows = labels.tolist()
    if labels.is_floating_point():
        return [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    return [[float(p == q != IGNORED) for q in rows] for p in rows]


def penalty_by_loops(
    given_distances: Table, distances: Table, weights: Table, scale: float | str, reduction: str
) -> float:
    n = len(weights)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    if scale == "fit":
        product = sum(weights[i][j] * given_distances[i][j] * distances[i][j] for i, j in pairs)
        c = product / sum(weights[i][j] * distances[i][j] ** 2 for i, j in pairs)
    else:
        c = float(scale)
    total = sum(
        weights[i][j] * (given_distances[i][j] - c * distances[i][j]) ** 2 for i, j in pairs
    )
    if reduction == "batch":
        return total / n**2
    return total / sum(weights[i][j] for i, j in pairs if i != j)


def gradient_by_loops(inputs: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
    """The Euclidean gradient: (4/N²) Σ_j G_ij (1 - d(x_i, x_j) / d(φ_i, φ_j)) (φ_i - φ_j)."""
    n, points = len(features), features.double()
    given_distances, distances = distances_by_loops(inputs), distances_by_loops(features)
    weights, gradient = weights_by_loops(labels, n), torch.zeros_like(points)
    for i in range(n):
        for j in range(n):
            if distances[i][j] > 0:
                pull = weights[i][j] * (1 - given_distances[i][j] / distances[i][j])
                gradient[i] += 4 / n**2 * pull * (points[i] - points[j])
    return gradient


def gradient_by_broadcasting(inputs: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
    """The same for larger batches: differences of float64 points, row by row."""
    x, phi = inputs.double().flatten(1), features.double().flatten(1)
    weights = torch.tensor(weights_by_loops(labels, len(x)), dtype=torch.float64)
    rows = []
    for i in range(len(x)):
        differences = phi[i] - phi
        ratio = (x[i] - x).norm(dim=1) / differences.norm(dim=1)
        ratio[differences.norm(dim=1) == 0] = 1
        rows.append((weights[i] * (1 - ratio)) @ differences)
    return torch.stack(rows) * 4 / len(x) ** 2


def gradient_of(loss: Tensor, points: Tensor, **options: bool) -> Tensor:
    return torch.autograd.grad(loss, points, **options)[0]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


# The oracle for every option

SOFT = normal(8, 3, seed=9).softmax(1)
SOFT[5] = 0  # an ignored sample
LABELS: dict[str, Tensor | None] = {
    "global": None,
    "classes": torch.tensor([0, 1, 0, 2, 1, 0, 5, 0]),
    "ignored": torch.tensor([0, 1, 0, IGNORED, 1, IGNORED, 1, 0]),
    "soft": SOFT,
    "partition": partition(torch.tensor([0, 1, 2, 3, 4, 5, 1, 2]), [[0, 1, 4], [2, 3]]),
}
X = normal(8, 2, 3, seed=1)
LAYERS = [normal(8, 5, seed=2), normal(8, 2, 2, 2, seed=3), 3 * normal(8, 2, seed=4)]


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("mask", LABELS)
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("scale", [1.0, 2.5, "fit"])
def test_penalty_equals_plain_loops(
    metric: str, mask: str, reduction: str, scale: float | str
) -> None:
    options = {"distance": metric, "scale": scale, "reduction": reduction}
    expected = [
        penalty_by_loops(
            distances_by_loops(X, metric),
            distances_by_loops(layer, metric),
            weights_by_loops(LABELS[mask], 8),
            scale,
            reduction,
        )
        for layer in LAYERS
    ]
    several = isometry_penalty(X, LAYERS, LABELS[mask], **options)
    one = isometry_penalty(X, LAYERS[1], LABELS[mask], **options)
    assert (several.shape, several.dtype) == ((3,), torch.float64)
    assert several.tolist() == pytest.approx(expected, rel=1e-7)
    assert one.shape == ()
    assert one.item() == pytest.approx(expected[1], rel=1e-7)


def test_defaults_are_the_paper() -> None:
    spelled = isometry_penalty(X, LAYERS[0], None, distance="euclidean", scale=1, reduction="batch")
    assert_close(isometry_penalty(X, LAYERS[0]), spelled)
    assert isoreg.isometry_penalty is isometry_penalty


@pytest.mark.parametrize("scale", [2.0, "fit"])
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
def test_input_distances_replace_those_of_the_inputs(scale: float | str, reduction: str) -> None:
    measured = normal(8, 8, seed=5).abs()
    measured = (measured + measured.T).fill_diagonal_(0)
    labels = LABELS["classes"]
    options: dict[str, Any] = {"scale": scale, "reduction": reduction, "input_distances": measured}
    penalty = isometry_penalty(None, LAYERS[0], labels, **options)
    weights, distances = weights_by_loops(labels, 8), distances_by_loops(LAYERS[0])
    expected = penalty_by_loops(measured.tolist(), distances, weights, scale, reduction)
    assert penalty.item() == pytest.approx(expected)
    assert torch.equal(isometry_penalty(X, LAYERS[0], labels, **options), penalty)
    assert_close(isometry_penalty(None, LAYERS, labels, **options)[0], penalty)


TABLES = st.tuples(
    st.integers(2, 9),
    st.integers(0, 999),
    st.sampled_from(["classes", "global", "soft"]),
    st.sampled_from(["batch", "pairs"]),
    st.sampled_from([1.0, 0.4, "fit"]),
    st.booleans(),
)


@given(TABLES)
def test_given_distances_and_weights_equal_plain_loops_over_the_pairs_that_count(
    case: tuple[int, int, str, str, float | str, bool],
) -> None:
    n, seed, mask, reduction, scale, weighed = case
    phi, generator = normal(n, 3, seed=seed), torch.Generator().manual_seed(seed)
    labels = None if mask == "global" else torch.randint(3, (n,), generator=generator)
    if mask == "soft":
        labels = normal(n, 3, seed=seed + 1).softmax(1)
    table, share = (normal(n, n, seed=seed + k).abs() for k in (2, 3))
    table, share = table + table.T, share + share.T
    unknown = (torch.rand(n, n, generator=generator) < 0.2).triu(1)
    table = table.masked_fill(unknown | unknown.T, math.nan)
    nothing = (torch.rand(n, n, generator=generator) < 0.2).triu(1)
    share = share.masked_fill(nothing | nothing.T, 0)
    weights = weights_by_loops(labels, n)
    for i in range(n):
        for j in range(n):
            known = not math.isnan(table[i, j]) and i != j
            weights[i][j] *= known * (share[i, j].item() if weighed else 1.0)
    # what is not read may be anything
    unread = (torch.tensor(weights) == 0) & ~table.isnan()
    table = table.masked_fill(unread, math.inf).fill_diagonal_(-math.inf)
    share.fill_diagonal_(math.nan)
    options: dict[str, Any] = {"scale": scale, "reduction": reduction}
    options["pair_weights"] = share if weighed else None
    found = isometry_penalty(None, phi, labels, input_distances=table, **options)
    if sum(map(sum, weights)) == 0:
        assert found == 0
        return
    targets = table.masked_fill(torch.tensor(weights) == 0, 0).tolist()
    expected = penalty_by_loops(targets, distances_by_loops(phi), weights, scale, reduction)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    leaf = phi.clone().requires_grad_()
    if n <= 4:
        assert gradcheck(
            lambda p: isometry_penalty(None, p, labels, input_distances=table, **options), leaf
        )


def test_pair_weights_multiply_those_of_the_labels() -> None:
    labels, share = LABELS["classes"], normal(8, 8, seed=5).abs()
    share = share + share.T
    weights = torch.tensor(weights_by_loops(labels, 8)).double() * share
    found = isometry_penalty(X, LAYERS, labels, pair_weights=share, reduction="pairs")
    tables = [distances_by_loops(x) for x in (X, *LAYERS)]
    expected = [
        penalty_by_loops(tables[0], table, weights.tolist(), 1.0, "pairs") for table in tables[1:]
    ]
    assert found.tolist() == pytest.approx(expected)
    mask = (labels[:, None] == labels).long()  # type: ignore[index]
    assert_close(
        isometry_penalty(X, LAYERS, None, pair_weights=mask), isometry_penalty(X, LAYERS, labels)
    )


@pytest.mark.parametrize("scale", [1.0, "fit"])
def test_inputs_may_have_a_distance_of_their_own(scale: float | str) -> None:
    labels = LABELS["classes"]
    found = isometry_penalty(X, LAYERS[0], labels, input_distance="manhattan", scale=scale)
    tables = distances_by_loops(X, "manhattan"), distances_by_loops(LAYERS[0])
    expected = penalty_by_loops(*tables, weights_by_loops(labels, 8), scale, "batch")
    assert found.item() == pytest.approx(expected)
    same = isometry_penalty(X, LAYERS[0], labels, input_distance="euclidean", scale=scale)
    assert_close(same, isometry_penalty(X, LAYERS[0], labels, scale=scale))


def test_given_distances_get_a_gradient_where_they_count() -> None:
    table = (distance_table(5)).requires_grad_()
    labels = torch.tensor([0, 0, 1, 0, 1])
    (found,) = torch.autograd.grad(
        isometry_penalty(None, LAYERS[0][:5], labels, input_distances=table), table
    )
    counted = (labels[:, None] == labels).fill_diagonal_(False)
    assert torch.equal(found != 0, counted)


def distance_table(n: int) -> Tensor:
    return torch.tensor(distances_by_loops(normal(n, 3, seed=7)), dtype=torch.float64)


def test_distances_in_integers_and_low_precision_are_converted() -> None:
    table = torch.tensor([[0, 3, 4], [3, 0, 5], [4, 5, 0]])
    phi = normal(3, 2, dtype=torch.float32)
    expected = isometry_penalty(None, phi, input_distances=table.float())
    for dtype in (torch.uint8, torch.int32, torch.float16, torch.bfloat16):
        found = isometry_penalty(None, phi, input_distances=table.to(dtype))
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def changed(i: int, j: int, value: float) -> Tensor:
    table = torch.ones(4, 4).double()
    table[i, j] = value
    return table


BAD_TABLES = [
    (changed(1, 2, -1.0), r"-1 for samples 1 and 2"),
    (changed(1, 2, math.inf), r"inf for samples 1 and 2"),
    (changed(0, 3, 1.5), r"1.5 for samples 0 and 3 and 1 for 3 and 0"),
    (changed(0, 3, math.nan), r"nan for .* 3|1 for samples 3 and 0 and nan"),
    (torch.ones(4, 4).numpy(), r"got ndarray.*as_tensor"),
    ([[1.0] * 4] * 4, r"got list.*as_tensor"),
    (torch.ones(4, 4).to_sparse(), r"layout torch.sparse_coo.*to_dense"),
    (torch.nested.nested_tensor([torch.ones(4)] * 4), "nested"),
    (torch.ones(4, 4).cfloat(), "complex64"),
    (torch.ones(4, 3), r"\(4, 3\)"),
    (torch.ones(4), r"\(4,\)"),
]


@pytest.mark.parametrize("name", ["input_distances", "pair_weights"])
@pytest.mark.parametrize("table, facts", BAD_TABLES, ids=[facts for _, facts in BAD_TABLES])
def test_tables_of_pairs_that_cannot_be_used_are_refused(name: str, table: Any, facts: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)^isometry_penalty: {name} must .*?({facts})"):
        isometry_penalty(normal(4, 3), normal(4, 2), **{name: table})


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_distances_in_the_place_of_points_are_refused(noise: float) -> None:
    x = normal(40, 3)
    table, phi = torch.cdist(x, x) + noise * normal(40, 40).abs().fill_diagonal_(0), normal(40, 2)
    with pytest.raises(
        InputError, match=r"inputs must be points, got .* of 40 samples.*distances="
    ):
        isometry_penalty(table, phi)
    assert isometry_penalty(None, phi, input_distances=table).isfinite()


def test_square_tables_of_points_are_no_distances() -> None:
    x, phi = normal(40, 40), normal(40, 2)
    symmetric = x + x.T
    hollow = x.abs().fill_diagonal_(0)
    for points in (x, symmetric, hollow, symmetric.clone().fill_diagonal_(0), torch.zeros(40, 40)):
        found = isometry_penalty(points, phi)
        gaps = torch.cdist(points.double(), points.double()) - torch.cdist(
            phi.double(), phi.double()
        )
        torch.testing.assert_close(found.double(), gaps.square().mean(), rtol=1e-4, atol=0)


def test_weights_that_need_a_gradient_are_refused() -> None:
    with pytest.raises(InputError, match="pair_weights must be constants"):
        isometry_penalty(X, LAYERS[0], pair_weights=torch.ones(8, 8, requires_grad=True))


def test_what_belongs_to_pairs_that_do_not_count_is_not_looked_at() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    table = distance_table(4)
    expected = isometry_penalty(None, LAYERS[0][:4], labels, input_distances=table)
    for bad in (-1.0, math.inf, math.nan):
        other = table.clone()
        other[0, 2], other[3, 1] = bad, 7
        found = isometry_penalty(None, LAYERS[0][:4], labels, input_distances=other)
        assert torch.equal(found, expected)


def test_inputs_own_distances_given_as_input_distances_change_nothing() -> None:
    own, phi = torch.cdist(X.flatten(1), X.flatten(1)), LAYERS[0].clone().requires_grad_()
    one = isometry_penalty(X, phi, LABELS["classes"])
    other = isometry_penalty(None, phi, LABELS["classes"], input_distances=own)
    assert_close(one, other)
    assert_close(gradient_of(one, phi), gradient_of(other, phi))


def test_a_scale_in_a_tensor_is_a_number() -> None:
    as_tensor = isometry_penalty(X, LAYERS, LABELS["classes"], scale=torch.tensor(2.5))
    assert_close(as_tensor, isometry_penalty(X, LAYERS, LABELS["classes"], scale=2.5))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="scale"):
            isometry_penalty(X, LAYERS, LABELS["classes"], scale=torch.tensor(bad))


@pytest.mark.parametrize("reduction", ["batch", "pairs"])
def test_a_scale_in_a_tensor_gets_the_slope_of_the_parabola(reduction: str) -> None:
    def at(scale: Tensor) -> Tensor:
        options = {"scale": scale, "reduction": reduction}
        return isometry_penalty(X, LAYERS, LABELS["classes"], **options).sum()

    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(at(scale), scale)
    assert_close(slope, ((at(scale + 0.1) - at(scale - 0.1)) / 0.2).detach())


def test_a_callable_distance_measures_inputs_and_features() -> None:
    def cubic(points: Tensor) -> Tensor:
        return torch.cdist(points, points, p=3.0)

    penalty = isometry_penalty(X, LAYERS[1], distance=cubic)
    expected = (cubic(X.flatten(1)) - cubic(LAYERS[1].flatten(1))).square().mean()
    assert_close(penalty, expected)


@pytest.mark.parametrize("side", ["distance", "input_distance"])
@pytest.mark.parametrize("inner", [True, False])
def test_a_similarity_in_place_of_a_distance_is_refused(side: str, inner: bool) -> None:
    def similarity(points: Tensor) -> Tensor:
        return (
            points @ points.T
            if inner
            else torch.nn.functional.cosine_similarity(points[:, None], points[None], dim=2)
        )

    with pytest.raises(InputError, match=r"^isometry_penalty: the metric must .* Is it a similar"):
        isometry_penalty(X, LAYERS[1], **{side: similarity})


@pytest.mark.parametrize(
    "labels",
    [None, torch.arange(700) % 7, torch.tensor([0] * 300 + [1] + [2] * 37 + [3] * 2 + [4] * 360)],
    ids=["global", "balanced", "unbalanced"],
)
def test_large_batches_equal_the_dense_formula(labels: Tensor | None) -> None:
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    labels = labels if labels is None else labels[order]
    x, phi = normal(700, 6), normal(700, 3, seed=1).requires_grad_()
    same = torch.ones(700, 700, dtype=torch.bool) if labels is None else labels[:, None] == labels
    apart = same & ~torch.eye(700, dtype=torch.bool)
    given_distances = (x[:, None] - x).square().sum(-1)[apart].sqrt()
    distances = (phi[:, None] - phi).square().sum(-1)[apart].sqrt()
    dense = (given_distances - distances).square().sum() / 700**2
    penalty = isometry_penalty(x, phi, labels)
    assert_close(penalty, dense)
    expected = gradient_of(dense, phi, create_graph=True)
    gradient = gradient_of(penalty, phi, create_graph=True)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    direction = normal(700, 3, seed=2)
    assert_close(
        gradient_of((gradient * direction).sum(), phi),
        gradient_of((expected * direction).sum(), phi),
        rtol=1e-6,
        atol=1e-9,
    )


# Derivatives


def check_derivatives(labels: Tensor | None, **options: Any) -> None:
    x, phi = normal(5, 3, seed=1).requires_grad_(), normal(5, 2, seed=2).requires_grad_()

    def penalty(x: Tensor, phi: Tensor) -> Tensor:
        return isometry_penalty(x, phi, labels, **options)

    assert gradcheck(penalty, (x, phi))
    assert gradgradcheck(penalty, (x, phi))


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("scale", [1.5, "fit"])
def test_derivatives_are_right_for_every_metric(metric: str, scale: float | str) -> None:
    check_derivatives(torch.tensor([0, 1, 0, 0, 1]), distance=metric, scale=scale)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, IGNORED, 1]), SOFT[:5]], ids=str)
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("scale", [1.0, "fit"])
def test_derivatives_are_right_for_every_mask(
    labels: Tensor | None, reduction: str, scale: float | str
) -> None:
    check_derivatives(labels, reduction=reduction, scale=scale)


def test_derivatives_are_right_through_a_neighbour_graph() -> None:
    check_derivatives(None, distance=lambda points: geodesic(points, neighbors=1))


@pytest.mark.parametrize("scale", [1.5, "fit"])
def test_derivatives_are_right_for_several_layers(scale: float | str) -> None:
    layers = [normal(5, 3, seed=2).requires_grad_(), normal(5, 2, 1, seed=3).requires_grad_()]
    x, labels = normal(5, 3, seed=1).requires_grad_(), torch.tensor([0, 1, 0, 0, 1])

    def penalties(x: Tensor, *phis: Tensor) -> Tensor:
        return isometry_penalty(x, phis, labels, scale=scale)

    assert gradcheck(penalties, (x, *layers))
    assert gradgradcheck(penalties, (x, *layers))


def test_derivatives_are_right_with_input_distances() -> None:
    measured, phi = distances_by_loops(normal(5, 3, seed=1)), normal(5, 2).requires_grad_()
    table = torch.tensor(measured, dtype=torch.float64)
    assert gradcheck(lambda p: isometry_penalty(None, p, input_distances=table), phi)
    assert gradgradcheck(lambda p: isometry_penalty(None, p, input_distances=table), phi)


def test_gradient_equals_the_closed_form_by_loops() -> None:
    phi = LAYERS[0].clone().requires_grad_()
    gradient = gradient_of(isometry_penalty(X, phi, LABELS["classes"]), phi)
    assert_close(gradient, gradient_by_loops(X, phi.detach(), LABELS["classes"]))


def test_the_incoming_gradient_weighs_each_layer_by_itself() -> None:
    layers = [layer.clone().requires_grad_() for layer in LAYERS]
    penalties = isometry_penalty(X, layers, LABELS["classes"])
    together = torch.autograd.grad(penalties @ torch.tensor([2.0, 0.0, -3.0]).double(), layers)
    for weight, layer, gradient in zip([2, 0, -3], layers, together, strict=True):
        alone = isometry_penalty(X, layer, LABELS["classes"])
        assert_close(gradient, weight * gradient_of(alone, layer))


def test_a_second_backward_through_a_retained_graph_gives_the_same() -> None:
    phi = LAYERS[0].clone().requires_grad_()
    loss = 7 * isometry_penalty(X, phi, LABELS["classes"])
    first = gradient_of(loss, phi, retain_graph=True).clone()
    assert torch.equal(gradient_of(loss, phi), first)


def test_a_second_backward_through_a_graph_that_was_freed_is_refused() -> None:
    phi = LAYERS[0].clone().requires_grad_()
    loss = isometry_penalty(X, phi, LABELS["classes"])
    loss.backward()
    first = phi.grad.clone()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert torch.equal(phi.grad, first)


def test_gradients_of_several_weighings_at_once_are_those_of_each() -> None:
    layers = [layer.clone().requires_grad_() for layer in LAYERS]
    penalties = isometry_penalty(X, layers, LABELS["classes"])
    weighings = torch.tensor([[2.0, 0.0, -3.0], [1.0, 1.0, 0.5]], dtype=torch.float64)
    each = [torch.autograd.grad(penalties, layers, w, retain_graph=True) for w in weighings]
    batched = torch.autograd.grad(penalties, layers, weighings, is_grads_batched=True)
    for gradients, *expected in zip(batched, *each, strict=True):
        assert_close(gradients, torch.stack(expected))


def test_only_what_requires_a_gradient_gets_one() -> None:
    x, frozen, phi = X.clone().requires_grad_(), LAYERS[0], LAYERS[1].clone().requires_grad_()
    assert not isometry_penalty(X, frozen).requires_grad
    isometry_penalty(x, [frozen, phi], LABELS["classes"]).sum().backward()
    assert frozen.grad is None
    assert x.grad.abs().sum() > 0
    assert phi.grad.abs().sum() > 0


def test_features_that_are_the_inputs_cost_nothing() -> None:
    x = X.clone().requires_grad_()
    penalty = isometry_penalty(x, x, LABELS["classes"])
    assert penalty.item() == pytest.approx(0, abs=1e-20)
    assert_close(gradient_of(penalty, x), torch.zeros_like(X))


def test_arguments_are_left_as_they_were() -> None:
    labels, phi = torch.tensor([0, 1, 0, 2, 1, 0, 5, 0]), LAYERS[0].clone().requires_grad_()
    x, measured = X.clone(), torch.ones(8, 8, dtype=torch.float64)
    isometry_penalty(x, phi, labels, input_distances=measured, scale="fit").backward()
    isometry_penalty(x, phi, labels).backward()
    assert torch.equal(labels, LABELS["classes"])
    assert torch.equal(x, X)
    assert torch.equal(phi, LAYERS[0])
    assert torch.equal(measured, torch.ones_like(measured))


# Invariances


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    n, seed = draw(st.integers(2, 12)), draw(st.integers(0, 2**32))
    inputs, features = normal(n, draw(st.integers(1, 5)), seed=seed), normal(n, 4, seed=seed + 1)
    classes = st.lists(st.sampled_from([0, 1, 2, IGNORED]), min_size=n, max_size=n)
    return inputs, features, draw(st.none() | classes.map(torch.tensor))


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


@given(batches(), st.integers(0, 999), st.floats(-10, 10))
def test_rotations_and_translations_change_nothing(
    batch: tuple[Tensor, Tensor, Tensor | None], seed: int, shift: float
) -> None:
    x, phi, labels = batch
    expected = isometry_penalty(x, phi, labels)
    moved = phi @ rotation(4, seed) + shift * normal(4, seed=seed)
    assert_close(isometry_penalty(x, moved, labels), expected)
    assert_close(isometry_penalty(x @ rotation(x.shape[1], seed) + shift, phi, labels), expected)


@given(batches(), st.integers(0, 999), st.sampled_from([1.0, "fit"]))
def test_the_order_of_the_batch_does_not_matter(
    batch: tuple[Tensor, Tensor, Tensor | None], seed: int, scale: float | str
) -> None:
    x, phi, labels = batch
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    shuffled = isometry_penalty(
        x[order], phi[order], labels if labels is None else labels[order], scale=scale
    )
    assert_close(shuffled, isometry_penalty(x, phi, labels, scale=scale))


@given(batches(), st.floats(0.01, 100), st.sampled_from(["batch", "pairs"]))
def test_scaling_inputs_and_features_by_c_scales_the_penalty_by_its_square(
    batch: tuple[Tensor, Tensor, Tensor | None], c: float, reduction: str
) -> None:
    x, phi, labels = batch
    scaled = isometry_penalty(c * x, c * phi, labels, reduction=reduction)
    assert_close(scaled, c**2 * isometry_penalty(x, phi, labels, reduction=reduction))


@given(batches(), st.permutations([3, 11, 40]))
def test_the_names_of_the_classes_do_not_matter(
    batch: tuple[Tensor, Tensor, Tensor | None], names: list[int]
) -> None:
    x, phi, labels = batch
    if labels is None:
        labels = torch.zeros(len(x), dtype=torch.int64)
    lookup = {0: names[0], 1: names[1], 2: names[2], IGNORED: IGNORED}
    renamed = torch.tensor([lookup[label] for label in labels.tolist()])
    assert_close(isometry_penalty(x, phi, renamed), isometry_penalty(x, phi, labels))


@given(batches(), st.integers(0, 999), st.integers(0, 3), st.sampled_from([1.0, "fit"]))
def test_an_isometric_embedding_costs_nothing(
    batch: tuple[Tensor, Tensor, Tensor | None], seed: int, extra: int, scale: float | str
) -> None:
    x, _, labels = batch
    size = x.shape[1] + extra
    embedded = x @ rotation(size, seed)[: x.shape[1]] + 5
    assert isometry_penalty(x, embedded, labels, scale=scale).item() == pytest.approx(0, abs=1e-20)


@given(batches(), st.floats(0.01, 100))
def test_the_fitted_scale_is_the_best_and_undoes_any_other(
    batch: tuple[Tensor, Tensor, Tensor | None], c: float
) -> None:
    x, phi, labels = batch
    fitted = isometry_penalty(x, phi, labels, scale="fit")
    assert fitted <= isometry_penalty(x, phi, labels, scale=c) * (1 + 1e-9) + 1e-15
    assert_close(isometry_penalty(x, c * phi, labels, scale="fit"), fitted, rtol=1e-6, atol=1e-12)


@given(batches(), st.floats(0.01, 100))
def test_a_scale_multiplies_the_feature_distances(
    batch: tuple[Tensor, Tensor, Tensor | None], c: float
) -> None:
    x, phi, labels = batch
    assert_close(isometry_penalty(x, phi, labels, scale=c), isometry_penalty(x, c * phi, labels))


@given(batches())
def test_one_class_is_the_global_penalty(batch: tuple[Tensor, Tensor, Tensor | None]) -> None:
    x, phi, _ = batch
    one_class = torch.full((len(x),), 3)
    assert_close(isometry_penalty(x, phi, one_class), isometry_penalty(x, phi))


@given(batches(), st.sampled_from(["batch", "pairs"]), st.sampled_from([1.0, "fit"]))
def test_one_hot_labels_are_integer_labels(
    batch: tuple[Tensor, Tensor, Tensor | None], reduction: str, scale: float | str
) -> None:
    x, phi, labels = batch
    if labels is None:
        labels = torch.ones(len(x), dtype=torch.int64)
    one_hot = (labels[:, None] == torch.arange(3)).double()
    options: dict[str, Any] = {"reduction": reduction, "scale": scale}
    phi.requires_grad_()
    soft = isometry_penalty(x, phi, one_hot, **options)
    hard = isometry_penalty(x, phi, labels, **options)
    assert_close(soft, hard)
    assert_close(gradient_of(soft, phi), gradient_of(hard, phi))


@given(st.integers(0, 999), st.floats(1e-3, 0.5))
def test_per_pair_one_pair_counts_alike_however_little_it_weighs(seed: int, share: float) -> None:
    x, phi = normal(2, 3, seed=seed), normal(2, 4, seed=seed + 1)
    labels = torch.tensor([[1 - share, share], [share, 1 - share]])
    penalty = isometry_penalty(x, phi, labels, reduction="pairs")
    assert_close(penalty, isometry_penalty(x, phi, reduction="pairs"))


# Edges

NO_PAIRS: list[Any] = [
    pytest.param(0, None, id="empty"),
    pytest.param(0, torch.empty(0, dtype=torch.int64), id="empty with labels"),
    pytest.param(0, torch.empty(0, 3), id="empty with soft labels"),
    pytest.param(1, None, id="one sample"),
    pytest.param(1, torch.tensor([4]), id="one labelled sample"),
    pytest.param(1, torch.tensor([[0.3, 0.7]]), id="one soft sample"),
    pytest.param(3, torch.tensor([0, 1, 2]), id="every class once"),
    pytest.param(3, torch.eye(3), id="every one-hot class once"),
    pytest.param(3, torch.full((3,), IGNORED), id="all ignored"),
    pytest.param(3, torch.zeros(3, 2), id="all rows zero"),
]


@pytest.mark.parametrize("n, labels", NO_PAIRS)
@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("scale", [1.0, "fit"])
def test_without_pairs_the_penalty_is_an_attached_zero(
    n: int, labels: Tensor | None, metric: str, reduction: str, scale: float | str
) -> None:
    x, phi = normal(n, 2), normal(n, 3, seed=1).requires_grad_()
    penalty = isometry_penalty(x, phi, labels, distance=metric, reduction=reduction, scale=scale)
    assert penalty.item() == 0
    penalty.backward()
    assert torch.equal(phi.grad, torch.zeros_like(phi))


def test_without_pairs_every_layer_is_attached() -> None:
    layers = [normal(3, 2).requires_grad_(), normal(3, 4, seed=1).requires_grad_()]
    penalties = isometry_penalty(normal(3, 2), layers, torch.arange(3))
    assert penalties.tolist() == [0, 0]
    penalties.sum().backward()
    assert all(torch.equal(layer.grad, torch.zeros_like(layer)) for layer in layers)


def test_without_pairs_a_derivative_of_the_gradient_exists() -> None:
    phi = normal(3, 2).requires_grad_()
    gradient = gradient_of(isometry_penalty(X[:3], phi, torch.arange(3)), phi, create_graph=True)
    (gradient.sum() + phi.sum()).backward()
    assert torch.equal(phi.grad, torch.ones_like(phi))


@pytest.mark.parametrize("dtype, large", [(torch.float32, 1e18), (torch.float16, 6e4)])
def test_without_pairs_large_finite_features_still_cost_zero(
    dtype: torch.dtype, large: float
) -> None:
    phi = torch.tensor([[large, large], [-large, large], [large, large]], dtype=dtype)
    phi.requires_grad_()
    penalty = isometry_penalty(normal(3, 2, dtype=torch.float32), phi, torch.arange(3))
    assert penalty.item() == 0
    assert torch.equal(gradient_of(penalty, phi), torch.zeros_like(phi))


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, "fit"])
def test_all_features_equal_give_a_finite_penalty_and_no_gradient(
    metric: str, dtype: torch.dtype, scale: float | str
) -> None:
    x, labels = normal(8, 3, seed=1), LABELS["classes"]
    phi = torch.full((8, 4), 0.7, dtype=dtype, requires_grad=True)
    penalty = isometry_penalty(x.to(dtype), phi, labels, distance=metric, scale=scale)
    nothing = [[0.0] * 8] * 8
    distances, weights = distances_by_loops(x, metric), weights_by_loops(labels, 8)
    expected = penalty_by_loops(distances, nothing, weights, 1.0, "batch")
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(gradient_of(penalty, phi), torch.zeros_like(phi))


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("labels", [None, torch.tensor([2, 2]), torch.eye(2)[[0, 0]]], ids=str)
def test_a_pair_of_duplicates_gets_no_gradient(labels: Tensor | None, offset: float) -> None:
    phi = (normal(1, 3, dtype=torch.float32) + offset).repeat(2, 1).requires_grad_()
    x = normal(2, 3, dtype=torch.float32)
    penalty = isometry_penalty(x, phi, labels)
    assert penalty.item() == pytest.approx(math.dist(*x.tolist()) ** 2 / 2)
    assert torch.equal(gradient_of(penalty, phi), torch.zeros_like(phi))


@pytest.mark.parametrize("mask", LABELS)
def test_duplicates_count_with_gradient_zero_between_them(mask: str) -> None:
    phi = LAYERS[0].clone()
    phi[2] = phi[0]
    phi[6] = phi[4]
    phi.requires_grad_()
    penalty = isometry_penalty(X, phi, LABELS[mask])
    gradient = gradient_of(penalty, phi, create_graph=True)
    assert_close(gradient, gradient_by_loops(X, phi.detach(), LABELS[mask]))
    assert gradient_of(gradient.square().sum(), phi).isfinite().all()


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_duplicates_leave_every_derivative_finite(metric: str) -> None:
    x, phi = X.flatten(1).clone(), LAYERS[0].clone()
    x[5] = x[0]
    phi[2] = phi[7] = phi[0]
    x.requires_grad_()
    phi.requires_grad_()
    penalty = isometry_penalty(x, phi, LABELS["classes"], distance=metric)
    first = torch.autograd.grad(penalty, (x, phi), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, phi))
    assert all(derivative.isfinite().all() for derivative in (*first, *second))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(None, id="global"),
        pytest.param(torch.tensor([0, 0, 0, 0]), id="paired"),
        pytest.param(torch.tensor([0, 1, 0, 0]), id="alone in its class"),
        pytest.param(torch.tensor([0, 1, 2, 3]), id="no pairs at all"),
        pytest.param(torch.tensor([0, IGNORED, 0, 0]), id="ignored"),
        pytest.param(torch.tensor([[1.0, 0], [0, 0], [1, 0], [1, 0]]), id="soft, ignored"),
    ],
)
def test_features_that_are_not_finite_never_give_a_finite_penalty(
    bad: float, metric: str, labels: Tensor | None
) -> None:
    sound, broken = normal(4, 3), normal(4, 3, seed=1)
    broken[1, 2] = bad
    x = normal(4, 2, seed=2)
    assert not isometry_penalty(x, broken, labels, distance=metric).isfinite()
    several = isometry_penalty(x, [sound, broken], labels, distance=metric)
    assert several.isfinite().tolist() == [True, False]


@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("scale", [1.0, "fit"])
def test_one_sample_that_is_not_finite_is_not_finite(reduction: str, scale: float | str) -> None:
    broken = torch.tensor([[math.nan, 1.0]], requires_grad=True)
    penalty = isometry_penalty(torch.ones(1, 2), broken, reduction=reduction, scale=scale)
    assert not penalty.isfinite()


# Precision: relative error of the gradient against float64 on the very same float32 numbers


def gradient_error(x: Tensor, phi: Tensor, labels: Tensor | None) -> float:
    phi = phi.float().requires_grad_()
    gradient = gradient_of(isometry_penalty(x.float(), phi, labels), phi)
    return relative_error(gradient, gradient_by_broadcasting(x.float(), phi.detach(), labels))


@pytest.mark.parametrize("labels", [None, torch.arange(60) % 4], ids=["global", "classes"])
@pytest.mark.parametrize("input_offset", [0, 100])
@pytest.mark.parametrize("feature_offset", [0, 100])
def test_features_far_from_the_origin_keep_their_gradient(
    labels: Tensor | None, input_offset: float, feature_offset: float
) -> None:
    x, phi = normal(60, 12) + input_offset, normal(60, 7, seed=1) + feature_offset
    assert gradient_error(x, phi, labels) < 1e-6


@pytest.mark.parametrize("spread", [1e-2, 1e-4])
@pytest.mark.parametrize("distance", [1, 100])
def test_collapsed_classes_keep_their_gradient(spread: float, distance: float) -> None:
    labels = torch.arange(60) % 4
    phi = distance * normal(4, 7, seed=1)[labels] + spread * normal(60, 7, seed=2)
    assert gradient_error(normal(60, 12), phi, labels) < 1e-6


@pytest.mark.parametrize("labels", [None, torch.zeros(60, dtype=torch.int64)], ids=str)
def test_close_pairs_in_a_wide_class_keep_their_gradient(labels: Tensor | None) -> None:
    phi = 10 * normal(20, 7, seed=1).repeat(3, 1) + 1e-4 * normal(60, 7, seed=2)
    assert gradient_error(normal(60, 12), phi, labels) < 1e-5


def test_a_large_single_class_far_from_the_origin_keeps_its_gradient() -> None:
    phi = 100 + normal(600, 7, seed=1)
    phi[1::2] = phi[::2] + 1e-3 * normal(300, 7, seed=2)
    assert gradient_error(normal(600, 12), phi, None) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("scale", [1.5, "fit"])
def test_low_precision_features_are_computed_in_float32(
    dtype: torch.dtype, metric: str, scale: float | str
) -> None:
    low = LAYERS[0].to(dtype).requires_grad_()
    full = low.detach().float().requires_grad_()
    options: dict[str, Any] = {"distance": metric, "scale": scale}
    penalty = isometry_penalty(X.to(dtype), low, LABELS["classes"], **options)
    expected = isometry_penalty(X.to(dtype).float(), full, LABELS["classes"], **options)
    assert penalty.dtype == torch.float32
    assert_close(penalty, expected)
    gradient = gradient_of(penalty, low)
    assert gradient.dtype == dtype
    assert_close(gradient, gradient_of(expected, full).to(dtype))


def test_layers_of_different_precision_share_one_call() -> None:
    low, full = LAYERS[0].bfloat16(), LAYERS[1].float()
    penalties = isometry_penalty(X.float(), [low, full], LABELS["classes"])
    assert penalties.dtype == torch.float32
    assert_close(penalties[0], isometry_penalty(X.float(), low.float(), LABELS["classes"]))
    assert_close(penalties[1], isometry_penalty(X.float(), full, LABELS["classes"]))


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("mask", ["global", "classes", "soft"])
@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_changes_neither_penalty_nor_gradient(
    metric: str, mask: str, backward_inside: bool
) -> None:
    x, phi, labels = X.float(), LAYERS[0].float().requires_grad_(), LABELS[mask]
    expected = isometry_penalty(x, phi, labels, distance=metric)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = isometry_penalty(x, phi, labels, distance=metric)
        inside = gradient_of(penalty, phi, retain_graph=True)
    gradient = inside if backward_inside else gradient_of(penalty, phi)
    assert penalty.dtype == torch.float32
    assert torch.equal(penalty, expected)
    assert_close(gradient, gradient_of(expected, phi), rtol=1e-6, atol=1e-8)


def test_autocast_does_not_change_second_derivatives() -> None:
    def second() -> Tensor:
        phi = LAYERS[0].float().requires_grad_()
        penalty = isometry_penalty(X.float(), phi, LABELS["classes"])
        gradient = gradient_of(penalty, phi, create_graph=True)
        return gradient_of(gradient.square().sum(), phi)

    expected = second()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(second(), expected, rtol=1e-5, atol=1e-7)


def test_autocast_does_not_reach_a_callable_distance() -> None:
    def product(points: Tensor) -> Tensor:
        gram = points @ points.T
        return gram.diagonal()[:, None] + gram.diagonal() - 2 * gram

    x, phi = X.float(), LAYERS[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        penalty = isometry_penalty(x, phi, distance=product)
    assert torch.equal(penalty, isometry_penalty(x, phi, distance=product))


def test_memory_layout_does_not_matter() -> None:
    images = normal(8, 3, 4, 4).to(memory_format=torch.channels_last)
    strided = normal(16, 5)[::2]
    assert_close(
        isometry_penalty(images, strided),
        isometry_penalty(images.contiguous(), strided.contiguous()),
    )


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
@pytest.mark.parametrize(
    "name", ["inputs", "labels", "input_distances", "pair_weights", "scale", "another layer"]
)
def test_what_was_made_in_inference_mode_is_a_constant_like_another(
    name: str, distance: str
) -> None:
    table = torch.cdist(X.flatten(1), X.flatten(1))
    made = {"inputs": X, "labels": LABELS["classes"], "input_distances": table}
    made |= {"pair_weights": table, "scale": torch.tensor(0.5), "another layer": LAYERS[1]}

    def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
        phi, rest = LAYERS[0].clone().requires_grad_(), {"inputs": X, "distance": distance}
        features = [phi, x] if name == "another layer" else [phi]
        given: dict[str, Any] = {} if name == "another layer" else {name: x}
        penalty = isometry_penalty(features=features, **{**rest, **given})[0]
        first = gradient_of(penalty, phi, create_graph=True)
        return first.detach(), gradient_of(first.square().sum(), phi)

    with torch.inference_mode():
        x = made[name].clone()
    assert_close(gradients(x), gradients(made[name]))


# Errors

GOOD: dict[str, Any] = {"inputs": torch.ones(4, 3), "features": torch.ones(4, 2)}
REFUSED: list[Any] = [
    pytest.param(
        {"features": torch.ones(5, 2)},
        "inputs and features must hold the same samples, got 4 and 5 of",
        id="batch sizes",
    ),
    pytest.param(
        {"features": [torch.ones(4, 2), torch.ones(5, 2)]},
        r"features\[1\] and features\[0\] must hold the same samples, got 5 and 4 of",
        id="batch size of one layer",
    ),
    pytest.param({"features": None}, "features must be a tensor or a sequence", id="no features"),
    pytest.param({"features": []}, "empty|no feature|at least one|one or more", id="no layers"),
    pytest.param({"features": torch.tensor(1.0)}, "features.*axis", id="features without axis"),
    pytest.param({"features": torch.ones(4, 2).long()}, "features.*int64", id="integer features"),
    pytest.param({"features": torch.ones(4, 2).cfloat()}, "complex64", id="complex features"),
    pytest.param({"inputs": torch.tensor(1.0)}, "inputs.*axis", id="inputs without axis"),
    pytest.param({"inputs": torch.ones(4, 3).long()}, "inputs.*int64", id="integer inputs"),
    pytest.param({"inputs": None}, "(?=.*inputs)(?=.*input_distances)", id="no inputs"),
    pytest.param({"labels": torch.zeros(3).long()}, r"(?=.*\b3\b)(?=.*\b4\b)", id="label length"),
    pytest.param({"labels": torch.eye(4, 2).to(torch.float8_e4m3fn)}, "float8", id="float8 labels"),
    pytest.param(
        {"labels": torch.zeros(4, device="meta")}, "meta device", id="labels of no device"
    ),
    *(
        pytest.param(
            {name: torch.zeros(4, 4).to(kind)}, rf"{name} must hold .*{told}", id=f"{name} {told}"
        )
        for name in ("features", "inputs")
        for kind, told in ((torch.float8_e5m2, "float8"), ("meta", "meta device"))
    ),
    pytest.param({"labels": torch.eye(3)}, r"(?=.*\b3\b)(?=.*\b4\b)", id="soft label length"),
    pytest.param({"labels": torch.zeros(4, 2).long()}, r"\(4, 2\)", id="label shape"),
    pytest.param({"labels": torch.zeros(4)}, r"\(4,\)", id="float label shape"),
    pytest.param({"labels": torch.zeros(4).cfloat()}, "complex64", id="label type"),
    pytest.param({"labels": torch.full((4, 2), 0.7)}, "sum", id="not soft labels"),
    pytest.param({"distance": "euclidian"}, ".*".join([*METRICS, "euclidian"]), id="metric"),
    pytest.param({"reduction": "mean"}, "(?=.*mean)(?=.*batch)(?=.*pairs)", id="reduction"),
    pytest.param({"scale": 0}, r"scale.*\b0", id="scale zero"),
    pytest.param({"scale": -2.5}, r"scale.*-2\.5", id="scale negative"),
    pytest.param({"scale": math.nan}, "scale.*nan", id="scale nan"),
    pytest.param({"scale": math.inf}, "scale.*inf", id="scale infinite"),
    pytest.param({"scale": torch.ones(2)}, r"scale.*(\(2,\)|1\., 1\.)", id="scale vector"),
    pytest.param({"scale": True}, "scale.*True", id="scale true"),
    pytest.param({"scale": torch.tensor(True)}, r"scale.*tensor\(True\)", id="scale true tensor"),
    pytest.param({"scale": torch.tensor(1 + 0j)}, r"scale.*\+0", id="scale complex"),
    pytest.param({"scale": torch.ones((), device="meta")}, "scale.*meta", id="scale of no device"),
    pytest.param({"scale": 1e39}, r"scale.*float32.*1e\+39", id="scale beyond float32"),
    pytest.param({"scale": 10**400}, "scale.*float32.*1000", id="scale beyond any float"),
    pytest.param({"scale": "best"}, "(?=.*best)(?=.*fit)", id="scale name"),
    pytest.param(
        {"input_distances": torch.ones(4, 3)}, r"input_distances.*\(4, 3\)", id="distances oblong"
    ),
    pytest.param(
        {"inputs": None, "input_distances": torch.ones(5, 5)},
        r"(?=.*input_distances)(?=.*\b5\b)(?=.*\b4\b)",
        id="distances of another batch",
    ),
    pytest.param(
        {"distance": lambda points: points.sum(1)}, r"\(4,\)", id="distance returns a vector"
    ),
]


@pytest.mark.parametrize("change, facts", REFUSED)
def test_bad_arguments_are_refused_with_their_values(change: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)^isometry_penalty: .*?({facts})"):
        isometry_penalty(**{**GOOD, **change})


def test_a_penalty_spoilt_by_its_labels_is_nan_with_all_gradients() -> None:
    phi = LAYERS[0].clone().requires_grad_()
    for labels, wrong in ((torch.tensor([0, -1] * 4), True), (LABELS["ignored"], False)):
        penalty = spoil(isometry_penalty(X, [phi]), valid_labels(labels).all())  # type: ignore[arg-type]
        assert penalty.dtype == torch.float64
        assert bool(penalty.isnan().all()) is wrong
        assert bool(gradient_of(penalty.sum(), phi).isnan().all()) is wrong


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
@pytest.mark.parametrize("factor", [1e-3, 0.3, 7.0])
def test_a_mean_over_pairs_does_not_change_with_the_unit_of_their_weights(
    distance: str, factor: float
) -> None:
    weights = normal(8, 8).abs()
    weights = weights + weights.T
    x, phi, options = X, LAYERS[0], {"distance": distance, "reduction": "pairs"}
    expected = isometry_penalty(x, phi, pair_weights=weights, **options)
    found = isometry_penalty(x, phi, pair_weights=factor * weights, **options)
    assert_close(found, expected)


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
@pytest.mark.parametrize("name", ["input_distances", "pair_weights"])
@pytest.mark.parametrize("soft", [False, True])
def test_what_is_given_for_pairs_of_two_classes_is_not_looked_at(
    distance: str, name: str, soft: bool
) -> None:
    labels = torch.tensor([0, 1] * 4)
    apart = labels[:, None] != labels
    labels = torch.eye(2)[labels] if soft else labels
    table = normal(8, 8).abs()
    table = table + table.T
    inputs = X if name == "pair_weights" else None
    expected, found = (
        isometry_penalty(inputs, LAYERS[0], labels, distance=distance, **{name: given})  # type: ignore[arg-type]
        for given in (table, table.masked_fill(apart, -1.0))
    )
    assert_close(found, expected)


@pytest.mark.parametrize("scale", [1.0, "fit", "learned"])
def test_layers_made_of_each_other_have_the_same_gradient_where_it_is_differentiated(
    scale: float | str,
) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(8, 5, generator=draws, dtype=torch.float64)
    first = torch.randn(5, 4, generator=draws, dtype=torch.float64).requires_grad_()
    second = torch.randn(4, 3, generator=draws, dtype=torch.float64)
    labels = torch.arange(8) % 2

    def total(weight: Tensor) -> Tensor:
        h = torch.tanh(x @ weight)
        factor = weight.square().mean() if scale == "learned" else scale
        layers = [h, torch.tanh(h @ second), h]
        return isometry_penalty(x, layers, labels, scale=factor).sum()

    (plain,) = torch.autograd.grad(total(first), first)
    (again,) = torch.autograd.grad(total(first), first, create_graph=True)
    assert_close(again, plain)
    assert gradcheck(total, first)
    assert gradgradcheck(total, first)


@pytest.mark.parametrize("unit", [1e-30, 1e-15, 1e15])
@pytest.mark.parametrize("distance", ["manhattan", "chebyshev"])
def test_a_fitted_scale_is_that_of_float64_in_any_unit(distance: str, unit: float) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    phi = (unit * torch.rand(8, 2)).requires_grad_()
    wide = phi.detach().double().requires_grad_()

    def fitted(inputs: Tensor, features: Tensor) -> Tensor:
        return isometry_penalty(
            inputs, features, y, distance=distance, input_distance="cosine", scale="fit"
        )

    value, expected = fitted(x, phi), fitted(x.double(), wide)
    assert_close(value.double(), expected, rtol=1e-4, atol=0.0)
    gradients = [torch.autograd.grad(v, p)[0] for v, p in ((value, phi), (expected, wide))]
    assert_close(unit * gradients[0].double(), unit * gradients[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "chebyshev"])
def test_a_pair_that_does_not_count_may_be_so_far_that_its_square_is_infinite(
    distance: str,
) -> None:
    torch.manual_seed(0)
    x, phi = torch.rand(6, 3), torch.rand(6, 2)
    y = torch.tensor([0, 0, 0, 0, IGNORED, IGNORED])
    expected = isometry_penalty(x, phi, y, distance=distance)
    x[4:] *= 1e25
    assert_close(isometry_penalty(x, phi, y, distance=distance), expected)
    x[4:], phi[4:] = 0, 1e25 * phi[4:]
    assert_close(isometry_penalty(x, phi, y, distance=distance), expected)


@pytest.mark.parametrize(
    "metric", [lambda z: torch.cdist(z.detach(), z.detach()), lambda z: torch.cdist(z, z) > 0.5]
)
def test_a_distance_of_features_that_no_gradient_goes_through_is_refused(metric: Any) -> None:
    x, phi, y = torch.rand(4, 3), torch.rand(4, 2), torch.arange(4) % 2
    text = "^isometry_penalty: the distance of the features must be differentiable, got distances"
    with pytest.raises(InputError, match=text):
        isometry_penalty(x, phi.clone().requires_grad_(), y, distance=metric)
    value = isometry_penalty(x, phi, y, distance=metric)
    with torch.no_grad():
        assert isometry_penalty(x, phi.clone().requires_grad_(), y, distance=metric) == value
    phi.requires_grad_()
    assert isometry_penalty(x, phi, y, distance="cosine", input_distance=metric).requires_grad
