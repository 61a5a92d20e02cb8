"""What else geometry might be good for, each measured with its control and reported as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks import probes
from benchmarks.cache import computed_once
from benchmarks.claims import Entry
from benchmarks.images import FIVE_SIXTHS, SIXTH, Uses, everything
from benchmarks.networks import accuracy_of, in_parts
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.sampling import evenly
from benchmarks.structure import data as samples
from benchmarks.structure import fairness
from benchmarks.structure.corruptions import CORRUPTIONS, STRENGTHS, blocks_shuffled, corrupted
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import features_of, pixels_of
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

TUNED = {"trained on 0 to 4": "unseen digits, recall at 1"}
"""Questions with strengths of their own: by what they are chosen, on validation images.

The others have the strengths that were chosen for even or odd, so nothing is claimed of them.
"""
GRID = (0.02, 0.1, 0.5, 2.0)
BEYOND = (8.0, 32.0)
"""Tried of all methods too, one after the other, while a choice lies at the upper end."""

_BINS = 15


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every question, for the networks of `COMPARED`, then for pixels where that makes sense."""
    names = COMPARED[: 1 if lab.quick else None]
    chosen: dict[str, dict[str, float]] = {}
    for question, figure in TUNED.items():
        for key in widening(names, GRID, BEYOND, lambda q=question, f=figure: _choice(lab, q, f)):  # type: ignore[misc]
            yield {"question": question, **key}
        chosen[question] = _choice(lab, question, figure)
    for seed in range(lab.seeds):
        for question in QUESTIONS:
            strengths = chosen.get(question) or {name: TRIALS[name].strength for name in names}
            for name in names:
                strength = strengths[name]
                yield {"question": question, "method": name, "strength": strength, "seed": seed}
    for question, ask in QUESTIONS.items():
        if ask in (eight_digits, five_digits):
            yield {"question": question, "method": PIXELS, "seed": 0}


def _choice(lab: Lab[Settings], question: str, figure: str) -> dict[str, float]:
    """The strength of each method for a question, by the runs on validation images so far."""
    tried = [run for run in tries(lab.runs) if run["key"]["question"] == question]
    return _chosen(tried, figure)


def _chosen(tried: list[Run], figure: str) -> dict[str, float]:
    return chosen_strengths(tried, by=figure, controls=controls(_TRIALS))


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings and the trial."""
    return determined_by(TRIALS.get(key["method"]), settings)


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Ask one question of one network; of one without a seed, on validation images."""
    settings, validate = lab.settings, "seed" not in key
    data = lab.once(
        f"data {validate}",
        lambda: samples.digits(settings, lab.data_dir, cache=lab.cache, validate=validate),
    )
    how = Trained(key.get("seed", SEARCH_SEED), key.get("strength", 0.0), settings, lab.cache)
    return QUESTIONS[key["question"]](key["method"], data, how)


@dataclass(frozen=True)
class Trained:
    """How the network of a run is trained."""

    seed: int
    strength: float
    settings: Settings
    cache: Path


def eight_digits(name: str, data: Data, how: Trained) -> Figures:
    """Trained on 0 to 7: are 8 and 9, or shuffled blocks of images, seen to be something else?"""
    model, known = _trained_on(range(8), name, data, how)
    embed = _embedding(model)
    seen = data.test.take(data.test.fine < 8)
    features = embed(known.x)
    strange = {
        "digits 8 and 9": data.test.take(data.test.fine >= 8).x,
        "blocks shuffled": blocks_shuffled(seen.x, seed=0),
    }
    found = {}
    for what, x in strange.items():
        both = torch.cat([seen.x, x])
        is_strange = torch.cat([torch.zeros(len(seen.x)), torch.ones(len(x))])
        distance, _ = probes.nearest(features, embed(both), probes.NEIGHBORS)
        found[f"{what}, AUROC by distance"] = float(roc_auc_score(is_strange, distance[:, -1]))
        if model is not None:
            confidence = in_parts(model, both).softmax(1).amax(1)
            found[f"{what}, AUROC by softmax"] = float(roc_auc_score(is_strange, -confidence))
    return found


def five_digits(name: str, data: Data, how: Trained) -> Figures:
    """Trained on 0 to 4: retrieval of 5 to 9, and all ten after ten examples of each new one."""
    model, known = _trained_on(range(5), name, data, how)
    embed = _embedding(model)
    new = data.test.take(data.test.fine >= 5)
    features = embed(new.x)
    _, order = probes.nearest(features, features, 2)
    recall = (new.fine[order[:, 1]] == new.fine).float().mean().item()  # the first is itself
    test = embed(data.test.x)
    later = data.train.take(slice(how.settings.known))
    later = later.take(later.fine >= 5)
    accuracies = []
    for draw in range(5):
        chosen = [
            known.take(probes.examples_of_each(known.fine, 10, seed=draw)),
            later.take(probes.examples_of_each(later.fine, 10, seed=draw)),
        ]
        memory = embed(torch.cat([split.x for split in chosen]))
        labels = torch.cat([split.fine for split in chosen])
        accuracies.append(probes.knn_accuracy(memory, labels, test, data.test.fine))
    old = data.test.take(data.test.fine < 5)
    return {
        **({"coarse": _accuracy(model, old)} if model is not None else {}),
        "unseen digits, recall at 1": recall,
        _ALL_TEN: sum(accuracies) / len(accuracies),
    }


def noisy_labels(share: float) -> Callable[..., Figures]:
    """Trained on ten digits of which a share has another, random label."""

    def ask(name: str, data: Data, how: Trained) -> Figures:
        generator = torch.Generator().manual_seed(how.seed)
        fine = data.train.fine
        flipped = torch.rand(len(fine), generator=generator) < share
        others = (fine + torch.randint(1, 10, fine.shape, generator=generator)) % 10
        noisy = Split(data.train.x, torch.where(flipped, others, fine))
        model = _train(name, replace(_ten(data), train=noisy), how)
        return {"accuracy": _accuracy(model, data.test)}

    return ask


def ten_digits(name: str, data: Data, how: Trained) -> Figures:
    """Trained on ten digits: calibration, and accuracy on corrupted digits."""
    model = _train(name, _ten(data), how)
    logits = in_parts(model, data.test.x)
    found: Figures = {
        "accuracy": _accuracy(model, data.test),
        "calibration error": calibration_error(logits, data.test.fine),
    }
    for kind in CORRUPTIONS:
        changed = (corrupted(data.test.x, kind, strength) for strength in range(STRENGTHS))
        total = sum(_accuracy(model, Split(x, data.test.fine)) for x in changed)
        found[f"{kind}, mean accuracy over strengths"] = total / STRENGTHS
    return found


QUESTIONS: dict[str, Callable[..., Figures]] = {
    "trained on 0 to 7": eight_digits,
    "trained on 0 to 4": five_digits,
    "trained with 20 % wrong labels": noisy_labels(0.2),
    "trained with 40 % wrong labels": noisy_labels(0.4),
    "trained on ten digits": ten_digits,
}


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error: |confidence - accuracy| over 15 bins, weighted by their size."""
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).float()
    bins = (confidence * _BINS).long().clamp_max(_BINS - 1)
    gaps = F.one_hot(bins, _BINS).float().T @ (confidence - right)
    return (gaps.abs().sum() / len(labels)).item()


def _ten(data: Data) -> Data:
    return data.of_task([[digit] for digit in range(10)])


def _trained_on(
    digits: range, name: str, data: Data, how: Trained
) -> tuple[nn.Sequential | None, Split]:
    """A network that saw some digits alone, its references included; and what it knows.

    None for `PIXELS`.
    """
    rows = (data.train.fine < len(digits)).nonzero()[:, 0]
    train_split = data.train.take(rows)
    known = train_split.take(slice(how.settings.known))
    if name == PIXELS:
        return None, known
    tables = {key: table[rows] for key, table in data.references.items()}

    def manifold() -> Tensor:
        patches = tables["patches"]
        return references.manifold(evenly(patches, how.settings.landmarks))(patches)

    path = how.cache / f"manifold-{len(digits)}-digits-{len(rows)}.pt"
    tables[MANIFOLD] = computed_once(path, manifold)
    task = replace(data, train=train_split, groups=[[digit] for digit in digits], references=tables)
    return _train(name, task, how), known


def _embedding(model: nn.Sequential | None) -> Callable[[Tensor], Tensor]:
    """What enters the classifier; the pixels without a model."""
    return pixels_of if model is None else features_of(model)


def _train(name: str, data: Data, how: Trained) -> nn.Sequential:
    trial, settings = TRIALS[name], how.settings
    return train(data, trial, strength=how.strength, seed=how.seed, settings=settings)


def _accuracy(model: nn.Module, split: Split) -> float:
    return accuracy_of(model, split.x, split.fine)


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
    for question, figure in TUNED.items():
        tried = [run for run in tries(found["runs"]) if run["key"]["question"] == question]
        parts += [
            f"## {question.capitalize()}: strengths, chosen on validation images",
            f"One seed, in %. Chosen: the best *{figure}* among those whose accuracy on the digits "
            f"that were trained is at most {100 * SLACK:g} points below that of cross-entropy.",
            tries_table(tried, _chosen(tried, figure), _TRIED),
        ]
    return page(*parts)


def entries(found: Found) -> dict[str, Entry]:
    """Of the questions with strengths of their own, and of the others."""
    rows = fairness.entries(_TRIALS)
    for question, figure in TUNED.items():
        tried = [run for run in tries(found["runs"]) if run["key"]["question"] == question]
        own = fairness.entries_of_runs(_TRIALS, tried, _chosen(tried, figure))
        rows |= {f"{name}, {question}": _renamed(entry, question) for name, entry in own.items()}
    return rows


def _renamed(entry: Entry, question: str) -> Entry:
    return replace(entry, control=f"{entry.control}, {question}" if entry.control else "")


def draw(found: Found, path: Path) -> None:
    """The figure, of what was measured."""
    draw_neighbours(_measured(found), path)


def _measured(found: Found) -> Found:
    return {**found, "runs": [run for run in found["runs"] if "seed" in run["key"]]}


_ALL_TEN = "all ten digits, 5 neighbours among ten examples each"
_TRIED = (
    Column("trained digits", "coarse"),
    Column("unseen digits, recall at 1", "unseen digits, recall at 1"),
    Column(_ALL_TEN, _ALL_TEN),
)


STUDY = Study(
    "structure-neighbours",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="what else geometry might do",
    time="an hour on one core",
    data="MNIST",
    seeds=3,
    determines=determines,
    uses=Uses((FIVE_SIXTHS,), (SIXTH,), (everything("MNIST test"),)),
    entries=entries,
)
