"""Every example runs, at a small size, and shows what it says."""

from __future__ import annotations

import importlib
import json
import logging
import runpy
import warnings
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples"
# those have tests of their own, or take a minute
ELSEWHERE = {"__init__", "demo"}
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - ELSEWHERE)


def run(name: str, **options: object) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainers, about the machine
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        return importlib.import_module(f"examples.{name}").main(**options)


def test_the_index_names_every_example_and_each_is_below_a_hundred_lines() -> None:
    text = (FOLDER / "README.md").read_text()
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for name in NAMES:
        assert f"[`{name}`]({name}.py)" in text
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 100
        assert name in tested, f"no test runs {name}"


def test_demo_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, grids = tmp_path / "choice.json", {"isometry": (0.0, 0.3), "control": (0.3,)}
    found = run("demo_choice", path=path, grids=grids, seeds=1)
    assert found == json.loads(path.read_text())
    assert found["isometry"]["0.3"] > max(found["isometry"]["0"], found["control"]["0.3"]) + 5
    assert "isometry: 0.3 of" in capsys.readouterr().out


def test_own_model(tmp_path: Path) -> None:
    found = run("own_model", epochs=2, folder=tmp_path)
    assert found["isometry"].stress < found["plain"].stress
    header, *rows = (tmp_path / "isometry.csv").read_text().splitlines()
    assert header == "loss,isometry/penalty,isometry/beta,isometry/penalty/8"
    assert len(rows) == 22


def test_lightning_callback(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    assert run("lightning_callback", epochs=1, folder=tmp_path) > 0.5
    (log,) = tmp_path.rglob("metrics.csv")
    assert "isometry/penalty/net.4" in log.read_text().splitlines()[0]


def test_transformers_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    found = run("transformers_trainer", epochs=1, folder=tmp_path)
    assert 0 <= found["eval_accuracy"] <= 1
    assert "isometry/penalty/classifier" in capsys.readouterr().out


def test_timm_finetune(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    found = run("timm_finetune", epochs=1)
    assert list(found) == ["before", "plain", "isometry"]
    printed = capsys.readouterr().out
    assert "fine-tuned, isometry: accuracy" in printed
    assert "Pearson r" in printed, "the penalty reports on its layer"


def test_a_misspelt_option_does_not_train_what_was_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setattr("sys.argv", ["timm_finetune", "--pretrainde"])
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(FOLDER / "timm_finetune.py"), run_name="__main__")
    assert caught.value.code == 2


def test_hierarchical_labels() -> None:
    accuracies = run("hierarchical_labels", points=100, epochs=30)
    assert len(accuracies) == 3
    assert accuracies[0] > 0.6


def test_maps(tmp_path: Path) -> None:
    figures = run("maps", picture=tmp_path / "drawn.png", max_epochs=150)
    assert figures["distances and classes"][0] > figures["distances alone"][0] + 0.1
    assert figures["distances and classes"][1] > 0.5
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run("words", picture=tmp_path / "drawn.png", steps=150)
    assert figures["r"] > 0.75  # at most 0.61 untrained
    said = capsys.readouterr().out  # which of them are right follows from Python's help pages
    meant = ["sequence", "exception", "dictionary", "iterator", "attribute", "parameter"]
    assert sum(f": {word}" in said for word in meant) >= 2
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_the_edit_distance_of_the_words_is_levenshtein_s() -> None:
    from examples.words import edit_distances, letters

    def levenshtein(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        changed = levenshtein(a[1:], b[1:]) + (a[0] != b[0])
        return min(changed, levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1)

    words = ["tuple", "ape", "", "applet", "purple", "plates"]
    wanted = [[levenshtein(a, b) for b in words] for a in words[:4]]
    assert edit_distances(letters(words[:4]), letters(words)).tolist() == wanted


def test_teacher(tmp_path: Path) -> None:
    figures = run("teacher", picture=tmp_path / "drawn.png", epochs=15)
    alone, taught = figures["on its own"], figures["with the teacher's distances"]
    assert taught[1] > alone[1] + 0.2
    assert taught[2] > alone[2]
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_autoencoder(tmp_path: Path) -> None:
    figures = run("autoencoder", picture=tmp_path / "drawn.png", epochs=20)
    assert figures["isometric"][1] < figures["plain"][1]
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_judgements(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    figures = run("judgements", picture=tmp_path / "drawn.png")
    assert figures["learnt"] > figures["words alone"] + 0.05
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


def test_evaluate_model(tmp_path: Path) -> None:
    reports = run(
        "evaluate_model", epochs=4, count=40, attacks="quick", picture=tmp_path / "drawn.png"
    )
    assert list(reports) == ["plain", "isometry", "margin loss"]
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
    assert torch.tensor([reports[k].clean for k in reports]).min() > 0.3
