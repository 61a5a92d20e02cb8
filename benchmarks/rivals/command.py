"""Command line of the benchmark."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out


def rivals(
    quick: Quick = False,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
    short: Annotated[
        bool, typer.Option("--short", help="Two epochs, three settings each, 200 test images.")
    ] = False,
) -> None:
    """Train the paper's MLP in fifteen ways, each tuned on validation images, and attack them."""
    from benchmarks.rivals.experiment import run
    from benchmarks.rivals.report import report
    from benchmarks.rivals.settings import Settings

    settings = Settings().short() if short else Settings()
    settings = settings.quick() if quick else settings
    path = out or default_out("rivals", short and "short", quick)
    results = run(settings, seeds=1 if quick else seeds, data_dir=data_dir, device=device, out=path)
    report(results, Console())
