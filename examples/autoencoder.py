"""An autoencoder whose bottleneck is a map: lengths in the code approximate images' distances.

A plain autoencoder may bend its code in any way. With the penalty as one more term, lengths in the
code have a meaning; the script prints what this costs in reconstruction error.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F  # noqa: N812

from examples import save
from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import distortion


def autoencoder(code: int = 2) -> nn.Sequential:
    """Encoder and decoder of one hidden layer each."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, code))
    decoder = nn.Sequential(nn.Linear(code, 256), nn.ReLU(), nn.Linear(256, 64), nn.Sigmoid())
    return nn.Sequential(encoder, decoder)


def train(beta: float, epochs: int) -> nn.Sequential:
    """Learn to reconstruct the digits; the penalty is on the code, over all pairs of a batch."""
    torch.manual_seed(0)
    images, _ = digits("train")
    model = autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with IsometryRegularizer(model, "0", beta=beta, reduction="pairs") as iso:
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(128):
                x = images[batch]
                loss = F.mse_loss(model(x), x.flatten(1)) + iso(None)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def main(picture: Path = Path("autoencoder.png"), epochs: int = 150) -> dict[str, list[float]]:
    """Train both and draw the codes of new digits; the isometric code has a scale bar."""
    images, labels = digits("test")
    figure = Figure(figsize=(10, 5), layout="constrained")
    figures: dict[str, list[float]] = {}
    cases = {"plain": 0.0, "isometric": 0.03}
    for (name, beta), axes in zip(cases.items(), figure.subplots(1, 2), strict=True):
        model = train(beta, epochs)
        with torch.no_grad():
            codes, error = model[0](images), F.mse_loss(model(images), images.flatten(1)).item()
        report = distortion(images, codes)
        figures[name] = [report.correlation, report.stress, error]
        print(f"{name}: error {error:.4f}; code against pixels, {report}")
        axes.scatter(*codes.T, c=labels, cmap="tab10", s=14)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{name}: Pearson's r {report.correlation:.2f}, error {error:.3f}")
        if beta:
            left, low = codes.min(0).values.tolist()
            axes.plot([left, left + 1], [low - 0.3] * 2, color="black", linewidth=3)
            axes.text(left, low - 0.45, "one pixel from black to white", va="top")
            axes.set_ylim(low - 0.9, None)
    save(figure, picture)
    return figures


if __name__ == "__main__":
    main()
