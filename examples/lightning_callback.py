"""The penalty in a LightningModule that knows nothing of it.

Run with ``python -m examples.lightning_callback``. The module below can be any LightningModule. The
callback adds the penalty to its loss during training, logs the penalty (here to a CSV file), and
then leaves the module as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from isoreg.datasets import digits
from isoreg.integrations.lightning import IsometryCallback


class Parity(pl.LightningModule):  # type: ignore[misc]
    """A module that learns to tell even digits from odd ones."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh()]
        self.net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss of the task, without the penalty."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Log the accuracy."""
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters())


def loader(split: str) -> DataLoader[tuple[Tensor, ...]]:
    """Digits with their parity as labels."""
    images, labels = digits(split)
    return DataLoader(TensorDataset(images, labels % 2), batch_size=100, shuffle=split == "train")


def main(epochs: int = 20, folder: Path = Path("runs")) -> float:
    """Train with the callback; print the report and return the accuracy."""
    pl.seed_everything(0)
    callback = IsometryCallback(["net.2", "net.4"], beta="auto")
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],  # the only new line
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Parity(), loader("train"), loader("validation"))
    assert callback.iso is not None
    print(callback.iso.report())
    accuracy = float(trainer.callback_metrics["accuracy"])
    print(f"{100 * accuracy:.1f} % on validation images; losses in {folder}")
    return accuracy


if __name__ == "__main__":
    main()
