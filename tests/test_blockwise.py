"""The plan covers each pair of equal label once; both fast ways equal the dense one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isoreg import InputError, isometry_penalty, small
from isoreg.dense import dense_penalty
from isoreg.distances import euclidean
from isoreg.masks import IGNORED, pair_weights
from isoreg.plan import TILE, Plan, plan_pairs
from isoreg.small import small_batch

pytestmark = pytest.mark.usefixtures("way")


def plan(labels: Tensor | None, n: int) -> Plan:
    return plan_pairs(labels, n, device=torch.device("cpu"), dtype=torch.float64)


def covered(found: Plan, n: int) -> Tensor:
    """How often each ordered pair is compared."""
    times = torch.zeros(n + 1, n + 1, dtype=torch.long)
    for bucket in found.buckets:
        places = bucket.places.view(bucket.rows.shape)
        mask = torch.ones(*places.shape, places.shape[1]) if bucket.mask is None else bucket.mask
        for row, compared in zip(places, mask, strict=True):
            times[row[:, None], row[None, :]] += compared.long()
    for members in found.large:
        times[members[:, None], members[None, :]] += 1
    return times[:n, :n].fill_diagonal_(0)


label_lists = st.lists(st.sampled_from([0, 1, 2, 7, 3, IGNORED]), max_size=300)


@given(labels=label_lists, copies=st.integers(1, 3))
def test_a_plan_compares_every_pair_of_equal_label_once(labels: list[int], copies: int) -> None:
    y = torch.tensor(labels * copies, dtype=torch.long)
    expected = (y[:, None] == y) & (y != IGNORED)
    expected = expected.fill_diagonal_(False)
    found = plan(y, len(y))
    assert torch.equal(covered(found, len(y)), expected.long())
    assert found.count_pairs() == expected.sum()


@given(labels=label_lists)
def test_a_plan_gives_every_sample_one_place(labels: list[int]) -> None:
    n = len(labels)
    found = plan(torch.tensor(labels, dtype=torch.long), n)
    places = [bucket.places[bucket.places < n] for bucket in found.buckets]
    every = torch.cat([*places, *found.large, found.alone]).sort().values
    assert torch.equal(every, torch.arange(n))


def test_padding_costs_at_most_thirty_percent_or_a_few_pairs() -> None:
    torch.manual_seed(1)
    for classes in (3, 10, 100, 700):
        y = torch.randint(classes, (2000,))
        for bucket in plan(y, 2000).buckets:
            if bucket.mask is not None:
                own = bucket.count_pairs() + (bucket.places < 2000).sum().item()
                assert bucket.mask.numel() <= max(1.3 * own, own + 2048)


@pytest.mark.parametrize(
    ("n", "classes"),
    [(40, 4), (300, 7), (300, 200), (TILE + 1, 1), (2 * TILE + 300, 1), (2 * TILE + 300, 2)],
)
@pytest.mark.parametrize("scale", [1.0, 0.3, "fit"])
@pytest.mark.parametrize("reduction", ["batch", "pairs"])
def test_value_and_gradients_equal_the_dense_way(
    n: int, classes: int, scale: float | str, reduction: str
) -> None:
    x, y = torch.randn(n, 6, dtype=torch.float64), torch.randint(classes, (n,))
    y[::17] = IGNORED
    features = [torch.randn(n, d, dtype=torch.float64, requires_grad=True) for d in (3, 9)]
    found = isometry_penalty(x, features, y, scale=scale, reduction=reduction)
    expected = dense_penalty(euclidean(x), features, y, euclidean, scale, reduction)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.tensor([1.0, -2.5], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, features, weights),
        torch.autograd.grad(expected, features, weights),
        rtol=1e-9,
        atol=1e-12,
    )


def difficult(kind: str, n: int) -> tuple[Tensor, Tensor]:
    """Float32 features on which the usual expansion of squared distances loses its digits."""
    y = torch.arange(n) % 3
    features = torch.randn(n, 20)
    if kind == "offset":
        features = features + 100
    elif kind == "collapsed":
        features = 1e-3 * features + 30 * torch.randn(3, 20)[y]
    elif kind == "duplicates":
        features[n // 2 :] = features[: n - n // 2]
    return features, y


@pytest.mark.parametrize("kind", ["offset", "collapsed", "duplicates"])
@pytest.mark.parametrize("n", [60, 600, 3 * TILE + 100])
def test_float32_gradients_keep_six_digits(kind: str, n: int) -> None:
    x = torch.randn(n, 12)
    phi, y = difficult(kind, n)
    phi.requires_grad_()
    exact = phi.detach().double().requires_grad_()
    expected = dense_penalty(euclidean(x.double()), [exact], y, euclidean, 1.0, "batch")
    (gradient,) = torch.autograd.grad(isometry_penalty(x, phi, y), phi)
    (reference,) = torch.autograd.grad(expected, exact)
    assert (gradient - reference).norm() / reference.norm() < 1e-6


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_small_batch_goes_the_short_way_and_equals_the_dense_one(
    layers: int, scale: float
) -> None:
    x, y = torch.rand(60, 9).double(), torch.randint(5, (60,))
    y[::7] = IGNORED
    phi = [torch.randn(60, d).double().requires_grad_() for d in (3, 8, 20)[:layers]]
    bucket = plan(y, 60).small
    assert bucket is not None
    found = small_batch(
        [x, *[f.detach() for f in phi]], bucket, torch.full((layers,), scale).double(), 60**2
    )
    expected = dense_penalty(euclidean(x), phi, y, euclidean, scale, "batch")
    torch.testing.assert_close(found[0], expected)
    for gradient, reference in zip(found[1], torch.autograd.grad(expected.sum(), phi), strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("distances_of", [small._by_pdist, small._by_difference])
def test_a_small_batch_with_near_pairs_is_subtracted(
    monkeypatch: pytest.MonkeyPatch, distances_of: Callable[..., Tensor]
) -> None:
    calls: list[int] = []

    def counted(*args: Tensor) -> Tensor:
        calls.append(1)
        return distances_of(*args)

    monkeypatch.setattr(small, "_by_pdist", counted)
    x, y = torch.rand(60, 9), torch.arange(60) % 2
    bucket = plan_pairs(y, 60, device=x.device, dtype=x.dtype).small
    assert bucket is not None
    apart = torch.randn(60, 4)
    near = apart.clone()
    near[8] = near[2] + 1e-4
    first = apart.clone()
    first[2] = first[0]  # both are their class's origin: no term of their square is above 0
    for features, subtracted in ((apart, False), (near, True), (first, True)):
        (value,), (gradient,) = small_batch([x, features], bucket, torch.tensor([0.7]), 100)
        exact = features.double().requires_grad_()
        expected = dense_penalty(euclidean(x.double()), [exact], y, euclidean, 0.7, "batch") * 36
        torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
        (reference,) = torch.autograd.grad(expected, exact)
        assert (gradient - reference).norm() / reference.norm() < 1e-6
        assert bool(calls) is subtracted
        calls.clear()


def test_without_a_gradient_to_give_none_is_computed(
    way: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[bool] = []
    real = way.penalties_and_gradients

    def watched(*args: object, **options: bool) -> object:
        wanted.append(options["wanted"])
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(way, "penalties_and_gradients", watched)
    for n in (30, 300, TILE + 50):
        x, phi, y = torch.rand(n, 5), torch.randn(n, 4), torch.arange(n) % 3
        y = y if n < TILE else torch.zeros(n).long()
        expected = isometry_penalty(x, phi, y)
        phi.requires_grad_()
        torch.testing.assert_close(isometry_penalty(x, phi, y).detach(), expected)
        with torch.no_grad():
            torch.testing.assert_close(isometry_penalty(x, phi, y), expected)
        assert wanted == [False, True, False]
        wanted.clear()


def test_duplicates_are_at_distance_zero_in_every_kind_of_block() -> None:
    for n in (50, 400, TILE + 200):
        phi = torch.randn(n, 30).repeat(2, 1)
        y = torch.arange(n).repeat(2)
        assert isometry_penalty(torch.zeros(2 * n, 2), phi, y).item() == 0


def test_the_fast_way_is_taken_for_the_common_options_only(
    way: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    real = way.penalties_and_gradients

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(way, "penalties_and_gradients", counted)
    x, phi, y = torch.randn(8, 3), torch.randn(8, 2), torch.arange(8) % 2
    for options in (
        {},
        {"scale": 2.0},
        {"scale": "fit"},
        {"scale": torch.tensor(1.0)},
        {"reduction": "pairs"},
        {"distance": euclidean},
    ):
        isometry_penalty(x, phi, y, **options)
        assert calls.pop() == 1
    isometry_penalty(x, phi, y, distance="manhattan")
    isometry_penalty(None, phi, y, input_distances=euclidean(x))
    isometry_penalty(x.requires_grad_(), phi, y)
    assert not calls


def test_function_transforms_give_the_same_gradient() -> None:
    x, phi, y = torch.randn(8, 3), torch.randn(8, 4), torch.arange(8) % 2
    found = torch.func.grad(lambda features: isometry_penalty(x, features, y))(phi)
    phi.requires_grad_()
    (expected,) = torch.autograd.grad(isometry_penalty(x, phi, y), phi)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_lower_matmul_precision_costs_no_digit(precision: str) -> None:
    x, phi, y = torch.randn(200, 64), torch.randn(200, 64), torch.arange(200) % 2
    expected = isometry_penalty(x.double(), phi.double(), y).float()
    torch.set_float32_matmul_precision(precision)
    try:
        torch.testing.assert_close(isometry_penalty(x, phi, y), expected, rtol=2e-7, atol=0)
        soft = pair_weights(torch.eye(2)[y], 200)
        assert torch.equal(soft, pair_weights(y, 200))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_vmap_is_refused_with_what_to_do_instead() -> None:
    x, phi, y = torch.randn(8, 3), torch.randn(2, 8, 4), torch.arange(8) % 2
    with pytest.raises(
        InputError, match=r"^isometry_penalty: torch.vmap is not supported.*sequence"
    ):
        torch.func.vmap(lambda features: isometry_penalty(x, features, y))(phi)


def test_settings_of_the_process_are_read_and_never_changed() -> None:
    """Another thread may rely on them, or change them, while a penalty is computed."""
    code = """if True:
        import sys, torch
        from isoreg import compiled, isometry_penalty
        backends, seen, real = torch.backends, [], torch.Tensor.square
        if not hasattr(backends, "fp32_precision"):
            sys.exit()  # this torch has one setting for all backends
        compiled.load_kernel = lambda: None
        def watched(x):
            seen.append(backends.cuda.matmul.fp32_precision)
            return real(x)
        torch.Tensor.square = watched
        x, y = torch.randn(200, 8), torch.arange(200) % 2
        backends.fp32_precision = "tf32"
        isometry_penalty(x, x.clone().requires_grad_(), y).backward()
        assert set(seen) == {"tf32"}, seen
        backends.fp32_precision = "ieee"
        assert backends.cuda.matmul.fp32_precision == "ieee", "it follows the process again"
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_second_derivatives_do_not_need_every_layer_to_need_them() -> None:
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 2
    trained = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    frozen = torch.randn(12, 4, dtype=torch.float64)
    total = isometry_penalty(x, [frozen, trained], y).sum()
    (slope,) = torch.autograd.grad(total, trained, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), trained)
    alone = isometry_penalty(x, trained, y)
    (slope,) = torch.autograd.grad(alone, trained, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(slope.square().sum(), trained)[0])


def test_features_may_be_changed_in_place_after_the_penalty() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    hidden = torch.randn(8, 4, requires_grad=True) * 1
    penalty_ = isometry_penalty(x, hidden, y)
    hidden.mul_(2)
    (penalty_ + hidden.sum()).backward()


def clustered(n: int, clusters: int) -> Tensor:
    return 0.05 * torch.randn(n, 40) + torch.randn(clusters, 40)[torch.arange(n) % clusters]


@pytest.mark.parametrize("labels", [None, torch.arange(700) % 2])
def test_classes_of_tight_clusters_keep_six_digits(labels: Tensor | None) -> None:
    x, phi = torch.randn(700, 12), clustered(700, 10).requires_grad_()
    exact = phi.detach().double().requires_grad_()
    expected = dense_penalty(euclidean(x.double()), [exact], labels, euclidean, 1.0, "batch")
    (gradient,) = torch.autograd.grad(isometry_penalty(x, phi, labels), phi)
    (reference,) = torch.autograd.grad(expected, exact)
    assert gradient.dtype == torch.float32
    assert (gradient - reference).norm() / reference.norm() < 1e-6
