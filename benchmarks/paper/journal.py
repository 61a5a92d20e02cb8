"""The journal version's CIFAR-10 claim, under its own attack and under a standard one.

The network follows the paper's journal version (Scientific Reports, 2025) and its released code: a
convolutional body, tanh layers on its features, and the isometry penalty on the last tanh layer.
"Partial isometry" (Shi-Garrier, Bouaynaya and Delahaye, Entropy 2024) is trained and attacked too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks import photographs
from benchmarks.ascent import climb
from benchmarks.images import Uses, rows
from benchmarks.networks import accuracy_of, in_parts
from benchmarks.paper.journal_report import tables
from benchmarks.paper.mnist import combined_loss, survivors
from benchmarks.paper.partial import partial_isometry
from benchmarks.results import Figures, Key
from benchmarks.sampling import even_split
from benchmarks.study import Lab, Study, quickly
from benchmarks.training import Batches, adam, descend
from isoreg import IsometryRegularizer
from isoreg.diagnostics import distortion
from isoreg.robustness import evaluate

_CHANNELS, _FEATURES, _UNITS, _HIDDEN = 16, 32 * 8 * 8, 100, 4


@dataclass(frozen=True)
class Training:
    """The penalties that are added to cross-entropy.

    Attributes:
        beta: Weight of the isometry penalty.
        scale: K, which multiplies the distances of features in training; in the attack it is 1.
        reference: Features are compared with "pixels", as in the text, or with the output of a
            "body" that was trained on cross-entropy before and from which training then starts, as
            in the released code.
        control: Whether the references are exchanged within each class.
        partial: Weight of partial isometry.
    """

    beta: float = 0.0
    scale: float = 1.0
    reference: str = "pixels"
    control: bool = False
    partial: float = 0.0


TRAININGS = {
    "cross-entropy": Training(),
    **{f"isometry, beta {beta:g}": Training(beta) for beta in (0.01, 0.1, 1.0)},
    **{f"control, beta {beta:g}": Training(beta, control=True) for beta in (0.01, 0.1)},
    "cross-entropy, trained body": Training(reference="body"),
    "isometry of the body, beta 0.01, K 0.01": Training(0.01, 0.01, "body"),
    "isometry of the body, beta 1, K 10": Training(1.0, 10.0, "body"),
    **{
        f"partial isometry, weight {weight:g}": Training(partial=weight)
        for weight in (10.0, 100.0, 1000.0)
    },
}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment; ``attack_sizes`` are four of the paper's logspace(-2, 0, 10)."""

    trainings: tuple[str, ...] = tuple(name for name, how in TRAININGS.items() if not how.partial)
    train_images: int = 5_000
    epochs: int = 8
    batch_size: int = 100
    learning_rate: float = 1e-3
    test_images: int = 2_000
    attacked: int = 400
    attack_sizes: tuple[float, ...] = (0.01, 0.027826, 0.077426, 0.215443)
    paper_ball: float = 0.5
    paper_steps: int = 10
    linf: tuple[float, ...] = (1 / 255, 4 / 255, 8 / 255)
    l2: tuple[float, ...] = (0.25, 0.5)
    partial_radius: float = 0.5


_settings = quickly(
    Settings(),
    trainings=("cross-entropy", "isometry, beta 0.1", "partial isometry, weight 100"),
    train_images=300,
    epochs=1,
    test_images=100,
    attacked=50,
    linf=(1 / 255,),
    l2=(0.25,),
)


def settings(
    quick: bool,
    partial: Annotated[bool, typer.Option(help="Train partial isometry too.")] = False,
) -> Settings:
    """The settings of the study, or quick ones that take a minute."""
    chosen = _settings(quick)
    return replace(chosen, trainings=tuple(TRAININGS)) if partial and not quick else chosen


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Seed by seed; all runs of partial isometry come last, because they are slow."""
    for slow in (False, True):
        for seed in range(lab.seeds):
            for training in lab.settings.trainings:
                if slow == bool(TRAININGS[training].partial):
                    yield {"seed": seed, "training": training}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings except the list of trainings, and the entry of `TRAININGS` itself."""
    determinants = asdict(settings)
    del determinants["trainings"]
    return {**determinants, "training": asdict(TRAININGS[key["training"]])}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train and attack one network."""
    settings, how = lab.settings, TRAININGS[key["training"]]
    train_set = lab.once("train", lambda: load("train", settings.train_images, lab))
    test_set = lab.once("test", lambda: load("test", settings.test_images, lab))
    torch.manual_seed(key["seed"])
    model = network()
    body = None
    if how.reference == "body":
        train(model, *train_set, Training(), settings)
        body = frozen_body(model)
        model = nn.Sequential(model[0], *network()[1:])
    begin = time.perf_counter()
    train(model, *train_set, how, settings, body)
    figures: Figures = {"training seconds": time.perf_counter() - begin}
    model.eval()
    for name, value in evaluated(model, *test_set, how, settings, body):
        figures[name] = value
        lab.tick()
    return figures


def load(split: str, count: int, lab: Lab[Settings]) -> tuple[Tensor, Tensor]:
    """An even sample of a split, with pixels from 0 to 1."""
    images, labels = photographs.read(split, lab.data_dir, lab.cache)
    images, labels = even_split(images, labels, count)
    return images.float() / 255, labels


def network() -> nn.Sequential:
    """The released code's network: two convolutions with pooling, and four tanh layers of 100."""
    body: list[nn.Module] = []
    for before, after in ((3, _CHANNELS), (_CHANNELS, 2 * _CHANNELS)):
        body += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers: list[nn.Module] = [nn.Sequential(*body, nn.Flatten())]
    for index in range(_HIDDEN):
        linear = nn.Linear(_UNITS if index else _FEATURES, _UNITS)
        if index:
            nn.init.orthogonal_(linear.weight)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(_UNITS, 10))


def frozen_body(model: nn.Sequential) -> nn.Module:
    """A copy of the model's body that is not trained any further."""
    body = network()[0]
    body.load_state_dict(model[0].state_dict())
    return body.eval().requires_grad_(False)


def points(images: Tensor, body: nn.Module | None) -> Tensor:
    """The references with which features are compared: pixels, or the body's output."""
    return images if body is None else in_parts(body, images)


def train(
    model: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    how: Training,
    settings: Settings,
    body: nn.Module | None = None,
) -> None:
    """Train with Adam on cross-entropy and the added penalties."""

    def loss(places: Tensor, _: float) -> Tensor:
        x, y = images[places], labels[places]
        if how.partial:
            x = x.requires_grad_()
        logits = model(x)
        value = F.cross_entropy(logits, y)
        if how.beta:
            value = value + iso(y, reference=points(x, body))
        if how.partial:
            value = value + how.partial * partial_isometry(x, logits, settings.partial_radius)
        return value

    batches = Batches(len(images), settings.batch_size, settings.epochs)
    with IsometryRegularizer(model, beta=how.beta, scale=how.scale, control=how.control) as iso:
        descend(loss, adam(model, settings.learning_rate), batches)


def evaluated(
    model: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    how: Training,
    settings: Settings,
    body: nn.Module | None,
) -> Iterator[tuple[str, Any]]:
    """Yield one figure after another: its name and its value, accuracies from 0 to 1."""
    yield "clean", accuracy_of(model, images, labels)
    geometry = distortion(points(images, body), in_parts(model[:-1], images), labels)
    yield "distortion", {"correlation": geometry.correlation, "stress": geometry.stress}
    x, y = even_split(images, labels, settings.attacked)
    for kind, beta in (("combined", how.beta), ("cross-entropy", 0.0)):
        for name, reach in (("fgsm", 1.0), ("pgd, clean gradient", settings.paper_steps)):
            ball = 1.0 if name == "fgsm" else settings.paper_ball
            # Steps along one fixed gradient equal one step of their total length.
            curve = [
                survival(model, x, y, beta, body, settings.batch_size, min(reach * size, ball))
                for size in settings.attack_sizes
            ]
            yield f"{name}, {kind}", curve
    for norm, radii in (("Linf", settings.linf), ("L2", settings.l2)):
        report = evaluate(
            *(model, x, y),
            eps=radii,
            norm=norm,
            attacks=("pgd-ce", "pgd-margin"),
            progress=False,
        )
        yield f"standard, {norm}", [report.worst_case[eps] for eps in radii]
        yield f"warnings, {norm}", report.warnings


def survival(
    model: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    beta: float,
    body: nn.Module | None,
    batch_size: int,
    size: float,
) -> float:
    """Accuracy after one step of this size that raises cross-entropy + beta * isometry term."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        loss = combined_loss(model, points(x, body), y, beta=beta)
        return climb(loss, x, eps=size, step=size, steps=1)

    return survivors(model, attack, images, labels, batch_size).double().mean().item()


STUDY = Study(
    "journal",
    settings,
    keys,
    measure,
    tables,
    shows="the journal version's CIFAR-10 claim, and partial isometry",
    time="100 minutes on one core",
    data="CIFAR-10",
    seeds=3,
    determines=determines,
    uses=Uses(
        (rows("CIFAR-10 train", 0, 50_000, step=10),),
        (),
        (rows("CIFAR-10 test", 0, 10_000, step=5),),
    ),
    without_control="the controls are rows of the tables, at isometry's own betas",
    committed={"journal": {"partial": True}},
)
