"""Tables and figure of `benchmarks.structure.together`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from benchmarks.results import Found, Run
from benchmarks.structure.report import over_seeds, tries_table
from benchmarks.structure.training import tries
from benchmarks.style import COLOURS, new_figure, plain, save
from benchmarks.tables import SEEDS, Column, grouped, page, percent, table


def tables(
    results: Found,
    *,
    told: str,
    head: float,
    slack: float,
    choose: Callable[[list[Run]], dict[str, float]],
) -> str:
    """The page: figures on test images, then the tries from which strengths were chosen."""
    tried, runs = tries(results["runs"]), [run for run in results["runs"] if "seed" in run["key"]]
    shots = [f"{examples} a class" for examples, _ in results["settings"]["examples"]]

    def column(shot: str) -> Column:
        return Column(shot, text=lambda f: percent(over_seeds(f, shot)))

    of_distances = [Column("r", "r", 3), Column("stress, same unit", "stress", 3)]
    columns = [*map(column, shots), Column("5 neighbours", "kNN"), *of_distances]
    coarse = Column("coarse", "coarse")
    return page(
        "# One training that has both?",
        f"{told} Stress 0: the same distances in the same unit. *Both*: isometry, and beside it a "
        f"linear head that predicts the reference's coordinates with weight {head:g}, which falls "
        "to 0 at 70 % of training or stays. Mean ± standard deviation over seeds.",
        table("training", grouped(runs, "method"), [SEEDS, coarse, *columns]),
        "## Strengths, chosen on validation images",
        "One seed. Chosen: the largest sum of the probe's accuracy from ten examples a "
        f"class and r among those whose coarse accuracy is at most {100 * slack:g} points below "
        "that of cross-entropy; if there are none, the most accurate.",
        tries_table(tried, choose(tried), [coarse, column("10 a class"), *of_distances]),
    )


def draw(results: Found, path: Path) -> None:
    """Draw the probe's accuracy over r, with a point for each trained network."""
    figure = new_figure(6, 4)
    axis = figure.subplots()
    runs = [run for run in results["runs"] if "seed" in run["key"]]
    for place, (name, figures) in enumerate(grouped(runs, "method").items()):
        x = [f["r"] for f in figures]
        y = [100 * mean(f["few-shot"]["10 a class"]["accuracy"]) for f in figures]
        axis.plot(x, y, "o", color=COLOURS[place], label=name)
    axis.set(xlabel="r of distances of equal label", ylabel="ten classes, 10 a class, %")
    axis.legend(fontsize=8)
    plain(axis)
    save(figure, path)
