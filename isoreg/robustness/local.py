"""A training loss for robustness at a radius: the first-order margin. Axes: n = images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.nn.attention import SDPBackend, sdpa_kernel

from isoreg._compiled import as_written, between_graphs
from isoreg.errors import InputError, check_integer, error_prefix, is_number
from isoreg.robustness.arguments import check_tensors, known_norm
from isoreg.robustness.outputs import logits_of
from isoreg.robustness.pgd import gradient_of
from isoreg.robustness.second_derivative import watch_second_derivatives
from isoreg.robustness.state import refuse_sharded, refuse_static_graph
from isoreg.robustness.units import Normalisation, PerChannel

IGNORED = -100


def first_order_margin_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> Tensor:
    """`RobustLoss` at one radius, as a function of a model and a batch.

    Args:
        model: As in `RobustLoss`; called once.
        images: (n, ...) floating, as `mean` and `std` expect them.
        labels: (n,) integers; an image with label -100 does not count.
        eps: Radius in the units of the images; 0 gives cross-entropy.
        norm: "Linf" or "L2".
        mean: As in `RobustLoss`.
        std: As in `RobustLoss`.

    Returns:
        The mean over images whose label counts; 0 if there is none.

    Raises:
        InputError: As `RobustLoss` does.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 0])
        >>> robust = first_order_margin_loss(model, x, y, eps=0.1)
        >>> bool(robust > F.cross_entropy(model(x), y))
        True
    """
    with error_prefix("first_order_margin_loss"):
        radius, norm = _radius_of(eps), known_norm(norm)
        return _loss(model, Normalisation(mean, std), images, labels, radius, norm)


class RobustLoss:
    r"""A criterion that trains for robustness at a radius, in place of cross-entropy.

    .. math::
        \text{CE}(z + \epsilon \|\nabla_x (z_r - z_y)\|_*\, e_r,\ y)

    with z the logits, r the other class of the largest logit and :math:`\|\cdot\|_*` the dual norm
    (L1 for L-inf, L2 for L2). The radius grows linearly from 0 over the first ``warmup_steps``
    training calls, since a large one from the start can keep a network from learning at all. The
    loss linearises the inner problem of FGSM adversarial training. It needs one forward pass, one
    double backward and no adversarial image, and is exact for linear models of two classes. It says
    nothing about attacks beyond eps: measure them with `isoreg.robustness.evaluate`.

    With batch normalisation in training mode the logits of one image depend on the others, and the
    gradient is that of the sum of all margins; statistics are updated once. Dropout draws one mask
    for the loss and its gradient. Attention uses torch's math backend, since the fused ones cannot
    be differentiated twice, and a compiled model runs uncompiled. Images that require a gradient
    get one. In `torch.inference_mode` the value is computed without a graph.

    Source: first-order robust optimisation, as in Simon-Gabriel et al. (2019), "First-Order
    Adversarial Vulnerability of Neural Networks and Input Dimension", on the margin.

    Args:
        model: Images to logits (n, classes), as in `isoreg.robustness.evaluate`.
        eps: Radius in the units of the images.
        norm: "Linf" or "L2".
        warmup_steps: Training calls until the radius is eps.
        mean: A number, or one for each channel, to subtract from the images for the model: images
            are then pixels before normalisation. None if they are normalised already; then divide
            eps by their std.
        std: A number, or one for each channel, to divide the result by; or None.

    Raises:
        InputError: If eps is negative, the norm unknown, or FSDP or a static graph of DDP does not
            allow the second pass.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> criterion = RobustLoss(model, eps=0.1, warmup_steps=100)
        >>> criterion(torch.rand(6, 1, 4, 4), torch.arange(6) % 3).backward()
        >>> criterion.steps
        1
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        eps: float,
        norm: str = "Linf",
        warmup_steps: int = 0,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
    ) -> None:
        with error_prefix("RobustLoss"):
            self.eps, self.norm = _radius_of(eps), known_norm(norm)
            check_integer("warmup_steps", warmup_steps, 0)
            refuse_sharded(model)
            refuse_static_graph(model)
            self._normalisation = Normalisation(mean, std)
        self.model = model
        self.warmup_steps = warmup_steps
        self.steps = 0

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss at the present radius; a training call (training mode, gradients) is counted.

        Args:
            images: (n, ...) floating, in the units of eps.
            labels: (n,) integers; an image with label -100 does not count.

        Returns:
            A scalar, the mean over the images that count; 0 if there is none.

        Raises:
            InputError: If labels are soft or no classes, images are not floating, or the model
                returns no logits or is not differentiable by its images, twice in training.
        """
        with error_prefix("RobustLoss"):
            eps = self.eps
            if self.steps < self.warmup_steps:
                eps *= self.steps / self.warmup_steps
            loss = _loss(self.model, self._normalisation, images, labels, eps, self.norm)
        if self.model.training and torch.is_grad_enabled():
            self.steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """How far the warm-up is, for a checkpoint."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the warm-up from a checkpoint.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If its "steps" is not an integer of 0 or more.
        """
        with error_prefix("RobustLoss.load_state_dict"):
            check_integer("steps", state.get("steps"), 0)
        self.steps = int(state["steps"])


def _loss(
    model: nn.Module,
    normalisation: Normalisation,
    images: Tensor,
    labels: Tensor,
    eps: float,
    norm: str,
) -> Tensor:
    """The loss, with a graph where the caller wants gradients."""
    if torch.compiler.is_compiling():
        return _between_graphs(model, normalisation, images, labels, eps, norm)
    refuse_sharded(model)
    _check_batch(images, labels)
    needs_grad = torch.is_grad_enabled()
    if eps == 0 or len(images) == 0:
        logits = _float32_or_better(logits_of(model(normalisation(images)), len(images)))
        return _mean_cross_entropy(logits, _classes(labels, logits))
    with torch.inference_mode(False), torch.enable_grad():
        if needs_grad and images.requires_grad:
            # A view, because hooks on the user's tensor must not see the inner gradient.
            x = images.view_as(images)
        else:
            x = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
        labels = labels.clone() if labels.is_inference() else labels
        inputs = normalisation(x)
        inputs = inputs.clone() if inputs is x else inputs  # a model may normalise in place
        with _twice_differentiable() if needs_grad else nullcontext():
            logits = _float32_or_better(logits_of(model(inputs), len(x)))
        labels = _classes(labels, logits)
        counted = labels != IGNORED
        label = labels.where(counted, 0)[:, None]
        rival = logits.scatter(1, label, -torch.inf).argmax(1, keepdim=True)
        margins = (logits.gather(1, rival) - logits.gather(1, label))[:, 0].where(counted, 0)
        cut = watch_second_derivatives(logits) if needs_grad else []
        gradient = gradient_of(margins, x, create_graph=needs_grad)
        if cut:
            raise InputError(
                f"the model must be differentiable twice, got {cut[0]!r}, a function "
                "whose gradient has no graph, as that of a kernel has none: only a part of the "
                "margin would be trained. Run what it computes in operations of torch."
            )
        if gradient is None:
            raise InputError(
                "the model must be differentiable by its images, got logits whose graph does not "
                "reach them. Is there a detach, no_grad or an integer on the way?"
            )
        # vector_norm has gradient 0 at an exact 0, unlike the root of a sum of squares.
        gains = torch.linalg.vector_norm(
            _float32_or_better(gradient).flatten(1), 1 if norm == "Linf" else 2, dim=1
        )
        loss = _mean_cross_entropy(logits.scatter_add(1, rival, eps * gains[:, None]), labels)
    return loss if needs_grad else loss.detach()


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Use no fused attention and no compiled code, because they have no second derivatives."""
    with sdpa_kernel(SDPBackend.MATH), as_written():
        yield


_between_graphs = between_graphs(
    _loss,
    "the first-order margin differentiates the model twice, which a graph cannot: compile without "
    "fullgraph=True",
)


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    total = F.cross_entropy(logits, labels, reduction="sum")  # ignores -100 too
    return total / (labels != IGNORED).sum().clamp_min(1)


def _check_batch(images: Tensor, labels: Tensor) -> None:
    check_tensors(images, labels)
    if images.ndim < 2:
        raise InputError(f"images must be of shape (n, ...), got {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise InputError(
            f"images must be floating, got {images.dtype}. A radius needs inputs that can change "
            "a little: bytes become pixels with images.float() / 255, token ids embeddings."
        )
    soft = labels.is_floating_point() or labels.is_complex()
    if soft or labels.shape != (len(images),):
        raise InputError(
            f"labels must be {len(images)} integers, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Soft labels, as of Mixup, have no margin; use "
            "cross-entropy on such batches."
        )


def _classes(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as int64 beside the logits; wrong ones are refused on the CPU, where it is cheap."""
    labels = labels.to(logits.device).long()
    if labels.device.type == "cpu":
        wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= logits.shape[1]))]
        if len(wrong):
            raise InputError(
                f"labels must be classes from 0 to {logits.shape[1] - 1}, or {IGNORED} for an "
                f"image that does not count, got {int(wrong[0])}."
            )
    return labels


def _radius_of(eps: float | Tensor) -> float:
    """The radius as a number; a tensor that needs a gradient is refused, as it would get none."""
    number: object = eps
    if isinstance(eps, Tensor) and eps.ndim == 0 and not (eps.requires_grad or eps.is_meta):
        number = eps.item()
    if not is_number(number) or not 0 <= float(number) < math.inf:  # type: ignore[arg-type]
        raise InputError(f"eps must be a number, finite and >= 0, got {eps!r}.")
    return float(number)  # type: ignore[arg-type]


def _float32_or_better(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
