"""What determines the figures: data, training, methods, and how settings are chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.objectives.methods import Recipe
from benchmarks.timm_models.networks import NETWORKS
from isoreg.robustness.attacks import PRESETS

PIXEL = 1 / 255
# the standard preset in two parts: what the cheap one fooled need not be attacked again
_CHEAP = ("fgsm", "pgd-ce", "pgd-margin")
ATTACKS = (_CHEAP, tuple(name for name in PRESETS["standard"] if name not in _CHEAP))
STAGES = "stages"  # stands for the names of a network's stages


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        recipes: Settings, as (what it is called, recipe), among which to choose on validation
            images.
        mixup: Whether images are mixed; margins and attacks need labels that are not.
        once: Whether the first seed will do: beside the question, or a repetition of it.
    """

    recipes: dict[str, Recipe]
    mixup: bool = True
    once: bool = False


def _isometry(**options: Any) -> dict[str, Recipe]:
    shares = (0.1, 1.0)
    return {
        f"share {share:g}": {"isometry": {"share": share, "scale": "fit", **options}}
        for share in shares
    }


def _radii(method: str, *pixels: int) -> dict[str, Recipe]:
    return {f"eps {eps}/255": {method: {"eps": eps * PIXEL}} for eps in pixels}


METHODS: dict[str, Way] = {
    "plain": Way({"": {}}),
    "isometry, features": Way(_isometry()),
    "its control: images shuffled": Way(_isometry(shuffled=True)),
    "isometry, stages": Way(_isometry(layers=STAGES, pool="mean"), once=True),
    "plain, no Mixup": Way({"": {}}, mixup=False, once=True),
    "RobustLoss": Way(_radii("first-order-margin", 2, 4), mixup=False),
    "FGSM training": Way(_radii("fgsm", 4, 8), mixup=False, once=True),
}


@dataclass(frozen=True)
class Schedule:
    """How long and on how many images."""

    epochs: int
    images: int
    rate: float = 2e-3


@dataclass(frozen=True)
class Settings:
    """The experiment: AdamW, a rate that rises for a tenth of training and falls along a cosine.

    For each method and network the setting is taken that has the largest mean of clean accuracy
    and accuracy under attack at 2/255, on validation images.
    """

    networks: tuple[str, ...] = NETWORKS
    narrow: bool = True
    size: int = 32
    batch_size: int = 128
    weight_decay: float = 0.05
    mixup: float = 0.2
    schedule: Schedule = Schedule(epochs=3, images=12_000)
    choice: Schedule = Schedule(epochs=2, images=6_000)
    finetuning: Schedule = Schedule(epochs=2, images=12_000, rate=3e-4)
    validation_images: int = 5_000
    choice_images: int = 200
    test_images: int = 10_000
    corrupted_images: int = 1_000
    attacked_images: int = 1_000
    radii: tuple[int, ...] = (1, 2, 4, 8)
    attacks: tuple[tuple[str, ...], ...] = ATTACKS
    measure_memory: bool = True
    timing_seconds: float = 5.0

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        tiny = Schedule(epochs=1, images=64)
        return replace(
            self,
            networks=("resnet10t",),
            size=16,
            batch_size=32,
            schedule=Schedule(epochs=2, images=64),
            choice=tiny,
            finetuning=tiny,
            validation_images=40,
            choice_images=10,
            test_images=40,
            corrupted_images=20,
            attacked_images=6,
            radii=(2,),
            attacks=(("fgsm",),),
            measure_memory=False,
            timing_seconds=0.01,
        )
