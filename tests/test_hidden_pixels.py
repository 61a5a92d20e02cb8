"""Pixels without a gradient that matter are told from those that do not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from zoo import EPS, honest, images_of

from isoreg.robustness import evaluate
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.hidden_pixels import check_hidden_pixels
from isoreg.robustness.straight_through import StraightThrough


class Sums(nn.Module):
    """Two classes by a weighted sum of pixels, which a function of them may hide."""

    def __init__(self, weight: Tensor, hide: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.weight, self.hide = weight, hide

    def forward(self, x: Tensor) -> Tensor:
        total = (self.weight * self.hide(x)).sum(1)
        return torch.stack([total, torch.full_like(total, -9.0)], 1)


def signs(
    model: nn.Module, x: Tensor, eps: float = 0.2, norm: str = "Linf", contexts=(StraightThrough,)
):
    classifier = PixelClassifier(model, bounds=(0, 1), mean=None, std=None)
    return check_hidden_pixels(
        classifier, x, torch.zeros(len(x)).long(), eps=eps, norm=norm, contexts=contexts
    )


def above(threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(x > threshold, x, 0)


BLACK_AND_GREY = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).repeat(20, 1)
ONES = torch.ones(4)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pixels_that_a_threshold_hides_are_told_where_the_radius_leads_past_it(norm: str) -> None:
    def sign(threshold: float) -> list[str]:
        return signs(Sums(ONES, above(threshold)), BLACK_AND_GREY, norm=norm)

    (found,) = sign(0.1)
    assert found.startswith("the gradient is exactly zero at ")
    assert "of the pixels, but changing them within the radius moves the margin by" in found
    assert sign(0.3) == [], "nothing in the ball is hidden"


def test_pixels_that_do_not_matter_or_matter_little_are_no_sign() -> None:
    for weight in (torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.3, 0.3, 1.0, 1.0])):
        assert signs(Sums(weight, above(0.1)), BLACK_AND_GREY) == []
    assert signs(Sums(ONES), BLACK_AND_GREY) == []
    assert signs(Sums(ONES, lambda x: x.square()), BLACK_AND_GREY) == []


def test_more_than_a_tenth_of_the_images_must_have_them_and_not_at_every_pixel() -> None:
    grey = torch.full((20, 4), 0.5)
    for count, told in ((2, False), (3, True)):
        some = torch.cat([BLACK_AND_GREY[:count], grey[count:]])
        assert bool(signs(Sums(ONES, above(0.19)), some)) is told
    assert signs(Sums(ONES, above(0.1)), torch.zeros(20, 4), eps=0.05) == []
    assert signs(Sums(ONES, Tensor.detach), BLACK_AND_GREY) == []
    assert signs(Sums(ONES, above(0.1)), torch.zeros(0, 4)) == []


def test_a_layer_that_is_idle_where_all_is_black_hides_nothing() -> None:
    convolution = nn.Conv2d(1, 8, 3, bias=False)
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    half = torch.zeros(20, 1, 8, 8)
    half[..., 4:] = 0.5
    x = half.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert (gradient == 0).float().mean() > 0.2
    assert signs(model, half.detach()) == []


def test_what_one_way_of_climbing_shows_is_not_hidden() -> None:
    def rounds(x: Tensor) -> Tensor:
        return torch.cat([(10 * x[:, :2]).round() / 10, x[:, 2:]], 1)

    assert signs(Sums(ONES, rounds), BLACK_AND_GREY) == []
    assert signs(Sums(ONES, rounds), BLACK_AND_GREY, contexts=(nullcontext,)) != []


def test_a_clamp_between_black_and_white_is_called_out_and_a_student_goes_round_it() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = honest("plain")

        def forward(self, x: Tensor) -> Tensor:
            return self.model((x.clamp(0.1, 0.9) - 0.1) / 0.8)

    x, y = images_of("test", 60)
    report = evaluate(Clamped(), x, y, eps=1.5 * EPS, attacks="quick")
    assert "something hides them from the attacks, a clamp for example" in report.warnings[0]
    assert "student" in report.survived
