"""Tables of how well distances of features follow those of a reference."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.images import FIVE_SIXTHS, SIXTH, Uses, rows
from benchmarks.results import Figures, Found
from benchmarks.structure import distances
from benchmarks.structure.agreement import AMONG
from benchmarks.structure.distances import COMPARED, PLAIN, UNTRAINED
from benchmarks.structure.figure import draw_distances
from benchmarks.structure.report import tries_table
from benchmarks.structure.settings import settings
from benchmarks.structure.shifts import MOST
from benchmarks.structure.training import SLACK, tries
from benchmarks.study import Study
from benchmarks.tables import SEEDS, Column, grouped, page, table

_COLUMNS = {
    "r": ("r", 3),
    "stress": ("stress, same unit", 3),
    "r of all pairs": ("r of all pairs", 3),
    "nearest": (f"nearest among {AMONG}, %", None),
}
_TRIED = (Column("coarse, %", "coarse"), Column("r", "r", 3), Column("r, mapped", "fitted r", 3))


def tables(results: Found) -> str:
    """The page: a table for each reference, and one of the strengths that were tried."""
    measured = grouped((run for run in results["runs"] if "seed" in run["key"]), "method")
    # no figures after a map: pixels that are nearly always black make one of raw pixels useless
    for name in set(UNTRAINED) & set(measured):
        measured[name] = [{**figures, "unmapped": True} for figures in measured[name]]
    tried = tries(results["runs"])
    chosen = distances.CHOICE.strengths(tried)
    parts = [
        "# Do distances of features mean something?",
        "Networks learn even or odd on MNIST; then the distances of their last hidden layer are "
        f"compared with those of a reference, on {distances.SHOWN:,} test images. r and stress (0: "
        "the same distances in the same unit) of the pairs of equal parity, r of all pairs, and "
        "how often the image that is nearest by the reference is among the "
        f"{AMONG} nearest by the features. "
        "First as the features are, then after a linear map to the reference's coordinates, fitted "
        "on known images by least squares: as a second head predicts them. (Such a map shortens "
        "what it cannot predict, so its stress says how much that is.) *shifts*: the least "
        f"distance when one image may be moved by up to {MOST} pixels in "
        "each direction; it has no coordinates, so for head and map "
        f"{distances.DIMENSIONS} were made by multidimensional scaling. Mean ± "
        "standard deviation over seeds.",
    ]
    for reference, trials in COMPARED.items():
        names = [name for name in (PLAIN, *trials, *UNTRAINED) if name in measured]
        rows = {name: measured[name] for name in names}
        parts += [f"## {reference.capitalize()}", table("training", rows, _columns(reference))]
    return page(
        *parts,
        "## Strengths, chosen on validation images",
        "One seed. Chosen: the best r of pairs of equal parity, plain or mapped, among those whose "
        f"coarse accuracy is at most {100 * SLACK:g} points below that of cross-entropy; if there "
        "are none, the most accurate.",
        tries_table(tried, chosen, _TRIED, reference=distances.reference_of),
    )


def _columns(reference: str) -> list[Column]:
    def mapped(figure: str) -> Callable[[Figures], float | None]:
        return lambda f: None if "unmapped" in f else f[reference][f"fitted {figure}"]

    columns = _COLUMNS.items()
    plain = [Column(title, f"{reference}/{name}", digits) for name, (title, digits) in columns]
    plain += [
        Column(f"{title}, mapped", mapped(name), digits, empty="-")
        for name, (title, digits) in columns
    ]
    return [SEEDS, Column("coarse, %", "coarse", empty="-"), *plain]


STUDY = Study(
    "structure-distances",
    settings,
    distances.keys,
    distances.measure,
    tables,
    draw_distances,
    shows="whether distances of features mean something",
    time="an hour on one core",
    data="MNIST",
    seeds=5,
    determines=distances.determines,
    uses=Uses((FIVE_SIXTHS,), (SIXTH,), (rows("MNIST test", 0, 10_000, step=5),)),
    entries=distances.CHOICE.entries,
)
