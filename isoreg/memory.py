"""A memory of past samples: more pairs for small batches and many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isoreg.errors import InputError
from isoreg.masks import IGNORED


class FeatureQueue:
    r"""The last samples that were compared: what their features were, without gradient.

    A batch B is compared with itself and with the queue Q. What is then minimised is

    .. math::
        F = \frac{1}{T} \Bigl( \sum_{i, j \in B} + 2 \sum_{i \in B, j \in Q} \Bigr)
            G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

    by the features of B alone; those of Q are constants, as they were when their sample was last
    seen, by older weights. T = \|B\| (\|B\| + \|Q\|), or with ``reduction="pairs"`` the sum of
    G_ij over i in B, j in B and Q, i != j. The returned value counts each pair of B and Q once,
    so it estimates the penalty of a batch of \|B\| + \|Q\| samples, and the gradient estimates
    that of such a batch. Then B takes the place of the oldest samples, but for samples that are
    not finite (on an accelerator, if labels are given, they stay and pair with nobody). Across
    ranks B is the batch of all ranks: all ranks hold the queue that a single process would hold.

    Pairs with past samples whose distance or weight is not given, where distances or weights of
    pairs are, count for nothing.

    The queue is as wide as inputs and features together, and old features lag behind the
    weights: keep it to the last few hundred steps, or shorter while the learning rate is high.

    Source: the idea is the cross-batch memory of Wang, Zhang, Huang and Scott (2020).

    Args:
        size: How many samples are kept, positive.

    Raises:
        InputError: If the size is not a positive integer.

    Example:
        >>> import isoreg
        >>> queue = FeatureQueue(100)
        >>> for _ in range(3):
        ...     x, y = torch.rand(40, 5), torch.randint(10, (40,))
        ...     penalty = isoreg.isometry_penalty(x, 2 * x, y, queue=queue)
        >>> len(queue)
        100
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"queue must be a positive number of samples, got {size!r}.")
        self.size = size
        self.clear()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"FeatureQueue({self.size})"

    def __str__(self) -> str:
        return f"of {self.size}, {self._count} held"

    def clear(self) -> None:
        """Forget all samples."""
        self._count = self._next = 0
        self._tensors: list[Tensor] = []
        self._labels: Tensor | None = None

    def extend(
        self, tensors: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """A batch and behind it what is held; then the batch takes the place of the oldest.

        Args:
            tensors: Inputs and features of the batch, (n, d) each.
            labels: (n,) int64 or (n, C) floating labels, or None.

        Returns:
            Inputs and features, and labels, of the batch and of the samples that were held, the
            oldest first.

        Raises:
            InputError: If what is held cannot be compared with this batch.
        """
        everything, every_label = list(tensors), labels
        if self._tensors:
            self._check(tensors, labels)
            self._move_to(tensors[0].device)
            everything = [
                torch.cat([x, *(part.to(x.dtype) for part in self._by_age(held))])
                for x, held in zip(tensors, self._tensors, strict=True)
            ]
            if labels is not None and self._labels is not None:
                every_label = torch.cat([labels, *self._by_age(self._labels)])
        self._append(tensors, labels)
        return everything, every_label

    def _by_age(self, held: Tensor) -> list[Tensor]:
        """What is held, the oldest first, in two parts: the newest stand where the oldest did."""
        start = self._next if self._count == self.size else 0
        return [held[start : self._count], held[:start]]

    def _check(self, tensors: Sequence[Tensor], labels: Tensor | None) -> None:
        there, here = _describe(self._tensors, self._labels), _describe(tensors, labels)
        if there != here:
            raise InputError(
                f"the queue must hold samples like those of the batch, got {there} in the queue "
                f"and {here} now. Use one queue for each model and kind of labels, or clear() it."
            )

    def _move_to(self, device: torch.device) -> None:
        """Once, after a checkpoint was loaded elsewhere."""
        self._tensors = [x.to(device) for x in self._tensors]
        self._labels = None if self._labels is None else self._labels.to(device)

    def _append(self, tensors: Sequence[Tensor], labels: Tensor | None) -> None:
        # a sum is finite if all its terms are, and takes a tenth of the time of looking at each
        kept = torch.stack([x.sum(1).isfinite() for x in tensors]).all(0)
        if labels is not None and not _waits(kept):
            # dropping them would wait for the device: in their place stands what pairs with nobody
            tensors = [x.masked_fill(~kept[:, None], 0) for x in tensors]
            nobody = 0 if labels.is_floating_point() else IGNORED
            labels = labels.masked_fill(~kept.view(-1, *[1] * (labels.ndim - 1)), nobody)
        elif not bool(kept.all()):  # a step that overflowed must not spoil those after it
            tensors = [x[kept] for x in tensors]
            labels = None if labels is None else labels[kept]
        tensors = [x.detach()[-self.size :] for x in tensors]
        new = len(tensors[0])
        if not self._tensors:
            self._tensors = [x.new_zeros(self.size, x.shape[1]) for x in tensors]
            self._labels = (
                None if labels is None else labels.new_zeros(self.size, *labels.shape[1:])
            )
        places = (self._next + torch.arange(new, device=tensors[0].device)) % self.size
        for held, x in zip(self._tensors, tensors, strict=True):
            held[places] = x.to(held.dtype)
        if self._labels is not None and labels is not None:
            self._labels[places] = labels[-self.size :]
        self._next = (self._next + new) % self.size
        self._count = min(self.size, self._count + new)

    def state_dict(self) -> dict[str, Any]:
        """A copy of what is held, for `torch.save`.

        Returns:
            Tensors and numbers.
        """
        return {
            "size": self.size,
            "count": self._count,
            "next": self._next,
            "tensors": [x.clone() for x in self._tensors],
            "labels": None if self._labels is None else self._labels.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what another queue held.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If that queue was of another size.
        """
        self.check_state_dict(state)
        self._count, self._next = state["count"], state["next"]
        self._tensors = [x.clone() for x in state["tensors"]]
        self._labels = None if state["labels"] is None else state["labels"].clone()

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse what cannot be loaded.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If that queue was of another size.
        """
        if state["size"] != self.size:
            raise InputError(
                f"the saved queue must be of {self.size} samples, got one of {state['size']}."
            )


def _waits(x: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return x.device.type == "cpu"


def _describe(tensors: Sequence[Tensor], labels: Tensor | None) -> str:
    kind = "without" if labels is None else "with" if labels.ndim == 1 else "with soft"
    return f"widths {[x.shape[1] for x in tensors]} {kind} labels"
