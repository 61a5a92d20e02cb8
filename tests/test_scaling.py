"""The benchmark of pairs across ranks: its counts and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.library.scaling import _Count
from benchmarks.library.scaling_cases import CASES, PER_RANK, work


@pytest.mark.parametrize("name", CASES)
def test_the_counted_work_is_that_of_the_labels(name: str) -> None:
    case = CASES[name]
    labels = case.labels(4 * PER_RANK)
    y = torch.zeros(4 * PER_RANK) if labels is None else labels
    pairs = int((y[:PER_RANK, None] == y).sum()) - PER_RANK
    done = work(case, 4)
    layers = 1 + len(case.dims)
    assert done.own_pairs == pairs == sum(int(b.mask.sum()) for b in case.plan(4, "cpu"))
    assert done.compared >= layers * (pairs + PER_RANK // 2)
    assert done.multiplied == done.compared // layers * (2 * case.p + 4 * sum(case.dims))


def test_operations_are_counted_without_views() -> None:
    x = torch.ones(3, 4)
    with _Count() as count:
        (x.view(4, 3).mT + 1).mul_(2)
    assert count.operations == 2


def test_the_command_runs_resumes_and_leaves_table_and_figure(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    done = CliRunner().invoke(app, ["scaling", "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    runs = json.loads(out.read_text())["runs"]
    assert {run["key"]["kind"] for run in runs} == {"compute", "gather", "step"}
    assert out.with_suffix(".png").stat().st_size > 20_000
    table = out.with_suffix(".md").read_text()
    assert "| digits | 2 |" in table
    assert "nan" not in table
    first = out.read_text()
    assert CliRunner().invoke(app, ["scaling", "--quick", "--out", str(out)]).exit_code == 0
    assert out.read_text() == first
