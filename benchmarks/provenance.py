"""The commits that runs come from, and a sentence for tables if a commit cannot be looked up."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.results import Run

LOST = frozenset([
    *("1a4a65c", "1a6f507", "1c09866", "27dea7d", "358b63f", "3b5b47c", "482bb33", "5c0bd80"),
    *("64b47d9", "7045502", "7d5ce45", "82b8a9e", "92ea113", "9db321c", "a710c97", "ca93c7b"),
    *("cce997d", "d0ff07a", "d3f7f70", "e6f95c3", "f3e4deb", "f7ed043"),
])
"""Commits that runs name but the history does not have. A test looks up every other commit."""
_CHANGED = " with changes"


def doubts(runs: Iterable[Run]) -> str:
    """The sentence on runs whose source code cannot be looked up; "" if all can be."""
    runs = list(runs)
    commits = [run.get("commit") for run in runs]
    unnamed = sum(commit is None for commit in commits)
    named = [commit for commit in commits if commit is not None]
    changed = sum(commit.endswith(_CHANGED) for commit in named)
    lost = sum(commit in LOST for commit in named)
    reasons = (
        (lost, "name a commit that the history does not have"),
        (changed, "were made with changes that no commit holds"),
        (unnamed, "name no commit"),
    )
    phrases = [f"{count} {reason}" for count, reason in reasons if count]
    return f"Provenance: of {len(runs)} runs, {', '.join(phrases)}." if phrases else ""
