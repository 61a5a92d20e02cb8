"""Tables of how well distances of features follow those of a reference."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results, Run
from benchmarks.structure.agreement import AMONG
from benchmarks.structure.curves import draw_distances
from benchmarks.structure.distances import ALL, BEST, COMPARED, PLAIN, UNTRAINED, reference_of
from benchmarks.structure.experiment import SLACK, chosen_strengths, tries
from benchmarks.tables import markdown_table, percent, spread

_FIGURES = ("r", "stress", "r of all pairs", "nearest")
_HEADER = ["r", "stress, same unit", "r of all pairs", f"nearest among {AMONG}, %"]


def report_distances(results: Results, console: Console) -> None:
    """Print and save the tables and the figure."""
    publish(results, console, distances_tables, draw_distances)


def distances_tables(results: dict[str, Any]) -> str:
    """One Markdown table a reference, and one of the strengths that were tried."""
    shown = results["settings"]["shown"]
    measured = [run for run in results["runs"] if "seed" in run["key"]]
    parts = [
        "# Do distances of features mean something?",
        "Networks learn even or odd on MNIST; then the distances of their last hidden layer are "
        f"compared with those of a reference, on {shown:,} test images. r and stress (0: the same "
        "distances in the same unit) of the pairs of equal parity, r of all pairs, and how often "
        f"the image that is nearest by the reference is among the {AMONG} nearest by the features. "
        "First as the features are, then after a linear map to the reference's coordinates, fitted "
        "on known images by least squares: as a second head predicts them. (Such a map shortens "
        "what it cannot predict, so its stress says how much that is.) *shifts*: the least "
        f"distance when one image may be moved by up to {results['settings']['most']} pixels in "
        "each direction; it has no coordinates, so for head and map "
        f"{results['settings']['dimensions']} were made by multidimensional scaling. Mean ± "
        "standard deviation over seeds.",
    ]
    for reference, methods in COMPARED.items():
        names = [PLAIN, *methods, *UNTRAINED]
        rows = [_row(name, reference, measured) for name in names]
        after = [f"{figure}, mapped" for figure in _HEADER]
        header = ["training", "seeds", "coarse, %", *_HEADER, *after]
        parts += [
            f"## {reference.capitalize()}",
            markdown_table(header, [row for row in rows if row]),
        ]
    parts += [
        "## Strengths, chosen on validation images",
        "One seed. Chosen: the best r of pairs of equal parity, plain or mapped, among those whose "
        f"coarse accuracy is at most {100 * SLACK:g} points below that of cross-entropy; if there "
        "are none, the most accurate.",
        _tries_table(tries(results["runs"])),
    ]
    return "\n\n".join(parts) + "\n"


def _row(name: str, reference: str, runs: list[Run]) -> list[str]:
    found = [run["figures"] for run in runs if run["key"]["method"] == name]
    if not found:
        return []
    coarse = percent([f["coarse"] for f in found]) if "coarse" in found[0] else "-"
    cells = [_cell(figure, [f[reference][figure] for f in found]) for figure in _FIGURES]
    # pixels that are nearly always black make a map of raw ones meaningless
    after = [f"fitted {figure}" for figure in _FIGURES if name not in UNTRAINED]
    cells += [_cell(figure, [f[reference][figure] for f in found]) for figure in after]
    return [name, str(len(found)), coarse, *cells, *["-"] * (2 * len(_FIGURES) - len(cells))]


def _cell(figure: str, values: list[float]) -> str:
    return percent(values) if figure.endswith("nearest") else spread(values, 3)


def _tries_table(runs: list[Run]) -> str:
    chosen = chosen_strengths(runs, by=BEST)
    rows = []
    order = list(ALL)
    for run in sorted(runs, key=lambda r: (order.index(r["key"]["method"]), r["key"]["strength"])):
        key, figures = run["key"], run["figures"]
        row = [key["method"], reference_of(key["method"]), f"{key['strength']:g}"]
        row += [percent([figures["coarse"]])]
        row += [f"{figures[figure]:.3f}" for figure in ("r", "fitted r")]
        rows.append([*row, "chosen" if chosen[key["method"]] == key["strength"] else ""])
    header = ["training", "distances", "strength", "coarse, %", "r", "r, mapped", ""]
    return markdown_table(header, rows)
