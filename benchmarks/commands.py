"""Command line of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.check import RESULTS, check
from benchmarks.command import command_of, takes
from benchmarks.studies import STUDIES, by_command

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_LINES = 5


@app.command("list")
def list_studies() -> None:
    """List the studies: what each shows, its data, its duration and its options."""
    table = Table("name", "data", "time", "shows", "takes")
    for study in STUDIES:
        name = f"{study.command} --part {study.part}" if study.part else study.name
        flags = " ".join("--" + option.replace("_", "-") for option in takes(study))
        table.add_row(name, study.data, study.time, study.shows, flags)
    Console().print(table)


@app.command("check")
def check_results(
    folder: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder with results.")
    ] = RESULTS,
) -> None:
    """Say which runs the committed results lack under the present settings, and which are stale."""
    console, wrong = Console(), 0
    for report in check(STUDIES, folder):
        wrong += bool(
            report.error or report.lacking or report.stale or not report.table or not report.images
        )
        state = report.error or (
            f"{report.runs} runs; {len(report.lacking)} lacking, {len(report.stale)} stale"
            f"{f'; {report.uncertain} of an uncertain commit' if report.uncertain else ''}"
            f"{'' if report.table else '; its table is not what its runs give'}"
            f"{'' if report.images else '; it says other images than its study'}"
        )
        console.print(f"{report.file}: {state}", highlight=False)
        lines = [f"  lacking: {key}" for key in report.lacking]
        lines += [f"  stale: {key} ({why})" for key, why in report.stale]
        for line in lines[:_LINES]:
            console.print(line, highlight=False, markup=False)
        if len(lines) > _LINES:
            console.print(f"  and {len(lines) - _LINES} more")
    if wrong:
        raise typer.Exit(1)


for studies in by_command().values():
    app.command()(command_of(studies))
