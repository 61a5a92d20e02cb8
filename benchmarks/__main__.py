"""Command line of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Quick = Annotated[bool, typer.Option("--quick", help="Under a minute; figures mean nothing.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with MNIST/raw; default: $ISOREG_DATA, else a download."),
]
Device = Annotated[str, typer.Option(help="A torch device.")]
Out = Annotated[Path | None, typer.Option(help="JSON file; default: runs/NAME.json.")]

_LIST = {
    "mnist": ("MNIST", "40 minutes on one core", "the paper's table 1 and figure 3"),
    "census": ("none", "half an hour", "attaching to every module of timm, and to transformers"),
    "speed": ("none", "an hour on one core", "time, memory and exactness of the penalty"),
}


@app.command("list")
def list_benchmarks() -> None:
    """Say what each benchmark needs and how long it takes."""
    table = Table("name", "data", "time", "shows")
    for name, row in _LIST.items():
        table.add_row(name, *row)
    Console().print(table)


@app.command()
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
    path = out or _default_out("mnist", convention, quick)
    results = run(settings, seeds=1 if quick else seeds, data_dir=data_dir, device=device, out=path)
    report(results, Console())


@app.command()
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

    from benchmarks.speed.experiment import LIMITS, MEMORY_LIMITS, QUICK_CHECK, failures, grid, run
    from benchmarks.speed.report import report

    torch.set_num_threads(threads)
    cases = [*dict.fromkeys([*LIMITS, *MEMORY_LIMITS])] if check else grid()
    path = out or _default_out("speed", check and "check", quick)
    if check:
        path.unlink(missing_ok=True)  # a check measures, it does not resume
    results = run([QUICK_CHECK] if quick else cases, device=device, out=path)
    report(results, Console())
    if check and (short := failures(results)):
        raise SystemExit("below the limits:\n" + "\n".join(short))


@app.command()
def census(quick: Quick = False, out: Out = None) -> None:
    """Attach to the smallest model of every timm module and to small transformers."""
    from benchmarks.census.experiment import SAMPLE, report, run

    path = out or _default_out("census", quick)
    report(run(out=path, modules=list(SAMPLE) if quick else None), Console())


def _default_out(*parts: str | bool) -> Path:
    name = "-".join("quick" if part is True else part for part in parts if part is not False)
    return Path("runs") / f"{name}.json"


if __name__ == "__main__":
    app()
