"""Compare ``beta="auto"`` with a search for beta, and both with their control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.claims import Entry
from benchmarks.images import Part, Uses, rows
from benchmarks.networks import accuracy_of, features_in, mlp
from benchmarks.probes import chosen_strength, few_shot_accuracy
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import evenly
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import Column, count, grouped, page, table
from benchmarks.training import Batches, adam, descend
from isoreg import AutoBeta, IsometryRegularizer
from isoreg.datasets import mnist
from isoreg.diagnostics import distortion

VALIDATION = 10_000
DEFAULT = "auto 0.1"
SPLITS = ("validation", "test")
CONTROL = ", control"
"""Behind a weight this suffix marks its control, with the images exchanged within each class."""
PIXELS = "pixels, no network"
TOLERANCE = 0.01
"""A weight that is chosen may cost at most this accuracy on the labels that are trained on."""
TASK = "MNIST, even or odd"
LAYERS = ["2", "4", "6", "8"]
EPOCHS = 5

Runs = dict[str, list[Figures]]
Splits = dict[str, tuple[Tensor, Tensor]]
"""Images and their digits, by "train", "validation" and "test"."""


@dataclass(frozen=True)
class Settings:
    """Settings of training and probes.

    ``shares`` are those of `AutoBeta`, whose default is 0.1. ``strengths`` are inverse L2 penalties
    of the probe, among which one is chosen on validation images for each network.
    """

    betas: tuple[float, ...] = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    shares: tuple[float, ...] = (0.03, 0.1, 0.3)
    train_images: int = 50_000
    batch_size: int = 100
    learning_rate: float = 1e-3
    draws: int = 20
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)


_QUICK = {"betas": (0.0, 0.1), "shares": (0.1,), "strengths": (1.0, 100.0)}
settings = quickly(Settings(), train_images=2_000, draws=2, **_QUICK)


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """The pixels; then per seed all betas and shares, and controls of betas and the default."""
    weights = [f"{beta:g}" for beta in lab.settings.betas]
    weights += [f"auto {share:g}" for share in lab.settings.shares]
    controlled = [*weights[1 : len(lab.settings.betas)], DEFAULT]
    controls = [weight + CONTROL for weight in controlled]
    yield {"task": "mnist", "beta": PIXELS, "seed": 0}
    for seed in range(lab.seeds):
        for weight in (*weights, *controls):
            yield {"task": "mnist", "beta": weight, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings that all weights have in common."""
    del key
    common = ("batch_size", "learning_rate", "draws", "strengths", "train_images")
    return {name: value for name, value in asdict(settings).items() if name in common}


def load(images: int, folder: Path | None) -> Splits:
    """MNIST with at most ``images`` training images.

    The training split is permuted with seed 0; its last 10,000 images are for validation.
    """
    x, y = mnist("train", folder)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    places = {"train": order[:-VALIDATION][:images], "validation": order[-VALIDATION:]}
    splits = {split: (x[rows], y[rows]) for split, rows in places.items()}
    return {**splits, "test": mnist("test", folder)}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train with a fixed beta or with `AutoBeta`, and measure what its features contain."""
    settings = lab.settings
    splits = lab.once("splits", lambda: load(settings.train_images, lab.data_dir))
    images, labels = splits["train"]
    if key["beta"] == PIXELS:
        return read_features(lambda x: x.flatten(1), splits, settings)
    torch.manual_seed(key["seed"])
    weight = key["beta"].removesuffix(CONTROL)
    kind, _, share = weight.partition(" ")
    beta = AutoBeta(float(share)) if kind == "auto" else float(kind)
    model, parity = mlp(outputs=2), labels % 2
    betas: list[float] = []
    control = weight != key["beta"]
    with IsometryRegularizer(model, LAYERS, beta=beta, control=control) as iso:

        def loss(rows: Tensor, _: float) -> Tensor:
            value = F.cross_entropy(model(images[rows]), parity[rows])
            return value + iso(parity[rows]) if beta != 0 else value

        descend(
            loss,
            adam(model, settings.learning_rate),
            Batches(len(images), settings.batch_size, EPOCHS),
            after=lambda: betas.append(iso.beta),
        )
    model.eval()
    figures = read_features(lambda x: features_in(model, x), splits, settings)
    for split in SPLITS:
        x, digit = splits[split]
        figures[split]["coarse"] = accuracy_of(model, x, digit % 2)
    return {"betas": [mean(chunk) for chunk in _chunks(betas, 5)], **figures}


def read_features(
    embed: Callable[[Tensor], Tensor], splits: Splits, settings: Settings
) -> dict[str, Any]:
    """Measure features: geometry, and mean few-shot accuracy on ten classes of ten examples."""
    known, validation = ((embed(x), digit) for x, digit in (splits["train"], splits["validation"]))
    strength = chosen_strength(known, validation, 10, settings.strengths)
    figures: dict[str, Any] = {"probe": strength}
    for split in SPLITS:
        images, labels = splits[split]
        queries = validation if split == "validation" else (embed(images), labels)
        how: dict[str, Any] = {"draws": range(settings.draws), "strength": strength}
        geometry = distortion(*(evenly(x, 1000) for x in (images, queries[0], labels % 2)))
        figures[split] = {
            "few-shot": mean(few_shot_accuracy(*known, *queries, examples=10, **how)),
            "correlation": geometry.correlation,
            "stress": geometry.stress,
        }
    return figures


def _chunks(values: list[float], count: int) -> list[list[float]]:
    step = max(1, -(-len(values) // count))
    return [values[i : i + step] for i in range(0, len(values), step)]


def tables(results: Found) -> str:
    """Tables of the validation figures of all weights, and of the test figures of a few."""
    runs: Runs = grouped(results["runs"], "beta")
    chosen = chosen_weights(runs)
    names = ("0", *chosen, DEFAULT, DEFAULT + CONTROL, PIXELS)
    shown = dict.fromkeys(name for name in names if name in runs)
    tested = {f"{w} (chosen)" if w in chosen else w: runs[w] for w in shown}
    return page(
        '# A weight chosen by hand, and beta="auto"',
        "Networks learn a coarse question; afterwards a linear probe on their features sees ten "
        "examples of each of ten classes, which training never named (mean over "
        f"{results['settings']['draws']} draws; the probe's penalty was chosen on validation "
        "images for each network). Pearson's r: distances within a coarse class. "
        "'auto s' keeps the penalty's gradient at the share s of the loss's; 0.1 is the default. "
        "Mean ± standard deviation over seeds.",
        f"## {TASK}",
        f"{count(max(map(len, runs.values())), 'seed')}. On validation images:",
        table("beta", runs, _columns("validation")),
        "On test images. Numbers were chosen on validation images, the control's like the "
        f"penalty's: the best on ten classes of those within {100 * TOLERANCE:g} point of the "
        "best coarse accuracy.",
        table("beta", tested, _columns("test")),
    )


def _columns(split: str) -> list[Column]:
    return [
        Column("coarse, %", f"{split}/coarse", empty="-"),
        Column("ten classes, %", f"{split}/few-shot"),
        Column("Pearson's r", f"{split}/correlation", 2),
        Column("stress", f"{split}/stress", 2),
        Column("beta, first to last", text=_course),
    ]


def _course(runs: Any) -> str:
    if "betas" not in runs[0]:
        return "-"
    first, last = (mean(figures["betas"][index] for figures in runs) for index in (0, -1))
    return f"{first:.2g} to {last:.2g}"


def chosen_weights(runs: Runs) -> list[str]:
    """The beta that `choose` picks for the penalty, and the one for its control if there is one."""
    numbers = [w for w in runs if not w.startswith("auto") and w != PIXELS]
    of_control = [w for w in numbers if w.endswith(CONTROL)]
    ours = [w for w in numbers if w not in of_control]
    return [choose(runs, ours), *([choose(runs, of_control)] if of_control else [])]


def choose(runs: Runs, weights: list[str]) -> str:
    """The weight with the best mean few-shot accuracy among those within `TOLERANCE`.

    Its coarse accuracy on validation images is at most `TOLERANCE` below that of the best weight.
    """

    def average(weight: str, figure: str) -> float:
        return float(mean(figures["validation"][figure] for figures in runs[weight]))

    best = max(average(weight, "coarse") for weight in weights)
    cheap = [weight for weight in weights if average(weight, "coarse") >= best - TOLERANCE]
    return max(cheap, key=lambda weight: average(weight, "few-shot"))


def entries(results: Found) -> dict[str, Entry]:
    """The betas that were tried and the chosen one, for the penalty and for its control."""
    runs: Runs = grouped(results["runs"], "beta")
    numbers = [w for w in runs if w[0].isdigit() and w != "0"]
    of_control = [w for w in numbers if w.endswith(CONTROL)]
    grids = {"": [w for w in numbers if w not in of_control], CONTROL: of_control}
    by_row = {}
    for (suffix, grid), weight in zip(grids.items(), chosen_weights(runs), strict=False):
        control = f"{TASK}{CONTROL}" if not suffix else ""
        tried = tuple(float(w.removesuffix(CONTROL)) for w in grid)
        by_row[TASK + suffix] = Entry(tried, float(weight.removesuffix(CONTROL)), control)
    return by_row


STUDY = Study(
    "auto",
    settings,
    keys,
    measure,
    tables,
    shows='beta="auto" against a search',
    time="a quarter of an hour on one core",
    data="MNIST",
    seeds=3,
    determines=determines,
    uses=Uses(
        (rows("MNIST train", 0, 50_000, shuffled=True),),
        (rows("MNIST train", 50_000, 60_000, shuffled=True),),
        (Part("MNIST test"),),
    ),
    entries=entries,
)
