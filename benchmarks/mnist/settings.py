"""What determines the figures of the MNIST experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

ConventionName = Literal["text", "code"]


@dataclass(frozen=True)
class Convention:
    """Where the paper's text and its released code disagree.

    The code has an input layer before its four hidden ones, initialises those orthogonally,
    computes in float64 and multiplies the feature distances by a constant K.
    """

    hidden_layers: int
    scale: float
    dtype: str
    orthogonal: bool


CONVENTIONS: dict[ConventionName, Convention] = {
    "text": Convention(hidden_layers=4, scale=1.0, dtype="float32", orthogonal=False),
    "code": Convention(hidden_layers=5, scale=10.0, dtype="float64", orthogonal=True),
}


@dataclass(frozen=True)
class Settings:
    """The experiment; the defaults are the paper's where it names them."""

    convention: ConventionName = "text"
    betas: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    width: int = 100
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    train_images: int = 60_000
    test_images: int = 10_000
    # the paper's attacks: np.logspace(-2, 0, 10), as FGSM's eps and as PGD's step
    attack_sizes: tuple[float, ...] = tuple(round(10 ** (-2 + 2 * i / 9), 6) for i in range(10))
    paper_ball: float = 0.5
    paper_steps: int = 10
    # the standard attack: PGD on cross-entropy and on the margin, worst case per image
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    steps: int = 40
    relative_step: float = 2.5

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        return replace(
            self,
            betas=(0.0, 0.1),
            epochs=1,
            train_images=10_000,
            test_images=500,
            eps=(0.1,),
        )

    @property
    def of_convention(self) -> Convention:
        """The convention by its name."""
        return CONVENTIONS[self.convention]

    def step_size(self, eps: float) -> float:
        """Step of the standard PGD: the whole ball can be crossed 1.25 times."""
        return self.relative_step * eps / self.steps

    def __post_init__(self) -> None:
        if self.test_images % self.batch_size:
            raise ValueError("test_images must be whole batches: the paper's attack pairs them")
        if not all(math.isfinite(beta) and beta >= 0 for beta in self.betas):
            raise ValueError(f"betas must be finite and >= 0, got {self.betas}")
