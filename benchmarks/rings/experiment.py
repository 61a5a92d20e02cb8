"""Train on the rings and measure what became of their distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.geometry import embedding, geometry
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg import isometry_penalty
from isoreg.datasets import entangled_rings
from isoreg.lil import LocallyIsometricLayer

# name: beta, and whether the penalty sees pairs of equal label only
VARIANTS = {
    "cross-entropy": (0.0, True),
    "isometry within classes": (1.0, True),
    "global isometry": (1.0, False),
}


@dataclass(frozen=True)
class Settings:
    """The paper's: 10,000 epochs, full batch, Adam. It does not state the last two."""

    width: int = 20
    depth: int = 4
    epochs: int = 10_000
    points: int = 400
    learning_rate: float = 1e-3


def run(settings: Settings, *, seeds: int, out: Path) -> Results:
    """Run what is not yet in the file ``out``, seed by seed."""
    results = Results(out, asdict(settings))
    keys = [{"seed": seed, "variant": name} for seed in range(seeds) for name in VARIANTS]
    todo = [key for key in keys if not results.has(key)]
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo) * settings.epochs)
        for key in todo:
            progress.update(bar, description=f"seed {key['seed']}, {key['variant']}")
            figures = _measure(key, settings, lambda: progress.advance(bar))
            results.add(key, figures)
    return results


def _measure(
    key: dict[str, Any], settings: Settings, advance: Callable[[], None]
) -> dict[str, object]:
    x, y = entangled_rings(settings.points)
    beta, within = VARIANTS[key["variant"]]
    torch.manual_seed(key["seed"])
    lil = LocallyIsometricLayer(3, width=settings.width, depth=settings.depth)
    head = nn.Linear(settings.width, 2)
    optimizer = torch.optim.Adam([*lil.parameters(), *head.parameters()], lr=settings.learning_rate)
    for _ in range(settings.epochs):
        features = lil(x)
        loss = F.cross_entropy(head(features), y)
        if beta:
            loss = loss + beta * isometry_penalty(x, features, y if within else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance()
    features = lil(x).detach()
    return {
        "accuracy": (head(features).argmax(1) == y).float().mean().item(),
        **geometry(x, features, y),
        "all pairs": geometry(x, features, None)["distortion"],
        "gradients": gradients(lil, head, x, y),
        "embedding": embedding(features, key["seed"]),
    }


def gradients(lil: nn.Module, head: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """The paper's bound on the loss's gradient, |dL/dx| <= K |dL/dPhi|, in numbers.

    K is 1 for an isometry of the whole space. ``constant`` is the largest ratio over the points,
    ``Jacobian`` the largest singular value of dPhi/dx, ``along`` and ``across`` its largest gain
    along the ring, where there are pairs, and in the two directions across it, where there are
    none.
    """
    x = x.clone().requires_grad_()
    features = lil(x)
    loss = F.cross_entropy(head(features), y, reduction="sum")
    by_input, by_features = torch.autograd.grad(loss, [x, features])
    ratio = by_input.norm(dim=1) / by_features.norm(dim=1).clamp_min(1e-30)
    jacobians = torch.func.vmap(torch.func.jacrev(lil))(x.detach())
    along, across = _frames(x.detach(), y)
    return {
        "constant": ratio.max().item(),
        "Jacobian": torch.linalg.matrix_norm(jacobians, 2).max().item(),
        "along": (jacobians @ along).norm(dim=1).max().item(),
        "across": torch.linalg.matrix_norm(jacobians @ across, 2).max().item(),
    }


def _frames(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, 1) unit tangents of the rings, and (n, 3, 2) normals."""
    tangents = torch.empty_like(x)
    for k in (0, 1):
        ring = x[y == k]
        tangents[y == k] = F.normalize(ring.roll(-1, 0) - ring.roll(1, 0), dim=1)
    full = torch.linalg.svd(tangents[:, None]).Vh  # rows: the tangent, then two normals
    return full[:, :1].mT, full[:, 1:].mT
