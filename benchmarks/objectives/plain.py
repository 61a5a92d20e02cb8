"""The ordinary ways to regularise: weight decay, smoothed labels, noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.objectives.step import Part, Step


def weight_decay(model: nn.Module, *, weight: float) -> Part:
    """Half the sum of squares of all weight matrices and kernels, in the loss."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]

    def term(step: Step) -> Tensor:
        del step
        return weight / 2 * torch.stack([w.square().sum() for w in weights]).sum()

    return Part(term=term)


def label_smoothing(model: nn.Module, *, share: float) -> Part:
    """Cross-entropy to labels of which this share is spread over all classes."""
    del model

    def criterion(step: Step) -> Tensor:
        return F.cross_entropy(step.logits, step.labels, label_smoothing=share)

    return Part(criterion=criterion)


def gaussian_noise(model: nn.Module, *, sigma: float) -> Part:
    """Cross-entropy of images with Gaussian noise of this standard deviation, not clipped."""

    def criterion(step: Step) -> Tensor:
        noisy = step.images + sigma * torch.randn_like(step.images)
        return F.cross_entropy(model(noisy), step.labels)

    return Part(criterion=criterion)
