"""The models that the tests of the hooks use, each small and built the same every time."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoreg import IsometryRegularizer

MODELS = ["mlp", "resnet18", "vit"]
Y = torch.tensor([0, 1, 0, 1, 0, 2])


@functools.cache
def pristine(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
        )
    timm = pytest.importorskip("timm")
    if kind == "resnet18":
        return timm.create_model("resnet18", pretrained=False, num_classes=4)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=4, img_size=32)


def build(kind: str) -> nn.Module:
    """The same model, weights included, at every call."""
    return copy.deepcopy(pristine(kind))


def batch(kind: str, seed: int = 1) -> Tensor:
    shape = (6, 6) if kind == "mlp" else (6, 3, 32, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features(model: nn.Module, x: Tensor) -> Tensor:
    """What enters the classifier, obtained without hooks."""
    if isinstance(model, nn.Sequential):
        return model[:-1](x)
    return model.forward_head(model.forward_features(x), pre_logits=True)


def watched(kind: str, *layers: object, **options: object) -> tuple[nn.Module, Tensor, Any]:
    """A model, a batch, and the regularizer that watches the model."""
    model = build(kind)
    return model, batch(kind), IsometryRegularizer(model, *layers, **options)


class TwoLayers(nn.Module):
    """A body and a classifier; subclasses say how they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
