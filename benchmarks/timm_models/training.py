"""Training in the way in which timm's own scripts do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.methods import Objective, Recipe, attach
from benchmarks.timm_models.data import Epochs, Split
from benchmarks.timm_models.settings import Schedule

_WARMUP = 0.1
_AVERAGED = 0.1


@dataclass(frozen=True)
class Training:
    """Everything about a training except the model and the recipe.

    ``mixup`` is the alpha of timm's Mixup; 0 switches it off. The seed determines the augmentation
    and what the method draws. On a GPU the forward pass is in bfloat16. ``tick`` is called after
    each step.
    """

    epochs: Epochs
    schedule: Schedule
    batch_size: int
    weight_decay: float
    mixup: float
    seed: int
    device: str
    tick: Callable[[], None] = lambda: None

    @property
    def steps(self) -> int:
        """Number of steps in an epoch; an incomplete batch is left out."""
        return self.epochs.count(self.schedule.images) // self.batch_size


def train(model: nn.Sequential, recipe: Recipe, training: Training) -> nn.Sequential:
    """Train in place.

    Returns:
        The moving average of the model over the last tenth of its steps or so, in eval mode.
    """
    from timm.utils import ModelEmaV3

    model.to(training.device).train()
    steps = training.schedule.epochs * training.steps
    ema = ModelEmaV3(model, decay=1 - 1 / max(2, _AVERAGED * steps), use_warmup=True)
    with attach(model, recipe) as objective:
        optimizer, scheduler = _optimizer(model, objective, training)
        for done, (images, labels) in enumerate(_batches(training)):
            scheduler.step_update(done)
            step_on(objective, optimizer, images, labels, progress=done / steps)
            ema.update(model, step=done + 1)
            training.tick()
    average: nn.Sequential = ema.module.eval()
    return average


def step_on(
    objective: Objective, optimizer: Optimizer, images: Tensor, labels: Tensor, progress: float
) -> None:
    """Take one step of training."""
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        loss = objective(images, labels, progress=progress)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step()


def _optimizer(model: nn.Module, objective: Objective, training: Training) -> tuple[Any, Any]:
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    schedule = training.schedule
    optimizer = create_optimizer_v2(
        model.net, opt="adamw", lr=schedule.rate, weight_decay=training.weight_decay
    )
    if objective.parameters:
        optimizer.add_param_group({"params": objective.parameters, "weight_decay": 0.0})
    warmup = {"warmup_epochs": _WARMUP * schedule.epochs, "warmup_lr": schedule.rate / 10}
    counted = {"num_epochs": schedule.epochs, "updates_per_epoch": training.steps}
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", step_on_epochs=False, **warmup, **counted
    )
    return optimizer, scheduler


def _batches(training: Training) -> Iterator[Split]:
    """Batches of pixels from 0 to 1 and labels, epoch by epoch, mixed unless ``mixup`` is 0."""
    from timm.data import Mixup
    from timm.utils import random_seed

    classes = training.epochs.classes
    mixup = Mixup(mixup_alpha=training.mixup, label_smoothing=0.0, num_classes=classes)
    for epoch in range(training.schedule.epochs):
        images, labels = training.epochs(training.schedule.images, seed=training.seed, epoch=epoch)
        random_seed(1000 * training.seed + epoch)
        for step in range(training.steps):
            rows = slice(step * training.batch_size, (step + 1) * training.batch_size)
            x, y = images[rows].to(training.device).float() / 255, labels[rows].to(training.device)
            yield mixup(x, y) if training.mixup else (x, y)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, device: str) -> float:
    """Share of images, given as bytes, that a model in eval mode classifies correctly."""
    right = 0
    for images, labels in zip(split[0].split(500), split[1].split(500), strict=True):
        logits = model(images.to(device).float() / 255)
        right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(split[0])
