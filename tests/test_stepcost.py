"""The cost of a whole step: pairs of steps, and the ratio of each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from commandline import run_quickly

from benchmarks.library.stepcost import STEPS, paired, spread_of


def test_the_ratio_is_that_of_the_second_to_the_first_in_whatever_order_they_are_taken() -> None:
    now, taken = [0.0], []

    def takes(seconds: float) -> object:
        def run() -> None:
            now[0] += seconds
            taken.append(seconds)

        return run

    one, other = takes(2.0), takes(3.0)
    found = paired(one, other, 20, 2, random.Random(0), clock=lambda: now[0])  # type: ignore[arg-type]
    assert found == [(2.0, 3.0)] * 20
    assert len(taken) == 44
    assert {tuple(taken[i : i + 2]) for i in range(0, 44, 2)} == {(2.0, 3.0), (3.0, 2.0)}
    assert spread_of([after / before for before, after in found])["longer"] == pytest.approx(0.5)


def test_it_runs_and_says_how_much_longer_a_step_is(tmp_path: Path) -> None:
    out = tmp_path / "stepcost.json"
    run_quickly(out, "stepcost")
    text = out.with_suffix(".md").read_text()
    assert f"| {STEPS[0]} |" in text
    assert "longer by" in text
