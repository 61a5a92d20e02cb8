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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isoreg.dense import Options, dense_by_options
from isoreg.distributed import Gathered, gather_rows
from isoreg.errors import InputError
from isoreg.memory import FeatureQueue
from isoreg.share import refuse_second_derivatives, share_of_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def penalty_across(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    pair_weights: Tensor | None,
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
        pair_weights: None, or (n, N) weights of the own samples' pairs with those of all ranks.
        narrow: The types in which reference and features were given, to be sent in these.
        group: The ranks to gather over; None: this process alone.
        queue: Past samples to compare with too; this batch is added to it afterwards.

    Returns:
        (L,) penalties.

    Raises:
        InputError: If the queue cannot be used with these options.
        RankError: If the ranks disagree, or one does not answer.
    """
    if torch._C._are_functorch_transforms_active():
        raise InputError("torch.func transforms cannot be used with process_group or queue.")
    if queue is not None and not (options.fast and isinstance(options.scale, int | float)):
        weighed = "" if pair_weights is None else "; with pair_weights"
        raise InputError(
            "queue needs the Euclidean distance, a number as scale, integer labels or None, and "
            "inputs without gradient, but neither given distances nor pair weights, got "
            f"{options}{weighed}. Leave the queue or the option out."
        )
    own = [reference, *features]
    batch = _gather(own, labels, pair_weights, narrow, options, group, queue)
    everything = batch.tensors[: len(own)]
    every_label = None if labels is None else batch.tensors[len(own)]
    if every_label is not None and not every_label.is_floating_point():
        every_label = every_label.squeeze(1)
    if not options.fast:
        weights = None if pair_weights is None else batch.tensors[-1]
        return _by_all_pairs(own, everything, every_label, weights, batch, options)
    rows = len(everything[0])
    if queue is not None:
        everything, every_label = queue.extend(everything, every_label)
    return share_of_rows(own, everything, every_label, batch, options, rows=rows, group=group)


def _gather(
    own: list[Tensor],
    labels: Tensor | None,
    pair_weights: Tensor | None,
    narrow: Sequence[torch.dtype],
    options: Options,
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> Gathered:
    """Inputs, features and labels of all ranks, sent in the types in which they were given."""
    names = ["inputs", *(f"features[{index}]" for index in range(len(own) - 1))]
    sent = {name: x.detach().to(dtype) for name, x, dtype in zip(names, own, narrow, strict=True)}
    if labels is not None:
        labels = labels.to(own[0].device)
        # integers of any type are class numbers; one column, so that they travel as rows
        sent["labels"] = labels if labels.is_floating_point() else labels.long()[:, None]
    if pair_weights is not None:
        sent["pair_weights"] = pair_weights.detach()
    if group is None:
        return Gathered(list(sent.values()), slice(0, len(own[0])), 1)
    batch = gather_rows(
        sent,
        f"{options}; queue {queue}; labels {'None' if labels is None else 'given'}; "
        f"inputs {'with' if own[0].requires_grad else 'without'} gradient",
        group,
    )
    count = len(batch.tensors[0])
    tables = {"input_distances": own[0] if options.given else None, "pair_weights": pair_weights}
    for name, table in tables.items():
        if table is not None and table.shape[1] != count:
            raise InputError(
                f"{name} must have a column for each of the {count} samples of all ranks, "
                f"in the order of the ranks, got {table.shape[1]}."
            )
    return batch


def _by_all_pairs(
    own: list[Tensor],
    everything: list[Tensor],
    labels: Tensor | None,
    pair_weights: Tensor | None,
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
    return dense_by_options(reference, features, labels, options, pair_weights)


class _Scaled(torch.autograd.Function):
    """The identity, with its gradient multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        return grad_outputs[0] * ctx.factor, None
