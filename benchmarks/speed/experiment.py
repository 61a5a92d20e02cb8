"""Time, memory and exactness of the penalty over a grid of batches."""

from __future__ import annotations

import itertools
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.results import Results
from benchmarks.speed.penalties import PENALTIES, Case, plain, step
from benchmarks.speed.steps import Step, measure_step, steps
from benchmarks.timing import interleaved, peak_memory
from isoreg import isometry_penalty

# The slowest ratio to the plain version that is accepted, cell by cell.
LIMITS: dict[Case, float] = {
    Case(100, 100, 10, 1): 1.0,
    Case(100, 100, 10, 6): 1.4,
    Case(256, 512, 10, 6): 4.5,
    Case(1024, 512, 10, 6): 13.0,
    Case(1024, 512, 1000, 6): 16.0,
    Case(4096, 512, 10, 1): 20.0,
    Case(1024, 512, 1, 1): 2.0,
    Case(4096, 512, 1, 1): 3.0,
}
MEMORY_LIMITS: dict[Case, float] = {Case(4096, 512, 10, 6): 0.1, Case(4096, 100, 1, 1): 0.1}
# The largest share of a training step that the value and gradients of the penalty may take.
STEP_LIMITS: dict[Step, float] = {
    Step("mlp", 28, 100, 1, "flatten"): 0.4,
    Step("resnet18", 32, 128, 5, "flatten"): 0.03,
}
QUICK_CHECK = Case(1024, 100, 100, 1)
QUICK_LIMIT = 5.0
_MEMORY_FROM = 4096
_EXACT_UP_TO = 1024


def checked() -> list[Case | Step]:
    """What has a limit."""
    return list(dict.fromkeys([*LIMITS, *MEMORY_LIMITS, *STEP_LIMITS]))


def grid() -> list[Case | Step]:
    """Everything: what has a limit first, then steps, then the other cells from small to large."""
    cells: list[Case | Step] = [*checked(), *steps()]
    sizes = itertools.product(
        (100, 256, 1024, 4096, 8192), (10, 100, 512, 2048), (1, 10, 100, 1000)
    )
    for (n, d, c), layers in itertools.product(sizes, (1, 6)):
        if n < 8192 or layers == 1:  # six layers of 8192 samples need more memory than most have
            cells.append(Case(n, d, c, layers))
    cells += [Case(n, 512, 100, 1, uneven=True) for n in (256, 1024, 4096)]
    clustered = itertools.product((100, 256, 1024, 4096), (1, 10))
    cells += [Case(n, 100, c, 1, clustered=True) for n, c in clustered]
    return list(dict.fromkeys(cells))


def run(cases: list[Case | Step], *, device: str, out: Path, seconds: float = 1.0) -> Results:
    """Measure what is not yet in the file ``out``."""
    settings = {"device": device, "threads": torch.get_num_threads(), "seconds": seconds}
    results = Results(out, settings)
    todo = [case for case in cases if not results.has(asdict(case))]
    for penalty in PENALTIES.values():  # imports what it needs; numba compiles, once on a machine
        step(penalty, Case(64, 8, 2, 1), device)()
    for case in track(todo, "measuring", console=Console(stderr=True)):
        results.add(asdict(case), measure(case, device, seconds))
    return results


def measure(case: Case | Step, device: str, seconds: float) -> dict[str, object]:
    """All figures of one cell, or of one training step."""
    if isinstance(case, Step):
        return measure_step(case, device, seconds)
    steps = {name: step(penalty, case, device) for name, penalty in PENALTIES.items()}
    times = interleaved(steps, device=device, seconds=seconds)
    ours = times["isoreg"]
    figures: dict[str, object] = {
        "milliseconds": {name: 1000 * value for name, value in times.items()},
        "ratio": {name: value / ours for name, value in times.items() if name != "isoreg"},
        "share of the arithmetic bound": arithmetic(case) / _peak(device) / ours,
    }
    if case.n >= _MEMORY_FROM and device == "cpu":
        bytes_of = {name: _memory(case, name) for name in ("isoreg", "plain")}
        figures["peak megabytes"] = {name: value / 2**20 for name, value in bytes_of.items()}
    if case.n <= _EXACT_UP_TO:
        figures["gradient error"] = gradient_error(case, device)
    return figures


def arithmetic(case: Case) -> float:
    """Operations that cannot be avoided: products for the distances, and the gradient's.

    A pair of equal label needs 2 p for the inputs and per layer 2 d for the distance and 4 d for
    the gradient of both its members.
    """
    labels = case.data()[2]
    counts = labels.bincount().double()
    pairs = float((counts * (counts - 1) / 2).sum())
    each: int = 2 * case.p + case.layers * 6 * case.d
    return pairs * each


def gradient_error(case: Case, device: str) -> float:
    """Relative error of the gradients against the plain version in float64."""
    inputs, features, labels = case.data(device)
    exact = [x.detach().double().requires_grad_() for x in features]
    expected = torch.autograd.grad(plain(inputs.double(), exact, labels).sum(), exact)
    found = torch.autograd.grad(isometry_penalty(inputs, features, labels).sum(), features)
    pairs = zip(found, expected, strict=True)
    errors = [(f - e).norm() / e.norm().clamp_min(1e-300) for f, e in pairs]
    return float(torch.stack(errors).max())


def failures(results: Results) -> list[str]:
    """What falls short of the limits, in words."""
    found = []
    for run_ in results.runs:
        figures = run_["figures"]
        if "network" in run_["key"]:
            of, most = Step(**run_["key"]), STEP_LIMITS.get(Step(**run_["key"]), float("inf"))
            if figures["share"]["isoreg"] > most:
                found.append(f"{of}: {figures['share']['isoreg']:.3f} of a step, limit {most}")
            continue
        case = Case(**run_["key"])
        limit = LIMITS.get(case, QUICK_LIMIT if case == QUICK_CHECK else 0)
        if figures["ratio"]["plain"] < limit:
            found.append(f"{case}: {figures['ratio']['plain']:.2f} times plain, limit {limit}")
        memory = figures.get("peak megabytes")
        if memory and memory["isoreg"] > MEMORY_LIMITS.get(case, float("inf")) * memory["plain"]:
            found.append(f"{case}: {memory['isoreg']:.0f} of {memory['plain']:.0f} MB")
    return found


def _peak(device: str) -> float:
    """Operations a second of a matrix product, measured now."""
    n = 1024
    a, product = torch.randn(n, n, device=device), torch.empty(n, n, device=device)
    times = interleaved({"mm": lambda: torch.mm(a, a, out=product)}, device=device, seconds=0.2)
    return float(2 * n**3) / times["mm"]


def _memory(case: Case, name: str) -> int:
    code = (
        f"import sys, torch; sys.path[:0] = {sys.path!r}\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from benchmarks.speed.penalties import PENALTIES, Case, step\n"
        f"step(PENALTIES[{name!r}], Case(64, 8, 2, 1))()\n"
        f"measured = step(PENALTIES[{name!r}], {case!r})\n"
    )
    code = code.replace(repr(case), f"Case(**{asdict(case)!r})")
    return peak_memory(code)
