"""The pictures beside the control: what they show is what the runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.structure.figure import draw_distances, draw_photographs


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: found.append(self))
    return found


def test_photographs_are_shown_at_the_mean_over_draws_and_seeds(drawn: list[Figure]) -> None:
    def run(method: str, one: list[float], ten: list[float]) -> dict[str, Any]:
        shots = {"1 a class": {"accuracy": one}, "10 a class": {"accuracy": ten}}
        return {"key": {"method": method}, "figures": {"few-shot": shots}}

    runs = [
        run("isometry, contrastive", [0.2, 0.3], [0.4]),
        run("isometry, contrastive", [0.3, 0.4], [0.5]),
    ]
    tried = {
        "key": {"method": "isometry, contrastive", "strength": 1.0},
        "figures": {"coarse": 0.9},
    }
    settings = {"examples": [[1, 2], [10, 1]]}
    draw_photographs({"settings": settings, "runs": [tried, *runs]}, Path("unused.png"))
    (axis,) = drawn[0].axes
    line = axis.lines[0]
    assert list(line.get_xdata()) == [1, 10]
    assert list(line.get_ydata()) == pytest.approx([30.0, 45.0])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "10"]


def test_distances_are_shown_pair_by_pair_where_they_were_kept(drawn: list[Figure]) -> None:
    def run(method: str, seed: int, **kept: Any) -> dict[str, Any]:
        figures = {"manifold of patches": {"r": 0.75}, **kept}
        return {"key": {"method": method, "seed": seed}, "figures": figures}

    name = "isometry, manifold of patches"
    runs = [
        run(name, 0, pairs=[[1.0, 2.0], [3.0, 5.0]]),
        run(name, 1),
        run("cross-entropy", 0, pairs=[[1.0], [0.0]]),
    ]
    draw_distances({"runs": runs}, Path("unused.png"))
    first, second = drawn[0].axes
    points = first.collections[0].get_offsets()
    assert points.tolist() == [[1.0, 3.0], [2.0, 5.0]], "across: the reference's distances"
    assert first.get_title() == "isometry\nr 0.75"
    assert second.get_title() == "cross-entropy\nr 0.75"
    assert first.lines[0].get_slope() == 1
