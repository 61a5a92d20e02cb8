"""The paper's mathematics: its gradient, its bound, and what the bound needs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.paper.rings import gradients
from isoreg import isometry_penalty
from isoreg.datasets import entangled_rings
from isoreg.diagnostics import distortion

seeds = st.integers(0, 1000)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@given(seed=seeds, n=st.integers(3, 12))
def test_the_closed_form_gradient_of_the_appendix_equals_autograds(seed: int, n: int) -> None:
    x, phi = normal(n, 3, seed=seed), normal(n, 4, seed=seed + 1).requires_grad_()
    y = torch.arange(n) % 2
    total = phi.new_zeros(())
    by_pairs = torch.zeros_like(phi)
    for i in range(n):
        for j in range(n):
            if i != j and y[i] == y[j]:
                d_m, d_phi = (x[i] - x[j]).norm(), (phi[i] - phi[j]).norm()
                total = total + (d_m - d_phi) ** 2 / n**2
                by_pairs[i] += 4 / n**2 * (1 - d_m / d_phi).detach() * (phi[i] - phi[j]).detach()
    (by_autograd,) = torch.autograd.grad(total, phi, retain_graph=True)
    torch.testing.assert_close(by_pairs, by_autograd)
    (ours,) = torch.autograd.grad(isometry_penalty(x, phi, y), phi)
    torch.testing.assert_close(ours, by_autograd)


@given(seed=seeds, d=st.integers(1, 6), extra=st.integers(0, 4))
def test_an_isometry_is_1_lipschitz_and_bounds_the_gradient_of_any_loss(
    seed: int, d: int, extra: int
) -> None:
    frame = torch.linalg.qr(normal(d + extra, d, seed=seed)).Q  # orthonormal columns
    x = normal(9, d, seed=seed + 1).requires_grad_()
    phi = x @ frame.T
    phi.retain_grad()
    found = distortion(x.detach(), phi.detach())
    assert abs(found.expansion - 1) < 1e-9
    assert abs(found.contraction - 1) < 1e-9
    (phi @ normal(d + extra, 3, seed=seed + 2)).tanh().square().sum().backward()
    assert x.grad is not None
    assert phi.grad is not None
    assert (x.grad.norm(dim=1) <= phi.grad.norm(dim=1) + 1e-12).all()


class Stretched(nn.Module):
    """Keeps all distances within the plane of the first ring, and stretches across it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1.0, 5.0])


def test_a_penalty_of_zero_bounds_no_gradient_across_the_data() -> None:
    points, labels = entangled_rings(100)
    ring = points[labels == 0]
    assert isometry_penalty(ring, Stretched()(ring)).item() < 1e-12
    y = torch.zeros(50, dtype=torch.long)
    found = gradients(Stretched(), nn.Linear(3, 2), ring, y)
    assert abs(found["along"] - 1) < 1e-5
    assert abs(found["across"] - 5) < 1e-5
    assert found["constant"] > 1


def test_an_isometry_of_space_has_gain_one_in_every_direction() -> None:
    points, labels = entangled_rings(60)
    found = gradients(nn.Identity(), nn.Linear(3, 2), points, labels)
    for name, value in found.items():
        assert abs(value - 1) < 1e-5, name
