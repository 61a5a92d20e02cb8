"""Training as timm does it, with checkpoints: what was cut goes on at its last epoch."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.methods import Objective, Recipe, attach
from benchmarks.timm_models.data import Epochs, Split
from benchmarks.timm_models.settings import Schedule

_CHECKPOINT = "checkpoint.pt"
_SUMMARY = "summary.csv"
_WARMUP = 0.1
_AVERAGED = 0.1


@dataclass(frozen=True)
class Training:
    """Everything about a training but the model and the recipe.

    The accuracy on the validation split is logged. ``mixup`` is the alpha of timm's Mixup, 0: none.
    The seed is that of the augmentation and of what the method draws. On a GPU the forward pass is
    in bfloat16. The checkpoint and timm's ``summary.csv`` are kept in the folder; ``tick`` is
    called after each step.
    """

    epochs: Epochs
    validation: Split
    schedule: Schedule
    batch_size: int
    weight_decay: float
    mixup: float
    seed: int
    device: str
    folder: Path
    tick: Callable[[], None] = lambda: None

    @property
    def steps(self) -> int:
        """Steps an epoch; an incomplete batch is left out."""
        return self.epochs.count(self.schedule.images) // self.batch_size


def train(model: nn.Sequential, recipe: Recipe, training: Training) -> nn.Sequential:
    """Train in place.

    Returns:
        The moving average of the model over the last tenth of its steps or so, in eval mode.
    """
    from timm.utils import ModelEmaV3

    model.to(training.device).train()
    schedule, steps = training.schedule, training.steps
    decay = 1 - 1 / max(2, _AVERAGED * schedule.epochs * steps)
    ema = ModelEmaV3(model, decay=decay, use_warmup=True)
    with attach(model, recipe) as objective:
        optimizer, scheduler = _optimizer(model, objective, training)
        kept = {"model": model, "average": ema.module, "optimizer": optimizer, "method": objective}
        for epoch in range(_resume(kept, training.folder), schedule.epochs):
            loss = _train_epoch(epoch, model, objective, optimizer, scheduler, ema, training)
            _log(epoch, {"loss": loss, **objective.log()}, ema.module, optimizer, training)
            _save(kept, training.folder, epoch + 1)
    (training.folder / _CHECKPOINT).unlink(missing_ok=True)
    average: nn.Sequential = ema.module.eval()
    return average


def step_on(
    objective: Objective, optimizer: Optimizer, images: Tensor, labels: Tensor, progress: float
) -> Tensor:
    """One step of training; returns the loss."""
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        loss = objective(images, labels, progress=progress)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step()
    return loss.detach()


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


def _train_epoch(
    epoch: int,
    model: nn.Module,
    objective: Objective,
    optimizer: Optimizer,
    scheduler: Any,
    ema: Any,
    training: Training,
) -> float:
    """The mean loss."""
    from timm.data import Mixup
    from timm.utils import random_seed

    images, labels = training.epochs(training.schedule.images, seed=training.seed, epoch=epoch)
    classes = int(training.validation[1].max()) + 1
    mixup = Mixup(mixup_alpha=training.mixup, label_smoothing=0.0, num_classes=classes)
    random_seed(1000 * training.seed + epoch)
    model.train()
    losses = []
    for step in range(training.steps):
        rows = slice(step * training.batch_size, (step + 1) * training.batch_size)
        x, y = images[rows].to(training.device).float() / 255, labels[rows].to(training.device)
        if training.mixup:
            x, y = mixup(x, y)
        done = epoch * training.steps + step
        scheduler.step_update(done)
        progress = done / (training.schedule.epochs * training.steps)
        losses.append(step_on(objective, optimizer, x, y, progress))
        ema.update(model, step=done + 1)
        training.tick()
    return float(torch.stack(losses).mean())


def read_log(folder: Path) -> list[dict[str, str]]:
    """The rows of timm's ``summary.csv``, one an epoch."""
    with (folder / _SUMMARY).open(newline="") as file:
        return list(csv.DictReader(file))


def _log(
    epoch: int,
    figures: dict[str, float],
    model: nn.Module,
    optimizer: Optimizer,
    training: Training,
) -> None:
    from timm.utils import update_summary

    training.folder.mkdir(parents=True, exist_ok=True)
    found = {"top1": 100 * accuracy(model, training.validation, training.device)}
    path, rate = training.folder / _SUMMARY, optimizer.param_groups[0]["lr"]
    update_summary(epoch, figures, found, path, lr=rate, write_header=epoch == 0)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, device: str) -> float:
    """Share of images, as bytes, that a model in eval mode gets right."""
    right = 0
    for images, labels in zip(split[0].split(500), split[1].split(500), strict=True):
        logits = model(images.to(device).float() / 255)
        right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(split[0])


def _save(kept: dict[str, Any], folder: Path, done: int) -> None:
    """Replace the checkpoint in one step."""
    state = {name: thing.state_dict() for name, thing in kept.items()}
    state |= {"done": done, "summary": (folder / _SUMMARY).read_text()}
    part = folder / f".{_CHECKPOINT}.part"
    torch.save(state, part)
    os.replace(part, folder / _CHECKPOINT)


def _resume(kept: dict[str, Any], folder: Path) -> int:
    """Load the checkpoint, if there is one; how many epochs are done."""
    summary = folder / _SUMMARY
    if not (folder / _CHECKPOINT).exists():
        summary.unlink(missing_ok=True)
        return 0
    state = torch.load(folder / _CHECKPOINT, weights_only=True)
    for name, thing in kept.items():
        thing.load_state_dict(state[name])
    summary.write_text(state["summary"])  # without the row of an epoch that was cut
    return int(state["done"])
