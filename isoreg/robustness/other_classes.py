"""Whether attacks on the margin climb towards one class where another is in reach."""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg.robustness.outputs import answers
from isoreg.robustness.pgd import Loss, pgd
from isoreg.robustness.run import Run
from isoreg.robustness.task import evenly

_IMAGES = 50
_CLASSES = 9
_STEPS = 10
_FEW = 5
_MASKED_SHARE = 0.05
_TARGETED = {"apgd-t", "fab"}


def check_other_classes(run: Run) -> list[str]:
    """Whether images that survive are fooled by a few steps towards one of the likeliest others.

    The margin is taken to the likeliest other class. A class that is always a close second, and
    never first, draws every attack on the margin to itself. If logits are large, it draws attacks
    on cross-entropy too.

    Returns:
        A sentence for each radius at which many images survive for this reason.
    """
    if "pgd-margin" not in run.survived or _TARGETED & {*run.survived} or run.whole_batches:
        return []
    signs = []
    for radius, size in run.sizes.items():
        survivors = run.survivors(radius)
        images = evenly(run.task.images[survivors], _IMAGES)
        fooled = _n_fooled(run, images, evenly(run.task.labels[survivors], _IMAGES), size)
        share = float(survivors.float().mean()) * fooled / max(1, len(images))
        if fooled >= _FEW and share >= _MASKED_SHARE:
            signs.append(
                f"at eps {radius:g} about {100 * share:.0f} % of the images survive although a few "
                "steps towards another class than the next one fool them: the attacks climb "
                "towards the wrong class. Use attacks='standard', which tries the others."
            )
    return signs


def _n_fooled(run: Run, images: Tensor, labels: Tensor, size: float) -> int:
    """How many images are fooled on the way to one of the classes that are likeliest when clean."""
    if len(images) < _FEW:
        return 0
    classifier, fooled = run.task.classifier, torch.zeros_like(labels, dtype=torch.bool)
    with torch.no_grad():
        other_logits = classifier(images).scatter(1, labels[:, None], -torch.inf)
    for targets in other_logits.topk(min(_CLASSES, other_logits.shape[1] - 1)).indices.split(1, 1):
        for context in run.contexts:
            with context():
                adversarial, _ = pgd(
                    *(classifier, images, labels),
                    eps=size,
                    norm=run.task.norm,
                    loss=_above(targets),
                    steps=_STEPS,
                    random_start=False,
                )
            with torch.no_grad():
                fooled |= answers(classifier(adversarial)) != labels
    return int(fooled.sum())


def _above(targets: Tensor) -> Loss:
    """How far the logits of targets (n, 1) lie above those of the labels."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.gather(1, targets) - logits.gather(1, labels[:, None]))[:, 0]

    return loss
