"""The penalty in Hugging Face's Trainer: ``python -m examples.transformers_trainer``.

A small vision transformer is built from a configuration, so that nothing is downloaded; a
pretrained one is trained in the same way. Models of text are too: their features are then compared
with the embeddings of the tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from isoreg.datasets import digits
from isoreg.integrations.transformers import IsometryTrainer


def rows(split: str) -> list[dict[str, Any]]:
    """Digits in the form that the Trainer wants; the labels to learn are their parity."""
    images, labels = digits(split)
    return [{"pixel_values": x, "labels": int(y) % 2} for x, y in zip(images, labels, strict=True)]


def accuracy(prediction: Any) -> dict[str, float]:
    """The share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main(epochs: int = 10, folder: Path = Path("runs/transformers")) -> dict[str, float]:
    """Train with the penalty, print the report, return what was measured on validation images."""
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1}
    size = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = ViTConfig(**shape, **size, intermediate_size=128, num_labels=2)
    trainer = IsometryTrainer(
        ViTForImageClassification(config),
        TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=50,
            gradient_accumulation_steps=2,  # the penalty is averaged as the loss is
            learning_rate=1e-3,
            logging_steps=10,
            save_strategy="no",
            report_to=[],  # or "tensorboard", "wandb": the penalties are logged beside the loss
            disable_tqdm=True,
        ),
        train_dataset=rows("train"),
        eval_dataset=rows("validation"),
        compute_metrics=accuracy,
        isometry={"beta": "auto"},  # the only new line
    )
    trainer.train()
    assert trainer.iso is not None
    print(trainer.iso.report())
    metrics: dict[str, float] = trainer.evaluate()
    print(f"{100 * metrics['eval_accuracy']:.1f} % on validation images")
    return metrics


if __name__ == "__main__":
    main()
