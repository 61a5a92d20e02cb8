"""References of photographs: pixels, patterns, or what a network learns without labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cache import computed_once
from benchmarks.networks import in_parts
from benchmarks.structure.selfsupervised import contrastive
from isoreg import references

CHANNELS = (32, 64, 128, 256)
PATCHES, LEARNT = "patches", "contrastive"
_MEASURED = 2_000
_SEED = 0


def resnet_body() -> nn.Module:
    """A resnet10t of timm with half its channels, up to its 256 features."""
    import timm

    body: nn.Module = timm.create_model(
        "resnet10t", num_classes=0, channels=CHANNELS, stem_width=16
    )
    return body


def pixels(images: Tensor) -> references.Reference:
    """The pixels, scaled to distances of about 10."""
    return references.scaled(None, images[:1_000])


def patches(images: Tensor, filters: int = 100) -> references.Reference:
    """Which learnt patterns of 6 by 6 pixels a photograph shows, in which of its quarters."""
    samples = images[:_MEASURED]
    reference = references.patches(samples, size=6, filters=filters, grid=2)
    return references.standardized(reference, samples)


def learnt(images: Tensor, cache: Path, epochs: int) -> references.Reference:
    """Features of a network that was trained to tell two views of a photograph from others.

    The network sees the training images and nothing else. Features are standardized: each counts
    alike, and distances are about 10.
    """
    torch.manual_seed(_SEED)
    body = resnet_body()

    def weights() -> dict[str, Tensor]:
        return contrastive(images, body, CHANNELS[-1], epochs=epochs, seed=_SEED).state_dict()

    path = cache / f"cifar-contrastive-{len(images)}-{epochs}.pt"
    body.load_state_dict(computed_once(path, weights))
    body.eval()
    return references.standardized(lambda x: in_parts(body, x), images[:_MEASURED])
