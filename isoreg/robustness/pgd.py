"""Projected gradient descent on the classifier, in pixels from 0 to 1. Axes: n = images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.robustness.outputs import answers

Classifier: TypeAlias = Callable[[Tensor], Tensor]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

NORMS = ("Linf", "L2")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax of the label, (n)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus that of the label, (n): above 0 where the image is misclassified.

    Its gradient does not vanish when logits are large, as that of cross-entropy does.

    Args:
        logits: (n, classes).
        labels: (n).

    Returns:
        The loss of each image.

    Example:
        >>> margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
        tensor([-1.])
    """
    label_logits = logits.gather(1, labels[:, None])[:, 0]
    other_logits = logits.scatter(1, labels[:, None], -torch.inf)
    return other_logits.amax(1) - label_logits


def project(x: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """The point x moved into the ball around each image, and into the range of pixels.

    For L-inf it is the nearest such point. For L2 the ball comes first and the range second: the
    point stays in the ball, but a nearer one may exist.

    Args:
        x: (n, ...) candidates.
        images: (n, ...) centres.
        eps: Radius.
        norm: "Linf" or "L2".

    Returns:
        (n, ...) points.

    Example:
        >>> project(torch.tensor([[0.9, 0.2]]), torch.tensor([[0.5, 0.2]]), 0.1, "Linf")
        tensor([[0.6000, 0.2000]])
    """
    change = torch.nan_to_num(x - images)
    if norm == "Linf":
        change = change.clamp(-eps, eps)
    else:
        length = _lengths(change)
        change = change * (eps / length.clamp_min(1e-12)).clamp_max(1)
    return (images + change).clamp(0, 1)


def pgd(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    loss: Loss = margin,
    steps: int = 40,
    restarts: int = 1,
    random_start: bool = True,
    step_size: float | None = None,
    judge: Classifier | None = None,
) -> tuple[Tensor, list[int]]:
    """Climb a loss from random points of the ball; keep for each image what fools the classifier.

    Source: Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks".
    Any step that is misclassified counts, not only the last.

    Args:
        classifier: Pixels to logits.
        images: (n, ...) from 0 to 1.
        labels: (n).
        eps: Radius of the ball.
        norm: "Linf" or "L2".
        loss: Logits and labels to (n) values.
        steps: Steps of each restart.
        restarts: Number of starts.
        random_start: Whether the first start is random; later ones always are.
        step_size: Length of a step; by default 2.5 eps / steps.
        judge: The classifier that must be fooled, if it is another than the one that is climbed.

    Returns:
        Adversarial images (n, ...), the clean one where none was found, and how many images were
        misclassified after each restart.
    """
    size = 2.5 * eps / steps if step_size is None else step_size
    images = images.detach()
    adversarial = images.clone()
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    history = []
    for restart in range(restarts):
        x = images
        if random_start or restart:
            x = random_point(images, eps, norm)
        for _ in range(steps + 1):
            leaf = x.detach().requires_grad_()
            logits = classifier(leaf)
            with torch.no_grad():
                judged = logits if judge is None else judge(x)
            new = (answers(judged) != labels) & ~fooled
            adversarial[new] = x[new]
            fooled |= new
            gradient = gradient_of(loss(logits, labels), leaf)
            if gradient is None:  # there is nothing to climb
                break
            x = project(x + size * steepest(gradient, norm), images, eps, norm)
        history.append(int(fooled.sum()))
    return adversarial, history


def gradient_of(
    values: Tensor, x: Tensor, *, create_graph: bool = False, retain_graph: bool | None = None
) -> Tensor | None:
    """The gradient of the sum of values; None if the model cuts the graph or has no derivative.

    Values may then still have a graph, for example of parameters that the model does not list.

    Returns:
        (n, ...), or None.
    """
    if not values.requires_grad:
        return None
    total = values.sum()
    try:
        return torch.autograd.grad(
            *(total, x), allow_unused=True, create_graph=create_graph, retain_graph=retain_graph
        )[0]
    except RuntimeError as error:
        if not _without_derivative(error):
            raise
        return None


def gradient_or_zeros(values: Tensor, x: Tensor, *, retain_graph: bool | None = None) -> Tensor:
    """As `gradient_of`, but zeros (n, ...) in place of None."""
    gradient = gradient_of(values, x, retain_graph=retain_graph)
    return torch.zeros_like(x) if gradient is None else gradient


def _without_derivative(error: RuntimeError) -> bool:
    """Whether torch says that a function has no derivative, as floor_divide has none."""
    return "derivative for" in str(error) and "not implemented" in str(error)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The step of length 1 that climbs fastest; no step where the gradient is 0.

    Args:
        gradient: (n, ...).
        norm: "Linf" or "L2".

    Returns:
        (n, ...) steps.

    Example:
        >>> steepest(torch.tensor([[3e-9, -4e-9]]), "L2")
        tensor([[ 0.6000, -0.8000]])
    """
    gradient = torch.nan_to_num(gradient)
    if norm == "Linf":
        return gradient.sign()
    # The gradient is scaled first, because squares of small numbers become 0.
    largest = gradient.flatten(1).abs().amax(1).view(-1, *[1] * (gradient.ndim - 1))
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / _lengths(scaled).clamp_min(1)


def random_signs(like: Tensor) -> Tensor:
    """1 or -1 for each pixel of images (n, ...)."""
    return (torch.randint(0, 2, like.shape, device=like.device) * 2 - 1).to(like)


def random_point(images: Tensor, eps: float, norm: str) -> Tensor:
    """A point (n, ...) of the ball around each image, as attacks start from."""
    if norm == "Linf":
        change = torch.empty_like(images).uniform_(-eps, eps)
    else:
        direction = torch.randn_like(images)
        radius = torch.rand_like(_lengths(direction))
        change = eps * radius * direction / _lengths(direction)
    return project(images + change, images, eps, norm)


def _lengths(x: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (x.ndim - 1))
