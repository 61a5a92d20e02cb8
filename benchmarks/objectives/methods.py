"""The methods by name, their settings, and recipes made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from benchmarks.objectives import (
    adversarial,
    batch_pairs,
    controls,
    distances,
    gradients,
    lipschitz,
    plain,
    worst_cases,
)
from benchmarks.objectives.step import Objective, Part

Options = Mapping[str, Any]
Recipe = Mapping[str, Options]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        title: For tables and figures.
        build: The model and the options to what the method contributes to the loss.
        grid: Settings among which to choose on validation data; none for a control, which takes
            the settings of what it is the control of.
    """

    title: str
    build: Callable[..., Part]
    grid: tuple[Options, ...]


def _grid(name: str, *values: float, **fixed: Any) -> tuple[Options, ...]:
    return tuple({name: value, **fixed} for value in values)


_BETAS = (0.01, 0.1, 1.0, 10.0)
_TEMPERATURES = (1.0, 3.0, 10.0, 30.0)
_RADII = (0.1, 0.15, 0.2, 0.3)

METHODS: dict[str, Method] = {
    "isometry": Method("isometry", distances.isometry, _grid("beta", *_BETAS)),
    "isometry-every-layer": Method(
        "isometry, every layer",
        partial(distances.isometry, layers="activations"),
        _grid("beta", *_BETAS),
    ),
    "weight-decay": Method(
        "weight decay", plain.weight_decay, _grid("weight", 1e-5, 1e-4, 1e-3, 1e-2)
    ),
    "label-smoothing": Method(
        "label smoothing", plain.label_smoothing, _grid("share", 0.05, 0.1, 0.2, 0.4)
    ),
    "noise": Method("Gaussian noise", plain.gaussian_noise, _grid("sigma", 0.15, 0.3, 0.5, 0.7)),
    "spectral-norm": Method(
        "spectral norm", lipschitz.spectral_norm, _grid("temperature", *_TEMPERATURES)
    ),
    "orthogonal": Method(
        "orthogonal weights", lipschitz.orthogonal, _grid("temperature", *_TEMPERATURES)
    ),
    "parseval": Method(
        "Parseval",
        lipschitz.parseval,
        (
            *_grid("temperature", *_TEMPERATURES, pull=0.01),
            *_grid("temperature", 3.0, 10.0, pull=0.1),
        ),
    ),
    "jacobian": Method(
        "Jacobian norm", gradients.jacobian, _grid("weight", 0.03, 0.1, 0.3, 1.0, 3.0)
    ),
    "input-gradient": Method(
        "input gradient", gradients.input_gradient, _grid("weight", 0.1, 1.0, 10.0, 100.0)
    ),
    "relational-distillation": Method(
        "relational distillation",
        distances.relational_distillation,
        _grid("weight", 0.1, 1.0, 10.0, 100.0),
    ),
    "first-order-margin": Method("RobustLoss", gradients.first_order_margin, _grid("eps", *_RADII)),
    "fgsm": Method("FGSM training", adversarial.fgsm, _grid("eps", *_RADII)),
    "pgd": Method("PGD-7 training", adversarial.pgd, _grid("eps", *_RADII)),
    "trades": Method(
        "TRADES",
        adversarial.trades,
        (*_grid("eps", 0.1, 0.2, beta=6.0), *_grid("eps", 0.1, 0.2, 0.3, beta=1.0)),
    ),
}

# beside another method, to find out what its effect is due to
CONTROLS: dict[str, Method] = {
    "isometry-control": Method("isometry's control", controls.isometry_control, ()),
    "feature-norm": Method("feature norm", controls.feature_norm, ()),
}

# tried for robustness: `robust --part search` has their settings, and each has its own control
GEOMETRY: dict[str, Method] = {
    "batch-pairs": Method("pairs of the batch", batch_pairs.batch_pairs, ()),
    "worst-case-pairs": Method("pairs with the worst case", worst_cases.worst_case_pairs, ()),
    "second-linearisation": Method("second linearisation", worst_cases.second_linearisation, ()),
}


def settings() -> list[tuple[str, Recipe]]:
    """Every method with every setting of its grid, as (name, recipe); cross-entropy first."""
    found: list[tuple[str, Recipe]] = [("cross-entropy", {})]
    for name, method in METHODS.items():
        found += [(name, {name: options}) for options in method.grid]
    return found


@contextmanager
def attach(model: nn.Module, recipe: Recipe) -> Iterator[Objective]:
    """Prepare a model for training by a recipe, and leave it plain afterwards.

    Args:
        model: Images with pixels from 0 to 1 to logits.
        recipe: Names in `METHODS` to options; empty for cross-entropy.

    Yields:
        The objective.

    Raises:
        ValueError: If a name is unknown, or two methods replace cross-entropy.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
        >>> with attach(model, {"isometry": {"beta": 0.1}}) as objective:
        ...     objective(images, labels, progress=0.0).backward()
    """
    known = METHODS | CONTROLS | GEOMETRY
    unknown = set(recipe) - set(known)
    if unknown:
        raise ValueError(f"methods are {', '.join(known)}, got {', '.join(sorted(unknown))}")
    with ExitStack() as stack:
        parts = []
        for name, options in recipe.items():
            part = known[name].build(model, **options)
            parts.append(part)
            if part.finish:
                stack.callback(part.finish)
        yield Objective(model, parts)
