"""isoreg: keep the distances of a model's inputs in its representations, class by class.

>>> import torch
>>> from isoreg import IsometryRegularizer
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
>>> iso = IsometryRegularizer(model, beta=0.1)
>>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
>>> loss = torch.nn.functional.cross_entropy(model(x), y) + iso(y)
"""

import importlib
from types import ModuleType

from isoreg import datasets, diagnostics, distances, lil, masks, plots, references, robustness
from isoreg._attach.balance import AutoBeta
from isoreg.errors import (
    InputError,
    IsoregError,
    LayerError,
    MissingExtraError,
    RankError,
    RecordError,
)
from isoreg.head import ReferenceHead
from isoreg.memory import FeatureQueue
from isoreg.penalty import isometry_penalty
from isoreg.regularizer import IsometryRegularizer
from isoreg.robustness.local import RobustLoss

__version__ = "0.1.0"
_WITH_EXTRAS = ("embedding", "integrations")

__all__ = [
    "AutoBeta",
    "FeatureQueue",
    "InputError",
    "IsometryRegularizer",
    "IsoregError",
    "LayerError",
    "MissingExtraError",
    "RankError",
    "RecordError",
    "ReferenceHead",
    "RobustLoss",
    "datasets",
    "diagnostics",
    "distances",
    "isometry_penalty",
    "lil",
    "masks",
    "plots",
    "references",
    "robustness",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_EXTRAS})


def __getattr__(name: str) -> ModuleType:
    """Import a package that needs an extra when it is first used."""
    if name in _WITH_EXTRAS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
