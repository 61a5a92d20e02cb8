"""The benchmark of pairs across ranks: its command."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.commands import app


def test_the_command_runs_resumes_and_leaves_table_and_figure(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    done = CliRunner().invoke(app, ["scaling", "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    runs = json.loads(out.read_text())["runs"]
    assert {run["key"]["kind"] for run in runs} == {"compute", "gather", "step", "same pairs"}
    assert out.with_suffix(".png").stat().st_size > 20_000
    table = out.with_suffix(".md").read_text()
    assert "| digits | 2 |" in table
    assert "nan" not in table
    first = out.read_text()
    assert CliRunner().invoke(app, ["scaling", "--quick", "--out", str(out)]).exit_code == 0
    assert out.read_text() == first
