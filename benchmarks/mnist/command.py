"""Command line of the benchmark."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out


def mnist(
    quick: Quick = False,
    seeds: Seeds = 3,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
    convention: Annotated[
        str, typer.Option(help="Follow the paper's text, or its released code.")
    ] = "text",
) -> None:
    """Run the paper's MNIST experiment under its own attack and under a standard one."""
    from benchmarks.mnist.experiment import run
    from benchmarks.mnist.report import report
    from benchmarks.mnist.settings import CONVENTIONS, Settings

    for name in CONVENTIONS:
        if name == convention:
            settings = Settings(convention=name)
            break
    else:
        raise typer.BadParameter(f"--convention must be one of {', '.join(CONVENTIONS)}")
    settings = settings.quick() if quick else settings
    path = out or default_out("mnist", convention, quick)
    results = run(settings, seeds=1 if quick else seeds, data_dir=data_dir, device=device, out=path)
    report(results, Console())
