"""The attacks by name: our own and those of torchattacks, all with the same signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from isoreg.errors import InputError
from isoreg.robustness.adapter import cw, deepfool, from_torchattacks
from isoreg.robustness.corruption import corruption
from isoreg.robustness.outputs import answers
from isoreg.robustness.pgd import (
    cross_entropy,
    gradient_of,
    margin,
    pgd,
    project,
    random_signs,
    steepest,
)
from isoreg.robustness.task import Attack, Task

_PAPER_STEPS = 10
_NOISES = 20


def _pgd(**options: Any) -> Attack:
    def attack(task: Task) -> tuple[Tensor, list[int]]:
        return pgd(
            task.classifier, task.images, task.labels, eps=task.eps, norm=task.norm, **options
        )

    return attack


def _pgd_on(surrogate: Callable[[Task], Any], **options: Any) -> Attack:
    """PGD that climbs another model, and tries each of its steps on the evaluated model."""

    def attack(task: Task) -> tuple[Tensor, list[int]]:
        pgd_attack = _pgd(judge=task.classifier, random_start=False, steps=40, **options)
        adversarial, _ = pgd_attack(replace(task, classifier=surrogate(task)))
        return adversarial, []

    return attack


def _fgsm(task: Task) -> tuple[Tensor, list[int]]:
    options = {"loss": cross_entropy, "steps": 1, "random_start": False, "step_size": task.eps}
    return _pgd(**options)(task)


def _noise(task: Task) -> tuple[Tensor, list[int]]:
    """The worst of 20 random points on the ball's surface: a yardstick rather than an attack."""
    worst = task.images.clone()
    for _ in range(_NOISES):
        step = torch.randn_like(task.images) if task.norm == "L2" else random_signs(task.images)
        x = project(task.images + 1e3 * task.eps * step, task.images, task.eps, task.norm)
        with torch.no_grad():
            new = answers(task.classifier(x)) != task.labels
        worst[new] = x[new]
    return worst, []


def _on_training_loss(steps: int) -> Attack:
    """The paper's attack: it climbs the training loss, and only its last image counts."""

    def attack(task: Task) -> tuple[Tensor, list[int]]:
        size = task.eps if steps == 1 else 2.5 * task.eps / steps
        x = task.images
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(_training_loss(task, leaf), leaf)
            x = project(x + size * steepest(gradient, task.norm), task.images, task.eps, task.norm)
        return x, []

    return attack


def _training_loss(task: Task, x: Tensor) -> Tensor:
    assert task.training_loss is not None
    as_given = task.classifier.as_given
    return task.training_loss(as_given(x), as_given(task.images), task.labels)


def check_training_loss(task: Task) -> None:
    """Refuse a training loss that returns no scalar with a gradient, tried on two images."""
    few = replace(task, images=task.images[:2], labels=task.labels[:2])
    leaf = few.images.detach().requires_grad_()
    loss = _training_loss(few, leaf)
    got = type(loss).__name__
    if isinstance(loss, Tensor):
        got = f"{loss.dtype} of shape {tuple(loss.shape)}"
        if loss.numel() == 1:
            got = "one without a gradient by the images"
            if gradient_of(loss, leaf) is not None:
                return
    raise InputError(
        f"training_loss must give a scalar that depends on the adversarial images, got {got}."
    )


ATTACKS: dict[str, Attack] = {
    "fgsm": _fgsm,
    "pgd-ce": _pgd(loss=cross_entropy, steps=40),
    "pgd-margin": _pgd(loss=margin, steps=40, restarts=2),
    "pgd-margin-long": _pgd(loss=margin, steps=100, restarts=5),
    "apgd-ce": from_torchattacks("APGD", steps=50, n_restarts=1, loss="ce"),
    "apgd-t": from_torchattacks("APGDT", targeted=True, steps=50, n_restarts=1),
    "fab": from_torchattacks("FAB", targeted=True, steps=50, n_restarts=1),
    "deepfool": deepfool,
    "cw": cw,
    "square": from_torchattacks("Square", n_queries=1000, n_restarts=1),
    "noise": _noise,
    "corruption": corruption,
    "transfer": _pgd_on(attrgetter("transfer"), loss=cross_entropy),
    "student": _pgd_on(attrgetter("student"), loss=margin, restarts=2),
    "paper-pgd": _pgd(loss=cross_entropy, steps=_PAPER_STEPS, random_start=False),
    "paper-fgsm-training-loss": _on_training_loss(1),
    "paper-pgd-training-loss": _on_training_loss(_PAPER_STEPS),
}
WITHOUT_GRADIENT = ("square", "transfer", "student", "noise", "corruption")
WITHIN_THE_BALL = ("pgd-ce", "pgd-margin", "pgd-margin-long", "apgd-ce", "apgd-t")
ITERATED = (*WITHIN_THE_BALL, "fab", "deepfool", "cw")
OF_THE_PAPER = ("paper-pgd", "paper-fgsm-training-loss", "paper-pgd-training-loss")
_ON_TRAINING_LOSS = OF_THE_PAPER[1:]
_L2_ALONE = ("deepfool", "cw")
WITH_STUDENT = ("standard", "full")  # these presets end with a student
PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("fgsm", "pgd-ce", "pgd-margin"),
    "standard": ("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "square", "noise"),
    "full": (
        *("fgsm", "pgd-ce", "pgd-margin-long", "apgd-ce", "apgd-t", "fab", "deepfool", "cw"),
        *("square", "noise", "corruption"),
    ),
    "paper": ("fgsm", *OF_THE_PAPER),
}


def chosen(
    attacks: str | Sequence[str], *, norm: str, transfer: bool, training_loss: bool = False
) -> list[str]:
    """Names of the attacks of a preset or list, with "transfer" if there is a model for it.

    A preset leaves out attacks that the norm or a missing argument does not allow. Such an attack
    is refused if it is asked for by name.

    Args:
        attacks: A preset of `PRESETS`, a name in `ATTACKS`, or several.
        norm: "Linf" or "L2".
        transfer: Whether there is another model to transfer from.
        training_loss: Whether there is a training loss.

    Returns:
        Names in `ATTACKS`.

    Raises:
        InputError: If a name is unknown or cannot be used, no attack is left, or none of them
            climbs the training loss that is given.

    Example:
        >>> chosen("quick", norm="Linf", transfer=True)
        ['fgsm', 'pgd-ce', 'pgd-margin', 'transfer']
    """
    if not isinstance(attacks, (str, Sequence)):
        raise InputError(f"attacks must be a name or a list of names, got {attacks!r}.")
    preset = isinstance(attacks, str) and attacks in PRESETS
    names = list(
        PRESETS[str(attacks)] if preset else [attacks] if isinstance(attacks, str) else attacks
    )
    for name in names:
        if name not in ATTACKS:
            matches = get_close_matches(str(name), [*PRESETS, *ATTACKS])
            advice = f" Close matches: {', '.join(map(repr, matches))}." if matches else ""
            raise InputError(
                f"attacks must be one of {', '.join(map(repr, PRESETS))} or a list of "
                f"{', '.join(map(repr, ATTACKS))}, got {name!r}.{advice}"
            )
    unusable = {name: "norm='L2'" for name in _L2_ALONE if norm != "L2"}
    if not training_loss:
        unusable |= dict.fromkeys(
            _ON_TRAINING_LOSS, "training_loss=, what the model was trained on"
        )
    if not transfer:
        unusable["transfer"] = "transfer_from=, an independent model"
    for name in unusable if not preset else ():
        if name in names:
            raise InputError(f"the attack {name!r} needs {unusable[name]}.")
    names = [name for name in names if name not in unusable]
    if not names:
        raise InputError("attacks must name at least one attack, got none.")
    if training_loss and not set(names) & set(_ON_TRAINING_LOSS):
        raise InputError(
            "training_loss is climbed by the paper's attack alone, got attacks "
            f"{', '.join(map(repr, names))}. Pass attacks='paper', or leave it out."
        )
    if transfer and "transfer" not in names:
        names.append("transfer")
    return names
