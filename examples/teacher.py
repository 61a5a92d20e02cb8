"""A small network learns the distances of a larger one, whose width it need not have.

The teacher knows all ten digits; the student learns even or odd from few images. With
``inputs=teacher`` the penalty compares distances of the student's features with the teacher's. The
features themselves could not be compared, because their widths differ.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from examples import save
from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import distortion
from isoreg.plots import shepard


def network(width: int, outputs: int) -> nn.Sequential:
    """A network of two hidden layers."""
    hidden = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, outputs))


def train(
    model: nn.Sequential, labels: Tensor, epochs: int, teacher: nn.Module | None = None
) -> nn.Sequential:
    """Train on the digits with these labels; with a teacher, keep its distances."""
    images, _ = digits("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    beta = 0.0 if teacher is None else 0.02
    with IsometryRegularizer(
        model, inputs=teacher, beta=beta, reduction="pairs", scale="fit"
    ) as iso:
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(128):
                loss = F.cross_entropy(model(images[batch]), labels[batch]) + iso(labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def main(picture: Path = Path("teacher.png"), epochs: int = 60) -> dict[str, list[float]]:
    """Train a teacher and two students; print and draw how well each student keeps distances."""
    torch.manual_seed(0)
    (_, known), (new, new_digits) = digits("train"), digits("test")
    teacher = train(network(300, 10), known, epochs)[:-1]
    figure = Figure(figsize=(9, 4), layout="constrained")
    figures: dict[str, list[float]] = {}
    cases = {"on its own": None, "with the teacher's distances": teacher}
    for (name, chosen), axes in zip(cases.items(), figure.subplots(1, 2), strict=True):
        torch.manual_seed(1)
        student = train(network(40, 2), known % 2, epochs, chosen)
        with torch.no_grad():
            features, targets = student[:-1](new), teacher(new)
            right = (student(new).argmax(1) == new_digits % 2).float().mean().item()
            known_features = student[:-1](digits("train")[0])
        report = distortion(targets, features, new_digits % 2)
        ten = float(KNeighborsClassifier().fit(known_features, known).score(features, new_digits))
        figures[name] = [right, report.correlation, ten]
        print(f"{name}: even or odd {100 * right:.1f} %, ten digits {100 * ten:.1f} %; {report}")
        shepard(targets, report.scale * features, new_digits % 2, axes=axes)
        axes.set_title(f"student {name}")
        axes.set(xlabel="distance of two images by the teacher", ylabel="by the student, rescaled")
    save(figure, picture)
    return figures


if __name__ == "__main__":
    main()
