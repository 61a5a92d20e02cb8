"""How these studies train, what they measure of a network, and how they choose strengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.choice import best_of
from benchmarks.methods import attach
from benchmarks.paper.geometry import embedding
from benchmarks.probes import knn_accuracy
from benchmarks.results import Figures, Key, Run
from benchmarks.structure import evaluation
from benchmarks.structure.data import Data
from benchmarks.structure.evaluation import coarse_accuracy, features_of
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.trials import Trial
from benchmarks.study import Lacking
from benchmarks.tables import runs_by
from benchmarks.training import Batches, adam, descend

PICTURED = 1500
SLACK = 0.003
"""How much coarse accuracy a chosen strength may cost."""

Network = Callable[[Tensor, int, Settings], nn.Sequential]
"""Makes a network, its classifier last, from one input, the number of outputs and settings."""


def mlp(like: Tensor, outputs: int, settings: Settings) -> nn.Sequential:
    """An MLP on flattened inputs of the shape of ``like``."""
    activation, depth = getattr(nn, settings.activation), settings.depth
    shape = {"width": settings.width, "depth": depth, "activation": activation}
    return networks.mlp(like.numel(), outputs, **shape)


def train(
    data: Data,
    trial: Trial,
    *,
    strength: float,
    seed: int,
    settings: Settings,
    network: Network = mlp,
) -> nn.Sequential:
    """Train on the coarse labels; the seed fixes initial weights and order of the batches."""
    torch.manual_seed(seed)
    x, labels = data.train.x, data.coarse(data.train.fine)
    reference = data.references[trial.reference]
    model = network(x[0], len(data.groups), settings)
    with attach(model, trial.recipe(strength, reference[0].numel())) as objective:

        def loss(rows: Tensor, progress: float) -> Tensor:
            images = augmented(x[rows], settings)
            return objective(images, labels[rows], progress, reference=reference[rows])

        parameters = [*model.parameters(), *objective.parameters]
        batches = Batches(len(x), settings.batch_size, settings.epochs)
        descend(loss, adam(parameters, settings.learning_rate), batches)
    return model.eval()


def augmented(x: Tensor, settings: Settings) -> Tensor:
    """Move a whole batch by a random number of pixels down and to the right; mirror half of it."""
    if settings.shift:
        most = settings.shift
        down, right = torch.randint(-most, most + 1, (2,)).tolist()
        x = x.roll((down, right), (2, 3))
    if settings.flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
    return x


def measure(
    data: Data, trial: Trial, *, seed: int, settings: Settings, drawn: bool = False, **how: Any
) -> Figures:
    """Train once and measure everything; ``how`` goes to `train`."""
    begin = time.perf_counter()
    model = train(data, trial, seed=seed, settings=settings, **how)
    seconds = time.perf_counter() - begin
    return {
        "training seconds": seconds,
        "coarse": coarse_accuracy(model, data),
        **evaluation.fine_figures(features_of(model), data, settings, seed=seed),
        **({"picture": _picture(model, data)} if drawn else {}),
    }


def _picture(model: nn.Sequential, data: Data) -> Figures:
    """UMAP of the features of some test samples, with their fine labels."""
    samples = data.test.sample(PICTURED)
    return {
        "points": embedding(features_of(model)(samples.x), seed=0),
        "labels": samples.fine.tolist(),
    }


def measure_shortly(data: Data, trial: Trial, *, settings: Settings, **how: Any) -> Figures:
    """Coarse accuracy, neighbours, and probes of one and of ten examples of each fine class."""
    model = train(data, trial, seed=SEARCH_SEED, settings=settings, **how)
    frozen = evaluation.freeze(features_of(model), data, settings)
    shots = evaluation.few_shot(frozen, replace(settings, examples=((1, 5), (10, 5))))
    return {
        "coarse": coarse_accuracy(model, data),
        **{shot: mean(result["accuracy"]) for shot, result in shots.items()},
        "kNN": knn_accuracy(*frozen.known, *frozen.test),
    }


def try_keys(trials: dict[str, Trial], first: int | None = None) -> Iterator[Key]:
    """Keys of every strength of every trial, or of the ``first`` ones."""
    for name, trial in trials.items():
        for strength in (trial.strengths or (0.0,))[:first]:
            yield {"method": name, "strength": strength}


def tries(runs: list[Run]) -> list[Run]:
    """The runs on validation images, from which strengths are chosen."""
    return [run for run in runs if "seed" not in run["key"]]


def chosen_strengths(
    runs: list[Run],
    *,
    slack: float = SLACK,
    by: str = "10 a class",
    controls: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """For each method, the strength with the best ``by`` of those that keep the coarse accuracy.

    A strength keeps it if it is at most ``slack`` below that of cross-entropy; if none does, the
    most accurate one is taken. Where ``controls`` names a method's control, only strengths take
    part at which the control was tried too.

    Raises:
        Lacking: If cross-entropy was not tried yet.
    """
    by_method = runs_by(runs, "method")
    if "cross-entropy" not in by_method:
        raise Lacking
    floor = by_method["cross-entropy"][0]["figures"]["coarse"] - slack
    for name, control in (controls or {}).items():
        if name in by_method and control in by_method:
            grid = {run["key"]["strength"] for run in by_method[control]}
            shared = [run for run in by_method[name] if run["key"]["strength"] in grid]
            by_method[name] = shared or by_method[name]  # a quick run tries one strength of each
    return {
        name: best_of(tried, by, accuracy="coarse", floor=floor)["key"]["strength"]
        for name, tried in by_method.items()
    }


def determined_by(trial: Trial | None, settings: Settings, **more: Any) -> dict[str, Any]:
    """What determines a run: the settings except the tasks, the trial and ``more``."""
    determinants = {**asdict(settings), "trial": trial.describe() if trial else None, **more}
    del determinants["tasks"]
    return determinants
