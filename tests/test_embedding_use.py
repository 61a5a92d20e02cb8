"""The estimator as people call it: reversed views, threads, networks of their own, odd labels."""

from __future__ import annotations

import pickle
import re
import sqlite3
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from isoreg import InputError
from isoreg.embedding import IsometricEmbedding
from isoreg.embedding.targets import read_targets
from isoreg.embedding.training import near_weights

DRAWS = np.random.default_rng(0)
X, Y = DRAWS.normal(size=(60, 4)), np.arange(60) % 3


def brief(**options: Any) -> IsometricEmbedding:
    return IsometricEmbedding(**{"max_epochs": 3, "random_state": 0, **options})


@pytest.mark.parametrize(
    "view",
    [lambda x: x[::-1], lambda x: x[:, ::-1], np.rot90, lambda x: x.astype(np.float32)[::-1]],
    ids=["rows", "columns", "turned", "float32"],
)
def test_a_reversed_view_is_its_copy(view: Any) -> None:
    given = view(X)
    found, expected = brief(), brief()
    np.testing.assert_array_equal(found.fit_transform(given), expected.fit_transform(given.copy()))
    assert found.score(given) == expected.score(given.copy())


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_a_tensor_is_its_numbers_also_where_it_needs_a_gradient(kind: torch.dtype) -> None:
    given = torch.tensor(X).to(kind).requires_grad_()
    numbers = given.detach().to(torch.promote_types(kind, torch.float32)).numpy()
    np.testing.assert_array_equal(brief().fit_transform(given), brief().fit_transform(numbers))


def test_a_map_is_drawn_under_any_default_device() -> None:
    with torch.device("meta"):
        assert brief().fit(X, Y).plot(X, Y).texts


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"network": nn.Linear(4, 2)}])
def test_a_map_is_the_same_under_any_default_device(options: dict[str, Any]) -> None:
    def made() -> list[Any]:
        fitted = brief(**options).fit(X, Y)
        again = pickle.loads(pickle.dumps(fitted))
        return [fitted.transform(X), again.transform(X), fitted.score(X, Y)]

    expected = made()
    with torch.device("meta"):  # stands for any that the map is not on
        found = made()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_do_not_change_each_other_s_maps_nor_torch_s_numbers() -> None:
    torch.manual_seed(3)
    expected, state = brief().fit_transform(X, Y), torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: brief().fit_transform(X, Y), range(12)):
            np.testing.assert_array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)],
        lambda: [nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(2)],
    ],
    ids=["dropout", "lazy layers"],
)
def test_a_network_that_draws_follows_from_the_seed_and_leaves_torch_s_numbers(make: Any) -> None:
    maps = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = nn.Sequential(*make())
        torch.manual_seed(7 + len(maps))
        state = torch.get_rng_state()
        maps.append(brief(network=network, random_state=seed).fit_transform(X, Y))
        assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


def test_a_map_of_one_point_is_refused() -> None:
    network = nn.Linear(4, 2)
    nn.init.zeros_(network.weight)  # distances of points that coincide have no slope
    with pytest.raises(InputError, match="must tell samples apart, got one point for all 60"):
        brief(network=network).fit(X)
    assert np.ptp(brief(network=network).fit_transform(X, Y)) > 0  # classes pull them apart


@pytest.mark.parametrize("labels", [None, Y])
@pytest.mark.parametrize("size", [1e4, 1e18])
def test_samples_whose_distances_drown_the_others_are_named(labels: Any, size: float) -> None:
    rows = X.copy()
    rows[7] *= size
    text = r"distances to sample 7 drown all others: those among the other 59 make up \de-"
    for metric in ("euclidean", "manhattan", lambda a, b: cdist(a, b)):
        with pytest.warns(UserWarning, match=text) as warned:
            brief(metric=metric).fit(rows, labels)
        assert warned[0].filename == __file__
    rows[30] = -rows[7]
    with pytest.warns(UserWarning, match="distances to sample 7, 30 drown all others"):
        brief(metric="precomputed").fit(X, labels, distances=cdist(rows, rows))
    many = np.resize(X, (900, 4))
    many[899] *= size
    with pytest.warns(UserWarning, match="distances to sample 899 drown"):
        brief(batch_size=64, early_stopping=True).fit(many)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan"])
def test_a_sample_that_is_too_far_to_learn_from_is_named_first(metric: str) -> None:
    rows = np.resize(X, (900, 4))
    rows[5] = 1e100  # the square of a squared distance is infinite
    with (
        pytest.warns(UserWarning, match="distances to sample 5 drown all others"),
        pytest.raises(InputError, match="a distance far beyond the others"),
    ):
        brief(metric=metric, batch_size=64).fit(rows)


def test_directions_of_rows_as_long_as_float64_holds_make_a_map() -> None:
    rows = X.copy()
    rows[3] = 1e308
    fitted = brief(metric="cosine").fit(rows)
    assert np.isfinite(fitted.transform(rows)).all()
    assert fitted.score(rows) == pytest.approx(-fitted.stress_)


def test_no_sample_of_usable_data_drowns_the_others() -> None:
    sets = [load(return_X_y=True) for load in (load_wine, load_breast_cancer, load_iris)]
    rows = [x for x, _ in sets] + [StandardScaler().fit_transform(x) for x, _ in sets]
    rows += [load_digits().data[:300], load_diabetes().data]
    for n in (10, 30, 200):
        rows += [DRAWS.lognormal(size=(n, 3)), DRAWS.standard_t(3, size=(n, 3))]
    rows += [np.r_[X, 50 + X[:1]], np.repeat(X[:2], 5, 0), X[:2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in rows:
            brief(max_epochs=1).fit(each)


def test_a_device_that_torch_lacks_is_refused_in_one_line() -> None:
    lacking = "cuda" if not torch.cuda.is_available() else "xpu"
    for device in ("mps", lacking, None):
        if device == "mps" and torch.backends.mps.is_available():
            continue
        with pytest.raises(InputError, match="a device of this torch") as refused:
            brief(device=device).fit(X)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300


def test_samples_are_placed_in_eval_mode_whatever_the_network_is_left_in() -> None:
    fitted = brief(network=nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout())).fit(X)
    points, score = fitted.transform(X), fitted.score(X)
    fitted.network_.train()
    np.testing.assert_array_equal(fitted.transform(X), points)
    assert fitted.score(X) == score
    assert all(module.training for module in fitted.network_.modules())


def test_a_network_in_float64_learns_classes() -> None:
    network = nn.Linear(4, 2).double()
    assert brief(network=network).fit_transform(X, Y).shape == (60, 2)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.isfinite(brief().fit_transform(X, Y)).all()
    finally:
        torch.set_default_dtype(torch.float32)


class Squeezes(nn.Linear):
    """Leaves out each axis of length 1, also that of the rows."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(b, 4) rows to (b, 2) points, or one row to (2,)."""
        return super().forward(rows).squeeze()


def test_one_sample_is_a_row_whatever_a_network_makes_of_it() -> None:
    fitted = brief(network=Squeezes(4, 2), batch_size=59).fit(X)  # 60 samples: one is left over
    points = fitted.transform(X)
    np.testing.assert_allclose(fitted.transform(X[:1]), points[:1], rtol=1e-5)
    np.testing.assert_allclose(
        fitted.transform(np.resize(X, (8193, 4)))[-1], points[8192 % 60], rtol=1e-5
    )


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    network = nn.utils.weight_norm(nn.Linear(4, 2))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match="deepcopy can copy.*parametrizations"):
        brief(network=network).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is no longer developed
        scripted = nn.Sequential(torch.jit.script(nn.Linear(4, 2)))
    with pytest.raises(InputError, match="must be a module of Python, got one of TorchScript"):
        brief(network=scripted).fit(X)


def test_autocast_changes_nothing() -> None:
    fitted = brief(network=nn.Linear(4, 2)).fit(X)
    expected = fitted.transform(X)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(fitted.transform(X), expected)
        network = fitted.network
        np.testing.assert_array_equal(brief(network=network).fit_transform(X), expected)


@pytest.mark.parametrize("near", [1.0, 2.0])
def test_copies_take_no_weight_from_the_pairs_that_differ(near: float) -> None:
    rows = np.r_[np.zeros((60, 4)), DRAWS.normal(size=(20, 4))]
    stress = brief(near=near, max_epochs=100).fit(rows).stress_
    assert stress < 2 * brief(max_epochs=100).fit(rows).stress_ + 0.1
    distances = torch.tensor(cdist(rows, rows))
    weights = near_weights(distances, near)
    median = distances[distances > 0].median()
    torch.testing.assert_close(weights[-1, 0], (distances[-1, 0] / median) ** -near)
    flat = near_weights(torch.zeros(3, 3), near)
    torch.testing.assert_close(flat, torch.full((3, 3), 20.0**near))


@pytest.mark.parametrize("copies", [5, 6])
def test_classes_whose_members_all_coincide_are_a_map_of_the_classes(copies: int) -> None:
    rows, classes = np.repeat(X[:3], copies, 0), np.repeat(np.arange(3), copies)
    far = cdist(rows, rows)
    for metric, distances in (("euclidean", None), ("precomputed", far)):
        embedding = IsometricEmbedding(metric=metric, random_state=0)
        points = embedding.fit(rows, classes, distances=distances).transform(rows)
        stress = 1 - np.corrcoef(cdist(points, points).ravel(), far.ravel())[0, 1]
        assert stress < 0.05
        assert np.ptp(points) > 0.5 * far.max()
    noisy = far + 1e-9 * (far == 0) * (1 - np.eye(len(far)))  # as rounding leaves
    again = IsometricEmbedding(metric="precomputed", random_state=0)
    found = again.fit(rows, classes, distances=noisy).transform(rows)
    np.testing.assert_allclose(found, points, atol=0.05 * far.max())


def test_numbers_of_numpy_are_numbers() -> None:
    options = {"max_epochs": np.int64(4), "batch_size": np.int64(32), "beta": np.float32(3)}
    expected = brief(max_epochs=4, batch_size=32).fit_transform(X, Y)
    np.testing.assert_array_equal(brief(**options).fit_transform(X, Y), expected)


def test_one_hot_rows_are_no_levels() -> None:
    for rows in (np.eye(3)[Y], np.eye(3, dtype=bool)[Y], np.eye(2)[Y % 2]):
        with pytest.raises(InputError, match="got one-hot rows. y.argmax"):
            brief().fit(X, rows)
    brief().fit(X, np.c_[Y % 2, Y])
    both = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert read_targets(both, 4).classes.tolist() == [0, 1, 2, 3], "zeros and ones in two levels"


def test_a_fit_that_is_refused_leaves_the_last_one() -> None:
    fitted = brief().fit(X, Y)
    expected = fitted.transform(X)
    with pytest.raises(InputError, match="at least two classes"):
        fitted.fit(X[:, :3], Y * 0)
    np.testing.assert_array_equal(fitted.transform(X), expected)
    with pytest.raises(ValueError, match="expecting 4 features"):
        fitted.transform(X[:, :3])
    new = brief()
    with pytest.raises(InputError, match="at least two classes"):
        new.fit(X, Y * 0)
    assert not hasattr(new, "n_features_in_")


def test_a_class_has_one_colour_whichever_are_drawn_and_its_own_name() -> None:
    pytest.importorskip("matplotlib")
    names = np.array(["cat", "dog", "$owl$"])[Y]
    fitted = brief().fit(X, names)
    every, some = fitted.plot(X, names), fitted.plot(X[Y > 0], names[Y > 0])
    shown = [
        {c.get_label(): tuple(c.get_facecolor()[0]) for c in axes.collections[1:]}
        for axes in (every, some)
    ]
    assert shown[1] == {name: shown[0][name] for name in ("dog", r"\$owl\$")}
    met = fitted.plot(X, np.where(names == "cat", "bat", names))
    colours = {c.get_label(): tuple(c.get_facecolor()[0]) for c in met.collections[1:]}
    assert {name: colours.pop(name) for name in shown[1]} == shown[1]
    assert list(colours) == ["bat"]
    assert colours["bat"] not in shown[0].values()
    levels = np.c_[Y % 2, np.where(Y == 2, "rest", "main")]
    axes = brief().fit(X, levels).plot(X, levels)
    assert [text.get_text() for text in axes.texts[:-1]] == ["0, main", "rest", "1, main"]


@pytest.mark.parametrize("shared", ["sharex", "sharey"])
def test_maps_share_axes_and_are_not_drawn_on_logarithmic_ones(shared: str) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    fitted = brief().fit(X, Y)
    for options in ({shared: True}, {"sharex": True, "sharey": True}):
        for each in figure().subplots(1, 2, **options):
            fitted.plot(X, Y, axes=each)
            each.figure.draw_without_rendering()
            assert each.get_adjustable() == "box"
    axes = figure().subplots()
    axes.set_yscale("log")
    with pytest.raises(InputError, match="linear scales, got linear and log"):
        fitted.plot(X, axes=axes)


def test_unknown_classes_are_grey_in_a_picture_whatever_the_type() -> None:
    pytest.importorskip("matplotlib")
    fitted, labels = brief().fit(X), np.where(np.arange(60) % 4, Y, -1)
    words = np.array(["a", "b", "c", "-1"])[labels]
    for given in (labels, labels.astype(float), words, words.astype(object)):
        axes = fitted.plot(X, given)
        counts = [len(drawn.get_offsets()) for drawn in axes.collections]
        assert counts == [15, 15, 15, 15]
        named = [str(name) for name in np.unique(given[labels >= 0])]
        assert [text.get_text() for text in axes.texts[:3]] == named
    with pytest.raises(InputError, match="None or NaN"):
        fitted.plot(X, np.array([None, *words[1:]], dtype=object))


@pytest.mark.parametrize("y", [X[:, 0], Y + 1j, np.array([b"a", b"b", b"c"])[Y]])
def test_what_names_no_classes_is_refused_in_words_wherever_labels_are_taken(y: Any) -> None:
    pytest.importorskip("matplotlib")
    for method in (brief().fit, brief().fit(X).score, brief().fit(X).plot):
        with pytest.raises(InputError, match=r"y must hold classes, as integers or strings, got"):
            method(X, y)


def test_samples_that_pandas_names_in_another_order_are_refused() -> None:
    names = [f"patient {i}" for i in range(60)]
    rows, labels = pd.DataFrame(X, names).rename(columns=str), pd.Series(Y, names)
    table = pd.DataFrame(cdist(X, X), names, names)
    fitted = brief(metric="precomputed").fit(rows, labels, distances=table)
    turned = table.iloc[::-1, ::-1]
    with pytest.raises(
        InputError, match=r"distances must .* order of X, got 'patient 59' in place 0"
    ):
        brief(metric="precomputed").fit(rows, distances=turned)
    with pytest.raises(InputError, match=r"distances\.loc\[X\.index, X\.index\] has it"):
        fitted.score(rows, distances=turned)
    for method in (brief().fit, brief().fit(rows).score, fitted.plot):
        with pytest.raises(
            InputError, match=r"y must .* where X has 'patient 0'\. y\.loc\[X\.index\]"
        ):
            method(rows, labels[::-1])
    again = brief(metric="precomputed").fit(rows, distances=turned.loc[rows.index, rows.index])
    counted = brief(metric="precomputed").fit(rows, distances=table.reset_index(drop=True))
    assert again.stress_ == counted.stress_
    with pytest.raises(InputError, match=r"distances must .* got 'patient 59' in place 0"):
        brief(metric="precomputed").fit(rows, distances=table.iloc[:, ::-1])
    counts = pd.DataFrame(X).rename(columns=str)
    for unnamed in (X, counts):
        text = r"order of y, got 'patient 59' .* distances\.loc\[y\.index, y\.index\] has it"
        with pytest.raises(InputError, match=text):
            brief(metric="precomputed").fit(unnamed, labels, distances=turned)
        brief(metric="precomputed").fit(unnamed, labels, distances=table)
    with pytest.raises(InputError, match="'patient 6' in place 5 .* missing in one of the two"):
        brief().fit(rows.drop("patient 7"), labels.drop("patient 5"))
    with pytest.raises(InputError, match="a label for each"):
        brief().fit(rows, labels[1:])
    others = [*names[:-1], "patient 99"]  # another name in the same place moves none
    assert brief().fit(rows, pd.Series(Y, others)).stress_ == brief().fit(X, Y).stress_
    twice = pd.Series(Y, [f"patient {i}" for i in range(30)] * 2)
    assert brief().fit(rows, twice).stress_ == brief().fit(X, Y).stress_
    sorts = [pd.CategoricalIndex(each) for each in (names, names[::-1], others)]
    with pytest.raises(InputError, match="'patient 59' in place 0"):
        brief().fit(rows.set_axis(sorts[0]), labels.set_axis(sorts[1]))
    assert brief().fit(rows.set_axis(sorts[0]), labels.set_axis(sorts[2])).stress_ > 0
    counted, drawn = rows.set_axis(list(range(60))), labels.set_axis(range(90, 30, -1))
    assert (
        brief().fit(counted, drawn.set_axis(list(drawn.index))).stress_ == brief().fit(X, Y).stress_
    )
    swapped = [*names[:3], names[4], names[3], *names[5:]]
    with pytest.raises(InputError, match="'patient 4' in place 3 where X has 'patient 3'"):
        brief().fit(rows, labels[swapped])


def test_samples_of_a_repeated_name_in_another_order_are_told_to_come_without_names() -> None:
    rows = pd.DataFrame(X, [f"patient {i // 2}" for i in range(60)]).rename(columns=str)
    turned = pd.Series(Y, rows.index)[::-1]
    with pytest.raises(InputError, match=r"order of X.*names repeat.* pass y\.to_numpy\(\)"):
        brief().fit(rows, turned)
    assert brief().fit(rows, turned[::-1].to_numpy()).stress_ == brief().fit(X, Y).stress_


def test_names_of_numbers_are_written_as_numbers() -> None:
    rows = pd.DataFrame(X).rename(columns=str)
    for index, text in (
        (pd.Index([*range(100, 160)]), "got 159 in place 0 where X has 100"),
        (
            pd.MultiIndex.from_arrays(np.divmod(np.arange(60), 10)),
            r"got \(5, 9\) in place 0 where X has \(0, 0\)",
        ),
    ):
        with pytest.raises(InputError, match=text):
            brief().fit(rows.set_axis(index), pd.Series(Y, index)[::-1])


@pytest.mark.parametrize("dtype", ["category", "string", "Int64", "float64", "object"])
def test_missing_labels_of_pandas_are_unknown_once_filled_as_the_error_says(dtype: str) -> None:
    known = np.arange(60) % 5 > 0
    labels = pd.Series(Y if dtype in ("Int64", "float64") else np.array(["a", "b", "c"])[Y])
    y = labels.astype(dtype).where(known)
    with pytest.raises(InputError, match=r"y\.astype\(object\)\.fillna\(-1\)"):
        brief().fit(X, y)
    filled = brief().fit(X, y.astype(object).fillna(-1))
    assert filled.stress_ == brief().fit(X, np.where(known, Y, -1)).stress_
    table = y.to_frame()
    with pytest.raises(InputError, match=r"y\.astype\(object\)\.fillna\(-1\)"):
        brief().fit(X, table)
    assert brief().fit(X, table.astype(object).fillna(-1)).stress_ == filled.stress_


def test_a_fit_that_raises_leaves_the_columns_of_the_last_one() -> None:
    rows = pd.DataFrame(X).rename(columns=str)
    fitted = brief().fit(rows)
    with pytest.raises(InputError, match="a label for each"):
        fitted.fit(rows.rename(columns="other {}".format), Y[:3])
    assert list(fitted.feature_names_in_) == list(rows.columns)
    fitted.transform(rows)


@pytest.mark.parametrize("counts", ["X", "y"])
def test_an_index_that_counts_rows_names_no_samples(counts: str) -> None:
    drawn = np.random.default_rng(0).permutation(len(X))  # as a sample of a longer table has it
    of_rows, of_labels = (None, drawn) if counts == "X" else (drawn, None)
    rows, labels = pd.DataFrame(X, of_rows).rename(columns=str), pd.Series(Y, of_labels)
    assert brief().fit(rows, labels).stress_ == brief().fit(X, Y).stress_


def test_columns_that_count_name_no_samples() -> None:
    drawn, table = np.random.default_rng(0).permutation(len(X)), cdist(X, X)
    fitted = brief(metric="precomputed").fit(
        pd.DataFrame(X, drawn), distances=pd.DataFrame(table, drawn)
    )
    assert fitted.stress_ == brief(metric="precomputed").fit(X, distances=table).stress_


def test_a_metric_gets_floating_numbers_whatever_the_table_holds() -> None:
    kinds = set()

    def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        kinds.update((a.dtype.kind, b.dtype.kind))
        return cdist(a, b)

    brief(metric=far).fit((20 * (X - X.min())).astype(np.uint8))
    assert kinds == {"f"}, "differences of uint8 would begin anew at 255"


def test_a_sparse_tensor_of_samples_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="X must be a dense tensor"):
        brief().fit(torch.eye(60).to_sparse())


def test_nan_that_became_a_string_is_no_class() -> None:
    given = np.array(["a", "b", np.nan] * 20)
    assert given.dtype.kind == "U"
    with pytest.raises(InputError, match="None or NaN. Write -1"):
        brief().fit(X, given)


def test_a_coarse_label_without_any_finer_one_is_refused_and_can_be_scored() -> None:
    levels = np.array([[0, 0]] * 20 + [[0, 1]] * 20 + [[1, -1]] * 20)
    with pytest.raises(InputError, match=r"known to the last column, got \[1, -1\] for sample 40"):
        brief().fit(X, levels)
    levels[40, 1] = 0
    assert np.isfinite(brief().fit(X, levels).score(X[:45], levels[:45]))


def test_one_class_alone_and_classes_row_by_row_have_a_score() -> None:
    fitted = brief().fit(X, Y)
    one = fitted.score(X[Y == 0], Y[Y == 0])
    points = fitted.transform(X[Y == 0])
    wide, drawn = cdist(X[Y == 0], X[Y == 0]), cdist(points, points)
    expected = np.sqrt(((wide - drawn) ** 2).sum() / (wide**2).sum())
    assert one == pytest.approx(-expected, rel=1e-4)
    many = DRAWS.normal(size=(5000, 4))
    assert np.isfinite(fitted.score(many, np.arange(5000) // 5))


@pytest.mark.parametrize(("metric", "scipy"), [("manhattan", "cityblock"), ("chebyshev",) * 2])
def test_the_score_of_a_sum_over_columns_needs_no_table_of_columns(metric: str, scipy: str) -> None:
    rows = DRAWS.normal(size=(300, 400))
    fitted = brief(metric=metric, max_epochs=1).fit(rows[:50])
    points = fitted.transform(rows)
    wide, drawn = cdist(rows, rows, scipy), cdist(points, points)
    expected = -np.sqrt(((wide - drawn) ** 2).sum() / (wide**2).sum())
    before = peak_of_this_process()
    assert fitted.score(rows) == pytest.approx(expected, rel=1e-4)
    assert peak_of_this_process() - before < 100e6  # of 300 x 300 x 400 numbers: 288 MB


def peak_of_this_process() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def test_a_cache_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE metric (name TEXT)")
        base.execute("INSERT INTO metric VALUES ('cdist')")
        base.execute("CREATE TABLE pairs (left INT, right INT)")
    with pytest.raises(InputError, match="cache must be a file that this class made.*no such col"):
        brief(metric=cdist, cache=other).fit(X)
    with pytest.raises(InputError, match="':memory:', which is gone at once"):
        brief(metric=cdist, cache=":memory:").fit(X)


@pytest.mark.parametrize(
    "path", ["~nosuchuser/x", "", ".", "folder", "file", "file/below", "no/such", "a\0b", "x" * 300]
)
def test_a_path_that_cannot_be_a_cache_is_refused_in_words(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("my notes")
    text = (
        rf"^IsometricEmbedding\.fit: cache must be a file that .*, got {re.escape(repr(path))} \("
    )
    with pytest.raises(InputError, match=text):
        brief(metric=cdist, cache=path).fit(X[:5])
    assert Path("file").read_text() == "my notes"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["file", "folder"]


def test_an_empty_file_may_become_a_cache(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    brief(metric=cdist, cache=tmp_path / "new").fit(X[:5])
    assert (tmp_path / "new").stat().st_size > 100


def test_a_cache_is_found_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    brief(metric=cdist, cache="~/pairs").fit(X[:5])
    assert (tmp_path / "pairs").exists()


def test_words_are_no_rows() -> None:
    words = [f"word{k}" for k in range(20)]
    dicts, table = [{"word": word} for word in words], pd.DataFrame({"word": words})
    mixed, objects = pd.DataFrame(X).add_prefix("x").assign(w="a"), np.array(words, object)[:, None]
    for given in (words, np.array(words), words[:1], dicts, tuple(dicts), table, mixed, objects):
        with pytest.raises(InputError, match=r"X must be numbers.*metric_takes='indices'"):
            brief(metric_takes="indices", metric=lambda a, b: a[:, None] * b * 0.0).fit(given)


def test_a_clusterer_that_computes_in_place_changes_neither_the_map_nor_the_data() -> None:
    given, before = 9 * X, 9 * X
    clusterer = make_pipeline(StandardScaler(copy=False), KMeans(3, n_init=1, random_state=0))
    careful = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0))
    fitted = brief(clusterer=clusterer).fit(given)
    assert np.array_equal(given, before)
    assert fitted.stress_ == brief(clusterer=careful).fit(before).stress_


def test_a_metric_that_computes_in_place_changes_no_places() -> None:
    def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a += 100
        b += 100
        return cdist(X[a - 100], X[b - 100])

    def careful(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return cdist(X[a], X[b])

    maps = [brief(metric=each, metric_takes="indices").fit(X) for each in (far, careful)]
    assert maps[0].stress_ == maps[1].stress_
