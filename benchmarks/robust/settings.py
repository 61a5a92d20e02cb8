"""What determines the figures, and the rule by which settings are chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.robust.training import Schedule


@dataclass(frozen=True)
class Settings:
    """The experiment.

    For each method recipe, optimizer and rate are taken that have, on validation images, the
    largest mean of the clean accuracy and those at ``choice_radii``, among those with a clean
    accuracy of ``clean_floor`` or more; if there are none, those with the largest clean accuracy.
    The choice is trained on the first 50,000 images, what is measured on all 60,000.
    """

    networks: tuple[str, ...] = ("relu", "tanh")
    train_images: int | None = None
    clean_floor: float = 0.965
    choice_images: int = 2000
    choice_radii: tuple[float, ...] = (0.1, 0.2)
    choice_steps: int = 30
    recipes_each: int = 10
    other_rate: bool = True
    test_images: int = 1000
    linf: tuple[float, ...] = (0.1, 0.2, 0.3)
    l2: tuple[float, ...] = (1.0, 2.0)
    # of the second run of the recipe on seed 0
    last_preset: str = "full"
    longest: int = 1000
    timing_seconds: float = 40.0

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        return replace(
            self,
            networks=("tanh",),
            train_images=1000,
            choice_images=50,
            choice_steps=2,
            recipes_each=1,
            other_rate=False,
            test_images=20,
            linf=(0.1,),
            l2=(),
            last_preset="quick",
            longest=1,
            timing_seconds=0.1,
        )

    def shortened(self, schedule: Schedule) -> Schedule:
        """The schedule, with at most ``longest`` epochs."""
        return replace(schedule, epochs=min(schedule.epochs, self.longest))
