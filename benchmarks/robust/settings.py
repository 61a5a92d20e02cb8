"""What determines the figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.robust.training import Schedule


@dataclass(frozen=True)
class Settings:
    """The experiment; ``None`` images are all of them."""

    train_images: int | None = None
    # the choice: PGD on the margin, one start, on every fifth validation image
    choice_images: int = 2000
    choice_radii: tuple[float, ...] = (0.1, 0.2)
    choice_steps: int = 30
    # the measurement: every tenth test image
    test_images: int = 1000
    linf: tuple[float, ...] = (0.1, 0.2, 0.3)
    l2: tuple[float, ...] = (1.0, 2.0)
    epochs_at_most: int | None = None
    timing_seconds: float = 30.0

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        return replace(
            self,
            train_images=2000,
            choice_images=100,
            choice_steps=3,
            test_images=50,
            linf=(0.1,),
            l2=(1.0,),
            epochs_at_most=1,
            timing_seconds=0.1,
        )

    def shortened(self, schedule: Schedule) -> Schedule:
        """The schedule, with at most ``epochs_at_most`` epochs."""
        if self.epochs_at_most is None:
            return schedule
        return replace(schedule, epochs=min(schedule.epochs, self.epochs_at_most))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
