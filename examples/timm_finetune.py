"""Fine-tune a timm model with and without the penalty, and compare the two models.

Run with ``python -m examples.timm_finetune``. The model is trained here first, because pretrained
weights may not be available; with ``--pretrained`` it starts from timm's. Except for the two lines
marked below, everything is timm's own: Mixup, optimizer, scheduler, moving average of the weights.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from isoreg import IsometryRegularizer
from isoreg.datasets import digits
from isoreg.diagnostics import distortion

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(split: str, size: int = 32) -> tuple[Tensor, Tensor]:
    """Digits as colour images of the size that the model wants, and their labels."""
    images, labels = digits(split)
    large = nn.functional.interpolate(images, size=size, mode="bilinear")
    return large.repeat(1, 3, 1, 1).to(DEVICE), labels.to(DEVICE)


def train(model: nn.Module, *, epochs: int, rate: float, isometry: bool, batch: int = 64) -> None:
    """Train in place with timm's tools; the model ends with the moving average of its weights."""
    images, labels = load("train")
    steps = len(images) // batch
    optimizer = create_optimizer_v2(model, opt="adamw", lr=rate, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(
        optimizer, num_epochs=epochs, step_on_epochs=False, updates_per_epoch=steps
    )
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.0, num_classes=10)
    criterion, average = SoftTargetCrossEntropy(), ModelEmaV3(model.train(), decay=0.9)
    # 1: attach. Features and pixels have other units, so the penalty fits the scale and its weight
    with IsometryRegularizer(model, beta="auto", scale="fit") if isometry else nullcontext() as iso:
        for step in range(epochs * steps):
            chosen = torch.randint(len(images), (batch,), device=DEVICE)
            x, soft = mixup(images[chosen], labels[chosen])
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DEVICE == "cuda"):
                loss = criterion(model(x), soft)
                if iso:
                    loss = loss + iso(soft)  # 2: penalise; soft labels are fine
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(step + 1)
            average.update(model)
        if iso:
            print(iso.report())
    model.load_state_dict(average.module.state_dict())


@torch.no_grad()
def evaluate(model: Any, name: str) -> float:
    """Print accuracy and distortion on validation images; return the accuracy."""
    images, labels = load("validation")
    features = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    accuracy = float((model(images).argmax(1) == labels).float().mean())
    r = distortion(images, features, labels).correlation
    print(f"{name}: accuracy {100 * accuracy:.1f} %, Pearson's r of distances {r:.2f}")
    return accuracy


def main(
    name: str = "resnet10t.c3_in1k", epochs: int = 4, pretrained: bool = False
) -> dict[str, float]:
    """Train a model, fine-tune it in two ways, and return the accuracy of all three."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=pretrained, num_classes=10).to(DEVICE)
    if not pretrained:
        train(model, epochs=epochs, rate=2e-3, isometry=False)
    accuracies = {"before": evaluate(model, "before")}
    for title, isometry in (("plain", False), ("isometry", True)):
        tuned = copy.deepcopy(model)
        train(tuned, epochs=max(1, epochs // 2), rate=5e-4, isometry=isometry)
        accuracies[title] = evaluate(tuned, f"fine-tuned, {title}")
    return accuracies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tune a timm model with the penalty.")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights")
    main(pretrained=parser.parse_args().pretrained)
