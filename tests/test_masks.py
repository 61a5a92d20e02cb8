"""`isoreg.masks`: labels to pair weights, against plain loops."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from isoreg import isometry_penalty
from isoreg.errors import InputError, IsoregError
from isoreg.masks import (
    IGNORED,
    check_label_values,
    check_labels,
    pair_weights,
    partition,
    valid_labels,
)

some_labels = st.lists(st.sampled_from([4, 0, 1, 2, 7, IGNORED]), max_size=12).map(
    lambda values: torch.tensor(values, dtype=torch.int64)
)


def hard_by_loops(labels: list[int]) -> Tensor:
    n = len(labels)
    weights = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            weights[i, j] = float(labels[i] == labels[j] != IGNORED)
    return weights


def soft_labels(n: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, classes, generator=generator, dtype=torch.float64).softmax(1)


def test_ignored_is_the_ignore_index_of_cross_entropy() -> None:
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED


# pair_weights


def test_no_labels_weigh_every_pair_one() -> None:
    assert torch.equal(pair_weights(None, 4), torch.ones(4, 4))


@given(some_labels)
def test_integer_labels_weigh_pairs_of_one_class_and_never_ignored_samples(labels: Tensor) -> None:
    weights = pair_weights(labels, len(labels))
    assert torch.equal(weights, hard_by_loops(labels.tolist()))


SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
def test_every_integer_type_names_classes(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 0, 3], dtype=dtype)
    assert torch.equal(pair_weights(labels, 4), hard_by_loops([0, 1, 0, 3]))
    x, phi = torch.rand(4, 3), torch.rand(4, 2)
    found = isometry_penalty(x, phi, labels)
    assert torch.equal(found, isometry_penalty(x, phi, labels.long()))
    assert valid_labels(labels).all()
    assert partition(labels, [[3], [0]]).tolist() == [1, IGNORED, 1, 0]


def test_small_integer_types_never_mistake_a_class_for_the_ignored_label() -> None:
    labels = torch.arange(256).to(torch.uint8)  # IGNORED modulo 256 is a class like any other
    assert torch.equal(pair_weights(labels, 256), torch.eye(256))
    assert partition(torch.tensor([44], dtype=torch.uint8), [[300], [44]]).tolist() == [1]


def test_soft_labels_weigh_pairs_by_the_inner_product_of_their_rows() -> None:
    labels = soft_labels(6, 3)
    rows = labels.tolist()
    expected = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    weights = pair_weights(labels, 6, dtype=torch.float64)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


@given(some_labels)
def test_one_hot_rows_weigh_as_the_integers_they_encode(labels: Tensor) -> None:
    classes = torch.tensor([4, 0, 1, 2, 7])
    one_hot = (labels[:, None] == classes).float()  # IGNORED becomes a row of zeros
    n = len(labels)
    assert torch.equal(pair_weights(one_hot, n), pair_weights(labels, n))


@given(some_labels, st.permutations([4, 0, 1, 2, 7]))
def test_renaming_the_classes_changes_nothing(labels: Tensor, names: list[int]) -> None:
    renamed = labels.clone()
    for old, new in zip([4, 0, 1, 2, 7], names, strict=True):
        renamed[labels == old] = new + 10
    n = len(labels)
    assert torch.equal(pair_weights(renamed, n), pair_weights(labels, n))


@given(st.integers(0, 10), st.integers(2, 4), st.integers(0, 999))
def test_permuted_labels_permute_the_weights(n: int, classes: int, seed: int) -> None:
    labels = soft_labels(n, classes, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    weights = pair_weights(labels, n)
    torch.testing.assert_close(pair_weights(labels[order], n), weights[order][:, order])


def test_one_class_is_the_global_mask() -> None:
    one_class = torch.full((5,), 3)
    assert torch.equal(pair_weights(one_class, 5), pair_weights(None, 5))


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0]), torch.eye(3).double()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_have_the_type_and_device_asked_for(
    labels: Tensor | None, dtype: torch.dtype
) -> None:
    weights = pair_weights(labels, 3, dtype=dtype, device=torch.device("cpu"))
    assert (weights.dtype, weights.shape, weights.device.type) == (dtype, (3, 3), "cpu")
    assert pair_weights(labels, 3).dtype == torch.float32


@pytest.mark.parametrize(
    "labels", [None, torch.empty(0, dtype=torch.int64), torch.empty(0, 4)], ids=str
)
def test_an_empty_batch_has_an_empty_mask(labels: Tensor | None) -> None:
    assert pair_weights(labels, 0).shape == (0, 0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_weights_of_probabilities_are_not_rounded_to_integers(dtype: torch.dtype) -> None:
    text = rf"^pair_weights: dtype must be floating for probabilities, got {dtype}, which would"
    with pytest.raises(InputError, match=text):
        pair_weights(torch.full((2, 2), 0.5), 2, dtype=dtype)
    whole = pair_weights(torch.tensor([0, 0]), 2, dtype=dtype)
    assert torch.equal(whole, torch.ones(2, 2, dtype=dtype))


def test_autocast_does_not_round_the_weights_of_soft_labels() -> None:
    labels = soft_labels(6, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = pair_weights(labels, 6)
    assert torch.equal(under_autocast, pair_weights(labels, 6))


def test_rows_that_sum_to_one_within_rounding_are_soft_labels() -> None:
    labels = torch.tensor([[0.5, 0.5004], [0.2, 0.7996], [0.0, 0.0]])
    torch.testing.assert_close(pair_weights(labels, 3), labels @ labels.T)


@pytest.mark.parametrize(
    "row",
    [
        [0.5, 0.6],
        [0.5, 0.498],
        [1.5, -0.5],
        [0.5, -0.5],
        [0.01, 0.0],
        [math.nan, 1.0],
        [math.nan, math.nan],
        [math.inf, 0.0],
    ],
    ids=str,
)
def test_floats_that_are_not_soft_labels_are_refused(row: list[float]) -> None:
    labels = torch.tensor([[0.5, 0.5], row])
    with pytest.raises(InputError, match=r"(?s)^pair_weights: .*sum"):
        pair_weights(labels, 2)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 0]), torch.eye(3)], ids=["hard", "soft"])
def test_labels_of_another_length_are_refused_with_both_numbers(labels: Tensor) -> None:
    with pytest.raises(InputError, match=r"(?s)^pair_weights: (?=.*\b3\b)(?=.*\b5\b)"):
        pair_weights(labels, 5)


@pytest.mark.parametrize(
    "labels, fact",
    [
        (torch.zeros(3, 2, dtype=torch.int64), r"\(3, 2\)"),
        (torch.tensor(1), r"\(\)"),
        (torch.ones(3), r"\(3,\)"),
        (torch.full((3, 2, 2), 0.5), r"\(3, 2, 2\)"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
    ],
    ids=["integer matrix", "no axis", "float vector", "float cube", "complex"],
)
def test_labels_of_the_wrong_shape_or_type_are_refused(labels: Tensor, fact: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)^pair_weights: .*{fact}"):
        pair_weights(labels, 3)


def test_a_refusal_is_both_a_value_error_and_an_isoreg_error() -> None:
    with pytest.raises(ValueError, match="pair_weights") as caught:
        pair_weights(torch.zeros(2, dtype=torch.int64), 3)
    assert isinstance(caught.value, IsoregError)


def test_labels_are_left_as_they_were() -> None:
    labels = torch.tensor([3, IGNORED, 3])
    pair_weights(labels, 3)
    partition(labels, [[3]])
    assert labels.tolist() == [3, IGNORED, 3]


@pytest.mark.parametrize("n", [-1, 2.0, None, True, "3"])
def test_what_is_no_number_of_samples_is_refused(n: Any) -> None:
    text = "pair_weights: n must be an integer of at least 0, got"
    for labels in (None, torch.tensor([0, 1])):
        with pytest.raises(InputError, match=text):
            pair_weights(labels, n)
    assert pair_weights(None, 0).shape == (0, 0)


# partition


def test_the_widest_classes_are_named() -> None:
    ends = torch.tensor([2**63 - 1, -(2**63), 0])
    assert partition(ends, [[2**63 - 1], [-(2**63)]]).tolist() == [0, 1, IGNORED]


def test_partition_names_the_group_that_holds_each_label() -> None:
    assert partition(torch.empty(0, dtype=torch.int64), [[0]]).shape == (0,)
    labels = torch.tensor([0, 1, 2, 3, 2, 9, IGNORED])
    groups = partition(labels, [[0, 2], [1, 3]])
    assert groups.dtype == torch.int64
    assert groups.tolist() == [0, 1, 0, 1, 0, IGNORED, IGNORED]


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ("ab", "groups must be a list of lists of classes, got 'ab'"),
        (None, "groups must be a list of lists of classes, got None"),
        ([0, 1], r"groups must be a list of lists of classes, got \[0, 1\]"),
        ([["a"]], "classes must be integers of 64 bits, got 'a' in group 0"),
        ([[0], [1.5]], "classes must be integers of 64 bits, got 1.5 in group 1"),
        ([[2**63]], "classes must be integers of 64 bits, got 9223372036854775808 in group 0"),
        ([[0], [-(10**30)]], "classes must be integers of 64 bits, got -10+ in group 1"),
        ([[torch.tensor(0)], [torch.tensor(0)]], "classes must be integers of 64 bits, got tensor"),
    ],
)
def test_groups_that_could_hold_no_class_are_refused(groups, text: str) -> None:
    with pytest.raises(InputError, match=f"partition: {text}"):
        partition(torch.tensor([0, 1]), groups)


@given(some_labels, st.lists(st.sampled_from([4, 0, 1, 2, 7]), unique=True), st.integers(0, 5))
def test_partition_pairs_labels_whose_classes_share_a_group(
    labels: Tensor, classes: list[int], cut: int
) -> None:
    groups = [classes[:cut], classes[cut:]]
    weights = pair_weights(partition(labels, groups), len(labels))
    for i, a in enumerate(labels.tolist()):
        for j, b in enumerate(labels.tolist()):
            assert weights[i, j] == any(a in group and b in group for group in groups)


@given(some_labels)
def test_a_partition_into_single_classes_is_the_class_mask(labels: Tensor) -> None:
    single = partition(labels, [[4], [0], [1], [2], [7]])
    n = len(labels)
    assert torch.equal(pair_weights(single, n), pair_weights(labels, n))


@given(some_labels)
def test_a_coarser_partition_keeps_every_pair_of_a_finer_one(labels: Tensor) -> None:
    fine = pair_weights(partition(labels, [[0, 2], [1], [7]]), len(labels))
    coarse = pair_weights(partition(labels, [[0, 2, 7], [1]]), len(labels))
    assert (coarse >= fine).all()


def test_partition_takes_no_class_for_another_that_equals_it_in_a_small_type() -> None:
    labels = torch.tensor([0, 1, 44], dtype=torch.uint8)
    # 256, 257 and 300 wrap around to 0, 1 and 44; the ignored label to 156
    assert partition(labels, [[256, 257], [1], [300]]).tolist() == [-100, 1, -100]
    assert partition(labels, [[1], [300], [256, 257]]).tolist() == [-100, 0, -100]


def test_a_class_in_two_groups_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"(?s)^partition: .*\b17\b"):
        partition(torch.tensor([0, 17]), [[0, 17], [3, 17]])


@pytest.mark.parametrize("labels", [torch.eye(2), torch.ones(2), torch.ones(2, dtype=torch.cfloat)])
def test_partition_refuses_labels_that_are_not_integers(labels: Tensor) -> None:
    dtype = re.escape(str(labels.dtype)[6:])
    with pytest.raises(InputError, match=rf"(?s)^partition: .*{dtype}"):
        partition(labels, [[0], [1]])


def test_label_smoothing_in_bf16_is_accepted() -> None:
    smoothed = torch.full((4, 10), 0.1 / 9)
    smoothed[:, 0] = 0.9
    weights = pair_weights(smoothed.bfloat16(), 4)
    torch.testing.assert_close(weights, smoothed @ smoothed.T, rtol=2e-2, atol=0)


# What users have in place of labels, and the sentence that each of them needs

MISTAKES = [
    ("a column of numbers", torch.tensor([[0], [1], [1]]), r"\(3, 1\)\. Take .*squeeze\(1\)\.$"),
    ("a column of floats", torch.tensor([[0.0], [1.0], [1.0]]), r"squeeze\(1\)\.long\(\)"),
    ("a column of targets", torch.tensor([[0.1], [1.7], [0.4]]),
     r"regression.*None.*bucketize\(labels.squeeze\(1\),"),
    ("regression targets", torch.tensor([0.1, 1.7, -0.4]),
     r"regression.*labels=None.*bucketize\(labels,"),
    ("class numbers as floats", torch.tensor([0.0, 2.0, 1.0]), r"class numbers.*\.long\(\)"),
    ("-1 for no label", torch.tensor([0, -1, 1]), r"-1 at position 1.*write -100"),
    ("one-hot integers", torch.eye(3).long(), r"one-hot.*argmax\(1\)"),
    ("one-hot booleans", torch.eye(3).bool(), r"one-hot.*argmax\(1\)"),
    ("several labels", torch.tensor([[1, 1], [0, 1], [1, 0]]), r"several labels.*pair_weights="),
    ("several, as floats", torch.tensor([[1.0, 1], [0, 1], [1, 0]]), r"several.*pair_weights="),
    ("tokens", torch.tensor([[3, 7], [7, 2], [0, 1]]), "token or pixel"),
    ("NaN", torch.tensor([[0.5, 0.5], [torch.nan, 1], [1, 0]]), "NaN stands for no label.*zeros"),
    ("logits", torch.tensor([[2.0, -1], [0.5, 1], [1, 3]]), "row 0.*Logits.*softmax"),
]  # fmt: skip


@pytest.mark.parametrize(
    "labels, sentence", [x[1:] for x in MISTAKES], ids=[x[0] for x in MISTAKES]
)
def test_what_is_no_label_is_refused_with_the_sentence_that_its_user_needs(
    labels: Tensor, sentence: str
) -> None:
    with pytest.raises(InputError, match=rf"(?s)^pair_weights: .*{sentence}"):
        pair_weights(labels, 3)


@pytest.mark.parametrize("labels", [[0, 1], torch.tensor([0, 1]).numpy(), "ab"], ids=type)
def test_what_is_no_tensor_is_refused_by_its_type(labels: object) -> None:
    with pytest.raises(InputError, match=f"got {type(labels).__name__}.*as_tensor"):
        pair_weights(labels, 2)  # type: ignore[arg-type]


def test_sparse_and_nested_labels_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2)] * 2)
    for labels, kind in ((torch.eye(2).to_sparse(), "torch.sparse_coo"), (nested, "nested")):
        with pytest.raises(InputError, match=rf"labels must be a dense tensor, got a {kind}\b"):
            pair_weights(labels, 2)


def test_on_an_accelerator_labels_are_checked_without_a_look_at_their_values() -> None:
    with FakeTensorMode():
        check_labels(torch.zeros(4, device="cuda", dtype=torch.int64), 4)
        check_labels(torch.full((4, 2), 0.5, device="cuda"), 4)
        assert valid_labels(torch.zeros(4, device="cuda", dtype=torch.int64)).shape == (4,)
        with pytest.raises(InputError, match="3 labels for a batch of 4"):
            check_labels(torch.zeros(3, device="cuda", dtype=torch.int64), 4)


def test_values_can_be_checked_by_themselves() -> None:
    check_label_values(torch.tensor([0, IGNORED]))
    check_label_values(torch.arange(256).to(torch.uint8))
    check_label_values(torch.empty(0, dtype=torch.int64))
    check_label_values(torch.tensor([True, False]))
    with pytest.raises(InputError, match="-2 at position 1"):
        check_label_values(torch.tensor([0, -2]))


def test_probabilities_of_no_class_are_refused() -> None:
    with pytest.raises(InputError, match=r"with two classes or more, got shape \(3, 0\)"):
        pair_weights(torch.zeros(3, 0), 3)
