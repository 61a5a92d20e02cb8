"""How well encoders stand in for an expensive distance, and what a query costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoders import data
from benchmarks.encoders.data import Objects
from benchmarks.encoders.evaluation import AGAIN, NEAREST, agreement, costs, new_objects, search
from benchmarks.encoders.training import LOSSES, coordinates, scaled, train
from benchmarks.networks import in_parts
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.structure.settings import SEARCH_SEED
from benchmarks.study import Lab, Study, quickly
from benchmarks.style import COLOURS, deviation, new_figure, plain, save
from benchmarks.tables import SEEDS, Column, grouped, page, table, with_keys

EVERY = ", every word"
"""Suffix of trainings that also use the words for which a table of all distances has no room."""
DISTURBED = ", disturbed"
"""Suffix of trainings on noisy objects; distances are of these, coordinates of the clean ones."""
NOISES = {"series, DTW": (0.05, 0.1, 0.2), "digits, Wasserstein": (0.15, 0.3, 0.6)}
"""Strengths to try: standard deviation of noise, in that of the series, and of log ink."""
ITSELF, CEILING, COST = "distance of the inputs", "MDS of the new objects", "cost"


@dataclass(frozen=True)
class Task:
    """A distance and how encoders for it are trained.

    Attributes:
        load: Makes the `Objects` from a folder and the largest number of objects.
        dimensions: Number of dimensions of the points.
        passes: Number of objects that pass through the network in a training.
        tried: The same number where a training only tries settings on validation objects.
    """

    load: Callable[[Path, int], Objects]
    dimensions: int
    passes: int = 100_000
    tried: int = 50_000


TASKS: dict[str, Task] = {
    "words, Levenshtein": Task(data.words, 64, 400_000, 200_000),
    "series, DTW": Task(data.series, 32, 200_000, 100_000),
    "digits, Wasserstein": Task(data.digits, 32),
}


@dataclass(frozen=True)
class Settings:
    """What determines the figures.

    Attributes:
        most: Largest number of objects of a kind.
        size: Batch size.
        tries: Pairs of optimizer and largest learning rate, from which each method's is chosen.
        share: Share of a task's passes that is made.
        seconds: Least time that measuring a cost takes.
    """

    most: int = 17_000
    size: int = 64
    tries: tuple[tuple[str, float], ...] = (("adam", 3e-3), ("muon", 2e-3), ("muon", 6e-3))
    share: float = 1.0
    seconds: float = 3.0


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """For each distance: tries, rows without training, chosen settings on all seeds, the cost."""
    for name in TASKS:
        bases = ("all pairs (isometry)", "both, annealed") if name.startswith("words") else ()
        for method in (*LOSSES, *(base + EVERY for base in bases)):
            for optimizer, rate in lab.settings.tries:
                yield {"distance": name, "method": method, "optimizer": optimizer, "rate": rate}
        best = chosen([run for run in lab.runs if run["key"]["distance"] == name])
        if not best:  # a package is missing, so nothing was tried
            continue
        for base in ("all pairs (isometry)", "random pairs", "regression on MDS"):
            for noise in NOISES.get(name, ()):
                yield {"distance": name, "method": base + DISTURBED, **best[base], "noise": noise}
        best = chosen([run for run in lab.runs if run["key"]["distance"] == name])
        for method in (ITSELF, CEILING):
            yield {"distance": name, "method": method, "seed": 0}
        for seed in range(lab.seeds):
            for method, how in best.items():
                yield {"distance": name, "method": method, **how, "seed": seed}
        yield {"distance": name, "method": COST, **best["both, annealed"], "seed": 0}


def chosen(runs: list[Run]) -> dict[str, Key]:
    """For each method the optimizer, rate and noise with the least RMSE on validation objects."""
    best: dict[str, tuple[float, Key]] = {}
    for run in runs:
        key, error = run["key"], run["figures"].get("RMSE")
        if "seed" not in key and (key["method"] not in best or error < best[key["method"]][0]):
            how = {name: key[name] for name in ("optimizer", "rate", "noise") if name in key}
            best[key["method"]] = (error, how)
    return {method: key for method, (_, key) in best.items()}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings except ``tries``, and the distance's task."""
    task = asdict(TASKS[key["distance"]]) | {"load": TASKS[key["distance"]].load.__name__}
    timing = {"seconds": settings.seconds} if key["method"] == COST else {}
    return {"most": settings.most, "size": settings.size, "share": settings.share} | task | timing


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """The figures of an encoder, of a row without training, or of what a query costs."""
    name, task = key["distance"], TASKS[key["distance"]]
    objects = lab.once(name, lambda: task.load(lab.cache, lab.settings.most))
    exact = objects.distances(objects.test, objects.test)
    if key["method"] in {ITSELF, CEILING}:
        x = objects.x[objects.test].flatten(1)
        points = scaled(exact, task.dimensions) if key["method"] == CEILING else x
        distances = torch.cdist(points, points)
        fitted = (exact * distances).sum() / distances.square().sum()
        return dict(agreement(exact, distances * (fitted if key["method"] == ITSELF else 1)))
    path = lab.cache / f"places-{task.load.__name__}-{len(objects.train)}-{task.dimensions}.pt"
    places = lab.once(f"places {name}", lambda: coordinates(objects, task.dimensions, path))
    trying = "seed" not in key
    every, begin = key["method"].endswith(EVERY), time.process_time()
    base = key["method"].removesuffix(EVERY).removesuffix(DISTURBED)
    base = "both, annealed" if base == COST else base
    model = train(
        objects,
        LOSSES[base],
        places,
        passes=int((task.tried if trying else task.passes) * lab.settings.share),
        size=min(lab.settings.size, len(objects.train)),
        optimizer=key["optimizer"],
        rate=key["rate"],
        seed=SEARCH_SEED if trying else key["seed"],
        every=every,
        noise=key.get("noise", 0.0),
        tick=lab.tick,
    )
    seconds = time.process_time() - begin

    encode = partial(in_parts, model)
    if key["method"] == COST:
        return dict(costs(encode, objects, seconds=lab.settings.seconds))
    rows = objects.validation if trying else objects.test
    figures: Figures = {"seconds": seconds, **new_objects(encode, objects, rows)}
    return figures if trying else figures | search(encode, objects)


_COLUMNS = (
    Column("RMSE / mean distance", "RMSE", 3),
    Column("r", "r", 3),
    Column(f"{NEAREST} nearest, %", "overlap"),
)
_SEARCH = (
    Column(f"found among {NEAREST}, %", f"recall {NEAREST}", empty="-"),
    Column(f"among {AGAIN}, %", f"recall {AGAIN}", empty="-"),
)


def _in_order(results: Found) -> Found:
    """The same results with the distances in the order of `TASKS`, not in that of the runs."""
    order = [*TASKS]
    runs = sorted(results["runs"], key=lambda run: order.index(run["key"]["distance"]))
    return {**results, "runs": runs}


def tables(results: Found) -> str:
    """The page: a table for each distance, one of costs and one of tries."""
    results = _in_order(results)
    parts = [
        "# Networks that stand in for a distance",
        "Encoders are trained so that the distances of their points are those of words "
        "(Levenshtein, 64 dimensions), of series (root of DTW, 32) and of digits (Wasserstein, "
        f"32), in batches of {results['settings']['size']} with equal numbers of objects that pass "
        "through the network. *Regression on MDS*: towards coordinates by metric multidimensional "
        "scaling, which takes the table of all distances. *Disturbed*: trained on objects with "
        "noise (added to series, multiplied with ink), whose distances are computed in each step; "
        "the regression goes towards coordinates of the objects without noise. *Both, annealed*: "
        "all pairs, and the regression with a weight that falls from 1 to 0. New objects; mean "
        "± standard deviation over seeds. "
        f"{NEAREST} nearest: of each new object among the new ones; found: of each new object "
        "among all training objects, by a search on the points, among as many or a hundred "
        "candidates. The rows with one seed need no training: the inputs' own distance at its best "
        "scale, and multidimensional scaling of the new objects' own distances, which is about "
        "what so many dimensions can hold.",
    ]
    for name in dict.fromkeys(run["key"]["distance"] for run in results["runs"]):
        runs = with_keys(results, distance=name)
        measured = [run for run in runs if "seed" in run["key"] and run["key"]["method"] != COST]
        parts += [f"## {name[0].upper()}{name[1:]}"]
        parts += [table("training", grouped(measured, "method"), [SEEDS, *_COLUMNS, *_SEARCH])]
    priced = grouped(with_keys(results, method=COST), "distance")
    tried = [run for run in results["runs"] if "seed" not in run["key"]]
    names = ("distance", "method", "optimizer", "rate", "noise")
    rows = grouped(tried, lambda run: tuple(run["key"].get(name, "-") for name in names))
    return page(
        *parts,
        *_cost_parts(priced),
        "## Optimizers and rates, chosen on validation objects",
        "One seed, half of the passes. Chosen: the least error.",
        table(names, rows, [*_COLUMNS]),
    )


def _cost_parts(priced: dict[str, list[Figures]]) -> list[str]:
    calls = ("the distance", "one pass", "passes together", "search")
    columns = [Column(f"{call}, us", lambda f, call=call: 1e6 * f[call], 0) for call in calls]  # type: ignore[misc]
    ratio = Column("search: times faster", lambda f: f["the distance"] / f["search"], 2)
    by = Column("search by", text=lambda figures: figures[0]["by"])
    return [
        "## What a query costs",
        "Microseconds a new object on one thread, medians of calls in turn in one process: its "
        "distances to a thousand known objects, computed; by one pass and the points of the known; "
        "the same for fifty new ones together; and its ten nearest, put in order by the distance "
        f"itself among {AGAIN} candidates of a search on the points.",
        table("distance", priced, [*columns, ratio, by]),
    ] * bool(priced)


def draw(results: Found, path: Path) -> None:
    """Draw a panel for each distance: neighbours over error, with bars of a standard deviation."""
    results = _in_order(results)
    names = list(dict.fromkeys(run["key"]["distance"] for run in results["runs"]))
    figure = new_figure(4.2 * max(1, len(names)), 3.9)
    for axis, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names):  # noqa: B905
        runs = with_keys(results, distance=name)
        trained = grouped((r for r in runs if "recall 10" in r["figures"]), "method")
        for place, (method, figures) in enumerate(trained.items()):
            x, y = ([100 * f[quantity] for f in figures] for quantity in ("RMSE", "overlap"))
            centre = (sum(x) / len(x), sum(y) / len(y))
            look = {
                "fmt": "o",
                "capsize": 2,
                "color": COLOURS[place % len(COLOURS)],
                "label": method,
            }
            axis.errorbar(*centre, deviation(y), deviation(x), **look)
        axis.set(title=name, xlabel="RMSE, % of the mean distance", ylabel="10 nearest, %")
        plain(axis)
        if trained:
            axis.legend(fontsize=7)
    save(figure, path)


STUDY = Study(
    "encoders",
    quickly(Settings(), most=340, tries=(("adam", 3e-3),), share=0.01, seconds=0.01),
    keys,
    measure,
    tables,
    draw,
    shows="networks that stand in for Levenshtein's distance, time warping and transport",
    time="an hour and a half on one core",
    seeds=3,
    determines=determines,
    without_control="the rivals learn the same distances; exchanged ones are noise to all of them",
)
