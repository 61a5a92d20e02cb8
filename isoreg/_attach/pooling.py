"""Pools what a layer returns to one vector a sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from isoreg.errors import InputError, LayerError

Pool: TypeAlias = str | Callable[[Any], Tensor]


def tensors_in(value: object) -> Iterator[Tensor]:
    """Return the tensors in nested tuples, lists, mappings and dataclasses, in order.

    Example:
        >>> import torch
        >>> [t.item() for t in tensors_in((None, {"logits": torch.tensor(1.0)}))]
        [1.0]
    """
    # no generator, because the oldest torch cannot compile one that is read to its end
    return iter(_leaves(value, (Tensor,)))


def first_tensor(value: object) -> Tensor | None:
    """Find the features in what a layer returns.

    Returns:
        The first of `tensors_in`, or None if there is none.

    Raises:
        LayerError: If it belongs to a PackedSequence, whose rows are steps instead of samples.

    Example:
        >>> first_tensor({"maps": torch.ones(2, 3), "mask": None}).shape
        torch.Size([2, 3])
    """
    candidates = _leaves(value, (Tensor, PackedSequence))
    if candidates and isinstance(candidates[0], PackedSequence):
        raise LayerError(
            "its features must have one row a sample, got a PackedSequence, whose rows are "
            "steps. Say what to compare: pool=lambda output: ..., or name another layer."
        )
    return candidates[0] if candidates else None


def _leaves(value: object, kinds: tuple[type, ...]) -> list[Any]:
    """Return the objects of these kinds in nested containers, in order."""
    if isinstance(value, kinds):
        return [value]
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [leaf for item in items for leaf in _leaves(item, kinds)]


class Entering(NamedTuple):
    """The arguments of a module's call, by position and by name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def features_entering(entering: Entering) -> Tensor | None:
    """Return the only floating tensor that enters, or the only one that requires a gradient.

    Returns:
        The tensor; the first tensor of any kind if none is floating; None if there is none.

    Example:
        >>> import torch
        >>> features_entering(Entering((torch.ones(2, 3), torch.tensor([0, 1])), {})).shape
        torch.Size([2, 3])
    """
    tensors = list(tensors_in(entering))
    floating = [x for x in tensors if x.is_floating_point()]
    if len(floating) < 2:
        candidates = floating or tensors
        return candidates[0] if candidates else None
    learned = [x for x in floating if x.requires_grad] or floating
    if len(learned) < 2:
        return learned[0]
    shapes = ", ".join([str(tuple(x.shape)) for x in learned if not x.is_nested])
    raise LayerError(
        f"{len(learned)} tensors enter it that may be the features, got {shapes}. Name the layer "
        "that makes those to be compared: layers=..."
    )


def pool_flatten(features: Tensor) -> Tensor:
    """Flatten (b, ...) features to (b, d): all axes after the batch axis become one."""
    return features.flatten(1) if features.ndim > 1 else features


def pool_mean(features: Tensor) -> Tensor:
    """Average maps (b, channels, height, width, ...) over space, and tokens (b, n, d) over n."""
    if features.ndim > 3:
        return features.flatten(2).mean(2)
    return features.mean(1) if features.ndim == 3 else features


def pool_mean_last(features: Tensor) -> Tensor:
    """Average maps with channels last (b, ..., channels), such as Swin's, over space."""
    return features.flatten(1, -2).mean(1) if features.ndim > 2 else features


def pool_token(features: Tensor) -> Tensor:
    """Take the first of tokens (b, n, d), which is the class token of a transformer."""
    if features.ndim != 3:
        raise LayerError(
            "pool='token' needs features of shape (batch, tokens, width), "
            f"got {tuple(features.shape)}."
        )
    return features[:, 0]


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": pool_flatten,
    "mean": pool_mean,
    "mean_last": pool_mean_last,
    "token": pool_token,
}


@dataclasses.dataclass(frozen=True)
class FirstTensor:
    """Applies a pooling of `POOLS`, which has a name, to the first tensor of what a layer returns.

    Example:
        >>> import torch
        >>> FirstTensor(pool_flatten)({"maps": torch.ones(2, 3, 4)}).shape
        torch.Size([2, 12])
    """

    pool: Callable[[Tensor], Tensor]
    name: str = "flatten"

    def __call__(self, value: object) -> Tensor | None:
        """The pooled first tensor, or None if there is none."""
        tensor = first_tensor(value)
        if tensor is None:
            return None
        return tensor if tensor.is_nested else self.pool(tensor)  # refused later, by batch_size


def resolve_pool(pool: Pool) -> Callable[[Any], Tensor | None]:
    """Return the function that pools what a layer returns, given itself or a name in `POOLS`.

    Example:
        >>> import torch
        >>> resolve_pool("mean")((torch.ones(2, 5, 3), None)).shape
        torch.Size([2, 3])
    """
    if not isinstance(pool, str) and callable(pool):
        return pool
    if not isinstance(pool, str) or pool not in POOLS:
        allowed = ", ".join(map(repr, POOLS))
        raise InputError(
            f"pool must be a callable or one of {allowed}, for all layers, got {pool!r}."
        )
    return FirstTensor(POOLS[pool], pool)


def pooled(pool: Callable[[Any], Tensor | None], value: Any) -> Tensor | None:
    """Return what a pooling makes of a layer's output, also inside a checkpoint.

    Example:
        >>> import torch
        >>> pooled(lambda output: output.mean(1), torch.ones(2, 3)).shape
        torch.Size([2])
    """
    transformed = torch._C._are_functorch_transforms_active()
    if isinstance(pool, FirstTensor) or torch.compiler.is_compiling() or transformed:
        return pool(value)
    # A checkpoint around the layer counts the tensors saved for backward, and expects as many when
    # it computes the layer once more. The callable does not run then: its tensors must not count.
    with torch.autograd.graph.saved_tensors_hooks(_identity, _identity):
        return pool(value)


def _identity(x: Tensor) -> Tensor:
    return x
