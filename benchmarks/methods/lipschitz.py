"""Constraints on weights: singular values stay near 1 or below, so layers do not stretch inputs.

A network of such layers cannot make its logits large, so cross-entropy gets them times a constant
``temperature``. The final model does not contain it, because no decision depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.nn.utils import parametrizations, parametrize

from benchmarks.methods.registry import grid, method
from benchmarks.methods.step import Part, Step, Value, in_eval_mode

_rival = partial(method, family="constrained weights")
_TEMPERATURES = (1.0, 3.0, 10.0, 30.0)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@_rival("spectral-norm", title="spectral norm", grid=grid("temperature", *_TEMPERATURES, 100.0))
def spectral_norm(model: nn.Module, *, temperature: float) -> Part:
    """Every weight, as a matrix, is divided by its largest singular value from power iteration.

    Source: Miyato et al. (2018), "Spectral Normalization for Generative Adversarial Networks".
    """
    return _parametrized(model, _LAYERS, parametrizations.spectral_norm, temperature)


@_rival("orthogonal", title="orthogonal weights", grid=grid("temperature", *_TEMPERATURES))
def orthogonal(model: nn.Module, *, temperature: float) -> Part:
    """Every weight matrix has orthonormal rows or columns; convolution kernels stay free.

    The weight is the Q of a QR decomposition. torch's own `parametrizations.orthogonal` keeps the
    same constraint, but its Householder products take some 50 times as long at 100 x 784.
    """

    def register(layer: nn.Module) -> nn.Module:
        return parametrize.register_parametrization(layer, "weight", _Orthonormal())

    return _parametrized(model, (nn.Linear,), register, temperature)


_PULLED = grid("temperature", *_TEMPERATURES, pull=0.01)


@_rival("parseval", title="Parseval", grid=(*_PULLED, *grid("temperature", 3.0, 10.0, pull=0.1)))
def parseval(model: nn.Module, *, temperature: float, pull: float = 0.01) -> Part:
    """After each step every weight, as a matrix W, becomes (1 + pull) W - pull W W^T W.

    Source: Cisse et al. (2017), "Parseval Networks: Improving Robustness to Adversarial Examples",
    algorithm 1, here on all rows instead of a sample of them.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, _LAYERS)]

    @torch.no_grad()
    def project() -> None:
        for weight in weights:
            w = weight.flatten(1)
            gram = w @ w.T if len(w) <= w.shape[1] else w.T @ w
            cube = gram @ w if len(w) <= w.shape[1] else w @ gram
            weight.copy_(((1 + pull) * w - pull * cube).view_as(weight))

    return Part(criterion=_sharpened(temperature), after_step=project)


class _Orthonormal(nn.Module):
    """Replaces a matrix by its QR factor Q, which has orthonormal rows if wide, columns if tall."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return Q, with signs that make the diagonal of R positive, so that Q is unique."""
        wide = weight.shape[0] <= weight.shape[1]
        q, r = torch.linalg.qr(weight.mT if wide else weight)
        q = torch.where(r.diagonal() < 0, -q, q)
        return q.mT if wide else q

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the parameter at which training starts: Q itself, which is well conditioned."""
        return self.forward(weight)


def _parametrized(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    register: Callable[[nn.Module], nn.Module],
    temperature: float,
) -> Part:
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    for layer in layers:
        register(layer)

    def finish() -> None:
        with in_eval_mode(model):  # eval mode stops the power iteration, so the last weights stay
            for layer in layers:
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    return Part(criterion=_sharpened(temperature), finish=finish)


def _sharpened(temperature: float) -> Value | None:
    if temperature == 1:
        return None

    def criterion(step: Step) -> Tensor:
        return F.cross_entropy(temperature * step.logits, step.labels)

    return criterion
