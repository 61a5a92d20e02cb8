"""How much longer a whole training step is with the penalty: hooks, checks and backward included.

`speed` times the penalty alone. Here steps with and without it are taken in pairs, one after the
other in random order. The ratio of each pair counts, so that a slowdown of both steps cancels out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.library.speed_steps import Step, training_step
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import Column, grouped, page, table

STEPS = (
    Step("mlp", 28, 100, 1, "flatten"),
    Step("mlp", 28, 100, 4, "flatten"),
    Step("mlp", 28, 1000, 4, "flatten"),
    Step("resnet18", 32, 128, 5, "flatten"),
    Step("resnet18", 32, 128, 5, "mean"),
)


@dataclass(frozen=True)
class Settings:
    """The number of pairs that are timed, of pairs before them to warm up, and of torch threads."""

    pairs: int = 24
    warmup: int = 3
    threads: int = 1


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Each step once per seed; a seed fixes only the order within the pairs, not the networks."""
    for seed in range(lab.seeds):
        for step in STEPS[: 1 if lab.quick else None]:
            yield {"step": str(step), "seed": seed}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Median and quartiles of one step's ratios, and its milliseconds without the penalty."""
    s = lab.settings
    torch.set_num_threads(s.threads)
    step = next(step for step in STEPS if str(step) == key["step"])
    without, with_penalty = (training_step(step, name, "cpu") for name in (None, "isoreg"))
    timings = paired(without, with_penalty, s.pairs, s.warmup, random.Random(key["seed"]))
    ratios = [after / before for before, after in timings]
    return {"milliseconds": 1000 * median(before for before, _ in timings), **spread_of(ratios)}


def paired(
    one: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    warmup: int,
    order: random.Random,
    clock: Callable[[], float] = time.process_time,
) -> list[tuple[float, float]]:
    """Seconds of both functions in each pair; they are called in random order within a pair."""
    timings = []
    for number in range(warmup + pairs):
        first = order.random() < 0.5
        seconds: dict[bool, float] = {}
        for which in (first, not first):
            start = clock()
            (one if which else other)()
            seconds[which] = clock() - start
        if number >= warmup:
            timings.append((seconds[True], seconds[False]))
    return timings


def spread_of(ratios: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios, minus 1: the share by which a step is longer."""
    low, _, high = quantiles(ratios, n=4)
    return {"longer": median(ratios) - 1, "first quartile": low - 1, "third quartile": high - 1}


def tables(results: Found) -> str:
    """A table with one row per training step."""

    def quartiles(runs: Sequence[Figures]) -> str:
        low, high = (
            sum(run[name] for run in runs) / len(runs)
            for name in ("first quartile", "third quartile")
        )
        return f"{100 * low:.1f} to {100 * high:.1f}"

    columns = [
        Column("without a penalty, ms", "milliseconds", 1),
        Column("the whole step longer by, %", "longer"),
        Column("quartiles of pairs", text=quartiles),
    ]
    s: Any = results["settings"]
    return page(
        "# What a whole step costs",
        f"Forward, backward and Adam with the penalty, over the same without it: {s['pairs']} "
        "pairs of steps, taken one after the other in random order, processor time of "
        f"{s['threads']} thread; median of the pairs' ratios, mean ± standard deviation over "
        "repetitions.",
        table("training step", grouped(results["runs"], "step"), columns),
    )


STUDY = Study(
    "stepcost",
    quickly(Settings(), pairs=4, warmup=1),
    keys,
    measure,
    tables,
    shows="how much longer a whole training step is with the penalty",
    time="five minutes on one core",
    seeds=3,
)
