"""Tables of the study of maps."""

from __future__ import annotations

from benchmarks.maps.data import ALL
from benchmarks.maps.methods import METHODS
from benchmarks.results import Figures, Found, Run
from benchmarks.tables import Column, count, grouped, page, seeds_of, table

_KEPT = (
    Column("kNN %", "kNN"),
    Column("r within classes", "r within", 2),
    Column("stress within", "stress within", 2),
    Column("r, all pairs", "r", 2),
    Column("stress, all", "stress", 2),
    Column("trustworthiness", "trustworthiness", 2),
)
_SECONDS = (Column("fit, s", "fit", 2), Column("1,000 new, s", "place", 2))
_TRIES = Column("tries", text=lambda figures: str(len(figures[0]["tries"])))
_MEANS = [Column(c.title, str(c.figure), form=f".{c.digits or 1}f") for c in _KEPT]


def tables(results: Found) -> str:
    """The page: a table for each data set, and one of means over all of them."""
    order = {name: place for place, name in enumerate(METHODS)}
    runs = sorted(results["runs"], key=lambda run: order.get(run["key"]["method"], -1))
    sets = dict.fromkeys(run["key"]["data"] for run in results["runs"])
    by_set = {name: [run for run in runs if run["key"]["data"] == name] for name in sets}
    return page(
        "# What maps keep",
        "Held-out samples on maps of two dimensions, mean ± standard deviation over splits: 60 "
        "% learned from, 20 % to choose settings on, 20 % reported. kNN: classes of new samples "
        "by their five nearest known ones on the map. r: Pearson's, of distances of pairs in "
        "the data and on the map; stress: Kruskal's, at each map's best scale. Tries: settings "
        "of which the best kNN + r within classes on validation samples was taken; isometry "
        "runs with its one default, which was chosen on the validation samples of the first two "
        "splits, so that some of the samples reported for the others took part; a faster one "
        "(AdamW, 128 units, 50 + n/2 steps) was reported before it and dropped for its kNN of "
        "tissues and cells. Seconds are those of one processor core. Parametric UMAP is not "
        "among them: it needs TensorFlow, which crashes in one process with this PyTorch.",
        *(_table_of(name, runs) for name, runs in by_set.items()),
        "## Over all data sets",
        f"Means over {len(by_set) - (ALL in by_set)} data sets, of each the mean over its splits; "
        f"without *{ALL}* and without what goes to some data sets only.",
        table("method", _over_sets(runs), _MEANS),
    )


def _table_of(name: str, runs: list[Run]) -> str:
    """The table of a data set; for all of MNIST also which methods are missing, and why."""
    title = f"## {name[0].upper()}{name[1:]}"
    if name != ALL:
        columns = (*_KEPT, *_SECONDS, _TRIES)
        splits = f"{count(seeds_of({'runs': runs}), 'split').capitalize()}."
        return page(title, splits, table("method", grouped(runs, "method"), columns))
    reasons = (
        f"{other} ({method.but[name]})" for other, method in METHODS.items() if name in method.but
    )
    return page(
        title,
        "Learned from 60,000 images, measured on 2,000 test images, one seed. Each method has the "
        "setting that was chosen on the validation samples of the sample of MNIST above. Not here: "
        f"{', '.join(reasons)}.",
        table("method", grouped(runs, "method"), (*_KEPT, *_SECONDS)),
    )


def _over_sets(runs: list[Run]) -> dict[str, list[Figures]]:
    """For each method that ran on all data sets, the means over splits, one entry for each set."""
    rows: dict[str, list[Figures]] = {}
    several = [run for run in runs if run["key"]["data"] != ALL]
    scales = {str(column.figure): 100 if column.digits is None else 1 for column in _KEPT}
    for (method, _), figures in grouped(several, ("method", "data")).items():
        means = {
            n: scale * sum(f[n] for f in figures) / len(figures) for n, scale in scales.items()
        }
        rows.setdefault(method, []).append(means)
    most = max(map(len, rows.values()), default=0)
    return {method: figures for method, figures in rows.items() if len(figures) == most}
