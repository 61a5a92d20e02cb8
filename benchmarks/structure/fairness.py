"""Which trial is the control of which, and the entries that `benchmarks.claims` checks."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.claims import Entry, comparable
from benchmarks.results import Found, Run
from benchmarks.structure.training import SLACK, chosen_strengths, tries
from benchmarks.structure.trials import Trial, constant_distance
from benchmarks.tables import runs_by

_OURS = ("isometry", "given-distances")


def is_ours(trial: Trial) -> bool:
    """Whether a trial is one of our methods and not a control."""
    constant = trial.options.get("distances") is constant_distance
    return trial.method in _OURS and not trial.options.get("shuffled") and not constant


def controls(trials: Mapping[str, Trial], without: Container[str] = ()) -> dict[str, str]:
    """For each of our methods the name of its control: the same trial, but shuffled.

    A missing one is called "its control", which `benchmarks.claims` refuses. Methods in ``without``
    need none and are left out.
    """
    control_of = {}
    for name, trial in trials.items():
        if is_ours(trial) and name not in without:
            shuffled = replace(trial, options={**trial.options, "shuffled": True}).describe()
            matches = (
                other for other, candidate in trials.items() if candidate.describe() == shuffled
            )
            control_of[name] = next(matches, "its control")
    return control_of


def entries(
    trials: Mapping[str, Trial], without: Mapping[str, str] | None = None
) -> dict[str, Entry]:
    """The entries of a study whose trials say themselves which strengths were tried and chosen."""
    tried = {name: trial.strengths for name, trial in trials.items()}
    chosen = {name: trial.strength for name, trial in trials.items()}
    return _entries(trials, tried, chosen, without or {})


@dataclass(frozen=True)
class Choice:
    """How the strengths of trials are chosen from their runs on validation data.

    ``without`` says why some of our methods have no control; `chosen_strengths` explains ``slack``
    and ``by``.
    """

    trials: Mapping[str, Trial]
    without: Mapping[str, str] = field(default_factory=dict)
    slack: float = SLACK
    by: str = "10 a class"

    def strengths(self, runs: list[Run]) -> dict[str, float]:
        """The chosen strength of each trial, from those of the runs that are tries."""
        control_of = controls(self.trials, self.without)
        return chosen_strengths(tries(runs), slack=self.slack, by=self.by, controls=control_of)

    def entries(self, results: Found) -> dict[str, Entry]:
        """The entries; strengths count as tried where the control was tried at them too."""
        by_method = runs_by(tries(results["runs"]), "method")
        control_of, trials = controls(self.trials, self.without), self.trials
        tried = {n: [run["key"]["strength"] for run in by_method.get(n, [])] for n in trials}
        shared = {n: comparable(tried[n], tried.get(control_of.get(n, ""))) for n in trials}
        return _entries(trials, shared, self.strengths(results["runs"]), self.without)


def _entries(
    trials: Mapping[str, Trial],
    tried: Mapping[str, Sequence[float]],
    chosen: Mapping[str, float],
    without: Mapping[str, str],
) -> dict[str, Entry]:
    control_of = controls(trials, without)
    return {
        name: Entry(
            tuple(tried[name]) if len(tried[name]) > 1 else (),
            chosen.get(name),
            control_of.get(name, ""),
            without.get(name, ""),
        )
        for name in trials
        if name in chosen
    }
