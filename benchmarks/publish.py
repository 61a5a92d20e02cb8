"""What every benchmark does with its results: print the tables, save them, draw the figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.results import Results, write_atomically


def publish(
    results: Results,
    console: Console,
    tables: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Save the tables (.md) and the figure (.png) beside the results, and print the tables."""
    found = results.to_dict()
    text = tables(found)
    write_atomically(results.path.with_suffix(".md"), text)
    if draw:
        draw(found, results.path.with_suffix(".png"))
    console.print(Markdown(text))
