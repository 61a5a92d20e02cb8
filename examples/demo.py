"""What the two lines do, on real digits, in a minute: ``make demo``.

Networks learn to tell even digits from odd ones, with and without the isometry penalty, and all
answer equally well. The plain one forgets which digit it saw; with the penalty the digits stay
apart although no label told it to. A control has the same penalty with the distances shuffled
among the samples of a class, so that their scale is right and the geometry is not. No network
becomes robust: the attack column says so.
"""

from __future__ import annotations

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

BETA, EPS, SEEDS, EPOCHS = 0.3, 0.1, 3, 40
PICTURE = Path("demo.png")
COLUMNS = {"even or odd, %": 1, "attacked, %": 1, "distances, r": 2, "ten digits, %": 1}
CAPTION = f"""\
even or odd: what the networks learned; accuracy on 360 test images.
attacked: the same under PGD-40 of L-inf radius {EPS}. None of them is robust.
distances: Pearson's r between pixels and features, within even and within odd.
ten digits: a linear probe on the features that saw ten examples of each digit."""


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
    return [100 * clean, 100 * robust, kept, 100 * few_shot(model, features, labels)]


def few_shot(model: nn.Sequential, features: Tensor, labels: Tensor, examples: int = 10) -> float:
    """Accuracy on the ten digits of a linear probe that saw ten training examples of each."""
    images, digit = digits("train")
    chosen = torch.cat([(digit == d).nonzero()[:examples, 0] for d in range(10)])
    with torch.no_grad():
        known = model[:-1](images[chosen])
    probe = LogisticRegression(max_iter=1000).fit(known, digit[chosen])
    return float(probe.score(features, labels))


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
    torch.set_num_threads(1)  # networks this small only lose by more
    options = {"plain": (0.0, False), "isometry": (BETA, False), "shuffled (control)": (BETA, True)}
    images, labels = digits("test")
    figures: dict[str, list[list[float]]] = {name: [] for name in options}
    models: dict[str, nn.Sequential] = {}
    jobs = [(name, seed) for seed in range(SEEDS) for name in options]
    for name, seed in track(jobs, f"training {len(jobs)} small networks"):
        beta, shuffled = options[name]
        models[name] = train(beta, seed, shuffled=shuffled)
        figures[name].append(measure(models[name], images, labels, seed))
    table = Table(
        "training", *COLUMNS, title=f"beta {BETA:g}, {SEEDS} seeds, mean ± sd", caption=CAPTION
    )
    table.caption_justify = "left"
    for name, runs in figures.items():
        columns = zip(zip(*runs, strict=True), COLUMNS.values(), strict=True)
        table.add_row(name, *[f"{mean(c):.{n}f} ± {stdev(c):.{n}f}" for c, n in columns])
    draw(models, images, labels)
    console = Console()
    console.print(table)
    console.print(f"\nThe distances of all three are drawn in {PICTURE}")


if __name__ == "__main__":
    main()
