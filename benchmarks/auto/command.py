"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import DataDir, Out, Quick, Seeds, default_out


def auto(quick: Quick = False, seeds: Seeds = 3, data_dir: DataDir = None, out: Out = None) -> None:
    """Compare ``beta="auto"`` with numbers chosen on validation images, on MNIST and CIFAR-10."""
    from benchmarks.auto.experiment import Settings, run
    from benchmarks.auto.report import report

    settings = Settings().quick() if quick else Settings()
    path = out or default_out("auto", quick)
    report(run(settings, seeds=1 if quick else seeds, data_dir=data_dir, out=path), Console())
