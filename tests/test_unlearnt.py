"""What images are compared with before anything is learnt: whitened pixels, random patterns."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks.methods import attach
from benchmarks.structure.cifar import BEFORE, STEM, cifar_settings, small_resnet
from benchmarks.structure.trials import isometry
from benchmarks.structure.unlearnt import random_convolutions, whitened
from isoreg import isometry_penalty


def images(count: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_whitened_pixels_are_uncorrelated_and_the_weakest_are_not_blown_up() -> None:
    turned = images(400, 1).flatten(1) @ torch.linspace(0.1, 3, 64).diag() @ orthogonal(64)
    samples = turned.view(400, 1, 8, 8)
    found = whitened(samples)(samples)
    covariance = torch.cov(found.T)
    variances = covariance.diagonal()
    assert (covariance - variances.diag()).abs().max() < 1e-3 * variances.max()
    before = torch.linalg.eigvalsh(torch.cov(turned.T))
    assert variances.max() / variances.min() < 0.05 * before.max() / before.min()
    assert variances.argmin() == 0, "the least of the pixels stays the least"


def test_whitened_distances_do_not_depend_on_the_axes_in_which_pixels_are_given() -> None:
    samples = images(200, 1)
    turned = (samples.flatten(1) @ orthogonal(64)).view_as(samples)
    one, other = (torch.pdist(whitened(x)(x)) for x in (samples, turned))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def orthogonal(side: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(side, side, generator=draw)).Q


def test_random_patterns_do_not_see_brightness_but_what_is_where() -> None:
    samples = images(700)
    state = torch.get_rng_state()
    see = random_convolutions(samples, size=3, filters=16, grid=2)
    assert torch.equal(state, torch.get_rng_state())
    assert see(samples).shape == (700, 16 * 2 * 2)
    torch.testing.assert_close(see(samples + 0.3), see(samples), rtol=1e-3, atol=1e-3)
    moved = see(samples.roll(4, 3)) - see(samples)
    assert moved.norm(dim=1).min() > 1
    again = random_convolutions(samples, size=3, filters=16, grid=2)
    assert torch.equal(again(samples), see(samples))


def test_features_may_be_compared_with_a_layer_of_the_same_network() -> None:
    model = small_resnet(images(1)[0], 2, cifar_settings(quick=True)).eval()
    x = F.interpolate(images(12), size=32)
    labels = torch.arange(12) % 2
    for name in (STEM, BEFORE):
        heard: list[torch.Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(
            lambda _, __, output, heard=heard: heard.append(output)
        )
        with attach(model, isometry(inputs=name).recipe(0.5, 0)) as objective:
            model.train()
            loss = objective(x, labels, reference=torch.zeros(12, 1))
        handle.remove()
        features = model[:-1](x)
        penalty = isometry_penalty(heard[0], features, labels)
        expected = F.cross_entropy(model[-1](features), labels) + 0.5 * penalty
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
