"""The benchmark of pairs across ranks: its counts, its model and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.scaling.cases import CASES, PER_RANK, work
from benchmarks.scaling.experiment import _Count
from benchmarks.scaling.model import HARDWARE, Prediction, fit, gather_amounts, limit


@pytest.mark.parametrize("name", CASES)
def test_the_counted_work_is_that_of_the_labels(name: str) -> None:
    case = CASES[name]
    labels = case.labels(4 * PER_RANK)
    y = torch.zeros(4 * PER_RANK) if labels is None else labels
    pairs = int((y[:PER_RANK, None] == y).sum()) - PER_RANK
    done = work(case, 4)
    layers = 1 + len(case.dims)
    assert (
        done.own_pairs
        == pairs
        == sum(int(b.mask.sum()) for b in case.plan(4) if b.mask is not None)
    )
    assert done.compared >= layers * (pairs + PER_RANK // 2)
    assert done.multiplied == done.compared // layers * (2 * case.p + 4 * sum(case.dims))


def test_the_fit_finds_the_seconds_of_each_term_and_its_error_on_runs_it_has_not_seen() -> None:
    amounts = [gather_amounts(ranks, sent) for ranks in (2, 4, 8) for sent in (10, 1000, 10_000)]
    true = (3e-4, 2e-5, 1e-9)
    pairs = [(a, sum(t * x for t, x in zip(true, a, strict=True))) for a in amounts]
    found = fit(("call", "hops", "bytes"), pairs[:6], [(a, 1.25 * t) for a, t in pairs[6:]])
    assert found.seconds == pytest.approx(true, rel=1e-6)
    assert found.fitted[1] < 1e-6
    assert found.held_out == pytest.approx((0.2, 0.2))


def test_a_case_pays_until_time_or_memory_is_used_up() -> None:
    def prediction(ranks: int, seconds: float, memory: float) -> Prediction:
        return Prediction("digits", ranks, 0.0, seconds, 0.0, memory, 1.0)

    cheap, slow, large = (1e-3, 1e6), (1.0, 1e6), (1e-3, 1e12)
    assert limit([prediction(8, *cheap), prediction(16, *cheap)]) == 16
    assert limit([prediction(8, *cheap), prediction(16, *slow)]) == 8
    assert limit([prediction(8, *cheap), prediction(16, *large)]) == 8
    assert limit([prediction(8, *slow)]) is None


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
    assert all(hardware.name in table for hardware in HARDWARE)
    assert "nan" not in table
    first = out.read_text()
    assert CliRunner().invoke(app, ["scaling", "--quick", "--out", str(out)]).exit_code == 0
    assert out.read_text() == first
