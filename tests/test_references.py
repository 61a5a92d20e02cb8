"""What features may be compared with in place of raw inputs."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import isoreg
from isoreg import references
from isoreg.errors import InputError
from isoreg.references import _patterns, _walks
from isoreg.references._patterns import _normalised_patches, _whitening
from isoreg.references._walks import _count_parts, commute_places, place_among


def images(n: int = 60, *, seed: int = 0, side: int = 12, channels: int = 1) -> Tensor:
    """Bars at random places: something to learn patterns from."""
    generator = torch.Generator().manual_seed(seed)
    found = 0.05 * torch.rand(n, channels, side, side, generator=generator)
    for index, place in enumerate(torch.randint(1, side - 2, (n,), generator=generator).tolist()):
        rows = index % 2 == 0
        found[index, :, place : place + 2 if rows else None, None if rows else place] += 1
    return found


def rings(n: int, *, gap: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two circles around each other, so near that Euclidean distance mixes them."""
    angles = 2 * math.pi * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    ring = torch.arange(n) % 2
    radius = 1 + gap * ring
    return torch.stack([radius * angles.cos(), radius * angles.sin()], 1), ring


def test_blurring_is_the_convolution_of_its_formula() -> None:
    x, sigma, reach = torch.rand(2, 3, 6, 7, dtype=torch.float64), 0.9, 3
    weights = [math.exp(-(a**2) / (2 * sigma**2)) for a in range(-reach, reach + 1)]
    expected = torch.zeros_like(x)
    for u in range(6):
        for v in range(7):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    if 0 <= u + a < 6 and 0 <= v + b < 7:
                        g = weights[a + reach] * weights[b + reach] / sum(weights) ** 2
                        expected[:, :, u, v] += g * x[:, :, u + a, v + b]
    torch.testing.assert_close(references.blurred(sigma)(x), expected, rtol=1e-6, atol=1e-6)


def test_blurring_brings_a_shifted_stroke_nearer_than_pixels_say() -> None:
    x = torch.zeros(3, 1, 20, 20)
    x[0, 0, 5:15, 8], x[1, 0, 5:15, 9], x[2, 0, 5:15, 14] = 1, 1, 1
    plain, soft = torch.cdist(x.flatten(1), x.flatten(1)), references.blurred(2.0)(x).flatten(1)
    blurred = torch.cdist(soft, soft)
    assert plain[0, 1] == plain[0, 2]
    assert blurred[0, 1] < 0.5 * blurred[0, 2]


def test_patches_tell_apart_what_small_patterns_tell_apart() -> None:
    known, new = images(80), images(40, seed=1)
    reference = references.patches(known, size=3, filters=6, grid=1)
    features = reference(new)
    assert features.shape == (40, 6)
    assert (features >= 0).all()
    even = torch.arange(40) % 2 == 0
    distances = torch.cdist(features, features).fill_diagonal_(math.inf)
    assert (even[distances.argmin(1)] == even).all(), "bars across and bars down are mixed up"


def test_patch_activations_are_those_of_the_formula() -> None:
    x = images(40, channels=2)
    reference = references.patches(x, size=3, filters=4, grid=2)
    mean, white, centres = (part.double() for part in reference.learnt["patterns"])  # type: ignore[attr-defined]
    maps = torch.zeros(4, 10, 10, dtype=torch.float64)
    for u in range(10):
        for v in range(10):
            patch = x[0, :, u : u + 3, v : v + 3].double().flatten()
            patch = patch - patch.mean()
            patch = patch / (patch.square().mean() + 0.01).sqrt()
            distances = (((patch - mean) @ white) - centres).norm(dim=1)
            maps[:, u, v] = (distances.mean() - distances).clamp_min(0)
    cells = [maps[:, a : a + 5, b : b + 5].mean((1, 2)) for a in (0, 5) for b in (0, 5)]
    expected = torch.stack(cells, 1).flatten()
    torch.testing.assert_close(reference(x[:1])[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_whitening_takes_the_correlations_off_and_leaves_the_axes_where_they_are() -> None:
    mix = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.5], [0.0, 0.0, 4.0]])
    points = torch.randn(4000, 3) @ mix + 5
    mean, white = _whitening(points)
    covariance = (points - mean).T @ (points - mean) / len(points)
    torch.testing.assert_close(mean, points.mean(0))
    torch.testing.assert_close(white, white.T)
    expected = torch.linalg.inv(covariance + 0.1 * torch.eye(3))  # its square, floored at 0.1
    torch.testing.assert_close(white @ white, expected, rtol=1e-3, atol=1e-4)
    assert torch.linalg.eigvalsh(white).min() > 0


def test_as_many_patterns_as_patches_are_the_patches_themselves() -> None:
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    reference = references.patches(x, size=3, filters=4, grid=1)
    mean, white, centres = reference.learnt["patterns"]  # type: ignore[attr-defined]
    points = (_normalised_patches(x, 3)[:, 0] - mean) @ white
    assert torch.cdist(points, centres).amin(1).max() < 1e-4
    assert reference(x.double()).dtype == torch.float64
    with pytest.raises(InputError, match="must show 5 patches with contrast, got 4"):
        references.patches(x, size=3, filters=5, grid=1)


@pytest.mark.parametrize(("contrast", "shown"), [(0.06, 4), (0.04, 0)])
def test_patches_with_little_contrast_are_no_patterns(contrast: float, shown: int) -> None:
    x = 0.5 + contrast * torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 2, 2).repeat(4, 1, 1, 1)
    with pytest.raises(InputError, match=f"must show 9 patches with contrast, got {shown}"):
        references.patches(x, size=2, filters=9, grid=1)


def test_no_more_is_unfolded_at_once_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sizes = torch.rand(20, 1, 8, 8), []
    normalised = _patterns._normalised_patches

    def counted(part: torch.Tensor, size: int) -> torch.Tensor:
        sizes.append(len(part))
        return normalised(part, size)

    expected = references.patches(x, size=3, filters=4)(x)
    monkeypatch.setattr(_patterns, "_normalised_patches", counted)
    monkeypatch.setattr(_patterns, "_AT_ONCE", 5 * 36 * 9)
    torch.testing.assert_close(references.patches(x, size=3, filters=4)(x), expected)
    assert sizes == [5] * 4 + [3] * 6 + [2]


def test_of_many_images_some_patches_are_drawn_from_many_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_patterns, "_PATCHES", 30)
    x = torch.rand(400, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    found = _patterns._sample_patches(x, 3, torch.Generator().manual_seed(0))
    assert found.shape == (30, 9)
    again = _patterns._sample_patches(x, 3, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    every = _normalised_patches(x, 3)  # 24 of each image
    origin = torch.cdist(found, every.flatten(0, 1)).argmin(1) // 24
    assert len(origin.unique()) > 9


@pytest.mark.parametrize("seed", range(4))
def test_centres_are_those_of_plain_loops_and_an_empty_cluster_keeps_its_own(seed: int) -> None:
    points = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed)) + 5
    points = torch.cat([points, *[points[:4]] * 2])  # so that some first centres coincide
    centres = points[torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:9]]
    for _ in range(10):
        nearest = [min(range(9), key=lambda k: float((p - centres[k]).norm())) for p in points]
        groups = [[p for p, n in zip(points, nearest, strict=True) if n == k] for k in range(9)]
        means = [torch.stack(group).mean(0) if group else None for group in groups]
        centres = torch.stack([c if m is None else m for c, m in zip(centres, means, strict=True)])
    found = _patterns._kmeans(points, 9, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found, centres)


def test_an_outlier_far_from_a_dense_cluster_has_a_place() -> None:
    x = torch.cat([0.01 * torch.randn(59, 2), torch.tensor([[1e5, 0.0]])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        placed = references.manifold(x, neighbors=5, dimensions=3)(x)
    assert placed.isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: references.blurred(1.0),
        lambda x: references.patches(x, size=3, filters=4),
        lambda x: references.scaled(references.blurred(1.0), x),
        lambda x: references.standardized(references.patches(x, size=3, filters=4), x),
        lambda x: references.manifold(x, reference=references.blurred(1.0), dimensions=3),
    ],
)
def test_references_are_learnt_and_used_in_full_precision_under_autocast(make: Callable) -> None:
    x = images(60)
    reference = make(x)
    expected = reference(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = [reference(x), make(x)(x)]
    for values in found:
        torch.testing.assert_close(values, expected, rtol=0, atol=0)  # of one dtype as well


def test_patches_do_not_see_brightness() -> None:
    x = images(40)
    reference = references.patches(x, size=3, filters=4)
    torch.testing.assert_close(reference(x + 3), reference(x), rtol=1e-3, atol=1e-3)


def test_patches_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    x = images(40)
    first, again, other = (
        references.patches(x, size=3, filters=4, seed=seed)(x) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    with pytest.raises(InputError, match="seed must be an integer of at least 0 and at most 1844"):
        references.patches(x, size=3, filters=4, seed=2**64)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: references.blurred(1.0),
        lambda x: references.patches(x, size=3, filters=4),
        lambda x: references.manifold(x, dimensions=3),
    ],
)
def test_a_default_device_is_not_that_of_a_reference(make: Callable) -> None:
    x = images(60)
    expected = make(x)(x)
    with torch.device("meta"):  # stands for any that the samples are not on
        found = make(x)(x)
    assert torch.equal(found, expected)


def test_references_leave_torch_s_random_numbers_where_they_were() -> None:
    before = torch.random.get_rng_state()
    references.patches(images(), size=3, filters=4)
    references.manifold(torch.rand(60, 3, generator=torch.Generator()), dimensions=3)
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=2), min_size=8, max_size=8))
def test_the_parts_of_a_graph_are_counted_along_its_edges_both_ways(edges: list) -> None:
    groups = [{place} for place in range(8)]
    for place, others in enumerate(edges):
        for other in others:
            joined = groups[place] | groups[other]
            for member in joined:
                groups[member] = joined
    assert _count_parts(torch.tensor(edges)) == len({min(group) for group in groups})


def test_the_walk_s_places_have_its_commute_times() -> None:
    """With all modes, squared distances are the commute times of the walk's Laplacian."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places, scales = commute_places(x, 6, 12)
    distances = torch.cdist(x, x)
    near, order = distances.sort(1)
    torch.testing.assert_close(scales, near[:, 6])
    weights = torch.zeros(40, 40, dtype=torch.float64)
    for i in range(40):
        for j in order[i, 1:7].tolist():
            weight = math.exp(-(float(distances[i, j]) ** 2) / float(scales[i] * scales[j]))
            weights[i, j] += weight / 2
            weights[j, i] += weight / 2
    degrees = weights.sum(1)
    values, vectors = torch.linalg.eigh(weights / (degrees[:, None] * degrees).sqrt())
    values, vectors = values.flip(0)[1:13], vectors.flip(1)[:, 1:13]
    expected = vectors / degrees.sqrt()[:, None] / (1 - 0.999 * values).sqrt()
    torch.testing.assert_close(
        torch.cdist(places, places), torch.cdist(expected, expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_few_modes_of_a_long_thin_set_are_those_of_all_of_them(dimensions: int) -> None:
    turn = torch.linspace(0, 18.85, 2000, dtype=torch.float64)
    spiral = torch.stack([turn.cos() * turn, turn.sin() * turn], 1)
    many, _ = commute_places(spiral, 10, 40)
    few, _ = commute_places(spiral, 10, dimensions)
    exact = many[:, :dimensions]
    torch.testing.assert_close(few.abs(), exact.abs(), atol=1e-3 * float(exact.abs().max()), rtol=0)
    along = many[:, 0].diff()
    assert (along > 0).all() or (along < 0).all()


def test_modes_that_are_not_found_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_walks, "_EIGEN_STEPS", 1)
    with pytest.warns(UserWarning, match="3 slowest modes of the walk were not found"):
        references.manifold(torch.rand(400, 2), dimensions=3)


def test_what_a_reference_has_learnt_is_constant() -> None:
    x = torch.rand(40, 3).requires_grad_()
    pictures = images().requires_grad_()
    for made, points in (
        (references.standardized(None, x), torch.rand(2, 3)),
        (references.scaled(None, x), torch.rand(2, 3)),
        (references.manifold(x, neighbors=4, dimensions=2), torch.rand(2, 3)),
        (references.patches(pictures, filters=4, size=3), images()),
    ):
        assert not copy.deepcopy(made)(points).requires_grad


def test_the_manifold_keeps_two_rings_apart_that_euclidean_distance_mixes() -> None:
    x, ring = rings(400, gap=0.5)
    new, new_ring = rings(100, gap=0.5, seed=1)
    reference = references.manifold(x, neighbors=8, dimensions=4)
    known, placed = reference(x), reference(new)
    for points, expected in ((known, ring), (placed, new_ring)):
        centres = torch.stack([known[ring == r].mean(0) for r in (0, 1)])
        assert (torch.cdist(points, centres).argmin(1) == expected).float().mean() == 1
    plain = torch.stack([x[ring == r].mean(0) for r in (0, 1)])
    assert (torch.cdist(x, plain).argmin(1) == ring).float().mean() < 0.7


def test_unconnected_parts_of_the_manifold_stay_at_a_finite_distance() -> None:
    x = torch.cat([torch.randn(40, 2), 1000 + torch.randn(40, 2), torch.randn(40, 2) - 1000])
    placed = references.manifold(x, neighbors=8, dimensions=2)(x)
    assert placed.isfinite().all()
    centres = torch.stack([part.mean(0) for part in placed.split(40)])
    assert torch.pdist(centres).min() > 5 * placed[:40].std(0).max()


def test_duplicates_have_one_place_and_no_nan() -> None:
    x = torch.randn(30, 2).repeat(3, 1)
    placed = references.manifold(x, neighbors=4, dimensions=3)(x)
    assert placed.isfinite().all()
    torch.testing.assert_close(placed[:30], placed[30:60])


@given(st.floats(0.01, 100.0), st.integers(0, 5))
def test_the_manifold_does_not_know_the_unit_or_the_origin_of_its_samples(
    unit: float, seed: int
) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first = references.manifold(x, neighbors=5, dimensions=3)(x)
    second = references.manifold(unit * x + 5, neighbors=5, dimensions=3)(unit * x + 5)
    torch.testing.assert_close(
        torch.cdist(first, first), torch.cdist(second, second), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_the_spread_is_the_root_mean_squared_distance_of_samples(spread: float) -> None:
    x = torch.randn(200, 4)
    small = 1e-3 * x
    factors = [references.scaled(None, z, spread=spread).learnt["factor"] for z in (x, small)]  # type: ignore[attr-defined]
    assert factors[1] == pytest.approx(1e3 * factors[0])
    placed = references.scaled(None, x, spread=spread)(x)
    torch.testing.assert_close(torch.cdist(placed, placed).square().mean().sqrt().item(), spread)
    walk = references.manifold(x, dimensions=3, spread=spread).learnt["graph"][-1]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.cdist(walk, walk).square().mean().sqrt().item(), spread)


def test_samples_that_the_manifold_places_lie_at_means_of_its_places() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    reference = references.manifold(x, dimensions=3, spread=5.0)
    places, placed = reference.learnt["graph"][-1], reference(x)  # type: ignore[attr-defined]
    of_places, of_means = (torch.cdist(z, z).square().mean().sqrt() for z in (places, placed))
    torch.testing.assert_close(of_places.item(), 5.0)
    assert of_means < 0.99 * of_places
    again = references.scaled(reference, x, spread=5.0)(x)
    torch.testing.assert_close(torch.cdist(again, again).square().mean().sqrt().item(), 5.0)


@pytest.mark.parametrize("make", [references.scaled, references.standardized])
@pytest.mark.parametrize(
    ("dtype", "unit"),
    [(torch.float16, 1e-5), (torch.bfloat16, 1e-5), (torch.float32, 1e-22), (torch.float32, 1e20)],
)
def test_a_unit_may_be_small_or_large_for_the_type(
    make: Callable, dtype: torch.dtype, unit: float
) -> None:
    x = torch.rand(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (unit * x).to(dtype)
    found, expected = make(None, x)(x), make(None, x.double())(x.double())
    assert found.dtype == dtype
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=rounding)


def test_standardized_numbers_count_alike_unless_they_hardly_vary() -> None:
    x = torch.randn(2000, 4) * torch.tensor([1.0, 2.0, 1e-3, 0.0]) + torch.tensor([0, 9.0, 0, 5.0])
    found = references.standardized(None, x, spread=6.0)(x)
    assert torch.cdist(found, found).square().mean().sqrt().item() == pytest.approx(6.0, rel=1e-4)
    torch.testing.assert_close(found[:, :3] / x[:, :3], (found[0] / x[0])[:3].expand(2000, 3))
    square = x.unflatten(1, (2, 2))
    torch.testing.assert_close(references.standardized(None, square, spread=6.0)(square), found)
    half = references.standardized(None, x)(x[:2].bfloat16())
    assert half.dtype == torch.bfloat16
    one, two, hardly, never = found.std(0).tolist()
    assert 1 < two / one < 1.06
    assert hardly < 0.01 * one
    assert never == 0


@pytest.mark.parametrize(("learnt", "given"), [(4, 2), (4, 1), (1, 4)])
def test_standardized_takes_as_many_numbers_as_the_samples_have(learnt: int, given: int) -> None:
    reference = references.standardized(None, torch.rand(9, learnt))
    with pytest.raises(InputError, match=f"^standardized: .* of {learnt} .* samples, got {given}"):
        reference(torch.rand(5, given))


def test_references_go_into_the_regularizer_and_through_pickle() -> None:
    x, y = images(40), torch.arange(40) % 2
    patches = references.patches(x, size=3, filters=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 2))
    for reference in (
        references.blurred(1.0),
        references.scaled(patches, x),
        references.standardized(patches, x),
        references.manifold(x, reference=patches, neighbors=5, dimensions=4),
    ):
        again = pickle.loads(pickle.dumps(reference))
        torch.testing.assert_close(again(x[:5], "ignored"), reference(x[:5]))
        with isoreg.IsometryRegularizer(model, inputs=reference) as iso:
            model(x)
            expected = isoreg.isometry_penalty(reference(x), model[:-1](x), y)
            torch.testing.assert_close(iso(y), expected)


def test_a_rank_without_samples_has_a_reference_too() -> None:
    x = images(40)
    patches = references.patches(x, size=3, filters=4)
    for reference in (
        references.blurred(1.0),
        patches,
        references.scaled(patches, x),
        references.standardized(patches, x),
        references.manifold(x, reference=patches, neighbors=5, dimensions=4),
    ):
        assert reference(x[:0]).shape == (0, *reference(x[:1]).shape[1:])


NAMES = ["x", "images", "reference", "weights", "size", "grid", "patterns", "factor", "factors"]
NAMES += ["known", "scales", "places", "neighbors", "function", "self", "mask"]


@pytest.mark.parametrize("make", ["blurred", "patches", "scaled", "standardized", "manifold"])
def test_no_other_argument_of_a_call_takes_the_place_of_what_was_learnt(make: str) -> None:
    x = images(40)
    reference = {
        "blurred": lambda: references.blurred(1.0),
        "patches": lambda: references.patches(x, size=3, filters=4),
        "scaled": lambda: references.scaled(None, x),
        "standardized": lambda: references.standardized(None, x),
        "manifold": lambda: references.manifold(x, neighbors=5, dimensions=4),
    }[make]()
    expected = reference(x)
    others = dict.fromkeys(NAMES, torch.zeros(3))
    assert torch.equal(reference(x, None, **others), expected)
    for name in NAMES:
        assert torch.equal(reference(**{name: x}), expected)
    for named, got in (({}, "no argument"), ({"x": x, "mask": x}, "x, mask")):
        with pytest.raises(InputError, match=f"needs the samples as its first .* got {got}"):
            reference(**named)


@pytest.mark.parametrize(
    "make",
    [
        references.scaled,
        references.standardized,
        lambda teacher, x: references.manifold(x, reference=teacher, neighbors=5, dimensions=4),
    ],
)
def test_a_network_in_a_reference_is_a_teacher_and_left_as_it_was(make: Callable) -> None:
    x = images(40)
    layers = [nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)]
    teacher = nn.Sequential(*layers)
    state = copy.deepcopy(teacher.state_dict())
    reference = make(teacher, x)
    found = reference(x[:9])
    torch.testing.assert_close(reference(x[:9]), found, rtol=0, atol=0)
    assert not found.requires_grad
    assert teacher.training
    assert all(torch.equal(state[name], now) for name, now in teacher.state_dict().items())
    teacher.eval()
    expected = make(lambda samples: teacher(samples).detach(), x)
    torch.testing.assert_close(expected(x[:9]), found)
    with pytest.raises(InputError, match=r"reference must be None, a network.* got Tensor\.$"):
        make(x, x)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 2))

    def forward(self, pixels: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.layers(pixels)


def test_a_reference_takes_what_a_model_is_called_with_by_name() -> None:
    x, model = images(40), Named()
    reference = references.blurred(1.0)
    expected = isoreg.isometry_penalty(reference(x), model.layers[:2](x))
    with isoreg.IsometryRegularizer(model, inputs=reference) as iso:
        for call in (lambda: model(pixels=x), lambda: model(x, weights=torch.ones(3))):
            call()
            torch.testing.assert_close(iso(None), expected)


def test_the_manifold_of_a_reference_is_that_of_its_values() -> None:
    x = images(60)
    patches = references.patches(x, size=3, filters=4)
    of_images = references.manifold(x, reference=patches, neighbors=5, dimensions=4)(x)
    of_values = references.manifold(patches(x), neighbors=5, dimensions=4)(patches(x))
    torch.testing.assert_close(of_images, of_values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: references.blurred(0.0), "blurred: sigma must be a positive number, got 0.0."),
        (lambda: references.blurred(1.0)(torch.rand(3, 4)),
         "blurred: images must be (b, c, h, w) floating points, got torch.float32 of shape (3,"),
        (lambda: references.patches(torch.rand(4, 12)),
         "patches: images must be (b, c, h, w) floating points with b >= 1, got torch.float32 of "
         "shape (4, 12)."),
        (lambda: references.patches(torch.rand(4, 1, 8, 8), size=7),
         "patches: images of (8, 8) must hold 3 by 3 patches of 7 by 7 pixels. Choose a smaller "
         "size or grid."),
        (lambda: references.patches(torch.ones(4, 1, 12, 12)),
         "patches: images must show 32 patches with contrast, got 0. Contrast is a standard "
         "deviation above 0.05: give finite images from 0 to 1, more of them, or ask for fewer "
         "filters."),
        (lambda: references.blurred(1.0)(torch.rand(2, 1, 0, 4)),
         "blurred: images must be (b, c, h, w) floating points, got torch.float32 of shape (2, 1, "
         "0, 4)."),
        (lambda: references.patches(images(), filters=1),
         "patches: filters must be an integer of at least 2, got 1."),
        (lambda: references.manifold(torch.rand(20, 2)),
         "manifold: 10 neighbors and 30 dimensions need at least 93 samples, got 20."),
        (lambda: references.manifold(torch.rand(11, 2), neighbors=10, dimensions=1),
         "manifold: 10 neighbors and 1 dimensions need at least 12 samples, got 11."),
        (lambda: references.manifold(torch.rand(20, 2), neighbors=0),
         "manifold: neighbors must be an integer of at least 1, got 0."),
        (lambda: references.manifold(torch.rand(20, 2), neighbors=2.5),
         "manifold: neighbors must be an integer of at least 1, got 2.5."),
        (lambda: references.manifold(torch.rand(200, 2), spread=0.0),
         "manifold: spread must be a positive number, got 0.0."),
        (lambda: references.manifold(torch.ones(20, 2), dimensions=1),
         "manifold: samples must differ from each other, got 20 that all coincide. Give other "
         "samples."),
        (
            lambda: references.manifold(
                torch.rand(20, 2), dimensions=1, reference=lambda x: 0 * x + 0.3
            ),
            "manifold: samples must differ from each other, got 20 that all coincide in the "
            "reference. Give other samples.",
        ),
        (lambda: references.scaled(None, torch.ones(5, 2)),
         "scaled: samples must be finite and differ from each other, got 5 whose variance is 0."),
        (lambda: references.scaled(None, torch.tensor([[0.0], [torch.nan]])),
         "scaled: samples must be finite and differ from each other, got 2 whose variance is nan."),
        (lambda: references.standardized(None, torch.ones(5, 2)),
         "standardized: samples must be finite and differ from each other, got 5 whose variance is "
         "0."),
        (lambda: references.blurred(math.inf), "blurred: sigma must be a positive number, got inf"),
        (lambda: references.blurred(1.0)([[0.0]]), "blurred: images must be a tensor, got list."),
        (lambda: references.patches("x"), "patches: images must be a tensor, got str."),
        (lambda: references.scaled(None, torch.rand(5, 2), spread="10"),
         "scaled: spread must be a positive number, got '10'."),
        (lambda: references.blurred("1"), "blurred: sigma must be a positive number, got '1'"),
        (lambda: references.patches(images(), size=1), "patches: size must be an integer of at"),
        (lambda: references.patches(images(), size=2.5), "patches: size must be an integer of at"),
        (lambda: references.patches(images(), grid=0), "patches: grid must be an integer of at"),
        (lambda: references.blurred(1.0)(torch.full((1, 1, 9, 9), 200).byte()),
         "blurred: images must be (b, c, h, w) floating points, got torch.uint8 of shape (1,"),
        (lambda: references.patches(torch.zeros(4, 1, 12, 12).byte()),
         "patches: images must be (b, c, h, w) floating points with b >= 1, got torch.uint8"),
        (lambda: references.patches(torch.zeros(0, 1, 12, 12)),
         "patches: images must be (b, c, h, w) floating points with b >= 1, got torch.float32"),
        (  # it was blurred along the channels
            lambda: references.blurred(1.0)(torch.rand(2, 9, 8, 3)),
            "blurred: images must be (b, c, h, w), got shape (2, 9, 8, 3), whose last axis seems "
            "to be that of the channels. Try images.permute(0, 3, 1, 2).",
        ),
        (lambda: references.patches(torch.rand(20, 9, 8, 3), size=2, grid=1, filters=2),
         "patches: images must be (b, c, h, w), got shape (20, 9, 8, 3), whose last axis"),
        (lambda: references.patches(torch.rand(4, 1, 8, 20), size=9),
         "patches: images of (8, 20) must hold 3 by 3 patches of 9 by 9 pixels."),
        (lambda: references.manifold(torch.rand(20, 2), dimensions=0),
         "manifold: dimensions must be an integer of at least 1, got 0."),
        (lambda: references.manifold(torch.rand(200, 2), spread=math.inf),
         "manifold: spread must be a positive number, got inf."),
        (lambda: references.manifold(torch.rand(20, 2), dimensions=1)(torch.arange(5)),
         "manifold: samples must be floating, got torch.int64."),
        *[
            (
                lambda spread=spread: references.manifold(torch.rand(200, 2), spread=spread),
                f"manifold: spread must be a positive number, got {spread!r}.",
            )
            for spread in ("a", None, True)
        ],
        (lambda: references.manifold(torch.rand(20, 2), neighbors=True),
         "manifold: neighbors must be an integer of at least 1, got True."),
        *[
            (
                lambda bad=bad: references.manifold(bad, dimensions=1),
                "manifold: distances between samples must be finite, got some that are not.",
            )
            for bad in (
                torch.eye(20) * torch.nan,
                torch.eye(20) * torch.inf,
                1e200 * torch.rand(20, 3, dtype=torch.float64),
            )
        ],
        (lambda: references.manifold(torch.rand(20, 2), dimensions=1)(torch.rand(5, 3)),
         "manifold: points must be of 2 numbers like the samples, got 3."),
        (lambda: references.standardized(None, torch.rand(20, 3))(torch.ones(5, 3).byte()),
         "standardized: points must be floating, got torch.uint8."),
        (lambda: references.patches(images(), filters=2, size=2)(torch.rand(3, 3, 12, 12)),
         "patches: images must have 1 channels like those that patterns were learnt from, got 3"),
        (lambda: references.scaled(None, torch.rand(5, 2), spread=0.0),
         "scaled: spread must be a positive number, got 0.0."),
        (lambda: references.standardized(None, torch.rand(5, 2), spread=math.inf),
         "standardized: spread must be a positive number, got inf."),
        (lambda: references.scaled(None, torch.tensor([[0.0], [3e200]], dtype=torch.float64)),
         "scaled: samples must be finite and differ from each other, got 2 whose variance is in"),
        (lambda: references.scaled(None, torch.arange(5)),
         "scaled: samples must be floating, got torch.int64."),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong_and_what_to_do(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_a_far_sample_in_the_first_row_moves_no_other() -> None:
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last = torch.cat([x, torch.full((1, 3), 1e7, dtype=torch.float64)])
    places = [references.manifold(y, neighbors=8)(x) for y in (last, last.flip(0))]
    torch.testing.assert_close(*map(torch.pdist, places), rtol=1e-5, atol=1e-6)


def test_numbers_of_numpy_are_numbers() -> None:
    x = torch.rand(5, 1, 4, 4)
    assert torch.equal(references.blurred(np.float32(1))(x), references.blurred(1)(x))
    whole, numpys = (
        {"size": kind(2), "filters": kind(3), "grid": kind(2)} for kind in (int, np.int64)
    )
    assert torch.equal(references.patches(x, **numpys)(x), references.patches(x, **whole)(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: references.standardized(references.blurred(1.0), x),
        lambda x: references.patches(x, size=3, filters=4),
        lambda x: references.manifold(x, neighbors=5, dimensions=4),
    ],
)
def test_a_compiled_step_takes_a_reference_into_its_graph(make: Callable) -> None:
    x, y = images(40), torch.arange(40) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 2))
    with isoreg.IsometryRegularizer(model, inputs=make(x)) as iso:

        def step() -> Tensor:
            return model(x).sum() + iso(y)

        expected = step()
        found = torch.compile(step, backend="aot_eager", fullgraph=True)()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e5])
def test_the_manifold_of_data_far_from_zero_is_that_of_the_data_at_zero(offset: float) -> None:
    points = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    points = (points * 64).round() / 64  # so that an offset rounds nothing away
    near = references.manifold(points, neighbors=8, dimensions=4)(points)
    far = references.manifold(points + offset, neighbors=8, dimensions=4)(points + offset)
    torch.testing.assert_close(torch.cdist(far, far), torch.cdist(near, near), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("power", [-100, -60, 60])
def test_the_manifold_of_data_in_another_unit_is_the_same(power: int) -> None:
    points = torch.randn(90, 3, generator=torch.Generator().manual_seed(0)).double()
    one = references.manifold(points, neighbors=8, dimensions=4)
    other = references.manifold(points * 2.0**power, neighbors=8, dimensions=4)
    between = points[:9] + 0.1
    torch.testing.assert_close(other(between * 2.0**power), one(between))


def test_the_fewest_samples_that_are_allowed_suffice() -> None:
    for samples, neighbors, dimensions in ((12, 10, 1), (93, 10, 30), (6, 1, 1)):
        points = torch.randn(samples, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a graph in pieces
            place = references.manifold(points, neighbors=neighbors, dimensions=dimensions)
        assert place(points).shape == (samples, dimensions)
        assert place(points).isfinite().all()


def test_a_graph_in_pieces_is_warned_of_with_their_number_and_a_whole_one_is_not() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="falls into 2 parts"):
        references.manifold(torch.cat([points, points + 100]), neighbors=6, dimensions=3)
    alone = torch.cat([points, torch.full((1, 3), 1e6)])  # no walk reaches it
    with pytest.warns(UserWarning, match="falls into 2 parts"):
        references.manifold(alone, neighbors=10, dimensions=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        references.manifold(points, neighbors=10, dimensions=3)


def test_a_manifold_of_one_type_places_points_of_another() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    place = references.manifold(points, neighbors=10, dimensions=3)
    assert place(points.double()).dtype == torch.float64
    assert place(points).dtype == torch.float32
    torch.testing.assert_close(place(points.double()).float(), place(points), rtol=1e-3, atol=1e-3)


def test_new_points_lie_in_the_mean_of_one_more_sample_than_the_graph_has_neighbours() -> None:
    known = torch.tensor([[0.0], [1.0], [3.0], [100.0], [-200.0]])
    scales, places = torch.tensor([1.0, 2.0, 4.0, 1.0, 1.0]), torch.eye(5)
    found = place_among(torch.tensor([[0.5]]), known, scales, places, neighbors=2)
    own, distances = 2.5, torch.tensor([0.5, 0.5, 2.5])
    weights = (-distances.square() / (own * scales[:3])).exp()
    expected = torch.cat([weights / weights.sum(), torch.zeros(2)])
    torch.testing.assert_close(found[0].float(), expected)


@pytest.mark.parametrize("points", [[1.0, 2.0], None, torch.ones(4, 2, dtype=torch.uint8)])
def test_scaled_points_are_floating_tensors(points: object) -> None:
    reference = references.scaled(None, torch.rand(9, 2))
    with pytest.raises(InputError, match=r"^scaled: points must be (a tensor|floating), got"):
        reference(points)  # type: ignore[arg-type]
