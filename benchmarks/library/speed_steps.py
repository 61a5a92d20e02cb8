"""The penalty's share of a training step, measured on real networks with and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.internals import without_numba
from benchmarks.library.speed_penalties import PENALTIES, plain
from benchmarks.networks import mlp
from benchmarks.timing import interleaved
from benchmarks.training import adam, take_step
from isoreg import IsometryRegularizer

LAYERS: dict[str, list[list[str]]] = {
    "mlp": [["8"], ["2", "4", "6", "8"]],
    "resnet18": [["maxpool", "layer1", "layer2", "layer3", "layer4"]],
    "vit_tiny_patch16_224": [["blocks.0", "blocks.3", "blocks.6", "blocks.9", "blocks.11"]],
}
_RIVALS = ("isoreg", "isoreg without numba", "plain")


@dataclass(frozen=True)
class Step:
    """One training step: a batch of square images of ten classes through a network."""

    network: str
    pixels: int
    batch: int
    layers: int
    pool: str

    def __str__(self) -> str:
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        pool = {"flatten": "flattened", "mean": "pooled"}[self.pool]
        return f"{self.network}, {self.pixels} px, batch {self.batch}, {layers} {pool}"

    def names(self) -> list[str]:
        """Names of the layers whose features are compared."""
        return next(names for names in LAYERS[self.network] if len(names) == self.layers)

    def data(self, device: str) -> tuple[nn.Module, Tensor, Tensor]:
        """The network, random images and random labels, all from seed 0."""
        torch.manual_seed(0)
        x = torch.rand(self.batch, 1 if self.network == "mlp" else 3, self.pixels, self.pixels)
        return self.model().to(device), x.to(device), torch.randint(10, (self.batch,)).to(device)

    def model(self) -> nn.Module:
        """The network with ten classes, randomly initialised."""
        if self.network == "mlp":
            return mlp()
        import timm

        model: nn.Module = timm.create_model(self.network, num_classes=10)
        return model


def steps() -> list[Step]:
    """All steps that are measured, from fast to slow."""
    all_steps = [
        Step("mlp", 28, batch, len(names), "flatten")
        for batch in (100, 1000)
        for names in LAYERS["mlp"]
    ]
    for network, pixels, batch in (
        ("resnet18", 32, 128),
        ("resnet18", 64, 128),
        ("vit_tiny_patch16_224", 224, 64),
    ):
        all_steps += [Step(network, pixels, batch, 5, pool) for pool in ("flatten", "mean")]
    return all_steps


def measure_step(step: Step, device: str, seconds: float) -> dict[str, object]:
    """Milliseconds of a step without a penalty, of steps with one, and of the penalty alone.

    A penalty alone is its value and its gradients in the layers' outputs, pooling included. It is
    measured because the difference of two steps is mostly noise when a step takes seconds.
    """
    rivals = _RIVALS if step.network == "mlp" else ("isoreg",)
    runs = {"none": training_step(step, None, device)}
    runs |= {name: training_step(step, name, device) for name in rivals}
    with_penalty = interleaved(runs, device=device, seconds=seconds)
    penalties = interleaved(
        {name: penalty_alone(step, name, device) for name in _RIVALS},
        device=device,
        seconds=seconds,
    )
    without = with_penalty.pop("none")
    return {
        "milliseconds": {
            "step": 1000 * without,
            "step with": {name: 1000 * value for name, value in with_penalty.items()},
            "penalty": {name: 1000 * value for name, value in penalties.items()},
        },
        "share by difference": {n: value / without - 1 for n, value in with_penalty.items()},
        "share": {name: value / without for name, value in penalties.items()},
    }


def training_step(step: Step, penalty: str | None, device: str) -> Callable[[], None]:
    """A function that takes one training step of a new network on one fixed batch."""
    model, x, y = step.data(device)
    model.train()
    optimizers = adam(model)
    added = _added_loss(model, step, penalty)

    def run() -> None:
        take_step(F.cross_entropy(model(x), y) + added(x, y), optimizers)

    return run


def _added_loss(
    model: nn.Module, step: Step, penalty: str | None
) -> Callable[[Tensor, Tensor], Tensor | float]:
    """Attach hooks, and return a function that gives the penalty of the last forward pass."""
    if penalty is None:
        return lambda *_: 0.0
    if penalty == "plain":
        outputs = _watch(model, step.names())
        return lambda x, y: plain(x.flatten(1), _pooled([*outputs.values()], step.pool), y).sum()
    iso = IsometryRegularizer(model, step.names(), beta=0.1, pool=step.pool)

    def regularized(_: Tensor, y: Tensor) -> Tensor:
        if penalty == "isoreg":
            return iso(y)
        with without_numba():
            return iso(y)

    return regularized


def penalty_alone(step: Step, penalty: str, device: str) -> Callable[[], list[Tensor]]:
    """A function that computes a penalty and its gradients at the outputs of the layers."""
    model, x, y = step.data(device)
    outputs_by_layer = _watch(model, step.names())
    with torch.no_grad():
        model(x)
    outputs = [output.requires_grad_() for output in outputs_by_layer.values()]

    def run() -> list[Tensor]:
        features = _pooled(outputs, step.pool)
        total = PENALTIES[penalty](x.flatten(1), features, y).sum()
        return list(torch.autograd.grad(total, outputs))

    return run


def _watch(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """A dict that hooks keep filled with the last outputs of these layers."""
    outputs: dict[str, Tensor] = {}
    for name in names:

        def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
            outputs[name] = output

        model.get_submodule(name).register_forward_hook(keep)
    return outputs


def _pooled(outputs: Sequence[Tensor], pool: str) -> list[Tensor]:
    """Outputs flattened, or averaged over space (images) or tokens (sequences)."""
    if pool == "flatten":
        return [x.flatten(1) for x in outputs]
    return [x.mean(1) if x.ndim == 3 else x.mean((2, 3)) for x in outputs]
