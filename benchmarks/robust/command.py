"""Command line of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import DataDir, Device, Out, Quick, Seeds, default_out

CHOICE = Path(__file__).parent.parent / "results" / "robust-choice.json"


def robust(
    quick: Quick = False,
    choose: Annotated[
        bool, typer.Option("--choose", help="Choose the settings on validation images instead.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="relu or tanh, may be repeated; default: both.")
    ] = None,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Robustness without adversarial images: the recipe, its rivals, its parts, controls."""
    from benchmarks.robust.choice import choose_settings, chosen_in
    from benchmarks.robust.experiment import run
    from benchmarks.robust.report import report, report_choice
    from benchmarks.robust.settings import Settings
    from benchmarks.robust.training import NETWORKS

    networks = tuple(network or NETWORKS)
    if unknown := set(networks) - set(NETWORKS):
        raise typer.BadParameter(f"networks are {', '.join(NETWORKS)}, got {', '.join(unknown)}")
    settings = Settings().quick() if quick else Settings()
    where = {"networks": networks, "data_dir": data_dir, "device": device}
    if choose:
        path = out or default_out("robust-choice", quick)
        report_choice(choose_settings(settings, out=path, **where), Console())
        return
    path = out or default_out("robust", quick)
    chosen = chosen_in(CHOICE)
    results = run(settings, chosen=chosen, seeds=1 if quick else seeds, out=path, **where)
    report(results, Console())
