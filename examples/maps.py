"""A map of digits whose lengths are distances: with classes, without, and of new images.

The map is learned from half of the images and then places the other half, which it never saw. The
pictures have a scale bar in the unit of the pixels, which maps by UMAP and t-SNE cannot have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from examples import save
from isoreg.diagnostics import distortion
from isoreg.embedding import IsometricEmbedding


def main(picture: Path = Path("maps.png"), max_epochs: int | None = None) -> dict[str, list[float]]:
    """Learn two maps, draw the new images on them, and say how well each keeps distances."""
    images, digits = load_digits(return_X_y=True)
    known, new, known_digits, new_digits = train_test_split(
        images / 16, digits, test_size=0.5, stratify=digits, random_state=0
    )
    figures: dict[str, list[float]] = {}
    figure = Figure(figsize=(10, 5), layout="constrained")
    cases = {"distances alone": None, "distances and classes": known_digits}
    for (name, y), axes in zip(cases.items(), figure.subplots(1, 2), strict=True):
        embedding = IsometricEmbedding(max_epochs=max_epochs, random_state=0).fit(known, y)
        points = embedding.transform(new)
        embedding.plot(new, new_digits, axes=axes)
        nearest = KNeighborsClassifier().fit(embedding.transform(known), known_digits)
        accuracy = float(nearest.score(points, new_digits))
        x, phi, labels = map(torch.tensor, (new, points, new_digits))
        within, everywhere = distortion(x, phi, labels), distortion(x, phi)
        axes.set_title(f"{name}: {100 * accuracy:.0f} % of new digits among their own")
        figures[name] = [accuracy, within.correlation, everywhere.correlation]
        r = f"{within.correlation:.2f} within classes, {everywhere.correlation:.2f} overall"
        print(f"{name}: nearest neighbours {100 * accuracy:.1f} % right, Pearson's r {r}")
    save(figure, picture)
    return figures


if __name__ == "__main__":
    main()
