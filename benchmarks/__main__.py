"""Command line of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.attacks.command import attacks
from benchmarks.auto.command import auto
from benchmarks.census.command import census
from benchmarks.mnist.command import mnist
from benchmarks.rings.command import rings
from benchmarks.rivals.command import rivals
from benchmarks.robust.command import robust
from benchmarks.scaling.command import scaling
from benchmarks.speed.command import speed
from benchmarks.structure.command import structure
from benchmarks.timm_models.command import timm
from benchmarks.torus.command import torus

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

# command: its data, its time, what it shows
BENCHMARKS: dict[Callable[..., None], tuple[str, str, str]] = {
    mnist: ("MNIST", "40 minutes on one core", "the paper's table 1 and figure 3"),
    rings: ("none", "10 minutes on one core", "the paper's figures 1A and 2"),
    torus: ("none", "40 minutes on one core", "the paper's figure 4"),
    rivals: (
        "MNIST",
        "two hours on one core; --short: 15 minutes",
        "isometry beside fourteen other ways to train",
    ),
    robust: (
        "MNIST",
        "three and a half hours on one core; --part search: three quarters of an hour",
        "robustness without adversarial images",
    ),
    structure: ("MNIST", "2 hours on one core", "what features keep that labels throw away"),
    attacks: ("none", "5 minutes", "the attacks against plain PGD and known optima"),
    census: ("none", "half an hour", "attaching to every module of timm, and to transformers"),
    auto: ("MNIST, CIFAR-10", "a quarter of an hour on one core", 'beta="auto" against a search'),
    timm: (
        "CIFAR-10",
        "two hours on one core; for a GPU: --device cuda --full-width --epochs 100",
        "timm's models on photographs: what the penalty costs and does",
    ),
    speed: ("none", "an hour on one core", "time, memory and exactness of the penalty"),
    scaling: ("none", "10 minutes on two cores", "pairs across ranks, up to 1,024 GPUs"),
}


@app.command("list")
def list_benchmarks() -> None:
    """Say what each benchmark needs and how long it takes."""
    table = Table("name", "data", "time", "shows")
    for command, row in BENCHMARKS.items():
        table.add_row(command.__name__, *row)
    Console().print(table)


for command in BENCHMARKS:
    app.command()(command)

if __name__ == "__main__":
    app()
