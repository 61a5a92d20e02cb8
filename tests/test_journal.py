"""Partial isometry is zero for partial isometries, and equals its formula on any network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.paper.journal import TRAININGS, Training, network, survival
from benchmarks.paper.partial import partial_isometry


def coordinates(logits: Tensor) -> Tensor:
    roots = logits.softmax(-1).sqrt()
    return 2 * roots[..., :-1] / (1 - roots[..., -1:])


def test_partial_isometry_is_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    expected = []
    for row in x:
        j = torch.func.jacrev(lambda at: coordinates(model(at)))(row)
        p = model(row).softmax(0)
        delta = 2 * math.acos(min(1.0, (p / 4).sqrt().sum().item()))
        metric = (1 - p[-1].sqrt()).square() * torch.eye(3)
        gap = j @ j.T - (delta / 0.3) ** 2 * torch.linalg.inv(metric)
        expected.append(0.3**2 / 6 * gap.norm())
    x.requires_grad_()
    value = partial_isometry(x, model(x), 0.3)
    assert value.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_partial_isometry_is_zero_where_distances_of_fisher_are_those_of_the_input() -> None:
    # two classes: the circle of radius 2 walked at the speed that is asked for at this point
    at, radius = torch.tensor([[0.4]], dtype=torch.float64), 0.7
    angle = 1.1
    delta = 2 * (angle - math.pi / 4)
    speed = delta / radius

    def logits(x: Tensor) -> Tensor:
        turned = angle + speed / 2 * (x - 0.4)
        return torch.cat([turned.sin().square().log(), turned.cos().square().log()], 1)

    x = at.requires_grad_()
    assert partial_isometry(x, logits(x), radius).item() == pytest.approx(0, abs=1e-3)
    assert partial_isometry(x, logits(x) * 2, radius).item() > 0.1


def test_the_attack_on_the_combined_loss_is_another_one_than_on_cross_entropy() -> None:
    torch.manual_seed(0)
    model = network().eval()
    images, labels = torch.rand(20, 3, 32, 32), torch.arange(20) % 3
    with torch.no_grad():
        labels = model(images).argmax(1)
    on_entropy = survival(model, images, labels, 0.0, None, 20, 0.1)
    assert on_entropy < 1.0
    assert survival(model, images, labels, 0.0, None, 20, 0.0) == 1.0
    # the isometry term drowns cross-entropy and draws the attack away from it
    assert survival(model, images, labels, 1e4, None, 20, 0.1) > on_entropy


def test_what_is_compared_has_its_control_without_penalty() -> None:
    assert {how.reference for how in TRAININGS.values() if how.beta} <= {
        how.reference for how in TRAININGS.values() if how == Training(reference=how.reference)
    }
