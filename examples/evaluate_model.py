"""Is it robust? A report that says when not to believe it: ``python -m examples.evaluate_model``.

Three networks on digits: plain, with the isometry penalty, and with the margin loss of
`isoreg.RobustLoss`. All face the same attacks. Attacks see the classifier alone, because the
penalty is a part of training only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from isoreg import IsometryRegularizer, RobustLoss, plots
from isoreg.datasets import digits
from isoreg.robustness import RobustnessReport, evaluate


def train(kind: str, epochs: int) -> nn.Sequential:
    """Train one of the three networks."""
    torch.manual_seed(0)
    images, labels = digits("train")
    hidden = [nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters())
    criterion = RobustLoss(model, eps=0.15, warmup_steps=5 * epochs)
    with IsometryRegularizer(model, beta="auto") as iso:
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(100):
                x, y = images[batch], labels[batch]
                if kind == "margin loss":  # this loss runs the model itself
                    loss = criterion(x, y)
                else:
                    loss = F.cross_entropy(model(x), y)
                    loss = loss + iso(y) if kind == "isometry" else loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


def main(
    epochs: int = 30,
    count: int = 360,
    attacks: str = "standard",
    picture: Path = Path("robustness.png"),
) -> dict[str, RobustnessReport]:
    """Train, attack, print the reports and draw them."""
    images, labels = digits("test")
    reports = {}
    for kind in ("plain", "isometry", "margin loss"):
        model = train(kind, epochs)
        reports[kind] = evaluate(
            model, images[:count], labels[:count], eps=[0.05, 0.1, 0.15, 0.2], attacks=attacks
        )
        print(f"{kind}:\n{reports[kind]}\n")
    for kind in ("isometry", "margin loss"):
        p = reports["plain"].compare(reports[kind])
        print(f"{kind} against plain, p of the exact McNemar test by radius: {p}")
    plots.robust_accuracy(reports).figure.savefig(picture, dpi=200)
    print(f"drawn in {picture}")
    return reports


if __name__ == "__main__":
    main()
