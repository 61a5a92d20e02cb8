"""Signs, in the model itself, that an attack would fail for a reason other than robustness.

A check of the model takes the classifier, (n, ...) pixels from 0 to 1 and (n) labels, and returns a
sentence for each sign. All but `check_model` get only correctly classified images, perhaps none.

Source: Carlini et al. (2019), "On Evaluating Adversarial Robustness", and Athalye, Carlini and
Wagner (2018), "Obfuscated Gradients Give a False Sense of Security".
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.utils._python_dispatch import TorchDispatchMode

from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.outputs import answers
from isoreg.robustness.pgd import (
    cross_entropy,
    gradient_or_zeros,
    margin,
    pgd,
    project,
    random_signs,
    steepest,
)
from isoreg.robustness.straight_through import Contexts, StraightThrough
from isoreg.robustness.task import evenly

_SMALL_L2 = 0.05  # a smaller L2 radius was probably meant for L-inf
_ENOUGH = 20  # images; with fewer, an accuracy below chance may be an accident
_NARROW = 0.05  # share of the bounds; images that take up less are probably in other units
_MANY = 0.1  # share of images with a zero, or a nonzero, gradient that is too large to be chance
_LARGE_MARGIN = 50.0  # of logits; beyond it the gradient of cross-entropy is lost in rounding
_NOISE = 0.01  # share of images that may survive an attack without limits
_UNBOUNDED_IMAGES = _GRADIENT_IMAGES = 100  # most images that a check looks at
# Length of a step: the least share of the promised rise to reach, since deep networks are curved.
_SMALL_STEPS = {1e-3: 0.3, 1 / 255: 0.1}
_LARGE_STEPS = {8 / 255: 0.1}  # the same for models that round inside, to eight bits or nearly so
# Lengths of random steps, steps of each length, and the error of the gradient's prediction that is
# too large if all lengths exceed it. Sound networks had at most 0.06 at the first two lengths.
_RANDOM_STEPS, _DIRECTIONS, _OTHERWISE = (1e-3, 1 / 255, 8 / 255), 2, 0.4
_ROUNDING = 1e-6  # a step too small to change coarsely rounded numbers
_HALF = (torch.float16, torch.bfloat16)


def check_radii(radii: list[float], norm: str) -> list[str]:
    """Whether a radius seems to be in other units, or meant for another norm.

    Args:
        radii: In pixels from 0 to 1.
        norm: "Linf" or "L2".

    Returns:
        A sentence for each sign.

    Example:
        >>> check_radii([8 / 255], "L2")[0][:41]
        'an L2 radius of 0.0314 is as small as L-i'
        >>> check_radii([8 / 255 / 255], "Linf")[0][:44]
        'an L-inf radius of 0.000123 of the range of '
    """
    if norm == "L2":
        small = [radius for radius in radii if 0 < radius < _SMALL_L2]
        return [
            f"an L2 radius of {radius:.3g} is as small as L-inf radii are, and is spread over "
            "all pixels: is norm='Linf' meant?"
            for radius in small[:1]
        ]
    odd = [radius for radius in radii if 0 < radius < 0.999 / 255 or radius > 0.5]
    return [
        f"an L-inf radius of {radius:.3g} of the range of the pixels is "
        + ("less than one step of 255" if radius < 0.5 else "more than half of it")
        + ": is eps in the units of bounds?"
        for radius in odd[:1]
    ]


def check_clean(
    correct: Tensor, labels: Tensor, images: Tensor, bounds: tuple[float, float]
) -> list[str]:
    """Whether labels, normalisation or bounds seem to belong to another model.

    Args:
        correct: (n) whether each clean image is classified correctly.
        labels: (n).
        images: (n, ...) in pixels from 0 to 1.
        bounds: Smallest and largest pixel in the user's units.

    Returns:
        A sentence for each sign.

    Example:
        >>> labels = torch.arange(20) % 2
        >>> check_clean(labels > 1, labels, torch.eye(20), (0, 1))[0][:33]
        'the clean accuracy (0.0 %) is no '
        >>> check_clean(labels > -1, labels, torch.eye(20) / 255, (0, 255))[0]
        'images take up 0.4 % of the bounds (0, 255): are bounds in the units of the images?'
    """
    classes, clean, signs = len(labels.unique()), float(correct.float().mean()), []
    if len(labels) >= _ENOUGH and classes > 1 and clean * classes <= 1:
        signs.append(
            f"the clean accuracy ({100 * clean:.1f} %) is no better than chance among the "
            f"{classes} classes of these images: are the labels those of the model, and mean and "
            "std what it was trained with?"
        )
    span = float(images.max() - images.min())
    if 0 < span < _NARROW:
        signs.append(
            f"images take up {100 * span:.1f} % of the bounds ({bounds[0]:g}, {bounds[1]:g}): are "
            "bounds in the units of the images?"
        )
    return signs


def check_model(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> list[str]:
    """Signs in the logits of clean images, and in the gradient of their cross-entropy."""
    signs = []
    x = images.detach().requires_grad_()
    logits = classifier(x)
    lost = logits.isnan() | logits.isposinf() | logits.isneginf().all(1, keepdim=True)
    lost |= logits.isneginf() & F.one_hot(labels, logits.shape[1]).bool()
    if bool(lost.any()):  # a class that is ruled out by -inf loses nothing
        broken = lost.any(1).float().mean()
        signs.append(
            f"logits are not finite at {100 * broken:.0f} % of the images: gradients are lost."
        )
    sums, rounding = logits.double().sum(1), torch.finfo(logits.dtype).eps
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() <= max(1e-4, rounding)).all()):
        signs.append("the output looks like probabilities; attacks need logits, without softmax.")
    gradient = gradient_or_zeros(cross_entropy(logits, labels), x)
    zero = (gradient.flatten(1).abs().amax(1) == 0).float().mean()
    if zero > _MANY:
        signs.append(
            f"the gradient of cross-entropy is exactly zero at {100 * zero:.0f} % of the images: "
            "it is masked (rounding, saturation or a cut graph), not small."
        )
    gap = margin(logits, labels).abs().median()
    if gap > _LARGE_MARGIN:
        signs.append(
            f"logits are very large (median margin {gap:.3g}), so cross-entropy is saturated and "
            "attacks that climb it are weak; believe the margin attacks."
        )
    return signs


def boundary_distances(
    classifier: PixelClassifier, images: Tensor, labels: Tensor, norm: str
) -> Tensor:
    """Distances (n) to the decision boundary by the margin's gradient; infinite where it is 0."""
    if not len(images):
        return images.new_zeros(0)
    distances = []
    for x, y in zip(images.split(_GRADIENT_IMAGES), labels.split(_GRADIENT_IMAGES), strict=True):
        gap, gradient = _gap(classifier, x, y)
        slope = gradient.flatten(1).norm(p=1 if norm == "Linf" else 2, dim=1)
        distances.append(torch.where(slope > 0, -gap / slope, torch.inf))
    return torch.cat(distances)


def check_gradients(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> list[str]:
    """Whether a small step along the gradient of the margin raises it as the gradient promises.

    It does not if the backward pass is wrong, or if the surface has waves of that size. For a model
    that rounds inside, such as one that was trained to be quantised, the step is larger.

    Returns:
        A sentence, or none.
    """
    images, labels = evenly(images, _GRADIENT_IMAGES), evenly(labels, _GRADIENT_IMAGES)
    # Half precision loses steps of this size.
    exact = (classifier.dtype or images.dtype) in (torch.float32, torch.float64)
    if not len(images) or not exact:
        return []
    gap, gradient = _gap(classifier, images, labels)
    sizes = _LARGE_STEPS if _is_coarse(classifier, images, labels) else _SMALL_STEPS
    for size, least in sizes.items():
        moved = project(images + size * steepest(gradient, "Linf"), images, size, "Linf")
        with torch.no_grad():
            gained = margin(classifier(moved), labels) - gap
        promised = (gradient * (moved - images)).flatten(1).sum(1)
        ratios = (gained / promised)[(promised > 0) & gained.isfinite()]
        if len(ratios) and ratios.median() < least:
            return [
                f"a step of {size:.2g} along the gradient raises the margin's loss by "
                f"{100 * ratios.median():.0f} % of what the gradient promises (median): the "
                "gradient is wrong, or the surface has waves that hide where it rises."
            ]
    return []


def check_directions(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> list[str]:
    r"""Whether the margin changes in random directions as its gradient says.

    If a part of a model is cut from the graph, the gradient still keeps what it promises, but says
    nothing of that part. If a model has many jumps, as with winner-take-all layers, the gradient
    says nothing of the jumps. So for random signs s, the change of the margin between both ends of
    a step is compared with the gradient,

    .. math:: \frac{\sum_{x, s} |m(x + hs) - m(x - hs) - 2h\, s \cdot \nabla m|}
        {\sum_{x, s} |m(x + hs) - m(x - hs)|}

    summed over all images, because few of them meet a jump in a small step, and each jump counts.
    Networks with activations of four bits or fewer, trained straight through, get this sign too,
    although their figures hold: on six of them, tried by hand, a stronger attack fooled at most 2 %
    more images. No rule that was tried tells their jumps from those that hide a cut gradient.

    For a model in half precision, a copy in float32 gets this check and `check_gradients`.

    Returns:
        A sentence, or none.
    """
    images, labels = evenly(images, _GRADIENT_IMAGES), evenly(labels, _GRADIENT_IMAGES)
    if not len(images) or classifier.stand_in is not None:
        return []
    if (classifier.dtype or images.dtype) not in (torch.float32, torch.float64):
        return _check_in_float32(classifier, images, labels)
    _, gradient = _gap(classifier, images, labels)
    worst = 0.0
    for size in _RANDOM_STEPS:
        deviation = _deviation(classifier, images, labels, gradient, size)
        if not deviation > _OTHERWISE:
            return []
        worst = max(worst, deviation)
    if _is_half_inside(classifier, images):
        return []
    return [
        "small steps in random directions change the margin otherwise than the gradient says, by "
        f"{100 * min(worst, 9.99):.0f} % of the change: the model jumps, as activations of few "
        "bits do, a part of it is cut from the graph, or the gradient is wrong."
    ]


def _check_in_float32(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> list[str]:
    """Both checks on a copy in float32, because half precision loses small steps."""
    wide = classifier.in_float32()
    if wide is not None:
        with suppress(Exception):  # a model that converts its images itself may raise anything
            return check_gradients(wide, images, labels) or check_directions(wide, images, labels)
    return [
        "the model computes in half precision alone, where small steps are lost, so whether its "
        "gradient leads where it says went unchecked: evaluate it in float32 as well."
    ]


@torch.no_grad()
def _deviation(
    classifier: PixelClassifier, images: Tensor, labels: Tensor, gradient: Tensor, size: float
) -> float:
    """Error of the gradient's prediction as a share of all changes; NaN if nothing changes."""
    missed, changed = images.new_zeros(len(images)), images.new_zeros(len(images))
    for _ in range(_DIRECTIONS):
        step = size * random_signs(images)
        high, low = (images + step).clamp(0, 1), (images - step).clamp(0, 1)
        change = margin(classifier(high), labels) - margin(classifier(low), labels)
        missed += (change - (gradient * (high - low)).flatten(1).sum(1)).abs()
        changed += change.abs()
    finite = missed.isfinite()
    return float(missed[finite].sum() / changed[finite].sum())


@torch.no_grad()
def _is_coarse(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> bool:
    """Whether the model rounds inside: a tiny step has no effect, or as much as a larger one."""
    signs, before = random_signs(images), margin(classifier(images), labels)
    tiny, small = (
        (margin(classifier((images + size * signs).clamp(0, 1)), labels) - before).abs().nanmedian()
        for size in (_ROUNDING, _RANDOM_STEPS[0])
    )
    return not bool(0 < tiny <= 0.1 * small)


class _HalfPrecision(TorchDispatchMode):
    """Notes whether anything is computed in half precision."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.used |= isinstance(result, Tensor) and result.dtype in _HALF
        return result


@torch.no_grad()
def _is_half_inside(classifier: PixelClassifier, images: Tensor) -> bool:
    mode = _HalfPrecision()
    with mode:
        classifier(images)
    return mode.used


def gradient_contexts(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> Contexts:
    """Contexts for gradients: straight through rounding, and also torch's own if they may be right.

    For t - floor(t), as in a model that interpolates between the entries of a table, torch's own
    gradient is right, and the one straight through is 0.

    Returns:
        Contexts to compute gradients in.
    """
    if not len(images):
        return [StraightThrough]
    images, labels = evenly(images, _GRADIENT_IMAGES), evenly(labels, _GRADIENT_IMAGES)
    with StraightThrough() as mode:
        _, straight = _gap(classifier, images, labels)
    if not mode.used:
        return [StraightThrough]
    _, plain = _gap(classifier, images, labels)
    is_sloped = (plain.flatten(1).abs().amax(1) > 0).float().mean() > _MANY
    both = is_sloped and not torch.allclose(plain, straight)
    return [StraightThrough, nullcontext] if both else [StraightThrough]


def check_unbounded(
    classifier: PixelClassifier,
    images: Tensor,
    labels: Tensor,
    contexts: Contexts = (StraightThrough,),
) -> list[str]:
    """Whether images survive an attack that may change every pixel to any value."""
    if not len(images):
        return []
    images, labels = evenly(images, _UNBOUNDED_IMAGES), evenly(labels, _UNBOUNDED_IMAGES)
    survived = torch.ones_like(labels, dtype=torch.bool)
    for context in contexts:
        with context():
            x, _ = pgd(classifier, images, labels, eps=1.0)
        with torch.no_grad():
            survived &= answers(classifier(x)) == labels
    share = survived.float().mean()
    if share <= _NOISE:
        return []
    return [
        f"{100 * share:.0f} % of the images survive although every pixel may be changed to "
        "anything: the attack does not work on this model."
    ]


def _gap(classifier: PixelClassifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The margin's loss and its gradient at the images, (n) and (n, ...)."""
    x = images.detach().requires_grad_()
    value = margin(classifier(x), labels)
    return value.detach(), torch.nan_to_num(gradient_or_zeros(value, x))
