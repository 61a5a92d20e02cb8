"""What else geometry might be good for, each measured with its control and reported as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import probes
from benchmarks.cache import computed_once
from benchmarks.claims import Entry
from benchmarks.images import FIVE_SIXTHS, SIXTH, Uses, everything
from benchmarks.networks import accuracy_of
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.sampling import evenly
from benchmarks.structure import data as samples
from benchmarks.structure import fairness
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import Embed, features_of, pixels_of
from benchmarks.structure.fairness import controls
from benchmarks.structure.figure import draw_neighbours
from benchmarks.structure.report import tries_table
from benchmarks.structure.settings import SEARCH_SEED, Settings, settings
from benchmarks.structure.training import (
    SLACK,
    chosen_strengths,
    determined_by,
    train,
    tries,
    widening,
)
from benchmarks.structure.trials import MANIFOLD, TRIALS
from benchmarks.study import Lab, Study
from benchmarks.tables import Column, grouped, markdown_table, page, with_keys
from isoreg import references

COMPARED = (
    "cross-entropy",
    "isometry, pixels",
    "control: pixels, shuffled",
    "isometry, manifold",
    "control: manifold, shuffled",
)
_TRIALS = {name: TRIALS[name] for name in COMPARED}
PIXELS = "raw pixels"
"""No network: what the features of networks have to be better than."""

QUESTION = "trained on 0 to 4"
"""What has strengths of its own. The runs of the other questions are kept, without their code.

They had the strengths that were chosen for even or odd, so nothing is claimed of them.
"""
RECALL = "unseen digits, recall at 1"
"""By which strengths are chosen, on validation images."""
GRID = (0.02, 0.1, 0.5, 2.0)
BEYOND = (8.0, 32.0)
"""Tried of all methods too, one after the other, while a choice lies at the upper end."""


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Strengths on validation images, then what is measured at the chosen ones, and pixels."""
    names = COMPARED[: 1 if lab.quick else None]
    for key in widening(names, GRID, BEYOND, lambda: _chosen(tries(lab.runs))):
        yield {"question": QUESTION, **key}
    chosen = _chosen(tries(lab.runs))
    for seed in range(lab.seeds):
        for name in names:
            key = {"question": QUESTION, "method": name, "strength": chosen[name]}
            yield {**key, "seed": seed}
    yield {"question": QUESTION, "method": PIXELS, "seed": 0}


def _chosen(tried: list[Run]) -> dict[str, float]:
    """The strength of each method by these runs on validation images."""
    return chosen_strengths(tried, by=RECALL, controls=controls(_TRIALS))


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings and the trial."""
    return determined_by(TRIALS.get(key["method"]), settings)


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Of a network trained on 0 to 4: retrieval of 5 to 9, and all ten after ten examples of each.

    Without a seed on validation images. `PIXELS` are their own features.
    """
    settings, validate = lab.settings, "seed" not in key
    data = lab.once(
        f"data {validate}",
        lambda: samples.digits(settings, lab.data_dir, cache=lab.cache, validate=validate),
    )
    known = _five_digits(data, settings, lab.cache)
    embed: Embed = pixels_of
    coarse = {}
    if key["method"] != PIXELS:
        how = {"strength": key["strength"], "seed": key.get("seed", SEARCH_SEED)}
        model = train(known, TRIALS[key["method"]], settings=settings, **how)
        old = data.test.take(data.test.fine < 5)
        embed, coarse = features_of(model), {"coarse": accuracy_of(model, old.x, old.fine)}
    new = data.test.take(data.test.fine >= 5)
    features = embed(new.x)
    _, order = probes.nearest(features, features, 2)
    recall = (new.fine[order[:, 1]] == new.fine).float().mean().item()  # the first is itself
    ten = _ten_by_examples(embed, data, known.train.take(slice(settings.known)), settings)
    return {**coarse, RECALL: recall, _ALL_TEN: ten}


def _ten_by_examples(embed: Embed, data: Data, known: Split, settings: Settings) -> float:
    """Accuracy of five neighbours among ten examples of each digit, the mean of five draws."""
    test = embed(data.test.x)
    later = data.train.take(slice(settings.known))
    later = later.take(later.fine >= 5)
    accuracies = []
    for draw in range(5):
        chosen = [
            split.take(probes.examples_of_each(split.fine, 10, seed=draw))
            for split in (known, later)
        ]
        memory = embed(torch.cat([split.x for split in chosen]))
        labels = torch.cat([split.fine for split in chosen])
        accuracies.append(probes.knn_accuracy(memory, labels, test, data.test.fine))
    return sum(accuracies) / len(accuracies)


def _five_digits(data: Data, settings: Settings, cache: Path) -> Data:
    """The training samples of 0 to 4 alone, their references too."""
    rows = (data.train.fine < 5).nonzero()[:, 0]
    tables = {name: table[rows] for name, table in data.references.items()}

    def manifold() -> Tensor:
        patches = tables["patches"]
        return references.manifold(evenly(patches, settings.landmarks))(patches)

    tables[MANIFOLD] = computed_once(cache / f"manifold-5-digits-{len(rows)}.pt", manifold)
    groups = [[digit] for digit in range(5)]
    return replace(data, train=data.train.take(rows), groups=groups, references=tables)


def tables(found: Found) -> str:
    """A Markdown table for each network that was trained, one column a method."""
    parts = [
        "# What else geometry might be good for",
        "Test digits, in % (AUROC and calibration error x 100), mean ± standard deviation over "
        "seeds. Strengths are those that were chosen for even or odd, but where a question has "
        "chosen its own.",
    ]
    measured = _measured(found)
    for question in dict.fromkeys(run["key"]["question"] for run in measured["runs"]):
        runs = grouped(with_keys(measured, question=question), "method")
        by_method = {name: runs[name] for name in (*COMPARED, PIXELS) if name in runs}
        columns = [Column(f, f, empty="-") for f in next(iter(by_method.values()))[0]]
        rows = [[c.title, *map(c.cell, by_method.values())] for c in columns]
        parts += [f"## {question.capitalize()}", markdown_table(["", *by_method], rows)]
    tried = tries(found["runs"])
    return page(
        *parts,
        f"## {QUESTION.capitalize()}: strengths, chosen on validation images",
        f"One seed, in %. Chosen: the best *{RECALL}* among those whose accuracy on the digits "
        f"that were trained is at most {100 * SLACK:g} points below that of cross-entropy.",
        tries_table(tried, _chosen(tried), _TRIED),
    )


def entries(found: Found) -> dict[str, Entry]:
    """Of the question with strengths of its own, and of the others."""
    rows, tried = fairness.entries(_TRIALS), tries(found["runs"])
    for name, entry in fairness.entries_of_runs(_TRIALS, tried, _chosen(tried)).items():
        control = f"{entry.control}, {QUESTION}" if entry.control else ""
        rows[f"{name}, {QUESTION}"] = replace(entry, control=control)
    return rows


def draw(found: Found, path: Path) -> None:
    """The figure, of what was measured."""
    draw_neighbours(_measured(found), path)


def _measured(found: Found) -> Found:
    return {**found, "runs": [run for run in found["runs"] if "seed" in run["key"]]}


_ALL_TEN = "all ten digits, 5 neighbours among ten examples each"
_TRIED = (
    Column("trained digits", "coarse"),
    Column(RECALL, RECALL),
    Column(_ALL_TEN, _ALL_TEN),
)


STUDY = Study(
    "structure-neighbours",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="what else geometry might do: unseen digits",
    time="an hour on one core",
    data="MNIST",
    seeds=3,
    determines=determines,
    frozen=lambda key: key["question"] != QUESTION,
    uses=Uses((FIVE_SIXTHS,), (SIXTH,), (everything("MNIST test"),)),
    entries=entries,
)
