"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out


def rivals(
    quick: Quick = False,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Train the paper's MLP in fifteen ways, each tuned on validation images, and attack them."""
    from benchmarks.rivals.experiment import run
    from benchmarks.rivals.report import report
    from benchmarks.rivals.settings import Settings

    settings = Settings().quick() if quick else Settings()
    path = out or default_out("rivals", quick)
    results = run(settings, seeds=1 if quick else seeds, data_dir=data_dir, device=device, out=path)
    report(results, Console())
