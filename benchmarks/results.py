"""Results of a study: saved after every run, each with the fingerprint of what determines it.

A file holds the name of its ``study``, the ``settings`` and the ``environment`` of the command that
began it, the ``images`` that are trained, chosen and measured on, ``made``, which maps fingerprints
to what determines a run beside its key, and the ``runs``. A run has a flat ``key``, its
``figures``, the ``commit`` and its fingerprint, ``made``. Two runs are the same if key and
fingerprint are equal: a wider grid or other settings add runs, and no run is ever replaced.
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
"""The data that tables and figures are made from: settings, environment and runs."""
_NUMBERS = re.compile(r"\[\n[-+.\w,\s]*\]")


def as_json(value: Any) -> Any:
    """The value as it is read back from a JSON file; a callable becomes its name."""
    return json.loads(json.dumps(value, default=lambda thing: thing.__name__))


def fingerprint(determinants: dict[str, Any]) -> str:
    """Ten hexadecimal digits of a hash of everything that determines a run beside its key."""
    text = json.dumps(as_json(determinants), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def identity(run: Run) -> tuple[str, str]:
    """Key and fingerprint of a run: two runs with the same identity are the same run."""
    return json.dumps(as_json(run["key"]), sort_keys=True), run.get("made", "")


class Results:
    """The runs of one study in one JSON file, which several processes may write to.

    Args:
        path: The JSON file; an existing one is continued.
        study: Name of the study.
        settings: Settings of the study; a file keeps those that it began with.
        images: The parts of data sets that are trained, chosen and measured on.

    Raises:
        SystemExit: If the file cannot be read, or holds no results of this study.
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
        self._content: Found = {}
        self.refresh()

    def refresh(self) -> None:
        """Take over what the file holds now, because another process may have added runs."""
        if self.path.exists():
            content = read(self.path, self.study)
            self._content = content
            self.environment, self.made = content["environment"], content["made"] | self.made
            for run in content["runs"]:
                self._take(run)

    def get(self, key: Key, made: str) -> Run | None:
        """The run with this key and fingerprint; None if it is not done yet."""
        target = identity({"key": key, "made": made})
        return next((run for run in self.runs if identity(run) == target), None)

    def add(self, key: Key, determinants: dict[str, Any], figures: Figures) -> Run:
        """Add a run to those that the file holds by now, save the file and return the kept run.

        If another process has saved the same run before, that one is kept and returned.
        """
        current, made = environment(), fingerprint(determinants)
        commit = current.pop("commit")
        run: Run = as_json({"key": key, "figures": figures, "commit": commit, "made": made})
        with locked(self.path):
            self.refresh()
            if current != {k: v for k, v in self.environment.items() if k != "commit"}:
                run["environment"] = current
            self.made[made] = as_json(determinants)
            self._take(run)
            write_atomically(self.path, as_text(self.to_dict()))
        return self.get(key, made) or run

    def to_dict(self) -> Found:
        """The content of the file, with any other entries it had and the settings it began with."""
        begun = self._content or {"study": self.study, "settings": self.settings}
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
    """Read a results file.

    Args:
        path: The file.
        study: Name of the study that it must belong to; None: any study.

    Raises:
        SystemExit: If the file is broken, belongs to another study, or is no results file. The file
            is not changed.
    """
    advice = "It is left as it is: move it away, or give another --out."
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read as JSON ({error}). {advice}") from error
    kinds = {"study": str, "settings": dict, "environment": dict, "made": dict, "runs": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(_entry(data, name), kind)]
    run_kinds = {"key": dict, "figures": dict, "made": str}
    if not wrong and not all(
        isinstance(_entry(run, name), kind)
        for run in data["runs"]
        for name, kind in run_kinds.items()
    ):
        wrong = ["runs"]
    if wrong:
        raise SystemExit(f"{path}: holds no results of a study, {wrong[0]!r} is missing. {advice}")
    if study is not None and data["study"] != study:
        raise SystemExit(f"{path}: holds results of {data['study']!r}, not of {study!r}. {advice}")
    results: Found = data
    return results


def _entry(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into this block, for a file; the lock ends with the process.

    Windows has no ``flock``, so nothing is locked there: only one process may write a file.
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


def as_text(results: Found) -> str:
    """JSON text in which a list of numbers, such as the coordinates of a point, is one line."""
    text = json.dumps(results, indent=1) + "\n"
    return _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text)
    os.replace(temporary, path)
