"""Command line of the benchmark."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import Device, Out, Quick, Seeds, default_out


class Part(str, Enum):
    """What to run."""

    training = "training"
    scale = "scale"
    finetune = "finetune"


Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder with train.tar and test.tar, or class folders in train and test; default: "
        "$ISOREG_DATA, else CIFAR-10 by download."
    ),
]


def timm(
    quick: Quick = False,
    seeds: Seeds = 3,
    data_dir: Images = None,
    device: Device = "cpu",
    out: Out = None,
    part: Annotated[
        Part,
        typer.Option(
            help="Train in every way and measure; compare scales of the penalty; or go on from a "
            "trained model."
        ),
    ] = Part.training,
    model: Annotated[
        list[str] | None, typer.Option(help="A model of timm; again for more. Default: three.")
    ] = None,
    full_width: Annotated[
        bool, typer.Option("--full-width", help="timm's own widths, for a GPU.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: 3.")] = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Default: 12,000.")] = None,
    attacked_images: Annotated[int | None, typer.Option(min=1, help="Default: 1,000.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images.")] = 0,
) -> None:
    """Train timm's models on photographs with and without the penalty: what it costs and does."""
    from benchmarks.timm_models import experiment, finetune, scale
    from benchmarks.timm_models.experiment import Bench
    from benchmarks.timm_models.report import report_finetune, report_scale, report_training
    from benchmarks.timm_models.settings import Settings

    settings = Settings().quick() if quick else Settings()
    schedule = settings.schedule
    settings = replace(
        settings,
        networks=tuple(model or settings.networks),
        narrow=not full_width,
        schedule=replace(
            schedule,
            epochs=epochs or schedule.epochs,
            images=train_images or schedule.images,
        ),
        attacked_images=attacked_images or settings.attacked_images,
    )
    name = "timm" if part is Part.training else f"timm-{part.value}"
    bench = Bench(settings, data_dir, out or default_out(name, quick), device, workers)
    run, report = {
        Part.training: (experiment.run, report_training),
        Part.scale: (scale.run, report_scale),
        Part.finetune: (finetune.run, report_finetune),
    }[part]
    report(run(bench, seeds=1 if quick else seeds), Console())
