"""The usual regularisers: weight decay, label smoothing, Gaussian noise, dropout."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.methods.registry import grid, method
from benchmarks.methods.step import Part, Step

_rival = partial(method, family="no local term")
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU)


@_rival("weight-decay", title="weight decay", grid=grid("weight", 1e-5, 1e-4, 1e-3, 1e-2))
def weight_decay(model: nn.Module, *, weight: float) -> Part:
    """Half the sum of squares of all weight matrices and kernels is added to the loss."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]

    def term(step: Step) -> Tensor:
        del step
        return weight / 2 * torch.stack([w.square().sum() for w in weights]).sum()

    return Part(term=term)


@_rival(
    "label-smoothing", title="label smoothing", grid=grid("share", 0.05, 0.1, 0.2, 0.4, 0.8, 0.95)
)
def label_smoothing(model: nn.Module, *, share: float) -> Part:
    """Cross-entropy with labels of which this share is spread evenly over all classes."""
    del model

    def criterion(step: Step) -> Tensor:
        return F.cross_entropy(step.logits, step.labels, label_smoothing=share)

    return Part(criterion=criterion)


@_rival("noise", title="Gaussian noise", grid=grid("sigma", 0.15, 0.3, 0.5, 0.7, 1.0))
def gaussian_noise(model: nn.Module, *, sigma: float) -> Part:
    """Cross-entropy of images with Gaussian noise of this standard deviation, not clipped."""

    def criterion(step: Step) -> Tensor:
        noisy = step.images + sigma * torch.randn_like(step.images)
        return F.cross_entropy(model(noisy), step.labels)

    return Part(criterion=criterion)


@method("dropout", title="dropout")
def dropout(model: nn.Module, *, share: float, at: str = "activations") -> Part:
    """In each step this share of units is set to 0, in every activation or only in the features.

    ``at="features"`` selects the input of the classifier, which is the model's last module.
    """

    def dropped(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return F.dropout(output, share, module.training)

    modules: list[nn.Module] = [m for m in model.modules() if isinstance(m, ACTIVATIONS)]
    if at == "features":
        modules = list(model.children())[-2:-1]
    stack = ExitStack()
    for module in modules:
        stack.callback(module.register_forward_hook(dropped).remove)
    return Part(finish=stack.close)
