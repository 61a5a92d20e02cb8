"""Tables and figure of the scaling benchmark, from the results."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.scaling.cases import CASES, PER_RANK
from benchmarks.scaling.experiment import FITTED_UP_TO
from benchmarks.scaling.figure import draw
from benchmarks.scaling.model import (
    HARDWARE,
    MEMORY,
    SHARE,
    STEP,
    Fit,
    Hardware,
    Prediction,
    Run,
    compute_amounts,
    fit_compute,
    fit_gather,
    gather_amounts,
    limit,
    sweep,
)
from benchmarks.tables import markdown_table

RANKS = (8, 64, 256, 1024)
_ALL_RANKS = tuple(2**k for k in range(3, 11))


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, draw)


def tables(results: dict[str, Any]) -> str:
    """What was measured, how well the model fits it, and what it predicts."""
    runs: list[Run] = results["runs"]
    rounds = results["settings"]["rounds"]["gather and step"]
    compute, gather = fit_compute(runs), fit_gather(runs)
    parts = [
        "# Pairs across ranks",
        f"{PER_RANK} samples a rank. The cases: {_cases(runs)}.",
        "## Measured: a step on 1, 2 and 4 processes",
        f"Gloo on one machine, {results['environment']['cores']} cores, one thread a process, so 4 "
        f"processes share the cores: the fastest of {rounds} says what the machine can do, the "
        "median what it did. Time on the clock of value and gradient, slowest rank. Predicted: the "
        "two models below added up, computing slowed down by the processes that a core has to "
        "serve. MB received by a rank.",
        _steps(runs, results["environment"]["cores"], compute, gather),
        "## The model and its error",
        "Fitted to the fastest times. Computing: processor time of one of R ranks, R up to "
        f"{FITTED_UP_TO}; held out: R of 16 to 64, and raw images. "
        "Gathering: time on the clock, 2 and 4 processes, every second message size held out. No "
        "term is negative.",
        _errors(compute, gather),
    ]
    for hardware in HARDWARE:
        parts += [f"## Predicted: {hardware.name}", _assumed(hardware), _predicted(hardware, runs)]
    return "\n\n".join(parts) + "\n"


def _cases(runs: list[Run]) -> str:
    names = {run["key"].get("case") for run in runs}
    return "; ".join(
        f"**{case.name}**, {case.p:,} inputs, features of {' + '.join(map(str, case.dims))}, "
        f"{case.classes or 'no'} classes"
        for case in CASES.values()
        if case.name in names
    )


def _steps(runs: list[Run], cores: int, compute: Fit, gather: Fit) -> str:
    computing = {
        (run["key"]["case"], run["key"]["ranks"]): run["figures"]["plan"]["fastest"]
        + compute.predict(compute_amounts(run))
        for run in runs
        if run["key"]["kind"] == "compute"
    }
    rows = []
    for run in runs:
        key, figures = run["key"], run["figures"]
        if key["kind"] != "step":
            continue
        name, ranks = key["case"], key["ranks"]
        expected = ""  # a process alone takes another way
        if ranks > 1:
            seconds = computing[name, ranks] * max(1, ranks / cores)
            sent = PER_RANK * CASES[name].sample_bytes()
            expected = f"{1e3 * (seconds + gather.predict(gather_amounts(ranks, sent))):.1f}"
        received = figures["bytes received by a rank"] / 1e6
        found = [figures["step"].get(kind) for kind in ("median", "fastest")]
        times = ["" if t is None else f"{1e3 * t:.1f}" for t in found]
        rows.append([name, str(ranks), *times, expected, f"{received:.1f}"])
    header = ("case", "processes", "median, ms", "fastest, ms", "predicted, ms", "MB received")
    return markdown_table(header, rows)


def _errors(*fits: Fit) -> str:
    rows = []
    for name, found in zip(("computing", "gathering"), fits, strict=True):
        costs = ", ".join(
            f"{_number(1e9 * s)} ns for each of {term}"
            for term, s in zip(found.terms, found.seconds, strict=True)
            if s > 0
        )
        shares = [f"{100 * x:.0f} %" for x in (*found.fitted, *found.held_out)]
        rows.append([name, costs, " / ".join(shares[:2]), " / ".join(shares[2:])])
    header = ("", "time", "error where fitted, median / largest", "error where held out")
    return markdown_table(header, rows)


def _assumed(h: Hardware) -> str:
    return (
        f"Assumed, not measured: {h.operations / 1e12:.0f} TFLOP/s in float32, "
        f"{h.memory / 1e12:.1f} TB/s of memory, {1e6 * h.launch:.0f} us an operation, "
        f"{h.within / 1e9:.0f} GB/s to a GPU within a node of {h.node}, {h.between / 1e9:.0f} GB/s "
        f"to a node, {1e6 * h.hop:.0f} us a hop; a training step of {1e3 * STEP:.0f} ms, of which "
        f"{100 * SHARE:.0f} % may be spent, and {MEMORY / 1e9:.0f} GB a GPU. Nothing overlaps. In "
        "each cell: ms of the whole (planning on the host + pairs + gathering)."
    )


def _predicted(hardware: Hardware, runs: list[Run]) -> str:
    rows = []
    for name, found in sweep(hardware, runs, _ALL_RANKS).items():
        cells = [_cell(p) for p in found if p.ranks in RANKS]
        partners = " / ".join(_number(p.partners) for p in found if p.ranks in RANKS)
        memory = " / ".join(_number(p.memory / 1e9) for p in found if p.ranks in RANKS)
        most = limit(found)
        pays = "never" if most is None else f"{most:,}" if most < _ALL_RANKS[-1] else "all of these"
        rows.append([name, *cells, memory, partners, pays])
    counts = [f"{r:,} GPUs" for r in RANKS]
    header = ("case", *counts, "GB", "partners a sample", "pays up to, GPUs")
    return markdown_table(header, rows)


def _cell(p: Prediction) -> str:
    parts = " + ".join(_number(1e3 * t) for t in (p.planning, p.pairs, p.gathering))
    return f"{_number(1e3 * p.seconds)} ({parts})"


def _number(x: float) -> str:
    return f"{x:.2g}" if x < 10 else f"{x:,.0f}"
