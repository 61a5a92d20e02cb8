"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import Out, Quick, Seeds, default_out


def rings(quick: Quick = False, seeds: Seeds = 3, out: Out = None) -> None:
    """Run the paper's entangled rings: cross-entropy, isometry within classes, global isometry."""
    from benchmarks.rings.experiment import Settings, run
    from benchmarks.rings.report import report

    settings = Settings(points=80, epochs=60) if quick else Settings()
    path = out or default_out("rings", quick)
    report(run(settings, seeds=1 if quick else seeds, out=path), Console())
