"""Distances that cost something: computed for a batch, cached, unknown, weighted."""

from __future__ import annotations

import math
import sqlite3
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from scipy.spatial.distance import euclidean as scipy_euclidean

from isoreg import InputError
from isoreg._pairs import dense
from isoreg.diagnostics import distortion
from isoreg.embedding import IsometricEmbedding, layout
from isoreg.embedding.blocks import NAMES, resolve_blocks
from isoreg.embedding.cache import PairCache, sample_keys
from isoreg.embedding.layout import lay_out, smacof
from isoreg.embedding.targets import read_targets
from isoreg.embedding.training import Pairs, Recipe, distances_on_map, near_weights
from isoreg.penalty import isometry_penalty

DRAWS = np.random.default_rng(0)
ROWS = DRAWS.normal(size=(60, 3))
SCIPY = {"manhattan": "cityblock"}


def city(a: Any, b: Any) -> NDArray[np.float64]:
    """City-block distances, as SciPy has them."""
    return cdist(a, b, "cityblock")


def brief(**options: Any) -> IsometricEmbedding:
    return IsometricEmbedding(**{"max_epochs": 3, "random_state": 0, **options})


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"angular"}))
def test_a_block_of_a_named_metric_equals_scipys(name: str) -> None:
    places = np.array([5, 2, 40, 7])
    block = resolve_blocks(ROWS, name)(places)
    wanted = cdist(ROWS[places], ROWS[places], SCIPY.get(name, name))
    np.testing.assert_allclose(block, wanted, atol=1e-12)


@pytest.mark.parametrize("takes", ["rows", "indices"])
@pytest.mark.parametrize("cached", [False, True])
@given(places=st.lists(st.integers(0, 59), min_size=2, max_size=60, unique=True))
def test_a_block_of_a_callable_equals_what_it_gives_for_each_pair(
    takes: str, cached: bool, places: list[int], tmp_path_factory: Any
) -> None:
    metric = city if takes == "rows" else lambda a, b: city(ROWS[a], ROWS[b])
    file = tmp_path_factory.mktemp("cache") / "pairs.sqlite" if cached else None
    blocks = resolve_blocks(ROWS, metric, takes=takes, cache=file)
    chosen = np.array(places)
    np.testing.assert_allclose(blocks(chosen), city(ROWS[chosen], ROWS[chosen]))
    np.testing.assert_allclose(blocks(chosen[::-1]), city(ROWS[chosen[::-1]], ROWS[chosen[::-1]]))


@pytest.mark.parametrize("n", range(1, 8))
def test_a_callable_is_tried_on_however_few_samples_there_are(n: int) -> None:
    rows = np.arange(3.0 * n).reshape(n, 3)
    np.testing.assert_allclose(resolve_blocks(rows, city)(np.arange(n)), city(rows, rows))


@pytest.mark.parametrize("labelled", [False, True])
def test_no_block_is_larger_than_a_batch_and_little_more_than_half_is_computed(
    labelled: bool,
) -> None:
    asked: list[int] = []

    def metric(a: Any, b: Any) -> Any:
        asked.append(len(a) * len(b))
        return city(a, b)

    rows = DRAWS.normal(size=(2000, 3))
    labels = np.arange(2000) % 3 if labelled else None
    embedding = brief(metric=metric, batch_size=128, max_epochs=1).fit(rows, labels)
    assert max(asked) <= 128 * 128
    blocks = resolve_blocks(rows, metric)
    asked.clear()
    blocks(np.arange(128))
    assert sum(asked) < 0.7 * 128 * 128
    assert embedding.n_iter_ == 15


@pytest.mark.parametrize(("name", "given"), [("seuclidean", "V"), ("mahalanobis", "VI")])
def test_a_metric_that_depends_on_the_block_it_is_asked_for_is_refused(
    name: str, given: str
) -> None:
    with pytest.raises(InputError, match=r"one distance, whichever others .* beforehand"):
        brief(metric=lambda a, b: cdist(a, b, name)).fit(ROWS)
    spread = np.cov(ROWS.T)
    of_all = {given: spread.diagonal() if given == "V" else np.linalg.inv(spread)}
    found = brief(metric=lambda a, b: cdist(a, b, name, **of_all)).fit_transform(ROWS)
    table = cdist(ROWS, ROWS, name, **of_all)
    expected = brief(metric="precomputed").fit_transform(ROWS, distances=table)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


WORDS = [{"word": "ab" * k} for k in range(len(ROWS))]


def lengths_apart(a: Any, b: Any) -> int:
    return abs(len(a["word"]) - len(b["word"]))


@pytest.mark.parametrize(
    "metric",
    [
        lambda i, j: lengths_apart(WORDS[i], WORDS[j]),
        lambda i, j: lengths_apart({"word": i}, {"word": j}),
        lambda i, j: lengths_apart(dict(enumerate(WORDS)).get(str(i), {}), WORDS[j[0]]),
        lambda i, j: i.word,
        lambda i, j: 1.0,
    ],
    ids=["of a list", "a number", "KeyError", "AttributeError", "constant"],
)
def test_a_distance_of_two_objects_is_told_what_to_write_and_that_works(metric: Any) -> None:
    with pytest.raises(InputError, match=r"samples.* A distance d of two objects: ") as caught:
        resolve_blocks(ROWS, metric, takes="indices")
    told = str(caught.value).rpartition("metric=")[2].rstrip(".")
    advised = eval(told, {"d": lengths_apart, "objects": WORDS})
    table = resolve_blocks(ROWS, advised, takes="indices")(np.array([0, 3, 5]))
    assert table.tolist() == [[0, 6, 10], [6, 0, 4], [10, 4, 0]]


def test_a_cache_asks_for_each_pair_once_also_in_the_next_fit(tmp_path: Path) -> None:
    asked: list[int] = []

    def metric(a: Any, b: Any) -> Any:
        asked.append(len(a) * len(b))
        return city(a, b)

    def fit() -> Any:
        asked.clear()
        return brief(metric=metric, cache=tmp_path / "city.sqlite").fit_transform(ROWS)

    first, trial = fit(), 2 * 15 * 16 + 5 * 5
    assert sum(asked) == 60 * 59 / 2 + 59 + trial  # of one sample in both orders
    second = fit()
    assert sum(asked) == trial + 32 + 8  # some again, which tells metrics of one name apart
    assert (first == second).all()
    embedding = brief(metric=metric, cache=tmp_path / "city.sqlite", max_epochs=1).fit(ROWS)
    asked.clear()
    assert embedding.score(ROWS) <= 0
    assert sum(asked) == trial + 32 + 8


def test_a_cache_of_another_metric_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    brief(metric=city, cache=tmp_path / "pairs").fit(ROWS)
    with pytest.raises(InputError, match="must hold distances of .*lambda.*, got those of 'city'"):
        brief(metric=lambda a, b: city(a, b), cache=tmp_path / "pairs").fit(ROWS)
    (tmp_path / "text").write_text("no base of SQLite, only some text that is long enough" * 20)
    with pytest.raises(InputError, match="cache must be a file that this class made"):
        brief(metric=city, cache=tmp_path / "text").fit(ROWS)
    with pytest.raises(InputError, match="cache is for a metric that is a callable"):
        brief(cache=tmp_path / "other").fit(ROWS)


@pytest.mark.parametrize("takes", ["rows", "indices"])
@pytest.mark.parametrize("change", ["capped", "whole", "floored"])
def test_a_metric_that_differs_for_some_pairs_is_told_from_the_one_before(
    tmp_path: Path, takes: str, change: str
) -> None:
    changes = {
        "plain": lambda d: d,
        "capped": lambda d: np.minimum(d, np.quantile(d_all, 0.8)),
        "whole": np.round,
        "floored": lambda d: np.where(d < np.quantile(d_all, 0.2), 0, d),
    }
    d_all, rows = city(ROWS, ROWS), ROWS if takes == "rows" else np.arange(60)[:, None]

    def metric(a: Any, b: Any) -> Any:
        return changes[kind](city(a, b) if takes == "rows" else d_all[np.ix_(a, b)])

    def fit() -> Any:
        return brief(metric=metric, metric_takes=takes, cache=tmp_path / "pairs").fit(rows)

    kind = "plain"
    fit()
    fit()
    kind = change
    with pytest.raises(InputError, match="distances of this metric, got .* it gives"):
        fit()


def test_known_pairs_are_tried_a_few_a_row_from_the_nearest_to_the_last(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(missing: NDArray[np.int64], turned: bool) -> NDArray[np.float64]:
        asked.append(missing.tolist())
        return missing + 1.0

    others = list(range(1, 101))
    PairCache(tmp_path / "pairs", "m").row(0, others, compute)
    asked.clear()
    later = PairCache(tmp_path / "pairs", "m")
    for _ in range(3):
        later.row(0, others, compute)
    later.row(0, others[:3], compute)
    later.row(0, others, compute)
    later.row(0, others, compute)
    spread = [0, 14, 28, 42, 57, 71, 85, 99]
    assert asked == [spread, spread, spread, [0, 1, 2], [0, 25, 50, 74, 99]]
    again = PairCache(tmp_path / "pairs", "m")
    again.row(0, others, lambda missing, turned: (missing + 1.0) * (1 + 9e-6) + 9e-5)  # is rounding
    with pytest.raises(InputError, match="got 15 in .* where it gives 14"):
        again.row(0, others, lambda missing, turned: np.minimum(missing + 1.0, 14))


def test_a_database_of_another_program_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE notes (text TEXT)")
        base.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match="that this class made, or a new one, got .*'notes'"):
        PairCache(path, "m")
    assert path.read_bytes() == before


def test_a_metric_that_differs_a_little_is_another_one_but_not_its_other_direction(
    tmp_path: Path,
) -> None:
    others = list(range(1, 101))
    PairCache(tmp_path / "pairs", "m").row(0, others, lambda missing, turned: missing + 1.0)
    again = PairCache(tmp_path / "pairs", "m")
    with pytest.raises(InputError, match="distances of this metric"):
        again.row(0, others, lambda missing, turned: (missing + 1.0) * (1 + 1e-4))
    other_end = PairCache(tmp_path / "pairs", "m")
    other_end.row(0, others, lambda missing, turned: (missing + 1.0) * (1 if turned else 1 + 1e-4))


def test_objects_that_are_no_rows_are_compared_by_their_places() -> None:
    words = ["a" * (1 + place % 7) for place in range(60)]

    def lengths(a: Any, b: Any) -> Any:
        assert isinstance(a, np.ndarray)
        assert isinstance(b, np.ndarray)
        return np.array([[abs(len(words[i]) - len(words[j])) for j in b] for i in a])

    rows = np.array([[len(word), 1.0] for word in words])
    embedding = IsometricEmbedding(
        1, metric=lengths, metric_takes="indices", random_state=0, max_epochs=300
    ).fit(rows)
    assert embedding.stress_ < 0.1
    with pytest.raises(InputError, match=r"score: there is no score where a metric takes indices"):
        embedding.score(rows)


def test_given_distances_are_kept_by_a_network_that_sees_other_columns() -> None:
    angle = DRAWS.uniform(0, 1, size=200)
    seen = np.c_[np.cos(angle), np.sin(angle)]
    table = np.abs(angle[:, None] - angle)
    embedding = IsometricEmbedding(1, metric="precomputed", random_state=0)
    embedding.fit(seen, distances=pd.DataFrame(table))
    assert embedding.score(seen, distances=table) > -0.1


def test_pairs_that_are_not_known_count_for_nothing() -> None:
    plane = DRAWS.uniform(-2, 2, size=(150, 2))
    table = cdist(plane, plane)
    holes = np.triu(DRAWS.random(table.shape) < 0.6, 1)
    table[holes | holes.T] = np.nan
    embedding = IsometricEmbedding(metric="precomputed", random_state=0).fit(plane, distances=table)
    kept = distortion(torch.tensor(plane), torch.tensor(embedding.transform(plane)))
    assert kept.stress < 0.1
    assert embedding.stress_ < 0.1


def test_near_pairs_are_kept_better_if_they_weigh_more() -> None:
    turn = DRAWS.uniform(0, 2 * np.pi, size=250)
    ring = np.c_[np.cos(turn), np.sin(turn), DRAWS.normal(size=(250, 4)) / 20]
    pairs = np.triu_indices(250, 1)
    truth = cdist(ring, ring)[pairs]
    near = truth < 0.3

    def stress(power: float) -> float:
        options = {"near": power, "random_state": 0, "max_epochs": 400}
        points = IsometricEmbedding(1, **options).fit_transform(ring)
        gap = (cdist(points, points)[pairs] - truth)[near]
        return float((gap**2).sum() / (truth[near] ** 2).sum())

    assert stress(2.0) < 0.6 * stress(0.0)


def test_weights_of_near_pairs_fall_as_a_power_and_are_0_where_nothing_is_known() -> None:
    distances = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, torch.nan], [2.0, torch.nan, 0.0]])
    weights = near_weights(distances, 2.0)
    assert weights[0, 1] == 4 * weights[0, 2]
    assert weights[1, 2] == 0
    assert weights.isfinite().all()
    near = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.07, 0.05, 0.01, 0.0])
    for unit in (1e-10, 1.0):
        weights = near_weights(unit * near, 1.0)
        torch.testing.assert_close(weights, 1 / near.clamp_min(0.05))
    assert near_weights(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2.0).isfinite().all()


def test_without_weights_the_objective_is_0_with_a_slope_of_0() -> None:
    drawn, none = torch.ones(2, 2, requires_grad=True), torch.zeros(2, 2)
    scale = dense.fitted_scale(torch.ones(2, 2), drawn, none)
    value = dense.mean_stress(torch.ones(2, 2), drawn, none, scale)
    value.backward()
    assert (scale.item(), value.item()) == (0, 0)
    assert torch.equal(drawn.grad, none)


def test_distances_on_the_map_keep_their_digits_however_many_there_are() -> None:
    points = torch.tensor(DRAWS.normal(size=(40, 2))).float()
    points[1] = points[0] + torch.tensor([3e-4, 4e-4])
    expected = cdist(points.double(), points.double())
    np.testing.assert_allclose(distances_on_map(points).numpy(), expected, rtol=1e-3, atol=1e-7)
    pairs = Pairs(lambda at: torch.zeros(len(at), len(at)), 1.0, None, torch.empty(0))
    _, drawn = pairs.compared(points, np.arange(40))
    np.testing.assert_allclose(drawn, expected[np.triu_indices(40, 1)], rtol=1e-12)


def similar(a: Any, b: Any) -> Any:
    return np.exp(-cdist(a, b))


def skewed(a: Any, b: Any) -> Any:
    return np.maximum(a[:, None, 0] - b[None, :, 0], 0)


def test_a_metric_may_round_differently_in_each_direction() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 50))
    rows[1::2] = rows[::2] + 1e-12  # as products of matrices do for samples that nearly coincide

    def rounded(a: Any, b: Any) -> Any:
        return cdist(a, b) + 1e-6 * (a[:, None, 0] > b[None, :, 0])

    embedding = IsometricEmbedding(metric=rounded, max_epochs=1, random_state=0)
    assert embedding.fit_transform(rows).shape == (20, 2)

    def uneven(a: Any, b: Any) -> Any:  # a thousandth of the largest, at small distances
        return cdist(a, b) + 0.01 * (a[:, None, 0] > b[None, :, 0])

    with pytest.raises(InputError, match="metric must be symmetric"):
        IsometricEmbedding(metric=uneven, max_epochs=1, random_state=0).fit(rows)


BAD: list[tuple[dict[str, Any], Any, str]] = [
    ({"metric": skewed}, None, "metric must be symmetric, got"),
    ({"metric": lambda a, b: 1.0}, None, r"metric must map 16 and 15 samples to \(16, 15\) real"),
    ({"metric": lambda a, b: None}, None, r"real distances, got NoneType\. A distance d"),
    ({"metric": scipy_euclidean}, None, r"take 16 and 15 samples at once, .* 1-D.*cdist"),
    ({"metric": math.dist}, None, "metric must take 16 and 15 samples at once"),
    ({"metric": "precomputed"}, csr_array(city(ROWS, ROWS)), "for 60 samples, got csr_array"),
    ({"metric": lambda a, b: -city(a, b)}, None, "metric must be at least 0"),
    ({"metric": np.zeros((150, 150))}, None, "metric must be a callable or one of .* got ndarray"),
    ({"metric": "geodesic"}, None, "geodesic distances of a batch depend on the batch"),
    ({"metric": "taxicab"}, None, "one of 'euclidean', .*'angular', 'precomputed', got"),
    ({"metric": lambda a, b: city(a, b) > 1}, None, r"got bool of shape \(16, 15\)"),
    ({"metric": lambda a, b: 1e-9 * skewed(a, b)}, None, "metric must be symmetric"),
    ({"metric": lambda a, b: city(a, b) * (1 + (a[:, None, 0] > b[:, 0]))}, None, "be symmetric"),
    ({"metric": "precomputed"}, np.ones((60, 60), bool), r"got bool of shape \(60, 60\)"),
    ({"metric": city, "metric_takes": "pairs"}, None, "metric_takes must be 'rows' or 'indices'"),
    ({"metric": "precomputed"}, None, "metric='precomputed' needs the table of distances"),
    ({}, np.zeros((60, 60)), "distances= belongs to metric='precomputed', got metric='euc"),
    ({"metric": lambda a: a}, None, "metric must take two sets of samples, got a callable for"),
    ({"metric": "precomputed"}, np.zeros((60, 59)), r"shape \(60, 60\) for 60 samples"),
    (
        {"metric": "precomputed"},
        np.ma.masked_greater(city(ROWS, ROWS), city(ROWS, ROWS).max() * 0.999),
        "distances must not be masked, got 2 masked of 3600 entries. Fill them with NaN",
    ),
    (
        {"metric": lambda a, b: np.ma.masked_less(city(a, b), 1)},
        None,
        "metric's result must not be masked, got .* Fill them with NaN",
    ),
    ({"metric": "precomputed"}, -city(ROWS, ROWS), "distances must be at least 0 and finite"),
    ({"metric": "precomputed"}, skewed(ROWS, ROWS), "distances must be symmetric, got"),
    ({"metric": similar}, None, "got 1 there and .* Is it a similarity"),
    ({"metric": "precomputed"}, similar(ROWS, ROWS), "got 1 there and .* Is it a similarity"),
    ({"metric": "precomputed"}, torch.eye(60).to_sparse(), "distances must be a dense tensor"),
    ({"metric": lambda a, b: 1e-40 * city(a, b)}, None, "largest distance must be between 1e-30"),
    ({"metric": lambda a, b: 1e200 * city(a, b)}, None, "largest distance must be between 1e-30"),
    ({"metric": lambda a, b: city(a, b) + 0j}, None, r"got complex128 of shape \(16, 15\)"),
    ({"metric": "precomputed"}, np.full((60, 60), np.nan), "got no known one among 60 samples"),
]


@pytest.mark.parametrize(("options", "distances", "text"), BAD)
def test_what_cannot_be_distances_is_refused_before_anything_is_trained(
    options: dict[str, Any], distances: Any, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        brief(**options).fit(ROWS, distances=distances)


def test_classes_lie_as_the_means_of_the_data_do() -> None:
    """In a plane MDS is exact: distances of prototypes are those of the means, scaled."""
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 8.0], [6.0, 8.0]])
    classes = np.repeat(np.arange(4), 30)
    points = centres[classes] + DRAWS.normal(size=(120, 2))
    layout = lay_out(cdist(points, points), classes, 4, 2, apart=4.0, closest=0.0)
    means = np.stack([points[classes == k].mean(0) for k in range(4)])
    spread = [np.sqrt(((points[classes == k] - means[k]) ** 2).sum(1).mean()) for k in range(4)]
    assert layout.radius == pytest.approx(np.mean(spread))
    wanted = cdist(means, means)
    wanted *= 4 / np.median(wanted[np.triu_indices(4, 1)])
    np.testing.assert_allclose(cdist(layout.prototypes, layout.prototypes), wanted, rtol=1e-3)


def test_classes_that_coincide_are_still_put_apart() -> None:
    points = np.r_[ROWS, ROWS]
    layout = lay_out(cdist(points, points), np.repeat([0, 1], 60), 2, 2, apart=4.0, closest=2.0)
    apart = np.linalg.norm(layout.prototypes[0] - layout.prototypes[1])
    assert apart == pytest.approx(4.0, abs=0.01)


@given(st.integers(0, 99), st.integers(3, 8))
def test_mds_restores_points_of_a_plane(seed: int, k: int) -> None:
    points = np.random.default_rng(seed).normal(size=(k, 2))
    np.testing.assert_allclose(
        cdist(smacof(cdist(points, points), 2), smacof(cdist(points, points), 2)),
        cdist(points, points),
        atol=0.02,
    )


def test_many_classes_are_laid_out_in_a_tenth_of_the_rounds_and_hardly_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gaps = cdist(*[np.random.default_rng(0).normal(size=(300, 20))] * 2)
    few, many = (gaps - cdist(*[smacof(gaps, 2, rounds=n)] * 2) for n in (30, 300))
    assert 1 <= np.linalg.norm(few) / np.linalg.norm(many) < 1.003

    def counted(gaps: Any, components: int, *, rounds: int = 300) -> Any:
        seen.append(rounds)
        return np.zeros((len(gaps), components))

    seen: list[int] = []
    monkeypatch.setattr(layout, "smacof", counted)
    for k in (2, 1000, 3000):
        lay_out(1 - np.eye(k), np.arange(k), k, 2, apart=4.0, closest=2.0)
    assert seen == [300, 300, 33]


def test_the_cross_entropy_of_partly_known_levels_is_that_of_the_classes_left() -> None:
    y = np.array([["a", "x"], ["a", "y"], ["b", "x"], ["a", "-1"], ["-1", "-1"]])
    targets = read_targets(y, 5)
    assert targets.names.tolist() == [["a", "x"], ["a", "y"], ["b", "x"]]
    assert targets.classes.tolist() == [0, 1, 2, -1, -1]
    logits = torch.tensor(DRAWS.normal(size=(5, 3)))
    p = logits.softmax(1)
    wanted = -(p[0, 0].log() + p[1, 1].log() + p[2, 2].log() + (p[3, 0] + p[3, 1]).log()) / 4
    assert targets.cross_entropy(logits, torch.arange(5)) == pytest.approx(wanted.item())
    assert targets.cross_entropy(logits[4:], torch.tensor([4])) == 0


def test_one_labelled_sample_of_a_batch_counts_as_one() -> None:
    targets = read_targets(np.array([0, 1, -1]), 3)
    logits = torch.tensor(DRAWS.normal(size=(3, 2)))
    one = targets.cross_entropy(logits[[1, 2]], torch.tensor([1, 2]))
    assert one.item() == pytest.approx(-logits[1].log_softmax(0)[1].item())


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (np.zeros((3, 2, 2)), r"a label for each of 3 samples.* got shape \(3, 2, 2\)"),
        (np.ones((3, 1), int), "y must hold at least two classes, got 1 class"),
        (-np.ones(3, int), "y must hold at least two classes, got no class"),
        (np.zeros((3, 0)), r"a label for each of 3 samples.* got shape \(3, 0\)"),
        (
            [[0, 1, 2], [1, 1, 1], [0, -1, 5]],
            "sample 2 with a label in column 2 and -1 in column 1",
        ),
        (
            [[0, 1, 2], [-1, 3, -1], [0, 1, 5]],
            "sample 1 with a label in column 1 and -1 in column 0",
        ),
        (np.array([0, None, 1]), "y must not hold None or NaN. Write -1"),
        (np.array(["a", np.nan, "b"], object), "y must not hold None or NaN. Write -1"),
        ([0.0, np.inf, 1.0], "y must not hold NaN or infinity. Write -1"),
        (["a", np.nan, "b"], "y must not hold None or NaN. Write -1"),
        (["a", None, "b"], "y must not hold None or NaN. Write -1"),
        ([["a", "c"], ["b", np.nan], ["b", "d"]], "y must not hold None or NaN. Write -1"),
        ([1, "1", 2], "must be all strings or all numbers, got '1' and 1. Write all"),
        (np.array(["a", 0.5, "b"], object), "must be all strings or all numbers, got 'a' and 0.5"),
        (np.ma.masked_equal([0, 1, 2], 1), "y must not be masked, got 1 masked of 3 .* with -1"),
        ([2.0**53, 2.0**53 + 1, 0.0], "that float64 tells apart, got 9007199254740992, which may"),
        (np.array([2**24, 2**24 + 1, 0], np.float32), "float32 tells apart, got 16777216"),
        ([[2**53, 0.5], [2**53 + 1, 0.5], [1, 0.5]], "that float64 tells apart"),
        (torch.tensor([255, 256, 0]).bfloat16(), "torch.bfloat16 tells apart, got 256, which may"),
        (torch.eye(3).to_sparse(), "y must be a dense tensor"),
        ([[0, 1], [1, 1], [1]], "a row of them, got rows of several lengths"),
        (pd.Series([(0, 1), (1, 1), (1,)]), "a row of them, got rows of several lengths"),
        ({0, 1, 2}, "a label for each of 3 samples, or a row of them, got set"),
    ],
)
def test_what_is_no_label_of_a_map_is_refused(y: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        read_targets(y, 3)


LEVELS = [(3, "a"), (3, "b"), (5, "a")]
NAMED: dict[str, tuple[Any, list[int], list[Any]]] = {
    "a list": (["b", -1, "a", "b"], [1, -1, 0, 1], ["a", "b"]),
    "the string -1": (["b", "-1", "a"], [1, -1, 0], ["a", "b"]),
    "-1.0 as numpy writes it": (np.array(["a", -1.0, "b"]), [0, -1, 1], ["a", "b"]),
    "nothing masked": (np.ma.masked_equal([0, 1, 2], 9), [0, 1, 2], [0, 1, 2]),
    **{
        f"{dtype}": (torch.tensor([1, -1, 0], dtype=dtype, requires_grad=True), [1, -1, 0], [0, 1])
        for dtype in (torch.bfloat16, torch.float64)
    },
    "tuples in a column": (pd.Series(LEVELS), [0, 1, 2], [*map(list, LEVELS)]),
    "an index of levels": (pd.MultiIndex.from_tuples(LEVELS), [0, 1, 2], [*map(list, LEVELS)]),
    "several types": (np.array([*LEVELS, (5, -1)], object), [0, 1, 2, -1], [*map(list, LEVELS)]),
}


@pytest.mark.parametrize(("y", "classes", "names"), NAMED.values(), ids=NAMED)
def test_labels_keep_their_types_however_they_are_given(
    y: Any, classes: list[int], names: list[Any]
) -> None:
    targets = read_targets(y, len(y))
    assert (targets.classes.tolist(), targets.classes_.tolist()) == (classes, names)


def test_levels_that_are_not_known_to_the_last_are_named_where_nothing_is_learned() -> None:
    targets = read_targets([(3, "a"), (3, "b"), (5, -1)], 3, to_learn=False)
    assert targets.classes_.tolist() == [[3, "a"], [3, "b"]]


def test_a_named_metric_trains_as_the_same_distances_from_a_callable() -> None:
    maps = [brief(metric=metric).fit_transform(ROWS) for metric in ("manhattan", city)]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-3)
    plain, given = (
        brief(metric=metric).fit(ROWS).transform(ROWS) for metric in ("euclidean", cdist)
    )
    np.testing.assert_allclose(plain, given, rtol=0, atol=3e-2)
    assert np.abs(maps[0] - plain).max() > 0.1


@pytest.mark.parametrize("near", [0.0, 1.0])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_objective_has_the_value_and_the_slope_of_the_penalties(
    labelled: bool, near: float
) -> None:
    y = np.column_stack([np.arange(12) % 3, np.arange(12) % 2])
    y[:3, 1] = y[0, 0] = -1
    known = torch.tensor(city(ROWS[:12], ROWS[:12])).float()
    known[0, 1] = known[1, 0] = torch.nan
    targets = read_targets(y, 12) if labelled else None
    prototypes = torch.tensor(DRAWS.normal(size=(6, 2))).float()
    pairs = Pairs(lambda at: known[at][:, at], 1.0, targets, prototypes)
    recipe = Recipe(1, 0.1, 0.0, 2.0, 5.0, near, None, False)
    points = torch.tensor(DRAWS.normal(size=(12, 2))).float().requires_grad_()
    options = {
        "input_distances": known,
        "pair_weights": near_weights(known, near) if near else None,
        "reduction": "pairs",
    }
    if targets is None:
        wanted = isometry_penalty(None, points, **options)
    else:
        logits = -2 * torch.cdist(points, prototypes).square()
        within, everywhere = (
            [isometry_penalty(None, points, level, scale="fit", **options) for level in levels]
            for levels in (targets.levels, [None])
        )
        wanted = targets.cross_entropy(logits, torch.arange(12))
        wanted = wanted + 2 * torch.stack(within).mean() + 5 * everywhere[0]
    found = pairs.loss(points, torch.arange(12), recipe)
    torch.testing.assert_close(found, wanted)
    (slope,), (wanted_slope,) = (torch.autograd.grad(each, points) for each in (found, wanted))
    torch.testing.assert_close(slope, wanted_slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [None, [0, 0, 1, 1, 0, -1], [0, 1, 2, 3, 4, 5]])
def test_what_is_compared_is_each_pair_of_a_class_once(labels: list[int] | None) -> None:
    rows = ROWS[:6].copy()
    targets = None if labels is None else read_targets(np.array(labels), 6)
    known = city(rows, rows)
    known[0, 1] = known[1, 0] = np.nan
    pairs = Pairs(lambda at: torch.tensor(known[np.ix_(at, at)]), 2.0, targets, torch.empty(0))
    points = torch.tensor(DRAWS.normal(size=(6, 2)))
    same = labels is not None and len(set(labels)) < 6
    if labels is not None and not same:  # no class has two of them
        assert not len(pairs.compared(points, np.arange(6))[0])
    data, drawn = pairs.compared(points, np.arange(6), within=same)
    counted = [
        (i, j)
        for i in range(6)
        for j in range(i + 1, 6)
        if (i, j) != (0, 1) and (not same or labels[i] == labels[j] != -1)  # type: ignore[index]
    ]
    assert len(counted) == len(data) > 0
    np.testing.assert_allclose(data, [known[i, j] / 2 for i, j in counted], rtol=1e-6)
    lengths = [(points[i] - points[j]).norm().item() for i, j in counted]
    np.testing.assert_allclose(drawn, lengths)


def mean_stress(known: Any, drawn: Any, weights: Any, *, fit: bool) -> float:
    """By loops: the mean of w (D - s d)^2 over the pairs that are known, at the best s or at 1."""
    places = [(i, j) for i in range(len(known)) for j in range(len(known)) if i != j]
    terms = [(weights[p], known[p], drawn[p]) for p in places if weights[p] > 0]
    terms = [term for term in terms if not np.isnan(term[1])]
    scale = sum(w * a * b for w, a, b in terms) / sum(w * b * b for w, a, b in terms) if fit else 1
    return sum(w * (a - scale * b) ** 2 for w, a, b in terms) / sum(w for w, *_ in terms)


@pytest.mark.parametrize("near", [0.0, 1.0])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_objective_is_that_of_plain_loops(near: float, labelled: bool) -> None:
    y = np.array([["a", "x"], ["a", "x"], ["a", "y"], ["a", "y"], ["b", "x"], ["b", "-1"]])
    targets = read_targets(y, 6) if labelled else None
    recipe = Recipe(9, 0.1, 0.0, beta=3.0, beta_all=0.7, near=near, patience=None, verbose=False)
    known, points = city(ROWS[:6], ROWS[:6]), DRAWS.normal(size=(6, 2))
    known[0, 2] = known[2, 0] = np.nan
    np.fill_diagonal(known, 7.0)  # it is no pair
    prototypes = torch.tensor(DRAWS.normal(size=(3, 2)), dtype=torch.float32)
    pairs = Pairs(lambda at: torch.tensor(known[np.ix_(at, at)]), 2.0, targets, prototypes)
    order = np.array([3, 1, 0, 5, 4, 2])
    loss = pairs.loss(torch.tensor(points[order]).float(), torch.tensor(order), recipe)
    known /= 2.0
    drawn = cdist(points, points)
    weights = near_weights(torch.tensor(known), near).numpy() if near else np.ones((6, 6))
    expected = mean_stress(known, drawn, weights, fit=labelled)
    if targets is not None:
        coarse = y[:, None, 0] == y[None, :, 0]
        fine = coarse & (y[:, None, 1] == y[None, :, 1]) & (y[:, None, 1] != "-1")
        levels = [mean_stress(known, drawn, weights * level, fit=True) for level in (coarse, fine)]
        logits = -(cdist(points, prototypes.numpy()) ** 2) * 2
        entropy = targets.cross_entropy(torch.tensor(logits), torch.arange(6)).item()
        expected = entropy + 3.0 * np.mean(levels) + 0.7 * expected
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_rows_in_radii_give_the_objective_of_their_distances() -> None:
    recipe = Recipe(9, 0.1, 0.0, beta=3.0, beta_all=0.7, near=0.0, patience=None, verbose=False)
    points, order = torch.tensor(DRAWS.normal(size=(60, 2))).float(), torch.randperm(60)
    rows = torch.tensor(ROWS).float()
    blocks = resolve_blocks(ROWS, "euclidean")
    given = Pairs(blocks, 2.0, None, torch.empty(0))
    own = Pairs(blocks, 2.0, None, torch.empty(0), rows / 2)
    torch.testing.assert_close(*(p.loss(points[order], order, recipe) for p in (given, own)))


def test_a_layout_has_the_mean_radius_of_its_classes_and_one_where_nothing_is_known_between() -> (
    None
):
    points = np.array([[0.0], [2.0], [10.0], [14.0], [50.0]])
    classes = np.array([0, 0, 1, 1, -1])
    known = cdist(points, points)
    options: Any = {"apart": 4.0, "closest": 2.0}
    assert lay_out(known, classes, 2, 1, **options).radius == pytest.approx((1 + 2) / 2)
    dense = cdist(*[np.array([[0.0], [2e-4], [10.0], [14.0]])] * 2)  # no rounding
    assert lay_out(dense, classes[:4], 2, 1, **options).radius == pytest.approx((1e-4 + 2) / 2)
    apart = known.copy()
    apart[:2, 2:4] = apart[2:4, :2] = np.nan
    layout = lay_out(apart, classes, 2, 1, **options)
    assert abs(layout.prototypes[0, 0] - layout.prototypes[1, 0]) == pytest.approx(4.0, abs=0.01)
    one = lay_out(known, np.array([0, 0, 0, -1, -1]), 1, 3, **options)
    assert (one.prototypes.shape, np.abs(one.prototypes).max()) == ((1, 3), 0)
    off = ~np.eye(5, dtype=bool)
    alone = lay_out(known, np.arange(5), 0, 2, **options)
    assert alone.radius == pytest.approx(np.sqrt((known[off] ** 2).mean() / 2))
    near = np.array([[0.0], [0.2], [0.1], [0.3], [30.0], [30.2]])
    three = lay_out(cdist(near, near), np.repeat([0, 1, 2], 2), 3, 2, **options).prototypes
    assert np.linalg.norm(three[0] - three[1]) == pytest.approx(2.0, abs=0.05)
    assert np.linalg.norm(three[0] - three[2]) == pytest.approx(4.0, abs=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = lay_out(apart, np.array([0, 0, 1, 1, 2]), 3, 1, **options)
        assert single.radius == pytest.approx((1 + 2) / 2), "a single sample has no radius"
        lay_out(apart, classes, 2, 1, **options)
        lay_out(known * 0 + 1, np.repeat(0, 5), 2, 1, **options)  # a class without samples
    np.fill_diagonal(known, 7.0)  # it is not read
    for unit in (1e-3, 1e3):
        other = lay_out(unit * known, classes, 2, 1, **options)
        assert other.radius == pytest.approx(1.5 * unit)
        np.testing.assert_allclose(
            other.prototypes, lay_out(known, classes, 2, 1, **options).prototypes
        )
    for bad, text in (
        (np.zeros((5, 5)), r"none but 0 among 5 samples\. Do all samples coincide\?"),
        (np.full((5, 5), np.nan), r"no known one among 5 samples\. Give more, or raise batch_size"),
    ):
        with pytest.raises(InputError, match=text):
            lay_out(bad, classes, 2, 2, **options)


@pytest.mark.parametrize(
    ("unit", "fits"), [(1e-30, False), (1.1e-30, True), (0.9e30, True), (1e30, False)]
)
def test_the_largest_distance_is_one_that_float32_can_hold(unit: float, fits: bool) -> None:
    known = np.array([[0.0, unit], [unit, 0.0]])
    if fits:
        assert lay_out(known, np.full(2, -1), 0, 2, apart=4.0, closest=2.0).radius > 0
    else:
        with pytest.raises(InputError, match="largest distance must be between 1e-30 and 1e"):
            lay_out(known, np.full(2, -1), 0, 2, apart=4.0, closest=2.0)


ASYMMETRIC = np.array([[0.0, 1.0, 9.0], [2.0, 0.0, 9.0], [9.0, 9.0, 0.0]])


@pytest.mark.parametrize(("there", "said"), [(2.0, "2"), (np.nan, "nan")])
def test_the_pair_is_told_whose_distances_are_furthest_from_each_other(
    there: float, said: str
) -> None:
    table = ASYMMETRIC.copy()
    table[1, 0] = there
    table[1, 2] = 9.5
    with pytest.raises(InputError, match=f"got 1 in one direction and {said} in the other"):
        resolve_blocks(ROWS[:3], "precomputed", distances=table)


def test_a_table_of_any_number_of_samples_is_looked_at_as_a_whole() -> None:
    table = np.ones((300, 300))
    rows = np.zeros((300, 1))
    for value, text in ((-1.0, "got -1 to 1"), (np.inf, "got 1 to inf")):
        bad = table.copy()
        bad[280, 290] = bad[290, 280] = value
        with pytest.raises(InputError, match=f"distances must be at least 0 and finite.*{text}"):
            resolve_blocks(rows, "precomputed", distances=bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_blocks(rows, "precomputed", distances=table * np.nan)


def test_a_metric_may_differ_by_a_thousandth_and_is_looked_at_where_it_was_not_tried() -> None:
    def uneven(a: Any, b: Any) -> Any:
        return np.abs(a[:, None] - b) * (1 + share * ((a[:, None] == 1) & (b == 2)))

    share = 5e-4
    blocks = resolve_blocks(ROWS, uneven, takes="indices")
    blocks(np.array([1, 2]))
    share = 0.5
    with pytest.raises(InputError, match="metric must be symmetric, got 1.5 in one direction"):
        blocks(np.array([1, 2]))


def test_a_metric_with_a_cache_is_tried_before_as_well(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metric must be symmetric"):
        resolve_blocks(ROWS, skewed, cache=tmp_path / "pairs")


def test_a_metric_with_a_cache_is_looked_at_where_it_was_not_tried(tmp_path: Path) -> None:
    def uneven(a: Any, b: Any) -> Any:
        later = (a[:, None] < b) & (a[:, None] % 4 > 0)  # each fourth is tried
        return np.abs(a[:, None] - b) * np.where(later & (b % 4 > 0), 1.5, 1.0)

    blocks = resolve_blocks(np.ones((61, 2)), uneven, takes="indices", cache=tmp_path / "pairs")
    blocks(np.arange(0, 61, 4))
    with pytest.raises(InputError, match="metric must be symmetric, got"):
        blocks(np.arange(30))


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_no_distance_is_refused_where_it_was_not_tried(
    cached: bool, tmp_path: Path
) -> None:
    def negative(a: Any, b: Any) -> Any:
        far = np.abs(a[:, None] - b)
        return np.where(far == 49, -1.0, far)  # 1 and 50: each fourth is tried

    file = tmp_path / "pairs" if cached else None
    blocks = resolve_blocks(np.ones((61, 2)), negative, takes="indices", cache=file)
    with pytest.raises(InputError, match="metric must be at least 0 and finite.* got -1"):
        blocks(np.arange(51))


def test_equal_rows_are_other_objects_to_a_metric_that_takes_places(tmp_path: Path) -> None:
    def apart(a: Any, b: Any) -> Any:
        return np.abs(a[:, None] - b)

    blocks = resolve_blocks(np.ones((9, 2)), apart, takes="indices", cache=tmp_path / "pairs")
    np.testing.assert_array_equal(blocks(np.array([0, 8, 3])), apart(*[np.array([0, 8, 3])] * 2))


def in_torch(a: Any, b: Any) -> torch.Tensor:
    return torch.cdist(torch.tensor(a, requires_grad=True), torch.tensor(b))


def whole(a: Any, b: Any) -> Any:
    return city(a, b).round().astype(int)


def in_bfloat16(a: Any, b: Any) -> torch.Tensor:
    return torch.as_tensor(whole(a, b)).bfloat16()


TABLE = torch.as_tensor(whole(ROWS.astype(np.float32), ROWS.astype(np.float32)))


@pytest.mark.parametrize(
    "kind",
    ["named", "torch", "integers", "bfloat16", "table of integers", "bfloat16 table", "leaf"],
)
def test_blocks_are_in_double_precision_whatever_they_are_made_of(kind: str) -> None:
    rows, places = ROWS.astype(np.float32), np.array([4, 0, 9])
    table = whole(rows, rows)
    blocks = {
        "named": lambda: resolve_blocks(rows, "euclidean"),
        "torch": lambda: resolve_blocks(rows, in_torch),
        "integers": lambda: resolve_blocks(rows, whole),
        "bfloat16": lambda: resolve_blocks(rows, in_bfloat16),
        "bfloat16 table": lambda: resolve_blocks(rows, "precomputed", distances=TABLE.bfloat16()),
        "leaf": lambda: resolve_blocks(
            rows, "precomputed", distances=TABLE.double().requires_grad_()
        ),
        "table of integers": lambda: resolve_blocks(rows, "precomputed", distances=table),
    }[kind]()
    block = blocks(places)
    assert block.dtype == torch.float64
    assert not block.requires_grad
    expected = (
        cdist(rows[places], rows[places])
        if kind in {"named", "torch"}
        else table[places][:, places]
    )
    np.testing.assert_allclose(block, expected, rtol=1e-6)


def test_a_table_in_double_precision_keeps_its_digits() -> None:
    table = torch.tensor([[0, 1 / 3], [1 / 3, 0]], dtype=torch.float64)
    for held in (table, table.numpy()):
        blocks = resolve_blocks(ROWS[:2], "precomputed", distances=held)
        assert torch.equal(blocks(np.arange(2)), table)


def test_a_cache_takes_many_pairs_at_once(tmp_path: Path) -> None:
    cache, asked = PairCache(tmp_path / "pairs", "m"), []

    def compute(missing: NDArray[np.int64], turned: bool) -> NDArray[np.float64]:
        asked.append(len(missing))
        return missing + 1.0

    others = list(range(1, 901))
    for _ in range(2):
        np.testing.assert_array_equal(cache.row(0, others, compute), others)
    assert asked == [900]


def test_a_row_of_a_cache_reads_its_own_pairs_whatever_else_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions: list[None] = []

    class Counting(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.set_progress_handler(lambda: instructions.append(None), 1)

    def steps_of_a_row() -> int:
        instructions.clear()
        assert cache.row(0, [1, 2, 3], never).tolist() == [1, 2, 3]
        return len(instructions)

    def never(missing: NDArray[np.int64], turned: bool) -> NDArray[np.float64]:
        raise AssertionError(missing)

    cache = PairCache(tmp_path / "pairs", "m")
    cache.row(0, [1, 2, 3], lambda missing, turned: missing + 1.0)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counting))
    few = steps_of_a_row()
    cache.row(9, list(range(10, 3000)), lambda missing, turned: missing + 1.0)
    assert 0 < steps_of_a_row() == few


def test_a_cache_knows_pairs_in_both_orders_and_those_that_are_not_known(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(missing: NDArray[np.int64], turned: bool) -> NDArray[np.float64]:
        asked.append(missing.tolist())
        return np.where(missing == 1, np.nan, 10.0 + missing)

    cache = PairCache(tmp_path / "pairs", "m")
    np.testing.assert_array_equal(cache.row(7, [1, 2, 9], compute), [10, np.nan, 12])
    np.testing.assert_array_equal(cache.row(2, [7], compute), [np.nan])
    np.testing.assert_array_equal(cache.row(7, [9, 5, 1], compute), [12, np.nan, 10])
    assert asked == [[0, 1, 2], [1]]
    later = PairCache(tmp_path / "pairs", "m")  # tries one pair once more, which is not known still
    assert np.isnan(later.row(2, [7], lambda missing, turned: np.full(len(missing), np.nan)))
    rows = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])
    keys, placed = sample_keys(rows, places=False), sample_keys(rows, places=True)
    assert keys[0] == keys[1] != keys[2]
    assert len(set(placed)) == 3
    assert sample_keys(rows.astype(np.float32), places=False) == keys


def test_distances_of_samples_that_nearly_coincide_are_measured_exactly() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 20))
    rows = np.concatenate([rows, rows + 1e-6])
    blocks = resolve_blocks(rows, "euclidean")
    known = torch.as_tensor(rows, dtype=torch.float32)
    pairs = Pairs(blocks, 1.0, None, torch.zeros(0, 2), known)
    places = np.arange(80)
    measured, _ = pairs.compared(torch.zeros(80, 2), places)
    assert measured.min().item() == pytest.approx(1e-6 * 20**0.5, rel=1e-3)
    trained = pairs.training_distances(torch.as_tensor(places)).double()
    torch.testing.assert_close(trained, torch.cdist(*[known.double()] * 2), atol=1e-2, rtol=1e-3)
