"""The arguments of an evaluation, checked before anything is attacked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isoreg.errors import InputError, check_integer
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.pgd import NORMS
from isoreg.robustness.state import refusing_unlisted


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """The device of the model; that of the images, if the model has no tensors."""
    tensors = [*model.parameters(), *model.buffers(), images]
    return tensors[0].device


def radii_of(eps: float | Sequence[float] | Tensor) -> list[float]:
    """The radii as numbers, at least one and all different; refused if they are anything else."""
    values = eps if isinstance(eps, Sequence) and not isinstance(eps, str | bytes) else [eps]
    try:
        radii = [number for value in values for number in _decimals(value)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"eps must be one or more numbers >= 0, got {eps!r}.") from error
    if not radii or not all(math.isfinite(e) and e >= 0 for e in radii):
        raise InputError(f"eps must be one or more numbers >= 0, got {radii}.")
    if len(set(radii)) < len(radii):
        raise InputError(f"eps must be different radii, got {radii}.")
    return radii


def _decimals(value: object) -> list[float]:
    """Python's numbers unchanged; those of a tensor or array as their shortest decimals."""
    values = torch.as_tensor(value)
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{values.dtype} is no number")
    if hasattr(value, "dtype") and values.is_floating_point():
        return [_shortest(number, values.dtype) for number in values.flatten().tolist()]
    return torch.as_tensor(value, dtype=torch.float64).flatten().tolist()


def _shortest(number: float, dtype: torch.dtype) -> float:
    """The shortest decimal that is this number in a dtype: 0.1, not 0.10000000149."""
    decimals = (float(f"{number:.{digits}g}") for digits in range(1, 18))
    return next((x for x in decimals if torch.tensor(x, dtype=dtype) == number), number)


def check_tensors(images: Tensor, labels: Tensor) -> None:
    """Refuse images or labels that are not dense tensors of numbers."""
    for name, given in (("images", images), ("labels", labels)):
        value: object = given
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} must be a tensor, got {type(value).__name__}. Of a DataLoader join the "
                "batches with torch.cat; torch.as_tensor converts an array."
            )
        if value.layout != torch.strided or value.is_nested or value.device.type == "meta":
            kind = "a nested one" if value.is_nested else f"one of {value.layout} on {value.device}"
            raise InputError(f"{name} must be a dense tensor that holds numbers, got {kind}.")


def known_norm(norm: str) -> str:
    """The norm, if it is "Linf" or "L2"; refused if it is another."""
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}.")
    return norm


def check_arguments(
    images: Tensor,
    labels: Tensor,
    radii: list[float],
    norm: str,
    bounds: tuple[float, float],
    batch_size: int,
) -> None:
    """Refuse images, labels and radii, in units of the images, that cannot be evaluated."""
    check_tensors(images, labels)
    _check_bounds(bounds)
    low, high = map(float, bounds)
    check_integer("batch_size", batch_size, 1)
    if not images.is_floating_point() or images.ndim < 2 or images.numel() == 0:
        raise InputError(
            f"images must be floating of shape (n, ...) with n > 0, got {images.dtype} of shape "
            f"{tuple(images.shape)}. Bytes become pixels with images.float() / 255."
        )
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels must be {len(images)} integers, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    smallest, largest = map(float, images.detach().aminmax())
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


def _check_bounds(bounds: object) -> None:
    """Refuse bounds that are not two finite numbers: pixels between them are scaled to 0 to 1."""
    wrong = InputError(
        f"bounds must be (smallest, largest), two finite numbers, got {bounds!r}. For inputs "
        "without bounds give the least and the largest value that they have."
    )
    try:
        low, high = map(float, bounds)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise wrong from error
    if not -math.inf < low < high < math.inf:
        raise wrong


def _explained(error: RuntimeError, classifier: PixelClassifier) -> Exception:
    """The model's error in the terms of an evaluation; unchanged, if its cause is not known."""
    if "does not require grad" in str(error):
        return InputError(
            "the model must answer without gradients of its parameters, which are frozen here, got "
            "one that trains itself while it answers (adaptation at test time). Evaluate it as it "
            "is before or after that."
        )
    parameter_dtypes = {p.dtype for p in classifier.model.parameters() if p.is_floating_point()}
    if classifier.dtype is None or not parameter_dtypes or classifier.dtype in parameter_dtypes:
        return error
    names = ", ".join(sorted(map(str, parameter_dtypes)))
    return InputError(
        f"images must have the type that the model takes, got images of {classifier.dtype} and "
        f"parameters of {names}. Convert them with images.to({names.split(', ')[-1]})."
    )


@torch.no_grad()
def check_classes(
    classifier: PixelClassifier, pixels: Tensor, labels: Tensor, *, owner: str = ""
) -> None:
    """Refuse labels that are not classes of a model, and a model that does not list its layers.

    Errors name the model by its ``owner``.
    """
    try:
        with refusing_unlisted(classifier, owner=owner):
            classes = classifier(pixels[:2]).shape[1]
    except RuntimeError as error:
        raise _explained(error, classifier) from error
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise InputError(f"labels must be classes{owner} from 0 to {classes - 1}, got {wrong}.")
