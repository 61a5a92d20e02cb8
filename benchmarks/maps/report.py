"""The tables of maps."""

from __future__ import annotations

from benchmarks.maps.all_samples import NAME
from benchmarks.maps.methods import METHODS
from benchmarks.results import Found, Run
from benchmarks.tables import Column, count, grouped, page, seeds_of, table, with_keys

_COLUMNS = (
    Column("kNN %", "kNN"),
    Column("r within classes", "r within", 2),
    Column("stress within", "stress within", 2),
    Column("r, all pairs", "r", 2),
    Column("stress, all", "stress", 2),
    Column("trustworthiness", "trustworthiness", 2),
    Column("fit, s", "fit", 2),
    Column("1,000 new, s", "place", 2),
    Column("tries", text=lambda found: str(len(found[0]["tries"]))),
)
_ALL = (Column("stress, all", "stress", 3), Column("r, all pairs", "r", 3), _COLUMNS[6])


def tables(found: Found) -> str:
    """A table for each data set, and one over all of them."""
    order = list(METHODS)

    def place(run: Run) -> int:
        method = run["key"]["method"]
        return order.index(method) if method in order else -1

    runs = sorted(found["runs"], key=place)
    sorted_runs: Found = {**found, "runs": runs}
    sets = list(dict.fromkeys(run["key"]["data"] for run in found["runs"]))
    parts = [
        f"## {name[0].upper()}{name[1:]}\n\n"
        + table(
            "method",
            grouped(with_keys(sorted_runs, data=name), "method"),
            _ALL if name == NAME else _COLUMNS,
        )
        for name in sets
    ]
    return page(
        "# What maps keep",
        "Held-out samples on maps of two dimensions, mean ± standard deviation over "
        f"{count(seeds_of(found), 'split')} (60 % learned from, 20 % to choose settings on, 20 % "
        "reported). kNN: classes of new samples by their five nearest known ones on the map. r: "
        "Pearson's, of distances of pairs in the data and on the map; stress: Kruskal's, at each "
        "map's best scale. Tries: settings of which the best kNN + r within classes on validation "
        "samples was taken; isometry runs with its one default, which was chosen on the validation "
        "samples of two of the splits, so that some of the samples reported for another split "
        "took part. Seconds are those of one processor core. Parametric UMAP is not among them: "
        "it needs TensorFlow, which crashes in one process with this PyTorch.",
        *parts,
    )
