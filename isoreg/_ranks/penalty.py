r"""The penalty of local samples against more than the local batch: other ranks, and a queue.

With B the samples of all ranks in this step, B_r those of rank r of R, U = B and the queue,

.. math::
    V_r = \frac{R}{T} \sum_{i \in B_r} \sum_{j \in U} G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2

is what rank r gets, with T = |B| |U|, or the sum of G_ij over i in B, j in U, i != j for
``reduction="pairs"``. Its gradient by the local features is R times that of

.. math::
    F = \frac{1}{T} \Bigl( \sum_{i, j \in B} + 2 \sum_{i \in B, j \in U \setminus B} \Bigr)
        G_{ij} (d(x_i, x_j) - s\, d(\phi_i, \phi_j))^2,

in which the features of the queue are constants. Without a queue F is the penalty of B in one
process, the mean of V_r over the ranks is its value, and averaging gradients over the ranks, as
`DistributedDataParallel` does, gives its gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isoreg._pairs.dense import dense_by_options
from isoreg._pairs.node import Terms, engine_penalty, refuse_second_derivatives
from isoreg._pairs.options import NUMBER, Options
from isoreg._pairs.plan import make_call
from isoreg._ranks.exchange import Gathered, gather_rows, mean_over_ranks
from isoreg.errors import InputError
from isoreg.masks import check_label_values
from isoreg.memory import FeatureQueue

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def penalty_across(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    pair_weights: Tensor | None,
    *,
    by_engine: bool,
    narrow: Sequence[torch.dtype],
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> tuple[Tensor, int]:
    """The penalties V_r of this rank, and where its samples begin among those of all ranks.

    Points of all ranks are gathered once, without gradient. By the engine this rank computes the
    pairs of its own rows; otherwise it computes those of the whole batch.

    Args:
        reference: (n, p) local inputs, or (n, m) their distances to the samples of all ranks.
        features: L tensors (n, d) of local features.
        labels: None, (n,) integers or (n, C) probabilities.
        options: How distances are compared.
        pair_weights: None, or (n, m) weights of the local samples' pairs with those of all ranks.
        by_engine: Whether the engine covers these options.
        narrow: The types in which reference and features were given, to be sent in these.
        group: The ranks to gather over; None: this process alone.
        queue: Past samples to compare with too; this batch is added to it afterwards.

    Returns:
        (L,) penalties; and the first column of the own samples in a table, counted from its end,
        because it may have columns of past samples before those of all ranks.

    Raises:
        InputError: If the queue cannot be used with these options, or a table has another size.
        RankError: If the ranks disagree, or one does not answer.
    """
    if torch._C._are_functorch_transforms_active():
        raise InputError("torch.func transforms cannot be used with process_group or queue.")
    if queue is not None and not (by_engine and isinstance(options.scale, NUMBER)):
        raise InputError(
            "queue needs the Euclidean distance, a number as scale, and inputs, distances and "
            f"labels without gradient, got {options}. Leave the queue or the option out."
        )
    tables = {"input_distances": reference} if options.given else {}
    tables |= {} if pair_weights is None else {"pair_weights": pair_weights}
    local = [*features] if options.given else [reference, *features]
    sent = _rows(local, labels, tables if not by_engine else {}, options, narrow)
    batch = _gather(sent, options, labels, tables, group, queue)
    count = len(batch.tensors[0])
    held = 0 if queue is None else len(queue)
    _check_columns(tables, count, held)
    gathered, rest = batch.tensors[: len(local)], batch.tensors[len(local) :]
    gathered_labels = None if labels is None else rest.pop(0)
    if gathered_labels is not None:
        if not gathered_labels.is_floating_point():
            gathered_labels = gathered_labels.squeeze(1)
        if gathered_labels.device.type == "cpu":
            check_label_values(gathered_labels)
    first = batch.local.start - count
    if not by_engine:
        given = dict(zip(tables, rest, strict=True))
        penalties = _by_all_pairs(
            reference, local, gathered, gathered_labels, given, batch, options
        )
        return penalties, first
    if queue is not None:
        gathered, gathered_labels = queue.extend(gathered, gathered_labels)
    penalties = _by_rows(local, gathered, gathered_labels, options, tables, batch, count, group)
    return penalties, first


def _rows(
    local: Sequence[Tensor],
    labels: Tensor | None,
    tables: dict[str, Tensor],
    options: Options,
    narrow: Sequence[torch.dtype],
) -> dict[str, Tensor]:
    """What is sent, in the types in which it was given, by what to call it in an error."""
    names = [f"features[{index}]" for index in range(len(local))]
    if not options.given:
        names = ["inputs", *names[:-1]]
    kinds = narrow[len(narrow) - len(local) :]
    sent = {name: x.detach().to(kind) for name, x, kind in zip(names, local, kinds, strict=True)}
    if labels is not None:
        labels = labels.to(local[0].device)
        # integers of any type are class numbers; one column, so that they travel as rows
        sent["labels"] = labels if labels.is_floating_point() else labels.long()[:, None]
    return sent | {name: table.detach() for name, table in tables.items()}


def _gather(
    sent: dict[str, Tensor],
    options: Options,
    labels: Tensor | None,
    tables: dict[str, Tensor],
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> Gathered:
    if group is None:
        first = next(iter(sent.values()))
        return Gathered(list(sent.values()), slice(0, len(first)), 1)
    learned = "with" if any(x.requires_grad for x in tables.values()) else "without"
    widths = "; ".join(f"{name} {x.shape[1]} a sample" for name, x in tables.items())
    return gather_rows(
        sent,
        f"{options}; queue {queue}; labels {'None' if labels is None else 'given'}; "
        f"tables {learned} gradient; {widths or 'no tables'}",
        group,
    )


def _check_columns(tables: dict[str, Tensor], count: int, held: int) -> None:
    for name, table in tables.items():
        if table.shape[1] not in {count, count + held}:
            past = (
                f" (or {count + held}, with those in the queue, the oldest first)" if held else ""
            )
            raise InputError(
                f"{name} must have a column for each of the {count} samples of all ranks{past}, "
                f"in the order of the ranks, got {table.shape[1]}."
            )


def _by_rows(
    local: list[Tensor],
    gathered: list[Tensor],
    labels: Tensor | None,
    options: Options,
    tables: dict[str, Tensor],
    batch: Gathered,
    rows: int,
    group: ProcessGroup | None,
) -> Tensor:
    """The pairs of the local rows with all: past samples, and behind them the batch."""
    held = len(gathered[0]) - rows
    place = slice(held + batch.local.start, held + batch.local.stop)
    # pairs with past samples of which nothing is said are not known, and weigh nothing
    fills = {"input_distances": math.nan, "pair_weights": 0.0}
    filled = {}
    for name, x in tables.items():
        now, past = x[:, :rows], x[:, rows:]
        if not past.shape[1]:
            past = x.new_full((len(x), held), fills[name])
        filled[name] = torch.cat([past, now], 1)
    points = [every.to(x.dtype) for x, every in zip(local, gathered, strict=True)]
    reference = filled["input_distances"] if options.given else points.pop(0)
    leaves, weights = local[len(local) - len(points) :], filled.get("pair_weights")
    call = make_call(reference, points, labels, options, weights, place)
    mean = None if group is None else functools.partial(mean_over_ranks, group=group)
    terms = Terms(options.scale, options.reduction, batch.ranks, mean, rows)
    return engine_penalty(call, terms, leaves)


def _put(local: Tensor, gathered: Tensor, where: slice) -> Tensor:
    """All rows as constants, but for the local ones."""
    rest = gathered.to(local.dtype)
    return torch.cat([rest[: where.start], local, rest[where.stop :]])


def _by_all_pairs(
    reference: Tensor,
    local: list[Tensor],
    gathered: list[Tensor],
    labels: Tensor | None,
    tables: dict[str, Tensor],
    batch: Gathered,
    options: Options,
) -> Tensor:
    """The penalty of the whole batch on every rank, R times its gradient by the local rows."""
    if options.given:
        local, gathered = [reference, *local], [tables["input_distances"], *gathered]
    attached = [
        _put(_Scaled.apply(mine, batch.ranks), x, batch.local)
        for mine, x in zip(local, gathered, strict=True)
    ]
    return dense_by_options(attached[0], attached[1:], labels, options, tables.get("pair_weights"))


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
