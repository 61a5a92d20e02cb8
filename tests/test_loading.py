"""Distances of a batch that the loader's workers compute."""

from __future__ import annotations

import pickle
from collections import UserDict
from collections.abc import Callable
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from isoreg import InputError, isometry_penalty
from isoreg.integrations.loading import PairwiseCollate, each_pair

WORDS = ["isometry", "isotropy", "symmetry", "geometry", "entropy", "", "iso"]


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row = row, [i]
        for (left, above), y in zip(pairwise(before), b, strict=True):
            row.append(min(above + 1, row[-1] + 1, left + (x != y)))
    return row[-1]


def words_and_lengths() -> list[tuple[str, int]]:
    return [(word, len(word)) for word in WORDS]


def first(sample: tuple[str, int]) -> str:
    return sample[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_batch_of_a_loader_brings_the_distances_of_its_own_samples(workers: int) -> None:
    collate = PairwiseCollate(each_pair(edits, of=first))
    loader = DataLoader(
        words_and_lengths(), batch_size=3, shuffle=True, collate_fn=collate, num_workers=workers
    )
    seen = []
    for words, lengths, distances in loader:
        seen += words
        assert [len(word) for word in words] == lengths.tolist()
        assert distances.tolist() == [[edits(a, b) for b in words] for a in words]
    assert sorted(seen) == sorted(WORDS)


@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=6))
def test_each_pair_equals_the_distance_of_every_ordered_pair(words: list[str]) -> None:
    assert each_pair(edits)(words).tolist() == [[edits(a, b) for b in words] for a in words]


def test_a_mapping_gets_a_key_and_a_tensor_becomes_a_pair() -> None:
    gaps = each_pair(lambda a, b: abs(a["at"] - b["at"]))
    batch = PairwiseCollate(gaps, key="gaps")([{"at": 1.0}, {"at": 4.0}])
    assert batch["at"].tolist() == [1, 4]
    assert batch["gaps"].tolist() == [[0, 3], [3, 0]]
    x, distances = PairwiseCollate(each_pair(lambda a, b: abs(float(a - b))))([
        torch.tensor(1.0),
        torch.tensor(4.0),
    ])
    assert x.tolist() == [1, 4]
    assert distances.tolist() == [[0, 3], [3, 0]]


@pytest.mark.parametrize("collate", [default_collate, list, tuple])
def test_samples_that_stay_as_they_are_stay_together(collate: Any) -> None:
    words = ["geometry", "symmetry", "isometry"]
    loader = DataLoader(words, 2, collate_fn=PairwiseCollate(each_pair(edits), collate=collate))  # type: ignore[arg-type]
    (first_two, far), (last, none) = loader
    assert [list(first_two), list(last)] == [words[:2], words[2:]]
    assert [tuple(far.shape), tuple(none.shape)] == [(2, 2), (1, 1)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fields_are_followed_by_the_distances_however_many_samples_there_are(n: int) -> None:
    batch = PairwiseCollate(each_pair(edits, of=first))([("geometry", 1)] * n)
    assert [batch[0], batch[1].tolist()] == [("geometry",) * n, [1] * n]
    assert len(batch) == 3


def test_distances_follow_the_samples_that_collate_sorts_or_drops_in_place() -> None:
    def longest_first(samples: list[list[int]]) -> list[list[int]]:
        samples.sort(key=len, reverse=True)
        del samples[3:]
        return [[*sample] for sample in samples]

    samples = [[0] * length for length in (2, 7, 1, 4)]
    collate = PairwiseCollate(each_pair(lambda a, b: abs(len(a) - len(b))), collate=longest_first)
    *rows, distances = collate(samples)
    assert [len(row) for row in rows] == [7, 4, 2]
    assert distances.tolist() == [[0, 3, 5], [3, 0, 2], [5, 2, 0]]


@pytest.mark.parametrize("kind", [list, tuple])
def test_distances_follow_samples_that_collate_returns_in_another_order(kind: Any) -> None:
    def long_ones(samples: list[str]) -> Any:
        return kind(sorted((word for word in samples if len(word) > 3), key=len, reverse=True))

    gaps = each_pair(lambda a, b: abs(len(a) - len(b)))
    words, distances = PairwiseCollate(gaps, collate=long_ones)([
        "isometry",
        "map",
        "distances",
        "edit",
    ])
    assert words == kind(["distances", "isometry", "edit"])
    assert distances.tolist() == [[0, 1, 5], [1, 0, 4], [5, 4, 0]]


def test_samples_that_collate_replaces_in_place_keep_their_distances() -> None:
    def padded(samples: list[str]) -> list[str]:
        samples[:] = [word.ljust(8) for word in samples]
        return samples

    words, distances = PairwiseCollate(each_pair(edits), collate=padded)(["iso", "entropy"])
    assert words == ["iso     ", "entropy "]
    assert distances[0, 1] == edits("iso", "entropy")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda words: [word.ljust(8) for word in words if len(word) > 3], "replaced 2 of 2"),
        (lambda words: [words[1], words[0], words[2].ljust(8)], "replaced 1 of 3"),
    ],
)
def test_samples_that_collate_replaces_while_it_moves_or_drops_others_are_refused(
    change: Callable[[list[str]], list[str]], text: str
) -> None:
    def collate(samples: list[str]) -> list[int]:
        samples[:] = change(samples)
        return list(map(len, samples))

    with pytest.raises(InputError, match=f"which sample is which.* {text} samples .* of 3"):
        PairwiseCollate(each_pair(edits), collate=collate)(["iso", "entropy", "metric"])


class Encoded(UserDict):  # type: ignore[type-arg]
    """A mapping that can do more, as those of tokenizers."""

    def to(self, device: str) -> Encoded:
        return Encoded({name: value.to(device) for name, value in self.items()})


def test_a_mapping_that_can_do_more_stays_what_it_is_and_the_given_one_as_it_was() -> None:
    given = Encoded(x=torch.ones(2))
    batch = PairwiseCollate(lambda _: [[0.0, 1.0], [1.0, 0.0]], collate=lambda _: given)([1, 2])
    assert batch.to("cpu")["distances"].tolist() == [[0, 1], [1, 0]]
    assert list(given) == ["x"]
    frozen = PairwiseCollate(lambda _: [[0.0]], collate=lambda _: MappingProxyType({"x": 1}))
    assert frozen([1])["distances"].tolist() == [[0]]


def test_the_distances_go_into_the_penalty_as_they_come() -> None:
    collate = PairwiseCollate(lambda samples: [[0, 5], [5, 0]])
    _, distances = collate([torch.zeros(2), torch.ones(2)])
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert isometry_penalty(None, features, input_distances=distances) == 0


def test_a_collate_with_picklable_parts_can_be_sent_to_spawned_workers() -> None:
    collate = pickle.loads(pickle.dumps(PairwiseCollate(each_pair(edits, of=first))))
    assert collate([("a", 1), ("ab", 2)])[-1].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("got", "text"),
    [
        ([[0.0, 1.0]], r"PairwiseCollate: pairwise must return \(2, 2\) real distances"),
        ([[0.0, -1.0], [-1.0, 0.0]], "at least 0 and finite .* got -1 to 0"),
        ([[0.0, float("inf")], [float("inf"), 0.0]], "at least 0 and finite"),
        ([[0.0, 1.0], [2.0, 0.0]], "must be symmetric"),
        ([[1.0, 0.5], [0.5, 1.0]], "Is it a similarity"),
        ([[float("nan"), -1.0], [-1.0, 0.0]], "at least 0 and finite .* got -1 to 0"),
        (torch.ones(2, 2).cfloat(), r"real distances for 2 samples, got torch.complex64 of shape"),
        (torch.eye(2).to_sparse(), "a dense tensor, got one of layout torch.sparse_coo"),
        (torch.eye(2, device="meta"), "hold numbers to compute with, got a tensor of the meta"),
        ((1 - torch.eye(2)).to(torch.float8_e4m3fn), "got a tensor of torch.float8_e4m3fn"),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "got a nested tensor"),
        ("far", "pairwise must return numbers, got str"),
        (None, "pairwise must return numbers, got NoneType"),
    ],
)
def test_what_cannot_be_distances_is_refused_with_the_rule(got: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        PairwiseCollate(lambda samples: got)([1.0, 2.0])


def test_an_unknown_distance_passes_as_nan() -> None:
    nan = float("nan")
    batch = PairwiseCollate(lambda samples: [[0.0, nan], [nan, 0.0]])([1.0, 2.0])
    assert batch[-1].isnan().tolist() == [[False, True], [True, False]]


def test_distances_are_constants_whatever_they_were_computed_from() -> None:
    graph = (2 * torch.ones(2, 2, requires_grad=True)).fill_diagonal_(0)
    assert not PairwiseCollate(lambda samples: graph)([1.0, 2.0])[-1].requires_grad


@pytest.mark.parametrize(
    ("near", "back", "fits"),
    [(1e-9, 5e-9, False), (1e-9, 1.0005e-9, True), (0.0, 1e-12, False), (0.0, 5e-4, False)],
)
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_what_is_rounding_depends_on_the_largest_distance(
    near: float, back: float, fits: bool, far: float
) -> None:
    table = torch.zeros(4, 4, dtype=torch.float64)
    table[0, 1], table[1, 0] = near, back
    table[2, 3] = table[3, 2] = far
    table[0, 3] = table[3, 0] = float("nan")
    collate = PairwiseCollate(lambda samples: table)
    if fits or far:
        torch.testing.assert_close(collate([1.0] * 4)[-1], table, equal_nan=True)
    else:
        with pytest.raises(InputError, match="distances must be symmetric"):
            collate([1.0] * 4)
    table[0, 2], table[2, 0] = 1.0, 1.0 + 3e-6 * max(far, 1e3)  # is more than a thousandth
    with pytest.raises(InputError, match="distances must be symmetric"):
        collate([1.0] * 4)


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x[::-1, ::-1],
        lambda x: x.astype(">f8"),
        lambda x: x.astype(object),
        lambda x: pytest.importorskip("pandas").DataFrame(x),
        lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),  # read-only
    ],
    ids=["reversed", "big-endian", "objects", "table", "read-only"],
)
def test_arrays_of_any_layout_are_their_numbers(kind: Callable, recwarn: object) -> None:
    given = kind(np.array([[0.0, 1.5], [1.5, 0.0]]))
    assert PairwiseCollate(lambda _: given)([1, 2])[-1].tolist() == [[0, 1.5], [1.5, 0]]
    assert not recwarn


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_table_that_is_used_again_for_the_next_batch_keeps_this_one(kind: str) -> None:
    table = torch.zeros(2, 2)
    out = table if kind == "tensor" else table.numpy()

    def gaps(samples: list[float]) -> object:
        out[0, 1] = out[1, 0] = abs(samples[0] - samples[1])
        return out

    collate = PairwiseCollate(gaps)
    first, second = collate([1.0, 2.0])[-1], collate([1.0, 4.0])[-1]
    assert [first[0, 1], second[0, 1]] == [1, 3]


def test_masked_distances_are_refused_and_a_mask_of_nothing_is_not() -> None:
    table = np.ma.masked_greater([[0.0, 5.0], [5.0, 0.0]], 6)
    collate = PairwiseCollate(lambda samples: table)
    assert collate([1.0, 2.0])[-1].tolist() == [[0, 5], [5, 0]]
    table[0, 1] = np.ma.masked
    with pytest.raises(InputError, match="must not be masked, got 1 masked of 4 .* with NaN"):
        collate([1.0, 2.0])


def test_a_key_that_the_samples_lack_is_told_with_those_that_they_have() -> None:
    told = (
        r"^PairwiseCollate: pairwise must find its keys, got KeyError\('word'\) for samples with "
        r"'x', 'y'\. .*remove_unused_columns=False"
    )
    with pytest.raises(InputError, match=told):
        PairwiseCollate(each_pair(lambda a, b: len(a["word"])))([{"x": 1, "y": 2}] * 2)
    with pytest.raises(KeyError, match="word"):  # of samples without keys it is the callable's own
        PairwiseCollate(each_pair(lambda a, b: {}["word"]))([1, 2])


def test_a_key_that_is_taken_is_refused() -> None:
    with pytest.raises(InputError, match="must not have the key 'at' already, got 'at'"):
        PairwiseCollate(lambda samples: [[0.0]], key="at")([{"at": 1.0}])


def test_what_is_not_callable_is_refused_when_it_is_built() -> None:
    with pytest.raises(InputError, match="^PairwiseCollate: pairwise must be callable, got list"):
        PairwiseCollate([1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^PairwiseCollate: collate must be callable, got int"):
        PairwiseCollate(len, collate=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^PairwiseCollate: key must be a key .* got list"):
        PairwiseCollate(len, key=["distances"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^each_pair: distance must be callable, got NoneType"):
        each_pair(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^each_pair: of must be callable, got str"):
        each_pair(edits, of="word")  # type: ignore[arg-type]


def test_integers_become_floats_and_a_thousandth_is_rounding() -> None:
    samples = [torch.zeros(2), torch.ones(2)]
    assert PairwiseCollate(lambda _: [[0, 5], [5, 0]])(samples)[-1].dtype == torch.float32
    PairwiseCollate(lambda _: [[0.0, 1.0], [1.0005, 0.0]])(samples)
    assert PairwiseCollate(each_pair(edits), collate=list)([])[-1].shape == (0, 0)


@pytest.mark.parametrize("answer", [None, "far", [1.0, 2.0]])
def test_a_distance_that_is_no_number_is_refused(answer: object) -> None:
    collate = PairwiseCollate(each_pair(lambda a, b: answer))  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="distance must return a number, got"):
        collate([1.0, 2.0])


def test_a_distance_that_float32_cannot_hold_is_refused() -> None:
    collate = PairwiseCollate(each_pair(lambda a, b: 1e39))
    with pytest.raises(InputError, match=r"that float32 can hold, got 1e\+39\. Choose another"):
        collate([1.0, 2.0])
