"""The benchmark of `beta="auto"`: what it chooses by, and that it runs, resumes and reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commandline import run_and_resume

from benchmarks.library import auto
from benchmarks.library.auto import choose


@pytest.fixture
def _small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blurred blocks whose place tells the class, in the shapes of MNIST."""

    def read(split: str, folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(400) % 10
        images = torch.zeros(400, 1, 28, 28)
        for row, label in enumerate(labels.tolist()):
            images[row, 0, 2 * label : 2 * label + 6, 5:20] = 1
        generator = torch.Generator().manual_seed(len(split))
        return images + 0.1 * torch.rand(images.shape, generator=generator), labels

    monkeypatch.setattr(auto, "mnist", read)
    monkeypatch.setattr(auto, "VALIDATION", 100)


@pytest.mark.usefixtures("_small_mnist")
def test_it_runs_resumes_and_leaves_its_table(tmp_path: Path) -> None:
    out = tmp_path / "auto.json"
    assert [run["key"]["beta"] for run in run_and_resume(out, "auto")] == [
        *("pixels, no network", "0", "0.1", "auto 0.1"),
        *("0.1, control", "auto 0.1, control"),
    ]
    table = out.with_suffix(".md").read_text()
    assert table.count("| auto 0.1 |") == 2
    assert table.count("(chosen)") == 2, "the number, and its control's"
    assert table.count("| pixels, no network | - |") == 2


def test_the_number_is_chosen_by_few_shot_accuracy_among_those_that_cost_little() -> None:
    def seeds(coarse: float, few: float) -> list[dict[str, dict[str, float]]]:
        return [
            {"validation": {"coarse": coarse + d, "few-shot": few}, "test": {}} for d in (-0.1, 0.1)
        ]

    runs = {"0": seeds(0.8, 0.5), "1": seeds(0.795, 0.6), "2": seeds(0.78, 0.9)}
    assert choose(runs, ["0", "1", "2"]) == "1"
    controls = {f"{weight}, control": runs[weight] for weight in "12"}
    assert auto.chosen_weights(runs | controls) == ["1", "1, control"], "one rule for both"
