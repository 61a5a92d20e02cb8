"""Left: computing as measured and as modelled. Right: a step as predicted for many GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scaling.experiment import FITTED_UP_TO
from benchmarks.scaling.model import (
    HARDWARE,
    SHARE,
    STEP,
    Run,
    compute_amounts,
    fit_compute,
    sweep,
)

# Okabe and Ito, and a marker each, so that colour is not needed
_STYLES = dict(
    zip(
        ("digits", "pooled images", "four layers", "all pairs", "raw images"),
        (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("black", "v")),
        strict=True,
    )
)
_RANKS = tuple(2**k for k in range(3, 11))


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw both panels."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _measured(left, results["runs"])
    _predicted(right, results["runs"])
    figure.savefig(path, dpi=150)


def _measured(axis: Axes, runs: list[Run]) -> None:
    runs = [run for run in runs if run["key"]["kind"] == "compute"]
    model = fit_compute(runs)
    for name, (colour, marker) in _STYLES.items():
        own = [run for run in runs if run["key"]["case"] == name]
        ranks = [run["key"]["ranks"] for run in own]
        expected = [1e3 * model.predict(compute_amounts(run)) for run in own]
        axis.plot(ranks, expected, color=colour, lw=1.2)
        for run in own:
            seen = run["key"]["ranks"] <= FITTED_UP_TO and name != "raw images"
            axis.plot(
                run["key"]["ranks"],
                1e3 * run["figures"]["pairs"]["fastest"],
                marker,
                color=colour,
                markerfacecolor=colour if seen else "white",
                ms=6,
            )
        axis.plot([], [], marker, color=colour, label=name)
    axis.plot([], [], "o", color="grey", markerfacecolor="white", label="held out from the fit")
    axis.plot([], [], color="grey", label="model")
    axis.set(xscale="log", yscale="log", xlabel="ranks, 256 samples each")
    axis.set(ylabel="processor time of one rank, ms", title="measured here: pairs of own rows")
    _ticks(axis, sorted({run["key"]["ranks"] for run in runs}))
    axis.legend(fontsize=8)


def _predicted(axis: Axes, runs: list[Run]) -> None:
    for hardware, line in zip(HARDWARE, ("-", "--"), strict=True):
        for name, found in sweep(hardware, runs, _RANKS).items():
            colour, marker = _STYLES[name]
            axis.plot(
                _RANKS, [1e3 * p.seconds for p in found], line + marker, color=colour, ms=4, lw=1.2
            )
        axis.plot([], [], line, color="grey", label=hardware.name)
    axis.axhline(1e3 * SHARE * STEP, color="grey", lw=0.8, ls=":")
    share = f"{100 * SHARE:.0f} % of a step of {1e3 * STEP:.0f} ms"
    axis.text(1024, 0.9e3 * SHARE * STEP, share, fontsize=8, ha="right", va="top")
    axis.set(xscale="log", yscale="log", xlabel="GPUs, 256 samples each")
    axis.set(ylabel="time of one penalty, ms", title="predicted, for hardware that is assumed")
    _ticks(axis, _RANKS)
    axis.legend(fontsize=8)


def _ticks(axis: Axes, ranks: Any) -> None:
    axis.set_xticks(ranks, [f"{r:,}" for r in ranks])
    axis.minorticks_off()
    axis.grid(which="major", color="#e5e5e5", lw=0.6)
