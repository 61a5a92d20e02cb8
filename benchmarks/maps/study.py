"""`python -m benchmarks maps`: what each map keeps, measured on the test samples of each split."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.claims import Entry
from benchmarks.images import Part, Uses, rows
from benchmarks.maps.data import ALL, DATA, MNIST, Parts, all_of_mnist, parts_of
from benchmarks.maps.methods import (
    CONTROL,
    METHODS,
    OURS,
    OURS_WITHOUT,
    Fitted,
    Method,
    Place,
)
from benchmarks.maps.pictures import draw
from benchmarks.maps.report import tables
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import even_rows
from benchmarks.study import Lab, Study
from benchmarks.tables import with_keys
from isoreg.diagnostics import distortion

Array = NDArray[Any]
_NEIGHBOURS, _NEW, _PICTURED = 5, 1000, 500
_CHOSEN_BY = ("kNN", "r within")
_SPLITS = {"digits": 3, MNIST: 3}
"""Largest number of splits for sets of over a thousand samples, where one sample weighs little."""


@dataclass(frozen=True)
class Settings:
    """What determines the figures.

    Attributes:
        sets: Names of the data sets.
        methods: Names of the methods.
        known: Largest number of samples to learn from; None: all of the part for it.
        neighbours: Number of neighbours for accuracy and trustworthiness.
        all_samples: Whether to map all of MNIST as well.
    """

    sets: tuple[str, ...] = tuple(DATA)
    methods: tuple[str, ...] = tuple(METHODS)
    known: int | None = None
    neighbours: int = _NEIGHBOURS
    all_samples: bool = True


def settings(
    quick: bool, sets: Annotated[str, typer.Option(help="Data sets, by comma.")] = ""
) -> Settings:
    """The settings that the options of the command ask for."""
    chosen = tuple(dict.fromkeys(name.strip() for name in sets.split(","))) if sets else tuple(DATA)
    if unknown := set(chosen) - set(DATA):
        raise ValueError(f"--sets must be of {', '.join(DATA)}, got {', '.join(unknown)}")
    if quick:
        few = ("PCA", "LDA", OURS)
        return Settings(chosen if sets else ("wine",), few, known=60, all_samples=False)
    return replace(Settings(), sets=chosen, all_samples="MNIST" in chosen)


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every data set, split and method; then all of MNIST with settings chosen on its sample."""
    for data in lab.settings.sets:
        for split in range(min(lab.seeds, _SPLITS.get(data, lab.seeds))):
            for method in lab.settings.methods:
                if data not in METHODS[method].but:
                    yield {"data": data, "method": method, "seed": split}
    if lab.settings.all_samples:
        for run in with_keys({"runs": lab.runs}, data=MNIST, seed=0):
            method, chosen = run["key"]["method"], run["figures"]["chosen"]
            if ALL not in METHODS[method].but:
                yield {"data": ALL, "method": method, "setting": chosen, "seed": 0}


def entries(results: Found) -> dict[str, Entry]:
    """Our method and its control have one setting each; rivals need no control."""
    methods = dict.fromkeys(run["key"]["method"] for run in results["runs"])
    rows = {name: Entry() for name in methods}
    if OURS in rows:
        rows[OURS] = Entry(control=CONTROL)
    if OURS_WITHOUT in rows:
        rows[OURS_WITHOUT] = Entry(without="without classes there is none to exchange within")
    return rows


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The method's settings and version, but not which other methods and data sets are measured."""
    method = METHODS.get(key["method"])
    return {
        "known": settings.known,
        "neighbours": settings.neighbours,
        "grid": method.grid if method else (),
        "version": method.version if method else 0,
    }


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Fit every setting, choose on validation samples, report the chosen one on test samples."""
    method, seed, data = METHODS[key["method"]], key["seed"], key["data"]
    parts = lab.once(f"{data} {seed}", lambda: _parts(data, seed, lab))
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not lab.quick:
            lab.once(f"{key['method']}, compiled", lambda: _warm_up(method))
        if "setting" not in key:
            return _chosen(parts, method, seed, lab)
        setting = method.grid[key["setting"]]
        prepared = method.prepare(*parts.train)
        seconds, fitted = _timed(lambda: method.fit(*parts.train, seed, prepared, **setting))
        return {"fit": seconds, **_reported(fitted, parts, seed, lab)}


def _parts(data: str, split: int, lab: Lab[Settings]) -> Parts:
    if data == ALL:
        return all_of_mnist(lab.data_dir)
    parts = parts_of(lab.once(data, lambda: DATA[data](lab.data_dir)), split)
    x, y = parts.train
    return replace(parts, train=(x[: lab.settings.known], y[: lab.settings.known]))


def _warm_up(method: Method) -> None:
    """Fit the method on small data first, so that loading and compiling are not timed."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(120, 8)), np.arange(120) % 3
    _, place = method.fit(x, y, 0, method.prepare(x, y), **method.grid[0])
    place(x[:100])


def _chosen(parts: Parts, method: Method, seed: int, lab: Lab[Settings]) -> Figures:
    """Test figures of the setting with the best kNN accuracy plus r on validation samples."""
    prepare_seconds, prepared = _timed(lambda: method.prepare(*parts.train))
    tries: list[Figures] = []
    best: tuple[float, Fitted | None] = (-math.inf, None)
    for setting in method.grid:
        seconds, fitted = _timed(
            lambda s=setting: method.fit(*parts.train, seed, prepared, **s)  # type: ignore[misc]
        )
        tried = _figures(fitted, parts, parts.validation, lab.settings.neighbours)
        scores = {name: tried[name] for name in _CHOSEN_BY}
        value = sum(scores.values())
        tries.append({"setting": setting, "fit": prepare_seconds + seconds, **scores})
        if not math.isnan(value) and value > best[0]:
            best, chosen = (value, fitted), len(tries) - 1
        lab.tick()
    if best[1] is None:
        raise RuntimeError("no setting gave a map")
    figures = _reported(best[1], parts, seed, lab)
    return figures | {"fit": tries[chosen]["fit"], "chosen": chosen, "tries": tries}


def _reported(fitted: Fitted, parts: Parts, seed: int, lab: Lab[Settings]) -> Figures:
    """Figures on test samples, the seconds to place a thousand, and on seed 0 their points."""
    known, place = fitted
    figures = _figures(fitted, parts, parts.test, lab.settings.neighbours)
    figures["place"] = _seconds_to_place(place, parts.test[0])
    if seed == 0 and np.shape(known)[1] <= 2:
        figures["map"] = _map(place, parts)
    return figures


def _figures(
    fitted: Fitted, parts: Parts, samples: tuple[Array, Array], neighbours: int
) -> Figures:
    """How well a map keeps classes and distances of new samples, those of ``part``."""
    known, place = fitted
    points = np.asarray(place(samples[0]), dtype=np.float64)
    nearest = KNeighborsClassifier(neighbours).fit(known, parts.train[1])
    x, phi, y = (torch.as_tensor(np.asarray(values)) for values in (samples[0], points, samples[1]))
    within, everywhere = (distortion(x, phi, labels, scale="fit") for labels in (y, None))
    return {
        "kNN": float(nearest.score(points, samples[1])),
        "r within": within.correlation,
        "stress within": within.stress,
        "r": everywhere.correlation,
        "stress": everywhere.stress,
        "trustworthiness": float(trustworthiness(samples[0], points, n_neighbors=neighbours)),
    }


def _map(place: Place, parts: Parts) -> Figures:
    """Classes and points of some test samples in one text, to a thousandth of the map's size."""
    rows = even_rows(len(parts.test[0]), _PICTURED).numpy()
    points = np.asarray(place(parts.test[0][rows]), dtype=np.float64)
    shares = (points - points.min(0)) / (float(np.ptp(points, axis=0).max()) or 1.0)
    return {
        "samples": "; ".join(
            " ".join(f"{x:g}" for x in (label, *point))
            for label, point in zip(parts.test[1][rows], np.round(shares, 3), strict=True)
        ),
        "names": parts.names,
    }


def _seconds_to_place(place: Place, x: Array) -> float:
    """Processor seconds to place a thousand new samples."""
    rows = np.resize(x, (_NEW, x.shape[1])) + 1e-6 * np.random.default_rng(0).normal(
        size=(_NEW, x.shape[1])
    )
    return _timed(lambda: place(rows))[0]


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, which other processes do not change, and its result."""
    start = time.process_time()
    result = do()
    return time.process_time() - start, result


STUDY = Study(
    "maps",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="what maps keep of distances and classes, beside eleven rivals",
    time="hours on one core",
    data="MNIST",
    seeds=10,
    determines=determines,
    uses=Uses(
        (Part("60 % of each data set"),),
        (Part("20 % of each data set"),),
        (Part("other 20 % of each data set"), rows("MNIST test", 0, 10_000, step=5)),
    ),
    entries=entries,
)
