"""The evaluation: check, attack, collect, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from isoreg._random import seed_all
from isoreg.errors import InputError, check_integer, error_prefix
from isoreg.robustness.arguments import (
    check_arguments,
    check_classes,
    device_of,
    known_norm,
    radii_of,
)
from isoreg.robustness.attacks import WITH_STUDENT, check_training_loss, chosen
from isoreg.robustness.certified import certified as proven
from isoreg.robustness.certified import check_same
from isoreg.robustness.checks import (
    boundary_distances,
    check_clean,
    check_directions,
    check_gradients,
    check_model,
    check_radii,
    check_unbounded,
    gradient_contexts,
)
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.consistency import check_consistency
from isoreg.robustness.hidden_pixels import check_hidden_pixels
from isoreg.robustness.mlp import check_certifiable
from isoreg.robustness.other_classes import check_other_classes
from isoreg.robustness.progress import shown
from isoreg.robustness.report import RobustnessReport
from isoreg.robustness.results import check_distances, check_restarts, check_results
from isoreg.robustness.run import Run
from isoreg.robustness.state import Forgetful, left_as_it_was, unwrapped
from isoreg.robustness.task import Task, TrainingLoss
from isoreg.robustness.units import PerChannel


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Sequence[float] | Tensor,
    norm: str = "Linf",
    attacks: str | Sequence[str] = "standard",
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    transfer_from: nn.Module | None = None,
    training_loss: TrainingLoss | None = None,
    certified: bool = False,
    batch_size: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> RobustnessReport:
    r"""Robust accuracy: the share of images that stay correct everywhere that attacks looked.

    .. math::
        \frac{1}{N} \sum_i \min_{\text{attacks}}
            1[\text{argmax}\, f(x_i') = y_i], \qquad \|x_i' - x_i\| \le \epsilon

    An adversarial image at one radius counts at each larger radius too, whose ball contains it.
    Attacks see the classifier alone, in eval mode: no penalty is in the attacked loss, and
    recorders of `isoreg` do not record. They get every image that is correct when clean; gradients
    pass rounding inside the model straight through. Afterwards parameters, their gradients, the
    mode of every module and the state of the random generators are what they were, also after an
    error. A report is an upper bound: a stronger attack can only lower it.

    Args:
        model: A module from images to logits (n, classes). It returns them alone, as the entry
            "logits" of a mapping, or as the only tensor of that shape in a mapping or tuple.
        images: (n, ...) within the bounds, in the user's units, not normalised.
        labels: (n,) integers.
        eps: Radius or radii, in the units of the images.
        norm: "Linf" or "L2".
        attacks: "quick" (for development: bumps in the logits may hide from it what "standard"
            finds), "standard", "full", "paper" (the seed paper's, not a measure of robustness), a
            name in `ATTACKS`, or a list of such names.
        bounds: Smallest and largest value of a pixel.
        mean: A number, or one for each channel, to subtract from the images for the model; or None.
        std: A number, or one for each channel, to divide the result by; or None.
        transfer_from: An independently trained model whose adversarial images are tried as well.
        training_loss: For ``attacks="paper"``, whose attacks climb it: adversarial images, clean
            images (both in the user's units) and labels to the scalar that the model was trained
            on.
        certified: Whether to bound the accuracy from below too: the report then says between which
            two numbers the truth lies. For MLPs and ``norm="Linf"``; others are refused. An image
            costs about as many forward passes as the MLP has units.
        batch_size: Images attacked at once. Checks take up to 100 at once even if it is less.
        seed: Seed of every random number.
        progress: Whether to show a bar (tqdm) on standard error; None shows it if that is a
            terminal and tqdm is installed.

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
    with error_prefix("evaluate"):
        radii = radii_of(eps)
        names = chosen(
            attacks,
            norm=known_norm(norm),
            transfer=transfer_from is not None,
            training_loss=training_loss is not None,
        )
        check_arguments(images, labels, radii, norm, bounds, batch_size)
        check_integer("seed", seed, -(2**63), 2**64 - 1)
        if not isinstance(certified, bool):
            raise InputError(f"certified must be True or False, got {certified!r}.")
        if not isinstance(progress, bool | None):
            raise InputError(f"progress must be True, False or None, got {progress!r}.")
        if training_loss is not None and not callable(training_loss):
            raise InputError(f"training_loss must be callable, got {training_loss!r}.")
        model = unwrapped(model)
        if certified:
            check_certifiable(model, norm)
        transfer_model = nn.Identity() if transfer_from is None else unwrapped(transfer_from)
        low, high = map(float, bounds)
        device = device_of(model, images)
        with left_as_it_was(model), left_as_it_was(transfer_model):
            # Half precision is too coarse for a ball, so only the model itself computes in it.
            wide = images.detach().to(device, torch.promote_types(images.dtype, torch.float32))
            pixels = (wide - low) / (high - low)
            classifier = PixelClassifier(
                model, bounds=(low, high), mean=mean, std=std, dtype=images.dtype
            )
            task = Task(
                classifier,
                pixels.clamp_(0, 1),
                labels.to(device, torch.long, copy=True),
                eps=0.0,
                norm=norm,
                seed=int(seed),
                transfer=None if transfer_from is None else classifier.with_model(transfer_model),
                training_loss=training_loss,
            )
            sizes = {radius: radius / (high - low) for radius in radii}
            preset = attacks if isinstance(attacks, str) else "list"
            if certified:
                check_same(classifier, task.images)
            report = _evaluated(task, sizes, names, preset, int(batch_size), progress)
            if not certified:
                return report
            proofs = {e: proven(classifier, task.images, task.labels, s) for e, s in sizes.items()}
            return _with_proofs(report, proofs)


def _evaluated(
    task: Task,
    sizes: dict[float, float],
    names: list[str],
    preset: str,
    batch_size: int,
    progress: bool | None,
) -> RobustnessReport:
    """Check the model, attack it, and check the results; attack with a student too if need be."""
    seed_all(task.seed)
    # Only copies are asked until it is known whether the model keeps a state.
    check_classes(task.classifier.copied(), task.images, task.labels)
    if task.transfer is not None:
        check_classes(task.transfer.copied(), task.images, task.labels, owner=" of transfer_from")
    if task.training_loss is not None:
        check_training_loss(task)
    largest = max(sizes.values())
    consistency = check_consistency(task.classifier, task.images, task.labels, largest, task.norm)
    fresh = None
    if consistency.stateful:
        task, fresh = _copies(task)
    seed_all(task.seed)
    run = Run(task, sizes, batch_size, whole_batches=consistency.beside)
    signs = check_model(task.classifier, *run.sample()) + consistency.signs
    subject = task.classifier, *run.correctly_classified()
    distances = boundary_distances(*subject, task.norm)
    signs += check_gradients(*subject) or check_directions(*subject)
    run.contexts = gradient_contexts(*subject)
    signs += check_hidden_pixels(*subject, eps=largest, norm=task.norm, contexts=run.contexts)
    for name, radius in shown([(name, radius) for name in names for radius in sizes], progress):
        run.attack(name, radius)
    for radius in sizes if fresh else ():
        run.attack("pgd-margin", radius, row="fresh-copy", task=fresh)
    signs += check_other_classes(run)
    signs += check_unbounded(*subject, run.contexts)
    signs += consistency.afterwards(task.classifier)
    results = _check(run, distances)
    needs_student = preset in WITH_STUDENT or (bool(signs or results) and preset != "paper")
    if needs_student and "student" not in names and bool(run.correct.any()):
        for radius in sizes:
            run.attack("student", radius)
        results = _check(run, distances)
    units = check_radii(list(sizes.values()), task.norm)
    units += check_clean(run.correct, task.labels, task.images, task.classifier.bounds)
    warnings = units + signs + consistency.remarks + results
    return run.report([*warnings, *check_restarts(run.history, len(task.labels))], preset)


def _copies(task: Task) -> tuple[Task, Task | None]:
    """The task on a copy of a stateful model, and on one that forgets; unchanged without copies."""
    classifier = task.classifier
    copy = classifier.copied()
    if copy is classifier:
        return task, None
    forgetful = classifier.with_model(Forgetful(classifier.model, share=classifier.shares))
    return replace(task, classifier=copy), replace(task, classifier=forgetful)


def _check(run: Run, distances: Tensor) -> list[str]:
    """Signs in the accuracies, on their own and beside the gradients at the clean images."""
    report = run.report([], "")
    signs = check_results(
        report.accuracy,
        list(run.sizes),
        report.clean,
        images=len(report.correct),
        worst_case=report.worst_case,
    )
    for radius, size in run.sizes.items():
        survived = run.survivors(radius)[run.correct].cpu()
        signs += check_distances(distances.cpu(), survived, radius, size, report.clean)
    return signs


def _with_proofs(report: RobustnessReport, proofs: dict[float, list[bool]]) -> RobustnessReport:
    """The report with its lower bound, or with a warning instead if an attack contradicts it."""
    # This can happen, for example, if a function of torch was replaced, which no check sees.
    refuted = {
        eps: sum(a and not b for a, b in zip(proven, report.survivors(eps), strict=True))
        for eps, proven in proofs.items()
    }
    if not any(refuted.values()):
        return replace(report, certified=proofs)
    where = ", ".join(f"{count} at eps {eps:g}" for eps, count in refuted.items() if count)
    sign = (
        f"NO LOWER BOUND: attacks fool images that certified=True has proven ({where}), so the "
        "model computes something else than its layers, or with other digits."
    )
    return replace(report, warnings=[sign, *report.warnings])
