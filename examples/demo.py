"""What the two lines do, on real digits, in a minute: ``make demo``.

Networks learn to tell even digits from odd ones, with and without the isometry penalty, and all
answer equally well. The plain one forgets which digit it saw; with the penalty the digits stay
apart although no label told it to. A control has the same penalty with the distances shuffled
among the samples of a class, so that their scale is right and the geometry is not. The raw pixels
stand beside them: whoever still has those may ask them. No network becomes robust: the attack
column says so.

``python -m examples.demo choose`` repeats the choice of both betas on validation images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev

import torch
import torchattacks
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import distortion
from isoreg.distances import pairwise_distances

EPS, SEEDS, EPOCHS = 0.1, 3, 40
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Betas among which those of isometry and of its control were chosen by `choose`."""
OPTIONS = {"plain": (0.0, False), "isometry": (1.0, False), "shuffled (control)": (0.1, True)}
"""By training: beta, and whether the distances are shuffled."""
PICTURE = Path("demo.png")
torch.set_num_threads(1)  # networks this small only lose by more
COLUMNS = {"even or odd, %": 1, "attacked, %": 1, "distances, r": 2, "ten digits, %": 1}
CAPTION = f"""\
even or odd: what the networks learned; accuracy on 360 test images.
attacked: the same under PGD-40 of L-inf radius {EPS}. None of them is robust.
distances: Pearson's r between pixels and features, within even and within odd.
ten digits: a linear probe on the features that saw ten examples of each digit.
Each beta, and each probe's penalty, was chosen on validation images, from one grid for all."""


def train(beta: float, seed: int, *, shuffled: bool = False) -> nn.Sequential:
    """A tanh network that learns the parity of the training digits."""
    torch.manual_seed(seed)
    images, labels = digits("train")
    hidden = [nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 2))
    optimizer = torch.optim.Adam(model.parameters())
    partners = torch.arange(100)
    inputs = (lambda x: x[partners]) if shuffled else None
    with IsometryRegularizer(model, nn.Tanh, beta=beta, inputs=inputs) as iso:  # the first line
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(images)).split(100):
                x, parity = images[batch], labels[batch] % 2
                partners = shuffle_within(parity)
                loss = F.cross_entropy(model(x), parity) + iso(parity)  # the second line
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def shuffle_within(labels: Tensor) -> Tensor:
    """For each sample a random one of its class: a permutation."""
    partners = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        partners[members] = members[torch.randperm(len(members))]
    return partners


def measure(model: nn.Sequential, images: Tensor, labels: Tensor, seed: int) -> list[float]:
    """The figures of `COLUMNS` on held-out images."""
    parity = labels % 2
    torch.manual_seed(seed)
    attacked = torchattacks.PGD(model, eps=EPS, alpha=EPS / 16, steps=40)(images, parity)
    with torch.no_grad():
        features = model[:-1](images)
        clean = (model(images).argmax(1) == parity).float().mean().item()
        robust = (model(attacked).argmax(1) == parity).float().mean().item()
    kept = distortion(images, features, parity).correlation
    return [100 * clean, 100 * robust, kept, 100 * few_shot(model[:-1], images, labels)]


@torch.no_grad()
def few_shot(embed: nn.Module, images: Tensor, labels: Tensor, examples: int = 10) -> float:
    """Accuracy on the ten digits of a linear probe that saw ten training examples of each.

    Its penalty is the best of seven on validation images: a fixed one would favour features by
    their size alone.
    """
    seen, digit = digits("train")
    chosen = torch.cat([(digit == d).nonzero()[:examples, 0] for d in range(10)])
    known, (held, answers) = embed(seen[chosen]), digits("validation")
    probes = [
        LogisticRegression(C=10.0**power, max_iter=3000).fit(known, digit[chosen])
        for power in range(-2, 5)
    ]
    best = max(probes, key=lambda probe: float(probe.score(embed(held), answers)))
    return float(best.score(embed(images), labels))


def choose() -> None:
    """On validation images, other seeds: the best ten digits at most a point of parity below plain.

    The same rule and grid for isometry and for its control.
    """
    images, labels = digits("validation")
    table = Table("training", "beta", "even or odd, %", "ten digits, %")
    jobs = [("plain", 0.0, False), *(("isometry", beta, False) for beta in GRID)]
    for name, beta, shuffled in [*jobs, *(("shuffled", beta, True) for beta in GRID)]:
        models = [train(beta, seed, shuffled=shuffled) for seed in range(100, 100 + SEEDS)]
        with torch.no_grad():
            right = [(model(images).argmax(1) == labels % 2).double().mean() for model in models]
        ten = [few_shot(model[:-1], images, labels) for model in models]
        means = (100 * mean(map(float, right)), 100 * mean(ten))
        table.add_row(name, f"{beta:g}", *(f"{value:.1f}" for value in means))
    Console().print(table)


def draw(models: dict[str, nn.Sequential], images: Tensor, labels: Tensor) -> None:
    """Distances of same-class pairs in pixels and in features (a Shepard diagram)."""
    rows, columns = ((labels[:, None] - labels) % 2 == 0).triu(1).nonzero(as_tuple=True)
    before = pairwise_distances(images)[rows, columns]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(models), sharey=True)
    for axis, (name, model) in zip(axes, models.items(), strict=True):
        with torch.no_grad():
            after = pairwise_distances(model[:-1](images))[rows, columns]
        axis.hexbin(before, after, gridsize=60, mincnt=1, bins="log", cmap="viridis")
        axis.axline((0, 0), slope=1, color="tab:red", linewidth=1, label="distance kept")
        axis.set(title=name, xlabel="distance between two images (pixels)")
        axis.set(xlim=(0, None), ylim=(0, None))
    axes[0].set_ylabel("distance between their features")
    axes[0].legend(loc="upper left")
    figure.suptitle("Pairs of test images that are both even or both odd")
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    """Train, measure, print the table, save the picture."""
    images, labels = digits("test")
    figures: dict[str, list[list[float]]] = {name: [] for name in OPTIONS}
    models: dict[str, nn.Sequential] = {}
    jobs = [(name, seed) for seed in range(SEEDS) for name in OPTIONS]
    for name, seed in track(jobs, f"training {len(jobs)} small networks"):
        beta, shuffled = OPTIONS[name]
        models[name] = train(beta, seed, shuffled=shuffled)
        figures[name].append(measure(models[name], images, labels, seed))
    table = Table("training", "beta", *COLUMNS, title=f"{SEEDS} seeds, mean ± sd", caption=CAPTION)
    table.caption_justify = "left"
    for name, runs in figures.items():
        columns = zip(zip(*runs, strict=True), COLUMNS.values(), strict=True)
        cells = [f"{mean(c):.{n}f} ± {stdev(c):.{n}f}" for c, n in columns]
        table.add_row(name, f"{OPTIONS[name][0]:g}", *cells)
    pixels = few_shot(nn.Flatten(), images, labels)
    table.add_row("raw pixels, no network", *"-" * len(COLUMNS), f"{100 * pixels:.1f}")
    draw(models, images, labels)
    console = Console()
    console.print(table)
    console.print(f"\nThe distances of all three are drawn in {PICTURE}")


if __name__ == "__main__":
    choose() if "choose" in sys.argv else main()
