"""A step of training for the launchers of other libraries: python -m tests.launched NAME FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from isoreg import IsometryRegularizer

LAYERS = ["1", "3"]
BATCH = 8


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 9))


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(2 * BATCH, 5, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(2 * BATCH) % 9  # most samples have their only partner on the other rank


def keep(model: nn.Module, value: Tensor, rank: int, folder: str) -> None:
    gradients = [p.grad for p in model.parameters()]
    torch.save((value.item(), gradients), Path(folder) / f"{rank}.pt")


def under_lightning(folder: str) -> None:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            # built before there are ranks
            self.iso = IsometryRegularizer(self.net, LAYERS, process_group="world")

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.penalty = self.iso(y)
            return loss + self.penalty

        def on_after_backward(self) -> None:
            keep(self.net, self.penalty, self.global_rank, folder)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",  # imports once
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Classifier(), DataLoader(TensorDataset(*data()), batch_size=BATCH))


def under_accelerate(folder: str) -> None:
    from accelerate import debug_launcher  # its launcher for several processes without a GPU

    debug_launcher(accelerated, (folder,), num_processes=2)


def accelerated(folder: str) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    plain = net()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(*data()), batch_size=BATCH)
    model, optimizer, loader = accelerator.prepare(plain, optimizer, loader)
    iso = IsometryRegularizer(accelerator.unwrap_model(model), LAYERS, process_group="world")
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        penalty = iso(y)
        accelerator.backward(loss + penalty)
        keep(plain, penalty, accelerator.process_index, folder)
    accelerator.end_training()


if __name__ == "__main__":
    {"lightning": under_lightning, "accelerate": under_accelerate}[sys.argv[1]](sys.argv[2])
