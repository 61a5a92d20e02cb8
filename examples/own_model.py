"""The two lines in a training loop of your own: ``python -m examples.own_model``.

A convolutional network learns to tell even digits from odd ones, without the penalty and with it;
``beta="auto"`` chooses its weight. Then a report on the layers is printed, and each loss is written
to a CSV file that any spreadsheet reads.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import Distortion, distortion


def network() -> nn.Sequential:
    """A convolutional network; any other module will do."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )


def train(beta: float | str, epochs: int, log: Path) -> nn.Sequential:
    """Train with a loop as you have it already, plus two lines."""
    torch.manual_seed(0)
    images, labels = digits("train")
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    iso = IsometryRegularizer(model, beta=beta)  # the first line: watches the last layer's input
    rows = []
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(100):
            x, parity = images[batch], labels[batch] % 2
            loss = F.cross_entropy(model(x), parity) + iso(parity)  # the second line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rows.append({"loss": loss.item(), **iso.log_dict()})
    print(iso.report())
    iso.detach()  # the model is as it was before the first line
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return model.eval()


@torch.no_grad()
def measure(model: nn.Sequential) -> tuple[float, Distortion]:
    """Accuracy on test images, and distortion of distances within even and within odd digits."""
    images, labels = digits("test")
    features: Tensor = model[:-1](images)
    right = model[-1](features).argmax(1) == labels % 2
    return right.float().mean().item(), distortion(images, features, labels % 2)


def main(epochs: int = 20, folder: Path = Path()) -> dict[str, Distortion]:
    """Train both networks; print their accuracies and distortions."""
    distortions = {}
    options: dict[str, float | str] = {"plain": 0.0, "isometry": "auto"}
    for name, beta in options.items():
        accuracy, report = measure(train(beta, epochs, folder / f"{name}.csv"))
        print(f"{name}: {100 * accuracy:.1f} % on test images; distances: {report}\n")
        distortions[name] = report
    return distortions


if __name__ == "__main__":
    main()
