"""Honest and masked models on digits, each built around the same small network."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import RobustLoss
from isoreg.datasets import digits
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import cross_entropy, pgd

EPS = 0.1


@functools.cache
def images_of(part: str, count: int = 100) -> tuple[Tensor, Tensor]:
    images, labels = digits(part)
    return images[:count], labels[:count]


@functools.cache
def honest(kind: str, seed: int = 0) -> nn.Module:
    """A network trained on digits: not for changing, it is kept."""
    torch.manual_seed(seed)
    x, y = digits("train")
    unit = {"smooth": nn.SiLU, "tanh": nn.Tanh}.get(kind, nn.ReLU)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), unit(), nn.Linear(64, 10))
    steps = 15 if kind == "low accuracy" else 150
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = RobustLoss(model, eps=EPS, warmup_steps=steps // 2)
    for _ in range(steps):
        images = x
        if kind == "adversarially trained":
            images, _ = pgd(model, x, y, eps=EPS, loss=cross_entropy, steps=3)
        optimizer.zero_grad()
        loss = criterion(x, y) if kind == "robust loss" else F.cross_entropy(model(images), y)
        loss.backward()
        optimizer.step()
    return model.eval()


HONEST = ("plain", "smooth", "tanh", "low accuracy", "adversarially trained", "robust loss")


class Residual(nn.Module):
    """Adds what its layers make of an input to it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Answers(nn.Module):
    """Answers with a function of the images."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


def classifier_of(model: nn.Module | Callable[[Tensor], Tensor]) -> PixelClassifier:
    """Of images whose pixels are from 0 to 1."""
    model = model if isinstance(model, nn.Module) else Answers(model)
    return PixelClassifier(model, bounds=(0, 1), mean=None, std=None)


def _pixels(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers)


# no threshold was set on these, nor on images behind the first hundred
FRESH = {
    "deep": lambda: [nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48),
                     nn.ReLU(), nn.Linear(48, 10)],
    "narrow": lambda: [nn.Linear(64, 12), nn.GELU(), nn.Linear(12, 10)],
    "linear": lambda: [nn.Linear(64, 10)],
    "sigmoid": lambda: [nn.Linear(64, 96), nn.Sigmoid(), nn.Linear(96, 10)],
    "residual": lambda: [nn.Linear(64, 48),
                         Residual(nn.LayerNorm(48), nn.Linear(48, 48), nn.SiLU()),
                         nn.Linear(48, 10)],
    "convolutional": lambda: [_pixels(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
                              nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 10))],
    "dropout": lambda: [nn.Linear(64, 96), nn.LeakyReLU(), nn.Dropout(0.3), nn.Linear(96, 10)],
}  # fmt: skip


@functools.cache
def fresh(name: str, training: str, seed: int) -> nn.Module:
    """An honest network of another kind, trained on digits: not for changing, it is kept."""
    torch.manual_seed(seed)
    x, y = digits("train")
    model = nn.Sequential(nn.Flatten(), *FRESH[name]())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
    for _ in range(120):
        images = x
        if training == "adversarial":
            images, _ = pgd(model.eval(), x, y, eps=EPS, loss=cross_entropy, steps=2)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images), y).backward()
        optimizer.step()
    return model.eval()


class Masked(nn.Module):
    """Around the plain network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = honest("plain")

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Rounding(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return torch.round(self.model(x) * 10) / 10


class Temperature(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


class Votes(Masked):
    """One-hot votes of three networks."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([honest("plain", seed) for seed in (0, 1, 2)])

    def answer(self, x: Tensor) -> Tensor:
        return sum(F.one_hot(m(x).argmax(1), 10).float() for m in self.members)


class Thermometer(Masked):
    def answer(self, x: Tensor) -> Tensor:
        levels = torch.arange(1, 16).view(-1, *[1] * x.ndim) / 16
        return self.model((x[None] > levels).float().mean(0))


class Integers(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return self.model((x * 16).to(torch.uint8).float() / 16)


class Detector(Masked):
    """Answers from a blurred image where the image is not smooth, behind a hard switch."""

    def answer(self, x: Tensor) -> Tensor:
        coarse = (x * 8).int().float() / 8
        odd = ((x - coarse).flatten(1).abs().mean(1, keepdim=True) > 0.04).float()
        return odd * self.model(coarse) + (1 - odd) * self.model(x.detach())


class Random(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return self.model(x + 0.1 * torch.randn_like(x))


class Memory(Masked):
    """Answers as it did for the nearest image that it was shown, if that is near."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[Tensor, Tensor]] = []

    def answer(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if self.shown:
            keys, values = (torch.cat(part) for part in zip(*self.shown, strict=True))
            distances = torch.cdist(x.flatten(1), keys, p=torch.inf)
            near, which = distances.min(1)
            logits = torch.where((near < 0.31)[:, None], values[which], logits)
            new = near >= 0.31
        else:
            new = torch.ones(len(x), dtype=torch.bool)
        if new.any():
            self.shown.append((x.detach().flatten(1)[new], logits.detach()[new]))
        return logits


class Waves(Masked):
    """Small waves on the logits, whose slope is larger than the network's."""

    def answer(self, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        w = torch.randn(64, 10)
        return self.model(x) + 0.3 * torch.sin(1000 * x.flatten(1) @ w / 8)


class LongWaves(Masked):
    def answer(self, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        w = torch.randn(64, 10)
        return self.model(x) + 1.0 * torch.sin(100 * x.flatten(1) @ w / 8)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.roll(3, -1) * torch.linspace(-1, 1, gradient.shape[-1])


class WrongBackward(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return self.model(_Turned.apply(x))


class SmoothSteps(Masked):
    """A smooth staircase: nearly flat wherever pixels of the data lie."""

    def answer(self, x: Tensor) -> Tensor:
        y = 16 * x
        return self.model((y - torch.sin(2 * torch.pi * y) / (2 * torch.pi)) / 16)


class Plateau(Masked):
    def answer(self, x: Tensor) -> Tensor:
        return torch.tanh(0.3 * self.model(x))


class Ensemble(Masked):
    """Mean probabilities of three networks, of which two are hidden from gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([honest("plain", seed) for seed in (0, 1, 2)])

    def answer(self, x: Tensor) -> Tensor:
        hidden = [m(x.detach()).softmax(1) for m in self.members[1:]]
        return (self.members[0](x).softmax(1) * 0.1 + sum(hidden)).log()


class LowFrequencies(Masked):
    """A right gradient of the image's low frequencies, and none of the rest."""

    def answer(self, x: Tensor) -> Tensor:
        means = F.avg_pool2d(x.view(-1, 1, 8, 8), 4)
        low = F.interpolate(means, scale_factor=4).view_as(x)
        return self.model(low + (x - low).detach())


class SecondPlace(Masked):
    """An eleventh class that is always a close second, and rises in a direction of its own."""

    def answer(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
        second = logits.amax(1) - 0.5 + 0.3 * x.flatten(1) @ direction / 8
        return 30 * torch.cat([logits, second[:, None]], 1)


class BatchStatistics(Masked):
    """Batch normalisation without running statistics in front."""

    def answer(self, x: Tensor) -> Tensor:
        return self.model(x - x.mean(0) + images_of("train")[0].mean(0))


class Positions(Masked):
    """The second half of a batch is answered by rounded logits."""

    def answer(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        half = len(x) // 2
        return torch.cat([logits[:half], logits[half:].round()])


class WinnersTakeAll(Masked):
    """Of each layer's units a tenth pass, so that the logits jump wherever the winners change.

    Source: Xiao, Zhong and Zheng (2020), "Enhancing Adversarial Defense by k-Winners-Take-All",
    broken by Tramèr et al. (2020).
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = winners()

    def answer(self, x: Tensor) -> Tensor:
        return self.model(x)


class Winners(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(len(x[0]) // 10, 1).values[:, -1:]
        return x * (x >= least)


@functools.cache
def winners() -> nn.Module:
    torch.manual_seed(0)
    x, y = digits("train")
    hidden = [nn.Linear(64, 256), Winners(), nn.Linear(256, 256), Winners()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


class Ranks(Masked):
    """The places of the classes, and beside them a little that is smooth."""

    def answer(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits.argsort(1).argsort(1) + 0.01 * torch.tanh(logits - logits.mean(1, True))


class FewLevels(Masked):
    """Pixels of few levels by NumPy, and beside them a little with a gradient that leads astray."""

    def answer(self, x: Tensor) -> Tensor:
        levels = torch.from_numpy((15.5 * x.detach().numpy()).round() / 15.5)
        astray = torch.randn(64, 10, generator=torch.Generator().manual_seed(3))
        return self.model(levels) + 0.05 * x.flatten(1) @ astray


MASKED = {kind.__name__: kind for kind in Masked.__subclasses__()}
