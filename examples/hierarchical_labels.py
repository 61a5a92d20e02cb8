"""Labels in levels, 2, 4 and 8 classes on a torus: ``python -m examples.hierarchical_labels``.

The paper's stack has a locally isometric layer for each level. Other models can learn levels too,
with one `IsometryRegularizer` for each level on its own layer and labels: see `levels_of_a_model`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer
from isoreg.datasets import torus
from isoreg.diagnostics import distortion
from isoreg.lil import StackedLIL


def stacked(points: Tensor, levels: list[Tensor], epochs: int) -> list[float]:
    """Train the paper's own architecture, and return the accuracy of each level."""
    torch.manual_seed(0)
    model = StackedLIL(3, [2, 4, 8])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        loss = model.loss(points, levels, beta=100.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracies = []
    with torch.no_grad():
        for logits, features, y in zip(model(points), model.features(points), levels, strict=True):
            accuracies.append((logits.argmax(1) == y).float().mean().item())
            report = distortion(points, features, y)
            print(f"{logits.shape[1]} classes: {100 * accuracies[-1]:.1f} % right, {report}")
    return accuracies


def levels_of_a_model(points: Tensor, levels: list[Tensor], epochs: int) -> float:
    """Train an ordinary classifier of the eight classes, with the levels on three of its layers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before in (3, 40, 40):
        layers += [nn.Linear(before, 40), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(40, 8))
    places = ("1", "3", "5")  # the three activations, the coarsest labels first
    isos = [IsometryRegularizer(model, place, beta="auto") for place in places]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        loss = F.cross_entropy(model(points), levels[-1])
        for iso, labels in zip(isos, levels, strict=True):
            loss = loss + iso(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for iso in isos:
        print(iso.report())
        iso.detach()
    return float((model(points).argmax(1) == levels[-1]).float().mean())


def main(points: int = 400, epochs: int = 500) -> list[float]:
    """Train both on the torus; return the accuracies of the stack's levels."""
    coordinates, levels = torus(points)
    accuracies = stacked(coordinates, levels, epochs)
    accuracy = levels_of_a_model(coordinates, levels, epochs)
    print(f"an ordinary classifier with the levels on its layers: {100 * accuracy:.1f} % right")
    return accuracies


if __name__ == "__main__":
    main()
