"""The map: scikit-learn's rules, distances kept, labels of every kind, and what is refused."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from isoreg import InputError
from isoreg.diagnostics import distortion
from isoreg.embedding import IsometricEmbedding, estimator, fitting, training
from isoreg.embedding.fitting import _class_radius, _from_each_class
from isoreg.embedding.network import MapNetwork, Optimizer, batches, mlp
from isoreg.embedding.picture import draw, drawn_classes
from isoreg.embedding.rules import check_settings
from isoreg.embedding.targets import classmates_first
from isoreg.embedding.training import Pairs, Recipe

X, Y = load_iris(return_X_y=True)


def brief(**options: Any) -> IsometricEmbedding:
    """A map of a few epochs, for what does not depend on how good it is."""
    return IsometricEmbedding(**{"max_epochs": 3, "random_state": 0, **options})


def flat(n: int = 200) -> np.ndarray:
    """Points of a plane in five dimensions: a map can keep every distance."""
    draws = np.random.default_rng(0)
    plane, _ = np.linalg.qr(draws.normal(size=(5, 2)))
    return draws.uniform(-3, 3, size=(n, 2)) @ plane.T + 7


@parametrize_with_checks([IsometricEmbedding(max_epochs=2)])
def test_it_follows_every_rule_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_without_labels_distances_of_new_points_are_kept_in_the_units_of_the_data() -> None:
    data = flat()
    embedding = IsometricEmbedding(max_epochs=400, random_state=0).fit(data[:150])
    kept = distortion(torch.tensor(data[150:]), torch.tensor(embedding.transform(data[150:])))
    assert kept.correlation > 0.99
    assert kept.stress < 0.1
    assert embedding.score(data[150:]) == pytest.approx(-kept.stress, rel=1e-5)


def test_with_labels_classes_are_apart_and_lengths_within_them_are_distances() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(3, size=240)
    data = np.c_[draws.normal(size=(240, 2)), 0.8 * labels, draws.normal(size=240) / 10]
    known, new, y, y_new = train_test_split(data, labels, random_state=0)
    embedding = IsometricEmbedding(noise=0.2, max_epochs=800, random_state=0).fit(known, y)
    points = embedding.transform(new)
    plain = IsometricEmbedding(max_epochs=200, random_state=0).fit(known)
    accuracy = KNeighborsClassifier().fit(embedding.transform(known), y).score(points, y_new)
    unaware = KNeighborsClassifier().fit(plain.transform(known), y)
    assert accuracy > 0.8 > unaware.score(plain.transform(new), y_new)
    kept = distortion(torch.tensor(new), torch.tensor(points), torch.tensor(y_new))
    assert kept.correlation > 0.8
    learned = torch.tensor(embedding.transform(known))
    scale = distortion(torch.tensor(known), learned, torch.tensor(y)).scale
    assert scale == pytest.approx(1, abs=1e-3)


def test_the_unit_of_the_data_is_the_unit_of_the_map_and_an_offset_costs_nothing() -> None:
    first = brief().fit(X, Y)
    other = brief().fit(1000 * X + 1e6, Y)
    np.testing.assert_allclose(
        1000 * first.transform(X), other.transform(1000 * X + 1e6), rtol=0.02
    )
    small = brief().fit(X / 1024, Y)  # to the bit, since powers of two round nothing
    np.testing.assert_array_equal(1024 * small.transform(X / 1024), first.transform(X))


def test_the_same_seed_gives_the_same_map_and_another_one_another() -> None:
    torch.manual_seed(1)
    first = brief().fit_transform(X, Y)
    torch.manual_seed(2)
    assert (brief().fit_transform(X, Y) == first).all()
    assert (brief(random_state=1).fit_transform(X, Y) != first).all()


def test_fitting_leaves_the_random_numbers_of_torch_and_numpy_where_they_were() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    brief().fit(X, Y)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_pandas_goes_in_and_comes_out() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    embedding = brief().set_output(transform="pandas").fit(frame, pd.Series(Y))
    points = embedding.transform(frame)
    assert list(points) == ["isometricembedding0", "isometricembedding1"]
    assert list(embedding.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        embedding.transform(frame.rename(columns={"a": "z"}))


def test_it_works_in_a_pipeline_and_a_grid_search() -> None:
    pipe = make_pipeline(StandardScaler(), brief())
    search = GridSearchCV(pipe, {"isometricembedding__near": [0.0, 1.0]}, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_pickle_of_a_version_without_an_option_has_its_default() -> None:
    embedding = brief(beta=1.0).fit(X, Y)
    points, options = embedding.transform(X), embedding.get_params()
    del embedding.near, embedding.cache
    again = pickle.loads(pickle.dumps(embedding))
    assert again.get_params() == options
    assert again.score(X, Y) < 0
    np.testing.assert_array_equal(again.fit(X, Y).transform(X), points)


def test_a_pickle_and_a_file_of_skops_give_the_same_points() -> None:
    io = pytest.importorskip("skops.io")
    embedding = brief().fit(X, Y)
    points = embedding.transform(X)
    again = pickle.loads(pickle.dumps(embedding))
    assert (again.transform(X) == points).all()
    assert not again.network_.training
    data = io.dumps(embedding)
    kinds = io.get_untrusted_types(data=data)
    assert kinds == ["isoreg.embedding.estimator.IsometricEmbedding"]
    loaded = io.loads(data, trusted=kinds)
    assert (loaded.transform(X) == points).all()
    assert loaded.stress_ == embedding.stress_


def test_a_map_is_read_from_a_file_that_stays_on_disk_without_a_warning(tmp_path: Path) -> None:
    embedding, path = brief().fit(X, Y), tmp_path / "map.joblib"
    joblib.dump(embedding, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = joblib.load(path, mmap_mode="r")
    np.testing.assert_array_equal(loaded.transform(X), embedding.transform(X))


def test_unknown_labels_are_used_for_distances_and_known_ones_for_classes() -> None:
    few = np.where(np.arange(len(Y)) % 10 == 0, Y, -1)
    embedding = IsometricEmbedding(random_state=0, max_epochs=150).fit(X, few)
    assert embedding.classes_.tolist() == [0, 1, 2]
    points = embedding.transform(X)
    known = KNeighborsClassifier(3).fit(points[few >= 0], few[few >= 0])
    assert known.score(points[few < 0], Y[few < 0]) > 0.85


def test_strings_are_classes_and_other_negative_numbers_are_too() -> None:
    named = np.array(["setosa", "versicolor", "virginica"])[Y].astype(object)
    named[0] = -1
    assert brief().fit(X, named).classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert brief().fit(X, Y - 3).classes_.tolist() == [-3, -2]


def test_levels_of_labels_are_columns_from_coarse_to_fine() -> None:
    fine = 2 * Y + (X[:, 0] > np.median(X[:, 0]))
    levels = np.c_[Y, np.where(np.arange(len(Y)) % 3 == 0, -1, fine)]
    embedding = IsometricEmbedding(random_state=0, max_epochs=150).fit(X, levels)
    assert embedding.classes_.shape == (len(set(fine)), 2)
    assert embedding.prototypes_.shape == (len(set(fine)), 2)
    points = embedding.transform(X)
    assert KNeighborsClassifier().fit(points, fine).score(points, fine) > 0.9


def test_a_clusterer_gives_the_classes_and_its_outliers_have_none() -> None:
    assert len(brief(clusterer=KMeans(4, n_init=1, random_state=0)).fit(X).classes_) == 4
    embedding = brief(clusterer=DBSCAN(eps=0.6)).fit(X)
    assert -1 in DBSCAN(eps=0.6).fit_predict(X)
    assert embedding.classes_.tolist() == [0, 1]


def test_early_stopping_ends_sooner_and_keeps_the_best_network() -> None:
    data = np.random.default_rng(0).normal(size=(80, 30))  # soon learned by heart
    embedding = brief(early_stopping=True, n_iter_no_change=5, max_epochs=400).fit(data)
    assert embedding.n_iter_ < 400
    assert embedding.history_["stress"][-1] > min(embedding.history_["stress"])
    assert embedding.n_iter_ == embedding.history_["step"][-1]
    assert embedding.stress_ == pytest.approx(min(embedding.history_["stress"]), rel=1e-5)


def test_two_samples_are_enough_to_learn_from_and_one_is_not() -> None:
    stopped = {"early_stopping": True, "validation_fraction": 0.25, "max_epochs": 1}
    assert brief(**stopped).fit(X[:4]).stress_ >= 0
    with pytest.raises(ValueError, match="at least 2 samples to learn from, got 1 of 3"):
        brief(**stopped).fit(X[:3])


def test_a_network_of_ones_own_is_copied_trained_and_pickled() -> None:
    own = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    before = own[0].weight.clone()
    embedding = brief(network=own).fit(X)
    assert torch.equal(own[0].weight, before)
    assert not torch.equal(embedding.network_.body[0].weight, before)
    points = embedding.transform(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedding)).transform(X), points)


@pytest.mark.parametrize("own", [None, nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))])
@pytest.mark.parametrize(
    "later", [{"n_components": 3}, {"network": nn.Linear(4, 3)}, {"network": None}]
)
def test_a_parameter_that_is_set_after_fit_changes_nothing_until_the_next(
    own: nn.Module | None, later: dict[str, Any]
) -> None:
    embedding = brief(network=own).fit(X)
    points, names = embedding.transform(X), embedding.get_feature_names_out().tolist()
    embedding.set_params(**later)
    again = pickle.loads(pickle.dumps(embedding))
    for one in (embedding, again):
        np.testing.assert_array_equal(one.transform(X), points)
        assert one.get_feature_names_out().tolist() == names
        assert one.set_output(transform="pandas").transform(X).shape == (150, 2)
        assert one.plot(X) is not None
    assert again.get_params()["n_components"] == embedding.n_components
    embedding.set_output(transform="default").set_params(network=None, n_components=3)
    assert pickle.loads(pickle.dumps(embedding.fit(X))).transform(X).shape == (150, 3)
    assert len(embedding.get_feature_names_out()) == 3


def test_a_pickle_without_what_was_fitted_is_read_by_its_parameters() -> None:
    embedding = brief().fit(X)
    points = embedding.transform(X)
    del embedding._fitted_components, embedding._fitted_own  # as earlier versions wrote it
    again = pickle.loads(pickle.dumps(embedding))
    np.testing.assert_array_equal(again.transform(X), points)
    assert len(again.get_feature_names_out()) == 2


def test_the_trained_module_maps_rows_as_transform_does() -> None:
    embedding = brief().fit(X, Y)
    with torch.no_grad():
        points = embedding.network_(torch.as_tensor(X))
    np.testing.assert_array_equal(points.numpy(), embedding.transform(X))


def test_a_length_within_a_class_is_a_distance_after_however_short_a_training() -> None:
    points = torch.tensor(brief().fit(X, Y).transform(X))
    found = distortion(torch.tensor(X), points, torch.tensor(Y))
    assert found.scale == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_length_within_a_class_is_a_distance_where_classes_are_many_and_small(seed: int) -> None:
    draws, labels = np.random.default_rng(seed), np.repeat(np.arange(300), 2)
    data = 3 * draws.normal(size=(300, 4))[labels] + draws.normal(size=(600, 4))
    fitted = brief(batch_size=64, random_state=seed).fit(data, labels)
    found = distortion(*map(torch.tensor, (data, fitted.transform(data), labels)))
    assert found.scale == pytest.approx(1, abs=0.01)
    assert fitted.stress_ == pytest.approx(found.stress, abs=0.01)
    assert fitted.score(data, labels) == pytest.approx(-found.stress, abs=0.01)


@pytest.mark.parametrize("size", [16, 256])
def test_the_unit_does_not_hang_on_the_few_samples_of_a_batch(size: int) -> None:
    draws, labels = np.random.default_rng(0), np.arange(2000) % 10
    data = 5 * draws.normal(size=(10, 6))[labels] + draws.normal(size=(2000, 6))
    scales = [
        distortion(*map(torch.tensor, (data, fitted.transform(data), labels))).scale
        for seed in range(4)
        for fitted in [brief(max_epochs=1, batch_size=size, random_state=seed).fit(data, labels)]
    ]
    assert scales == pytest.approx([1] * 4, abs=0.05)


def test_classmates_stand_together_and_before_those_that_have_none() -> None:
    classes = np.array([0, 1, -1, 0, 2, 1, -1, 0, 1, 1])
    places = np.array([9, 2, 0, 4, 1, 7, 6, 3, 8])
    found = classmates_first(places, classes).tolist()
    assert found[:4] == [9, 1, 0, 7]
    assert sorted(found[4:]) == [2, 3, 4, 6, 8]
    assert classmates_first(places, None) is places


def test_a_constant_column_changes_nothing() -> None:
    wide = np.c_[X, np.full(len(X), 5.0)]
    assert np.isfinite(brief().fit_transform(wide, Y)).all()


def test_progress_is_printed_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    brief(verbose=True).fit(X)
    found = r"\rstep 1/3, loss \d\.\d{3}, stress \d\.\d{3}\rstep 2/3, .*\rstep 3/3, loss .*\n"
    assert re.fullmatch(found, capsys.readouterr().out)


def test_the_line_of_progress_ends_where_a_training_stops_early(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopping = {"early_stopping": True, "n_iter_no_change": 1, "max_epochs": 400}
    fitted = brief(verbose=True, **stopping).fit(X, Y)
    assert fitted.n_iter_ < 400
    assert capsys.readouterr().out.endswith(f"stress {fitted.history_['stress'][-1]:.3f}\n")


@pytest.mark.parametrize(
    ("steps", "looks"), [(3, [1, 2, 3]), (82, [*range(3, 82, 3), 82]), (80, [*range(2, 81, 2)])]
)
def test_a_training_is_looked_at_at_most_40_times_and_at_its_end(
    steps: int, looks: list[int]
) -> None:
    history = brief(max_epochs=steps, network=nn.Linear(4, 2)).fit(X[:9]).history_
    assert history["step"] == looks
    assert len(history["loss"]) == len(history["stress"]) == len(looks)
    assert {type(x) for name in ("loss", "stress") for x in history[name]} == {float}


@pytest.mark.parametrize(
    ("stresses", "looks", "best"),
    [
        ([5.0, 4.0, 3.0, 3.0, 3.5, 3.0, 1.0], 6, 3),
        ([5.0, 4.0, 4.5, 4.5, 3.0, 9.0, 9.0, 9.0, 1.0], 8, 5),
        ([5.0, 6.0, 6.0, 4.0], 4, 4),
    ],
)
def test_with_a_patience_of_three_looks_the_best_weights_are_put_back(
    stresses: list[float], looks: int, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, seen = nn.Linear(2, 2), []

    def stress(*_: object) -> float:
        seen.append(body.weight.detach().clone())
        return stresses[len(seen) - 1]

    monkeypatch.setattr(training, "held_out_stress", stress)
    recipe = Recipe(len(stresses), 0.1, 0.0, 1.0, 1.0, 0.0, patience=3, verbose=False)
    order = iter([torch.arange(4)] * 20)
    pairs = Pairs(lambda at: torch.ones(len(at), len(at)), 1.0, None, torch.empty(0, 2))
    drawn = torch.Generator().manual_seed(0)
    found = training.train(body, torch.rand(4, 2), order, pairs, recipe, drawn, np.arange(4))
    assert found["stress"] == stresses[:looks]
    assert torch.equal(body.weight, seen[best - 1])


class Noted(nn.Module):
    """A body that notes in which mode it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.modes = nn.Linear(4, 2), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return self.inner(x)


def test_a_network_trains_in_training_mode_and_is_looked_at_in_eval_mode() -> None:
    fitted = brief(network=Noted(), max_epochs=2).fit(X[:9], Y[:9] + np.arange(9) % 2)
    modes = fitted.network_.body.modes
    assert modes == [False, False, *[True, False] * 2, *[False] * (len(modes) - 6)]


def test_frozen_layers_stay_as_they_are_and_each_parameter_has_one_optimizer() -> None:
    body = nn.Sequential(nn.Linear(4, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 2))
    before = body[0].weight.clone()
    fitted = brief(network=body).fit(X)
    assert torch.equal(fitted.network_.body[0].weight.float(), before)
    mixed = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizers = Optimizer(mixed, 0.1, 5)._optimizers
    groups = [p for one in optimizers for group in one.param_groups for p in group["params"]]
    assert sorted(map(id, groups)) == sorted(map(id, mixed.parameters()))
    assert [p.shape for p in mlp(4, 3).parameters() if p.ndim == 2] == [
        (160, 4), (160, 160), (160, 160), (3, 160)
    ]  # fmt: skip


def test_matrices_of_any_size_move_alike_in_a_step() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(128, 8, bias=False), nn.Linear(8, 8, bias=False))
    before = [p.detach().clone() for p in body.parameters()]
    Optimizer(body, 0.1, 10).step(body(torch.randn(200, 128)).square().sum())
    wide, small = ((p - b).std() for p, b in zip(body.parameters(), before, strict=True))
    assert 0.7 < wide / small < 1.4


def test_an_epoch_goes_over_each_sample_once_and_drops_what_is_left() -> None:
    drawn = batches(11, 4, torch.Generator().manual_seed(0))
    epochs = [[next(drawn).tolist() for _ in range(2)] for _ in range(30)]
    assert {len(batch) for epoch in epochs for batch in epoch} == {4}
    assert all(len({*first, *second}) == 8 for first, second in epochs)
    assert {place for epoch in epochs for batch in epoch for place in batch} == set(range(11))
    again = batches(11, 4, torch.Generator().manual_seed(0))
    assert [[next(again).tolist() for _ in range(2)] for _ in range(30)] == epochs


def test_what_the_body_takes_is_as_exact_as_its_own_type() -> None:
    mean = torch.tensor([1e6, 3.0], dtype=torch.float64)
    network = MapNetwork(nn.Linear(2, 2).double(), mean, 0.1, 1.0)
    rows = mean + torch.tensor([[1e-3, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(network.standard(rows), (rows - mean) / 0.1, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("labels", "noise"), [(None, 0.0), (Y, 1.0)])
def test_noise_is_by_default_none_without_classes_and_their_radius_with_them(
    labels: Any, noise: float
) -> None:
    chosen = brief(noise=noise).fit_transform(X, labels)
    np.testing.assert_array_equal(brief().fit_transform(X, labels), chosen)
    assert np.abs(brief(noise=0.5).fit_transform(X, labels) - chosen).max() > 0


def test_noise_is_measured_in_radii_of_the_classes_and_what_is_held_out_is_not_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def watched(
        body: Any, inputs: Any, order: Any, pairs: Any, recipe: Any, drawn: Any, held: Any
    ) -> Any:
        seen.append((recipe.noise, torch.cat([next(order) for _ in range(3)]), held))
        return training.train(body, inputs, order, pairs, recipe, drawn, held)

    monkeypatch.setattr(fitting, "train", watched)
    options = {"early_stopping": True, "validation_fraction": 0.2, "batch_size": 40}
    for state, scale in ((0, 1.0), (0, 9.0), (1, 1.0)):
        torch.manual_seed(len(seen))
        brief(**options, random_state=state, noise=0.5).fit(scale * X, Y)
    (noise, batch, held), same, other = seen
    assert set(held) | set(batch.tolist()) == set(range(150))
    assert len(held) == 30
    assert not set(held) & set(batch.tolist())
    assert same[0] == pytest.approx(noise)
    assert torch.equal(same[1], batch)
    assert not np.array_equal(other[2], held)
    learned = np.setdiff1d(np.arange(150), held)
    spread = np.sqrt(((X[learned] - X[learned].mean(0)) ** 2).mean())
    assert noise == pytest.approx(0.5 * _class_radius(X[learned], Y[learned]) / spread)
    brief(batch_size=40).fit(X, Y)
    assert len(seen[-1][2]) == 40, "a batch is looked at where none are held out"


def test_a_body_is_shown_normal_noise_of_the_asked_size_and_none_at_a_look() -> None:
    body, shown = nn.Linear(3, 2), []
    body.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    recipe = Recipe(1, 0.1, 0.25, 1.0, 1.0, 0.0, None, verbose=False)
    pairs = Pairs(lambda at: torch.ones(len(at), len(at)), 1.0, None, torch.empty(0, 2))
    order, drawn = iter([torch.arange(500)]), torch.Generator().manual_seed(0)
    training.train(body, torch.ones(500, 3), order, pairs, recipe, drawn, np.arange(9))
    assert (shown[0] - 1).std().item() == pytest.approx(0.25, rel=0.1)
    assert (shown[0] - 1).abs().max() < 1.5
    assert torch.equal(shown[1], torch.ones(9, 3))


def test_classes_are_sampled_alike() -> None:
    classes = np.array([0] * 9 + [1] * 2 + [-1] * 3 + [2] * 5)
    chosen = classes[_from_each_class(classes, 8)]
    assert np.bincount(chosen).tolist() == [3, 2, 3]
    assert len(_from_each_class(np.full(5, -1), 3)) == 3


def test_classes_lie_four_radii_apart_and_none_nearer_than_two() -> None:
    near = np.repeat([0.0, 1.0, 60.0], 20)
    data = near[:, None] + np.random.default_rng(0).normal(size=(60, 2))
    fitted = brief(max_epochs=1).fit(data, near.astype(int))
    places = fitted.prototypes_ / float(fitted.network_.unit)
    gaps = [np.linalg.norm(places[a] - places[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert gaps == pytest.approx([2.0, 4.0, 4.0], abs=0.1)


ALLOWED: dict[str, list[Any]] = {
    "n_components": [1], "beta": [0, 0.5], "beta_all": [0, 0.5], "near": [0, 9.9],
    "max_epochs": [1, None], "batch_size": [2], "learning_rate": [1e-9, 0.5],
    "noise": [0, 0.5, None], "validation_fraction": [1e-9, 0.999], "n_iter_no_change": [1],
}  # fmt: skip
REFUSED: dict[str, tuple[str, list[Any]]] = {
    "n_components": ("an integer at least 1", [0, 1.5, True, None]),
    "beta": ("a number at least 0", [-1e-9, np.inf, np.nan, True, None]),
    "beta_all": ("a number at least 0", [-1e-9, np.inf]),
    "near": ("a number at least 0 and below 10", [-1e-9, 10, np.inf]),
    "max_epochs": ("an integer at least 1 or None", [0, 1.5]),
    "batch_size": ("an integer at least 2", [1, 2.5]),
    "learning_rate": ("a number above 0 and below 1000", [0, 1000, np.inf]),
    "noise": ("a number at least 0 or None", [-1e-9, np.inf, "much"]),
    "validation_fraction": ("a number above 0 and below 1", [0, 1, 1.5]),
    "n_iter_no_change": ("an integer at least 1", [0, 1.5]),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_each_setting_has_its_limits(name: str) -> None:
    for value in ALLOWED[name]:
        check_settings(IsometricEmbedding(**{name: value}))
    rule, values = REFUSED[name]
    for value in values:
        text = re.escape(f"{name} must be {rule}, got {value!r}.")
        with pytest.raises(InputError, match=f"^{text}$"):
            check_settings(IsometricEmbedding(**{name: value}))


def test_integers_are_placed_between_integers_and_two_samples_make_a_map() -> None:
    whole = np.arange(12).reshape(6, 2)
    points = brief().fit(whole).transform(whole)
    assert points.dtype == np.float64
    assert brief().fit(whole[:2]).transform(whole).shape == (6, 2)


def test_a_score_takes_other_samples_of_the_same_columns_at_most_a_thousand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def metric(a: Any, b: Any) -> Any:
        assert a.dtype == b.dtype == np.float64
        return np.abs(a[:, None] - b).sum(-1)

    fitted, compared = brief(metric=metric).fit(X.round().astype(int)), []
    assert -1 < fitted.score(X.round().astype(int)) < 0
    with pytest.raises(ValueError, match="features"):
        fitted.score(X[:, :3])
    measure = estimator.distortion_of
    monkeypatch.setattr(
        estimator, "distortion_of", lambda d, m: compared.append(len(d)) or measure(d, m)
    )
    brief().fit(X).score(np.repeat(X, 8, axis=0) + np.arange(1200)[:, None])
    assert compared == [1000 * 999 // 2]


def test_scikit_learn_is_told_which_types_stay_and_which_labels_are_taken() -> None:
    utils = pytest.importorskip("sklearn.utils")
    if not hasattr(utils, "get_tags"):
        pytest.skip("scikit-learn before 1.6 has other tags")
    tags = utils.get_tags(IsometricEmbedding())
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
    assert tags.target_tags.two_d_labels
    assert tags.target_tags.multi_output


class Returned(nn.Module):
    """A network whose output is made into something else."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.make = nn.Linear(4, 2), make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.inner(x))


class OtherInTraining(nn.Linear):
    """A network that gives something else while it is trained."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__(4, 2)
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(super().forward(x)) if self.training else super().forward(x)


BAD: list[tuple[dict[str, Any], Any, Any, str]] = [
    ({}, X, np.zeros(len(X), int), "y must hold at least two classes, got 1"),
    ({}, X, np.full(len(X), -1), "y must hold at least two classes, got no class"),
    ({}, X, Y[:-1], "y must hold a label for each of 150 samples"),
    ({}, X, X[:, 0], "Unknown label type: continuous"),
    ({}, X, np.where(Y > 0, Y, np.nan), "y must not hold NaN"),
    ({}, X, np.c_[np.where(Y > 0, Y, -1), Y], "known from coarse to fine, got sample 0"),
    ({}, np.where(X > 6, np.nan, X), None, "Input X contains NaN"),
    ({}, np.ma.masked_greater(X, 6), None, "X must not be masked, got .* Fill them with numbers"),
    ({}, X, np.ma.masked_equal(Y, 2), "y must not be masked, got 50 masked of 150 entries"),
    ({}, np.ones((5, 3)), None, "got none but 0 among 5 samples. Do all samples coincide"),
    ({}, X[:1], None, "minimum of 2 is required"),
    ({"early_stopping": True}, X[:3], None, "must leave at least 2 samples to learn from, got 1"),
    ({"early_stopping": True, "validation_fraction": 0.3}, np.repeat(X[:3], 10, 0),
     np.repeat([0, 1, 2], 10),
     "hold out two samples whose distance is known and above 0, of one class .* among 9"),
    ({"early_stopping": "no"}, X, None, "early_stopping must be True or False, got 'no'"),
    ({"network": "mlp"}, X, None, "network must be a torch.nn.Module or None, got 'mlp'"),
    ({"network": nn.Linear(4, 3)}, X, None, r"points, got torch.float32 of shape \(2, 3\)"),
    ({"network": nn.Linear(3, 2)}, X, None, r"\(2, 4\) rows to \(2, 2\) points, got torch's error"),
    ({"network": nn.Linear(4, 2).half()}, X, None,
     "float64 numbers, got torch.float16 in 'weight'"),
    ({"network": nn.Linear(4, 2, device="meta")}, X, None, "numbers, got none yet in 'weight'"),
    ({"network": nn.Linear(4, 2).requires_grad_(False)}, X, None, "got points that no parameter"),
    ({"network": nn.Identity(), "n_components": 4}, X, None, "got points that no parameter"),
    ({"network": Returned(lambda x: (x,))}, X, None, "points, got tuple"),
    ({"network": Returned(lambda x: x / 0)}, X, None, "got points that are not finite"),
    ({"network": Returned(lambda x: x + 0j)}, X, None, r"got torch.complex64 of shape \(2, 2\)"),
    ({"network": OtherInTraining(lambda x: x * torch.nan)}, X, None,
     "training must stay finite, got a loss of nan at step"),
    ({"network": Returned(lambda x: x - x.mean(0))}, X, None,
     r"to \(2, 2\) points, got a point that depends on the row beside it, or on chance, in eval"),
    ({"network": nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))}, X,
     None, "got a point that depends on the row beside it"),
    ({"network": nn.Sequential(nn.TransformerEncoderLayer(4, 1, 8), nn.Linear(4, 2))}, X, None,
     "got a point that depends on the row beside it"),
    (
        {"network": Returned(lambda x: x.cumsum(0))},  # as in a recurrent network
        X,
        None,
        "got a point that depends on the row beside it",
    ),
    ({"network": Returned(lambda x: x + torch.rand_like(x))}, X, None, "or on chance, in eval"),
    ({"network": OtherInTraining(lambda x: (x, x))}, X, Y,
     r"give \(150, 2\) points in training mode as in eval mode, got tuple\. Switch off"),
    ({"network": OtherInTraining(lambda x: x[:, :1])}, X, None,
     r"in training mode as in eval mode, got shape \(150, 1\)"),
    ({"cache": 3, "metric": cdist}, X, None, "cache must be the path of a file or None, got int"),
    ({}, 1e40 * X, None, "largest distance must be between 1e-30 and 1e.30, got 7.085e"),
    ({}, 1e-100 * X, Y, "largest distance must be between 1e-30 and 1e.30, got 7.085e-100"),
    ({"clusterer": "k"}, X, None, "clusterer must have fit_predict"),
    ({"clusterer": KMeans(2)}, X, Y, "for a fit without labels, got y as well"),
    ({"clusterer": DBSCAN(eps=99)}, X, None, "DBSCAN must find at least two clusters, got 1"),
    ({"clusterer": KMeans(9)}, X[:5], None, "n_samples=5 should be >= n_clusters=9"),
    ({"device": "abacus"}, X, None, "device must be 'auto' or a device of this torch"),
    ({"device": "cuda:99"}, X, None, "device must be 'auto' or a device of this torch"),
    ({"device": "meta"}, X, None, "device must be 'auto' or a device of this torch"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "data", "y", "text"), BAD)
def test_what_cannot_be_is_refused_by_a_value_error(
    options: dict[str, Any], data: Any, y: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        brief(**options).fit(data, y)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_it_learns_where_the_caller_has_switched_gradients_off(switch: Callable[[], Any]) -> None:
    with switch():
        points = brief().fit_transform(X)
    np.testing.assert_array_equal(points, brief().fit_transform(X))


def test_rows_of_any_size_are_told_apart_where_distances_are_given() -> None:
    distances = cdist(X, X)
    given = {"metric": "precomputed", "noise": 1.0}
    expected = brief(**given).fit(X, Y, distances=distances)
    for size in (2.0**-700, 2.0**700):
        found = brief(**given).fit(size * X, Y, distances=distances)
        np.testing.assert_array_equal(found.transform(size * X), expected.transform(X))


def test_an_error_names_the_method_that_was_called() -> None:
    with pytest.raises(InputError, match=r"^IsometricEmbedding\.fit: beta must be"):
        brief(beta="auto").fit(X)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize(
    ("width", "length"),
    [
        *[(0.03, 0.005), (1.0, 0.2), (4.0, 1.0), (7.9, 1.0), (8.0, 2.0), (19.0, 2.0)],
        *[(20.0, 5.0), (39.0, 5.0), (40.0, 10.0), (7e4, 1e4)],
    ],
)
def test_the_bar_has_the_longest_round_length_within_a_quarter_of_the_map(
    offset: float, width: float, length: float
) -> None:
    points = [offset, -offset] + np.array([[0.0, 0.2], [1.0, 0.0], [0.5, 0.7]]) * width
    axes = draw(points, None, "", None)
    (bar,) = [line for line in axes.lines if line.get_gid() == "scale bar"]
    left, right = bar.get_xdata()
    assert left == points[:, 0].min()
    assert right - left == pytest.approx(length)
    (name,) = axes.texts
    assert name.get_text() == f"{length:g}"
    assert points[:, 1].min() > max(bar.get_ydata()) > name.get_position()[1]
    assert name.get_position()[0] == left


def test_points_that_coincide_have_no_bar_and_none_are_not_drawn() -> None:
    axes = draw(np.ones((3, 2)), None, "", None)
    assert len(axes.lines) == len(axes.texts) == 0
    axes = draw(np.eye(2), None, "", None)
    assert len(axes.lines) == 1
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.eye(2))
    with pytest.raises(InputError, match="must be a point to draw, got none."):
        draw(np.zeros((0, 2)), None, "", None)


def test_many_points_are_drawn_smaller_than_few() -> None:
    many, few = (draw(np.eye(n, 2), None, "", None).collections[0].get_sizes() for n in (900, 9))
    assert many < few


def test_labels_of_any_kind_name_their_classes() -> None:
    labels = np.array(["b", -1, "_a"], dtype=object)
    axes = draw(np.eye(3, 2), drawn_classes(labels, 3, None), "", None)
    assert [text.get_text() for text in axes.texts[:-1]] == ["_a", "b"]


def test_samples_of_one_class_are_drawn_though_no_map_is_learned_from_one() -> None:
    codes, names = drawn_classes(["a", "a"], 2, None)
    assert (codes.tolist(), names) == ([0, 0], ["a"])


@pytest.mark.parametrize("classes", [3, 10, 11, 24, 25])
def test_each_class_has_a_colour_and_few_are_named_where_they_lie(classes: int) -> None:
    labels = np.arange(4 * classes) % (classes + 1) - 1
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    axes = draw(points, drawn_classes(labels, len(labels), None), "", None)
    unknown, *drawn = axes.collections
    assert len(unknown.get_offsets()) == (labels == -1).sum()
    colours = [tuple(own.get_facecolor()[0]) for own in (unknown, *drawn)]
    assert len(set(colours)) == 1 + min(classes, 20)
    assert [own.get_label() for own in drawn] == [str(name) for name in range(classes)]
    for name, own in enumerate(drawn):
        np.testing.assert_allclose(own.get_offsets(), points[labels == name])
    named = {text.get_text(): text.get_position() for text in axes.texts[:-1]}
    assert list(named) == ([str(name) for name in range(classes)] if classes <= 24 else [])
    for name, place in named.items():
        np.testing.assert_allclose(place, np.median(points[labels == int(name)], axis=0))
    assert not any(spine.get_visible() for spine in axes.spines.values())
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0


@pytest.mark.parametrize(
    "ground, page, ink",
    [
        *[("white", "C0", "black"), ("#101418", "C0", "white"), ("none", "navy", "white")],
        # as bright as an eye sees them: green is, red and blue are not
        *[("red", "C0", "white"), ("lime", "C0", "black"), ("#007300", "C0", "white")],
        ("#6666ff", "C0", "white"),
    ],
)
def test_bar_and_names_are_read_on_any_ground(ground: str, page: str, ink: str) -> None:
    axes = Figure(facecolor=page).subplots()
    axes.set_facecolor(ground)
    draw(X[:, :2], drawn_classes(Y, len(Y), None), "", axes)
    written = [*axes.texts, *(line for line in axes.lines if line.get_gid() == "scale bar")]
    assert {each.get_color() for each in written} == {ink}
    halos = [text.get_path_effects()[0]._gc["foreground"] for text in axes.texts[:-1]]
    behind = ground if ground != "none" else page
    assert {to_hex(halo) for halo in halos} == {to_hex(behind)}


def test_without_a_ground_the_bar_has_the_colour_of_all_text() -> None:
    axes = Figure(facecolor="none").subplots()
    axes.set_facecolor("none")
    with rc_context({"text.color": "#767676"}):
        brief().fit(X, Y).plot(X, Y, axes=axes)
    assert {each.get_color() for each in (*axes.lines, *axes.texts)} == {"#767676"}
    assert not any(text.get_path_effects() for text in axes.texts)


def test_the_map_is_drawn_with_a_bar_whose_length_is_what_it_says() -> None:
    embedding = brief().fit(X, Y)
    axes = embedding.plot(X, np.where(Y == 2, -1, Y), unit="cm")
    (bar,) = [line for line in axes.lines if line.get_gid() == "scale bar"]
    length = float(np.ptp(bar.get_xdata()))
    assert axes.texts[-1].get_text() == f"{length:g} cm within a class"
    assert sum(len(c.get_offsets()) for c in axes.collections) == len(X)
    assert [text.get_text() for text in axes.texts[:-1]] == ["0", "1"]
    assert (axes.get_aspect(), axes.get_adjustable()) == (1, "datalim")
    axes = embedding.plot(X, np.c_[Y * 0, Y, Y % 2], unit=None)
    assert axes.texts[-1].get_text() == f"{length:g} within a class"
    assert [text.get_text() for text in axes.texts[:-1]] == ["0, 0, 0", "1", "0, 2, 0"]
    with pytest.raises(InputError, match="unit must be a text or None, got 3"):
        embedding.plot(X, unit=3)
    with pytest.raises(InputError, match="n_components must be 2 to be drawn, got 3"):
        brief(n_components=3).fit(X).plot(X)
    with pytest.raises(InputError, match="y must hold a label for each of 150 samples"):
        embedding.plot(X, Y[:1])


def test_the_radius_within_classes_is_a_mean_over_classes_of_two_or_more() -> None:
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [9.0, 1.0], [9.0, 7.0]])
    assert _class_radius(rows, np.array([0, 0, 1, 2, 2])) == pytest.approx(
        (0.5**0.5 + 4.5**0.5) / 2
    )
    assert _class_radius(rows, np.array([0, 1, 2, 3, -1])) == 0.0
    assert _class_radius(rows, np.full(5, -1)) == 0.0


@pytest.mark.parametrize("names", [[3, 7, 9], ["ab", "c", "def"]])
def test_classes_have_their_own_type_and_a_place_each_among_their_points(names: list) -> None:
    labels = np.array(names)[Y % 3]
    embedding = brief(max_epochs=150).fit(X, labels)
    assert embedding.classes_.dtype == labels.dtype
    assert embedding.classes_.tolist() == names
    assert embedding.prototypes_.shape == (3, 2)
    assert embedding.prototypes_.dtype == np.float32
    points = embedding.transform(X)
    nearest = np.linalg.norm(points[:, None] - embedding.prototypes_, axis=2).argmin(1)
    assert (nearest == Y % 3).mean() > 0.5
    assert brief().fit(X).prototypes_ is None


def test_the_network_is_left_in_eval_mode_whatever_it_holds() -> None:
    body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    for labels in (None, Y):
        fitted = brief(network=body).fit(X, labels)
        assert not any(module.training for module in fitted.network_.modules())
        np.testing.assert_array_equal(fitted.transform(X), fitted.transform(X))


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_without_two_samples_of_a_class_there_is_no_stress_within_classes() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    embedding = IsometricEmbedding(max_epochs=2, random_state=0).fit(X, np.arange(40))
    assert np.isnan(embedding.stress_)
    points = torch.tensor(embedding.transform(X))
    assert distortion(torch.tensor(X), points).scale == pytest.approx(1, abs=1e-4), "of all pairs"
    embedding.fit(X, np.arange(40) % 2)
    assert np.isnan(embedding.score(X[:2], [0, 1]))
    assert embedding.score(X[:4], [0, 1, 0, 1]) < 0
    with pytest.raises(InputError, match="hold out two samples .* of one class .* among 4"):
        IsometricEmbedding(early_stopping=True, random_state=0).fit(X, np.arange(40))


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_two_of_one_class_are_held_out_wherever_there_are_two() -> None:
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40)
    for labels in (y // 2, np.where(y < 2, 0, y), np.where(y < 20, -1, y // 2)):
        for seed in range(3):
            stopping = IsometricEmbedding(early_stopping=True, max_epochs=1, random_state=seed)
            assert stopping.fit(X, labels).stress_ >= 0


def test_copies_of_one_sample_do_not_hide_the_others() -> None:
    X = np.concatenate([np.zeros((3000, 2)), np.random.default_rng(0).normal(size=(30, 2))])
    for seed in range(3):
        for some in (X, X[:3001]):
            embedding = IsometricEmbedding(max_epochs=1, random_state=seed).fit(some)
            assert np.isfinite(embedding.transform(X)).all()
    with pytest.raises(InputError, match="Do all samples coincide"):
        IsometricEmbedding(max_epochs=1).fit(X[:300])


def test_masked_samples_are_refused_where_they_are_placed_too() -> None:
    embedding, masked = brief().fit(np.ma.masked_greater(X, 99)), np.ma.masked_greater(X, 6)
    for call in (embedding.transform, embedding.score, embedding.plot):
        with pytest.raises(InputError, match="X must not be masked, got"):
            call(masked)


@pytest.mark.parametrize("labels", [["a", pd.NA], np.array(["a", pd.NA], object)])
def test_labels_that_pandas_does_not_know_are_refused_in_a_sentence(labels: Any) -> None:
    y = pd.Series(labels, dtype="string") if isinstance(labels, list) else labels
    with pytest.raises(InputError, match="y must not hold None or NaN"):
        brief().fit(X[:2], y)
