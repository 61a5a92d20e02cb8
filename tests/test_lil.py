"""Stacked locally isometric layers: their loss, and how far its gradient reaches."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isoreg import InputError, isometry_penalty
from isoreg.datasets import torus
from isoreg.lil import GRADIENTS, LocallyIsometricLayer, StackedLIL
from isoreg.masks import IGNORED, partition

CLASSES = [2, 4, 8]


def data(n: int = 40) -> tuple[Tensor, list[Tensor]]:
    points, levels = torus(n)
    return points.double(), levels


def stack(**options: str) -> StackedLIL:
    torch.manual_seed(0)
    return StackedLIL(3, CLASSES, width=6, depth=2, **options).double()


def by_hand(model: StackedLIL, x: Tensor, levels: list[Tensor], alpha: float, beta: float):
    """The three losses, each with its whole graph."""
    h, losses = x, []
    previous = x
    for k, (lil, y) in enumerate(zip(model.lils, levels, strict=True)):
        h = lil(h)
        head = model.heads[k if len(model.heads) > 1 else 0]
        against = previous.detach() if model.reference == "preceding" else x
        cross = F.cross_entropy(head(h)[:, : CLASSES[k]], y)
        losses.append(alpha * cross + beta * isometry_penalty(against, h, y))
        previous = h
    return losses


@pytest.mark.parametrize("heads", ["shared", "own"])
@pytest.mark.parametrize("reference", ["inputs", "preceding"])
@pytest.mark.parametrize("gradients", list(GRADIENTS))
def test_the_loss_and_its_gradient_are_those_computed_by_hand(
    gradients: str, reference: str, heads: str
) -> None:
    x, levels = data()
    model = stack(gradients=gradients, reference=reference, heads=heads)
    loss = model.loss(x, levels, alpha=0.7, beta=3.0)
    losses = by_hand(model, x, levels, 0.7, 3.0)
    torch.testing.assert_close(loss, torch.stack(losses).sum())
    loss.backward()
    reach = GRADIENTS[gradients] or len(CLASSES)
    for k, lil in enumerate(model.lils):
        reaching = torch.stack(losses[k : k + reach]).sum()  # losses of later levels that come here
        expected = torch.autograd.grad(reaching, list(lil.parameters()), retain_graph=True)
        for parameter, gradient in zip(lil.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_features_are_those_of_the_layers_one_after_the_other() -> None:
    x, _ = data()
    for gradients in GRADIENTS:
        model = stack(gradients=gradients)
        h = x
        for lil, features in zip(model.lils, model.features(x), strict=True):
            h = lil(h)
            torch.testing.assert_close(features, h)


def test_logits_of_a_shared_head_are_its_first_outputs() -> None:
    x, _ = data()
    model = stack()
    assert len(model.heads) == 1
    for logits, features, classes in zip(model(x), model.features(x), CLASSES, strict=True):
        torch.testing.assert_close(logits, model.heads[0](features)[:, :classes])


def test_a_single_lil_is_the_plain_loss_of_the_paper() -> None:
    x, levels = data()
    model = StackedLIL(3, [2], width=5, depth=2).double()
    h = model.lils[0](x)
    expected = F.cross_entropy(model.heads[0](h), levels[0]) + isometry_penalty(x, h, levels[0])
    torch.testing.assert_close(model.loss(x, levels[:1]), expected)


def test_training_lowers_the_loss_and_leaves_the_labels_learnt() -> None:
    x, levels = torus(200)
    torch.manual_seed(0)
    model = StackedLIL(3, CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.loss(x, levels).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(x, levels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * before
    assert (model(x)[0].argmax(1) == levels[0]).float().mean() > 0.95


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_a_single_class_has_a_loss(label: int) -> None:
    model = StackedLIL(3, [2])
    assert model.loss(torch.rand(4, 3), [torch.full((4,), label)]).isfinite()
    for wrong in (-1, 2):
        with pytest.raises(InputError, match=f"got {min(wrong, label)} to {max(wrong, label)}"):
            model.loss(torch.rand(2, 3), [torch.tensor([label, wrong])])


def test_it_copies_and_its_state_dict_loads() -> None:
    x, _ = data()
    model = stack()
    other = stack()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    for a, b, c in zip(model(x), other(x), copy.deepcopy(model)(x), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_a_layer_has_the_asked_shape() -> None:
    layer = LocallyIsometricLayer(3, width=7, depth=3, activation=torch.nn.ReLU)
    assert [type(m).__name__ for m in layer] == ["Linear", "ReLU"] * 3
    assert layer(torch.rand(4, 3)).shape == (4, 7)
    assert LocallyIsometricLayer(1, width=1, depth=1)(torch.rand(4, 1)).shape == (4, 1)


def test_each_of_two_levels_may_have_its_own_head_and_a_batch_may_be_empty() -> None:
    model = StackedLIL(3, [2, 4], heads="own")
    x, none = torch.rand(5, 3), torch.zeros(0, dtype=torch.long)
    for head, h, logits in zip(model.heads, model.features(x), model(x), strict=True):
        torch.testing.assert_close(logits, head(h))
    assert model.loss(torch.rand(0, 3), [none, none]).ndim == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_may_be_integers_of_any_type(dtype: torch.dtype) -> None:
    model, x, y = StackedLIL(3, [2]), torch.rand(6, 3), torch.arange(6) % 2
    torch.testing.assert_close(model.loss(x, [y.to(dtype)]), model.loss(x, [y]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LocallyIsometricLayer(0),
         "LocallyIsometricLayer: in_features must be an integer of"),
        (lambda: StackedLIL(3, []),
         "StackedLIL: classes must be a list of a number a level, got []"),
        (lambda: StackedLIL(3, [2], width=0),
         "StackedLIL: width must be an integer of at least 1, got 0"),
        (lambda: StackedLIL(3, [2], depth=0),
         "StackedLIL: depth must be an integer of at least 1, got 0"),
        (lambda: StackedLIL(3, [2], gradients="none"),
         "StackedLIL: gradients must be one of 'own', 'preceding', 'full', got 'none'."),
        (lambda: StackedLIL(3, [2], heads="two"), "StackedLIL: heads must be one of"),
        (lambda: StackedLIL(3, [2], reference="x"), "StackedLIL: reference must be one of"),
        (lambda: StackedLIL(3, [2, 4]).loss(torch.rand(4, 3), [torch.zeros(4).long()]),
         "StackedLIL.loss: one tensor of labels for each of 2 levels is needed, got 1."),
        (lambda: StackedLIL(3, [2]).loss(torch.rand(4, 3), [torch.zeros(5).long()]),
         "StackedLIL.loss: levels[0] must hold 4 integers, got torch.int64 of shape (5,)."),
        (lambda: StackedLIL(3, 2),
         "StackedLIL: classes must be a list of a number a level, got 2."),
        (lambda: StackedLIL(3, [2, 1]),
         "StackedLIL: a number of classes must be an integer of at "),
        (lambda: StackedLIL(3, [2.5]), "StackedLIL: a number of classes must be an integer of at "),
        (lambda: StackedLIL(3, [2], width=2.5), "StackedLIL: width must be an integer of at least"),
        (lambda: StackedLIL(3, [2]).loss(torch.rand(4, 3), [[0, 1, 0, 1]]),
         "StackedLIL.loss: levels[0] must hold 4 integers, got [0, 1, 0, 1]."),
        (lambda: StackedLIL(3, [2]).loss(torch.rand(4, 3), [torch.zeros(4)]),
         "StackedLIL.loss: levels[0] must hold 4 integers, got torch.float32 of shape (4,)."),
        (lambda: StackedLIL(3, [2]).loss(torch.rand(4, 3), [torch.full((4,), 2)]),
         "StackedLIL.loss: levels[0] must hold classes from 0 to 1, got 2 to 2."),
        (
            lambda: StackedLIL(3, [2])(torch.rand(4, 5, 3)),  # its logits were those of two rows
            "StackedLIL: x must be points (N, 3), got shape (4, 5, 3). Try x.flatten(1).",
        ),
        (lambda: StackedLIL(3, [2]).loss(torch.rand(3), [torch.zeros(3).long()]),
         "StackedLIL.loss: x must be points (N, 3), got shape (3,)."),
        (lambda: StackedLIL(3, [2]).features([[0.0, 1.0, 2.0]]),
         "StackedLIL: x must be points (N, 3), got list."),
        (  # the labels are right
            lambda: StackedLIL(3, [2]).loss(torch.rand(1, 4, 3), [torch.zeros(4).long()]),
            "StackedLIL.loss: x must be points (N, 3), got shape (1, 4, 3).",
        ),
        (lambda: StackedLIL(3, [2])(torch.rand(4, 3).double()),
         "StackedLIL: x must be torch.float32 like the weights, got torch.float64. Try x.to("),
        (lambda: StackedLIL(3, [2]).loss(torch.zeros(4, 3).long(), [torch.zeros(4).long()]),
         "StackedLIL.loss: x must be torch.float32 like the weights, got torch.int64."),
        (
            lambda: StackedLIL(3, [2]).loss(
                torch.rand(4, 3), [torch.zeros(4).long()], beta=float("nan")
            ),
            "StackedLIL.loss: beta must be a finite number >= 0, got nan.",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_weights_may_be_any_real_numbers_and_points_as_narrow_as_autocast_makes_them() -> None:
    model, (x, levels) = StackedLIL(3, CLASSES), torus(40)
    expected = model.loss(x, levels, alpha=0.25, beta=0.5)
    found = model.loss(x, levels, alpha=Fraction(1, 4), beta=np.float32(0.5))
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model.loss(x.bfloat16(), levels, alpha=0.25, beta=0.5)
    torch.testing.assert_close(narrow.float(), expected, rtol=0.1, atol=0)


def test_an_empty_batch_has_no_loss() -> None:
    model = StackedLIL(3, [2, 4])
    empty = torch.empty(0, dtype=torch.int64)
    loss = model.loss(torch.empty(0, 3), [empty, empty])
    loss.backward()
    assert loss == 0


def test_what_is_no_activation_no_weight_and_no_labels_is_refused() -> None:
    x, y = torch.rand(6, 3), torch.arange(6) % 2
    for activation, got in (
        (torch.nn.Tanh(), r"Tanh\(\)"),
        ("tanh", "'tanh'"),
        (torch.tanh, "<built-in"),
        (lambda: torch.tanh, "<function"),
    ):
        with pytest.raises(InputError, match=f"activation must make a module each.*got {got}"):
            LocallyIsometricLayer(3, activation=activation)  # type: ignore[arg-type]
    stack = StackedLIL(3, [2])
    with pytest.raises(InputError, match="beta must be a finite number >= 0, got 'auto'"):
        stack.loss(x, [y], beta="auto")
    with pytest.raises(InputError, match="labels for each of 1 levels is needed, got NoneType"):
        stack.loss(x, None)


def test_samples_that_no_group_of_a_partition_holds_are_left_out_of_their_level() -> None:
    torch.manual_seed(0)
    points, fine = torch.rand(12, 3), torch.arange(12) % 6
    levels = [partition(fine, [[0, 1], [2, 3]]), partition(fine, [[0], [1], [2]])]
    model = StackedLIL(3, [2, 3])
    expected = torch.zeros(())
    for logits, h, y in zip(model(points), model.features(points), levels, strict=True):
        expected = expected + F.cross_entropy(logits[y >= 0], y[y >= 0])
        expected = expected + isometry_penalty(points, h, y)
    torch.testing.assert_close(model.loss(points, levels), expected)
    nobody = torch.full((12,), IGNORED)
    assert model.loss(points, [nobody, nobody]) == 0
    with pytest.raises(InputError, match="must hold classes from 0 to 1, got 0 to 2"):
        model.loss(points, [levels[1], levels[0]])


def test_in_uint8_class_156_is_not_the_ignored_one() -> None:
    torch.manual_seed(0)
    points, y = torch.rand(4, 3), torch.tensor([156, 156, 0, 1])
    model = StackedLIL(3, [200])
    torch.testing.assert_close(model.loss(points, [y.to(torch.uint8)]), model.loss(points, [y]))


def test_tensors_without_rows_of_numbers_are_refused() -> None:
    model, x, y = StackedLIL(3, [2]), torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    nested = torch.nested.nested_tensor([x, x[:2]])
    for points in (x.to_sparse(), torch.empty(4, 3, device="meta"), nested):
        with pytest.raises(InputError, match=r"^StackedLIL.loss: x must "):
            model.loss(points, [y])
    for labels in (y.to_sparse(), torch.nested.nested_tensor([y, y[:2]])):
        with pytest.raises(InputError, match=r"^StackedLIL.loss: levels\[0\] must "):
            model.loss(x, [labels])


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.rand(4, 5), r"x must be points \(N, 3\), got shape \(4, 5\)"),
        (torch.tensor(1.0), r"x must be points \(N, 3\), got shape \(\)"),
        ([[0.0, 0.0, 0.0]], r"x must be points \(N, 3\), got list"),
        (torch.rand(4, 3).double(), "x must be torch.float32 like the weights, got torch.float64"),
        (torch.ones(4, 3).long(), "x must be torch.float32 like the weights, got torch.int64"),
    ],
)
def test_a_layer_says_what_points_it_takes(x: Tensor, text: str) -> None:
    with pytest.raises(InputError, match=f"LocallyIsometricLayer: {text}"):
        LocallyIsometricLayer(3)(x)


def test_a_layer_takes_a_point_at_a_time_and_what_autocast_casts() -> None:
    layer, x = LocallyIsometricLayer(3, depth=1), torch.rand(4, 3)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.half()).dtype == layer(x).dtype == torch.bfloat16
        for model in (layer, StackedLIL(3, [2])):
            with pytest.raises(InputError, match=r"must be torch.float32 .* got torch.float64"):
                model(x.double())
