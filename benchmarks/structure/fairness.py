"""Which trial is the control of which, and what the rule of `benchmarks.claims` is held against."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from benchmarks.claims import Entry, comparable
from benchmarks.results import Run
from benchmarks.structure.trials import Trial, constant_distance
from benchmarks.tables import runs_by

_OURS = ("isometry", "given-distances")


def is_ours(trial: Trial) -> bool:
    """Whether a trial is a method of ours, and no control."""
    constant = trial.options.get("distances") is constant_distance
    return trial.method in _OURS and not trial.options.get("shuffled") and not constant


def controls(trials: Mapping[str, Trial], without: Container[str] = ()) -> dict[str, str]:
    """By method of ours the trial that is the same, shuffled; "its control" where there is none.

    But for those of which it is said why they are ``without`` one.
    """
    found = {}
    for name, trial in trials.items():
        if is_ours(trial) and name not in without:
            shuffled = replace(trial, options={**trial.options, "shuffled": True}).describe()
            same = (other for other, each in trials.items() if each.describe() == shuffled)
            found[name] = next(same, "its control")
    return found


def entries(
    trials: Mapping[str, Trial], without: Mapping[str, str] | None = None
) -> dict[str, Entry]:
    """The entries of a study whose trials name what was tried and chosen."""
    tried = {name: trial.strengths for name, trial in trials.items()}
    chosen = {name: trial.strength for name, trial in trials.items()}
    return _entries(trials, tried, chosen, without or {})


def entries_of_runs(
    trials: Mapping[str, Trial],
    tries: Sequence[Run],
    chosen: Mapping[str, float],
    without: Mapping[str, str] | None = None,
) -> dict[str, Entry]:
    """The same with what was tried read off the runs on validation data.

    Strengths of a method at which its control was not tried took no part in the choice.
    """
    by_method, of = runs_by(tries, "method"), controls(trials, without or ())
    tried = {n: [run["key"]["strength"] for run in by_method.get(n, [])] for n in trials}
    shared = {n: comparable(tried[n], tried.get(of.get(n, ""))) for n in trials}
    return _entries(trials, shared, chosen, without or {})


def _entries(
    trials: Mapping[str, Trial],
    tried: Mapping[str, Sequence[float]],
    chosen: Mapping[str, float],
    without: Mapping[str, str],
) -> dict[str, Entry]:
    of = controls(trials, without)
    return {
        name: Entry(
            tuple(tried[name]) if len(tried[name]) > 1 else (),
            chosen.get(name),
            of.get(name, ""),
            without.get(name, ""),
        )
        for name in trials
        if name in chosen
    }
