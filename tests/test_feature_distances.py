"""The benchmark of distances: the measure, distances without coordinates, places made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.methods import attach
from benchmarks.structure import distances
from benchmarks.structure.agreement import AMONG, agreement, linear_fit
from benchmarks.structure.cifar import CIFAR_TRIALS
from benchmarks.structure.data import Data, Split
from benchmarks.structure.distances import (
    ALL,
    COMPARED,
    PIXELS,
    PLACED,
    PLAIN,
    SHIFTS,
    Asked,
    Truth,
    agreements,
    reference_of,
    some_pairs,
)
from benchmarks.structure.distances_report import STUDY, tables
from benchmarks.structure.evaluation import pixels_of
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.shifts import placed_by_distances, shift_distances
from benchmarks.structure.training import mlp
from benchmarks.structure.trials import MANIFOLD, Trial, isometry
from benchmarks.study import new_lab, run


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


def test_the_nearest_by_the_reference_must_be_among_ten_others_by_the_features() -> None:
    n, step = 30, torch.arange(30)
    around = (step - step[:, None]) % n  # 0 for oneself, else all ranks from 1
    wanted = ((around - AMONG) % n + 1.0).fill_diagonal_(0)  # the nearest is ten further on
    labels = torch.zeros(n)
    assert agreement(wanted, around.float(), labels)["nearest"] == 1
    eleven = torch.where(around == AMONG, AMONG + 1.5, around.float())
    assert agreement(wanted, eleven, labels)["nearest"] == 0
    assert agreement(around.float(), wanted, labels)["nearest"] == 0


def test_a_small_direction_beside_a_large_mean_is_not_cut_off() -> None:
    features = 5 + 1e-3 * points(10_000, 20)
    places = 1e3 * (features - 5)[:, :3]
    assert (linear_fit(features, places)(features) - places).abs().max() < 0.05


def test_directions_that_the_landmarks_do_not_have_are_left_empty() -> None:
    flat = points(40, 2)
    place = placed_by_distances(flat, torch.cdist, 5)
    new = points(10, 2, seed=1)
    torch.testing.assert_close(
        torch.cdist(place(new), place(new)), torch.cdist(new, new), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_penalty_of_given_distances_is_that_of_the_points_they_belong_to(
    shuffled: bool,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, labels, reference = points(20, 4), torch.arange(20) % 2, points(20, 5, seed=1)

    def loss(trial: Trial) -> float:
        torch.manual_seed(0)
        with attach(model, trial.recipe(0.7, 5)) as objective:
            return float(objective(x, labels, reference=reference).detach())

    by_points = loss(isometry(shuffled=shuffled))
    options = {"distances": lambda x: torch.cdist(x, x), "shuffled": shuffled}
    assert loss(Trial("given-distances", options=options)) == pytest.approx(by_points, rel=1e-4)
    plain = F.cross_entropy(model(x), labels).item()
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


def small_task(count: int = 80) -> Data:
    """Images of two classes whose pixels, halves of pixels and doubled pixels are references."""
    x = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.arange(count) % 4)
    flat = x.flatten(1)
    places = {PIXELS: x, MANIFOLD: flat[:, :12], PLACED: 2 * flat}
    return Data(split, split, split, [[0, 2], [1, 3]], places)


def asked_about(data: Data) -> Asked:
    x = data.test.x
    tables = {name: data.references[name].flatten(1) for name in (PIXELS, MANIFOLD)}
    distances = {name: torch.cdist(points, points) for name, points in tables.items()}
    distances[SHIFTS] = 2 * distances[PIXELS]
    return Asked(data, Truth(x, data.coarse(data.test.fine), distances), pixels_of)


def test_features_are_compared_as_they_are_and_after_a_map_to_each_reference_s_own_places() -> None:
    data = small_task()
    stretch = torch.linspace(0.1, 5, 25)
    found = agreements(lambda x: x.flatten(1) * stretch, asked_about(data), Settings())
    for name in (PIXELS, MANIFOLD, SHIFTS):
        assert found[name]["fitted r"] == pytest.approx(1, abs=1e-3)
        assert found[name]["fitted stress"] == pytest.approx(0, abs=1e-2), "the map has the unit"
        assert found[name]["fitted nearest"] == 1
        assert found[name]["r"] < 0.98
        assert found[name]["stress"] > 0.1


@pytest.mark.parametrize("name", [name for name in (ALL | CIFAR_TRIALS) if "shuffled" in name])
def test_only_a_control_depends_on_who_is_exchanged_with_whom(name: str) -> None:
    methods = ALL | CIFAR_TRIALS
    ours = name.replace("control: ", "isometry, ").replace(", shuffled", "")
    assert methods[ours].reference == methods[name].reference
    x = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 2
    torch.manual_seed(0)
    model = mlp(x[0], 2, replace(Settings(), width=8))

    def losses(trial: Trial) -> set[float]:
        found = set()
        for seed in range(3):
            torch.manual_seed(seed)
            with attach(model, trial.recipe(0.5, 36)) as objective:
                found.add(round(objective(x, labels, reference=x).item(), 5))
        return found

    assert len(losses(methods[ours])) == 1
    assert len(losses(methods[name])) > 1


def test_a_head_predicts_coordinates_of_the_reference_that_isometry_is_compared_with() -> None:
    for reference, methods in COMPARED.items():
        head = methods[f"{reference} predicted by a head"]
        assert head.reference == (PLACED if reference == SHIFTS else reference)


def test_strengths_are_chosen_by_r_on_images_that_are_not_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float, int]] = []

    def ask(settings: Settings, data_dir: object, folder: Path, validate: bool) -> Asked:
        del settings, data_dir, folder
        data = small_task()
        return replace(asked_about(data), data=replace(data, groups=[[0], [1 + validate]]))

    def train(data: Data, *_: object, strength: float, seed: int, **__: object) -> nn.Sequential:
        seen.append((data.groups[1] == [2], strength, seed))
        return nn.Sequential(nn.Flatten(), nn.Linear(25, 2))

    r = {0.1: 0.5, 0.5: 0.9, 2.0: 0.7, 8.0: 0.6}

    def agree(*_: object) -> dict[str, dict[str, float]]:
        r_of_last = r.get(seen[-1][1], 0.0) if seen else 0.0
        plain = {"r": r_of_last, "stress": 0.1, "r of all pairs": 0.5, "nearest": 0.5}
        figures = plain | {f"fitted {name}": 0.1 for name in plain}
        return dict.fromkeys(COMPARED, figures)

    name = f"isometry, {PIXELS}"
    few = {PLAIN: ALL[PLAIN], name: ALL[name]}
    for what, stand_in in {"asked": ask, "train": train, "agreements": agree, "ALL": few}.items():
        monkeypatch.setattr(distances, what, stand_in)
    monkeypatch.setattr(distances, "coarse_accuracy", lambda *_: 0.9)
    monkeypatch.setattr(distances, "some_pairs", lambda *_: [])
    monkeypatch.setattr(distances, "UNTRAINED", ())
    out = tmp_path / "distances.json"
    found = run(STUDY, new_lab(STUDY, out, seeds=2))
    tried, measured = (
        [call for call in seen if (call[2] == SEARCH_SEED) is kind] for kind in (True, False)
    )
    assert all(validate for validate, _, _ in tried), "a strength was tried on test images"
    assert {strength for _, strength, _ in tried} == {0.0, *r}
    assert not any(validate for validate, _, _ in measured)
    assert [call[1:] for call in measured] == [(0.0, 0), (0.5, 0), (0.0, 1), (0.5, 1)]
    before = out.read_bytes()
    monkeypatch.setattr(distances, "asked", None)
    run(STUDY, new_lab(STUDY, out, seeds=2))
    assert out.read_bytes() == before, "a finished benchmark reads no image"
    assert len(found["runs"]) == 9


def test_every_cell_of_the_tables_is_the_figure_of_its_row_and_column() -> None:
    figures = ("r", "stress", "r of all pairs", "nearest")
    names = [*figures, *(f"fitted {figure}" for figure in figures)]
    own = {
        reference: {figure: (10 * i + j) / 1000 for j, figure in enumerate(names)}
        for i, reference in enumerate(COMPARED)
    }
    run = {"key": {"method": PLAIN, "seed": 0}, "figures": {"coarse": 0.5, **own}}
    tried = {
        "key": {"method": PLAIN, "strength": 0.0},
        "figures": {"coarse": 0.5, "best r": 1, "r": 0.25, "fitted r": 0.75},
    }
    text = tables({"settings": {}, "runs": [tried, run]})
    for i, reference in enumerate(COMPARED):
        table = text.split(f"## {reference.capitalize()}")[1]
        cells = next(line for line in table.splitlines() if line.startswith(f"| {PLAIN}"))
        expected = [f"{own[reference][name]:.3f}" for name in names]
        for place in (3, 7):
            expected[place] = f"{100 * own[reference][names[place]]:.1f}"
        assert [cell.strip() for cell in cells.strip("|").split("|")][3:] == expected, i
    assert f"| {PLAIN} | {MANIFOLD} | 0 | 50.0 | 0.250 | 0.750 | chosen |" in text
