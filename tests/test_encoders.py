"""The benchmark of encoders: its losses, its measure, and what runs where no package is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.encoders import data, evaluation, study
from benchmarks.encoders.data import Objects
from benchmarks.encoders.evaluation import agreement, costs, index_of, overlap, search
from benchmarks.encoders.study import COST, DISTURBED, EVERY, STUDY, Task, chosen, tables
from benchmarks.encoders.training import LOSSES, Batch, coordinates, scaled, train
from benchmarks.study import Skip, new_lab, run


def points(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def objects(count: int = 120, width: int = 6) -> Objects:
    """Points under twice the Euclidean distance."""
    x = points(count, width)

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        return 2 * torch.cdist(x[rows], x[columns])

    test, validation, train_, more = torch.arange(count).split([30, 30, 40, count - 100])
    return Objects(x, compute, train_, more, validation, test)


def batch(progress: float = 0.0, places: Tensor | None = None) -> Batch:
    made = replace(objects(), x=points(120, 3, seed=1))
    places = points(8, 3, seed=2) if places is None else places
    return Batch(points(8, 3), made, torch.arange(8), None, places, progress)


def test_all_pairs_is_the_mean_squared_gap_of_all_pairs() -> None:
    b = batch()
    wanted = b.distances()
    gaps = [
        (float((b.points[i] - b.points[j]).norm()) - float(wanted[i, j])) ** 2
        for i in range(8)
        for j in range(i)
    ]
    assert LOSSES["all pairs (isometry)"](b).item() == pytest.approx(
        sum(gaps) / len(gaps), rel=1e-5
    )


def test_random_pairs_are_half_as_many_as_objects_and_no_object_is_in_two() -> None:
    b = batch()
    wanted = b.distances()
    gaps = [
        (float((b.points[i] - b.points[i + 4]).norm()) - float(wanted[i, i + 4])) ** 2
        for i in range(4)
    ]
    assert LOSSES["random pairs"](b).item() == pytest.approx(sum(gaps) / 4, rel=1e-5)


def test_objects_without_coordinates_count_for_nothing_in_the_regression() -> None:
    b = batch()
    some = b.places.clone()
    some[3:] = torch.nan
    expected = (b.points - b.places)[:3].square().sum(1).mean()
    torch.testing.assert_close(LOSSES["regression on MDS"](replace(b, places=some)), expected)
    none = LOSSES["regression on MDS"](replace(b, places=torch.full((8, 3), torch.nan)))
    assert none == 0


@pytest.mark.parametrize("progress, weight", [(0.0, 1.0), (0.25, 0.75), (1.0, 0)])
def test_the_regression_fades_out(progress: float, weight: float) -> None:
    b = batch(progress)
    expected = LOSSES["all pairs (isometry)"](b) + weight * LOSSES["regression on MDS"](b)
    torch.testing.assert_close(LOSSES["both, annealed"](b), expected)


def test_multidimensional_scaling_finds_points_of_euclidean_distances() -> None:
    wanted = torch.cdist(*[points(40, 3)] * 2)
    found = scaled(wanted, 3)
    torch.testing.assert_close(torch.cdist(found, found), wanted, atol=5e-3, rtol=1e-3)
    flat = scaled(torch.ones(5, 5) - torch.eye(5), 9)
    assert flat.shape == (5, 9), "fewer objects than dimensions"


def test_the_error_is_a_share_of_the_mean_distance_and_the_overlap_forgives_ties() -> None:
    wanted = torch.cdist(*[points(40, 3)] * 2)
    assert agreement(wanted, wanted) == {"RMSE": 0, "r": pytest.approx(1), "overlap": 1}
    shifted = agreement(wanted, wanted + wanted[~torch.eye(40, dtype=torch.bool)].mean())
    assert shifted["RMSE"] == pytest.approx(1, rel=1e-4)
    assert shifted["overlap"] == 1
    assert agreement(wanted, -wanted)["overlap"] < 0.3
    one, other = torch.ones(1, 30), torch.arange(30.0)[None]
    assert overlap(one, other, among=10) == 1, "all are as near as the tenth"
    assert overlap(other, -other, among=10) == 0
    assert overlap(other, -other, among=25) == pytest.approx(0.5)


def test_every_training_sees_as_many_objects_and_the_right_ones() -> None:
    asked: list[Tensor] = []
    plain = objects()
    places = torch.zeros(40, 5)
    for loss in LOSSES.values():
        for every in (False, True):
            asked.clear()
            how = {"passes": 400, "size": 10, "optimizer": "adam", "rate": 1e-3, "seed": 0}

            def seeing(batch: Batch, loss: Callable[[Batch], Tensor] = loss) -> Tensor:
                asked.append(batch.rows)
                return loss(batch)

            train(plain, seeing, places, every=every, **how)  # type: ignore[arg-type]
            seen = torch.cat(asked)
            assert len(seen) == (400 if not every else 420)
            allowed = torch.cat([plain.train, plain.more]) if every else plain.train
            assert set(seen.tolist()) == set(allowed.tolist())


def test_disturbed_objects_are_compared_by_distances_of_their_own() -> None:
    seen: list[Tensor] = []
    batches: list[Batch] = []

    def between(x: Tensor, other: Tensor | None = None) -> Tensor:
        return torch.cdist(x, x if other is None else other)

    def disturb(x: Tensor, noise: float) -> Tensor:
        seen.append(x + noise * torch.randn_like(x))
        return seen[-1]

    def loss(batch: Batch) -> Tensor:
        batches.append(batch)
        return batch.points.sum()

    made = replace(objects(), between=between, disturb=disturb)
    how = {"passes": 120, "size": 10, "optimizer": "adam", "rate": 1e-3, "seed": 0}
    for noise, count in ((0.0, 0), (0.1, 12)):
        train(made, loss, torch.zeros(40, 5), noise=noise, **how)  # type: ignore[arg-type]
        assert len(seen) == count
    for x, batch in zip(seen, batches[12:], strict=True):
        assert batch.disturbed is x
        torch.testing.assert_close(batch.distances(), torch.cdist(x, x))
        torch.testing.assert_close(
            batch.distances_in_twos(), (x[:5] - x[5:]).norm(dim=1), msg="each half's own"
        )
        off = torch.cdist(x, made.x[made.train]).amin(1)
        assert 0 < off.min() < off.max() < 0.6


def test_coordinates_belong_to_the_training_objects_and_no_other_has_any() -> None:
    made = objects()
    places = made.x[made.train][:, :3]
    batches: list[Batch] = []

    def loss(batch: Batch) -> Tensor:
        batches.append(batch)
        return batch.points.sum()

    how = {"passes": 120, "size": 10, "optimizer": "adam", "rate": 1e-3, "seed": 0, "every": True}
    train(made, loss, places, **how)  # type: ignore[arg-type]
    for batch in batches:
        known = ~batch.places.isnan().any(1)
        assert 0 < known.sum() < 10
        # points in the plane of the first three coordinates, so distances of them are no longer
        given = batch.distances()[known][:, known] / 2
        assert (torch.cdist(*[batch.places[known]] * 2) <= given + 1e-3).all()


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_an_encoder_learns_a_distance_of_new_objects(optimizer: str) -> None:
    made = objects(400)
    before, after = (
        evaluation.new_objects(
            train(
                made,
                LOSSES["both, annealed"],
                scaled(made.distances(made.train, made.train), 6),
                passes=passes,
                size=20,
                optimizer=optimizer,
                rate=3e-3,
                seed=0,
                every=True,
            ),
            made,
            made.test,
        )
        for passes in (20, 8_000)
    )
    assert after["RMSE"] < 0.5 * before["RMSE"]
    assert after["r"] > 0.8


@pytest.mark.parametrize("faiss", [False, True])
def test_a_search_on_the_points_finds_what_an_exact_one_does(
    faiss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(evaluation.importlib.util, "find_spec", lambda name: None)
    made = objects()
    assert search(lambda x: x, made) == {"recall 10": 1, "recall 100": 1}
    assert search(lambda x: -x[:, :1], made)["recall 10"] < 0.9
    known = points(20, 3)
    assert index_of(known)(known[4:6], 3)[:, 0].tolist() == [4, 5]
    found = costs(lambda x: x, made, seconds=0.01)
    assert found.pop("by") == ("FAISS" if faiss else "scikit-learn")
    assert all(0 < float(value) < 1 for value in found.values())


def test_the_setting_with_the_least_error_is_chosen() -> None:
    def tried(method: str, rate: float, error: float) -> dict[str, object]:
        key = {"distance": "d", "method": method, "optimizer": "adam", "rate": rate}
        return {"key": key, "figures": {"RMSE": error}}

    runs = [tried("a", 1.0, 0.3), tried("a", 2.0, 0.2), tried("a", 3.0, 0.25), tried("b", 1.0, 9.0)]
    runs.append({"key": {**runs[0]["key"], "seed": 0}, "figures": {"RMSE": 0.0}})  # type: ignore[dict-item]
    assert {name: how["rate"] for name, how in chosen(runs).items()} == {"a": 2.0, "b": 1.0}


def test_the_study_runs_and_shows_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Task(lambda folder, most: objects(), 4, passes=4_000, tried=4_000)  # type: ignore[misc]
    monkeypatch.setattr(study, "TASKS", {"words of none": made})
    monkeypatch.setattr(study, "NOISES", {"words of none": (0.1, 0.2)})
    found = run(STUDY, new_lab(STUDY, tmp_path / "e.json", quick=True))
    text = STUDY.page(found)
    for method in LOSSES:
        assert text.count(f"| {method} | 1 |") == 1
    assert f"both, annealed{EVERY}" in text
    for base in ("all pairs (isometry)", "random pairs", "regression on MDS"):
        tried = [r["key"] for r in found["runs"] if r["key"]["method"] == base + DISTURBED]
        assert [(key["noise"], "seed" in key) for key in tried[:2]] == [(0.1, False), (0.2, False)]
        assert len(tried) == 3
        assert text.count(f"| {base}{DISTURBED} | 1 |") == 1
    assert "What a query costs" in text
    assert sum(run["key"]["method"] == COST for run in found["runs"]) == 1
    study.draw(found, tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 10_000


def test_without_its_package_a_distance_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, load in {"wordfreq": data.words, "aeon": data.series, "ot": data.digits}.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(Skip, match=rf"{name} is not installed: pip install '.\[encoders\]'"):
            load(tmp_path, 20)
    found = run(STUDY, new_lab(STUDY, tmp_path / "e.json", quick=True))
    assert found["runs"] == []
    assert tables(found).startswith("# Networks")
    study.draw(found, tmp_path / "e.png")


@pytest.mark.parametrize(
    "load, package", [(data.words, "rapidfuzz"), (data.series, "aeon"), (data.digits, "ot")]
)
def test_the_distances_are_those_that_are_named(
    load: Callable[[Path, int], Objects], package: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    made = load(tmp_path, 40)
    every = torch.arange(len(made.x))
    table = made.distances(every, every)
    assert sorted(torch.cat([made.train, made.more, made.validation, made.test]).tolist()) == list(
        range(len(made.x))
    )
    torch.testing.assert_close(table, table.T)
    torch.testing.assert_close(table[3:5], made.compute(every[3:5], every))
    assert table.diagonal().abs().max() < 1e-6
    apart = table + 9 * torch.eye(len(table))
    assert apart.min() > 0
    if load is data.words:
        assert (table == table.round()).all()


def test_coordinates_are_computed_once(tmp_path: Path) -> None:
    made = objects()
    first = coordinates(made, 4, tmp_path / "places.pt")
    assert first.shape == (40, 4)
    broken = replace(made, compute=lambda r, c: torch.full((len(r), len(c)), torch.nan))
    assert torch.equal(coordinates(broken, 4, tmp_path / "places.pt"), first)


def test_a_word_is_spelt_by_place() -> None:
    spelt = data.spelt("Abz")
    assert spelt.shape == (12, 27)
    assert spelt.argmax(1).tolist() == [1, 2, 26, *[0] * 9]
