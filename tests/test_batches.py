"""Where labels, references and options of an adapter are: found, or refused with what was seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isoreg import InputError
from isoreg.integrations.batches import Named, check_options, find_labels

X, Y, Z = torch.rand(3, 2), torch.arange(3), torch.ones(3).long()


@pytest.mark.parametrize(
    "batch", [(X, Y), [X, Y, Z], {"x": X, "y": Z, "labels": Y}, {"target": Y}, {"label_ids": Y}]
)
def test_labels_are_the_second_entry_or_under_the_first_of_their_names(batch: Any) -> None:
    assert find_labels(batch) is Y


def test_labels_may_be_looked_for_under_other_names() -> None:
    assert find_labels({"labels": Z, "species": Y}, ["kind", "species"]) is Y


@pytest.mark.parametrize(
    ("batch", "seen"),
    [
        ({"x": X, "z": Z}, "a mapping with 'x', 'z'"),
        ({}, "a mapping with nothing"),
        ({"labels": [0, 1]}, "a mapping with 'labels'"),
        ((X,), "tuple"),
        ((X, None), "a tuple whose second entry is none"),
        ([X, "text"], "a list whose second entry is none"),
        (X, "Tensor"),
    ],
)
def test_a_batch_without_labels_is_described(batch: Any, seen: str) -> None:
    with pytest.raises(InputError, match=rf"label_ids, .*, y, got {seen}\. Say where they are"):
        find_labels(batch)


@pytest.mark.parametrize("name", ["reference", "distances", "pair_weights"])
def test_what_is_named_is_found_and_nothing_else_is_looked_for(name: str) -> None:
    finders: dict[str, Any] = dict.fromkeys(["reference", "distances", "pair_weights"])
    assert Named(**finders)({"x": X}) == {}
    for finder in ("z", lambda batch: batch["z"]):
        found = Named(**{**finders, name: finder})({"x": X, "z": Z})
        assert list(found) == [name]
        assert found[name] is Z
    for batch, keys in (({"x": X}, "'x'"), ((X, Z), "no keys")):
        with pytest.raises(
            InputError, match=f"{name} is to be found under 'z', got a .* {keys}. Say"
        ):
            Named(**{**finders, name: "z"})(batch)


def taking(
    first: Any, beta: Any, before: Any, layer1: Any, layer2: Any, layer3: Any, layer4: Any
) -> None:
    """Options of which the first is not the user's."""


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("first", "beta, before, layer1, layer2, layer3, layer4"),
        ("betas", "beta"),
        ("be", "beta, before"),
        ("layer", "layer4, layer3, layer2"),
        ("xyz", "beta, before, layer1, layer2, layer3, layer4"),
    ],
)
def test_an_unknown_option_is_refused_with_at_most_three_near_ones(option: str, told: str) -> None:
    check_options({"beta": 1, "layer3": 2}, taking)
    with pytest.raises(
        InputError, match=f"there is no option '{option}'. Close matches: {told}\\."
    ):
        check_options({"beta": 1, option: 1}, taking)
