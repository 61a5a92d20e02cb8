"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import Out, Quick, default_out


def attacks(quick: Quick = False, out: Out = None) -> None:
    """Hold each attack of the report card against plain PGD and against known optima."""
    from benchmarks.attacks.experiment import Settings, run
    from benchmarks.attacks.report import report

    settings = Settings(images=5) if quick else Settings()
    report(run(settings, out=out or default_out("attacks", quick)), Console())
