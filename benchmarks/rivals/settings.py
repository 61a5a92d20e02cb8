"""What determines the figures, and the rule by which a setting is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """The paper's MLP and training; the rest was fixed before the first run.

    For each method the setting is taken that has, on validation images, the largest mean of its
    worst cases at ``chosen_at`` among those with a clean accuracy of ``clean_floor`` or more; if
    there are none, the one with the largest clean accuracy.
    """

    width: int = 100
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    train_images: int = 50_000
    validation_images: int = 1_000
    test_images: int = 1_000
    chosen_at: tuple[float, ...] = (0.1, 0.2)
    clean_floor: float = 0.95
    choosing_attacks: tuple[str, ...] = ("pgd-ce", "pgd-margin")
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)
    attacks: tuple[str, ...] = (
        *("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "square", "noise"),
    )
    eps_l2: tuple[float, ...] = (1.0, 2.0)
    attacks_l2: tuple[str, ...] = ("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "noise")
    # which settings of each grid are tried
    tried: tuple[int, int] = (0, 100)
    timing_seconds: float = 40.0

    def short(self) -> Settings:
        """A fifth of the computing: two epochs, the middle of each grid, fewer images."""
        return replace(
            self,
            epochs=2,
            validation_images=300,
            test_images=200,
            clean_floor=0.93,
            tried=(1, 4),
        )

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        return replace(
            self,
            epochs=1,
            train_images=500,
            validation_images=50,
            test_images=50,
            attacks=("fgsm", "pgd-ce"),
            attacks_l2=("pgd-ce",),
            tried=(0, 1),
            timing_seconds=0.1,
        )
