"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import Out, Quick, default_out


def census(quick: Quick = False, out: Out = None) -> None:
    """Attach to the smallest model of every timm module and to small transformers."""
    from benchmarks.census.experiment import SAMPLE, report, run

    path = out or default_out("census", quick)
    report(run(out=path, modules=list(SAMPLE) if quick else None), Console())
