r"""The penalty of own samples against more than the own batch: other ranks, and a queue.

With B the samples of all ranks in this step, B_r those of rank r of R, U = B and the queue,

.. math::
    V_r = \frac{R}{T} \sum_{i \in B_r} \sum_{j \in U} G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

is what rank r gets, with T = |B| |U|, or the sum of G_ij over i in B, j in U, i != j for
``reduction="pairs"``. Its gradient by the own features is R times that of

.. math::
    F = \frac{1}{T} \Bigl( \sum_{i, j \in B} + 2 \sum_{i \in B, j \in U \setminus B} \Bigr)
        G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2,

in which the features of the queue are constants. Without a queue F is the penalty of B in one
process, the mean of V_r over the ranks is its value, and averaging gradients over the ranks, as
`DistributedDataParallel` does, gives its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from isoreg.dense import Scale, dense_penalty
from isoreg.distances import distances_by
from isoreg.distributed import Gathered, gather_rows
from isoreg.errors import InputError
from isoreg.memory import FeatureQueue
from isoreg.rows import Block, count_pairs, plan_rows, rows_and_gradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Options(NamedTuple):
    """How distances are compared; see `isoreg.isometry_penalty`.

    Attributes:
        metric: A function from (n, d) points to (n, n) distances.
        scale: A number, a 0-dimensional tensor or "fit".
        reduction: "batch" or "pairs".
        given: Whether the reference holds distances, not points.
        fast: Whether the pairs of own rows in closed form cover these options.
    """

    metric: Callable[[Tensor], Tensor]
    scale: Scale
    reduction: str
    given: bool
    fast: bool

    def __str__(self) -> str:
        scale = "a tensor" if isinstance(self.scale, Tensor) else self.scale
        metric = getattr(self.metric, "__name__", type(self.metric).__name__)
        return f"distance {metric}; scale {scale}; reduction {self.reduction}"


def penalty_across(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    *,
    narrow: Sequence[torch.dtype],
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> Tensor:
    """The penalties V_r of this rank.

    The features of all ranks are gathered once, without gradient. By the fast way this rank
    computes the pairs of its own rows; otherwise it computes those of the whole batch.

    Args:
        reference: (n, p) own inputs, or (n, N) their distances to the samples of all ranks.
        features: L tensors (n, d) of own features.
        labels: None, (n,) integers or (n, C) probabilities.
        options: How distances are compared.
        narrow: The types in which reference and features were given, to be sent in these.
        group: The ranks to gather over; None: this process alone.
        queue: Past samples to compare with too; this batch is added to it afterwards.

    Returns:
        (L,) penalties.

    Raises:
        InputError: If the queue cannot be used with these options.
        RankError: If the ranks disagree, or one does not answer.
    """
    own = [reference, *features]
    if torch._C._are_functorch_transforms_active():
        raise InputError("torch.func transforms cannot be used with process_group or queue.")
    if queue is not None and not options.fast:
        raise InputError(
            "queue needs the Euclidean distance, a number as scale, integer labels or None, and "
            f"inputs without gradient, got {options}. Leave the queue or the option out."
        )
    sent = {"inputs": reference.detach().to(narrow[0])}
    for index, (x, dtype) in enumerate(zip(features, narrow[1:], strict=True)):
        sent[f"features[{index}]"] = x.detach().to(dtype)
    batch = _gather(sent, labels, options, group, queue)
    everything = batch.tensors[: len(own)]
    every_label = None if labels is None else batch.tensors[-1]
    if every_label is not None and not every_label.is_floating_point():
        every_label = every_label.squeeze(1)
    if not options.fast:
        return _by_all_pairs(own, everything, every_label, batch, options)
    rows = len(everything[0])
    if queue is not None:
        past, past_labels = queue.recall(everything, every_label)
        now, labels_now = everything, every_label
        everything = [torch.cat(pair) for pair in zip(now, past, strict=True)]
        if labels_now is not None and past_labels is not None:
            every_label = torch.cat([labels_now, past_labels])
        queue.append(now, labels_now)  # not before its old samples are copied
    return _by_own_rows(own, everything, every_label, rows, batch, options)


def _gather(
    sent: dict[str, Tensor],
    labels: Tensor | None,
    options: Options,
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> Gathered:
    device = sent["inputs"].device
    if labels is not None:
        # integers of any type are class numbers; one column, so that they travel as rows
        labels = labels.to(device)
        sent["labels"] = labels if labels.is_floating_point() else labels.long()[:, None]
    if group is None:
        return Gathered(list(sent.values()), slice(0, len(sent["inputs"])), 1)
    held = f"; labels {'given' if labels is not None else 'None'}; queue {queue}"
    batch = gather_rows(sent, f"{options}{held}", group)
    count = len(batch.tensors[0])
    if options.given and sent["inputs"].shape[1] != count:
        raise InputError(
            f"input_distances must have a column for each of the {count} samples of all ranks, "
            f"in the order of the ranks, got {sent['inputs'].shape[1]}."
        )
    return batch


def _by_own_rows(
    own: list[Tensor],
    everything: list[Tensor],
    labels: Tensor | None,
    rows: int,
    batch: Gathered,
    options: Options,
) -> Tensor:
    n, dtype = len(everything[0]), own[0].dtype
    for x in own:
        dtype = torch.promote_types(dtype, x.dtype)
    width = max(1, *(x.shape[1] for x in own))
    blocks = plan_rows(labels, batch.own, n, device=own[0].device, width=width)
    total = rows * n if options.reduction == "batch" else count_pairs(labels, rows, n)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in own[1:])
    assert isinstance(options.scale, int | float)
    work = _Work(
        [x.to(dtype) for x in everything],
        batch.own,
        blocks,
        float(options.scale),
        max(1, total) / batch.ranks,
        wanted,
    )
    penalties: Tensor = _RowsPenalty.apply(work, *(x.to(dtype) for x in own[1:]))
    return penalties


class _Work(NamedTuple):
    points: list[Tensor]
    own: slice
    blocks: list[Block]
    scale: float
    total: float
    wanted: bool


class _RowsPenalty(torch.autograd.Function):
    """The penalties of own rows, whose gradients are computed beside them, by all that is known."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *_: Tensor) -> Tensor:
        sums, ctx.gradients = rows_and_gradients(
            work.points,
            work.own,
            work.blocks,
            scale=work.scale,
            total=work.total,
            wanted=work.wanted,
        )
        return sums

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        shares = grad_outputs[0].unbind()
        return None, *(g * share for g, share in zip(ctx.gradients, shares, strict=True))


def _by_all_pairs(
    own: list[Tensor],
    everything: list[Tensor],
    labels: Tensor | None,
    batch: Gathered,
    options: Options,
) -> Tensor:
    """The penalty of the whole batch on every rank, R times its gradient by the own rows."""
    attached: list[Tensor] = []
    for mine, x in zip(own, everything, strict=True):
        scaled = _Scaled.apply(mine, batch.ranks)
        rest = x.to(mine.dtype)
        attached.append(torch.cat([rest[: batch.own.start], scaled, rest[batch.own.stop :]]))
    reference, *features = attached
    targets_bb = reference if options.given else distances_by(options.metric, reference)
    return dense_penalty(
        targets_bb, features, labels, options.metric, options.scale, options.reduction
    )


class _Scaled(torch.autograd.Function):
    """The identity, with its gradient multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        return grad_outputs[0] * ctx.factor, None


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise InputError(
            "the penalty across ranks or with a queue has no second derivatives, because those "
            "by the features of others are not here, got create_graph=True."
        )
