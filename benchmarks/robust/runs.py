"""One run: data, training, attacks, and what a step costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from benchmarks.internals import pgd
from benchmarks.methods import attach
from benchmarks.results import Figures
from benchmarks.robust.plans import UNIT, Plan, Schedule, network
from benchmarks.timing import interleaved
from benchmarks.training import OPTIMIZERS, Batches, cosine, descend, take_step
from isoreg.robustness import evaluate

Split = tuple[Tensor, Tensor]
# these attacks decide the worst case here; the other attacks of the presets only confirm it
DECISIVE = ("pgd-ce", "pgd-margin", "apgd-t")


def train(model: nn.Module, images: Tensor, labels: Tensor, *, plan: Plan) -> float:
    """Train in place; the caller sets the seed.

    Returns:
        Processor seconds of this process.
    """
    begin, schedule = time.process_time(), plan.schedule
    model.train()
    with attach(model, plan.recipe) as objective:
        descend(
            lambda rows, progress: objective(images[rows], labels[rows], progress=progress),
            OPTIMIZERS[schedule.optimizer](model),
            Batches(len(images), schedule.batch_size, schedule.epochs, whole=True),
            rate=cosine(schedule.learning_rate, schedule.warmup),
            after=objective.after_step,
        )
    model.eval()
    return time.process_time() - begin


def validate(
    model: nn.Module, images: Tensor, labels: Tensor, *, radii: Sequence[float], steps: int
) -> Figures:
    """Clean accuracy, and the share that survives PGD on the margin at each radius."""
    torch.manual_seed(1)
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    x, y = images[correct], labels[correct]
    attacked = {
        f"{eps:g}": (len(x) - pgd(model, x, y, eps=eps, steps=steps)[1][-1]) / len(images)
        for eps in radii
    }
    return {"clean": correct.float().mean().item(), "attacked": attacked}


def attacked(
    model: nn.Module, split: Split, norm: str, eps: Sequence[float], attacks: str | Sequence[str]
) -> Figures:
    """Clean accuracy, and for each radius the share that survives each attack, and all of them."""
    report = evaluate(model, *split, eps=list(eps), norm=norm, attacks=attacks, batch_size=500)
    rows = {"worst case": report.worst_case, **report.accuracy}
    shares = {
        row: {f"{e:g}": value for e, value in by_radius.items()} for row, by_radius in rows.items()
    }
    preset = attacks if isinstance(attacks, str) else "decisive"
    return {
        "clean": report.clean,
        norm: {"attacks": preset, "shares": shares, "warnings": report.warnings},
    }


def relative_cost(name: str, plan: Plan, *, seconds: float) -> float:
    """The cost of a plan on a network, in units: trainings by the plan `UNIT` that take as long.

    Steps of both plans are timed in turn in one process.
    """
    with ExitStack() as stack:
        steps = {title: _stepper(name, p, stack) for title, p in (("plan", plan), ("unit", UNIT))}
        times = interleaved(steps, seconds=seconds)

    def cost(step: float, schedule: Schedule) -> float:
        return schedule.epochs * step / schedule.batch_size

    return cost(times["plan"], plan.schedule) / cost(times["unit"], UNIT.schedule)


def _stepper(name: str, plan: Plan, stack: ExitStack) -> Callable[[], None]:
    model, size = network(name), plan.schedule.batch_size
    objective = stack.enter_context(attach(model, plan.recipe))
    optimizers = OPTIMIZERS[plan.schedule.optimizer](model)
    images, labels = torch.rand(size, 1, 28, 28), torch.arange(size) % 10

    def step() -> None:
        take_step(objective(images, labels, progress=1.0), optimizers)
        objective.after_step()

    return step
