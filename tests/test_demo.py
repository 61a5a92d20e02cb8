"""``make demo`` at a small size: every row is there, and isometry keeps what the others lose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import demo


def test_the_demo_has_pixels_and_control_beside_isometry_and_draws_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"SEEDS": 2, "EPOCHS": 8, "DRAWS": 2, "MAP_EPOCHS": 1, "STRENGTHS": (10.0,)}
    monkeypatch.setattr(demo, "BETAS", {"plain": 0.0, "isometry": 0.1, "control": 0.1})
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "PICTURE", tmp_path / "demo.png")
    monkeypatch.setattr(demo, "FIGURES", tmp_path / "demo.json")
    demo.main()
    rows = json.loads((tmp_path / "demo.json").read_text())
    assert list(rows) == [
        "pixels, no network",
        "reference, no network",
        "plain",
        "isometry",
        "control",
    ]
    kept, shot = ({name: float(row[i].split()[0]) for name, row in rows.items()} for i in (1, 2))
    assert kept["isometry"] > max(kept["plain"], kept["control"], kept["pixels, no network"]) + 0.1
    assert shot["isometry"] > max(shot["plain"], shot["control"]) + 5
    assert "ten digits" in capsys.readouterr().out
    assert (tmp_path / "demo.png").stat().st_size > 20_000
