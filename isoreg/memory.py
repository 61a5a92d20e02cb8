"""A memory of past samples: more pairs for small batches and many classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
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
    ranks B is the batch of all ranks: all ranks hold the queue that a single process would hold,
    and ranks that would go on with other samples (each filled its own, or one lost a step) are
    refused; a loaded state must be the same on all of them.

    It needs the Euclidean distance on both sides, a number as scale, and inputs, given distances
    and labels without gradient; there are no second derivatives. Pairs with past samples whose
    distance or weight is not given, where distances or weights of pairs are, count for nothing.

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
        self.size = int(size)  # torch.load refuses numbers of numpy
        self.clear()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"FeatureQueue({self.size})"

    def __str__(self) -> str:
        alone = "" if self._shared else f", whose bytes add up to {self._sum()}"
        return f"of {self.size}, {self._count} held{alone}"

    def __copy__(self) -> FeatureQueue:
        return copy.deepcopy(self)  # two queues would write into the same memory

    def clear(self) -> None:
        """Forget all samples."""
        self._first = self._count = 0
        self._rows: list[Tensor] = []
        self._kind = ""
        self._shared = True  # all ranks are known to hold the same

    def before(
        self, tensors: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """What is held, the oldest first, and its labels with those of a batch behind them.

        Inputs and features of the batch are (n, d), without graph; labels (n,) int64, (n, C)
        floating, or None for one class.

        Returns:
            Inputs and features that are held, and labels of both.
        """
        kind = _describe(tensors, labels)
        if kind != (self._kind or kind):
            raise InputError(
                f"the queue must hold samples like those of the batch, got {self._kind} in the "
                f"queue and {kind} now. Use one queue for each model, sequences of one length or "
                "their mean, and one kind of labels: where some are soft, as those of Mixup, give "
                "F.one_hot(labels, classes).float()."
            )
        batch = _with_labels(tensors, labels)
        held = self._held() or [x[:0] for x in batch]
        *points, old_labels = [old.to(x.device) for old, x in zip(held, batch, strict=True)]
        self._shared = False  # until `keep`: a rank may fail before it
        return points, torch.cat([old_labels, batch[-1]])

    def keep(
        self,
        tensors: Sequence[Tensor],
        labels: Tensor | None,
        *,
        finite: bool,
        shared: bool = False,
    ) -> None:
        """Let a batch, as in `before`, take the oldest ones' place.

        ``finite``: all of it is so. ``shared``: all ranks do the same, and held the same before.
        """
        self._shared = shared
        self._kind, batch = _describe(tensors, labels), _with_labels(tensors, labels)
        if not finite:  # a step that overflowed must not spoil those after it
            # a sum is finite if all its terms are, and takes a tenth of the time of each
            wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]
            usable = torch.stack([x.sum(1).isfinite() for x in wide]).all(0)
            may_look = can_look(usable.device)
            batch = [x[usable] for x in batch] if may_look else _hide(batch, usable)
        batch = [x[-self.size :] for x in batch]
        n = len(batch[0])
        self._make_room(batch)
        start = self._first + self._count
        for rows, x in zip(self._rows, batch, strict=True):
            rows[start : start + n] = x
        self._count = min(self.size, self._count + n)
        self._first = start + n - self._count

    def _held(self) -> list[Tensor]:
        return [x[self._first : self._first + self._count] for x in self._rows]

    def _make_room(self, batch: Sequence[Tensor]) -> None:
        """Behind what is held; it moves once in several steps."""
        n, room, held = len(batch[0]), 2 * self.size, self._rows or [x[:0] for x in batch]
        kinds = [torch.promote_types(x.dtype, y.dtype) for x, y in zip(held, batch, strict=True)]
        wanted = [(room, batch[0].device, kind) for kind in kinds]
        fits = wanted == [(len(x), x.device, x.dtype) for x in held]
        if fits and self._first + self._count + n <= room:
            return
        kept = [x[max(0, self._count + n - self.size) :] for x in self._held()]
        if not fits:
            with torch.inference_mode(False):  # what is made in it cannot be written to after it
                self._rows = [
                    x.new_empty(room, *x.shape[1:], dtype=kind)
                    for x, kind in zip(batch, kinds, strict=True)
                ]
        for rows, old in zip(self._rows, kept, strict=False):  # nothing is held at first
            rows[: len(old)] = old
        self._first, self._count = 0, len(kept[0]) if kept else 0

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
        self._shared = False

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse what cannot be loaded."""
        parts = [*state] if isinstance(state, Mapping) else [type(state).__name__]
        if not {"size", "kind", "rows"} <= {*parts}:
            raise InputError(
                "the saved queue must be of this version of isoreg, got "
                f"{', '.join(map(str, parts)) or 'nothing'}. {_ADVICE}"
            )
        if state["size"] != self.size:
            raise InputError(
                f"the saved queue must be of {self.size} samples, got one of {state['size']}."
            )
        if not _is_whole(**{part: state[part] for part in ("size", "kind", "rows")}):
            raise InputError(
                f"the saved queue must hold up to {self.size} samples {state['kind']!r}, got other "
                f"tensors than it says. {_ADVICE}"
            )

    def _sum(self) -> int:
        """Of the bytes of what is held, exact and so the same on every machine."""
        kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        return sum(int(x.view(kinds[x.element_size()]).sum()) for x in self._held())


_ADVICE = "Start with an empty queue: it is full again soon."


def _is_whole(size: int, kind: object, rows: object) -> bool:
    """Whether saved rows are what their description says."""
    if not isinstance(rows, list) or not all(isinstance(x, Tensor) for x in rows):
        return False
    if not rows:
        return kind == ""
    *points, labels = rows
    if not all(x.ndim == 2 for x in points) or labels.ndim not in {1, 2}:
        return False
    kinds = {_describe(points, None), _describe(points, labels)}
    return kind in kinds and len({len(x) for x in rows}) == 1 and len(labels) <= size


def _hide(batch: Sequence[Tensor], finite: Tensor) -> list[Tensor]:
    """What pairs with nobody in the place of samples that are not finite, without looking."""
    *tensors, labels = batch
    nobody = 0 if labels.is_floating_point() else IGNORED
    labels = labels.masked_fill(~finite.view(-1, *[1] * (labels.ndim - 1)), nobody)
    return [*(x.masked_fill(~finite[:, None], 0) for x in tensors), labels]


def _with_labels(tensors: Sequence[Tensor], labels: Tensor | None) -> list[Tensor]:
    """A batch; without labels all its samples are of class 0."""
    first = tensors[0]
    if labels is None:
        labels = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    return [*tensors, labels]


def _describe(tensors: Sequence[Tensor], labels: Tensor | None) -> str:
    widths = f"widths {[x.shape[1] for x in tensors]}"
    if labels is None or labels.ndim == 1:
        return f"{widths} {'without' if labels is None else 'with'} labels"
    return f"{widths} with soft labels of {labels.shape[1]} classes"
