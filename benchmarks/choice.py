"""The rule by which settings are chosen among runs on validation data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.results import Figures, Run
from benchmarks.study import Lacking
from benchmarks.tables import lookup


def best_of(
    tried: Sequence[Run],
    score: str | Callable[[Figures], float],
    *,
    accuracy: str = "clean",
    floor: float,
) -> Run:
    """The run with the best score among the accurate ones; if none is, the most accurate run.

    Args:
        tried: Runs of one method.
        score: Path of the score in a run's figures, or a function of the figures.
        accuracy: Path of the accuracy in a run's figures.
        floor: Least accuracy at which a run counts as accurate.

    Raises:
        Lacking: If there are no runs yet.
    """
    if not tried:
        raise Lacking
    accurate = [run for run in tried if lookup(run["figures"], accuracy) >= floor]
    by = score if accurate else accuracy

    def value(run: Run) -> float:
        figure: float = by(run["figures"]) if callable(by) else lookup(run["figures"], by)
        return figure

    return max(accurate or tried, key=value)
