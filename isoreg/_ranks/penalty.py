"""The penalty of local samples against more than the local batch: other ranks, and a queue.

B are the samples of all R ranks in this step, B_r those of rank r, and U those of B and the queue.
Rank r gets V_r: R / T times the sum of G_ij (D_ij - s d_ij)^2 over i in B_r and j in U. T is
|B| |U|, or the sum of G_ij over i in B and j in U. The gradient of V_r by the local features is R
times that of F, which `isoreg.FeatureQueue` defines. Without a queue, F is the penalty that one
process would compute for B, and the mean of V_r over the ranks is F.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isoreg._pairs.dense import dense_by_options
from isoreg._pairs.node import Terms, engine_penalty, refuse_second_derivatives
from isoreg._pairs.options import NUMBER, Options, refuse_queue
from isoreg._pairs.plan import make_call
from isoreg._pairs.precision import can_look
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
    names: Sequence[str],
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> tuple[Tensor, int]:
    """The penalties V_r of this rank, and the column of its first sample in a table."""
    # Points are gathered once. With the engine a rank computes the pairs of its own rows, without
    # it all pairs. ``narrow``: the dtypes of reference and features before the cast to float32.
    if torch._C._are_functorch_transforms_active():
        raise InputError("torch.func transforms cannot be used with process_group or queue.")
    if queue is not None and not (by_engine and isinstance(options.scale, NUMBER)):
        refuse_queue(options)
    reference_name = "input_distances" if options.given else "inputs"
    local = {reference_name: reference, **dict(zip(names, features, strict=True))}
    tables = {"input_distances": reference} if options.given else {}
    tables |= {} if pair_weights is None else {"pair_weights": pair_weights}
    points = {name: x for name, x in local.items() if name not in tables}
    kinds = dict(zip(local, narrow, strict=True))
    sent = {name: x.detach().to(kinds[name]) for name, x in points.items()}
    if labels is not None:
        labels = labels.to(features[0].device)
        # class numbers of any integer type, as one column, so that they are sent as rows
        sent["labels"] = labels if labels.is_floating_point() else labels.long()[:, None]
    sent |= {} if by_engine else tables
    batch = _gather(sent, options, reference, labels, tables, group, queue)
    rows = [batch.tensors[name] for name in points]
    _check_columns(tables, len(rows[0]), 0 if queue is None else len(queue))
    all_labels = _labels_of_all(batch)
    first = batch.local.start
    if not by_engine:
        if labels is not None and all_labels is not None and labels.requires_grad:
            all_labels = _attached(labels.to(all_labels.device), all_labels, batch)
        attached = [_attached(x, batch.tensors[name], batch) for name, x in local.items()]
        weights = batch.tensors.get("pair_weights")
        return dense_by_options(attached[0], attached[1:], all_labels, options, weights), first
    past, joined = (None, all_labels) if queue is None else queue.before(rows, all_labels)
    penalties = _by_rows([*points.values()], rows, past, joined, options, tables, batch, group)
    if queue is not None:
        # a finite penalty means that all samples are finite, but only those of this rank
        may_look = group is None and can_look(penalties.device)
        finite = may_look and bool(penalties.detach().isfinite().all())
        queue.keep(rows, all_labels, finite=finite, shared=group is not None)
    return penalties, first


def _gather(
    sent: dict[str, Tensor],
    options: Options,
    reference: Tensor,
    labels: Tensor | None,
    tables: dict[str, Tensor],
    group: ProcessGroup | None,
    queue: FeatureQueue | None,
) -> Gathered:
    if group is None:
        first = next(iter(sent.values()))
        return Gathered(sent, slice(0, len(first)), 1)
    # compared, because it decides whether a rank computes all pairs or the pairs of its own rows
    constants = [reference, *tables.values(), *([] if labels is None else [labels])]
    learned = "with" if any(x.requires_grad for x in constants) else "without"
    widths = "; ".join(f"{name} {x.shape[1]} a sample" for name, x in tables.items())
    return gather_rows(
        sent,
        f"{options}; queue {queue}; labels {'None' if labels is None else 'given'}; "
        f"inputs, tables and labels {learned} gradient; {widths or 'no tables'}",
        group,
    )


def _labels_of_all(batch: Gathered) -> Tensor | None:
    labels = batch.tensors.get("labels")
    if labels is not None:
        labels = labels if labels.is_floating_point() else labels.squeeze(1)
        if labels.device.type == "cpu":
            check_label_values(labels)
    return labels


def _check_columns(tables: dict[str, Tensor], count: int, queued: int) -> None:
    for name, table in tables.items():
        if table.shape[1] not in {count, count + queued}:
            total = count + queued
            past = f" (or {total}, with those in the queue, the oldest first)" if queued else ""
            raise InputError(
                f"{name} must have a column for each of the {count} samples of all ranks{past}, "
                f"in the order of the ranks, got {table.shape[1]}."
            )


def _by_rows(
    local: list[Tensor],
    gathered: list[Tensor],
    past: list[Tensor] | None,
    labels: Tensor | None,
    options: Options,
    tables: dict[str, Tensor],
    batch: Gathered,
    group: ProcessGroup | None,
) -> Tensor:
    """The penalties over pairs of the local rows with past samples and, behind these, the batch."""
    queued, rows = len(past[0]) if past else 0, len(gathered[0])
    place = slice(queued + batch.local.start, queued + batch.local.stop)
    # without columns for past samples, distances to these are not known, and their weights are 0
    fills = {"input_distances": math.nan, "pair_weights": 0.0}
    filled = {}
    for name, x in tables.items():
        current, earlier = x[:, :rows], x[:, rows:]
        if not earlier.shape[1]:
            earlier = x.new_full((len(x), queued), fills[name])
        filled[name] = torch.cat([earlier, current], 1)
    points = [every.to(x.dtype) for x, every in zip(local, gathered, strict=True)]
    past = past and [old.to(x.dtype) for x, old in zip(local, past, strict=True)]
    reference = filled["input_distances"] if options.given else points.pop(0)
    call = make_call(reference, points, labels, options, filled.get("pair_weights"), place, past)
    mean = None if group is None else functools.partial(mean_over_ranks, group=group)
    terms = Terms(options.scale, options.reduction, batch.ranks, mean, rows)
    return engine_penalty(call, terms, local[len(local) - len(points) :])


def _attached(local: Tensor, gathered: Tensor, batch: Gathered) -> Tensor:
    """Rows of all ranks: constants, except the local rows, whose gradient is multiplied by R."""

    def multiplied(gradient: Tensor) -> Tensor:
        refuse_second_derivatives()
        return gradient * batch.ranks

    attached = local.view_as(local)
    if attached.requires_grad:
        attached.register_hook(multiplied)
    return torch.cat([gathered[: batch.local.start], attached, gathered[batch.local.stop :]])
