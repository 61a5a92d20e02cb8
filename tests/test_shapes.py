"""The rings are linked, the torus is a torus, and its classes nest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isoreg import InputError
from isoreg.datasets import entangled_rings, torus


def linking_number(a: Tensor, b: Tensor) -> float:
    """Gauss' double integral over two closed polygons, by their midpoints."""
    da, db = a.roll(-1, 0) - a, b.roll(-1, 0) - b
    gaps = (a + da / 2)[:, None] - (b + db / 2)[None]
    cross = torch.linalg.cross(da[:, None].expand_as(gaps), db[None].expand_as(gaps))
    return float(((gaps * cross).sum(-1) / gaps.norm(dim=-1) ** 3).sum() / (4 * math.pi))


def test_the_rings_are_linked() -> None:
    points, labels = entangled_rings(800)
    first, second = (points[labels == k].double() for k in (0, 1))
    assert abs(linking_number(first, second)) == pytest.approx(1, abs=1e-3)
    apart = second + torch.tensor([5.0, 0, 0])
    assert linking_number(first, apart) == pytest.approx(0, abs=1e-3)


def test_each_ring_is_a_circle_through_the_centre_of_the_other() -> None:
    points, labels = entangled_rings(200)
    for k, centre in ((0, [0.0, 0, 0]), (1, [1.0, 0, 0])):
        radii = (points[labels == k] - torch.tensor(centre)).norm(dim=1)
        torch.testing.assert_close(radii, torch.ones(100))


@pytest.mark.parametrize("n", [2, 9, 40])
def test_the_points_of_a_ring_lie_at_equal_angles(n: int) -> None:
    points, labels = entangled_rings(n)
    for k in (0, 1):
        ring = points[labels == k]
        gaps = (ring - ring.roll(1, 0)).norm(dim=1)
        expected = 2 * math.sin(math.pi / len(ring))
        torch.testing.assert_close(gaps, torch.full_like(gaps, expected), rtol=1e-4, atol=1e-4)


def test_a_seed_fixes_a_shape_and_another_gives_another_without_touching_torch_s_own() -> None:
    state = torch.random.get_rng_state()
    for shape, noise in ((torus, 0.0), (torus, 0.1), (entangled_rings, 0.1)):
        first, again, other = (shape(50, noise=noise, seed=seed)[0] for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)
        with pytest.raises(InputError, match="seed must be an integer of at least 0 and at most"):
            shape(50, noise=noise, seed=2**64)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("shape", [torus, entangled_rings])
def test_a_seed_gives_the_same_points_under_any_default_device(shape: Callable) -> None:
    expected = shape(50, noise=0.1)
    with torch.device("meta"):
        found = shape(50, noise=0.1)
    torch.testing.assert_close(list(found), list(expected), rtol=0, atol=0)


@given(n=st.integers(2, 60), noise=st.floats(0, 0.3), seed=st.integers(0, 5))
def test_rings_have_the_asked_number_of_points_and_their_seed_fixes_the_noise(
    n: int, noise: float, seed: int
) -> None:
    points, labels = entangled_rings(n, noise=noise, seed=seed)
    assert points.shape == (n, 3)
    assert labels.bincount().tolist() == [(n + 1) // 2, n // 2]
    assert torch.equal(points, entangled_rings(n, noise=noise, seed=seed)[0])


def test_noise_has_the_asked_size() -> None:
    clean, noisy = entangled_rings(20_000)[0], entangled_rings(20_000, noise=0.1)[0]
    assert (noisy - clean).std().item() == pytest.approx(0.1, rel=0.02)
    assert torus(1)[0].shape == (1, 3)


def test_points_of_the_torus_satisfy_its_equation() -> None:
    points, _ = torus(500, noise=0.0)
    x, y, z = points.unbind(1)
    tube = ((x**2 + y**2).sqrt() - 0.67) ** 2 + z**2
    torch.testing.assert_close(tube, torch.full((500,), 0.33**2), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("regions", ["cylinders", "bands"])
def test_each_class_lies_inside_one_class_of_the_level_above(regions: str) -> None:
    _, levels = torus(1600, regions=regions)
    assert [int(level.max()) + 1 for level in levels] == [2, 4, 8]
    for coarse, fine in itertools.pairwise(levels):
        for k in fine.unique():
            assert len(coarse[fine == k].unique()) == 1
    for level, classes in zip(levels, (2, 4, 8), strict=True):
        assert level.bincount().min() > 0.75 * 1600 / classes, "classes are of similar size"


def test_cylinders_are_cut_around_the_axis_and_bands_around_the_tube() -> None:
    points, (_, _, eight) = torus(800, noise=0.0)
    x, y, z = points.unbind(1)
    around = (torch.atan2(y, x) % (2 * math.pi)) * 8 / (2 * math.pi)
    assert ((around.long() - eight).abs() % 7 == 0).all()
    points, (_, _, eight) = torus(800, noise=0.0, regions="bands")
    x, y, z = points.unbind(1)
    along = (torch.atan2(z, (x**2 + y**2).sqrt() - 0.67) % (2 * math.pi)) * 8 / (2 * math.pi)
    assert ((along.long() - eight).abs() % 7 == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entangled_rings(1), "entangled_rings: n must be an integer of at least 2, got 1."),
        (lambda: entangled_rings(9, noise=-1), "entangled_rings: noise must be finite and >= 0"),
        (lambda: entangled_rings(9, noise=math.inf), "entangled_rings: noise must be finite and"),
        (lambda: torus(9, tube=0.0), "torus: tube and radius must be 0 < tube < radius"),
        (lambda: torus(9, tube=0.67), "torus: tube and radius must be 0 < tube < radius"),
        (lambda: torus(0), "torus: n must be an integer of at least 1, got 0."),
        (lambda: torus(1e3), "torus: n must be an integer of at least 1, got 1000.0."),
        (
            lambda: torus(9, seed=-1),
            f"torus: seed must be an integer of at least 0 and at most {2**64 - 1}, got -1.",
        ),
        (lambda: torus(9, radius=math.inf), "torus: tube and radius must be 0 < tube < radius, b"),
        (lambda: torus(9, tube="thin"), "torus: tube and radius must be 0 < tube < radius, both"),
        (lambda: torus(9, noise="some"), "torus: noise must be finite and >= 0, got 'some'."),
        (lambda: torus(9, tube=0.7), "torus: tube and radius must be 0 < tube < radius"),
        (lambda: torus(9, regions="bars"), "torus: regions must be 'cylinders' or 'bands'"),
    ],
)
def test_bad_shapes_are_refused(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_every_seed_and_every_number_that_is_allowed_gives_points() -> None:
    assert torus(9, seed=2**64 - 1)[0].isfinite().all()
    third = Fraction(1, 3)
    for shape in (torus, entangled_rings):
        torch.testing.assert_close(shape(9, noise=third)[0], shape(9, noise=1 / 3)[0])
    exact, rounded = torus(9, radius=2 * third, tube=third), torus(9, radius=2 / 3, tube=1 / 3)
    torch.testing.assert_close(exact[0], rounded[0])
