"""The reference that is learnt without labels: its views, and what it knows again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.structure.selfsupervised import contrastive, cropped, pairing_loss, recoloured, view


def photographs_like(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=16, mode="bilinear").clamp(0, 1)


def test_views_are_images_each_changed_in_its_own_way() -> None:
    torch.manual_seed(0)
    image = photographs_like(1).expand(50, 3, 16, 16)
    seen = view(image)
    assert seen.shape == image.shape
    assert 0 <= seen.min() < seen.max() <= 1
    assert torch.pdist(seen.flatten(1)).min() > 0.1


def test_a_part_of_a_photograph_shows_what_is_there_at_its_place_or_mirrored() -> None:
    torch.manual_seed(0)
    rising = torch.linspace(0, 1, 16).expand(200, 3, 16, 16)
    parts = cropped(rising)
    slopes = parts.diff(dim=3)[..., 1:-1]
    whole = 1 / 15
    assert slopes.abs().max() < 1.01 * whole, "no part is larger than the photograph"
    assert (slopes.mean((1, 2, 3)) > 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert parts.diff(dim=2).abs().max() < 1e-5
    assert slopes.mean((1, 2, 3)).abs().min() < 0.6 * whole


def test_other_colours_keep_grey_grey_and_some_photographs_lose_theirs() -> None:
    torch.manual_seed(0)
    grey = torch.rand(100, 1, 8, 8).expand(100, 3, 8, 8)
    torch.testing.assert_close(*recoloured(grey)[:, :2].unbind(1))
    coloured = recoloured(torch.rand(400, 3, 8, 8))
    lost = (coloured[:, 0] - coloured[:, 1]).abs().amax((1, 2)) < 1e-6
    assert lost.float().mean().item() == pytest.approx(0.2, abs=0.07)


def test_a_contrastive_network_knows_a_photograph_again() -> None:
    images = photographs_like(60)

    def known_again(body: nn.Module) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            first, second = (F.normalize(body(view(images))) for _ in range(2))
        nearest = torch.cdist(first, second).argmin(1)
        return (nearest == torch.arange(60)).float().mean().item()

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32))
    before = known_again(body)
    learnt = contrastive(images, body, 32, epochs=60, seed=0, batch_size=30)
    assert not learnt.training
    assert known_again(learnt) > before + 0.1


def test_the_pairing_loss_is_that_of_a_library() -> None:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    codes = torch.randn(12, 5, dtype=torch.float64)
    expected = SelfSupervisedLoss(NTXentLoss(temperature=0.2))(*codes.chunk(2))
    torch.testing.assert_close(pairing_loss(codes), expected)
