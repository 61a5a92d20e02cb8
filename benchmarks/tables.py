"""Markdown tables of means and spreads over seeds, made from declared columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.results import Figures, Found, Run

Values = Sequence[float]


def percent(shares: Values) -> str:
    """Mean of shares in percent, with the sample standard deviation if there are several."""
    return spread([100 * share for share in shares], digits=1)


def spread(values: Values, digits: int) -> str:
    """Mean as text, with the sample standard deviation if there are several values."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


@dataclass(frozen=True)
class Column:
    """One column: which figure of a row's runs it shows, and how the figure is written.

    Attributes:
        title: Title of the column.
        figure: Path in the figures of a run, such as "distortion/stress", or a function of these
            figures. Runs for which it gives None are left out; a string is written unchanged.
        digits: Digits behind the point; None: the figure is a share, in percent with one digit.
        form: Format of the mean, such as ".2g", written without the spread; replaces ``digits``.
        text: Function from the figures of all runs of the row to the cell; replaces all above.
        empty: Text of the cell if no run has the figure.
    """

    title: str
    figure: str | Callable[[Figures], Any] = ""
    digits: int | None = None
    form: str = ""
    text: Callable[[Sequence[Figures]], str] | None = None
    empty: str = ""

    def cell(self, runs: Sequence[Figures]) -> str:
        """The text of the cell in the row of these runs."""
        if self.text:
            return self.text(runs)
        values = [value for figures in runs if (value := self.value(figures)) is not None]
        if not values:
            return self.empty
        if isinstance(values[0], str):
            return values[0]
        if self.form:
            return f"{mean(values):{self.form}}"
        return percent(values) if self.digits is None else spread(values, self.digits)

    def value(self, figures: Figures) -> Any:
        """The figure of one run; None if the run does not have it."""
        return self.figure(figures) if callable(self.figure) else lookup(figures, self.figure)


SEEDS = Column("seeds", text=lambda runs: str(len(runs)))


def lookup(figures: Figures, path: str) -> Any:
    """The entry at a path such as "distortion/stress"; None if a name is missing.

    A name is the place in a list; a place behind the list's end raises an IndexError.
    """
    entry: Any = figures
    for name in path.split("/"):
        if isinstance(entry, list):
            entry = entry[int(name)]
        else:
            entry = entry.get(name) if isinstance(entry, dict) else None
    return entry


def runs_by(
    runs: Iterable[Run], by: str | tuple[str, ...] | Callable[[Run], Any]
) -> dict[Any, list[Run]]:
    """Group runs by one or several entries of their keys or by a function; their order is kept."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if callable(by):
            name = by(run)
        else:
            key = run["key"]
            name = key[by] if isinstance(by, str) else tuple(key[entry] for entry in by)
        groups.setdefault(name, []).append(run)
    return groups


def grouped(
    runs: Iterable[Run], by: str | tuple[str, ...] | Callable[[Run], Any]
) -> dict[Any, list[Figures]]:
    """Group runs as `runs_by` does, and return only their figures."""
    return {name: [run["figures"] for run in group] for name, group in runs_by(runs, by).items()}


def with_keys(results: Found, **entries: Any) -> list[Run]:
    """The runs whose keys contain these entries."""
    return [run for run in results["runs"] if entries.items() <= run["key"].items()]


def table(
    head: str | Sequence[str],
    groups: Mapping[Any, Sequence[Figures]] | Iterable[tuple[Any, Sequence[Figures]]],
    columns: Sequence[Column],
) -> str:
    """A Markdown table with one row per group: its name, or names, then its cells."""
    heads = [head] if isinstance(head, str) else list(head)
    rows = []
    for name, runs in groups.items() if isinstance(groups, Mapping) else groups:
        names = name if isinstance(name, tuple) else (name,)
        rows.append([*map(str, names), *(column.cell(runs) for column in columns)])
    return markdown_table([*heads, *(column.title for column in columns)], rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def page(*parts: str) -> str:
    """Paragraphs, headings and tables as one text; empty parts are left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def count(number: int, noun: str) -> str:
    """A number with its noun, for example "1 seed" or "3 seeds"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seeds_of(results: Found) -> int:
    """The number of different seeds among the runs."""
    return len({run["key"]["seed"] for run in results["runs"] if "seed" in run["key"]})
