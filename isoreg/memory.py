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
    r"""The last samples that were compared: their inputs, features and labels, without gradient.

    A batch B is compared with itself and with the queue Q. Training then minimises

    .. math::
        F = \frac{1}{T} \Bigl( \sum_{i, j \in B} + 2 \sum_{i \in B, j \in Q} \Bigr)
            G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

    by the features of B only. The features of Q are constants: older weights computed them when
    their samples were last seen. T = \|B\| (\|B\| + \|Q\|), or with ``reduction="pairs"`` the sum
    of G_ij over i in B, j in B and Q, i != j. The returned value counts each pair of B and Q once,
    so it estimates the penalty of a batch of \|B\| + \|Q\| samples, and the gradient estimates the
    gradient of such a batch. Afterwards B takes the place of the oldest samples. Samples that are
    not finite are left out; on an accelerator, where finding them would wait for the device, they
    are kept but pair with nobody.

    Across ranks, B is the batch of all ranks, and each rank holds the queue that a single process
    would hold. Ranks whose queues differ (each filled its own, or one lost a step) are refused. A
    loaded state must be the same on all ranks.

    A queue needs the Euclidean distance on both sides, a number as scale, and inputs, given
    distances and labels without gradient. There are no second derivatives. If distances or weights
    of pairs are given, pairs with past samples for which they are not given do not count.

    The queue stores inputs and features of each sample, and old features lag behind the weights:
    keep it to the last few hundred steps, or fewer while the learning rate is high.

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
        self.size = int(size)  # torch.load refuses numpy's numbers
        self.clear()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"FeatureQueue({self.size})"

    def __str__(self) -> str:
        content = "" if self._shared else f", whose bytes add up to {self._sum()}"
        return f"of {self.size}, {self._count} held{content}"

    def __copy__(self) -> FeatureQueue:
        return copy.deepcopy(self)  # a shallow copy would write into the same memory

    def clear(self) -> None:
        """Forget all samples."""
        self._first = self._count = 0
        self._rows: list[Tensor] = []
        self._kind = ""
        self._layers: list[str] = []  # of the held features, in their order; empty: not known
        self._loaded = False  # whether the held samples are of another run
        self._shared = True  # whether all ranks are known to hold the same samples

    def hold_layers(self, names: Sequence[str]) -> None:
        """Put held features into the order of these layers.

        Those of other layers are refused if they were loaded, and forgotten if a module has moved.
        """
        names = bare_names(names)
        held = self._layers or names
        if sorted(held) != sorted(names):
            if self._loaded:
                raise InputError(
                    f"the loaded queue must hold features of the layers {names}, got those of "
                    f"{held}. Watch the same layers, or do not load it. {_ADVICE}"
                )
            self.clear()
            held = names
        if self._rows and held != names:
            *points, labels = self._rows
            first = len(points) - len(held)  # inputs, if there are any, come before the features
            ordered = points[:first] + [points[first + held.index(name)] for name in names]
            self._kind = self._kind.replace(_widths(points), _widths(ordered))
            self._rows = [*ordered, labels]
        self._layers = names

    def before(
        self, tensors: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """The held inputs and features, oldest first, and the held labels followed by a batch's.

        Inputs and features of the batch are (n, d), without graph; labels are (n,) int64, (n, C)
        floating, or None for one class.

        Returns:
            Held inputs and features, and the labels of queue and batch.
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
        self._shared = False  # until `keep` sets it, because a rank may fail before that
        return points, torch.cat([old_labels, batch[-1]])

    def keep(
        self,
        tensors: Sequence[Tensor],
        labels: Tensor | None,
        *,
        finite: bool,
        shared: bool = False,
    ) -> None:
        """Let a batch, as in `before`, take the place of the oldest samples.

        ``finite``: all its samples are known to be finite. ``shared``: all ranks keep the same
        batch, and held the same samples before.
        """
        self._loaded, self._shared = False, shared
        self._kind, batch = _describe(tensors, labels), _with_labels(tensors, labels)
        if not finite:  # a step that overflowed must not spoil the steps after it
            # 0 times a number is 0 if it is finite, else NaN: a tenth of the time of x.isfinite()
            usable = torch.stack([(0 * x).sum(1) == 0 for x in tensors]).all(0)
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
        """Make room for a batch behind the held samples, which move only once in several steps."""
        room, end = 2 * self.size, self._first + self._count
        new_end = end + len(batch[0])
        held = self._rows or [x[:0] for x in batch]
        kinds = [torch.promote_types(x.dtype, y.dtype) for x, y in zip(held, batch, strict=True)]
        needed = [(room, batch[0].device, kind) for kind in kinds]
        if needed != [(len(x), x.device, x.dtype) for x in held]:
            with torch.inference_mode(False):  # tensors of inference mode stay read-only
                self._rows = [
                    x.new_empty(room, *x.shape[1:], dtype=kind)
                    for x, kind in zip(batch, kinds, strict=True)
                ]
        elif new_end <= room:
            return
        start = max(self._first, new_end - self.size)
        for rows, old in zip(self._rows, held, strict=True):
            rows[: end - start] = old[start:end]
        self._first, self._count = 0, end - start

    def state_dict(self) -> dict[str, Any]:
        """A copy of the held samples, for `torch.save`.

        Returns:
            Tensors, numbers and text.
        """
        rows = [x.clone() for x in self._held()]
        layers = [*self._layers]
        return {"size": self.size, "kind": self._kind, "rows": rows, "layers": layers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the held samples by those that another queue held.

        Args:
            state: What `state_dict` of that queue returned.

        Raises:
            InputError: If that queue was of another size or saved by an older version, or if the
                state is damaged.
        """
        self.check_state_dict(state)
        self.clear()
        self._kind, self._layers = state["kind"], [*state.get("layers", ())]
        with torch.inference_mode(False):
            self._rows = [x.clone() for x in state["rows"]]
        self._count = len(self._rows[0]) if self._rows else 0
        self._loaded, self._shared = True, False

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse a state that cannot be loaded."""
        keys = [*state] if isinstance(state, Mapping) else [type(state).__name__]
        if not {"size", "kind", "rows"} <= {*keys}:
            raise InputError(
                "the saved queue must be of this version of isoreg, got "
                f"{', '.join(map(str, keys)) or 'nothing'}. {_ADVICE}"
            )
        if state["size"] != self.size:
            raise InputError(
                f"the saved queue must be of {self.size} samples, got one of {state['size']}."
            )
        layers = state.get("layers", [])  # states of earlier versions lack them
        if not _is_whole(self.size, state["kind"], state["rows"], layers):
            raise InputError(
                f"the saved queue must hold up to {self.size} samples {state['kind']!r}, got other "
                f"tensors than it says. {_ADVICE}"
            )

    def _sum(self) -> int:
        """Sum of the held numbers, read as integers: exact, and so the same on every machine."""
        kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        return sum(int(x.view(kinds[x.element_size()]).sum()) for x in self._held())


_ADVICE = "Start with an empty queue: it is full again soon."


def bare_names(names: Sequence[str]) -> list[str]:
    """Names of layers as they are in a model without wrappers, which a later run may lack.

    Args:
        names: The names.

    Returns:
        The same names without those of wrappers; as they are if two would then be equal.

    Example:
        >>> bare_names(["_orig_mod.head"])
        ['head']
    """
    wrappers = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
    bare = [".".join(part for part in x.split(".") if part not in wrappers) for x in names]
    return bare if len({*bare}) == len(bare) else [*names]


def _is_whole(size: int, kind: object, rows: object, layers: object) -> bool:
    """Whether saved rows are what their description says."""
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        return False
    if not isinstance(rows, list) or not all(isinstance(x, Tensor) for x in rows):
        return False
    if not rows:
        return kind == ""
    *points, labels = rows
    if (
        len(layers) > len(points)
        or not all(x.ndim == 2 for x in points)
        or labels.ndim not in {1, 2}
    ):
        return False
    kinds = {_describe(points, None), _describe(points, labels)}
    return kind in kinds and len({len(x) for x in rows}) == 1 and len(labels) <= size


def _hide(batch: Sequence[Tensor], finite: Tensor) -> list[Tensor]:
    """The batch, where samples that are not finite become 0 without pairs; no value is read."""
    *tensors, labels = batch
    nobody = 0 if labels.is_floating_point() else IGNORED
    labels = labels.masked_fill(~finite.view(-1, *[1] * (labels.ndim - 1)), nobody)
    return [*(x.masked_fill(~finite[:, None], 0) for x in tensors), labels]


def _with_labels(tensors: Sequence[Tensor], labels: Tensor | None) -> list[Tensor]:
    """The tensors and labels of a batch; without labels, all samples are of class 0."""
    first = tensors[0]
    if labels is None:
        labels = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    return [*tensors, labels]


def _widths(tensors: Sequence[Tensor]) -> str:
    return f"widths {[x.shape[1] for x in tensors]}"


def _describe(tensors: Sequence[Tensor], labels: Tensor | None) -> str:
    widths = _widths(tensors)
    if labels is None or labels.ndim == 1:
        return f"{widths} {'without' if labels is None else 'with'} labels"
    return f"{widths} with soft labels of {labels.shape[1]} classes"
