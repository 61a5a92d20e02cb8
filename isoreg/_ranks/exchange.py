"""Ranks of a process group: which one to use, and the rows of every rank brought to all of them.

This file only communicates; `isoreg._ranks.penalty` computes the penalty from the rows.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from isoreg.errors import InputError, RankError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group: TypeAlias = "ProcessGroup | Literal['world'] | None"


def check_group(process_group: Group) -> None:
    """Refuse a value that is no process group."""
    value: object = process_group
    if value is None or value == "world":
        return
    if dist.is_available() and value == dist.GroupMember.NON_GROUP_MEMBER:
        raise InputError(
            "process_group must hold this process, got what new_group() gives to the others. "
            "Pass each process the group that it is in."
        )
    if not dist.is_available() or not isinstance(value, dist.ProcessGroup):
        raise InputError(
            f"process_group must be None, 'world' or a process group, got {value!r}. "
            "A device mesh gives one with mesh.get_group()."
        )


def resolve_group(process_group: Group) -> ProcessGroup | None:
    """The group to gather over, looked up when it is used; None where this process is alone."""
    # "world" is looked up in each call: launchers may start the group after the model is built
    check_group(process_group)
    ready = dist.is_available() and dist.is_initialized()
    if process_group is None:
        if ready and dist.get_world_size() > 1:
            _warn_of_other_ranks(dist.get_world_size())
        return None
    if isinstance(process_group, str):
        group = dist.group.WORLD if ready else None
    else:
        group = process_group
        if not torch.compiler.is_compiling():
            _check_alive(group, ready=ready)
    return group if group is not None and dist.get_world_size(group) > 1 else None


def _check_alive(group: ProcessGroup, *, ready: bool) -> None:
    try:
        alive = ready and dist.get_rank(group) >= 0
    except ValueError:  # torch no longer knows the group
        alive = False
    if not alive:
        raise InputError(
            "process_group must be a group that is still there, got one that "
            "destroy_process_group() has ended. Give the new group to the regularizer "
            "(iso.process_group = group), or 'world', which is looked up in each call."
        )


@functools.cache
def _warn_of_other_ranks(count: int) -> None:
    warnings.warn(
        f"isoreg: torch.distributed runs {count} ranks, but pairs across ranks are ignored, "
        "pass process_group='world' to compare them (or filter this warning).",
        stacklevel=4,
    )


class Gathered(NamedTuple):
    """The rows (N, d) of all ranks in rank order, the place of this rank's, and the rank count."""

    tensors: dict[str, Tensor]
    local: slice
    ranks: int


def gather_rows(tensors: Mapping[str, Tensor], options: str, group: ProcessGroup) -> Gathered:
    """Bring the rows (n, d) of every rank to all ranks, without gradient; errors use the names."""
    # There are two collectives: one of 16 bytes a rank, for batch sizes and a hash of the options,
    # and one for all rows, whatever their types. Ranks may have different numbers of rows, also 0.
    device = next(iter(tensors.values())).device
    check_device(dist.get_backend_config(group), device)
    description, local, rank = describe(tensors, options), [*tensors.values()], dist.get_rank(group)
    digest = hashlib.blake2b(description.encode(), digest_size=7).digest()
    head = torch.tensor([len(local[0]), int.from_bytes(digest, "big")], device=device)
    sizes, digests = _all_gather(head, group).view(-1, 2).T.tolist()
    if len(set(digests)) > 1:
        descriptions = [description] * len(sizes)
        dist.all_gather_object(descriptions, description, group=group)
        check_same(descriptions)
    rows = unpack(_rows_of_all(pack(local), sizes, group), local)
    by_name = dict(zip(tensors, rows, strict=True))
    return Gathered(by_name, slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), len(sizes))


def mean_over_ranks(x: Tensor, group: ProcessGroup) -> Tensor:
    """The mean of a tensor over the ranks, without gradient."""
    return _all_gather(x[None], group).mean(0)


def describe(tensors: Mapping[str, Tensor], options: str) -> str:
    """Text of everything that must be the same on every rank."""
    kinds = [f"{name} {x.dtype}, {x.shape[1]} a sample" for name, x in tensors.items()]
    return "; ".join([options, *kinds])


def check_same(descriptions: Sequence[str]) -> None:
    """Refuse ranks that disagree."""
    for rank, other in enumerate(descriptions):
        if other != descriptions[0]:
            pairs = zip(descriptions[0].split("; "), other.split("; "), strict=False)
            clash = next((pair for pair in pairs if pair[0] != pair[1]), (descriptions[0], other))
            raise RankError(
                "every rank must give the same kinds of values, "
                f"got {clash[0]!r} on rank 0 and {clash[1]!r} on rank {rank}."
            )


def check_device(backends: str, device: torch.device) -> None:
    """Refuse tensors that a group cannot move."""
    if device.type not in [backend.partition(":")[0] for backend in backends.split(",")]:
        raise InputError(
            f"the process group ({backends}) cannot move tensors on {device.type}. Move the model "
            "and its inputs there, or pass a group with a backend for both, as "
            "init_process_group('cpu:gloo,cuda:nccl') makes one."
        )


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors side by side, as bytes."""
    # bytes can be viewed only of contiguous tensors, which these copies are, even without rows
    copies = [x.detach().clone(memory_format=torch.contiguous_format) for x in tensors]
    return torch.cat([x.view(-1).view(torch.uint8).view(len(x), _width(x)) for x in copies], dim=1)


def unpack(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undo `pack`."""
    columns = rows.split([_width(x) for x in like], dim=1)
    # each column is copied, because it may start at any byte, and its type needs an aligned start
    copies = [column.clone(memory_format=torch.contiguous_format) for column in columns]
    return [
        copy.view(-1).view(x.dtype).view(len(rows), x.shape[1])
        for copy, x in zip(copies, like, strict=True)
    ]


def _width(x: Tensor) -> int:
    """Number of bytes in a row."""
    return x.shape[1] * x.element_size()


def _rows_of_all(rows: Tensor, sizes: list[int], group: ProcessGroup) -> Tensor:
    """Gather different numbers of rows: each rank pads its rows to the largest number."""
    most = max(sizes)
    if most == 0 or rows.shape[1] == 0:
        return rows.new_empty(sum(sizes), rows.shape[1])
    if len(rows) < most:
        rows = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
    gathered = _all_gather(rows, group)
    if min(sizes) == most:
        return gathered
    return torch.cat([part[:k] for part, k in zip(gathered.split(most), sizes, strict=True)])


def _all_gather(x: Tensor, group: ProcessGroup) -> Tensor:
    count = dist.get_world_size(group)
    gathered = x.new_empty(count * len(x), *x.shape[1:])
    # newer versions of PyTorch have a new name for the same function
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    try:
        gather(gathered, x, group=group)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise RankError(
            f"gathering the features of {count} ranks failed: {reason}. Every rank must compute "
            "the penalty in every step, and none may stop; a rank's own error stands in its log."
        ) from error
    return gathered
