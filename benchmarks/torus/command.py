"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import Out, Quick, Seeds, default_out


def torus(quick: Quick = False, seeds: Seeds = 3, out: Out = None) -> None:
    """Run the paper's torus: stacked locally isometric layers over 2, 4 and 8 classes."""
    from benchmarks.torus.experiment import Settings, run
    from benchmarks.torus.report import report

    settings = Settings(points=100, epochs=20) if quick else Settings()
    path = out or default_out("torus", quick)
    report(run(settings, seeds=1 if quick else seeds, quick=quick, out=path), Console())
