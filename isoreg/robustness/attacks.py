"""The attacks by name: ours, and torchattacks' behind the same signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from isoreg.errors import InputError, import_extra
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import cross_entropy, margin, pgd, project


@dataclass(frozen=True)
class Task:
    """One attack on one batch.

    Attributes:
        classifier: Pixels from 0 to 1 to logits.
        images: (n, ...) pixels from 0 to 1.
        labels: (n).
        eps: Radius of the ball, in those pixels.
        norm: "Linf" or "L2".
        seed: Of the attack.
        transfer: Another classifier, for the attack by transfer.
    """

    classifier: PixelClassifier
    images: Tensor
    labels: Tensor
    eps: float
    norm: str
    seed: int
    transfer: PixelClassifier | None = None


Attack: TypeAlias = Callable[[Task], tuple[Tensor, list[int]]]


def _pgd(**options: Any) -> Attack:
    def attack(task: Task) -> tuple[Tensor, list[int]]:
        return pgd(
            task.classifier, task.images, task.labels, eps=task.eps, norm=task.norm, **options
        )

    return attack


def _fgsm(task: Task) -> tuple[Tensor, list[int]]:
    options = {"loss": cross_entropy, "steps": 1, "random_start": False, "step_size": task.eps}
    return _pgd(**options)(task)


def _noise(task: Task) -> tuple[Tensor, list[int]]:
    """The worst of 20 random points of the ball; for scale, it is hardly an attack."""
    found = task.images.clone()
    for _ in range(20):
        step = torch.randn_like(task.images) if task.norm == "L2" else _signs(task.images)
        x = project(task.images + 1e3 * task.eps * step, task.images, task.eps, task.norm)
        with torch.no_grad():
            new = task.classifier(x).argmax(1) != task.labels
        found[new] = x[new]
    return found, []


def _signs(like: Tensor) -> Tensor:
    return torch.randint(0, 2, like.shape, device=like.device) * 2 - 1


def _transfer(task: Task) -> tuple[Tensor, list[int]]:
    """PGD on another model, which this one has not seen."""
    assert task.transfer is not None
    x = task.images
    size = 2.5 * task.eps / 40
    for _ in range(40):  # to the end: an image that fools the other model at once may not fool this
        x = x.detach().requires_grad_()
        value = cross_entropy(task.transfer(x), task.labels).sum()
        (gradient,) = torch.autograd.grad(value, x)
        if task.norm == "L2":
            norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
            step = gradient / norms.view(-1, *[1] * (x.ndim - 1))
        else:
            step = gradient.sign()
        x = project(x.detach() + size * step, task.images, task.eps, task.norm)
    return x, []


def _torchattacks(name: str, **options: Any) -> Attack:
    def attack(task: Task) -> tuple[Tensor, list[int]]:
        made = getattr(import_extra("torchattacks", "attacks"), name)
        with torch.no_grad():
            classes = task.classifier(task.images[:1]).shape[1]
        if name in ("APGDT", "FAB"):
            options["n_classes"] = classes
        attacker = made(task.classifier, norm=task.norm, eps=task.eps, seed=task.seed, **options)
        found = attacker(task.images, task.labels).detach()
        # what an attack returns is checked, not believed
        return project(found, task.images, task.eps, task.norm), []

    return attack


ATTACKS: dict[str, Attack] = {
    "fgsm": _fgsm,
    "pgd-ce": _pgd(loss=cross_entropy, steps=40),
    "pgd-margin": _pgd(loss=margin, steps=40, restarts=2),
    "pgd-margin-long": _pgd(loss=margin, steps=100, restarts=5),
    "apgd-ce": _torchattacks("APGD", steps=50, n_restarts=1, loss="ce"),
    "apgd-t": _torchattacks("APGDT", steps=50, n_restarts=1),
    "fab": _torchattacks("FAB", steps=50, n_restarts=1),
    "square": _torchattacks("Square", n_queries=1000, n_restarts=1),
    "noise": _noise,
    "transfer": _transfer,
    "paper-pgd": _pgd(loss=cross_entropy, steps=10, random_start=False),
}
BLACK_BOX = ("square", "transfer", "noise")
PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("fgsm", "pgd-ce", "pgd-margin"),
    "standard": ("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "square", "noise"),
    "full": (
        *("fgsm", "pgd-ce", "pgd-margin-long", "apgd-ce", "apgd-t", "fab", "square", "noise"),
    ),
    "paper": ("fgsm", "paper-pgd"),
}


def chosen(attacks: str | Sequence[str], *, transfer: bool) -> list[str]:
    """Names of the attacks of a preset or list, with "transfer" if there is a model for it.

    Args:
        attacks: A preset of `PRESETS`, a name in `ATTACKS`, or several.
        transfer: Whether there is another model.

    Returns:
        Names in `ATTACKS`.

    Raises:
        InputError: If a name is unknown, or none is given.

    Example:
        >>> chosen("quick", transfer=True)
        ['fgsm', 'pgd-ce', 'pgd-margin', 'transfer']
    """
    names = list(PRESETS.get(attacks, (attacks,))) if isinstance(attacks, str) else list(attacks)
    for name in names:
        if name not in ATTACKS:
            raise InputError(
                f"attacks must be one of {', '.join(map(repr, PRESETS))} or a list of "
                f"{', '.join(map(repr, ATTACKS))}, got {name!r}."
            )
    if not names:
        raise InputError("attacks must name at least one attack, got none.")
    if "transfer" in names and not transfer:
        raise InputError("the attack 'transfer' needs transfer_from=, an independent model.")
    if transfer and "transfer" not in names:
        names.append("transfer")
    return names
