"""Measure a step: computing for simulated ranks, gathering and whole steps in real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.ranks import run_ranks
from benchmarks.results import Results
from benchmarks.scaling.cases import CASES, PER_RANK, work
from isoreg import isometry_penalty
from isoreg._pairs.backends import torch_blocks
from isoreg._ranks.exchange import gather_rows

RANKS = (1, 2, 4)
SIMULATED = (1, 2, 4, 8, 16, 32, 64)
FITTED_UP_TO = 8
_RAW_UP_TO = 4  # ranks: more raw images than a desk machine wants to hold
MESSAGES = tuple(4**k for k in range(5, 12))  # bytes a rank: 1 kB to 4 MB
_ROUNDS = 9
_GATHERS = 30


def keys(*, quick: bool) -> list[dict[str, Any]]:
    """Every run, from small to large."""
    if quick:
        return [
            *({"kind": "compute", "case": "digits", "ranks": r} for r in (1, 2, 4, 8, 16)),
            *({"kind": "gather", "ranks": 2, "bytes": b} for b in MESSAGES[:4]),
            {"kind": "step", "case": "digits", "ranks": 2},
        ]
    found: list[dict[str, Any]] = [
        {"kind": "compute", "case": name, "ranks": ranks}
        for ranks in SIMULATED
        for name in CASES
        if name != "raw images" or ranks <= _RAW_UP_TO
    ]
    found += [{"kind": "gather", "ranks": r, "bytes": b} for r in RANKS[1:] for b in MESSAGES]
    names = [name for name in CASES if name != "raw images"]
    return found + [{"kind": "step", "case": name, "ranks": r} for name in names for r in RANKS]


def run(*, quick: bool, out: Path) -> Results:
    """Measure what is not yet in the file ``out``."""
    settings = {
        "samples a rank": PER_RANK,
        "rounds": {"compute": _ROUNDS, "gather and step": _GATHERS},
        "cases": {name: asdict(case) for name, case in CASES.items()},
    }
    results = Results(out, settings)
    todo = [key for key in keys(quick=quick) if not results.has(key)]
    for key in track(todo, "measuring", console=Console(stderr=True)):
        results.add(key, _MEASURES[key["kind"]](**{k: v for k, v in key.items() if k != "kind"}))
    return results


def compute(case: str, ranks: int) -> dict[str, Any]:
    """Processor seconds in which one of so many ranks plans and computes its share of the pairs."""
    chosen, n = CASES[case], PER_RANK * ranks
    call, ones = chosen.call(ranks), torch.ones(len(chosen.dims), dtype=torch.float64)

    def plan() -> None:
        chosen.plan(ranks)

    def pairs() -> None:
        # a call keeps its plan, so that only the pairs are measured
        torch_blocks.values_and_gradients(call, ones, n * n / ranks, needs_grad=True)

    # processor time: what else runs on the machine counts less than in time on the clock
    planning, computing = _time(plan, time.thread_time), _time(pairs, time.thread_time)
    with _Count() as count:
        pairs()
    return {
        "plan": planning,
        "pairs": computing,
        "operations": count.operations,
        "work": asdict(work(chosen, ranks)),
    }


def gather(ranks: int, bytes: int) -> dict[str, Any]:  # noqa: A002 (the name in the file)
    """Seconds on the clock in which every rank gets the bytes of all others."""
    return {"gather": _slowest(run_ranks(_gather_in_rank, ranks, bytes))}


def step(case: str, ranks: int) -> dict[str, Any]:
    """Seconds on the clock of a whole penalty with its gradient, and the bytes received."""
    received = (ranks - 1) * PER_RANK * CASES[case].sample_bytes()
    seconds = _slowest(run_ranks(_step_in_rank, ranks, case))
    return {"step": seconds, "bytes received by a rank": received}


_MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "compute": compute,
    "gather": gather,
    "step": step,
}


class _Count(TorchDispatchMode):
    """Counts the operations that are no mere views: what an accelerator would launch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returns = [value.alias_info for value in func._schema.returns]
        self.operations += not any(alias is not None and not alias.is_write for alias in returns)
        return func(*args, **(kwargs or {}))


def _gather_in_rank(_: int, size: int) -> dict[str, float]:
    rows = torch.zeros(PER_RANK, size // PER_RANK, dtype=torch.uint8)
    group = torch.distributed.group.WORLD
    assert group is not None
    return _time(
        lambda: gather_rows({"rows": rows}, "", group), time.perf_counter, _GATHERS, together=True
    )


def _step_in_rank(rank: int, name: str) -> dict[str, float]:
    case, ranks = CASES[name], torch.distributed.get_world_size()
    n = PER_RANK * ranks
    own = slice(PER_RANK * rank, PER_RANK * (rank + 1))
    inputs, *features = (x[own].clone() for x in case.rows(n))
    leaves, labels = [x.requires_grad_() for x in features], case.labels(n)
    labels = None if labels is None else labels[own]

    def step() -> None:
        penalties = isometry_penalty(inputs, leaves, labels, process_group="world")
        torch.autograd.grad(penalties.sum(), leaves)

    return _time(step, time.perf_counter, _GATHERS, together=True)


def _time(
    step: Callable[[], object],
    clock: Callable[[], float],
    rounds: int = _ROUNDS,
    *,
    together: bool = False,
) -> dict[str, float]:
    """Seconds of a call after a warm-up; together: all ranks start at once.

    The fastest call says what the machine can do, the median what it did beside other work.
    """
    step()
    seconds = []
    for _ in range(rounds):
        if together:
            torch.distributed.barrier()
        start = clock()
        step()
        seconds.append(clock() - start)
    return {"fastest": min(seconds), "median": median(seconds)}


def _slowest(ranks: list[dict[str, float]]) -> dict[str, float]:
    """A step is over when the last rank is."""
    if not all(isinstance(seconds, dict) for seconds in ranks):
        raise RuntimeError(f"a rank failed: {ranks}")
    return {name: max(seconds[name] for seconds in ranks) for name in ranks[0]}
