"""Whether the answer to an image depends on earlier images, or on the others in its batch.

An attack asks about thousands of images, one after another and many at once. A model that
remembers, or whose answer to an image depends on the others in the batch, is then not the function
whose clean accuracy was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isoreg._random import seed_all
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.outputs import RULED_OUT, usual_range
from isoreg.robustness.pgd import cross_entropy, gradient_of, project, steepest
from isoreg.robustness.state import in_common, same
from isoreg.robustness.straight_through import StraightThrough
from isoreg.robustness.task import evenly

_IMAGES = 64
_SEEDS = 32  # seeds to try, because a model may be random in some calls only
_RANDOM = 1e-5  # a larger change, as a share of the range of an image's logits, is no rounding
_OTHERWISE = 1e-3  # the same if the size of the batch differs, which may change the rounding
_COARSELY = 3e-2  # the same in half precision


@dataclass
class Consistency:
    """How a model answers the same images under other circumstances.

    Attributes:
        signs: A sentence for each fault.
        remarks: Sentences on faults that could not be looked for.
        stateful: Whether answers depend on the images of earlier calls.
        beside: Whether answers depend on the other images of the batch.
        baseline: The images that were asked about, and their logits; None if the logits are
            random.
    """

    signs: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    stateful: bool = False
    beside: bool = False
    baseline: tuple[Tensor, Tensor] | None = None

    def afterwards(self, classifier: PixelClassifier) -> list[str]:
        """A sentence if the attacks have changed the answers to clean images, or none."""
        if self.baseline is None or self.stateful:
            return []
        images, logits = self.baseline
        changed = _changed(logits, _answer(classifier, images), _tolerance(logits))
        return [_stateful(changed, fresh=False)] if changed else []


def check_consistency(
    classifier: PixelClassifier, images: Tensor, labels: Tensor, eps: float, norm: str
) -> Consistency:
    """Ask about some images twice, in other batches, and after other images.

    Copies answer, if the model can be copied, so that its own state stays untouched. Random numbers
    start from a given seed. The first copy has its own parameters: if a call changes them, no later
    copy shares the model's parameters.

    Returns:
        The dependences that were found.
    """
    images, labels = evenly(images, _IMAGES), evenly(labels, _IMAGES)
    result = Consistency()
    subject = classifier.copied()
    first = _answer(subject, images)
    classifier.shares = all(map(same, classifier.parameters(), subject.parameters()))
    classifier.seeds = _seeds(classifier.copied(), images)
    result.remarks = _uncopied(classifier, subject)
    seeds = range(1, _SEEDS + 1)
    others = (s for s in seeds if _changed(first, _answer(subject, images, seed=s), _RANDOM))
    other_seed = next(others, None)
    if other_seed is not None:
        # Chance or state? A new copy gets the other seed; without copies, the first seed again.
        is_uncopied = subject is classifier
        again = _answer(classifier.copied(), images, seed=0 if is_uncopied else other_seed)
        result.stateful = (_changed(first, again, _RANDOM) > 0) is is_uncopied
        if not result.stateful:
            result.signs.append(
                "the output is random: two passes of the same images differ, so attacks see noise. "
                "Average over the randomness before you believe these figures."
            )
            return result
    tolerance, result.baseline = _tolerance(first), (images, first)
    neighbours = _neighbours(classifier.copied(), images, labels, eps, norm)
    unaware = classifier.copied()
    pairs = [(_answer(unaware, x), _answer(subject, x)) for x in neighbours]
    pairs.append((first, _answer(subject, images)))
    changed = max(_changed(a, b, tolerance) for a, b in pairs)
    if changed or result.stateful:
        result.stateful = True
        result.signs.append(_stateful(changed, fresh=subject is not classifier))
        return result
    backwards = _answer(classifier.copied(), images.flip(0)).flip(0)
    apart = torch.empty_like(first)
    for start in range(min(2, len(images))):
        apart[start::2] = _answer(classifier.copied(), images[start::2])
    changed = max(_changed(first, logits, tolerance) for logits in (backwards, apart))
    if changed:
        result.beside = True
        result.signs.append(
            f"the answer to {100 * changed:.0f} % of the images changes with the images beside "
            "them in the batch (batch normalisation without running statistics, or a scale taken "
            "over the batch). Attacks changed whole batches, of the images that the clean "
            "accuracy was measured on: the figures hold for such batches alone."
        )
    return result


def _seeds(classifier: PixelClassifier, images: Tensor) -> bool:
    """Whether the model seeds torch itself, so that numbers drawn after it are always the same."""
    device, numbers = images.device, []
    for seed in range(2):
        _answer(classifier, images, seed=seed)
        numbers.append(torch.randint(2**62, (4,), device=device))
    return torch.equal(*numbers)


def _uncopied(classifier: PixelClassifier, subject: PixelClassifier) -> list[str]:
    """A remark that a state may go unnoticed where the model cannot be copied, or none."""
    names = ", ".join(map(repr, in_common(classifier.model)))
    if subject is classifier:
        what = "the model cannot be copied (copy.deepcopy), so it was asked itself, and a state"
    elif names:
        what = f"{names} of the model cannot be copied (copy.deepcopy), so a state there"
    else:
        return []
    return [
        f"{what} may have gone unnoticed: an answer from memory looks like robustness. Give it a "
        "__deepcopy__, or leave out what cannot be copied."
    ]


def _stateful(changed: float, *, fresh: bool) -> str:
    """The sign of a state; ``fresh``: whether copies that have seen nothing are attacked."""
    share = f"of {100 * changed:.0f} % of the images" if changed else "to the same images"
    return (
        f"the answer {share} changes with what the model was shown before: it keeps a state, and "
        "its accuracy under attack is that of its memory. "
        + (
            "The row 'fresh-copy' attacks copies that have seen nothing."
            if fresh
            else "No copy that has seen nothing was attacked: clear the state in forward, and "
            "evaluate again."
        )
    )


@torch.no_grad()
def _answer(classifier: Callable[[Tensor], Tensor], images: Tensor, *, seed: int = 0) -> Tensor:
    seed_all(seed)
    return classifier(images).clone()  # a model may write each answer into the same tensor


def _neighbours(
    classifier: PixelClassifier, images: Tensor, labels: Tensor, eps: float, norm: str
) -> list[Tensor]:
    """Points near the images, for which a model with a memory would repeat stored answers."""
    x = images.detach().requires_grad_()
    with StraightThrough():
        gradient = gradient_of(cross_entropy(classifier(x), labels), x)
    steps = [torch.randn_like(images), *([] if gradient is None else [gradient])]
    size = eps or 0.01
    neighbours = [
        project(images + size * steepest(step, norm), images, size, norm) for step in steps
    ]
    return [*neighbours, (images + images.roll(1, 0)) / 2]


def _changed(a: Tensor, b: Tensor, tolerance: float) -> float:
    """The share of images whose logits differ by more than ``tolerance`` times their range."""
    span = usual_range(a)
    counts = (_likely(a, span) | _likely(b, span)) & a.isfinite() & b.isfinite()
    return float(((a - b).abs().where(counts, 0).amax(1) > tolerance * span).double().mean())


def _likely(logits: Tensor, span: Tensor) -> Tensor:
    """Which classes are not ruled out: a logit of -1e9 rounds more coarsely than the others."""
    top = logits.where(logits.isfinite(), -torch.inf).amax(1, keepdim=True)
    return logits >= top - RULED_OUT * span


def _tolerance(logits: Tensor) -> float:
    coarse = torch.finfo(logits.dtype).eps > 1e-5 or torch.is_autocast_enabled(logits.device.type)
    return _COARSELY if coarse else _OTHERWISE
