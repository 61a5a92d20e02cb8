"""Compare numbers on documentation pages with the committed tables, which are made from runs.

A mark is a comment in the page's source. A mark in front of a table names, for each of its columns
and rows, the column or row of a committed table that holds the same numbers. "-" stands for a
column or row without such numbers, "-*3" for three of them in a row::

    <!-- figures: mnist | Accuracy and geometry (the paper's table 1)
    columns: - | test accuracy % | -
    rows: 0 | 0.1 | 10 -->

A mark behind a number in a sentence names file, heading, row and column::

    40 % <!-- figure: structure-cifar | Animal or vehicle | isometry, contrastive | 10 a class -->

If a cell holds several numbers ("36.4 / 3.0", "0.3 (0.2)", "0.9 to 1.1", "5, 16"), their columns
are joined by " + ".

The heading is the last one above the committed table, or the last ones, joined by " / "; a second
table below the same heading has " #2" behind it. A row is named by its first cell, or by its first
two, joined by " / ", if the first cell is not unique. A table on a page may have several marks,
each for the rows and columns that come from one committed table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.check import RESULTS

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_BLOCK = re.compile(r"((?:<!-- figures: [^>]*?-->\n+)+)((?:\|.*\n)+)")
_IN_BLOCK = re.compile(r"<!-- figures: (.*?)\ncolumns: (.*?)\nrows: (.*?) -->", re.DOTALL)
_INLINE = re.compile(r"([-\d.,]+)(?: %| points?)?\s*<!-- figure: (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A Markdown table: the headings above it, its header, and its rows."""

    heading: str
    header: list[str]
    rows: list[list[str]]

    def names(self) -> list[str]:
        """Names of the rows: the first cell if it is unique, else the first two, joined by " / ".

        An empty first cell repeats the one above it.
        """
        firsts: list[str] = []
        for cells in self.rows:
            firsts.append(cells[0] or (firsts[-1] if firsts else ""))
        return [
            first if firsts.count(first) == 1 else f"{first} / {cells[1]}"
            for first, cells in zip(firsts, self.rows, strict=True)
        ]


@dataclass(frozen=True)
class Mark:
    """A marked number: its text on the page, and its place in a committed table.

    Attributes:
        shown: Text of the number on the page.
        file: Name of the results file, without a suffix.
        heading: Heading above the committed table.
        row: Name of the row, as `Table.names` gives it.
        column: Title of the column.
    """

    shown: str
    file: str
    heading: str
    row: str
    column: str

    def borne(self) -> str:
        """The committed cell that holds the number."""
        return find(self.file, self.heading, self.row, self.column)

    def __str__(self) -> str:
        return " | ".join((self.file, self.heading, self.row, self.column))


def marks(text: str) -> Iterator[Mark]:
    """Yield one `Mark` for each marked number of a page.

    Raises:
        ValueError: If a mark does not fit its table.
    """
    blocks = (
        (mark, table)
        for comments, table in _BLOCK.findall(text)
        for mark in _IN_BLOCK.findall(comments)
    )
    for (where, columns, rows), table in blocks:
        file, heading = _split(where, 2)
        (page,) = tables_of(table)
        names, titles = _names(rows), _names(columns)
        if (len(names), len(titles)) != (len(page.rows), len(page.header)):
            raise ValueError(
                f"marks: a mark names each column and row of its table, got {len(titles)} columns "
                f"and {len(names)} rows for {len(page.header)} and {len(page.rows)}: {where}"
            )
        for name, cells in zip(names, page.rows, strict=True):
            for title, cell in zip(titles, cells, strict=True):
                columns_of_cell = title.split(" + ")
                parts = _parts(cell, len(columns_of_cell))
                for part, column in zip(parts, columns_of_cell, strict=True):
                    if "-" not in (name, column) and _NUMBER.search(part):
                        yield Mark(part, file, heading, name, column)
    for shown, where in _INLINE.findall(text):
        yield Mark(shown, *_split(where, 4))


def _names(line: str) -> list[str]:
    """The names between the bars; ``-*3`` is read as three names ``-``."""
    parts = re.split(r"\s*\|\s*", line.strip())
    counts = [re.fullmatch(r"-\*(\d+)", part) for part in parts]
    return [
        name
        for part, many in zip(parts, counts, strict=True)
        for name in (["-"] * int(many[1]) if many else [part])
    ]


def _parts(cell: str, count: int) -> list[str]:
    parts = re.split(r" / |, | to | \(", cell) if count > 1 else [cell]
    return parts if len(parts) == count else [""] * count


def _split(where: str, count: int) -> list[str]:
    parts = re.split(r"\s*\|\s*", " ".join(where.split()))
    if len(parts) != count:
        raise ValueError(f"marks: a mark has {count} parts, got {where!r}")
    return parts


def agrees(shown: str, borne: str) -> bool:
    """Whether a page shows the numbers of a cell, or the first of them, equal or rounded."""
    page, cell = (_numbers(text) for text in (shown, borne))
    return 0 < len(page) <= len(cell) and all(map(_same, page, cell))


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def _same(shown: str, borne: str) -> bool:
    digits, most = (len(text.partition(".")[2]) for text in (shown, borne))
    # The cell is rounded already, so each of the two roundings may be off by half a unit.
    off = 0.5 * 10**-digits + 0.5 * 10**-most if digits < most else 0
    return digits <= most and abs(float(shown) - float(borne)) <= off + 1e-9


def find(file: str, heading: str, row: str, column: str) -> str:
    """The cell of a committed table.

    Raises:
        ValueError: If there is no such cell, or more than one.
    """
    cells = [
        cells[table.header.index(column)]
        for table in committed_tables(file)
        if f" / {table.heading}".endswith(f" / {heading}") and table.header.count(column) == 1
        for name, cells in zip(table.names(), table.rows, strict=True)
        if row == name
    ]
    if len(cells) != 1:
        raise ValueError(
            f"find: one cell of {file}.md under {heading!r} in row {row!r} and column {column!r} "
            f"is needed, got {len(cells)}"
        )
    return cells[0]


@cache
def committed_tables(file: str) -> Sequence[Table]:
    """The tables of a committed Markdown file."""
    return tables_of((RESULTS / f"{file}.md").read_text())


def tables_of(text: str) -> list[Table]:
    """All tables of a Markdown text, each with the headings above it."""
    tables: list[Table] = []
    headings: list[str] = []
    lines: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([_plain(cell) for cell in line.strip().strip("|").split("|")])
        elif lines:
            heading = " / ".join(headings[1:] or headings)
            again = sum(re.sub(r" #\d+$", "", table.heading) == heading for table in tables)
            heading += f" #{again + 1}" if again else ""
            tables.append(Table(heading, lines[0], lines[2:]))
            lines = []
        if level := re.match(r"(#+) (.*)", line):
            headings = [*headings[: len(level[1]) - 1], level[2]]
    return tables


def _plain(cell: str) -> str:
    return re.sub(r"\*\*|`", "", cell).strip()
