"""What the two lines do, on real digits, in a minute: ``make demo``.

Two networks learn to tell even digits from odd ones, one of them with the isometry penalty. Both
answer equally well. The plain one forgets which digit it saw, the other keeps the digits apart
although no label told it to. Neither becomes robust: the attack column says so.
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
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import distortion

BETA, EPS, SEEDS, EPOCHS = 0.3, 0.1, 3, 60
PICTURE = Path("demo.png")
COLUMNS = {
    "even or odd, %": 1,
    f"the same under PGD, eps {EPS}, %": 1,
    "within-class distances, r": 2,
    "which of ten digits, from ten examples each, %": 1,
}


def train(beta: float, seed: int) -> nn.Sequential:
    """A tanh network that learns the parity of the training digits."""
    torch.manual_seed(seed)
    images, labels = digits("train")
    hidden = [nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 2))
    optimizer = torch.optim.Adam(model.parameters())
    with IsometryRegularizer(model, nn.Tanh, beta=beta) as iso:  # the first line
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(images)).split(100):
                x, parity = images[batch], labels[batch] % 2
                loss = F.cross_entropy(model(x), parity) + iso(parity)  # the second line
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


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
    """The first two principal components of each network's features, colored by digit."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots(1, len(models))
    for axis, (name, model) in zip(axes, models.items(), strict=True):
        with torch.no_grad():
            points = PCA(2).fit_transform(model[:-1](images))
        dots = axis.scatter(*points.T, c=labels, cmap="tab10", s=12, vmin=-0.5, vmax=9.5)
        axis.set(title=name, xticks=[], yticks=[], xlabel="1st component", ylabel="2nd component")
    figure.suptitle("Features of networks trained on even/odd alone (test images)")
    figure.colorbar(dots, ax=axes, ticks=range(10), label="digit (never a label)")
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    """Train, measure, print the table, save the picture."""
    names = {"plain": 0.0, f"isometry, beta {BETA:g}": BETA}
    images, labels = digits("test")
    figures: dict[str, list[list[float]]] = {name: [] for name in names}
    models: dict[str, nn.Sequential] = {}
    jobs = [(name, beta, seed) for seed in range(SEEDS) for name, beta in names.items()]
    for name, beta, seed in track(jobs, "training six small networks"):
        models[name] = train(beta, seed)
        figures[name].append(measure(models[name], images, labels, seed))
    table = Table("training", *COLUMNS, title=f"360 test images, {SEEDS} seeds: mean ± sd")
    for name, runs in figures.items():
        columns = zip(zip(*runs, strict=True), COLUMNS.values(), strict=True)
        table.add_row(name, *[f"{mean(c):.{n}f} ± {stdev(c):.{n}f}" for c, n in columns])
    draw(models, images, labels)
    console = Console()
    console.print(table)
    console.print(f"Picture of the features: {PICTURE}")


if __name__ == "__main__":
    main()
