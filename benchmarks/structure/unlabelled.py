"""What photographs are compared with: references that are learnt from them without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cache import computed_once
from benchmarks.networks import in_parts
from benchmarks.structure.selfsupervised import contrastive
from isoreg import references

CHANNELS = (32, 64, 128, 256)
GRID = 2
_SIZE = 6
_MEASURED = 2_000
_SEED = 0
LEARNT = "contrastive"
BOTH = f"patches and {LEARNT}"


@dataclass(frozen=True)
class Effort:
    """How much is learnt: patterns of 6 by 6 pixels, epochs of the contrastive network."""

    filters: int = 100
    epochs: int = 100


def learn(
    images: Tensor, cache_folder: Path, effort: Effort, names: Iterable[str]
) -> dict[str, references.Reference]:
    """References by name, learnt from the images that networks are trained on; nothing else is.

    Numbers in the learnt ones count alike, distances are about 10.
    """
    patches = cache(lambda: _patches(images, effort.filters))
    contrastive_features = cache(lambda: _contrastive(images, cache_folder, effort.epochs))
    both = cache(lambda: _beside(patches(), contrastive_features()))
    ways: dict[str, Callable[[], references.Reference]] = {
        "pixels": lambda: references.scaled(None, images[:1_000]),
        "patches": patches,
        LEARNT: contrastive_features,
        BOTH: both,
        f"manifold of {BOTH}": lambda: references.manifold(images, reference=both()),
    }
    return {name: ways[name]() for name in names}


def resnet_body() -> nn.Module:
    """A resnet10t of timm with half its channels, up to its 256 features."""
    import timm

    body: nn.Module = timm.create_model(
        "resnet10t", num_classes=0, channels=CHANNELS, stem_width=16
    )
    return body


def _beside(first: references.Reference, second: references.Reference) -> references.Reference:
    """Both side by side; squared distances are the mean of theirs."""
    return lambda x: torch.cat([first(x), second(x)], 1) / 2**0.5


def _patches(images: Tensor, filters: int) -> references.Reference:
    """Patterns in which quarter of the photograph they are."""
    samples = images[:_MEASURED]
    learnt = references.patches(samples, size=_SIZE, filters=filters, grid=GRID)
    return references.standardized(learnt, samples)


def _contrastive(images: Tensor, cache_folder: Path, epochs: int) -> references.Reference:
    """Features of a network that was trained to tell two views of a photograph from others."""
    torch.manual_seed(_SEED)
    body = resnet_body()

    def weights() -> dict[str, Tensor]:
        return contrastive(images, body, CHANNELS[-1], epochs=epochs, seed=_SEED).state_dict()

    path = cache_folder / f"cifar-contrastive-{len(images)}-{epochs}.pt"
    body.load_state_dict(computed_once(path, weights))
    body.eval()
    return references.standardized(lambda x: in_parts(body, x), images[:_MEASURED])
