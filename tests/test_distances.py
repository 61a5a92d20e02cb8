"""`isoreg.distances` against plain loops in float64, its invariances, its edges and its errors."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from isoreg import _tables, distances
from isoreg._tables import check_pairs, pair_table
from isoreg.distances import METRICS, euclidean, geodesic, pairwise_distances
from isoreg.errors import InputError

Point = list[float]
NAMES = ["angular", "chebyshev", "cosine", "euclidean", "geodesic", "manhattan", "sqeuclidean"]
FROM_ORIGIN = {"cosine", "angular"}  # measured at the origin, not between the points


def cosine_by_loops(p: Point, q: Point) -> float:
    norms = math.hypot(*p) * math.hypot(*q)
    return sum(a * b for a, b in zip(p, q, strict=True)) / norms if norms else 0.0


PAIR_ORACLES: dict[str, Callable[[Point, Point], float]] = {
    "euclidean": math.dist,
    "sqeuclidean": lambda p, q: sum((a - b) ** 2 for a, b in zip(p, q, strict=True)),
    "manhattan": lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)),
    "chebyshev": lambda p, q: max(abs(a - b) for a, b in zip(p, q, strict=True)),
    "cosine": lambda p, q: 1 - cosine_by_loops(p, q),
    "angular": lambda p, q: math.acos(max(-1.0, min(1.0, cosine_by_loops(p, q)))),
}


def geodesic_by_loops(points: list[Point], neighbors: int) -> list[list[float]]:
    """Floyd and Warshall over the kNN graph and the minimum spanning tree (Prim)."""
    n = len(points)
    length = [[math.dist(p, q) for q in points] for p in points]
    path = [[0.0 if i == j else math.inf for j in range(n)] for i in range(n)]

    def connect(i: int, j: int) -> None:
        path[i][j] = path[j][i] = length[i][j]

    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: length[i][j])
        for j in others[:neighbors]:
            connect(i, j)
    tree = {0}
    while len(tree) < n:
        _, i, j = min((length[i][j], i, j) for i in tree for j in range(n) if j not in tree)
        connect(i, j)
        tree.add(j)
    for k in range(n):
        for i in range(n):
            for j in range(n):
                path[i][j] = min(path[i][j], path[i][k] + path[k][j])
    return path


def by_loops(points: Tensor, metric: str) -> Tensor:
    rows = points.double().flatten(1).tolist()
    if metric == "geodesic":
        return torch.tensor(geodesic_by_loops(rows, neighbors=10), dtype=torch.float64)
    pair = PAIR_ORACLES[metric]
    table = [
        [0.0 if i == j else pair(p, q) for j, q in enumerate(rows)] for i, p in enumerate(rows)
    ]
    return torch.tensor(table, dtype=torch.float64)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


@st.composite
def clouds(draw: st.DrawFn) -> Tensor:
    n, d = draw(st.integers(2, 14)), draw(st.integers(2, 5))
    return normal(n, d, seed=draw(st.integers(0, 2**32)))


any_metric = pytest.mark.parametrize("metric", NAMES)


@pytest.mark.parametrize(
    ("given", "like", "becomes"),
    [
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float32),
        (torch.bfloat16, torch.float64, torch.float32),
        (torch.int32, torch.float64, torch.float64),
        (torch.bool, torch.bfloat16, torch.float32),
    ],
)
def test_a_table_keeps_its_floating_type_and_integers_get_that_of_the_features(
    given: torch.dtype, like: torch.dtype, becomes: torch.dtype
) -> None:
    table = pair_table(torch.ones(2, 2, dtype=given), "t", 2, 2, torch.ones(1, dtype=like))
    assert table.dtype == becomes


def test_the_named_metrics_are_the_documented_ones() -> None:
    assert sorted(METRICS) == NAMES


@any_metric
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_every_metric_equals_plain_loops(metric: str, dtype: torch.dtype, rtol: float) -> None:
    points = normal(17, 2, 3, seed=1, dtype=dtype)
    distances = pairwise_distances(points, metric)
    assert distances.dtype == dtype
    torch.testing.assert_close(distances.double(), by_loops(points, metric), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "chebyshev"])
def test_many_points_in_many_dimensions_equal_broadcast_differences(metric: str) -> None:
    points = normal(300, 40, seed=2)
    differences = (points[:, None] - points[None]).abs()
    expected = {
        "euclidean": lambda: differences.square().sum(-1).sqrt(),
        "sqeuclidean": lambda: differences.square().sum(-1),
        "manhattan": lambda: differences.sum(-1),
        "chebyshev": lambda: differences.amax(-1),
    }[metric]()
    torch.testing.assert_close(pairwise_distances(points, metric), expected, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that was made in float64."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float64:
            self.size = max(self.size, made.numel())
        return made


@pytest.mark.parametrize("equal", [1, 20])
def test_wide_points_are_taken_in_pieces_that_change_nothing(
    equal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = normal(20, 400, seed=5, dtype=torch.float32)
    points[:equal] = points[0]
    points.requires_grad_()
    weights, found = normal(20, 20, seed=6, dtype=torch.float32), []
    for most in (1 << 22, 1000):
        monkeypatch.setattr(distances, "_NUMBERS_AT_ONCE", most)
        with Largest() as largest:
            table = euclidean(points)
        found.append((table, *torch.autograd.grad((weights * table).sum(), points)))
    torch.testing.assert_close(*found)
    assert largest.size <= 1000


@pytest.mark.parametrize("neighbors", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_geodesic_equals_shortest_paths_over_neighbours_and_spanning_tree(
    neighbors: int, seed: int
) -> None:
    points = normal(20, 3, seed=seed)
    expected = torch.tensor(geodesic_by_loops(points.tolist(), neighbors), dtype=torch.float64)
    torch.testing.assert_close(geodesic(points, neighbors=neighbors), expected)


def test_geodesic_connects_clusters_that_no_neighbour_links() -> None:
    points = torch.cat([normal(8, 2), normal(8, 2, seed=1) + 1000, normal(8, 2, seed=2) - 1000])
    distances = geodesic(points, neighbors=2)
    assert distances.isfinite().all()
    assert (distances >= pairwise_distances(points) * (1 - 1e-12)).all()
    pairs = torch.tensor([[0.0], [10.0], [1.0], [11.0]])  # they are joined by their nearest points
    torch.testing.assert_close(geodesic(pairs, neighbors=1), pairwise_distances(pairs))


def test_copies_of_a_point_change_no_path_of_others() -> None:
    points = normal(12, 2, seed=3)
    copied = torch.cat([points[:1].repeat(5, 1), points])
    found = geodesic(copied, neighbors=2)
    assert torch.equal(found[:5, :6], torch.zeros(5, 6, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(geodesic_by_loops(copied.tolist(), 2)).double())


def test_geodesic_follows_the_curve() -> None:
    angle = torch.linspace(0, 1.75 * math.pi, 60, dtype=torch.float64)
    arc = geodesic(torch.stack([angle.cos(), angle.sin()], 1), neighbors=2)
    torch.testing.assert_close(arc[0], angle, rtol=1e-2, atol=1e-9)


def test_geodesic_among_few_points_is_euclidean() -> None:
    points = normal(9, 3)
    torch.testing.assert_close(pairwise_distances(points, "geodesic"), pairwise_distances(points))


def test_metric_defaults_to_euclidean() -> None:
    points = normal(5, 3)
    assert torch.equal(pairwise_distances(points), pairwise_distances(points, "euclidean"))


def test_callable_metric_receives_points_flattened_behind_the_batch_axis() -> None:
    points = normal(4, 2, 3)
    seen: list[Tensor] = []

    def metric(flat: Tensor) -> Tensor:
        seen.append(flat)
        return torch.cdist(flat, flat, p=3.0)

    distances = pairwise_distances(points, metric)
    assert torch.equal(seen[0], points.flatten(1))
    assert torch.equal(distances, torch.cdist(points.flatten(1), points.flatten(1), p=3.0))


@any_metric
def test_the_dictionary_holds_the_functions_that_names_stand_for(metric: str) -> None:
    points = normal(13, 3)
    assert torch.equal(METRICS[metric](points), pairwise_distances(points, metric))


@any_metric
def test_points_in_one_dimension_and_out_of_order_memory_give_the_same(metric: str) -> None:
    line = normal(7)
    assert torch.equal(pairwise_distances(line, metric), pairwise_distances(line[:, None], metric))
    strided = normal(3, 14).T[::2]
    torch.testing.assert_close(
        pairwise_distances(strided, metric), pairwise_distances(strided.contiguous(), metric)
    )


# Derivatives


@any_metric
def test_first_and_second_derivatives_are_right(metric: str) -> None:
    points = normal(5, 3, seed=3).requires_grad_()
    assert gradcheck(lambda p: pairwise_distances(p, metric), points)
    assert gradgradcheck(lambda p: pairwise_distances(p, metric), points)


def test_geodesic_derivatives_run_along_the_shortest_path() -> None:
    points = normal(8, 2, seed=4).requires_grad_()
    assert gradcheck(lambda p: geodesic(p, neighbors=2), points)
    assert gradgradcheck(lambda p: geodesic(p, neighbors=2), points)


@any_metric
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_duplicates_are_at_zero_with_zero_gradient(metric: str, offset: float) -> None:
    points = normal(6, 3, dtype=torch.float32) + offset
    points[4] = points[1]
    points.requires_grad_()
    distances = pairwise_distances(points, metric)
    assert distances[1, 4] == 0 == distances[4, 1]
    (gradient,) = torch.autograd.grad(distances[1, 4], points)
    assert torch.equal(gradient, torch.zeros_like(points))


@any_metric
def test_duplicates_leave_every_derivative_finite(metric: str) -> None:
    points = normal(6, 3)
    points[4] = points[1]
    points.requires_grad_()
    loss = pairwise_distances(points, metric).square().sum()
    (gradient,) = torch.autograd.grad(loss, points, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), points)
    assert gradient.isfinite().all()
    assert second.isfinite().all()


@any_metric
def test_all_points_equal_give_zero_and_no_gradient(metric: str) -> None:
    points = torch.full((13, 3), 0.7, requires_grad=True)
    distances = pairwise_distances(points, metric)
    assert torch.equal(distances, torch.zeros(13, 13))
    distances.sum().backward()
    assert torch.equal(points.grad, torch.zeros(13, 3))


@pytest.mark.parametrize("metric", ["cosine", "angular"])
def test_parallel_and_opposite_vectors_leave_the_gradient_finite(metric: str) -> None:
    points = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [3.0, 1.0]], requires_grad=True)
    distances = pairwise_distances(points, metric)
    opposite = {"cosine": 2.0, "angular": math.pi}[metric]
    assert distances[0, 1].item() == pytest.approx(0, abs=1e-3)
    assert distances[0, 2].item() == pytest.approx(opposite, abs=1e-3)
    assert (distances <= opposite * (1 + 1e-6)).all()
    distances.sum().backward()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("metric, right_angle", [("cosine", 1.0), ("angular", math.pi / 2)])
def test_a_zero_vector_is_at_a_right_angle_to_all_but_itself(
    metric: str, right_angle: float
) -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 2.0], [-3.0, 1.0], [0.0, 0.0]], requires_grad=True)
    distances = pairwise_distances(points, metric)
    assert distances[0].tolist() == pytest.approx([0.0] + [right_angle] * 3)
    distances.sum().backward()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("metric", ["cosine", "angular"])
@pytest.mark.parametrize(
    ("length", "dtype"),  # whose squares, or whose length, the type does not hold
    [
        (1e-25, torch.float32),
        (1e25, torch.float32),
        (2e38, torch.float32),
        (1e-200, torch.float64),
        (1e308, torch.float64),
    ],
)
def test_directions_do_not_depend_on_the_lengths(
    metric: str, length: float, dtype: torch.dtype
) -> None:
    points = normal(6, 3)
    points = (points / points.abs().max()).to(dtype)
    distances = pairwise_distances(length * points, metric).double()
    torch.testing.assert_close(distances, by_loops(points, metric), rtol=1e-5, atol=1e-6)


# Precision


@any_metric
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_points_are_computed_in_float32(metric: str, dtype: torch.dtype) -> None:
    points = normal(13, 4, seed=5).to(dtype)
    distances = pairwise_distances(points, metric)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, pairwise_distances(points.float(), metric))


@any_metric
def test_autocast_changes_nothing(metric: str) -> None:
    points = normal(13, 4, seed=6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = pairwise_distances(points, metric)
    assert torch.equal(under_autocast, pairwise_distances(points, metric))


def test_autocast_does_not_reach_a_callable_metric() -> None:
    points = normal(13, 4, seed=6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = pairwise_distances(points, products)
    assert torch.equal(under_autocast, products(points))


def test_double_precision_points_far_from_the_origin_keep_their_digits() -> None:
    points = 3000 + normal(30, 8, seed=7)
    distances = pairwise_distances(points)
    torch.testing.assert_close(distances, by_loops(points, "euclidean"), rtol=1e-11, atol=0)


@pytest.mark.parametrize("metric", sorted(set(NAMES) - FROM_ORIGIN))
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_points_far_from_the_origin_keep_their_digits(metric: str, spread: float) -> None:
    points = (100 + spread * normal(30, 8, seed=7)).float()
    distances = pairwise_distances(points, metric).double()
    torch.testing.assert_close(distances, by_loops(points, metric), rtol=1e-5, atol=0)


@pytest.mark.parametrize("unit", [5e-324, 1e-300, 1e-200, 1e200, 1e306])
def test_distances_whose_squares_float64_cannot_hold_are_right(unit: float) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [15.0, 9.0]], dtype=torch.float64)
    points = (unit * x).requires_grad_()
    lengths = pairwise_distances(points)[0, :3] / unit
    torch.testing.assert_close(lengths, torch.tensor([0.0, 5.0, 5.0], dtype=torch.float64))
    assert pairwise_distances(points)[1, 2] == 0
    assert geodesic(points, neighbors=1)[0, 3].item() / unit == pytest.approx(18)
    (slope,) = torch.autograd.grad(euclidean(points)[0, 1], points)
    torch.testing.assert_close(slope[:2], torch.tensor([[-0.6, -0.8], [0.6, 0.8]]).double())


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_close_pairs_in_far_clusters_keep_their_digits(metric: str) -> None:
    centres = torch.tensor([[50.0, 0.0], [-50.0, 7.0]], dtype=torch.float64).repeat(6, 1)
    points = (centres + 1e-3 * normal(12, 2, seed=8)).float()
    distances = pairwise_distances(points, metric).double()
    torch.testing.assert_close(distances, by_loops(points, metric), rtol=1e-5, atol=0)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_close_pairs_keep_their_digits_in_any_unit(unit: float) -> None:
    points = unit * normal(9, 3, seed=9)
    points[4] = points[3] + 1e-7 * points[5]
    points[7] = points[1]
    distances = pairwise_distances(points)
    torch.testing.assert_close(distances, by_loops(points, "euclidean"), rtol=1e-9, atol=0)


# Invariances


@given(clouds(), st.sampled_from(NAMES))
def test_distances_are_symmetric_and_not_negative_with_a_zero_diagonal(
    points: Tensor, metric: str
) -> None:
    distances = pairwise_distances(points, metric)
    torch.testing.assert_close(distances, distances.T)
    assert (distances >= 0).all()
    assert torch.equal(distances.diagonal(), torch.zeros(len(points), dtype=torch.float64))


@given(clouds(), st.sampled_from(sorted(set(NAMES) - {"sqeuclidean", "cosine"})))
def test_the_triangle_inequality_holds(points: Tensor, metric: str) -> None:
    distances = pairwise_distances(points, metric)
    detours = distances[:, :, None] + distances[None]  # (i, k, j): from i over k to j
    assert (distances <= detours.amin(1) + 1e-7).all()


@given(clouds(), st.integers(0, 999), st.sampled_from(NAMES))
def test_rotation_changes_nothing(points: Tensor, seed: int, metric: str) -> None:
    if metric in {"manhattan", "chebyshev"}:
        rotated = points.roll(1, dims=1) * -1  # they only allow signed permutations of the axes
    else:
        rotated = points @ rotation(points.shape[1], seed)
    torch.testing.assert_close(
        pairwise_distances(rotated, metric), pairwise_distances(points, metric)
    )


@given(clouds(), st.floats(-10, 10), st.sampled_from(sorted(set(NAMES) - FROM_ORIGIN)))
def test_translation_changes_nothing(points: Tensor, shift: float, metric: str) -> None:
    torch.testing.assert_close(
        pairwise_distances(points + shift, metric), pairwise_distances(points, metric)
    )


@given(clouds(), st.integers(0, 999), st.sampled_from(NAMES))
def test_permuted_points_have_permuted_distances(points: Tensor, seed: int, metric: str) -> None:
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        pairwise_distances(points[order], metric),
        pairwise_distances(points, metric)[order][:, order],
    )


@given(clouds(), st.floats(0.01, 100), st.sampled_from(NAMES))
def test_scaled_points_have_scaled_distances(points: Tensor, factor: float, metric: str) -> None:
    power = {"sqeuclidean": 2, "cosine": 0, "angular": 0}.get(metric, 1)
    torch.testing.assert_close(
        pairwise_distances(factor * points, metric),
        factor**power * pairwise_distances(points, metric),
        rtol=1e-7,
        atol=1e-7,
    )


# Edges and errors


@any_metric
@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_batches_give_square_matrices_with_a_graph(metric: str, n: int) -> None:
    points = normal(n, 3).requires_grad_()
    distances = pairwise_distances(points, metric)
    assert distances.shape == (n, n)
    torch.testing.assert_close(distances, by_loops(points.detach(), metric).reshape(n, n))
    distances.sum().backward()
    assert points.grad.isfinite().all()


@any_metric
def test_points_without_numbers_are_all_equal(metric: str) -> None:
    points = torch.zeros(3, 0, requires_grad=True)
    distances = pairwise_distances(points, metric)
    assert torch.equal(distances, torch.zeros(3, 3))
    distances.sum().backward()


@any_metric
def test_nan_in_a_point_is_nan_in_its_distances(metric: str) -> None:
    points = normal(13, 3)
    points[2, 1] = math.nan
    others = torch.arange(13) != 2
    distances = pairwise_distances(points, metric)
    assert distances[2, others].isnan().all()
    assert distances[others, 2].isnan().all()


def test_an_unknown_metric_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(InputError, match=r"^pairwise_distances: .*'?euclidian'?") as caught:
        pairwise_distances(normal(3, 2), "euclidian")
    assert all(name in str(caught.value) for name in METRICS)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_points_that_are_not_real_floats_are_refused(dtype: torch.dtype) -> None:
    text = rf"^pairwise_distances: points must be floating, got {re.escape(str(dtype))}\. Integers"
    with pytest.raises(InputError, match=text):
        pairwise_distances(torch.ones(3, 2, dtype=dtype))


def test_points_without_a_batch_axis_are_refused() -> None:
    with pytest.raises(InputError, match="^pairwise_distances: "):
        pairwise_distances(torch.tensor(1.0))


def test_a_callable_that_returns_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"^pairwise_distances: .*\(3, 3\).*\(3,\)"):
        pairwise_distances(normal(3, 2), lambda points: points.sum(1))


@pytest.mark.parametrize("made", [torch.int64, torch.bool, torch.float16, torch.float64])
def test_what_a_callable_returns_has_the_type_of_the_points_or_a_better_one(
    made: torch.dtype,
) -> None:
    points = normal(3, 2, dtype=torch.float32)
    distances = pairwise_distances(points, lambda x: euclidean(x).to(made))
    assert distances.dtype == (torch.float64 if made == torch.float64 else torch.float32)
    assert torch.equal(distances, euclidean(points).to(made).to(distances.dtype))


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (lambda x: x.new_zeros(3, 3).numpy(), "ndarray"),
        (lambda _: None, "NoneType"),
        (lambda x: x.new_zeros(3, 3).cfloat(), r"torch.complex64 of shape \(3, 3\)"),
    ],
)
def test_a_callable_that_returns_no_real_tensor_is_refused(
    metric: Callable[[Tensor], Tensor], got: str
) -> None:
    with pytest.raises(InputError, match=rf"^pairwise_distances: the metric must .* got {got}\.$"):
        pairwise_distances(normal(3, 2), metric)


def products(x: Tensor) -> Tensor:
    """Squared distances by a product: where points are near, they are rounding, also below 0."""
    gram = x @ x.T
    return gram.diagonal()[:, None] + gram.diagonal() - 2 * gram


def unit_products(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T


def divergence(x: Tensor) -> Tensor:
    logs = x.log_softmax(1)
    return (logs.exp()[:, None] * (logs[:, None] - logs)).sum(-1)


NO_DISTANCES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "cosine similarity": (
        unit_products,
        r"of 0 or more, got -0\.\d+ at pair .* Is it a similarity",
    ),
    "inner product": (lambda x: x @ x.T, r"of 0 or more, got -\d.* Is it a similarity"),
    "negative": (lambda x: -torch.cdist(x, x), r"of 0 or more, got -\d.* Is it a similarity"),
    "kernel": (
        lambda x: (-euclidean(x)).exp(),
        r"0 between a sample and itself, got 1 at pair \((\d+), \1\) and 0\.0\d+ at pair",
    ),
    "squashed": (lambda x: (x @ x.T).sigmoid(), "0 between a sample and itself, got .* Is it a"),
    "squared similarity": (
        lambda x: unit_products(x) ** 2,
        r"0 between a sample and itself, got 1 at pair \((\d+), \1\) and",
    ),
    "one-sided": (
        divergence,
        r"both directions, got .* at pair \((\d+), (\d+)\) .* \(\2, \1\)\. Give",
    ),
    "other points": (
        lambda x: torch.cdist(x, x.flip(0) + 1),
        "same distance in both directions|0 between a sample and itself",
    ),
}


@pytest.mark.parametrize("kind", NO_DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
def test_a_callable_that_gives_no_distances_is_refused(
    kind: str, dtype: torch.dtype, size: float
) -> None:
    metric, text = NO_DISTANCES[kind]
    points = normal(40, 5, dtype=dtype)
    with pytest.raises(InputError, match=f"^pairwise_distances: the metric must give .*{text}"):
        pairwise_distances(size * points, lambda x: metric(x / size))


@pytest.mark.parametrize("kind", NO_DISTANCES)
def test_where_nobody_looks_what_is_no_distance_becomes_nan(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tables, "can_look", lambda _: False)
    points = normal(40, 5)
    assert pairwise_distances(points, NO_DISTANCES[kind][0]).isnan().all()
    torch.testing.assert_close(
        pairwise_distances(points, lambda x: euclidean(x)), euclidean(points)
    )


@pytest.mark.parametrize("similarity", [unit_products, lambda x: (-euclidean(x)).exp()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_similarity_that_is_never_negative_is_known_by_its_diagonal(
    similarity: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    points = normal(40, 64, dtype=torch.float32).relu()
    with pytest.raises(InputError, match="0 between a sample and itself, got 1 at pair"):
        pairwise_distances(points, lambda x: similarity(x).to(dtype))


def jensen_shannon(x: Tensor) -> Tensor:
    p = x.softmax(1)
    entropies = [-(q * q.log()).sum(-1) for q in (p, (p[:, None] + p) / 2)]
    return entropies[1] - (entropies[0][:, None] + entropies[0]) / 2


@pytest.mark.parametrize(
    "kind", ["apart", "far", "collapsed", "duplicates", "zero", "tiny", "one", "two"]
)
@pytest.mark.parametrize(
    "metric",
    [
        products,
        jensen_shannon,
        lambda x: products(x).fill_diagonal_(0),
        lambda x: products(x.bfloat16()),
        lambda x: products(x.bfloat16()).clamp_min(0).sqrt(),
        lambda x: products(x).clamp_min(0).sqrt(),
        lambda x: torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist"),
        lambda x: ((x[:, None] - x).square().sum(-1) + 1e-8).sqrt(),
        lambda x: 1 - unit_products(x),
        lambda x: (torch.cdist(x, x) > 1).long(),
        lambda x: torch.zeros(len(x), len(x)),
    ],
)
def test_rounding_is_no_reason_to_refuse_a_metric(
    metric: Callable[[Tensor], Tensor], kind: str
) -> None:
    x = normal(40, 5, dtype=torch.float32)
    points = {
        "apart": x,
        "far": x + 100,
        "collapsed": 1e-4 * x + 100,
        "duplicates": 37.123 * torch.ones(40, 5),
        "zero": 0 * x,
        "tiny": 1e-6 * x,
        "one": x[:1],
        "two": x[:2],
    }[kind]
    torch.testing.assert_close(pairwise_distances(points, metric), metric(points).to(torch.float32))


@pytest.mark.parametrize("made", [Tensor.to_sparse, lambda x: x.to("meta")])
def test_a_callable_that_returns_no_dense_tensor_is_refused(
    made: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(InputError, match=r"^pairwise_distances: what the metric returns must "):
        pairwise_distances(normal(3, 2), lambda x: made(euclidean(x)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_point_that_is_not_finite_is_not_blamed_on_the_metric(bad: float) -> None:
    points = normal(10, 4).index_fill(0, torch.tensor([2]), bad)
    expected = torch.cdist(points, points)
    found = pairwise_distances(points, lambda x: torch.cdist(x, x))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: torch.compile(f, fullgraph=True)])
def test_a_callable_passes_where_values_cannot_be_read(
    transform: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]],
) -> None:
    def total(points: Tensor) -> Tensor:
        return pairwise_distances(points, manhattan_by_hand).sum()

    points = normal(6, 3)
    expected = manhattan_by_hand(points).sum()
    if transform is torch.func.grad:
        expected = torch.autograd.grad(total(leaf := points.clone().requires_grad_()), leaf)[0]
    torch.testing.assert_close(transform(total)(points), expected)


def manhattan_by_hand(points: Tensor) -> Tensor:
    return (points[:, None] - points).abs().sum(-1)


@pytest.mark.parametrize("metric", [torch.cdist, torch.nn.PairwiseDistance()])
def test_a_callable_of_two_sets_of_points_is_refused_with_what_to_write(
    metric: Callable[[Tensor], Tensor],
) -> None:
    text = r"^pairwise_distances: the metric is called on one tensor .* missing .*'x2'.*lambda x"
    with pytest.raises(InputError, match=text):
        pairwise_distances(normal(3, 2), metric)


@any_metric
@pytest.mark.parametrize(
    ("points", "got"),
    [
        (torch.ones(3, 2, dtype=torch.uint8), "torch.uint8 of shape (3, 2)"),
        (torch.ones(3, 2, dtype=torch.int64), "torch.int64 of shape (3, 2)"),
        (torch.ones(3), "torch.float32 of shape (3,)"),
        (torch.ones(2, 2, 2), "torch.float32 of shape (2, 2, 2)"),
    ],
)
def test_a_metric_by_itself_takes_floating_points_alone(
    metric: str, points: Tensor, got: str
) -> None:
    text = re.escape(f"points must be a floating tensor (b, d), got {got}. Convert integers")
    with pytest.raises(InputError, match=text):
        METRICS[metric](points)


@any_metric
def test_a_metric_by_itself_takes_no_list(metric: str) -> None:
    with pytest.raises(InputError, match="points must be a tensor, got list"):
        METRICS[metric]([[0.0]])


@any_metric
@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([[0.0]], "must be a tensor, got list"),
        (torch.eye(2).to_sparse(), "must be a dense tensor"),
        (torch.rand(2, 2, device="meta"), "must hold numbers to compute with, got .* meta device"),
        (
            torch.ones(2, 2).to(torch.float8_e4m3fn),
            "must hold numbers to compute with, got .*float8",
        ),
    ],
)
def test_a_metric_by_itself_takes_numbers_alone(metric: str, points: Tensor, text: str) -> None:
    with pytest.raises(InputError, match=f"^points {text}"):
        METRICS[metric](points)


@pytest.mark.parametrize("metric", ["chebyshev", "cosine", "angular"])
@pytest.mark.parametrize("size", [0, 3])
def test_a_metric_that_needs_a_dimension_says_so(metric: str, size: int) -> None:
    text = re.escape(f"points must be (b, d) with d >= 1, got ({size}, 0).")
    with pytest.raises(InputError, match=text):
        METRICS[metric](torch.zeros(size, 0))


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([[0.0, 1.0]], "points must be a tensor, got list. torch.as_tensor(points) makes one"),
        (torch.eye(2).to_sparse(), "points must be a dense tensor, got one of layout torch.sparse"),
    ],
)
def test_points_that_are_no_dense_tensor_are_refused(points: object, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"pairwise_distances: {text}")):
        pairwise_distances(points)  # type: ignore[arg-type]


TABLES: dict[str, tuple[object, str]] = {
    "a list": ([[0.0]], "t must be a tensor, got list"),
    "sparse": (torch.eye(2).to_sparse(), "t must be a dense tensor"),
    "complex": (
        torch.ones(2, 2, dtype=torch.cfloat),
        "t must be real numbers, got torch.complex64",
    ),
    "too few rows": (torch.ones(1, 3), "t must be of shape (2, 3) for 2 samples, got (1, 3)."),
    "too many columns": (torch.ones(2, 4), "t must be of shape (2, 3) for 2 samples, got (2, 4)."),
    "three axes": (torch.ones(2, 3, 3), "shape (2, 3) for 2 samples, got (2, 3, 3)."),
}


@pytest.mark.parametrize(("table", "text"), TABLES.values(), ids=TABLES)
def test_what_is_no_table_of_pairs_is_refused(table: object, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        pair_table(table, "t", 2, 3, torch.zeros(1))  # type: ignore[arg-type]


def test_a_table_has_as_many_columns_as_all_ranks_have_samples() -> None:
    assert pair_table(torch.ones(2, 7), "t", 2, None, torch.zeros(1)).shape == (2, 7)
    with pytest.raises(InputError, match=r"shape \(2, samples of all ranks\) for 2 samples"):
        pair_table(torch.ones(3, 7), "t", 2, None, torch.zeros(1))


INF, NAN = math.inf, math.nan
# a table, the rows of what does not count, and what is said of it
CHECKED: dict[str, tuple[list[list[float]], list[tuple[int, int]], str]] = {
    "all equal": ([[0, 0], [0, 0]], [], ""),
    "rounded": ([[0, 1, 1e3], [1.9, 0, 1e3], [1e3, 1e3, 0]], [], ""),
    "not by a thousandth of what counts": ([[0, 1e-6, 1], [1.1e-6, 0, 1], [1, 1, 0]],
     [(0, 2), (2, 0), (1, 2), (2, 1)], "got 1e-06 for samples 0 and 1 and 1.1e-06 for 1 and 0."),
    "what does not count": ([[NAN, -1], [INF, 0]], [(0, 0), (0, 1), (1, 0)], ""),
    "negative": ([[0, -1], [-1, 0]], [], "got -1 for samples 0 and 1."),
    "infinite": ([[0, INF], [INF, 0]], [], "got inf for samples 0 and 1."),
    "not a number": ([[0, NAN], [NAN, 0]], [], "got nan for samples 0 and 1."),
    "not a number one way": ([[0, 1], [NAN, 0]], [],
     "got 1 for samples 0 and 1 and nan for 1 and 0."),
    "zero one way": ([[0, 0], [5, 0]], [], "got 0 for samples 0 and 1 and 5 for 1 and 0."),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "left_out", "got"), CHECKED.values(), ids=CHECKED)
def test_pairs_that_count_are_finite_not_negative_and_mirrored(
    rows: list[list[float]], left_out: list[tuple[int, int]], got: str
) -> None:
    table, counted = torch.tensor(rows), torch.ones(len(rows), len(rows), dtype=torch.bool)
    for pair in left_out:
        counted[pair] = False
    if got:
        text = f"t must be finite, 0 or more, and the same for both orders of a pair, {got}"
        with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
            check_pairs(table, counted, "t")
    else:
        assert check_pairs(table, counted, "t") is table


def test_rows_of_one_rank_are_mirrored_in_their_own_columns_and_named_by_them() -> None:
    table, counted = torch.arange(10.0).reshape(2, 5), torch.ones(2, 5, dtype=torch.bool)
    table[:, 2:4] = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    assert check_pairs(table, counted, "t", slice(2, 4)) is table
    table[0, 3] = 4
    with pytest.raises(InputError, match="got 4 for samples 2 and 3 and 3 for 3 and 2"):
        check_pairs(table, counted, "t", slice(2, 4))
    assert check_pairs(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool), "t").shape == (0, 0)


@pytest.mark.parametrize("neighbors", [0, 2.5, True, "a"])
def test_neighbours_are_counted_and_fewer_than_two_points_have_none(neighbors: object) -> None:
    with pytest.raises(InputError, match="neighbors must be an integer of at least 1, got"):
        geodesic(torch.rand(3, 2), neighbors=neighbors)
    for few in (0, 1):
        assert torch.equal(geodesic(torch.rand(few, 2)), torch.zeros(few, few))


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("far", [1e12, 1e20, 9.97e36])
def test_a_row_that_is_far_off_takes_no_digits_from_the_others(place: int, far: float) -> None:
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[place, 0] = far
    others = torch.arange(6) != torch.arange(6)[place]
    found = pairwise_distances(points)[others][:, others]
    torch.testing.assert_close(found, torch.cdist(points, points)[others][:, others])
