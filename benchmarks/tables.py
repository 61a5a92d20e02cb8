"""Markdown tables of means and spreads over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def percent(shares: Sequence[float]) -> str:
    """Mean of shares in percent, with the sample standard deviation over seeds if there are any."""
    return spread([100 * share for share in shares], digits=1)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the sample standard deviation if there are several values."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text
