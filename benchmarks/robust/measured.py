"""The measured runs, for tables and figures."""

from __future__ import annotations

from typing import Any

from benchmarks.results import Run


def by_training(results: dict[str, Any], name: str) -> dict[str, list[Run]]:
    """The measured runs on a network by training, in the order in which they were run."""
    found: dict[str, list[Run]] = {}
    for run in results["runs"]:
        if run["key"]["phase"] == "test" and run["key"]["network"] == name:
            found.setdefault(run["key"]["training"], []).append(run)
    return found


def costs(results: dict[str, Any], name: str) -> dict[str, float]:
    """The cost of each training on a network, in units; those that were measured so far."""
    found: dict[str, float] = {}
    for run in results["runs"]:
        if (run["key"]["phase"], run["key"]["network"]) == ("cost", name):
            found |= run["figures"]
    return found
