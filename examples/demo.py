"""What the two lines do, on real digits, in a minute: ``make demo``.

Networks learn to tell even digits from odd ones, and nothing else. The plain one forgets which
digit it saw. With the penalty its features are as far apart as the images are *along the data*
(`isoreg.references.manifold`, made without labels), so that one example of each digit is enough to
read all ten. The control has the same penalty with the reference exchanged among images of a class:
its distances have the right sizes and the wrong geometry. The table also has rows for raw pixels
and for the reference itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer, references
from isoreg.datasets import digits
from isoreg.diagnostics import distortion
from isoreg.distances import pairwise_distances
from isoreg.embedding import IsometricEmbedding

SEEDS, EPOCHS, DRAWS, MAP_EPOCHS = 3, 40, 5, 15
# each strength was chosen by itself on the validation images, by examples.demo_choice
BETAS = {"plain": 0.0, "isometry": 0.3, "control": 0.01}
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the probe; every row has one chosen on validation images
PICTURE, FIGURES = Path("demo.png"), Path("demo.json")
GREY = "#808080"  # legible on a light and on a dark background
COLUMNS = {
    "even or odd, %": 1,
    "distances, r": 2,
    "ten digits by one example, %": 1,
    "by ten, %": 1,
}
CAPTION = """\
even or odd: what the networks learned; accuracy on 360 test images.
distances: Pearson's r between those of the reference and those of features, within even and odd.
ten digits: a linear probe that knows one example of each digit, or ten; mean over 5 draws."""


@dataclass
class Split:
    """Images, their digits, and where the reference puts them."""

    images: Tensor
    digit: Tensor
    places: Tensor


def load() -> dict[str, Split]:
    """The three splits, with a reference that was made from the training images alone."""
    images, _ = digits("train")
    patches = references.patches(images, size=3)
    manifold = references.manifold(images, reference=patches)
    splits = {name: digits(name) for name in ("train", "validation", "test")}
    return {name: Split(x, digit, manifold(x)) for name, (x, digit) in splits.items()}


def train(data: Split, seed: int, *, beta: float, control: bool) -> nn.Sequential:
    """A tanh network that learns the parity of the training digits."""
    torch.manual_seed(seed)
    hidden = [nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    iso = IsometryRegularizer(model, beta=beta, control=control)  # the first line
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(data.images)).split(100):
            parity = data.digit[batch] % 2
            loss = F.cross_entropy(model(data.images[batch]), parity)
            loss = loss + iso(parity, reference=data.places[batch])  # the second line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    iso.detach()
    return model.eval()


def measure(data: dict[str, Split], features: dict[str, Tensor]) -> list[float]:
    """All figures of `COLUMNS` except the first."""
    test = data["test"]
    r = distortion(test.places, features["test"], test.digit % 2).correlation
    return [r, *(100 * probe(data, features, examples)[1] for examples in (1, 10))]


def probe(
    data: dict[str, Split], features: dict[str, Tensor], examples: int
) -> tuple[float, float]:
    """Accuracy on ten digits, validation and test; the first one chooses the probe's strength."""
    digit, generator = data["train"].digit, torch.Generator().manual_seed(0)
    scores = {strength: [0.0, 0.0] for strength in STRENGTHS}
    for _ in range(DRAWS):
        order = torch.randperm(len(digit), generator=generator)
        chosen = torch.cat([order[digit[order] == d][:examples] for d in range(10)])
        known = features["train"][chosen]
        size = (known - known.mean(0)).square().sum(1).mean().sqrt()
        for strength, score in scores.items():
            fitted = LogisticRegression(C=strength, max_iter=300)
            fitted.fit((known / size).numpy(), digit[chosen].numpy())
            for at, split in enumerate(("validation", "test")):
                x = (features[split] / size).numpy()
                score[at] += fitted.score(x, data[split].digit.numpy()) / DRAWS
    validation, test = max(scores.values(), key=lambda score: score[0])
    return validation, test


def features_of(model: nn.Sequential, data: dict[str, Split]) -> dict[str, Tensor]:
    """What enters the classifier, for each split."""
    with torch.no_grad():
        return {name: model[:-1](split.images) for name, split in data.items()}


def draw(data: dict[str, Split], features: dict[str, Tensor]) -> None:
    """Distances before and after three trainings, and a map of new digits made without labels."""
    test = data["test"]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    pairs = ((test.digit[:, None] - test.digit) % 2 == 0).triu(1).nonzero(as_tuple=True)
    before = pairwise_distances(test.places)[pairs]
    for axis, (name, x) in zip(axes[:3], features.items(), strict=True):
        after = pairwise_distances(x)[pairs]
        axis.hexbin(before, after, gridsize=45, mincnt=1, bins="log", cmap="viridis")
        axis.axline((0, 0), slope=1, color="tab:red", linewidth=1.2)
        r = torch.corrcoef(torch.stack([before, after]))[0, 1]
        axis.set(title=f"{name}: r {r:.2f}", xlabel="distance of two images along the data")
        axis.set(xlim=(0, 17), ylim=(0, 17))
    axes[0].set_ylabel("distance of their features")
    draw_map(data, axes[3])
    for axis in axes:
        axis.tick_params(colors=GREY)
        axis.spines[:].set_color(GREY)
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
            text.set_color(GREY)
    figure.savefig(PICTURE, dpi=120, transparent=True)


def draw_map(data: dict[str, Split], axis: Axes) -> None:
    """A network that learned distances along the data places images that it has not seen."""
    train, test = data["train"], data["test"]
    embedding = IsometricEmbedding(metric="precomputed", max_epochs=MAP_EPOCHS, random_state=0)
    distances = pairwise_distances(train.places).numpy()
    embedding.fit(train.images.flatten(1).numpy(), distances=distances)
    points = embedding.transform(test.images.flatten(1).numpy())
    for (x, y), digit in zip(points, test.digit.tolist(), strict=True):
        axis.text(x, y, str(digit), color=f"C{digit}", ha="center", va="center", fontsize=7)
    axis.set(title="a map of new digits", xticks=[], yticks=[], aspect="equal")
    axis.set(xlim=(points[:, 0].min(), points[:, 0].max()))
    axis.set(ylim=(points[:, 1].min(), points[:, 1].max()), xlabel="made without labels")


def main() -> None:
    """Train, measure, print the table, save the picture."""
    torch.set_num_threads(1)  # more threads slow down such small networks
    data = load()
    table = Table("", *COLUMNS, title=f"{SEEDS} seeds, mean ± sd", caption=CAPTION)
    table.caption_justify = "left"
    images = {name: split.images.flatten(1) for name, split in data.items()}
    rows: dict[str, list[str]] = {}
    for name, x in (("pixels", images), ("reference", {k: s.places for k, s in data.items()})):
        values = zip(measure(data, x), [*COLUMNS.values()][1:], strict=True)
        rows[f"{name}, no network"] = ["-", *[f"{c:.{n}f}" for c, n in values]]
    features: dict[str, dict[str, Tensor]] = {}
    figures: dict[str, list[list[float]]] = {name: [] for name in BETAS}
    jobs = [(name, seed) for seed in range(SEEDS) for name in BETAS]
    for name, seed in track(jobs, f"training {len(jobs)} small networks"):
        model = train(data["train"], seed, beta=BETAS[name], control=name == "control")
        features[name] = features_of(model, data)
        right = model(data["test"].images).argmax(1) == data["test"].digit % 2
        figures[name].append([100 * right.float().mean().item(), *measure(data, features[name])])
    for name, runs in figures.items():
        columns = zip(zip(*runs, strict=True), COLUMNS.values(), strict=True)
        rows[name] = [f"{mean(c):.{n}f} ± {stdev(c):.{n}f}" for c, n in columns]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    FIGURES.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    draw(data, {name: x["test"] for name, x in features.items()})
    console = Console()
    console.print(table)
    console.print(f"\nDistances before and after, and a map of new digits: {PICTURE}")


if __name__ == "__main__":
    main()
