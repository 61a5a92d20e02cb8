"""Command line of the benchmark."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import DataDir, Out, Quick, Seeds, default_out


class Part(str, Enum):
    """What to run."""

    digits = "digits"
    search = "search"
    choices = "choices"
    torus = "torus"
    recipe = "recipe"
    cifar = "cifar"
    neighbours = "neighbours"
    distances = "distances"


def structure(
    quick: Quick = False,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    out: Out = None,
    part: Annotated[
        Part,
        typer.Option(
            help="Coarse to fine on MNIST, the search of its strengths, what makes it work; the "
            "recipe on small digits or on CIFAR-10 (JPEG); the torus; what else geometry might do; "
            "whether distances of features mean something."
        ),
    ] = Part.digits,
    task: Annotated[
        str | None, typer.Option(help="One task of the digits; default: all of them.")
    ] = None,
) -> None:
    """Train on coarse labels, read the fine ones from frozen features."""
    from benchmarks.structure import (
        choices,
        cifar,
        distances,
        experiment,
        neighbours,
        recipe,
        torus,
    )
    from benchmarks.structure.distances_report import report_distances
    from benchmarks.structure.report import (
        report_choices,
        report_cifar,
        report_digits,
        report_neighbours,
        report_recipe,
        report_search,
        report_torus,
    )
    from benchmarks.structure.settings import TASKS, Settings

    if task is not None and task not in TASKS:
        raise typer.BadParameter(f"--task must be one of {', '.join(map(repr, TASKS))}")
    settings = Settings().quick() if quick else Settings()
    path = out or default_out("structure", part.value, quick)
    count = 1 if quick else seeds
    if part is Part.search:
        report_search(experiment.search(settings, data_dir=data_dir, out=path), Console())
    elif part is Part.choices:
        report_choices(choices.run(settings, data_dir=data_dir, out=path, quick=quick), Console())
    elif part is Part.torus:
        report_torus(torus.run(quick=quick, seeds=count, out=path), Console())
    elif part is Part.recipe:
        report_recipe(recipe.run(seeds=count, out=path, quick=quick), Console())
    elif part is Part.cifar:
        found = cifar.run(seeds=count, data_dir=data_dir, out=path, quick=quick)
        report_cifar(found, Console())
    elif part is Part.neighbours:
        found = neighbours.run(settings, seeds=count, data_dir=data_dir, out=path, quick=quick)
        report_neighbours(found, Console())
    elif part is Part.distances:
        found = distances.run(settings, seeds=count, data_dir=data_dir, out=path, quick=quick)
        report_distances(found, Console())
    else:
        tasks = (task,) if task else tuple(TASKS)[: 1 if quick else None]
        results = experiment.run(settings, seeds=count, data_dir=data_dir, out=path, tasks=tasks)
        report_digits(results, Console())
