"""Results of a benchmark: saved after every run, so that a stopped benchmark goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.environment import environment

Run = dict[str, Any]


class Results:
    """The runs of one benchmark in one JSON file.

    The file holds ``settings``, ``environment`` and ``runs``; a run is a flat ``key`` that
    identifies it and its ``figures``. It is replaced atomically whenever a run is added.

    Args:
        path: The JSON file; an existing one is continued.
        settings: All that determines the figures.

    Raises:
        SystemExit: If the file holds runs made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.runs: list[Run] = []
        self.environment = environment()
        if path.exists():
            found = json.loads(path.read_text())
            if found["settings"] != self.settings:
                raise SystemExit(
                    f"{path} holds runs with other settings. Give another --out, or remove it."
                )
            self.runs = found["runs"]
            self.environment = found["environment"]

    def has(self, key: dict[str, Any]) -> bool:
        """Whether the run of this key is done."""
        return any(run["key"] == key for run in self.runs)

    def add(self, key: dict[str, Any], figures: dict[str, Any]) -> None:
        """Add a run and save."""
        commit = environment()["commit"]
        self.runs.append({"key": key, "figures": figures, "commit": commit})
        write_atomically(self.path, json.dumps(self.to_dict(), indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {"settings": self.settings, "environment": self.environment, "runs": self.runs}


def figures_by(results: dict[str, Any], key: str, figure: str) -> dict[Any, list[Any]]:
    """Values of one figure over all runs, grouped by one entry of their keys, in its order."""
    groups: dict[Any, list[Any]] = {}
    for run in results["runs"]:
        groups.setdefault(run["key"][key], []).append(run["figures"][figure])
    return dict(sorted(groups.items()))


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
