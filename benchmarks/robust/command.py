"""Command line of the benchmark."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out


class Part(str, Enum):
    """What to run."""

    recipe = "recipe"
    search = "search"


def robust(
    quick: Quick = False,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
    part: Annotated[
        Part,
        typer.Option(
            help="The recipe beside its rivals; or the search for terms in which geometry helps."
        ),
    ] = Part.recipe,
) -> None:
    """Robustness without adversarial images: the recipe, its rivals, its parts, controls."""
    from benchmarks.robust import experiment, search
    from benchmarks.robust.report import report
    from benchmarks.robust.search_report import report_search
    from benchmarks.robust.selection import SearchSettings
    from benchmarks.robust.settings import Settings

    count = 1 if quick else seeds
    if part is Part.search:
        chosen = SearchSettings().quick() if quick else SearchSettings()
        path = out or default_out("robust", "search", quick)
        found = search.run(chosen, seeds=count, data_dir=data_dir, device=device, out=path)
        report_search(found, Console())
        return
    settings = Settings().quick() if quick else Settings()
    path = out or default_out("robust", quick)
    results = experiment.run(settings, seeds=count, data_dir=data_dir, device=device, out=path)
    report(results, Console())
