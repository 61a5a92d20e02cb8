"""How what a layer returns becomes one vector a sample."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from isoreg import InputError, IsometryRegularizer, LayerError, isometry_penalty
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
    with pytest.raises(
        InputError, match="one of 'flatten', 'mean', 'mean_last', 'token', for all layers, got 3"
    ):
        resolve_pool(3)  # type: ignore[arg-type]


class Signal(nn.Module):
    """A network of one-dimensional convolutions, (b, 2, 16) -> (b, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv1d(2, 5, 3, padding=1), nn.ReLU())
        self.classify = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.see(x).mean(2))


@pytest.mark.parametrize("pool", ["mean", "token"])
@pytest.mark.parametrize("layer", ["see", "see.0", "see.1"])
def test_channels_of_a_signal_are_not_taken_for_tokens(pool: str, layer: str) -> None:
    model, x, y = Signal(), torch.rand(6, 2, 16), torch.arange(6) % 2
    iso = IsometryRegularizer(model, layer, pool=pool)
    model(x)
    with pytest.raises(LayerError, match=r"\(6, 5, 16\) seem to come first.*output.mean\(\(2,\)\)"):
        iso(y)
    said = IsometryRegularizer(model, layer, pool=lambda output: output.mean(2))
    model(x)
    features = (model.see if layer != "see.0" else model.see[0])(x).mean(2)
    torch.testing.assert_close(said(y), isometry_penalty(x, features, y))


def test_tokens_behind_a_convolution_are_tokens() -> None:
    class Audio(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.mix = nn.Conv1d(2, 5, 3, padding=1), nn.Linear(5, 5)
            self.norm = nn.LayerNorm(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.mix(self.see(x).transpose(1, 2)))

    model, y = Audio(), torch.arange(6) % 2
    for length in (5, 16):  # as many tokens as channels, too
        iso = IsometryRegularizer(model, "mix", pool="mean")
        x = torch.rand(6, 2, length)
        model(x)
        expected = isometry_penalty(x, model.mix(model.see(x).transpose(1, 2)).mean(1), y)
        torch.testing.assert_close(iso(y), expected)
        iso.detach()


def test_a_pool_of_one_s_own_on_a_checkpointed_layer_changes_nothing() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.classify = nn.Linear(6, 5), nn.Linear(5, 3)
            self.saves = False

        def forward(self, x: Tensor) -> Tensor:
            seen = checkpoint(self.block, x, use_reentrant=False) if self.saves else self.block(x)
            return self.classify(seen)

    model, x, y = Blocks(), torch.rand(8, 6), torch.arange(8) % 2
    iso = IsometryRegularizer(model, "block", pool=lambda output: F.normalize(output, dim=1))
    found = []
    for saves in (False, True):
        model.saves = saves
        loss = model(x).square().mean() + iso(y)
        found.append((loss, *torch.autograd.grad(loss, [*model.parameters()])))
    torch.testing.assert_close(*found)


class ChannelsLast(nn.Module):
    """Maps (b, h, w, c), as those of Swin, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.mix, self.norm = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.LayerNorm(6)
        self.classify = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.mix(self.see(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_maps_are_averaged_over_space_wherever_their_channels_are() -> None:
    model, x, y = ChannelsLast(), torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    maps = model.see(x)
    for layer, pool, other in (("see", "mean", "mean_last"), ("mix", "mean_last", "mean")):
        iso = IsometryRegularizer(model, layer, pool=pool)
        model(x)
        features = (
            maps.mean((2, 3))
            if layer == "see"
            else model.mix(maps.permute(0, 2, 3, 1)).mean((1, 2))
        )
        torch.testing.assert_close(iso(y), isometry_penalty(x, features, y))
        iso.detach()
        wrong = IsometryRegularizer(model, layer, pool=other)
        model(x)
        with pytest.raises(
            LayerError, match=f"pool={other!r} takes channels to come .*output.mean"
        ):
            wrong(y)
        wrong.detach()
