"""The evaluation: check, attack, collect, and leave the model as it was."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from isoreg.errors import InputError, called
from isoreg.robustness.attacks import ATTACKS, chosen
from isoreg.robustness.checks import (
    check_model,
    check_radii,
    check_restarts,
    check_results,
    check_unbounded,
)
from isoreg.robustness.classifier import PixelClassifier, StraightThrough, left_as_it_was
from isoreg.robustness.pgd import NORMS
from isoreg.robustness.progress import shown
from isoreg.robustness.report import RobustnessReport
from isoreg.robustness.task import Task, TrainingLoss


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Sequence[float] | Tensor,
    norm: str = "Linf",
    attacks: str | Sequence[str] = "standard",
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    transfer_from: nn.Module | None = None,
    training_loss: TrainingLoss | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> RobustnessReport:
    r"""Robust accuracy: the share of images that stay correct everywhere that attacks looked.

    .. math::
        \frac{1}{N} \sum_i \min_{\text{attacks}}
            1[\text{argmax}\, f(x_i') = y_i], \qquad \|x_i' - x_i\| \le \epsilon

    Attacks see the classifier alone, in eval mode: no penalty is in the attacked loss, and
    recorders of `isoreg` do not record. They get every image that is correct when clean; rounding
    inside the model passes gradients straight through. Afterwards parameters, their gradients,
    the mode of every module and the state of the random generators are what they were, also after
    an error. A report is an upper bound: a stronger attack can only lower it.

    Args:
        model: Images to logits (n, classes).
        images: (n, ...) within the bounds, as the user has them, not normalised.
        labels: (n,) integers.
        eps: Radius or radii, in the units of the images.
        norm: "Linf" or "L2".
        attacks: "quick", "standard", "full", "paper" (the seed paper's, no measure of
            robustness), a name in `ATTACKS` or a list of them.
        bounds: Smallest and largest value of a pixel.
        mean: What the model wants subtracted from each channel; None if nothing.
        std: What the model wants each channel divided by; None if nothing.
        transfer_from: An independently trained model whose adversarial images are tried as well.
        training_loss: For ``attacks="paper"``, whose attacks climb it: adversarial images, clean
            images (both in the user's units) and labels to the scalar that the model was trained
            on.
        batch_size: Images attacked at once.
        seed: Of every random number.
        progress: Whether to show a bar (tqdm) on standard error; None: if that is a terminal and
            tqdm is installed.

    Returns:
        The report.

    Raises:
        InputError: If an argument is unusable.
        MissingExtraError: If an attack needs torchattacks, or the bar tqdm, and it is missing.

    Example:
        >>> from isoreg.datasets import digits
        >>> images, labels = digits("test")
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> report = evaluate(model, images[:20], labels[:20], eps=[0.1, 0.3], attacks="quick")
        >>> report.worst_case[0.3] <= report.worst_case[0.1] <= report.clean
        True
    """
    with called("evaluate"):
        radii = _radii(eps)
        names = chosen(
            attacks,
            norm=_check_norm(norm),
            transfer=transfer_from is not None,
            training_loss=training_loss is not None,
        )
        _check(images, labels, radii, norm, bounds, batch_size)
        low, high = bounds
        device = _device(model, images)
        labels = labels.to(device).long()
        pixels = ((images.detach().to(device) - low) / (high - low)).clamp(0, 1)
        classifier, other = (
            None if m is None else PixelClassifier(m, bounds=bounds, mean=mean, std=std)
            for m in (model, transfer_from)
        )
        assert classifier is not None
        with left_as_it_was(model), left_as_it_was(other or nn.Identity()):
            classifier.eval()
            torch.manual_seed(seed)
            _check_classes(classifier, pixels, labels)
            correct = _predictions(classifier, pixels, labels, batch_size)
            scaled = [radius / (high - low) for radius in radii]
            warnings = check_radii(scaled, norm)
            warnings += check_model(classifier, pixels[:batch_size], labels[:batch_size])
            survived: dict[str, dict[float, list[bool]]] = {name: {} for name in names}
            seconds = dict.fromkeys(names, 0.0)
            history: dict[str, list[int]] = {}
            for name, radius, size in shown(
                [(name, *pair) for name in names for pair in zip(radii, scaled, strict=True)],
                progress,
            ):
                begin = time.perf_counter()
                task = Task(classifier, pixels, labels, size, norm, seed, other, training_loss)
                left, counts = _attack(name, task, correct, batch_size)
                survived[name][radius] = left
                history[f"{name} at eps {radius:g}"] = counts
                seconds[name] += time.perf_counter() - begin
            if correct.any():
                inside = pixels[correct], labels[correct]
                warnings += check_unbounded(classifier, *inside, norm)
        preset = attacks if isinstance(attacks, str) else "list"
        report = RobustnessReport(
            norm, radii, correct.tolist(), survived, warnings, seconds, preset
        )
        warnings += check_results(report.accuracy, radii, report.clean)
        warnings += check_restarts(history, len(images))
        return report


def _attack(
    name: str, task: Task, correct: Tensor, batch_size: int
) -> tuple[list[bool], list[int]]:
    """Which images stay correct, and how many were fooled after each restart."""
    left = correct.clone()
    counts: list[int] = []
    for batch in correct.nonzero()[:, 0].split(batch_size):
        part = replace(task, images=task.images[batch], labels=task.labels[batch])
        torch.manual_seed(task.seed)
        with StraightThrough():
            found, fooled = ATTACKS[name](part)
        left[batch] = _predictions(task.classifier, found, part.labels, batch_size)
        counts = [a + b for a, b in zip(counts or [0] * len(fooled), fooled, strict=True)]
    return left.tolist(), counts


@torch.no_grad()
def _predictions(
    classifier: PixelClassifier, pixels: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([classifier(x).argmax(1) == y for x, y in parts])


@torch.no_grad()
def _check_classes(classifier: PixelClassifier, pixels: Tensor, labels: Tensor) -> None:
    classes = classifier(pixels[:2]).shape[1]
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise InputError(f"labels must be classes from 0 to {classes - 1}, got {wrong}.")


def _device(model: nn.Module, images: Tensor) -> torch.device:
    """Where the model is."""
    tensors = [*model.parameters(), *model.buffers(), images]
    return tensors[0].device


def _radii(eps: float | Sequence[float] | Tensor) -> list[float]:
    radii: list[float] = torch.as_tensor(eps, dtype=torch.float64).flatten().tolist()
    if not radii or not all(math.isfinite(e) and e >= 0 for e in radii):
        raise InputError(f"eps must be one or more numbers >= 0, got {radii}.")
    if len(set(radii)) < len(radii):
        raise InputError(f"eps must be different radii, got {radii}.")
    return radii


def _check_norm(norm: str) -> str:
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}.")
    return norm


def _check(
    images: Tensor,
    labels: Tensor,
    radii: list[float],
    norm: str,
    bounds: tuple[float, float],
    batch_size: int,
) -> None:
    for name, given in (("images", images), ("labels", labels)):
        found: object = given
        if not isinstance(found, Tensor):
            raise InputError(
                f"{name} must be a tensor, got {type(found).__name__}. Of a DataLoader join the "
                "batches with torch.cat; torch.as_tensor converts an array."
            )
    low, high = bounds
    if not low < high:
        raise InputError(f"bounds must be (smallest, largest), got {bounds}.")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    if not images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        raise InputError(
            f"images must be floating of shape (n, ...) with n > 0, got {images.dtype} of shape "
            f"{tuple(images.shape)}. Bytes become pixels with images.float() / 255."
        )
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise InputError(
            f"labels must be {len(images)} integers, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    smallest, largest = images.min().item(), images.max().item()
    if not (low - 1e-6 <= smallest and largest <= high + 1e-6):
        raise InputError(
            f"images must lie within bounds {bounds}, got {smallest:.3g} to {largest:.3g}. Pass "
            "them as they are before normalisation, and mean= and std= for the model."
        )
    largest_radius = (high - low) * (images[0].numel() ** 0.5 if norm == "L2" else 1)
    if max(radii) > largest_radius:
        raise InputError(
            f"eps must be at most {largest_radius:g}, the whole range of {norm} within the "
            f"bounds, got {max(radii):g}. Is it in the units of the images?"
        )
