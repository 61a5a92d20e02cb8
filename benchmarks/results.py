"""Results of a study: saved after every run, each with the fingerprint of what determines it.

A file holds the name of its ``study``, the ``settings`` and the ``environment`` of the command that
began it, the use of its ``images``, its ``runs``, and in ``made``, by fingerprint, what determines
a run besides its key. A run has a flat ``key``, its ``figures``, the ``commit`` and its
fingerprint, ``made``. Two runs are the same if both key and fingerprint are equal. So a wider grid
or other settings add runs, and no run is ever replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environment import environment

Run = dict[str, Any]
Key = dict[str, Any]
Figures = dict[str, Any]
Found = dict[str, Any]
"""What tables and figures are made of: settings, environment and runs."""
_NUMBERS = re.compile(r"\[\n[-+.\w,\s]*\]")


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file; callables are named."""
    return json.loads(json.dumps(value, default=lambda thing: thing.__name__))


def fingerprint(determinants: dict[str, Any]) -> str:
    """Ten hexadecimal digits that stand for all that determines a run besides its key."""
    text = json.dumps(as_json(determinants), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def identity(run: Run) -> tuple[str, str]:
    """Key and fingerprint: two runs are the same if both are equal."""
    return json.dumps(as_json(run["key"]), sort_keys=True), run.get("made", "")


class Results:
    """The runs of one study in one JSON file, which several processes may write to.

    Args:
        path: The JSON file; an existing one is continued.
        study: Name of the study.
        settings: Settings for the introductions of tables.
        images: Which images are used for what.

    Raises:
        SystemExit: If the file does not belong to this study.
    """

    def __init__(
        self,
        path: Path,
        study: str,
        settings: dict[str, Any],
        images: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.study, self.images = path, study, images or {}
        self.settings: dict[str, Any] = as_json(settings)
        self.environment = environment()
        self.made: dict[str, Any] = {}
        self.runs: list[Run] = []
        self._ids: set[tuple[str, str]] = set()
        self._held: Found = {}
        self.refresh()

    def refresh(self) -> None:
        """Take over the runs that the file holds now, which another process may have written."""
        if self.path.exists():
            held = read(self.path, self.study)
            self._held = held
            self.environment, self.made = held["environment"], held["made"] | self.made
            for run in held["runs"]:
                self._take(run)

    def get(self, key: Key, made: str) -> Run | None:
        """The run of this key and fingerprint, if it is done."""
        wanted = identity({"key": key, "made": made})
        return next((run for run in self.runs if identity(run) == wanted), None)

    def add(self, key: Key, determinants: dict[str, Any], figures: Figures) -> Run:
        """Add a run to those that the file holds by now, save, and return the run that is kept.

        If another process has added this run already, its run is kept.
        """
        here, made = environment(), fingerprint(determinants)
        commit = here.pop("commit")
        run: Run = as_json({"key": key, "figures": figures, "commit": commit, "made": made})
        with locked(self.path):
            self.refresh()
            if here != {k: v for k, v in self.environment.items() if k != "commit"}:
                run["environment"] = here
            self.made[made] = as_json(determinants)
            self._take(run)
            write_atomically(self.path, as_text(self.to_dict()))
        return self.get(key, made) or run

    def to_dict(self) -> Found:
        """The file's content, with entries that somebody added and the settings it began with."""
        begun = self._held or {"study": self.study, "settings": self.settings}
        now = {
            "images": self.images,
            "environment": self.environment,
            "made": self.made,
            "runs": self.runs,
        }
        return {**begun, **now}

    def _take(self, run: Run) -> None:
        if identity(run) not in self._ids:
            self._ids.add(identity(run))
            self.runs.append(run)


def read(path: Path, study: str | None = None) -> Found:
    """What a results file holds.

    Args:
        path: The file.
        study: The study that it must belong to; None: any study.

    Raises:
        SystemExit: If it is broken, of another study, or no results file; it is left as it is.
    """
    advice = "It is left as it is: move it away, or give another --out."
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read as JSON ({error}). {advice}") from error
    parts = {"study": str, "settings": dict, "environment": dict, "made": dict, "runs": list}
    wrong = [p for p, kind in parts.items() if not isinstance(_entry(held, p), kind)]
    run_parts = {"key": dict, "figures": dict, "made": str}
    if not wrong and not all(
        isinstance(_entry(run, part), kind)
        for run in held["runs"]
        for part, kind in run_parts.items()
    ):
        wrong = ["runs"]
    if wrong:
        raise SystemExit(f"{path}: holds no results of a study, {wrong[0]!r} is missing. {advice}")
    if study is not None and held["study"] != study:
        raise SystemExit(f"{path}: holds results of {held['study']!r}, not of {study!r}. {advice}")
    found: Found = held
    return found


def _entry(held: Any, name: str) -> Any:
    return held.get(name) if isinstance(held, dict) else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let only one process at a time into this block, for a file; a lock ends with its process.

    Where the system has no ``flock`` (Windows), there is no lock, and only one process may write.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def as_text(found: Found) -> str:
    """JSON with a list of numbers on one line, as the rows of points on a map are."""
    text = json.dumps(found, indent=1) + "\n"
    return _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, path)
