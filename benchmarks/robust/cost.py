"""What a training costs, in trainings of five epochs of cross-entropy on batches of 100."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import torch

from benchmarks.objectives import attach
from benchmarks.robust.optimizers import OPTIMIZERS
from benchmarks.robust.plans import UNIT, Plan
from benchmarks.robust.training import network
from benchmarks.timing import interleaved


def relative_costs(name: str, plans: Mapping[str, Plan], *, seconds: float) -> dict[str, float]:
    """The cost of each plan on a network, from steps of all plans taken in turn in one process."""
    with ExitStack() as stack:
        steps = {plan: _stepper(name, plans[plan], stack) for plan in plans}
        steps["unit"] = _stepper(name, UNIT, stack)
        times = interleaved(steps, seconds=seconds)
    an_epoch = {plan: times[plan] / plans[plan].schedule.batch_size for plan in plans}
    unit = UNIT.schedule.epochs * times["unit"] / UNIT.schedule.batch_size
    return {plan: plans[plan].schedule.epochs * an_epoch[plan] / unit for plan in plans}


def _stepper(name: str, plan: Plan, stack: ExitStack) -> Callable[[], None]:
    model = network(name)
    objective = stack.enter_context(attach(model, plan.recipe))
    parameters = list(model.parameters())
    optimizers = OPTIMIZERS[plan.schedule.optimizer](model)
    batches = _batches(plan.schedule.batch_size)

    def step() -> None:
        images, labels = next(batches)
        loss = objective(images, labels, progress=1.0)
        model.zero_grad()
        loss.backward(inputs=parameters)
        for optimizer in optimizers:
            optimizer.step()
        objective.after_step()

    return step


def _batches(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    images, labels = torch.rand(size, 1, 28, 28), torch.arange(size) % 10
    while True:
        yield images, labels
