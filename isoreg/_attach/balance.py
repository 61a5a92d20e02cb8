"""Measures the gradients of penalty and loss at recorded features, and balances the two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg.errors import InputError, check_positive, error_prefix, is_number


class Pull(NamedTuple):
    """Norms of the gradients of loss and penalty at a layer's features, and their inner product.

    Attributes:
        loss: Norm of the gradient of everything but the layer's own penalty.
        penalty: Norm of the gradient of the layer's own penalty.
        along: Inner product of the two gradients.
    """

    loss: Tensor
    penalty: Tensor
    along: Tensor


Norms: TypeAlias = Mapping[str, Pull]
"""The `Pull` of each layer, by the name of the layer."""


# Entries of a checkpoint with their defaults; None means required. Earlier versions saved no size:
# with an infinite one, no penalty counts as far larger than usual.
_STATE = {"log": None, "weight": None, "used": None, "size": math.inf}
# A penalty below _TINY is tiny. A penalty above _FAR times the usual one is far larger than usual,
# because the batches of one training differ by less.
_TINY, _FAR = 1e-3, 4.0


class GradientNorms:
    """Measures gradients that reach watched features in backward; it never waits for a device.

    A watched tensor goes two ways: on through the model, and as a copy into the penalty. The
    gradient of the copy comes from the layer's own penalty; the rest of the tensor's gradient comes
    from everything else, which is the loss and the penalties of later layers.

    Example:
        >>> features = torch.ones(2, 3, requires_grad=True) * 1
        >>> copy, norms = features.clone(), GradientNorms()
        >>> norms.watch("layer", features, copy)
        >>> (3 * features[0, 0] + 4 * copy[0, 0]).backward()
        >>> norms.take()
        {'layer': Pull(loss=tensor(3.), penalty=tensor(4.), along=tensor(12.))}
    """

    def __init__(self) -> None:
        self._passes: dict[str, list[list[Pull]]] = {}

    def watch(self, name: str, features: Tensor, copy: Tensor) -> None:
        """Measure the gradients that reach features, and their clone that only the penalty uses."""
        if features.requires_grad:
            pulls, gradients = list[Pull](), list[Tensor]()
            copy.register_hook(gradients.append)
            features.register_hook(lambda total: self._add(name, pulls, total, gradients))

    def take(self) -> Norms:
        """Return the norms by layer of passes whose penalty went backward, and forget them."""
        by_layer, self._passes = self._passes, {}
        return {name: merged(chain(*passes)) for name, passes in by_layer.items()}

    @torch.no_grad()
    def _add(self, name: str, pulls: list[Pull], total: Tensor, gradients: list[Tensor]) -> None:
        """Add a backward pass to the pulls of its forward pass, of which there may be several."""
        penalty = gradients.pop() if gradients else None
        if total.requires_grad:  # create_graph=True: this gradient is part of a loss
            return
        if penalty is None:
            norm = _norm(total)
            pulls.append(Pull(norm, torch.zeros_like(norm), torch.zeros_like(norm)))
            return
        loss = total - penalty
        pulls.append(Pull(_norm(loss), _norm(penalty), (loss.float() * penalty).sum()))
        self._passes.setdefault(name, []).append(pulls)


def merged(pulls: Iterable[Pull]) -> Pull:
    """Return several backward passes as one."""
    loss, penalty, along = map(torch.stack, zip(*pulls, strict=True))
    return Pull(loss.norm(), penalty.norm(), along.sum())


class AutoBeta:
    r"""A weight that keeps the penalty's gradient at a share of the loss's: ``beta="auto"``.

    .. math::
        \beta = \text{share} \cdot \exp \text{EMA}\left[ \log
        \frac{\|\partial L / \partial \phi\|}{\|\partial P / \partial \phi\|} \right]

    where phi are the recorded features of all layers, L is the whole loss except the layer's own
    penalty, and P is the penalty at weight 1. Both gradients are measured in the backward pass of
    the training step; no other pass is needed. The average starts with the first measurement (its
    bias is corrected). No gradient is known for the first batch, so there beta P is a hundredth of
    the share (less for P below a thousandth): enough to measure, and too little to matter. A batch
    whose P is more than four times the usual P gets a smaller beta. Only ratios of gradients
    count, so scaling the loss for float16 or dividing it for accumulation changes nothing. Steps
    whose gradients are zero (no pairs) or not finite are left out.

    The loss's gradient shrinks as a network fits its data, and beta shrinks with it. Gradients
    taken with ``create_graph=True`` are not measured; others that `torch.autograd.grad` takes count
    as a part of the step. Each process of a distributed run measures its own gradients; with a
    ``process_group`` all processes use the mean weight. One `AutoBeta` serves one
    regularizer: a second regularizer that gets it starts a new average with the same options.

    Args:
        share: The penalty's gradient norm as a share of the loss's, positive.
        momentum: Momentum of the average, from 0 (only the last step counts) to below 1.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> from isoreg import IsometryRegularizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> iso = IsometryRegularizer(model, beta=AutoBeta(share=0.3))
        >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
        >>> for _ in range(2):
        ...     loss = torch.nn.functional.cross_entropy(model(x), y) + iso(y)
        ...     loss.backward()
        >>> iso.beta > 0
        True
    """

    is_taken = False
    """Whether a regularizer uses this object, whose average is then of that one's gradients."""

    def __init__(self, share: float = 0.1, *, momentum: float = 0.95) -> None:
        with error_prefix("AutoBeta"):
            check_positive("share", share)
            if not is_number(momentum) or not 0 <= momentum < 1:
                raise InputError(f"momentum must be in [0, 1), got {momentum!r}.")
        self.share = float(share)
        self.momentum = float(momentum)
        zero = torch.zeros((), dtype=torch.float32, device="cpu")
        self._log = zero  # average of the ratio's logarithm, before its bias is corrected
        self._weight = zero  # total weight of the measurements in the averages
        self._used = zero
        self._size = zero  # average of the penalty's logarithm, also before the correction
        self._penalty = zero

    def __repr__(self) -> str:
        return f"AutoBeta(share={self.share:g}, momentum={self.momentum:g})"

    @property
    def beta(self) -> Tensor:
        """The weight of the last batch, 0-dimensional."""
        return self._used

    @beta.setter
    def beta(self, beta: Tensor) -> None:
        self._used = beta

    @property
    def is_measured(self) -> Tensor:
        """Whether any gradient has been measured, 0-dimensional."""
        return self._weight > 0

    @torch.no_grad()
    def weigh(self, penalty: Tensor) -> Tensor:
        """The weight, 0-dimensional, for a batch with this penalty at weight 1."""
        self._move_to(penalty.device)
        # The first weight is small: with several layers, a large penalty's gradient would reach
        # earlier layers and count as the loss's there. A penalty is a square, so the gradient of a
        # tiny one falls only as its root does.
        first = 0.01 * self.share / torch.maximum(penalty, (_TINY * penalty).sqrt())
        first = torch.where(penalty > 0, first, 0.0)
        learned = self.share * (self._log / self._weight).exp()
        # A penalty that is far larger than those measured has a larger gradient too. This happens
        # to a model that starts as a copy of its teacher and begins to move.
        larger = penalty / (_FAR * (self._size / self._weight).exp())
        learned = learned / larger.clamp_min(1).sqrt()
        self._used = torch.where(self._weight > 0, learned, first)
        self._penalty = penalty.detach()
        return self._used

    @torch.no_grad()
    def update(self, norms: Norms) -> None:
        """Add the gradient norms of the last batch to the averages."""
        if not norms:
            return
        device = self._used.device
        loss = torch.stack([pull.loss.to(device) for pull in norms.values()]).norm()
        penalty = torch.stack([pull.penalty.to(device) for pull in norms.values()]).norm()
        log = (self._used * loss / penalty).log()
        m, valid = self.momentum, log.isfinite()
        self._log = torch.where(valid, m * self._log + (1 - m) * log, self._log)
        size = self._penalty.to(self._size).log()
        self._size = torch.where(valid, m * self._size + (1 - m) * size, self._size)
        self._weight = torch.where(valid, m * self._weight + (1 - m), self._weight)

    def state_dict(self) -> dict[str, Any]:
        """The averages and the last weight, for a checkpoint."""
        return {name: getattr(self, f"_{name}") for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the averages of a checkpoint.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If an entry is missing or is not a number.
        """
        self.check_state_dict(state)
        for name, default in _STATE.items():
            value = state.get(name, default)
            value = value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")
            setattr(self, f"_{name}", value.detach().clone())

    @staticmethod
    def check_state_dict(state: Mapping[str, Any]) -> None:
        """Refuse a state that `state_dict` cannot have returned."""
        for name, default in _STATE.items():
            value = state.get(name, default)
            if not isinstance(value, Tensor | float | int) or torch.as_tensor(value).ndim > 0:
                raise InputError(
                    f"the checkpoint of beta='auto' needs a number {name!r}, got {value!r}."
                )

    def _move_to(self, device: torch.device) -> None:
        if self._used.device != device:
            self.load_state_dict({k: v.to(device) for k, v in self.state_dict().items()})


def check_beta(beta: float | str | AutoBeta) -> float | AutoBeta:
    """Return a number unchanged; for "auto", or an `AutoBeta` that is in use, a new `AutoBeta`."""
    if isinstance(beta, AutoBeta):
        if beta.is_taken:
            return AutoBeta(beta.share, momentum=beta.momentum)
        beta.is_taken = True
        return beta
    if isinstance(beta, str) and beta == "auto":
        return AutoBeta()
    if not (is_number(beta) and 0 <= float(beta) < math.inf):
        raise InputError(f"beta must be a finite number >= 0, 'auto' or an AutoBeta, got {beta!r}.")
    return float(beta)


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm
