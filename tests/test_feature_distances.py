"""The benchmark of distances: the measure, distances without coordinates, places made of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.structure.agreement import AMONG, agreement, linear_fit
from benchmarks.structure.distances import (
    COMPARED,
    MANIFOLD,
    PLAIN,
    Truth,
    reference_of,
    some_pairs,
)
from benchmarks.structure.evaluation import pixels_of
from benchmarks.structure.methods import Batch, from_distances, isometry
from benchmarks.structure.shifts import placed_by_distances, shift_distances


def points(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_twice_the_distances_agree_but_for_the_unit() -> None:
    wanted = torch.cdist(points(60, 5), points(60, 5))
    found = agreement(wanted, 2 * wanted, torch.arange(60) % 3)
    assert found["r"] == pytest.approx(1)
    assert found["stress"] == pytest.approx(1)
    assert found["r of all pairs"] == pytest.approx(1)
    assert found["nearest"] == 1


def test_distances_of_something_else_agree_no_more_than_by_chance() -> None:
    wanted, other = (torch.cdist(x, x) for x in (points(400, 5), points(400, 5, seed=1)))
    found = agreement(wanted, other, torch.arange(400) % 2)
    assert abs(found["r"]) < 0.1
    assert abs(found["r of all pairs"]) < 0.1
    assert found["nearest"] == pytest.approx(AMONG / 399, abs=0.03)


def test_pairs_of_other_classes_count_among_all_pairs_alone() -> None:
    labels = torch.arange(40) % 2
    wanted = torch.cdist(points(40, 3), points(40, 3))
    strange = torch.where(labels[:, None] == labels, wanted, 7 * torch.rand(40, 40))
    found = agreement(wanted, strange, labels)
    assert found["r"] == pytest.approx(1)
    assert found["stress"] == pytest.approx(0)
    assert found["r of all pairs"] < 0.9


def test_a_linear_map_with_a_constant_is_found() -> None:
    features = points(50, 4)
    weights, constant = points(4, 3, seed=1), points(1, 3, seed=2)
    fit = linear_fit(features, features @ weights + constant)
    new = points(9, 4, seed=3)
    torch.testing.assert_close(fit(new), new @ weights + constant, rtol=1e-4, atol=1e-4)


def test_a_linear_map_is_found_though_features_are_dependent() -> None:
    features = torch.cat([points(50, 2), torch.zeros(50, 3)], 1)
    fit = linear_fit(features, features[:, :1])
    torch.testing.assert_close(fit(features), features[:, :1], rtol=1e-4, atol=1e-4)


def test_shift_distances_are_the_least_over_all_moves() -> None:
    images = torch.rand(6, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    found = shift_distances(images[:2], images[2:])
    for i, one in enumerate(images[:2]):
        for j, other in enumerate(images[2:]):
            moves = [
                (one - other.roll((down, right), (1, 2))).norm().item()
                for down in range(-2, 3)
                for right in range(-2, 3)
            ]
            assert found[i, j].item() == pytest.approx(min(moves), rel=1e-4)


def test_a_moved_image_is_at_no_distance_and_distances_are_symmetric() -> None:
    images = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    moved = images.roll((2, -1), (2, 3))
    assert shift_distances(images, moved).diagonal().max() < 1e-2
    too_far = shift_distances(images, images.roll(4, 2)).diagonal()
    assert too_far.min() > 1
    torch.testing.assert_close(shift_distances(images), shift_distances(images).T)
    assert shift_distances(images).diagonal().abs().max() == 0


def test_places_made_of_distances_have_these_distances_for_new_points_too() -> None:
    known, new = 3 + points(40, 3), 3 + points(10, 3, seed=1)
    place = placed_by_distances(known, torch.cdist, 3)
    torch.testing.assert_close(
        torch.cdist(place(new), place(known)), torch.cdist(new, known), rtol=1e-3, atol=1e-3
    )


def test_fewer_dimensions_keep_the_widest_directions() -> None:
    known = points(80, 3) * torch.tensor([10.0, 5.0, 0.01])
    place = placed_by_distances(known, torch.cdist, 2)
    torch.testing.assert_close(
        torch.cdist(place(known), place(known)), torch.cdist(known, known), rtol=0.01, atol=0.05
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_penalty_of_given_distances_is_that_of_the_points_they_belong_to(
    shuffled: bool,
) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    batch = Batch(points(20, 4), torch.arange(20) % 2, points(20, 5, seed=1))

    def loss(build: object) -> float:
        torch.manual_seed(0)
        with build(model, 0.7, 5) as objective:  # type: ignore[operator]
            value: float = objective.loss(batch).item()
            return value

    by_points = loss(isometry(shuffled=shuffled))
    assert loss(from_distances(lambda x: torch.cdist(x, x), shuffled=shuffled)) == pytest.approx(
        by_points, rel=1e-4
    )
    plain = F.cross_entropy(model(batch.x), batch.labels).item()
    assert not math.isclose(by_points, plain, rel_tol=1e-2)


def test_every_method_is_asked_about_the_distances_it_was_trained_with() -> None:
    for reference, methods in COMPARED.items():
        assert {reference_of(name) for name in methods} == {reference}
    assert reference_of(PLAIN) in COMPARED


def test_the_kept_pairs_are_of_one_class_each_with_both_its_distances() -> None:
    images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 2
    own = torch.cdist(images.flatten(1), images.flatten(1))
    by_manifold = torch.where(labels[:, None] == labels, own + 1, -1)
    wanted, found = some_pairs(pixels_of, Truth(images, labels, {MANIFOLD: by_manifold}))
    assert len(wanted) == 2 * 15 * 14 // 2
    assert min(wanted) > 1, "a pair of two classes, or of an image with itself"
    assert found == pytest.approx([distance - 1 for distance in wanted], abs=0.011)
