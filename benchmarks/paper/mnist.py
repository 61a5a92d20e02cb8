"""The paper's MNIST experiment (table 1 and figure 3), and a standard attack beside its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.ascent import Loss, climb, cross_entropy, margin, random_start
from benchmarks.images import Part, Uses
from benchmarks.networks import accuracy_of, features_in, in_parts, mlp
from benchmarks.paper.mnist_report import draw, tables
from benchmarks.results import Figures, Key
from benchmarks.sampling import even_split, evenly
from benchmarks.study import Lab, Study, quickly
from benchmarks.training import Batches, adam, descend
from isoreg import IsometryRegularizer, isometry_penalty
from isoreg.datasets import mnist
from isoreg.diagnostics import distortion
from isoreg.distances import pairwise_distances

Attack = Callable[[Tensor, Tensor], Tensor]
_STANDARD_BATCH = 1000
_DISTORTION_IMAGES = 1000


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment; the defaults are the paper's where it names them.

    ``convention`` says whether text or released code is followed where the two disagree: the text.
    """

    convention: str = "text"
    betas: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    width: int = 100
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    train_images: int = 60_000
    test_images: int = 10_000
    # The paper's attacks use np.logspace(-2, 0, 10), as FGSM's eps and as PGD's step size.
    attack_sizes: tuple[float, ...] = tuple(round(10 ** (-2 + 2 * i / 9), 6) for i in range(10))
    paper_ball: float = 0.5
    paper_steps: int = 10
    # The standard attack is PGD on cross-entropy and on the margin; per image the worse one counts.
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    steps: int = 40
    relative_step: float = 2.5

    def step_size(self, eps: float) -> float:
        """Step of the standard PGD: all steps together could cross the ball 1.25 times."""
        return self.relative_step * eps / self.steps


settings = quickly(
    Settings(), betas=(0.0, 0.1), epochs=1, train_images=10_000, test_images=500, eps=(0.1,)
)


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(lab.seeds):
        for beta in lab.settings.betas:
            yield {"seed": seed, "beta": beta}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings except the grid of betas; a run's own beta is in its key."""
    del key
    return {name: value for name, value in asdict(settings).items() if name != "betas"}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train and attack one network."""
    settings = lab.settings
    train_set = lab.once("train", lambda: load("train", settings.train_images, lab))
    test_set = lab.once("test", lambda: load("test", settings.test_images, lab))
    begin = time.perf_counter()
    model = train(*train_set, beta=key["beta"], seed=key["seed"], settings=settings)
    figures: Figures = {"training seconds": time.perf_counter() - begin}
    for name, value in evaluate(model, *test_set, beta=key["beta"], settings=settings):
        figures[name] = value
        lab.tick()
    return figures


def load(split: str, count: int, lab: Lab[Settings]) -> tuple[Tensor, Tensor]:
    """An even sample of a split."""
    return even_split(*mnist(split, lab.data_dir), count, lab.device)


def train(
    images: Tensor, labels: Tensor, *, beta: float, seed: int, settings: Settings
) -> nn.Sequential:
    """Train one network; the seed fixes its initial weights and the order of the batches."""
    torch.manual_seed(seed)
    model = mlp(width=settings.width).to(images.device)
    with IsometryRegularizer(model, beta=beta) as iso:

        def loss(rows: Tensor, _: float) -> Tensor:
            value = F.cross_entropy(model(images[rows]), labels[rows])
            return value + iso(labels[rows]) if beta > 0 else value

        batches = Batches(len(images), settings.batch_size, settings.epochs)
        descend(loss, adam(model, settings.learning_rate), batches)
    return model.eval()


def combined_loss(model: nn.Sequential, clean: Tensor, labels: Tensor, *, beta: float) -> Loss:
    """The loss that the paper's attack raises: the training loss, with the isometry term.

    As in the released code, features of attacked images are compared with ``clean``: the clean
    batch, or a body's output for it.
    """
    targets = pairwise_distances(clean)

    def loss(x: Tensor) -> Tensor:
        features = model[:-1](x)
        value = F.cross_entropy(model[-1](features), labels)
        if beta > 0:
            value = value + beta * isometry_penalty(None, features, labels, input_distances=targets)
        return value

    return loss


def evaluate(
    model: nn.Sequential, images: Tensor, labels: Tensor, *, beta: float, settings: Settings
) -> Iterator[tuple[str, Any]]:
    """Yield one figure after another: its name and its value, accuracies from 0 to 1."""

    def accuracy(attack: Attack, batch_size: int) -> float:
        return survivors(model, attack, images, labels, batch_size).double().mean().item()

    clean = in_parts(model, images).argmax(1) == labels
    yield "clean", accuracy_of(model, images, labels)
    yield "distortion", _distortion(model, images, labels)
    for name, attack_of_size in _paper_attacks(model, beta, settings).items():
        batch_size = _STANDARD_BATCH if name.endswith("standard") else settings.batch_size
        curve = [accuracy(attack_of_size(size), batch_size) for size in settings.attack_sizes]
        yield name, curve
    for eps in settings.eps:
        standing = clean
        for name, attack in _strong_attacks(model, eps, settings).items():
            mask = survivors(model, attack, images, labels, _STANDARD_BATCH)
            standing = standing & mask
            yield f"{name} at {eps}", mask.double().mean().item()
        yield f"worst case at {eps}", standing.double().mean().item()


def _paper_attacks(
    model: nn.Sequential, beta: float, settings: Settings
) -> dict[str, Callable[[float], Attack]]:
    """The paper's attacks by name; each is a function from the size that the paper varies."""
    ball, steps = settings.paper_ball, settings.paper_steps

    def climbing(beta: float, **how: Any) -> Attack:
        return lambda x, y: climb(combined_loss(model, x, y, beta=beta), x, **how)

    def fgsm(size: float, beta: float) -> Attack:
        return climbing(beta, eps=size, step=size, steps=1)

    return {
        "fgsm, combined loss": lambda s: fgsm(s, beta),
        "fgsm, standard": lambda s: fgsm(s, 0.0),
        "pgd, combined loss": lambda s: climbing(beta, eps=ball, step=s, steps=steps),
        # Steps along one fixed gradient equal one step of their total length.
        "pgd, combined loss, clean gradient": lambda s: fgsm(min(steps * s, ball), beta),
        "pgd, standard": lambda s: climbing(0.0, eps=ball, step=s, steps=steps),
    }


def _strong_attacks(model: nn.Sequential, eps: float, settings: Settings) -> dict[str, Attack]:
    how = {"eps": eps, "step": settings.step_size(eps), "steps": settings.steps}

    def climbing(loss_of: Callable[[nn.Module, Tensor], Loss]) -> Attack:
        return lambda x, y: climb(loss_of(model, y), x, start=random_start(x, eps), **how)

    return {"pgd on cross-entropy": climbing(cross_entropy), "pgd on the margin": climbing(margin)}


def survivors(
    model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    """Mask of the images that are still classified correctly after the attack."""
    correct = []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        adversarial = attack(x, y)
        with torch.no_grad():
            correct.append(model(adversarial).argmax(1) == y)
    return torch.cat(correct)


def _distortion(model: nn.Sequential, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Within-class distortion of the last hidden layer on an even sample of the images."""
    x, y = (evenly(values, _DISTORTION_IMAGES) for values in (images, labels))
    geometry = distortion(x, features_in(model, x), y)
    return {"correlation": geometry.correlation, "stress": geometry.stress, "scale": geometry.scale}


STUDY = Study(
    "mnist",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="the paper's table 1 and figure 3",
    time="40 minutes on one core",
    data="MNIST",
    seeds=3,
    device=True,
    determines=determines,
    uses=Uses((Part("MNIST train"),), (), (Part("MNIST test"),)),
    without_control="the table shows the paper's own experiment at the paper's betas",
)
