"""The map: scikit-learn's rules, distances kept, labels of every kind, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
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
from isoreg.embedding import IsometricEmbedding
from isoreg.embedding.fitting import _within
from isoreg.embedding.picture import draw

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


def test_a_pickle_and_a_file_of_skops_give_the_same_points() -> None:
    io = pytest.importorskip("skops.io")
    embedding = brief().fit(X, Y)
    points = embedding.transform(X)
    assert (pickle.loads(pickle.dumps(embedding)).transform(X) == points).all()
    data = io.dumps(embedding)
    kinds = io.get_untrusted_types(data=data)
    assert kinds == ["isoreg.embedding.estimator.IsometricEmbedding"]
    loaded = io.loads(data, trusted=kinds)
    assert (loaded.transform(X) == points).all()
    assert loaded.stress_ == embedding.stress_


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


def test_the_trained_module_maps_rows_as_transform_does() -> None:
    embedding = brief().fit(X, Y)
    with torch.no_grad():
        points = embedding.network_(torch.as_tensor(X))
    np.testing.assert_array_equal(points.numpy(), embedding.transform(X))


def test_a_constant_column_changes_nothing() -> None:
    wide = np.c_[X, np.full(len(X), 5.0)]
    assert np.isfinite(brief().fit_transform(wide, Y)).all()


def test_progress_is_printed_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    brief(verbose=True).fit(X)
    assert "step 3/3, loss" in capsys.readouterr().out


BAD: list[tuple[dict[str, Any], Any, Any, str]] = [
    ({}, X, np.zeros(len(X), int), "y must hold at least two classes, got 1"),
    ({}, X, np.full(len(X), -1), "y must hold at least two classes, got 0"),
    ({}, X, Y[:-1], "y must hold a label for each of 150 samples"),
    ({}, X, X[:, 0], "Unknown label type: continuous"),
    ({}, X, np.where(Y > 0, Y, np.nan), "y must not hold NaN"),
    ({}, X, np.c_[np.where(Y > 0, Y, -1), Y], "known from coarse to fine, got sample 0"),
    ({}, np.where(X > 6, np.nan, X), None, "Input X contains NaN"),
    ({}, np.ones((5, 3)), None, "got none but 0 among 5 samples. Do all samples coincide"),
    ({}, X[:1], None, "minimum of 2 is required"),
    ({"n_components": 0}, X, None, "n_components must be an integer at least 1, got 0"),
    ({"beta": -1.0}, X, Y, "beta must be a number at least 0, got -1.0"),
    ({"batch_size": 1}, X, None, "batch_size must be an integer at least 2, got 1"),
    ({"noise": "much"}, X, None, "noise must be a number at least 0 or None, got 'much'"),
    ({"validation_fraction": 1}, X, None, "validation_fraction must be a number above 0 and below"),
    ({"early_stopping": True}, X[:3], None, "must leave at least 2 samples to learn from, got 1"),
    ({"network": "mlp"}, X, None, "network must be a torch.nn.Module or None, got 'mlp'"),
    ({"network": nn.Linear(4, 3)}, X, None, r"points, got \(2, 3\)"),
    ({"clusterer": "k"}, X, None, "clusterer must have fit_predict"),
    ({"clusterer": KMeans(2)}, X, Y, "for a fit without labels, got y as well"),
    ({"clusterer": DBSCAN(eps=99)}, X, None, "DBSCAN must find at least two clusters, got 1"),
    ({"clusterer": KMeans(9)}, X[:5], None, "n_samples=5 should be >= n_clusters=9"),
    ({"device": "abacus"}, X, None, "device must be 'auto' or a device of this torch"),
]


@pytest.mark.parametrize(("options", "data", "y", "text"), BAD)
def test_what_cannot_be_is_refused_by_a_value_error(
    options: dict[str, Any], data: Any, y: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        brief(**options).fit(data, y)


def test_an_error_names_the_method_that_was_called() -> None:
    with pytest.raises(InputError, match=r"^IsometricEmbedding\.fit: beta must be"):
        brief(beta="auto").fit(X)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("size", [0.03, 1.0, 7e4])
def test_the_bar_has_a_round_length_of_a_tenth_to_a_quarter_of_the_map(
    offset: float, size: float
) -> None:
    points = offset * size + size * np.random.default_rng(0).uniform(size=(50, 2))
    axes = draw(points, None, "", None)
    (bar,) = [line for line in axes.lines if line.get_gid() == "scale bar"]
    length, width = np.ptp(bar.get_xdata()), np.ptp(points, axis=0).max()
    assert 0.09 * width < length <= width / 4
    digits = length / 10 ** np.floor(np.log10(length) + 1e-9)
    assert min(abs(digits - step) for step in (1, 2, 5, 10)) < 1e-6
    assert bar.get_xdata()[0] == points[:, 0].min()
    assert max(bar.get_ydata()) < points[:, 1].min()


@pytest.mark.parametrize("classes", [3, 10, 25])
def test_each_class_has_a_colour_and_few_are_named_where_they_lie(classes: int) -> None:
    labels = np.arange(4 * classes) % (classes + 1) - 1
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    axes = draw(points, labels, "", None)
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
    [("white", "C0", "black"), ("#101418", "C0", "white"), ("none", "navy", "white")],
)
def test_bar_and_names_are_read_on_any_ground(ground: str, page: str, ink: str) -> None:
    axes = Figure(facecolor=page).subplots()
    axes.set_facecolor(ground)
    brief().fit(X, Y).plot(X, Y, axes=axes)
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
    assert axes.get_aspect() == 1
    with pytest.raises(InputError, match="n_components must be 2 to be drawn, got 3"):
        brief(n_components=3).fit(X).plot(X)
    with pytest.raises(InputError, match="one label for each, got 150 points and 1 labels"):
        embedding.plot(X, Y[:1])


def test_the_radius_within_classes_is_a_mean_over_classes_of_two_or_more() -> None:
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [9.0, 1.0], [9.0, 7.0]])
    assert _within(rows, np.array([0, 0, 1, 2, 2])) == pytest.approx((0.5**0.5 + 4.5**0.5) / 2)
    assert _within(rows, np.array([0, 1, 2, 3, -1])) == 0.0
    assert _within(rows, np.full(5, -1)) == 0.0


@pytest.mark.parametrize("names", [[3, 7, 9], ["ab", "c", "def"]])
def test_classes_have_their_own_type_and_a_place_each_among_their_points(names: list) -> None:
    labels = np.array(names)[Y % 3]
    embedding = brief(max_epochs=150).fit(X, labels)
    assert embedding.classes_.dtype == labels.dtype
    assert embedding.classes_.tolist() == names
    assert embedding.prototypes_.shape == (3, 2)
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
