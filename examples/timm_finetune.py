"""Fine-tune a timm model with the penalty, Mixup and mixed precision.

Run with ``python -m examples.timm_finetune``, and ``--pretrained`` where the weights can be
downloaded. The penalty is on what enters the classifier, which timm names; ``layers="stages"``
would take the output of every stage.
"""

from __future__ import annotations

import sys

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from isoreg import IsometryRegularizer
from isoreg.datasets import digits


def colour(images: Tensor, size: int) -> Tensor:
    """Digits as colour images of the size that the model wants."""
    return nn.functional.interpolate(images, size=size, mode="bilinear").repeat(1, 3, 1, 1)


def main(
    name: str = "resnet10t.c3_in1k", epochs: int = 5, size: int = 32, pretrained: bool = False
) -> float:
    """Fine-tune, print the report, return the accuracy on validation images."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = digits("train")
    model = timm.create_model(name, pretrained=pretrained, num_classes=10).to(device)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.0, num_classes=10)
    criterion = SoftTargetCrossEntropy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    # batch statistics put images and features on other scales: let the penalty fit the factor
    with IsometryRegularizer(model, beta="auto", scale="fit") as iso:
        for epoch in range(epochs):
            for batch in torch.randperm(len(images)).split(64):
                if len(batch) % 2:  # Mixup wants an even number
                    continue
                x, y = colour(images[batch], size).to(device), labels[batch].to(device)
                x, soft = mixup(x, y)
                with torch.autocast(device, enabled=device == "cuda"):
                    loss = criterion(model(x), soft) + iso(soft)  # soft labels are fine
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            print(f"epoch {epoch}:", {k: round(v, 4) for k, v in iso.log_dict("").items()})
        print(iso.report())
    accuracy = evaluate(model.eval(), size, device)
    print(f"{100 * accuracy:.1f} % on validation images")
    return accuracy


@torch.no_grad()
def evaluate(model: nn.Module, size: int, device: str) -> float:
    """Accuracy on validation images."""
    images, labels = digits("validation")
    found = model(colour(images, size).to(device)).argmax(1).cpu()
    return float((found == labels).float().mean())


if __name__ == "__main__":
    main(pretrained="--pretrained" in sys.argv)
