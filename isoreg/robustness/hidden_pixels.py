"""Whether pixels with a zero gradient still matter, as where a clamp cuts black and white."""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import gradient_or_zeros, margin, project, random_point, random_signs
from isoreg.robustness.straight_through import Contexts
from isoreg.robustness.task import evenly

_IMAGES = 100
_DRAWS = 4
_MANY = 0.1
_FAR = 1e3
# The ratio was at most 0.15 on sound networks with max pooling of patches.
_AS_MUCH = 0.3


def check_hidden_pixels(
    classifier: PixelClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    contexts: Contexts,
) -> list[str]:
    """Whether pixels whose gradient is exactly zero change the margin within the ball.

    They are looked for at a random point, where attacks start. At the image itself, a layer that is
    idle on black pixels has no gradient there but hides nothing. If no pixel has a gradient, other
    checks warn. All images, (n, ...) pixels from 0 to 1, are classified correctly; perhaps there
    are none.

    Returns:
        A sentence, or none.
    """
    if not len(images):
        return []
    images, labels = evenly(images, _IMAGES), evenly(labels, _IMAGES)
    start = random_point(images, eps, norm)
    hidden = torch.ones_like(start, dtype=torch.bool)
    for context in contexts:
        leaf = start.detach().requires_grad_()
        with context():
            hidden &= gradient_or_zeros(margin(classifier(leaf), labels), leaf) == 0
    is_mixed = hidden.flatten(1).any(1) & ~hidden.flatten(1).all(1)
    if is_mixed.float().mean() <= _MANY:
        return []
    total = {is_hidden: start.new_zeros(len(start)) for is_hidden in (True, False)}
    with torch.no_grad():
        before = margin(classifier(start), labels)
        for _ in range(_DRAWS):
            signs = random_signs(images)
            for is_hidden in total:
                chosen = hidden == is_hidden
                end = project(images + _FAR * eps * signs * chosen, images, eps, norm)
                moved = margin(classifier(torch.where(chosen, end, start)), labels)
                total[is_hidden] += (moved - before).square()
    ratio = (total[True] / total[False]).sqrt()[is_mixed].nanmedian()
    if not ratio > _AS_MUCH:
        return []
    return [
        f"the gradient is exactly zero at {100 * hidden.float().mean():.0f} % of the pixels, but "
        f"changing them within the radius moves the margin by {100 * ratio:.0f} % of what the "
        "others do (median): something hides them from the attacks, a clamp for example."
    ]
