"""Distances on disk, one for each pair of samples, so that later epochs and fits reuse them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoreg.errors import InputError

Array = NDArray[np.float64]
Pair = tuple[int, int]
Compute = Callable[[NDArray[np.int64], bool], Array]
_TRIED, _TRIED_A_ROW = 32, 8  # known pairs that are recomputed, to detect another metric
_LOOK_UP = "SELECT distance FROM pairs WHERE a = ? AND b = ?"


class PairCache:
    """A SQLite file of distances, keyed by what the two samples contain.

    A file holds the distances of one metric. A later fit, also on other samples, reuses them.

    Args:
        path: The file; it is created if it does not exist.
        metric: A name of the metric. A file that was made for another name is refused at once.
            `row` refuses a file whose distances differ from those of the metric: it computes 32
            known ones again, among the first that are asked for.

    Raises:
        InputError: If the file was made for another name, or not by this class.
    """

    def __init__(self, path: str | Path, metric: str) -> None:
        self.path = _checked_path(path)
        if str(path) == ":memory:":
            raise InputError("cache must be a file, got ':memory:', which is gone at once.")
        with self._open() as base:
            tables = base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if foreign := {name for (name,) in tables} - {"metric", "pairs"}:
                raise InputError(
                    "cache must be a file that this class made, or a new one, got "
                    f"{str(path)!r} with the table {min(foreign)!r}."
                )
            base.execute("CREATE TABLE IF NOT EXISTS metric (name TEXT)")
            base.execute(
                "CREATE TABLE IF NOT EXISTS pairs "
                "(a INT, b INT, distance REAL, PRIMARY KEY (a, b)) WITHOUT ROWID"
            )
            row = base.execute("SELECT name FROM metric").fetchone()
            if row is None:
                base.execute("INSERT INTO metric VALUES (?)", (metric,))
            base.commit()
        self._left_to_try = 0 if row is None else _TRIED
        if row is not None and row[0] != metric:
            raise InputError(
                f"cache must hold distances of {metric!r}, got those of {row[0]!r} in "
                f"{str(path)!r}. Use one file a metric."
            )

    def row(self, key: int, other_keys: list[int], compute: Compute) -> Array:
        """Distances from one sample to others; those that the file holds are not computed again.

        Args:
            key: The sample's key, from `sample_keys`.
            other_keys: The keys of the others.
            compute: A function of some places in ``other_keys`` and a truth value. It returns the
                distances from the sample to those others or, for True, from them to the sample.

        Returns:
            One distance for each of the others.

        Raises:
            InputError: If the file and the metric give different distances of a pair.
        """
        pairs = [(min(key, other), max(key, other)) for other in other_keys]
        with self._open() as base:
            # one look-up a pair, since SQLite reads the whole table for (a, b) IN (...)
            known: dict[Pair, float] = {}
            for pair in pairs:
                for (d,) in base.execute(_LOOK_UP, pair):
                    known[pair] = np.nan if d is None else d
            self._try(pairs, known, compute)
            missing = [place for place, pair in enumerate(pairs) if pair not in known]
            if missing:
                new_pairs = [pairs[place] for place in missing]
                new = list(zip(new_pairs, compute(np.array(missing), False).flat, strict=True))
                stored = [(*pair, None if np.isnan(d) else float(d)) for pair, d in new]
                base.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", stored)
                base.commit()
                known.update(new)
        return np.array([known[pair] for pair in pairs])

    def _try(self, pairs: list[Pair], known: dict[Pair, float], compute: Compute) -> None:
        """Compute some known pairs once more, because two metrics may have the same name."""
        places = [place for place, pair in enumerate(pairs) if pair in known]
        count = min(len(places), self._left_to_try, _TRIED_A_ROW)
        if not count:
            return
        self._left_to_try -= count
        # The tried pairs are spread: metrics may agree on near pairs only, or cap far ones alike.
        tried = np.array(places)[np.linspace(0, len(places) - 1, count).round().astype(np.int64)]
        stored = np.array([known[pairs[place]] for place in tried])
        computed = compute(tried, False).ravel()
        rounding = 1e-6 * float(np.nanmax(stored, initial=0))
        same = np.isclose(stored, computed, atol=rounding, equal_nan=True)
        if not same.all():  # d(a, b) and d(b, a) may differ by more than this rounding
            mirrored = compute(tried, True).ravel()
            same |= np.isclose(stored, mirrored, atol=rounding, equal_nan=True)
        if not same.all():
            first = int(np.flatnonzero(~same)[0])
            raise InputError(
                f"cache must hold distances of this metric, got {stored[first]:.6g} in "
                f"{str(self.path)!r} where it gives {computed[first]:.6g}. Use one file a metric."
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as base:
                yield base
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error


def _checked_path(path: str | Path) -> Path:
    """The path of a database, or of a file that does not exist or is empty."""
    try:
        expanded = Path(path).expanduser()
        with expanded.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return expanded
    except (OSError, RuntimeError, ValueError) as error:  # for example, no such user's home
        reason = str(error)
    else:
        if start in (b"", b"SQLite format 3\0"):  # SQLite writes over other files that are short
            return expanded
        reason = "it holds something else"
    raise _unusable(path, reason)


def _unusable(path: str | Path, reason: object) -> InputError:
    return InputError(
        "cache must be a file that this class made and may write to, or a new one in a folder that "
        f"exists, got {str(path)!r} ({reason})."
    )


def sample_keys(rows: NDArray[np.generic], *, places: bool) -> list[int]:
    """A 64-bit key of what each row contains, and of its place if the metric takes places."""
    keys = []
    for place, row in enumerate(np.ascontiguousarray(rows, dtype=np.float64)):
        content = row.tobytes() + (str(place).encode() if places else b"")
        digest = hashlib.blake2b(content, digest_size=8).digest()
        keys.append(int.from_bytes(digest, "big", signed=True))
    return keys
