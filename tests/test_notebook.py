"""The quickstart notebook runs, and the outputs that it is committed with are its own."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
PERCENT = re.compile(r"(\d+\.\d) ?%")
CORRELATION = re.compile(r"pairs: r (\d\.\d+)")


def printed(notebook: NotebookNode) -> str:
    """All text that the cells print."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


@pytest.fixture
def committed() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_runs_to_the_figures_it_is_committed_with_and_keeps_distances(
    committed: NotebookNode,
) -> None:
    executed = NotebookClient(nbformat.from_dict(committed), timeout=120).execute()
    was, now = printed(committed), printed(executed)
    # five points: some of 360 images may fall on the other side on another processor
    for figures, allowed in ((PERCENT, 5.0), (CORRELATION, 0.1)):
        before, after = (list(map(float, figures.findall(text))) for text in (was, now))
        assert before
        assert after == pytest.approx(before, abs=allowed)
    plain, isometry = (float(r) for r in CORRELATION.findall(now))
    assert isometry > plain + 0.3


def test_every_code_cell_is_committed_executed_and_with_its_pictures(
    committed: NotebookNode,
) -> None:
    cells = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [kind for cell in cells for out in cell.outputs for kind in out.get("data", {})]
    assert kinds.count("image/png") == 2
    assert NOTEBOOK.stat().st_size < 250_000
