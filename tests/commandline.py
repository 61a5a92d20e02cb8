"""The command line of the benchmarks, as its tests call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from benchmarks.commands import app


def run_quickly(out: Path, *arguments: str) -> list[dict[str, Any]]:
    """The runs in the file that a quick command leaves."""
    done = CliRunner().invoke(app, [*arguments, "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return json.loads(out.read_text())["runs"]


def run_and_resume(out: Path, *arguments: str) -> list[dict[str, Any]]:
    """The same of a command that is called twice, and measures nothing the second time."""
    runs = run_quickly(out, *arguments)
    first = out.read_text()
    run_quickly(out, *arguments)
    assert out.read_text() == first, "a finished benchmark measures nothing again"
    return runs
