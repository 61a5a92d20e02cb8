"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out


def robust(
    quick: Quick = False,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Robustness without adversarial images: the recipe, its rivals, its parts, controls."""
    from benchmarks.robust.experiment import run
    from benchmarks.robust.report import report
    from benchmarks.robust.settings import Settings

    settings = Settings().quick() if quick else Settings()
    path = out or default_out("robust", quick)
    results = run(settings, seeds=1 if quick else seeds, data_dir=data_dir, device=device, out=path)
    report(results, Console())
