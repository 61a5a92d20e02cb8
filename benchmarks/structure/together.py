"""Is there one training that has both: the head's probes, and isometry's distances?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.images import Uses, everything
from benchmarks.probes import knn_accuracy
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.structure.agreement import agreement
from benchmarks.structure.data import Data
from benchmarks.structure.evaluation import coarse_accuracy, features_of, few_shot, freeze
from benchmarks.structure.fairness import controls, entries_of_runs
from benchmarks.structure.report import over_seeds
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.small import FEW, ON_DIGITS, small_digits
from benchmarks.structure.training import (
    SLACK,
    chosen_strengths,
    determined_by,
    train,
    tries,
    try_keys,
)
from benchmarks.structure.trials import MANIFOLD, PLAIN, Trial, isometry
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import SEEDS, Column, grouped, page, percent, table
from isoreg import references

_BETAS = (0.1, 0.5, 2.0, 8.0)
_HEAD = 0.1
"""Of the head beside isometry: what `structure --part search` chose for the head alone."""
SCORE = "both"
"""By which strengths are chosen: the probe of ten examples a class, and r."""

ALL: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry": isometry(_BETAS, reference=MANIFOLD),
    "control: shuffled": isometry(_BETAS, reference=MANIFOLD, shuffled=True),
    "head": Trial("second-head", (0.02, 0.1, 0.5, 2.0), reference=MANIFOLD),
    "both, the head's weight falls to 0": Trial(
        "isometry-and-head", _BETAS, reference=MANIFOLD, options={"head": _HEAD, "until": 0.7}
    ),
    "both, the head's weight stays": Trial(
        "isometry-and-head", _BETAS, reference=MANIFOLD, options={"head": _HEAD, "until": None}
    ),
}

WITHOUT = {name: "isometry and head alone are" for name in ALL if name.startswith("both")}


@dataclass(frozen=True)
class Asked:
    """Samples, and the distances of those that are measured on, by the manifold."""

    data: Data
    distances: Tensor


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every strength on validation images, then the chosen ones on test images."""
    yield from try_keys(ALL, first=1 if lab.quick else None)
    chosen = chosen_by_both(lab.runs)
    for seed in range(lab.seeds):
        for name in ALL:
            yield {"method": name, "strength": chosen[name], "seed": seed}


def chosen_by_both(runs: list[Run]) -> dict[str, float]:
    """The strength of each training, by its tries among the runs."""
    return chosen_strengths(tries(runs), by=SCORE, controls=controls(ALL, WITHOUT))


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings and the trial."""
    return determined_by(ALL[key["method"]], settings)


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Probes and distances of one network."""
    validate = "seed" not in key
    seed, settings = key.get("seed", SEARCH_SEED), lab.settings
    ask = lab.once(f"{validate}", lambda: _asked(settings, validate=validate))
    if validate:
        fewer = tuple((n, min(draws, 5)) for n, draws in settings.examples if n <= 10)
        settings = replace(settings, examples=fewer)
    trial = ALL[key["method"]]
    model = train(ask.data, trial, strength=key["strength"], seed=seed, settings=settings)
    embed = features_of(model)
    frozen, features = freeze(embed, ask.data, settings), embed(ask.data.test.x)
    labels = ask.data.coarse(ask.data.test.fine)
    kept = agreement(ask.distances, torch.cdist(features, features), labels)
    shots = few_shot(frozen, settings)
    found: Figures = {
        "coarse": coarse_accuracy(model, ask.data),
        "few-shot": shots,
        "kNN": knn_accuracy(*frozen.known, *frozen.test),
        **kept,
    }
    if validate:
        found[SCORE] = mean(shots["10 a class"]["accuracy"]) + kept["r"]
    return found


def _asked(settings: Settings, *, validate: bool) -> Asked:
    """With ``validate`` no test image is read: halves of the validation images stand in."""
    data = small_digits(settings)
    x = data.train.x
    points = references.manifold(x, reference=references.patches(x, size=3))
    data = data.unseen() if validate else data
    placed = points(data.test.x)
    return Asked(data, torch.cdist(placed, placed))


def tables(found: Found) -> str:
    """What was measured on test images, then what strengths were chosen from."""
    tried, runs = tries(found["runs"]), [run for run in found["runs"] if "seed" in run["key"]]
    chosen = chosen_by_both(found["runs"])
    shots = [f"{examples} a class" for examples, _ in found["settings"]["examples"]]

    def column(shot: str) -> Column:
        return Column(shot, text=lambda f: percent(over_seeds(f, shot)))

    kept = [Column("r", "r", 3), Column("stress, same unit", "stress", 3)]
    columns = [*map(column, shots), Column("5 neighbours", "kNN"), *kept]
    rows = {
        (run["key"]["method"], f"{run['key']['strength']:g}"): [
            run["figures"] | {"": "chosen" * (chosen[run["key"]["method"]] == _strength(run))}
        ]
        for run in tried
    }
    short = [column("10 a class"), *kept, Column("", text=lambda f: str(f[0][""]))]
    coarse = Column("coarse", "coarse")
    return page(
        "# One training that has both?",
        "Networks learn even or odd from scikit-learn's 1,077 training digits of 8 by 8 pixels; "
        "then the ten digits are read from their frozen last hidden layer, in %, and its distances "
        "are compared with those of the manifold of patches, over the pairs of equal parity of 360 "
        "test images (stress 0: the same distances in the same unit). *Both*: isometry, and beside "
        f"it a linear head that predicts the manifold's coordinates with weight {_HEAD:g}, which "
        "falls to 0 at 70 % of training or stays. Mean ± standard deviation over seeds.",
        table("training", grouped(runs, "method"), [SEEDS, coarse, *columns]),
        "## Strengths, chosen on validation images",
        "One seed. Chosen: the largest sum of the probe's accuracy from ten examples a class and r "
        f"among those whose coarse accuracy is at most {100 * SLACK:g} points below that of "
        "cross-entropy; if there are none, the most accurate.",
        table(("training", "strength"), rows, [coarse, *short]),
    )


def _strength(run: Run) -> float:
    return float(run["key"]["strength"])


def draw(found: Found, path: Path) -> None:
    """Probe over r, a point a training."""
    from benchmarks.style import COLOURS, new_figure, plain, save

    figure = new_figure(6, 4)
    axis = figure.subplots()
    runs = [run for run in found["runs"] if "seed" in run["key"]]
    for place, (name, figures) in enumerate(grouped(runs, "method").items()):
        x = [f["r"] for f in figures]
        y = [100 * mean(f["few-shot"]["10 a class"]["accuracy"]) for f in figures]
        axis.plot(x, y, "o", color=COLOURS[place], label=name)
    axis.set(xlabel="r of distances within even and odd", ylabel="ten digits, 10 a class, %")
    axis.legend(fontsize=8)
    plain(axis)
    save(figure, path)


STUDY = Study(
    "structure-together",
    quickly(replace(ON_DIGITS, examples=((1, 20), (10, 10))), epochs=1, **FEW),
    keys,
    measure,
    tables,
    draw,
    shows="whether isometry and a second head together have what each has alone",
    time="a quarter of an hour on one core",
    seeds=3,
    determines=determines,
    uses=Uses(*((everything(f"digits {part}"),) for part in ("train", "validation", "test"))),
    entries=lambda found: entries_of_runs(
        ALL, tries(found["runs"]), chosen_by_both(found["runs"]), WITHOUT
    ),
    without_raw="they stand in structure-recipe",
)
