"""How what a layer returns becomes one vector a sample."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from isoreg import InputError, LayerError
from isoreg._attach.pooling import FirstTensor, resolve_pool, tensors_in

X = torch.rand(2, 3, 4, 5)
POOLED: list[tuple[str, Tensor, Tensor]] = [
    ("flatten", X, X.reshape(2, 60)),
    ("flatten", X[:, 0, 0, 0], X[:, 0, 0, 0]),
    ("mean", X, X.mean((2, 3))),
    ("mean", X[..., None], X.mean((2, 3))),
    ("mean", X[0], X[0].mean(1)),
    ("mean", X[0, 0], X[0, 0]),
    ("mean_last", X, X.mean((1, 2))),
    ("mean_last", X[0], X[0].mean(1)),
    ("mean_last", X[0, 0], X[0, 0]),
    ("token", X[0], X[0][:, 0]),
]


@pytest.mark.parametrize(("pool", "value", "expected"), POOLED)
def test_each_pooling_is_its_formula(pool: str, value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(resolve_pool(pool)(value), expected)


@pytest.mark.parametrize("value", [X, X[0, 0]])
def test_a_token_is_taken_of_sequences_alone(value: Tensor) -> None:
    with pytest.raises(LayerError, match=r"shape \(batch, tokens, width\), got"):
        resolve_pool("token")(value)


@dataclass
class Output:
    logits: Tensor
    states: dict[str, Tensor]


def test_tensors_are_found_in_their_order_in_whatever_holds_them() -> None:
    a, b, c = X[0], X[1], X[0, 0]
    held: list[Any] = [a, [a, (b, c)], {"x": a, "y": [b]}, ("text", None, b), SimpleNamespace(x=a)]
    held += [Output(b, {"x": a}), Output]
    found = [[*tensors_in(value)] for value in held]
    wanted: list[list[Tensor]] = [[a], [a, b, c], [a, b], [b], [], [b, a], []]
    assert [[id(x) for x in each] for each in found] == [[id(x) for x in each] for each in wanted]


def test_a_callable_gets_all_that_a_layer_returns_and_a_name_its_first_tensor() -> None:
    pair = (X[0], X[1])
    assert resolve_pool(lambda value: value[1])(pair) is pair[1]
    torch.testing.assert_close(resolve_pool("flatten")(pair), X[0].flatten(1))
    assert FirstTensor(torch.sum)(["text"]) is None
    nested = torch.nested.nested_tensor([X[0, 0, 0]])
    assert FirstTensor(torch.sum)(nested) is nested, "it is refused where it is read"
    with pytest.raises(InputError, match="one of 'flatten', 'mean', 'mean_last', 'token', got 3"):
        resolve_pool(3)  # type: ignore[arg-type]
