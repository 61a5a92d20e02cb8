"""The optimizers that are tried with every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

Optimizers = Sequence[torch.optim.Optimizer]


def adam(model: nn.Module) -> Optimizers:
    """Adam for everything."""
    return [torch.optim.Adam(model.parameters(), fused=True)]


def muon(model: nn.Module) -> Optimizers:
    """Muon for the matrices before the classifier's; Adam for that and for what is no matrix.

    Muon makes all singular values of a step about equal. Its steps are scaled to the size of
    Adam's, so that one rate serves both.

    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; the
    scale from Liu et al. (2025), "Muon is Scalable for LLM Training".
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2][:-1]
    ours = set(map(id, matrices))
    others = [parameter for parameter in model.parameters() if id(parameter) not in ours]
    return [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(others, fused=True),
    ]


OPTIMIZERS: Mapping[str, Callable[[nn.Module], Optimizers]] = {"adam": adam, "muon": muon}


def set_rate(optimizers: Optimizers, rate: float) -> None:
    """One learning rate for all."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
