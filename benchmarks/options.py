"""Options that the benchmarks' commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Quick = Annotated[bool, typer.Option("--quick", help="Under a minute; figures mean nothing.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with MNIST/raw; default: $ISOREG_DATA, else a download."),
]
Device = Annotated[str, typer.Option(help="A torch device.")]
Out = Annotated[Path | None, typer.Option(help="JSON file; default: runs/NAME.json.")]


def default_out(*parts: str | bool) -> Path:
    """The file below runs/ that is named by the parts that are not False."""
    name = "-".join("quick" if part is True else part for part in parts if part is not False)
    return Path("runs") / f"{name}.json"
