"""Signs that an attack failed for a reason other than the model's robustness.

Source: Carlini et al. (2019), "On Evaluating Adversarial Robustness", and Athalye, Carlini and
Wagner (2018), "Obfuscated Gradients Give a False Sense of Security".
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from isoreg.robustness.attacks import ITERATED, WITHOUT_GRADIENT
from isoreg.robustness.classifier import PixelClassifier, StraightThrough
from isoreg.robustness.pgd import cross_entropy, margin, pgd

_NOISE = 0.01
_MANY = 0.1
_LARGE_MARGIN = 50.0
_UNBOUNDED_IMAGES = 100
_LARGER = 1.5
_SMALL_L2 = 0.05


def check_radii(radii: list[float], norm: str) -> list[str]:
    """Whether a radius looks like one of another norm.

    Args:
        radii: In pixels from 0 to 1.
        norm: "Linf" or "L2".

    Returns:
        A sentence, or none.

    Example:
        >>> check_radii([8 / 255], "L2")[0][:41]
        'an L2 radius of 0.0314 is as small as L-i'
    """
    small = [radius for radius in radii if 0 < radius < _SMALL_L2]
    if norm != "L2" or not small:
        return []
    return [
        f"an L2 radius of {small[0]:.3g} is as small as L-inf radii are, and is spread over all "
        "pixels: is norm='Linf' meant?"
    ]


def check_model(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> list[str]:
    """What is suspicious about a model before any attack.

    Args:
        classifier: Pixels to logits.
        images: (n, ...) pixels from 0 to 1.
        labels: (n).

    Returns:
        A sentence for each sign.
    """
    found = []
    x = images.detach().requires_grad_()
    logits = classifier(x)
    if not torch.equal(logits, classifier(images)):
        found.append(
            "the output is random: two passes of the same images differ, so attacks see noise. "
            "Average over the randomness before you believe these figures."
        )
    if not bool(logits.isfinite().all()):
        broken = (~logits.isfinite()).any(1).float().mean().item()
        found.append(
            f"logits are not finite at {100 * broken:.0f} % of the images: gradients are lost."
        )
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        found.append("the output looks like probabilities; attacks need logits, without softmax.")
    value = cross_entropy(logits, labels).sum()
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, x)
        zero = (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()
    else:
        zero = 1.0
    if zero > _MANY:
        found.append(
            f"the gradient of cross-entropy is exactly zero at {100 * zero:.0f} % of the images: "
            "it is masked (rounding, saturation or a cut graph), not small."
        )
    gap = margin(logits.detach(), labels).abs().median().item()
    if gap > _LARGE_MARGIN:
        found.append(
            f"logits are very large (median margin {gap:.3g}), so cross-entropy is saturated and "
            "attacks that climb it are weak; believe the margin attacks."
        )
    return found


def check_unbounded(
    classifier: PixelClassifier, images: Tensor, labels: Tensor, norm: str
) -> list[str]:
    """Whether images survive an attack that may change every pixel to anything.

    Args:
        classifier: Pixels to logits.
        images: (n, ...) pixels from 0 to 1.
        labels: (n).
        norm: "Linf" or "L2".

    Returns:
        A sentence, or none.
    """
    some, of = images[:_UNBOUNDED_IMAGES], labels[:_UNBOUNDED_IMAGES]
    eps = 1.0 if norm == "Linf" else float(some[0].numel()) ** 0.5
    with StraightThrough():
        x, _ = pgd(classifier, some, of, eps=eps, norm=norm, steps=40)
    with torch.no_grad():
        left = (classifier(x).argmax(1) == of).float().mean().item()
    if left <= _NOISE:
        return []
    return [
        f"{100 * left:.0f} % of the images survive although every pixel may be changed to "
        "anything: the attack does not work on this model."
    ]


def check_results(
    accuracy: dict[str, dict[float, float]], eps: list[float], clean: float
) -> list[str]:
    """What is suspicious about the accuracies under the attacks.

    Args:
        accuracy: By attack and radius.
        eps: The radii.
        clean: Accuracy without an attack.

    Returns:
        A sentence for each sign.
    """
    found = []
    iterative = [name for name in accuracy if name in ITERATED]
    for radius in eps:
        if "fgsm" in accuracy and iterative:
            best = min(accuracy[name][radius] for name in iterative)
            if accuracy["fgsm"][radius] < best - _NOISE:
                found.append(
                    f"at eps {radius:g} a single step (fgsm) beats every iterated attack: the "
                    "gradient is masked."
                )
        for name in WITHOUT_GRADIENT:
            if name in accuracy and iterative:
                best = min(accuracy[white][radius] for white in iterative)
                if accuracy[name][radius] < best - _NOISE:
                    found.append(
                        f"at eps {radius:g} the attack '{name}', which sees no gradient, beats "
                        "those that do: the gradient is masked."
                    )
    for name, by_eps in accuracy.items():
        for small, large in itertools.pairwise(sorted(eps)):
            if by_eps[large] > by_eps[small] + _NOISE:
                found.append(
                    f"accuracy under '{name}' rises from eps {small:g} to {large:g}: it is not a "
                    "good attack on this model."
                )
    for small, large in itertools.pairwise(sorted(eps)):
        levels = [(accuracy[name][small], accuracy[name][large]) for name in iterative]
        if levels and small > 0 and large >= _LARGER * small:
            before, after = (min(level) for level in zip(*levels, strict=True))
            if after == before and _MANY < before < clean - _NOISE:
                found.append(
                    f"accuracy does not fall from eps {small:g} to {large:g} "
                    f"({100 * after:.1f} %): a larger ball holds what fools the model in a "
                    "smaller one and more, so the attacks fail."
                )
    return found


def check_restarts(history: dict[str, list[int]], images: int) -> list[str]:
    """Whether the last restart of an attack still found many images.

    Args:
        history: How many images were fooled after each restart, by attack.
        images: How many there are.

    Returns:
        A sentence for each such attack.

    Example:
        >>> check_restarts({"pgd-margin": [50, 80]}, 100)[0][:42]
        "the last restart of 'pgd-margin' still foo"
    """
    return [
        f"the last restart of '{name}' still fooled {counts[-1] - counts[-2]} of {images} more "
        "images: use attacks='full', or more restarts."
        for name, counts in history.items()
        if len(counts) > 1 and counts[-1] - counts[-2] > max(2, _NOISE * images)
    ]
