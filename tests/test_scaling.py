"""The benchmark of pairs across ranks: its command."""

from __future__ import annotations

from pathlib import Path

from commandline import run_and_resume


def test_the_command_runs_resumes_and_leaves_table_and_figure(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    runs = run_and_resume(out, "scaling")
    assert {run["key"]["kind"] for run in runs} == {"compute", "gather", "step", "same pairs"}
    assert out.with_suffix(".png").stat().st_size > 20_000
    table = out.with_suffix(".md").read_text()
    assert "| digits | 2 |" in table
    assert "nan" not in table
