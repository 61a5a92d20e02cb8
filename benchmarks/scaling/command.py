"""Command line of the benchmark."""

from __future__ import annotations

from rich.console import Console

from benchmarks.options import Out, Quick, default_out


def scaling(quick: Quick = False, out: Out = None) -> None:
    """Time pairs across ranks on 1, 2 and 4 processes, and model them for up to 1,024 GPUs."""
    import torch

    from benchmarks.scaling.experiment import run
    from benchmarks.scaling.report import report

    torch.set_num_threads(1)
    report(run(quick=quick, out=out or default_out("scaling", quick)), Console())
