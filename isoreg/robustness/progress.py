"""A progress bar over the attacks of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from isoreg.errors import import_extra

Item = tuple[str, float]


def shown(items: Sequence[Item], progress: bool | None) -> Iterator[Item]:
    """Go through names of attacks and radii, with a bar on standard error if that is asked for.

    With None there is a bar if standard error is a terminal and tqdm is installed.

    Yields:
        The items.
    """
    if progress is None:
        progress = sys.stderr.isatty() and find_spec("tqdm") is not None
    if not progress:
        yield from items
        return
    with import_extra("tqdm", "attacks").tqdm(total=len(items), unit="attack", leave=False) as bar:
        for name, radius in items:
            bar.set_description(f"{name}, eps {radius:g}")
            yield name, radius
            bar.update()
