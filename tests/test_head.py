"""`ReferenceHead`: its loss is the formula, on the layer that it names, and it refuses the rest."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoreg import IsometryRegularizer, ReferenceHead
from isoreg.errors import InputError, IsoregError, RecordError

X = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
REFERENCE = 3 * X[:, :3]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


@pytest.mark.parametrize(("layer", "end"), [(None, 4), ("0", 1), ("2", 3), ("3", 4)])
@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_the_loss_is_the_mean_square_of_what_the_head_predicts_from_its_layer(
    layer: str | None, end: int, weight: float
) -> None:
    model = net().double()
    head = ReferenceHead(model, 3, layer, weight=weight)
    model(X)
    reference = REFERENCE.clone().requires_grad_()
    found = head(reference)
    predicted: Tensor = head.linear(model[:end](X))
    expected = weight * sum((predicted - REFERENCE).square().sum(1)) / len(X)
    torch.testing.assert_close(found, expected)
    if weight:
        found.backward()
        assert all(p.grad is not None for p in head.parameters())
    assert reference.grad is None
    assert head.linear.weight.dtype == torch.float64


def test_where_the_width_is_known_the_head_has_its_weights_at_once_and_else_after_a_call() -> None:
    model = net()
    assert ReferenceHead(model, 3).linear.weight.shape == (3, 7)
    assert ReferenceHead(model, 3, "2").linear.weight.shape == (3, 7)
    assert ReferenceHead(model, 3, "0").linear.weight.shape == (3, 5)
    head = ReferenceHead(model, 3, "1")
    with pytest.raises(RecordError, match="^ReferenceHead: the width of the features is not known"):
        list(head.parameters())
    model(X.float())
    assert head(REFERENCE).dtype == torch.float32
    assert [p.shape for p in head.parameters()] == [(3, 5), (3,)]
    assert list(head.parameters(recurse=False)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out_features": 0}, "out_features must be an integer of at least 1, got 0."),
        ({"out_features": True}, "out_features must be an integer of at least 1, got True."),
        ({"out_features": "a"}, "out_features must be an integer of at least 1, got 'a'."),
        ({"weight": "a"}, "weight must be a finite number >= 0, got 'a'."),
        ({"weight": -0.1}, "weight must be a finite number >= 0, got -0.1."),
        ({"weight": float("inf")}, "weight must be a finite number >= 0, got inf."),
        ({"weight": float("nan")}, "weight must be a finite number >= 0, got nan."),
        ({"pool": "largest"}, "pool must be"),
        ({"layer": "nowhere"}, ""),
        ({"model": X}, ""),
        ({"model": nn.Linear}, ""),
    ],
)
def test_what_cannot_be_a_head_is_refused_when_it_is_built(
    options: dict[str, Any], words: str
) -> None:
    arguments = {"model": net(), "out_features": 3, **options}
    with pytest.raises(IsoregError, match=f"^ReferenceHead: {words}"):
        ReferenceHead(**arguments)


def test_a_weight_that_was_changed_is_refused_as_one_that_was_given() -> None:
    model = net()
    head = ReferenceHead(model, 3)
    model(X.float())
    head.weight = -3.0
    with pytest.raises(InputError, match=r"^ReferenceHead: weight must be .* >= 0, got -3\.0\.$"):
        head(REFERENCE)
    head.weight = 0.5
    assert head(REFERENCE) > 0


def test_one_coordinate_and_a_batch_of_one_or_none_have_their_loss() -> None:
    model = net().double()
    head = ReferenceHead(model, 1)
    model(X[:1])
    found = head(REFERENCE[:1, :1])
    torch.testing.assert_close(found, (head.linear(model[:4](X[:1])) - REFERENCE[0, 0])[0, 0] ** 2)
    model(X[:0])
    none = head(REFERENCE[:0, :1])
    assert none == 0
    assert none.requires_grad
    with pytest.raises(
        InputError, match=r"^ReferenceHead: .*must have 1 coordinates a sample, got 3"
    ):
        model(X)
        head(REFERENCE)


def test_a_record_is_read_once_and_a_detached_head_leaves_no_hook() -> None:
    model = net().double()
    head = ReferenceHead(model, 3)
    model(X)
    head(REFERENCE)
    with pytest.raises(IsoregError, match="^ReferenceHead: "):
        head(REFERENCE)
    head.detach()
    head.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classify = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()

    def forward(self, x: Tensor, again: Tensor | None = None) -> Tensor:
        seen = self.classify(self.body(x))
        return seen if again is None else seen + self.classify(self.body(again))


@pytest.mark.parametrize("layer", ["body", "classify"])
def test_a_layer_that_ran_twice_is_refused_and_what_is_paused_is_not_seen(layer: str) -> None:
    model = Twins()
    head = ReferenceHead(model, 3, layer)
    model(X, 2 * X)
    with pytest.raises(RecordError, match=r"ran 2 times .*head.paused"):
        head(REFERENCE)
    model(X)
    with head.paused():
        model(2 * X)
    expected = (head.linear(model.body(X) if layer == "body" else model(X)) - REFERENCE).square()
    with head.paused():
        pass
    torch.testing.assert_close(head(REFERENCE), expected.sum(1).mean())


def test_a_model_that_grew_behind_its_classifier_is_refused() -> None:
    model = net().double()
    head = ReferenceHead(model, 3)
    model.extend([nn.Tanh(), nn.Linear(2, 2).double()])
    model(X)
    with pytest.raises(IsoregError, match="'4' was recorded.*now '6' is"):
        head(REFERENCE)


def test_copies_and_pickles_hold_the_weights_and_say_that_they_watch_nothing() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net().double()
            self.head = ReferenceHead(self.net, 3)

    whole = Whole()
    whole.net(X)
    for other in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole.head))):
        head = getattr(other, "head", other)
        assert torch.equal(head.linear.weight, whole.head.linear.weight)
        with pytest.raises(RecordError, match="a copy watches no model"):
            head(REFERENCE)
        head.detach()
    assert whole.head(REFERENCE).isfinite()


@pytest.mark.parametrize("inside", [True, False])
def test_a_head_that_waits_for_its_width_may_stand_beside_what_it_watches(inside: bool) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net().double()
            self.head = ReferenceHead(self if inside else self.net, 3, None if inside else "1")

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    whole = Whole()
    iso = IsometryRegularizer(whole)
    whole(X)
    features = whole.net[: 4 if inside else 2](X)
    loss = whole.head(REFERENCE)
    predicted = whole.head.linear(features)
    torch.testing.assert_close(loss, (predicted - REFERENCE).square().sum(1).mean())
    assert iso(None).isfinite()
    assert iso.layers == ["net.4"]


def test_a_head_that_waits_for_its_width_is_refused_inside_a_transform() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    head, x, reference = ReferenceHead(model, 3, "0"), torch.rand(4, 1, 5, 5), torch.rand(4, 3)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        torch.func.functional_call(model, parameters, (x,))
        return head(reference)

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(RecordError, match="not known yet, and torch.func makes no weights"):
        torch.func.grad(loss)(parameters)
    model(x)
    head(reference).backward()
    found = torch.func.grad(loss)(parameters)["0.weight"]
    torch.testing.assert_close(found, model[0].weight.grad)


def test_features_of_another_width_than_before_are_refused() -> None:
    model = nn.Sequential(nn.Identity(), nn.Tanh())
    head = ReferenceHead(model, 3, "1")
    for width in (4, 4, 5):
        model(torch.rand(6, width).requires_grad_())
        if width == 4:
            head(torch.rand(6, 3))
    with pytest.raises(InputError, match=r"must be \(N, 4\) as before, got \(6, 5\)"):
        head(torch.rand(6, 3))


@pytest.mark.parametrize(
    "layer", [None, "0"]
)  # a head that waits for its width, and one that has it
@pytest.mark.parametrize("inside", [True, False])
def test_autocast_rounds_neither_the_reference_nor_the_products_of_the_head(
    layer: str | None, inside: bool
) -> None:
    model = net()
    head = ReferenceHead(model, 3, layer)
    reference = 1000 + REFERENCE.float()
    with torch.autocast("cpu", torch.bfloat16):
        model(X.float())
        features = model[:4](X.float()) if layer is None else model[:1](X.float())
        found = head(reference) if inside else None
    found = head(reference) if found is None else found
    assert head.linear.weight.dtype == torch.float32
    products = features.float() @ head.linear.weight.T + head.linear.bias
    expected = (products - reference).square().sum(1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_of_half_precision_predicts_in_it_and_its_loss_is_in_float32(dtype) -> None:
    model = net().to(dtype)
    head, reference = ReferenceHead(model, 3), 1000.3 + REFERENCE  # squares overflow float16
    model(X.to(dtype))
    predicted = head.linear(model[:4](X.to(dtype)))
    assert head.linear.weight.dtype == predicted.dtype == dtype
    found = head(reference)
    expected = (predicted.double() - reference).square().sum(1).mean()
    torch.testing.assert_close(found, expected.float())
    found.backward()
    assert head.linear.weight.grad.isfinite().all()


def test_a_head_that_no_optimizer_has_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoreg.head._MANY", 100)
    model = net().double()
    for given in (True, False):
        head = ReferenceHead(model, 3, "0")
        optimizer = torch.optim.SGD(
            fused=True, params=[*model.parameters(), *(head.parameters() if given else ())]
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(250):
                model(X)
                optimizer.zero_grad()
                head(REFERENCE).backward()
                optimizer.step()
        told = [str(warning.message) for warning in caught]
        assert len(told) == (0 if given else 1)
        assert given or "what they were 100 calls before. Does the optimizer have them?" in told[0]
        head.detach()
