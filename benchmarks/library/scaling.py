"""The cost of pairs across ranks: one simulated rank's share, gathering, and whole steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.internals import compute_rows, gather_rows
from benchmarks.library.scaling_cases import CASES, PER_RANK
from benchmarks.ranks import run_ranks
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.study import Lab, Study
from benchmarks.style import COLOURS, new_figure, save
from benchmarks.tables import count, markdown_table, page, with_keys
from benchmarks.timing import interleaved
from isoreg import FeatureQueue, isometry_penalty

RANKS = (1, 2, 4)
SIMULATED = (1, 2, 4, 8, 16, 32, 64)
_RAW_UP_TO = 4  # ranks; with more, raw images need too much memory
MESSAGES = tuple(4**k for k in range(5, 12))  # bytes per rank, 1 kB to 4 MB
_ROUNDS = 9
_GATHERS = 30
BATCH, QUEUES = 1024, (64, 1024)


@dataclass(frozen=True)
class Settings:
    """Samples per rank, and how often each kind of run is timed."""

    samples_a_rank: int = PER_RANK
    rounds: int = _ROUNDS
    gathers: int = _GATHERS


def settings(quick: bool) -> Settings:
    """The same settings always, since a quick run has fewer keys; torch is set to one thread."""
    del quick
    torch.set_num_threads(1)
    return Settings()


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """The runs of each kind, from small to large."""
    names = ["digits"] if lab.quick else list(CASES)
    small = [name for name in names if name != "raw images"]
    for ranks in SIMULATED[:5] if lab.quick else SIMULATED:
        for name in names:
            if name in small or ranks <= _RAW_UP_TO:
                yield {"kind": "compute", "case": name, "ranks": ranks}
    for ranks in RANKS[1:2] if lab.quick else RANKS[1:]:
        for size in MESSAGES[: 4 if lab.quick else None]:
            yield {"kind": "gather", "ranks": ranks, "bytes": size}
    for name in small:
        for ranks in RANKS[1:2] if lab.quick else RANKS:
            yield {"kind": "step", "case": name, "ranks": ranks}
    for name in small:
        yield {"kind": "same pairs", "case": name, "way": "a second rank", "others": BATCH}
        for size in QUEUES[:1] if lab.quick else QUEUES:
            yield {"kind": "same pairs", "case": name, "way": "a queue", "others": size}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings, and the sizes of the case."""
    case = CASES.get(key.get("case", ""))
    return {**asdict(settings), "case": asdict(case) if case else None}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Run the measurement of the key's kind.

    "compute" simulates the other ranks; "gather" and "step" run in real processes.
    """
    del lab
    return _MEASURES[key["kind"]](**{k: v for k, v in key.items() if k != "kind"})


def compute(case: str, ranks: int) -> dict[str, Any]:
    """Processor seconds in which one of ``ranks`` ranks computes its share of the pairs."""
    chosen, n = CASES[case], PER_RANK * ranks
    points, labels = chosen.rows(n), chosen.labels(n)
    # Processor time depends less on other programs on the machine than wall-clock time does.
    return {"pairs": _time(lambda: compute_rows(points, labels, PER_RANK), time.thread_time)}


def gather(ranks: int, bytes: int) -> dict[str, Any]:  # noqa: A002 (the name in the file)
    """Wall-clock seconds in which every rank receives the bytes of all other ranks."""
    return {"gather": _slowest(run_ranks(_gather_in_rank, ranks, bytes))}


def step(case: str, ranks: int) -> dict[str, Any]:
    """Wall-clock seconds of a whole penalty with its gradient, and the bytes a rank receives."""
    received = (ranks - 1) * PER_RANK * CASES[case].sample_bytes()
    seconds = _slowest(run_ranks(_step_in_rank, ranks, case))
    return {"step": seconds, "bytes received by a rank": received}


def same_pairs(case: str, way: str, others: int) -> dict[str, Any]:
    """Seconds of a batch that is compared with itself and ``others`` more samples.

    Beside them stand the seconds of a single batch that has as many pairs by itself.
    """
    chosen, queue = CASES[case], FeatureQueue(others)
    n, size = BATCH + others, round(math.sqrt(BATCH**2 + 2 * BATCH * others))
    points, labels = chosen.rows(n), chosen.labels(n)
    batch, single = [x[:BATCH] for x in points], chosen.rows(size)

    def step(points: list[Tensor], queue: FeatureQueue | None) -> None:
        inputs, *features = points
        leaves = [x.detach().requires_grad_() for x in features]
        labels = chosen.labels(len(inputs))
        torch.autograd.grad(isometry_penalty(inputs, leaves, labels, queue=queue).sum(), leaves)

    if way == "a queue":
        step([x[-others:] for x in points], queue)
        steps = {way: lambda: step(batch, queue), "one batch": lambda: step(single, None)}
    else:
        single_labels = chosen.labels(size)
        steps = {
            way: lambda: compute_rows(points, labels, BATCH),
            "one batch": lambda: compute_rows(single, single_labels, size),
        }
    times = interleaved(steps)
    return {**times, "ratio": times[way] / times["one batch"]}


_MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "compute": compute,
    "gather": gather,
    "step": step,
    "same pairs": same_pairs,
}


def _gather_in_rank(_: int, size: int) -> dict[str, float]:
    rows = torch.zeros(PER_RANK, size // PER_RANK, dtype=torch.uint8)
    group = torch.distributed.group.WORLD
    assert group is not None
    return _time(
        lambda: gather_rows({"rows": rows}, "", group), time.perf_counter, _GATHERS, barrier=True
    )


def _step_in_rank(rank: int, name: str) -> dict[str, float]:
    case, ranks = CASES[name], torch.distributed.get_world_size()
    n = PER_RANK * ranks
    rank_rows = slice(PER_RANK * rank, PER_RANK * (rank + 1))
    inputs, *features = (x[rank_rows].clone() for x in case.rows(n))
    leaves, labels = [x.requires_grad_() for x in features], case.labels(n)
    labels = None if labels is None else labels[rank_rows]

    def step() -> None:
        penalties = isometry_penalty(inputs, leaves, labels, process_group="world")
        torch.autograd.grad(penalties.sum(), leaves)

    return _time(step, time.perf_counter, _GATHERS, barrier=True)


def _time(
    step: Callable[[], object],
    clock: Callable[[], float],
    rounds: int = _ROUNDS,
    *,
    barrier: bool = False,
) -> dict[str, float]:
    """Fastest and median seconds of a call after a warm-up; ``barrier`` starts all ranks at once.

    The fastest call shows what the machine can do, the median what it did beside other work.
    """
    step()
    seconds = []
    for _ in range(rounds):
        if barrier:
            torch.distributed.barrier()
        start = clock()
        step()
        seconds.append(clock() - start)
    return {"fastest": min(seconds), "median": median(seconds)}


def _slowest(ranks: list[dict[str, float]]) -> dict[str, float]:
    """The seconds of the slowest rank, because a step ends when the last rank ends."""
    if not all(isinstance(seconds, dict) for seconds in ranks):
        raise RuntimeError(f"a rank failed: {ranks}")
    return {name: max(seconds[name] for seconds in ranks) for name in ranks[0]}


def tables(results: Found) -> str:
    """Tables of whole steps, of one rank's pairs, of the same pairs in one batch, of gathering."""
    names = {run["key"].get("case") for run in results["runs"]}
    cases = "; ".join(
        f"**{case.name}**, {case.p:,} inputs, features of {' + '.join(map(str, case.dims))}, "
        f"{case.classes or 'no'} classes"
        for case in CASES.values()
        if case.name in names
    )
    computing = with_keys(results, kind="compute")
    ranks = sorted({run["key"]["ranks"] for run in computing})
    by_case = {(run["key"]["case"], run["key"]["ranks"]): run["figures"] for run in computing}
    rows = [
        [name, *(_milliseconds(by_case.get((name, count), {}).get("pairs")) for count in ranks)]
        for name in dict.fromkeys(name for name, _ in by_case)
    ]
    gathering = [
        [f"{run['key']['bytes'] / 1000:,.0f}", str(run["key"]["ranks"]), *_times(run, "gather")]
        for run in with_keys(results, kind="gather")
    ]
    cores = results["environment"]["cores"]
    return page(
        "# Pairs across ranks",
        f"{PER_RANK} samples a rank. The cases: {cases}.",
        "## A step on 1, 2 and 4 processes",
        f"Gloo on one machine, {cores} cores, one thread a process, so 4 "
        f"processes share the cores: the fastest of {_GATHERS} says what the machine can do, the "
        "median what it did. Time on the clock of value and gradient, slowest rank. MB received by "
        "a rank.",
        markdown_table(
            ("case", "processes", "median, ms", "fastest, ms", "MB received"),
            [_step_row(run) for run in with_keys(results, kind="step")],
        ),
        "## The pairs of one of many ranks",
        "Processor time of one rank, in ms, the fastest of "
        f"{_ROUNDS}; the other ranks are simulated.",
        markdown_table(("case", *(count(number, "rank") for number in ranks)), rows),
        "## The same pairs in one batch",
        f"A batch of {BATCH:,} beside others, and one batch that has as many pairs by itself: "
        "processor time in ms, medians, in turn. A queue's time holds what keeps it, a rank's not "
        "the gathering.",
        markdown_table(
            ("case, beside", "this, ms", "one batch, ms", "ratio"), _same_pairs_rows(results)
        ),
        "## Gathering",
        "Every rank gets the bytes of all others: time on the clock.",
        markdown_table(("kB a rank", "processes", "median, ms", "fastest, ms"), gathering),
        "What a model that was fitted to these runs predicts for hardware that was never measured: "
        "[scaling-model](scaling-model.md).",
    )


def _same_pairs_rows(results: Found) -> list[list[str]]:
    """The rows of the table of the same pairs in one batch."""
    rows = []
    for run in with_keys(results, kind="same pairs"):
        key, figures = run["key"], run["figures"]
        times = [f"{1e3 * figures[name]:.1f}" for name in (key["way"], "one batch")]
        name = f"{key['case']}, {key['way']} of {key['others']:,}"
        rows.append([name, *times, f"{figures['ratio']:.2f}"])
    return rows


def _step_row(run: Run) -> list[str]:
    key, received = run["key"], run["figures"]["bytes received by a rank"] / 1e6
    return [key["case"], str(key["ranks"]), *_times(run, "step"), f"{received:.1f}"]


def _times(run: Run, kind: str) -> list[str]:
    seconds = run["figures"][kind]
    return [
        f"{1e3 * seconds[which]:.1f}" if which in seconds else "" for which in ("median", "fastest")
    ]


def _milliseconds(seconds: dict[str, float] | None) -> str:
    return f"{1e3 * seconds['fastest']:.1f}" if seconds else ""


def draw(results: Found, path: Path) -> None:
    """Draw the processor time of one rank's pairs against the number of ranks."""
    figure = new_figure(6, 4.6)
    axis: Axes = figure.subplots()
    runs = with_keys(results, kind="compute")
    for name, colour, marker in zip(CASES, COLOURS, "os^Dv", strict=False):
        case_runs = [run for run in runs if run["key"]["case"] == name]
        times = [1e3 * run["figures"]["pairs"]["fastest"] for run in case_runs]
        ranks = [run["key"]["ranks"] for run in case_runs]
        axis.plot(ranks, times, color=colour, marker=marker, lw=1.2, ms=6, label=name)
    axis.set(xscale="log", yscale="log", xlabel=f"ranks, {PER_RANK} samples each")
    axis.set(ylabel="processor time of one rank, ms", title="pairs of own rows")
    ticks = sorted({run["key"]["ranks"] for run in runs})
    axis.set_xticks(ticks, [f"{r:,}" for r in ticks])
    axis.minorticks_off()
    axis.grid(which="major", alpha=0.3, lw=0.6)
    axis.legend(fontsize=8)
    save(figure, path, dpi=150)


STUDY = Study(
    "scaling",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="pairs across ranks",
    time="10 minutes on two cores",
    determines=determines,
)
