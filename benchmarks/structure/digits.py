"""Coarse to fine on MNIST: choose strengths on validation images, then measure on test images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.images import FIVE_SIXTHS, SIXTH, Part, Uses
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import evenly
from benchmarks.structure import data as samples
from benchmarks.structure import training
from benchmarks.structure.data import Data, manifold_of_patches
from benchmarks.structure.evaluation import Embed, fine_figures, pixels_of
from benchmarks.structure.fairness import Choice, entries
from benchmarks.structure.figure import draw_digits, draw_search
from benchmarks.structure.report import in_order, task_table, tries_table
from benchmarks.structure.settings import TASKS, Settings, settings
from benchmarks.structure.trials import FITTED, MANIFOLD, TRIALS, Trial
from benchmarks.study import Lab, Study
from benchmarks.tables import page
from isoreg import references

FIRST = (
    *("cross-entropy", "isometry, manifold", "control: manifold, shuffled"),
    *("manifold predicted by a head", "Jacobian", "isometry, pixels", "control: pixels, shuffled"),
)
"""Methods that are measured on all seeds before the others begin."""
WIDE = ("cross-entropy", "isometry, manifold", "control: manifold, shuffled")
DRAWN = (*WIDE, "isometry, pixels")
WIDTH = 300
"""`WIDE` is measured on the first task with so many units a layer too: what helped most."""
LONGER = 2
"""Then `WIDE` gets all that helped: so many times the epochs, moved images, a fitted scale."""
WITHOUT = {
    "isometry, patches": "a step between pixels and the manifold",
    "all pairs, manifold": "no gain over the pairs of a class is claimed",
}
UNTRAINED = ("raw pixels", "patches", MANIFOLD)
"""Rows to compare the features with; none of them sees a label.

An autoencoder sees none either, but from ten examples on it is no better than the pixels: its runs
are kept without code, as are those of a control at the strength that five neighbours would choose.
"""


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Rows without training, every method on every task, wider networks, and longer training."""
    for name in UNTRAINED:
        yield {"task": "none", "method": name, "seed": 0}
    rest = tuple(name for name in TRIALS if name not in FIRST)
    for task in lab.settings.tasks:
        for names in (FIRST, rest):
            for seed in range(lab.seeds):
                for name in names:
                    yield _key(task, name, seed)
    for longer in ({}, {"epochs": LONGER * lab.settings.epochs}):
        for seed in range(lab.seeds):
            for name in WIDE:
                yield {**_key(lab.settings.tasks[0], name, seed), "width": WIDTH, **longer}


def _key(task: str, name: str, seed: int) -> Key:
    return {"task": task, "method": name, "strength": TRIALS[name].strength, "seed": seed}


def trial_of(key: Key) -> Trial | None:
    """The trial of a run; None where nothing is trained."""
    fitted = FITTED if "epochs" in key else {}
    return fitted.get(key["method"], TRIALS.get(key["method"]))


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings except the tasks, and the trial."""
    return training.determined_by(trial_of(key), settings)


def run_key(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures of one network, or of an embedding that sees no label."""
    settings, seed = lab.settings, key["seed"]
    data = lab.once("test", lambda: _data(lab, validate=False))
    if key["task"] == "none":
        return fine_figures(_untrained(key["method"], data, settings), data, settings, seed=seed)
    trial, wide = trial_of(key), "width" in key
    assert trial is not None
    settings = replace(settings, width=key["width"]) if wide else settings
    if "epochs" in key:
        settings = replace(settings, epochs=key["epochs"], shift=1)
    first = (seed, key["task"]) == (0, next(iter(TASKS)))
    how = {"drawn": not wide and first and key["method"] in DRAWN, "strength": key["strength"]}
    task = replace(data, groups=TASKS[key["task"]])
    return training.measure(task, trial, seed=seed, settings=settings, **how)


def _data(lab: Lab[Settings], *, validate: bool) -> Data:
    return samples.digits(lab.settings, lab.data_dir, cache=lab.cache, validate=validate)


def _untrained(name: str, data: Data, settings: Settings) -> Embed:
    if name == "raw pixels":
        return pixels_of
    if name == "patches":
        return references.patches(evenly(data.train.x, settings.landmarks))
    return manifold_of_patches(data, settings)


def tables(results: Found) -> str:
    """The page: a table for each task, and one of the rows without labels."""
    results = in_order(results)
    settings = results["settings"]
    tasks = dict.fromkeys(run["key"]["task"] for run in results["runs"])
    parts = [
        "# Coarse to fine on MNIST",
        f"Networks (tanh, {settings['depth']} x {settings['width']}, {settings['epochs']} epochs, "
        f"{settings['train_images']:,} images) learn the coarse labels alone; then the ten digits "
        f"are read from the frozen last hidden layer. {settings['test_images']:,} test images, in "
        "%, mean ± standard deviation over seeds (over draws where there is one seed). "
        f"Neighbours and the full probe know {settings['known']:,} labelled digits; NMI: of the "
        "digits and ten clusters of k-means, x 100.",
    ]
    for task in sorted(tasks, key=lambda task: task == "none"):
        title = "Without labels" if task == "none" else f"Trained on {task}"
        parts += [f"## {title}", task_table(results, task)]
    return page(*parts)


DIGITS = Study(
    "structure-digits",
    settings,
    keys,
    run_key,
    tables,
    lambda results, path: draw_digits(in_order(results), path),
    shows="what features keep that labels throw away",
    time="2 hours on one core",
    data="MNIST",
    seeds=5,
    determines=determines,
    frozen=lambda key: key["method"] == "autoencoder" or "by" in key,
    uses=Uses((FIVE_SIXTHS,), (SIXTH,), (Part("MNIST test"),)),
    entries=lambda _: entries(TRIALS, WITHOUT),
)


def search(key: Key, lab: Lab[Settings]) -> Figures:
    """Try a strength with one seed, on validation images of the first task."""
    data = lab.once("validation", lambda: _data(lab, validate=True))
    how = {"strength": key["strength"], "settings": lab.settings}
    return training.measure_shortly(data, TRIALS[key["method"]], **how)


CHOICE = Choice(TRIALS, WITHOUT)


def search_tables(results: Found) -> str:
    """The page of all strengths that were tried on digits; the chosen ones are marked."""
    return page(
        "# Strengths, chosen on validation images",
        "Even or odd, one seed, in %. Chosen: the best probe of ten examples a digit among those "
        f"whose coarse accuracy is at most {100 * training.SLACK:g} points below that of "
        "cross-entropy.",
        tries_table(results["runs"], CHOICE.strengths(results["runs"])),
    )


SEARCH = Study(
    "structure-search",
    settings,
    lambda _: training.try_keys(TRIALS),
    search,
    search_tables,
    draw_search,
    shows="the strength of each method",
    time="half an hour on one core",
    data="MNIST",
    determines=determines,
    uses=Uses((FIVE_SIXTHS,), (SIXTH,)),
    entries=CHOICE.entries,
)
