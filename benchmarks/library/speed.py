"""The cost of the penalty in time and memory, beside a plain version and in a training step."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer

from benchmarks.library.speed_penalties import PENALTIES, Case, plain, step
from benchmarks.library.speed_report import draw, tables
from benchmarks.library.speed_steps import Step, measure_step, steps
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study
from benchmarks.timing import interleaved, peak_memory
from isoreg import isometry_penalty

# The smallest accepted ratio of the plain version's time to ours, cell by cell.
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


@dataclass(frozen=True)
class Settings:
    """Settings of the timing; with ``check`` only the cells with a limit are measured."""

    device: str = "cpu"
    threads: int = 1
    seconds: float = 1.0
    check: bool = False


def settings(
    quick: bool,
    device: str = "cpu",
    check: Annotated[
        bool, typer.Option("--check", help="Only the cells with a limit; fail below it.")
    ] = False,
) -> Settings:
    """The settings from the command line; the number of torch threads is set too."""
    del quick
    chosen = Settings(device=device, check=check)
    torch.set_num_threads(chosen.threads)
    return chosen


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Cells and training steps; a quick run has one cell."""
    cells: list[Case | Step] = checked() if lab.settings.check else grid()
    for case in [QUICK_CHECK] if lab.quick else cells:
        yield asdict(case)


def checked() -> list[Case | Step]:
    """The cells and steps that have a limit."""
    return list(dict.fromkeys([*LIMITS, *MEMORY_LIMITS, *STEP_LIMITS]))


def grid() -> list[Case | Step]:
    """Everything: cells and steps with a limit, other steps, other cells from small to large."""
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


def determines(key: Key, settings: Settings) -> dict[str, object]:
    """All settings but ``check``, which selects cells and does not change how they are timed."""
    del key
    return {k: v for k, v in asdict(settings).items() if k != "check"}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures of one cell, or of one training step."""
    device, seconds = lab.settings.device, lab.settings.seconds
    lab.once("warm", lambda: _warm_up(device))
    if "network" in key:
        return measure_step(Step(**key), device, seconds)
    case = Case(**key)
    steps = {name: step(penalty, case, device) for name, penalty in PENALTIES.items()}
    times = interleaved(steps, device=device, seconds=seconds)
    ours = times["isoreg"]
    figures: Figures = {
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


def _warm_up(device: str) -> bool:
    """Call each penalty once before timing: imports, and numba's compilation (once a machine)."""
    for penalty in PENALTIES.values():
        step(penalty, Case(64, 8, 2, 1), device)()
    return True


def arithmetic(case: Case) -> float:
    """Arithmetic operations that no implementation can avoid, for distances and gradients.

    A pair of equal label needs 2 p for the distance of the inputs, and per layer 2 d for the
    distance of the features and 4 d for the gradient at both of its members.
    """
    labels = case.data()[2]
    counts = labels.bincount().double()
    pairs = float((counts * (counts - 1) / 2).sum())
    per_pair: int = 2 * case.p + case.layers * 6 * case.d
    return pairs * per_pair


def gradient_error(case: Case, device: str) -> float:
    """Relative error of the gradients against the plain version in float64."""
    inputs, features, labels = case.data(device)
    exact = [x.detach().double().requires_grad_() for x in features]
    expected = torch.autograd.grad(plain(inputs.double(), exact, labels).sum(), exact)
    gradients = torch.autograd.grad(isometry_penalty(inputs, features, labels).sum(), features)
    pairs = zip(gradients, expected, strict=True)
    errors = [(f - e).norm() / e.norm().clamp_min(1e-300) for f, e in pairs]
    return float(torch.stack(errors).max())


def failures(results: Found) -> list[str]:
    """Sentences on the cells and steps that fall short of their limits; none without ``check``."""
    short = []
    for run in results["runs"] if results["settings"]["check"] else ():
        key, figures = run["key"], run["figures"]
        if "network" in key:
            training_step, share = Step(**key), figures["share"]["isoreg"]
            if share > (most := STEP_LIMITS.get(training_step, float("inf"))):
                short.append(f"{training_step}: {share:.3f} of a step, limit {most}")
            continue
        case, ratio = Case(**key), figures["ratio"]["plain"]
        limit = LIMITS.get(case, QUICK_LIMIT if case == QUICK_CHECK else 0)
        if ratio < limit:
            short.append(f"{case}: {ratio:.2f} times plain, limit {limit}")
        memory = figures.get("peak megabytes")
        if memory and memory["isoreg"] > MEMORY_LIMITS.get(case, float("inf")) * memory["plain"]:
            short.append(f"{case}: {memory['isoreg']:.0f} of {memory['plain']:.0f} MB")
    return short


def _peak(device: str) -> float:
    """Operations per second of a matrix product, measured now."""
    n = 1024
    a, product = torch.randn(n, n, device=device), torch.empty(n, n, device=device)
    times = interleaved({"mm": lambda: torch.mm(a, a, out=product)}, device=device, seconds=0.2)
    return float(2 * n**3) / times["mm"]


def _memory(case: Case, name: str) -> int:
    return peak_memory(
        f"import sys, torch; sys.path[:0] = {sys.path!r}\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from benchmarks.library.speed_penalties import PENALTIES, Case, step\n"
        f"step(PENALTIES[{name!r}], Case(64, 8, 2, 1))()\n"
        f"measured = step(PENALTIES[{name!r}], Case(**{asdict(case)!r}))\n"
    )


STUDY = Study(
    "speed",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="time, memory and exactness of the penalty",
    time="an hour on one core",
    device=True,
    determines=determines,
    verdict=failures,
    fresh=lambda settings: settings.check,  # a check measures everything anew
    committed={"speed": {}, "speed-intel": {}},
)
