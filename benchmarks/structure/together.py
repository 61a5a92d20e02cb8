"""Does one training have both: the head's accuracy of probes, and isometry's distances?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.images import FIVE_SIXTHS, SIXTH, Part, Uses, rows
from benchmarks.probes import knn_accuracy
from benchmarks.results import Figures, Key
from benchmarks.structure import cifar
from benchmarks.structure import data as samples
from benchmarks.structure.agreement import agreement
from benchmarks.structure.data import Data
from benchmarks.structure.evaluation import coarse_accuracy, features_of, few_shot, freeze
from benchmarks.structure.fairness import Choice
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.small import FEW, ON_DIGITS, small_digits
from benchmarks.structure.together_report import draw, tables
from benchmarks.structure.training import (
    SLACK,
    Network,
    determined_by,
    mlp,
    train,
    try_keys,
)
from benchmarks.structure.trials import MANIFOLD, PLAIN, Trial, isometry
from benchmarks.structure.unlabelled import PATCHES, patches
from benchmarks.study import Lab, Study, quickly
from isoreg import references

HEAD = 0.1
"""Weight of the head beside isometry: for the head alone it was chosen on MNIST and photographs."""
SCORE = "both"
"""The figure by which strengths are chosen: accuracy from ten examples a class, plus r."""


def trials(reference: str, betas: tuple[float, ...]) -> dict[str, Trial]:
    """Cross-entropy, isometry, its control, a head, and both losses, with one reference."""

    def both_losses(until: float | None) -> Trial:
        return Trial("isometry-and-head", betas, 0.0, reference, {"head": HEAD, "until": until})

    return {
        "cross-entropy": PLAIN,
        "isometry": isometry(betas, reference=reference),
        "control: shuffled": isometry(betas, reference=reference, shuffled=True),
        "head": Trial("second-head", betas, reference=reference),
        "both, the head's weight falls to 0": both_losses(0.7),
        "both, the head's weight stays": both_losses(None),
    }


@dataclass(frozen=True)
class Comparison:
    """Samples, and the distances of the test samples by the reference."""

    data: Data
    distances: Tensor


@dataclass(frozen=True)
class Subject:
    """Data on which the question is asked.

    Attributes:
        settings: Settings of the experiment.
        quick: Changes of the settings for a run that only shows that the code works.
        trials: Ways to train, by name.
        load: Loads the samples; if its second argument is true, no test samples are used.
        network: Makes the network that is trained.
        slack: How much coarse accuracy a chosen strength may cost.
    """

    settings: Settings
    quick: dict[str, Any]
    trials: dict[str, Trial]
    load: Callable[[Lab[Settings], bool], Comparison]
    network: Network = mlp
    slack: float = SLACK

    @property
    def choice(self) -> Choice:
        """The rule by which strengths are chosen."""
        without = {n: "isometry and head alone are" for n in self.trials if n.startswith("both")}
        return Choice(self.trials, without, self.slack, SCORE)

    def keys(self, lab: Lab[Settings]) -> Iterator[Key]:
        """Every strength on validation images, then the chosen ones on test images."""
        yield from try_keys(self.trials, first=1 if lab.quick else None)
        chosen = self.choice.strengths(lab.runs)
        for seed in range(lab.seeds):
            for name in self.trials:
                yield {"method": name, "strength": chosen[name], "seed": seed}

    def measure(self, key: Key, lab: Lab[Settings]) -> Figures:
        """Train a network; give its probes and how well it keeps distances."""
        validate = "seed" not in key
        seed, settings = key.get("seed", SEARCH_SEED), lab.settings
        comparison = lab.once(f"{validate}", lambda: self.load(lab, validate))
        if validate:
            fewer = tuple((n, min(draws, 5)) for n, draws in settings.examples if n <= 10)
            settings = replace(settings, examples=fewer)
        how: dict[str, Any] = {"strength": key["strength"], "network": self.network}
        model = train(
            comparison.data, self.trials[key["method"]], seed=seed, settings=settings, **how
        )
        embed = features_of(model)
        frozen, features = freeze(embed, comparison.data, settings), embed(comparison.data.test.x)
        labels = comparison.data.coarse(comparison.data.test.fine)
        distance_figures = agreement(comparison.distances, torch.cdist(features, features), labels)
        shots = few_shot(frozen, settings)
        figures: Figures = {
            "coarse": coarse_accuracy(model, comparison.data),
            "few-shot": shots,
            "kNN": knn_accuracy(*frozen.known, *frozen.test),
            **distance_figures,
        }
        if validate:
            figures[SCORE] = mean(shots["10 a class"]["accuracy"]) + distance_figures["r"]
        return figures

    def study(self, name: str, told: str, **about: Any) -> Study[Settings]:
        """The study; ``told`` says on its page what is trained and what is measured."""
        choose = self.choice.strengths
        page = partial(tables, told=told, head=HEAD, slack=self.slack, choose=choose)
        return Study(
            name,
            quickly(self.settings, **self.quick),
            self.keys,
            self.measure,
            page,
            draw,
            determines=lambda key, settings: determined_by(self.trials[key["method"]], settings),
            entries=self.choice.entries,
            **about,
        )


def _small_digits(lab: Lab[Settings], validate: bool) -> Comparison:
    del lab
    data = small_digits()
    x = data.train.x
    points = references.manifold(x, reference=references.patches(x, size=3))
    return _comparison(data.unseen() if validate else data, points)


def _mnist(lab: Lab[Settings], validate: bool) -> Comparison:
    data = samples.digits(lab.settings, lab.data_dir, cache=lab.cache, validate=validate)
    return _comparison(data, samples.manifold_of_patches(data, lab.settings))


def _photographs(lab: Lab[Settings], validate: bool) -> Comparison:
    data = cifar.load(lab.settings, lab.data_dir, lab.cache)
    x = data.train.x  # cross-entropy names this reference but does not use it
    points = patches(x, filters=8 if lab.quick else 100)
    data = replace(data, references={"pixels": x, PATCHES: points(x)})
    return _comparison(data.unseen() if validate else data, points)


def _comparison(data: Data, points: references.Reference) -> Comparison:
    placed = points(data.test.x).flatten(1)
    return Comparison(data, torch.cdist(placed, placed))


_SHOTS = ((1, 20), (10, 10))
DIGITS = Subject(
    replace(ON_DIGITS, examples=_SHOTS),
    {"epochs": 1, **FEW},
    trials(MANIFOLD, (0.02, 0.1, 0.5, 2.0, 8.0, 32.0, 128.0, 512.0)),
    _small_digits,
)
MNIST = Subject(
    replace(Settings(), test_images=2_000, examples=_SHOTS),
    {"train_images": 300, "known": 200, "landmarks": 150, "test_images": 200, "epochs": 1, **FEW},
    trials(MANIFOLD, (0.02, 0.1, 0.5, 2.0)),
    _mnist,
)
# half of the epochs, and four seeds, because each run takes long
PHOTOGRAPHS = Subject(
    replace(cifar.cifar_settings(False), examples=_SHOTS, epochs=8),
    {"train_images": 200, "known": 150, "test_images": 100, "epochs": 1, **FEW},
    trials(PATCHES, (0.1, 0.3, 1.0, 3.0, 10.0)),
    _photographs,
    network=cifar.small_resnet,
    slack=cifar.SLACK,
)

STUDIES = (
    DIGITS.study(
        "structure-together",
        "Networks learn even or odd from scikit-learn's 1,077 training digits of 8 by 8 pixels; "
        "then the ten digits are read from their frozen last hidden layer, in %, and its distances "
        "are compared with those of the manifold of patches, over the pairs of equal parity of 360 "
        "test images.",
        shows="whether isometry and a second head together have what each has alone",
        time="a quarter of an hour on one core",
        seeds=3,
        uses=Uses(*((Part(f"digits {split}"),) for split in ("train", "validation", "test"))),
        without_raw="they stand in structure-recipe",
    ),
    MNIST.study(
        "structure-together-mnist",
        "MLPs learn even or odd from 50,000 images of MNIST; then the ten digits are read from "
        "their frozen last hidden layer, in %, and its distances are compared with those of the "
        "manifold of patches, over the pairs of equal parity of 2,000 test images.",
        shows="the same on MNIST",
        time="an hour on one core",
        seeds=3,
        data="MNIST",
        uses=Uses((FIVE_SIXTHS,), (SIXTH,), (rows("MNIST test", 0, 10_000, step=5),)),
        without_raw="they stand in structure-digits",
    ),
    PHOTOGRAPHS.study(
        "structure-together-photographs",
        "A small resnet10t learns animal or vehicle from 10,000 images of CIFAR-10 (JPEG) "
        "in 8 epochs; then the ten classes are read from what enters its classifier, in %, and its "
        "distances are compared with those of patches, over the pairs of equal label of 2,500 test "
        "images.",
        shows="the same on photographs",
        time="an hour on one core",
        seeds=4,
        data="CIFAR-10",
        uses=Uses(
            (rows("CIFAR-10 train", 0, 10_000, shuffled=True),),
            (rows("CIFAR-10 train", 48_000, 50_000, shuffled=True),),
            (rows("CIFAR-10 test", 0, 10_000, step=4),),
        ),
        without_raw="they stand in structure-cifar",
    ),
)
