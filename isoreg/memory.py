"""A memory of past samples: more pairs for small batches and many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isoreg._pairs.precision import can_look
from isoreg.errors import InputError, check_integer
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
    not finite (on an accelerator, where looking would wait, they stay and pair with nobody). Across
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
        check_integer("queue", size, 1)
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
        self._first = self._count = 0
        self._rows: list[Tensor] = []
        self._kind = ""

    def extend(
        self, tensors: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """What is held and behind it a batch, until `keep` lets it take the place of the oldest.

        Args:
            tensors: Inputs and features of the batch, (n, d) each, without graph.
            labels: (n,) int64 or (n, C) floating labels, or None for one class.

        Returns:
            Inputs and features, and labels, of the samples that are held, the oldest first, and
            of the batch.

        Raises:
            InputError: If what is held cannot be compared with this batch.
        """
        kind = _describe(tensors, labels)
        if kind != (self._kind or kind):
            raise InputError(
                f"the queue must hold samples like those of the batch, got {self._kind} in the "
                f"queue and {kind} now. Use one queue for each model and kind of labels, or "
                "clear() it."
            )
        self._kind = kind
        if labels is None:
            labels = torch.zeros(len(tensors[0]), dtype=torch.int64, device=tensors[0].device)
        batch = [*tensors, labels]
        self._make_room(batch)
        self._write(batch)
        both = [x[self._first : self._first + self._count + len(labels)] for x in self._rows]
        return both[:-1], both[-1]

    def keep(self, n: int, *, finite: bool) -> None:
        """Let the batch behind what is held take the place of the oldest samples.

        Args:
            n: Its number of samples.
            finite: Whether all of them are known to be finite; else they are looked at.
        """
        start = self._first + self._count
        if not finite:  # a step that overflowed must not spoil those after it
            batch = [x[start : start + n] for x in self._rows]
            # a sum is finite if all its terms are, and takes a tenth of the time of each
            wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in batch[:-1]]
            usable = torch.stack([x.sum(1).isfinite() for x in wide]).all(0)
            may_look = can_look(batch[0].device)
            batch = [x[usable] for x in batch] if may_look else _hide(batch, usable)
            self._write(batch)
            n = len(batch[0])
        self._count = min(self.size, self._count + n)
        self._first = start + n - self._count

    def _held(self) -> list[Tensor]:
        """What is held, the oldest first."""
        return [x[self._first : self._first + self._count] for x in self._rows]

    def _make_room(self, batch: Sequence[Tensor]) -> None:
        """Behind what is held, so that both can be read as one.

        A short queue moves to the front in each step, so that the batch stays in the cache; a long
        one once in several steps.
        """
        n, before = len(batch[0]), self._rows or batch
        kinds = [torch.promote_types(x.dtype, y.dtype) for x, y in zip(before, batch, strict=True)]
        fits = bool(self._rows) and before[0].device == batch[0].device
        room = len(before[0]) if fits and kinds == [x.dtype for x in before] else 0
        if room and self._first + self._count + n <= room:
            return
        held = self._held()
        if not room or self._count + n > room or self._first < self._count:
            length = (1 if self.size < n else 2) * (self.size + n)
            with torch.inference_mode(False):  # what is made in it cannot be written to after it
                self._rows = [
                    x.new_empty(length, *x.shape[1:], dtype=kind)
                    for x, kind in zip(batch, kinds, strict=True)
                ]
        self._first = 0
        for rows, old in zip(self._rows, held, strict=False):  # nothing is held at first
            rows[: len(old)] = old

    def _write(self, batch: Sequence[Tensor]) -> None:
        start = self._first + self._count
        for rows, x in zip(self._rows, batch, strict=True):
            rows[start : start + len(x)] = x

    def state_dict(self) -> dict[str, Any]:
        """A copy of what is held, for `torch.save`.

        Returns:
            Tensors, numbers and text.
        """
        rows = [x.clone() for x in self._held()]
        return {"size": self.size, "kind": self._kind, "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what another queue held.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If that queue was of another size, or saved by an older version.
        """
        self.check_state_dict(state)
        self.clear()
        self._kind = state["kind"]
        with torch.inference_mode(False):
            self._rows = [x.clone() for x in state["rows"]]
        self._count = len(self._rows[0]) if self._rows else 0

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse what cannot be loaded.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If that queue was of another size, or saved by an older version.
        """
        if "rows" not in state:
            raise InputError(
                "the saved queue must be of this version of isoreg, got "
                f"{', '.join(state)}. Start with an empty queue: it is full again soon."
            )
        if state["size"] != self.size:
            raise InputError(
                f"the saved queue must be of {self.size} samples, got one of {state['size']}."
            )


def _hide(batch: Sequence[Tensor], finite: Tensor) -> list[Tensor]:
    """What pairs with nobody in the place of samples that are not finite, without looking."""
    *tensors, labels = batch
    nobody = 0 if labels.is_floating_point() else IGNORED
    labels = labels.masked_fill(~finite.view(-1, *[1] * (labels.ndim - 1)), nobody)
    return [*(x.masked_fill(~finite[:, None], 0) for x in tensors), labels]


def _describe(tensors: Sequence[Tensor], labels: Tensor | None) -> str:
    widths = f"widths {[x.shape[1] for x in tensors]}"
    if labels is None or labels.ndim == 1:
        return f"{widths} {'without' if labels is None else 'with'} labels"
    return f"{widths} with soft labels of {labels.shape[1]} classes"
