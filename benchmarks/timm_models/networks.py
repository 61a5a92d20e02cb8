"""timm's models, adapted to small images through timm's own arguments."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

NETWORKS = ("resnet10t", "convnext_atto", "vit_tiny_patch16_224")

# the same architectures, small enough for a CPU
NARROW: dict[str, dict[str, Any]] = {
    "resnet10t": {"channels": (16, 32, 64, 128), "stem_width": 16},
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (32, 64, 128, 192)},
    "vit_tiny_patch16_224": {
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "patch_size": 8,
    },
}


class Normalise(nn.Module):
    """Shifts and scales pixels from 0 to 1 to the range that the network was made for."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images (n, c, h, w)."""
        return (x - self.mean) / self.std


def network(name: str, *, classes: int, size: int, narrow: bool, seed: int) -> nn.Sequential:
    """A network from pixels (0 to 1) to logits: ``normalise``, then ``net``, a model of timm.

    ``size`` is the side of the images; ``narrow`` takes the version of `NARROW`, if there is one.
    """
    import timm
    from timm.data import resolve_model_data_config

    torch.manual_seed(seed)
    arguments = adapted(name, size) | (NARROW.get(name, {}) if narrow else {})
    net = timm.create_model(name, num_classes=classes, **arguments)
    if _family(name) == "resnet":
        net.maxpool = nn.Identity()  # the stem already halves images; timm has no argument for this
    config = resolve_model_data_config(net)
    normalise = Normalise(config["mean"], config["std"])
    return nn.Sequential(OrderedDict(normalise=normalise, net=net))


def adapted(name: str, size: int) -> dict[str, Any]:
    """Arguments of timm for small images, so that the first stage has 8 or more places a side."""
    import timm

    family = _family(name)
    if family == "convnext":
        return {"patch_size": max(1, size // 16)}
    if family == "vision_transformer":
        return {"img_size": size, "patch_size": max(1, size // 8)}
    config = timm.get_pretrained_cfg(name)
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def stages(model: nn.Sequential) -> list[str]:
    """Names of the modules in the model whose outputs are its network's stages."""
    info = getattr(model.net, "feature_info", None) or []
    entries = info if isinstance(info, list) else info.info
    return [f"net.{entry['module']}" for entry in entries]


def _family(name: str) -> str:
    """The module of timm that defines a model."""
    import timm

    return str(timm.model_entrypoint(name).__module__).rpartition(".")[2]
