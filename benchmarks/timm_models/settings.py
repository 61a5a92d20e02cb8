"""What determines the figures: data, training, methods, and how settings are chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from benchmarks.internals import PRESETS
from benchmarks.methods import Recipe
from benchmarks.study import quickly
from benchmarks.timm_models.networks import NETWORKS

PIXEL = 1 / 255
# the standard preset in two parts: images that the cheap part fools are not attacked again
_CHEAP = ("fgsm", "pgd-ce", "pgd-margin")
ATTACKS = (_CHEAP, tuple(name for name in PRESETS["standard"] if name not in _CHEAP))


@dataclass(frozen=True)
class Row:
    """A way to train, with the recipes of which one is chosen on validation images.

    ``mixup`` is off for margins, which need labels of images that are not mixed.
    """

    recipes: dict[str, Recipe]
    mixup: bool = True


def _isometry(**options: Any) -> dict[str, Recipe]:
    common = {"scale": "fit", **options}
    return {
        f"share {share:g}": {"isometry": {"share": share, **common}} for share in (0.1, 1.0, 3.0)
    }


CONTROL = "its control: images shuffled"
ROWS: dict[str, Row] = {
    "plain": Row({"": {}}),
    "isometry, features": Row(_isometry()),
    CONTROL: Row(_isometry(shuffled=True)),
    "RobustLoss": Row(
        {f"eps {eps}/255": {"first-order-margin": {"eps": eps * PIXEL}} for eps in (2, 4, 8, 16)},
        mixup=False,
    ),
}
ANSWERED = ("isometry, stages", "plain, no Mixup", "FGSM training")
"""Side experiments on one seed: their runs are kept, without their code."""


@dataclass(frozen=True)
class Schedule:
    """Length of a training, number of its images, and its largest learning rate."""

    epochs: int
    images: int
    rate: float = 2e-3


@dataclass(frozen=True)
class Settings:
    """The experiment: AdamW, a rate that rises for a tenth of training and falls along a cosine.

    Each method gets on each network the setting with the largest mean of clean accuracy and
    accuracy under attack at 2/255, on validation images.
    """

    networks: tuple[str, ...] = NETWORKS
    # networks of which only the first seed is measured on test images
    once: tuple[str, ...] = ("vit_tiny_patch16_224",)
    narrow: bool = True
    size: int = 32
    batch_size: int = 128
    weight_decay: float = 0.05
    mixup: float = 0.2
    schedule: Schedule = Schedule(epochs=3, images=12_000)
    choice: Schedule = Schedule(epochs=2, images=6_000)
    validation_images: int = 5_000
    choice_images: int = 200
    test_images: int = 10_000
    corrupted_images: int = 1_000
    attacked_images: int = 1_000
    radii: tuple[int, ...] = (1, 2, 4, 8)
    attacks: tuple[tuple[str, ...], ...] = ATTACKS
    measure_memory: bool = True
    timing_seconds: float = 5.0


_settings = quickly(
    Settings(),
    networks=("resnet10t",),
    size=16,
    batch_size=32,
    schedule=Schedule(epochs=2, images=64),
    choice=Schedule(epochs=1, images=64),
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


def settings(
    quick: bool,
    model: Annotated[
        list[str], typer.Option(help="A model of timm; again for more. Default: three.")
    ] = [],  # noqa: B006 (typer wants a list)
    full_width: Annotated[
        bool, typer.Option("--full-width", help="timm's own widths, for a GPU.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=0, help="Default: 3.")] = 0,
    train_images: Annotated[int, typer.Option(min=0, help="Default: 12,000.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images.")] = 0,
) -> Settings:
    """The full settings, or quick ones of less than a minute, with what the command changes."""
    del workers
    chosen = _settings(quick)
    long, many = epochs or chosen.schedule.epochs, train_images or chosen.schedule.images
    return replace(
        chosen,
        networks=tuple(model) or chosen.networks,
        narrow=not full_width,
        schedule=replace(chosen.schedule, epochs=long, images=many),
    )
