"""Attacks of torchattacks behind our signature, with what they wrongly assume put right.

Each fault was found by comparing its attacks with plain PGD (benchmarks/README.md has figures).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.errors import import_extra
from isoreg.robustness.outputs import RULED_OUT, answers, usual_range
from isoreg.robustness.pgd import gradient_or_zeros, project
from isoreg.robustness.task import Attack, Task

_TARGETS = 9
_SMALLEST_SIDE = 5
_OVERSHOOT = 0.02
_CW_CONSTANTS = (1.0, 10.0, 100.0)
_CW_INSIDE = 0.01


class Adapted(nn.Module):
    """A classifier of (n, c, h, w) images in float32, as torchattacks needs it.

    - Images of another shape are folded into this one, into squares if the attack is Square.
    - The classifier gets the images in their own dtype, not in float32.
    - Images and gradients in another memory format, such as channels_last, are made contiguous.
    - The smallest logit is moved to 0, because CW assumes that every logit is positive. Classes
      that are ruled out by -1e9 or -inf are first raised; else the others would lose all digits.
    - If there are fewer than ``classes`` classes, constant logits below all others are added,
      because the targeted loss of APGD needs four.
    - A model that cuts the graph, or holds a function without a derivative, gets gradients of 0
      instead of an error.
    - Parameters get no gradient, because some attacks call ``backward``, and a model may call a
      network whose parameters it does not list.
    - A parameter shows torchattacks the device. The logits are new, since it writes on them.
    - torchattacks needs float32 as torch's default dtype; the classifier runs under the user's.

    Args:
        classifier: Pixels from 0 to 1 to logits.
        images: (n, ...) an example of such pixels.
        square: Whether images are folded into squares of five pixels a side or more.
        classes: The least number of logits to return.

    Example:
        >>> tokens = torch.rand(3, 7)
        >>> adapted = Adapted(nn.Linear(7, 2), tokens, square=True)
        >>> adapted.fold(tokens).shape, adapted(adapted.fold(tokens)).shape
        (torch.Size([3, 1, 5, 5]), torch.Size([3, 2]))
    """

    def __init__(
        self, classifier: nn.Module, images: Tensor, *, square: bool = False, classes: int = 2
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.shape = images.shape[1:]
        self.image_dtype = images.dtype
        self.classes = classes
        self.device_of = nn.Parameter(images.new_zeros(()), requires_grad=False)
        # An image keeps its rows. A vector is one row, or is cut into rows if the attack is Square.
        if images.ndim == 4:
            channels, height, width = images.shape[1:]
            side = max(height, width, _SMALLEST_SIDE)
            self.padding = [0, side - width, 0, side - height] if square else [0, 0]
            self.folded = (channels, side, side) if square else (channels, height, width)
        else:
            width = images[0].numel()
            side = max(math.isqrt(width - 1) + 1, _SMALLEST_SIDE)
            self.padding = [0, side**2 - width] if square else [0, 0]
            self.folded = (1, side, side) if square else (1, 1, width)
        self.range: Tensor | None = None
        self.default_dtype = torch.get_default_dtype()
        self.eval()

    def train(self, mode: bool = True) -> Adapted:  # noqa: ARG002 (torch's signature)
        """Do nothing: the model is in eval mode, and an exported model allows no other."""
        self.training = False
        return self

    def fold(self, images: Tensor) -> Tensor:
        """Images (n, ...) as the attack gets them, (n, c, h, w) in float32."""
        x = images.float().contiguous()
        x = x if len(self.shape) == 3 else x.flatten(1)
        return F.pad(x, self.padding).reshape(len(x), *self.folded)

    def unfold(self, x: Tensor) -> Tensor:
        """The reverse of `fold`: images (n, ...) from the (n, c, h, w) that the attack returns."""
        x = x if len(self.shape) == 3 else x.flatten(1)
        x = F.pad(x, [-size for size in self.padding])
        return x.reshape(len(x), *self.shape).to(self.image_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w), the smallest of them 0."""
        with _default_dtype(self.default_dtype):
            logits: Tensor = _OfImagesAlone.apply(x, self._logits_of).float()
        floor = self._floor(logits.detach())
        logits = (logits - floor).where(logits >= floor, 0)  # clamp has no gradient at the floor
        return F.pad(logits, (0, max(0, self.classes - logits.shape[1])), value=-1.0)

    def _logits_of(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.unfold(x))
        return logits

    def _floor(self, logits: Tensor) -> Tensor:
        """The logit of each image that becomes 0, (n, 1): the smallest that is not ruled out."""
        if self.range is None:  # once, since a later batch of one image may be nearly tied
            self.range = usual_range(logits)
        finite = logits.isfinite()
        smallest = logits.where(finite, torch.inf).amin(1, keepdim=True)
        if self.range == 0:
            return smallest
        largest = logits.where(finite, -torch.inf).amax(1, keepdim=True)
        return torch.maximum(smallest, largest - RULED_OUT * self.range)


class _OfImagesAlone(torch.autograd.Function):
    """A function of images whose gradient reaches them alone, and is 0 where there is none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ctx.leaf = x.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.values = function(ctx.leaf)
        values: Tensor = ctx.values.detach()
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():  # an attack may pass backward through the same graph again
            by_images = gradient_or_zeros(ctx.values * gradient, ctx.leaf, retain_graph=True)
        return by_images.contiguous(), None


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def from_torchattacks(name: str, *, targeted: bool = False, **options: Any) -> Attack:
    """An attack of torchattacks within a ball.

    Its images are projected onto the ball, because torchattacks is not trusted to stay inside.

    Args:
        name: The name of its class in torchattacks.
        targeted: Whether it aims at one wrong class after another. It is then told the number of
            classes, and tries at most the nine likeliest wrong ones.
        **options: Options of that class.

    Returns:
        The attack.
    """

    def attack(task: Task) -> tuple[Tensor, list[int]]:
        settings = dict(options)
        if targeted:
            settings["n_classes"] = min(_n_classes(task), _TARGETS + 1)
        if name == "FAB":
            settings["multi_targeted"] = _n_classes(task) > _TARGETS + 1
        model = Adapted(
            task.classifier,
            task.images,
            square=name == "Square",
            classes=4 if name == "APGDT" else 2,
        )
        settings |= {"norm": task.norm, "eps": task.eps, "seed": task.seed}
        adversarial = _adversarial(name, model, model.fold(task.images), task.labels, **settings)
        return project(adversarial, task.images, task.eps, task.norm), []

    return attack


def deepfool(task: Task) -> tuple[Tensor, list[int]]:
    """The nearest decision boundary in L2, by repeated linearisation; then projected to the radius.

    torchattacks overshoots each step by a share of that step. Steps shrink near the boundary, so
    that most images stop a rounding error before it. Here the whole change is stretched by the
    usual 2 % at the end.

    Source: Moosavi-Dezfooli, Fawzi and Frossard (2016), "DeepFool".

    Returns:
        Images within the ball, and no history.
    """
    model = Adapted(task.classifier, task.images)
    adversarial = _adversarial("DeepFool", model, model.fold(task.images), task.labels, steps=10)
    stretched = task.images + (1 + _OVERSHOOT) * (adversarial - task.images)
    return project(stretched, task.images, task.eps, task.norm), []


def cw(task: Task) -> tuple[Tensor, list[int]]:
    """The smallest L2 change that Carlini and Wagner's attack finds over several constants.

    torchattacks computes with atanh(2 x - 1), which is infinite at black and white pixels, so that
    they never change. It is therefore given pixels from 0.01 to 0.99. It does not search for the
    constant either: three are tried in rising order, and an image keeps its first success in the
    ball, which is usually the nearest.

    Source: Carlini and Wagner (2017), "Towards Evaluating the Robustness of Neural Networks".

    Returns:
        Images within the ball, and no history.
    """
    model = Adapted(task.classifier, task.images)
    start = model.fold(task.images).clamp(_CW_INSIDE, 1 - _CW_INSIDE)
    best = task.images.clone()
    fooled = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    for constant in _CW_CONSTANTS:
        adversarial = _adversarial("CW", model, start, task.labels, c=constant, steps=100, lr=0.05)
        adversarial = project(adversarial, task.images, task.eps, task.norm)
        with torch.no_grad():
            new = (answers(task.classifier(adversarial)) != task.labels) & ~fooled
        best[new] = adversarial[new]
        fooled |= new
    return best, []


def _adversarial(name: str, model: Adapted, x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Images (n, ...) that an attack makes of folded ones."""
    attack = _torchattack(name, model, **options)
    with _default_dtype(torch.float32):  # some attacks make tensors of the default dtype
        return model.unfold(attack(x, labels))


def _torchattack(name: str, model: Adapted, **options: Any) -> Any:
    return getattr(import_extra("torchattacks", "attacks"), name)(model, **options)


@torch.no_grad()
def _n_classes(task: Task) -> int:
    return int(task.classifier(task.images[:2]).shape[1])
