"""The rule of what a table may publish: no method without a control that had the same chances.

A method of ours stands in a table only with its control, or with the reason why it has none. The
control must have been tried, on the same validation images and by the same rule, at every strength
from which the method was chosen. If the smallest or largest strength was chosen, the page says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Run

Grid = tuple[float, ...]


class Unfair(ValueError):  # noqa: N818 (it says what the table would be)
    """Raised in place of a table whose rows did not have the same chances."""


@dataclass(frozen=True)
class Entry:
    """How the strength of a table's row was chosen, and which row is its control.

    Attributes:
        tried: Strengths that were compared on validation data; empty if nothing was chosen.
        chosen: The strength of the row; None if the method has none.
        control: Name of the row that is its control; empty for a rival or a control.
        without: Why the method has no control; the page prints this sentence.
    """

    tried: Grid = ()
    chosen: float | None = None
    control: str = ""
    without: str = ""


def demand_controls(entries: Mapping[str, Entry]) -> None:
    """Refuse a row whose control is missing, or was not tried at every strength of the row.

    Raises:
        Unfair: If that is so, or if a row's strength is not among those that were tried; if nothing
            was tried, row and control must have the same strength.
    """
    for name, entry in entries.items():
        if entry.chosen is not None and entry.tried and entry.chosen not in entry.tried:
            raise Unfair(f"{name!r}: its strength {entry.chosen:g} is none of {text(entry.tried)}")
        if not entry.control or entry.without:
            continue
        control = entries.get(entry.control)
        if control is None:
            raise Unfair(
                f"{name!r}: its control {entry.control!r} is not in the table. Measure it, or say "
                "in `without` why there is none."
            )
        if lacking := sorted(set(entry.tried) - set(control.tried)):
            raise Unfair(
                f"{name!r} was chosen from {text(entry.tried)}, its control {entry.control!r} from "
                f"{text(control.tried)}: try the control at {text(lacking)} too."
            )
        if not entry.tried and entry.chosen != control.chosen:
            raise Unfair(
                f"{name!r} has strength {entry.chosen}, its control {control.chosen}, and neither "
                "was chosen: give both the same."
            )


RAW = ("raw pixels", "the points", "pixels, no network", "the data, no map")
"""Names of the rows in which the raw inputs are probed and no network is trained."""
_PROBED = ("few-shot", "kNN", "unseen digits, recall at 1")


def demand_raw_inputs(runs: Iterable[Run]) -> None:
    """Refuse a table of probed features that has no row of the probed raw inputs.

    Raises:
        Unfair: If some run probes features and no run probes the inputs.
    """
    runs = list(runs)
    probed = [run for run in runs if _names(run["figures"]) & set(_PROBED)]
    raw = [run for run in probed if set(RAW) & {str(value) for value in run["key"].values()}]
    if probed and not raw:
        raise Unfair(
            "features are probed and the inputs are not: whoever still has them may do better with "
            "them. Measure a row of the inputs, or say in `without_raw` where they stand."
        )


def _names(figures: Mapping[str, Any]) -> set[str]:
    """Names of the figures, also of those that are nested one level deeper."""
    groups = [figures, *(group for group in figures.values() if isinstance(group, dict))]
    return {name for group in groups for name in group}


def comparable(tried: Iterable[float], of_control: Iterable[float] | None) -> Grid:
    """The strengths that may take part in the choice, sorted.

    With a control these are the strengths that the control was tried at too; without one, all.
    """
    allowed = set(tried) if of_control is None else set(tried) & set(of_control)
    return tuple(sorted(allowed))


def ends(entries: Mapping[str, Entry]) -> str:
    """Sentences that name the rows whose smallest or largest strength was chosen; "" if none."""
    named: dict[str, list[str]] = {"largest": [], "smallest": []}
    for name, entry in entries.items():
        if len(entry.tried) < 2:
            continue
        for which, end in (("largest", max(entry.tried)), ("smallest", min(entry.tried))):
            if entry.chosen == end:
                named[which].append(f"{name} ({end:g} of {len(entry.tried)})")
    beyond = {
        "largest": "so the best may lie beyond",
        "smallest": "below which it comes to training without it",
    }
    return " ".join(
        f"Chosen at the {which} of what was tried, {beyond[which]}: {'; '.join(rows)}."
        for which, rows in named.items()
        if rows
    )


def without_control(entries: Mapping[str, Entry]) -> str:
    """The sentence that names the rows without a control, each with its reason; "" if none."""
    reasons = [f"{name} ({entry.without})" for name, entry in entries.items() if entry.without]
    return f"Without a control: {'; '.join(reasons)}." if reasons else ""


def below(entries: Mapping[str, Entry]) -> str:
    """The sentences that stand below a table, once its rows have passed `demand_controls`.

    Raises:
        Unfair: If `demand_controls` refuses the rows.
    """
    demand_controls(entries)
    return " ".join(sentence for sentence in (without_control(entries), ends(entries)) if sentence)


def text(grid: Iterable[float]) -> str:
    """Strengths as text, sorted."""
    return ", ".join(f"{strength:g}" for strength in sorted(grid))
