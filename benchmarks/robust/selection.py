"""Which variants of the search go on, from the runs so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from benchmarks.results import Run
from benchmarks.robust.variants import VARIANTS, Variant


@dataclass(frozen=True)
class SearchSettings:
    """The search, on validation images.

    A run's score is the mean of its worst cases at ``radii``. Of each variant, and of each control,
    that setting counts which has the best score on seed 0, among those with a clean accuracy of
    ``clean_floor`` or more if there are any. Variants that beat their baseline by more than
    ``noise`` get their control first; those that beat the control by as much get more seeds. What
    then is ahead of baseline and control by two standard errors of the difference is trained on all
    60,000 images and measured on test images.
    """

    epochs: int = 6
    train_images: int | None = None
    images: int = 1000
    radii: tuple[float, ...] = (0.1, 0.2)
    attacks: tuple[str, ...] = ("pgd-margin", "apgd-t")
    clean_floor: float = 0.95
    noise: float = 0.01
    timing_seconds: float = 40.0
    # the last ones; None for all
    variants: int | None = None

    def quick(self) -> SearchSettings:
        """A version that takes seconds; its figures mean nothing."""
        return replace(
            self,
            epochs=1,
            train_images=500,
            images=20,
            attacks=("pgd-margin",),
            noise=-1.0,
            timing_seconds=0.1,
            variants=1,
        )

    @property
    def tried(self) -> Mapping[str, Variant]:
        """The variants by their title."""
        return dict(list(VARIANTS.items())[-(self.variants or len(VARIANTS)) :])


def score(run: Run) -> float:
    """Mean of the worst cases."""
    shares: list[float] = list(run["figures"]["worst case"].values())
    return mean(shares)


def best(
    runs: Sequence[Run], title: str, settings: SearchSettings, *, control: bool = False
) -> Run | None:
    """The setting that counts, of what was tried on seed 0."""
    wanted = {"phase": "search", "training": title, "control": control, "seed": 0}
    found = [run for run in runs if wanted.items() <= run["key"].items()]
    accurate = [run for run in found if run["figures"]["clean"] >= settings.clean_floor]
    return max(accurate or found, key=score, default=None)


def ahead_of_baseline(runs: Sequence[Run], settings: SearchSettings) -> list[str]:
    """Variants that beat their baseline on seed 0 by more than the noise, the best first."""
    gains = {}
    for title, variant in settings.tried.items():
        gap = _gap(best(runs, title, settings), best(runs, variant.baseline, settings))
        if gap is not None and gap > settings.noise:
            gains[title] = gap
    return sorted(gains, key=lambda title: -gains[title])


def promising(runs: Sequence[Run], settings: SearchSettings) -> list[str]:
    """Those of them that beat their control by as much, or have none."""
    found = []
    for title in ahead_of_baseline(runs, settings):
        control = best(runs, title, settings, control=True)
        gap = _gap(best(runs, title, settings), control)
        if settings.tried[title].control is None or (gap is not None and gap > settings.noise):
            found.append(title)
    return found


def kept(runs: Sequence[Run], settings: SearchSettings) -> list[str]:
    """Those of them that are ahead of baseline and control over all seeds."""
    found = []
    for title in promising(runs, settings):
        variant = settings.tried[title]
        gaps = [differences(runs, title, variant.baseline, settings)]
        if variant.control is not None:
            gaps.append(differences(runs, title, title, settings, control=True))
        if all(map(is_ahead, gaps)):
            found.append(title)
    return found


def differences(
    runs: Sequence[Run],
    title: str,
    other: str,
    settings: SearchSettings,
    *,
    control: bool = False,
    phase: str = "search",
) -> list[float]:
    """Score of a variant minus that of another training, or of a control, seed by seed."""
    first, second = (
        {run["key"]["seed"]: score(run) for run in of_seeds(runs, chosen, phase)}
        for chosen in (
            best(runs, title, settings),
            best(runs, other, settings, control=control),
        )
    )
    return [first[seed] - second[seed] for seed in first if seed in second]


def of_seeds(runs: Sequence[Run], chosen: Run | None, phase: str = "search") -> list[Run]:
    """The runs of a setting on all seeds."""
    if chosen is None:
        return []
    wanted = {**chosen["key"], "phase": phase}
    del wanted["seed"]
    return [run for run in runs if wanted.items() <= run["key"].items()]


def is_ahead(gaps: Sequence[float]) -> bool:
    """Whether the mean lies more than two standard errors above 0."""
    return len(gaps) > 1 and mean(gaps) > 2 * stdev(gaps) / len(gaps) ** 0.5


def _gap(first: Run | None, second: Run | None) -> float | None:
    return None if first is None or second is None else score(first) - score(second)
