"""Signs that accuracies under attack say more about the attacks than about the model."""

from __future__ import annotations

import itertools

from torch import Tensor

from isoreg.robustness.attacks import ITERATED, WITHIN_THE_BALL, WITHOUT_GRADIENT

_NOISE = 0.01  # accuracies that differ by less are taken for the same
_OVERSTATES = 0.03  # accuracy that attacks on cross-entropy may leave beyond others on sound models
_WELL_BELOW = 0.05  # a worst case so far below the best attack: each attack fools other images
_FEW = 5  # images: fewer may be chance
_MANY = 0.1  # accuracy: below it a larger radius has few images left to fool
_LARGER = 1.5  # from this ratio of radii on the larger one must fool more
_NEARBY = 0.25  # share of the radius: by the gradient, an image with a boundary so near is fooled
_FAR_AWAY = 10  # radii: on sound networks, what fools an image lies within one by the gradient
_MASKED_SHARE = 0.05  # it is a sign if so many of all images survive with a boundary so near,
_STILL_THERE = 0.2  # and also so many of the images with a boundary so near
_FOOLED = 0.2  # share of images; if many steps fool so many, a single step should fool some
_IDLE = 0.1  # a single step that fools less than this share of what many steps fool is idle
_ON_CROSS_ENTROPY = ("pgd-ce", "apgd-ce")
_ON_THE_MARGIN = ("square", "student")
_WEAK = ("fgsm", *WITHOUT_GRADIENT)

Accuracy = dict[str, dict[float, float]]


def check_results(
    accuracy: Accuracy,
    eps: list[float],
    clean: float,
    *,
    images: int,
    worst_case: dict[float, float],
) -> list[str]:
    """What is suspicious about the accuracies under the attacks.

    A difference counts from 1 % and two images on, a disagreement from 5 % and five images on.

    Args:
        accuracy: By attack and radius.
        eps: The radii.
        clean: Accuracy without an attack.
        images: How many there are.
        worst_case: Accuracy under all attacks at once, by radius.

    Returns:
        A sentence for each sign.
    """
    noise = max(_NOISE, 1.5 / images)
    signs = []
    for radius in eps:
        signs += _beaten(accuracy, radius, noise)
        signs += _disagreeing(accuracy, radius, worst_case[radius], images)
        signs += _idle_step(accuracy, radius, clean, images)
    return signs + _not_falling(accuracy, eps, clean, noise, images)


def check_distances(
    distances: Tensor, survived: Tensor, radius: float, size: float, clean: float
) -> list[str]:
    """Whether the images are fooled at the distances that their gradients say.

    It is a sign if too many images survive although by their gradients a quarter of the radius
    fools them. It is another if the images that are fooled should need far more than the radius,
    as where logits are nearly flat and jump from class to class.

    Args:
        distances: (n) to the boundary by the gradient, of the images that are correct when clean.
        survived: (n) whether each of them survives every attack.
        radius: As the user wrote it.
        size: The radius in pixels from 0 to 1.
        clean: Share of the images that these are.

    Returns:
        A sentence, or none.
    """
    fooled = distances[~survived & distances.isfinite()]
    if len(fooled) >= _FEW and fooled.median() > _FAR_AWAY * size:
        return [
            f"at eps {radius:g} images are fooled although by their gradients that takes "
            f"{fooled.median() / size:.3g} times the radius (median): the gradient at the images "
            "does not see what fools the model, so other attacks may fool more."
        ]
    is_near = distances < _NEARBY * size
    survivors, n = int((is_near & survived).sum()), len(distances)
    if (
        survivors < _FEW
        or clean * survivors < _MASKED_SHARE * n
        or survivors < _STILL_THERE * int(is_near.sum())
    ):
        return []
    return [
        f"at eps {radius:g} {100 * clean * survivors / n:.0f} % of the images survive although by "
        "their gradients a quarter of it is enough to fool them: the gradient does not lead where "
        "it says."
    ]


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


def _beaten(accuracy: Accuracy, radius: float, noise: float) -> list[str]:
    """Signs that a single step, noise or an attack without gradients beats one that climbs."""
    signs = []
    rows = {name: by_eps[radius] for name, by_eps in accuracy.items()}
    iterated = [name for name in rows if name in ITERATED]
    for weak in (name for name in rows if name in _WEAK):
        beaten = []
        for name in iterated:
            # On sound models too, cross-entropy fools fewer images, and far fewer than the margin.
            fair = weak not in _ON_THE_MARGIN or name not in _ON_CROSS_ENTROPY
            gap = max(noise, _OVERSTATES) if name in _ON_CROSS_ENTROPY else noise
            if fair and name in WITHIN_THE_BALL and rows[weak] < rows[name] - gap:
                beaten.append(name)
        if iterated and rows[weak] < min(rows[name] for name in iterated) - noise:
            beaten = iterated
        if not beaten:
            continue
        whom = "every iterated attack" if beaten == iterated else ", ".join(map(repr, beaten))
        kind = "a single step (fgsm)" if weak == "fgsm" else f"'{weak}', which sees no gradient,"
        signs.append(f"at eps {radius:g} {kind} beats {whom}: the gradient is masked.")
    return signs


def _disagreeing(accuracy: Accuracy, radius: float, worst: float, images: int) -> list[str]:
    """A sign that each attack leaves images that another one fools."""
    lowest = min(by_eps[radius] for by_eps in accuracy.values())
    iterated = [name for name in accuracy if name in ITERATED]
    if len(iterated) < 2 or worst >= lowest - max(_WELL_BELOW, 4.5 / images):
        return []
    return [
        f"at eps {radius:g} the worst case ({100 * worst:.1f} %) lies well below every attack "
        f"(the best leaves {100 * lowest:.1f} %): each fails on images that another fools, here or "
        "at a smaller radius, so more attacks would fool more."
    ]


def _idle_step(accuracy: Accuracy, radius: float, clean: float, images: int) -> list[str]:
    """A sign that one step along the gradient fools almost nothing, while many fool a lot."""
    rows = [by_eps[radius] for name, by_eps in accuracy.items() if name in ITERATED]
    if "fgsm" not in accuracy or not rows:
        return []
    one, many = (clean - share for share in (accuracy["fgsm"][radius], min(rows)))
    if many * images < _FEW or many < _FOOLED or one >= _IDLE * many:
        return []
    return [
        f"at eps {radius:g} a single step (fgsm) fools {100 * one:.1f} % of the images and many "
        f"steps {100 * many:.1f} %: the gradient at the images does not lead to what fools the "
        "model, so more attacks may fool more."
    ]


def _not_falling(
    accuracy: Accuracy, eps: list[float], clean: float, noise: float, images: int
) -> list[str]:
    """Signs that accuracy does not fall with the radius, though a larger ball holds the smaller."""
    signs = []
    for name, by_eps in accuracy.items():
        for small, large in itertools.pairwise(sorted(eps)):
            before, after = by_eps[small], by_eps[large]
            if after > before + noise:
                signs.append(
                    f"accuracy under '{name}' rises from eps {small:g} to {large:g}: it is not a "
                    "good attack on this model."
                )
            elif (
                name in WITHIN_THE_BALL
                and 0 < _LARGER * small <= large
                and after >= before > _MANY
                and (clean - before) * images >= _FEW
            ):
                signs.append(
                    f"accuracy under '{name}' does not fall from eps {small:g} to {large:g} "
                    f"({100 * after:.1f} %): a larger ball holds what fools the model in a "
                    "smaller one and more, so the attack fails."
                )
    return signs
