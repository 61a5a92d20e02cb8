"""The cost of a step: fitted on the runs here, and predicted for hardware that is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.scaling.cases import CASES, PER_RANK, Case, Work, work
from benchmarks.scaling.experiment import FITTED_UP_TO

Run = dict[str, Any]

COMPUTE_TERMS = ("operations", "copied", "compared", "multiplied")
GATHER_TERMS = ("call", "hops", "bytes")


@dataclass(frozen=True)
class Fit:
    """Seconds for each unit of a term, none negative, and how far the model is off.

    Attributes:
        terms: Names of the terms.
        seconds: Seconds for a unit of each.
        fitted: Median and largest relative error on the runs that it was fitted to.
        held_out: The same on runs that it had not seen.
    """

    terms: tuple[str, ...]
    seconds: tuple[float, ...]
    fitted: tuple[float, float]
    held_out: tuple[float, float]

    def predict(self, amounts: Sequence[float]) -> float:
        """Seconds for so many units of each term."""
        return float(np.dot(self.seconds, amounts))


def fit(
    terms: tuple[str, ...], seen: list[tuple[Sequence[float], float]], unseen: list[Any]
) -> Fit:
    """Least squares of relative errors over pairs of amounts and seconds."""
    amounts, seconds = np.array([a for a, _ in seen], float), np.array([t for _, t in seen])
    units = amounts.max(0).clip(1e-30)
    found, _ = nnls(amounts / units / seconds[:, None], np.ones(len(seconds)))
    result = Fit(terms, tuple(found / units), (0, 0), (0, 0))

    def errors(pairs: list[Any]) -> tuple[float, float]:
        off = [abs(result.predict(a) / t - 1) for a, t in pairs] or [float("nan")]
        return median(off), max(off)

    return Fit(terms, result.seconds, errors(seen), errors(unseen))


def compute_amounts(run: Run) -> tuple[float, ...]:
    """Amounts of the terms of computing in a measured run."""
    figures = run["figures"]
    counted = {"operations": figures["operations"], **figures["work"]}
    return tuple(counted[term] for term in COMPUTE_TERMS)


def fit_compute(runs: list[Run]) -> Fit:
    """The pairs, fitted on up to 8 ranks; runs on more, and of raw images, are held out."""
    pairs = [
        (
            run["key"]["ranks"] <= FITTED_UP_TO and run["key"]["case"] != "raw images",
            (compute_amounts(run), run["figures"]["pairs"]["fastest"]),
        )
        for run in runs
        if run["key"]["kind"] == "compute"
    ]
    return fit(
        COMPUTE_TERMS, [p for seen, p in pairs if seen], [p for seen, p in pairs if not seen]
    )


def fit_gather(runs: list[Run]) -> Fit:
    """Gathering: every second size is held out."""
    chosen = [run for run in runs if run["key"]["kind"] == "gather"]
    sizes = sorted({run["key"]["bytes"] for run in chosen})
    pairs = [
        (
            sizes.index(run["key"]["bytes"]) % 2 == 0,
            (
                gather_amounts(run["key"]["ranks"], run["key"]["bytes"]),
                run["figures"]["gather"]["fastest"],
            ),
        )
        for run in chosen
    ]
    return fit(GATHER_TERMS, [p for seen, p in pairs if seen], [p for seen, p in pairs if not seen])


def gather_amounts(ranks: int, sent: int) -> tuple[float, ...]:
    """One call, the hops of a ring, and the bytes that a rank receives."""
    return 1, ranks - 1, (ranks - 1) * sent


@dataclass(frozen=True)
class Hardware:
    """What is assumed of a cluster; all rates are sustained, not the vendor's peak.

    Attributes:
        name: What it is.
        operations: Multiplications and additions a second of one GPU, in float32.
        memory: Bytes a second of one GPU's memory.
        launch: Seconds from one small operation to the next.
        node: GPUs in a node.
        within: Bytes a second that a GPU receives inside a node.
        between: Bytes a second that a node receives, over all of its network links.
        hop: Seconds of latency of one of the R - 1 hops of a ring.
    """

    name: str
    operations: float
    memory: float
    launch: float
    node: int
    within: float
    between: float
    hop: float


HARDWARE = (
    Hardware("H100, eight 400 Gb/s links a node", 20e12, 2.3e12, 8e-6, 8, 360e9, 320e9, 5e-6),
    Hardware("H100, one 100 Gb/s link a node", 20e12, 2.3e12, 8e-6, 8, 360e9, 10e9, 10e-6),
)
STEP = 0.1
"""Seconds of a training step without the penalty: ResNet-50, 256 images in mixed precision."""
SHARE = 0.1
"""Of that step: what the penalty may cost."""
MEMORY = 8e9
"""Bytes a GPU: what gathered rows may take, a tenth of 80 GB."""
# Bytes of memory traffic, counted in the code: each copied number is gathered, centred, squared
# and multiplied, each compared pair goes through some twenty element-wise operations.
_COPY_BYTES, _PAIR_BYTES = 40, 130


@dataclass(frozen=True)
class Prediction:
    """A step of one GPU among many: seconds, bytes, and what they buy.

    Attributes:
        case: What is computed.
        ranks: Number of GPUs.
        planning: Seconds on the host, as here.
        pairs: Seconds of computing the pairs.
        gathering: Seconds of communication.
        memory: Bytes of the gathered rows, once as sent and once in float32.
        partners: Samples of the same class for each own sample.
    """

    case: str
    ranks: int
    planning: float
    pairs: float
    gathering: float
    memory: float
    partners: float

    @property
    def seconds(self) -> float:
        """All of it; nothing is assumed to overlap."""
        return self.planning + self.pairs + self.gathering

    @property
    def pays(self) -> bool:
        """Whether it costs no more than `SHARE` of a step and `MEMORY`."""
        return self.seconds <= SHARE * STEP and self.memory <= MEMORY


def predict(case: Case, ranks: int, hardware: Hardware, runs: list[Run]) -> Prediction:
    """A step on hardware that was not measured, from work that is counted exactly."""
    n, done = PER_RANK * ranks, work(case, ranks, accelerator=True)
    received = (ranks - 1) * PER_RANK * case.sample_bytes()
    rate = hardware.within if ranks <= hardware.node else min(hardware.within, hardware.between)
    return Prediction(
        case=case.name,
        ranks=ranks,
        planning=_planning(runs, n, done.launches),
        pairs=_pairs(done, hardware, runs),
        gathering=2 * (ranks - 1) * hardware.hop + received / rate,
        memory=n * (case.sample_bytes() + 4 * (case.p + sum(case.dims))),
        partners=done.own_pairs / PER_RANK,
    )


def _pairs(done: Work, hardware: Hardware, runs: list[Run]) -> float:
    traffic = _COPY_BYTES * done.copied + _PAIR_BYTES * done.compared
    return (
        _operations(runs, done.launches) * hardware.launch
        + traffic / hardware.memory
        + done.multiplied / hardware.operations
    )


def _operations(runs: list[Run], launches: int) -> float:
    """Small operations for so many blocks and layers, by those counted here."""
    counted = [(run, run["figures"]["operations"]) for run in runs if _computes(run)]
    return _fit_all(("call", "launches"), counted).predict((1, launches))


def _planning(runs: list[Run], samples: int, launches: int) -> float:
    """Seconds of planning, as here; an accelerator would sort and mask faster."""
    timed = [(run, run["figures"]["plan"]["fastest"]) for run in runs if _computes(run)]
    terms = ("call", "samples", "launches")
    return _fit_all(terms, timed).predict((1, samples, launches))


def _computes(run: Run) -> bool:
    return bool(run["key"]["kind"] == "compute")


def _fit_all(terms: tuple[str, ...], found: list[tuple[Run, float]]) -> Fit:
    pairs: list[tuple[Sequence[float], float]] = []
    for run, value in found:
        counted = {"call": 1, **run["figures"]["work"]}
        pairs.append(([counted[term] for term in terms], value))
    return fit(terms, pairs, [])


def limit(predictions: list[Prediction]) -> int | None:
    """The largest number of GPUs up to which a case pays; None if it never does."""
    paying = [p.ranks for p in predictions if p.pays]
    return max(paying) if paying else None


def sweep(hardware: Hardware, runs: list[Run], ranks: Sequence[int]) -> dict[str, list[Prediction]]:
    """Predictions of every case that was measured, by name."""
    names = {run["key"]["case"] for run in runs if run["key"]["kind"] == "compute"}
    return {
        name: [predict(case, r, hardware, runs) for r in ranks]
        for name, case in CASES.items()
        if name in names
    }
