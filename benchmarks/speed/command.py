"""Command line of the benchmark."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import Device, Out, Quick, default_out


def speed(
    quick: Quick = False,
    device: Device = "cpu",
    out: Out = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only the cells with a limit; fail below it.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Time the penalty against the plain version and a metric-learning library."""
    import torch

    from benchmarks.speed.experiment import QUICK_CHECK, checked, failures, grid, run
    from benchmarks.speed.report import report

    torch.set_num_threads(threads)
    cases = checked() if check else grid()
    path = out or default_out("speed", check and "check", quick)
    if check:
        path.unlink(missing_ok=True)  # a check measures, it does not resume
    results = run([QUICK_CHECK] if quick else cases, device=device, out=path)
    report(results, Console())
    if check and (short := failures(results)):
        raise SystemExit("below the limits:\n" + "\n".join(short))
