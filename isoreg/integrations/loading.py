"""Distances between the objects of a batch, computed in the workers of a `DataLoader`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from isoreg._tables import check_dense, check_distances
from isoreg.distances import exact_dtype
from isoreg.errors import InputError, error_prefix, refuse_masked

Pairwise = Callable[[Sequence[Any]], Any]


class PairwiseCollate:
    r"""A ``collate_fn`` that adds the distances of a batch, :math:`D_{ij} = d(o_i, o_j)`.

    Distances that are slow to compute (edit distance, dynamic time warping, transport) are then
    computed by the loader's workers while the model trains, for the N^2 pairs of a batch only.
    Hand them to `isoreg.isometry_penalty` as ``input_distances``.

    A mapping gets the distances under ``key``, a tuple or list of fields as its last entry (a named
    tuple becomes a plain one). Anything else becomes the pair (batch, distances); so does a list of
    the samples themselves, as strings give it, and all objects with ``collate=list``. A batch of
    one sample is fine, and an empty one if ``collate`` takes it.

    Args:
        pairwise: From the list of a batch's samples, as the data set returns them, to (N, N)
            distances: a tensor, an array or nested lists. `each_pair` makes this function of a
            distance between two objects. NaN means that the distance of a pair is not known. The
            function has to be picklable if the workers are spawned.
        collate: Makes a batch of the samples. It may sort their list in place or return the samples
            themselves in another order: the distances follow. Fields in any other order than the
            list's get wrong distances.
        key: Where the distances go if that batch is a mapping.

    Raises:
        InputError: While loading, if the distances are not (N, N), negative, infinite or not
            symmetric, ``pairwise`` misses a key of the samples, the batch has the key already, or
            ``collate`` replaces some samples of the list in place and moves or drops others.

    Example:
        >>> def gaps(samples):
        ...     at = torch.tensor([sample["at"] for sample in samples])
        ...     return (at[:, None] - at).abs()
        >>> PairwiseCollate(gaps)([{"at": 1.0}, {"at": 4.0}])
        {'at': tensor([1., 4.], dtype=torch.float64), 'distances': tensor([[0., 3.],
                [3., 0.]])}
    """

    def __init__(
        self,
        pairwise: Pairwise,
        *,
        collate: Callable[[list[Any]], Any] = default_collate,
        key: str = "distances",
    ) -> None:
        with error_prefix("PairwiseCollate"):
            for name, value in (("pairwise", pairwise), ("collate", collate)):
                if not callable(value):
                    raise InputError(f"{name} must be callable, got {type(value).__name__}.")
            if not isinstance(key, Hashable):
                raise InputError(f"key must be a key of a mapping, got {type(key).__name__}.")
        self.pairwise, self.collate, self.key = pairwise, collate, key

    def __call__(self, samples: list[Any]) -> Any:
        """Collate the samples and add their distances."""
        with error_prefix("PairwiseCollate"):
            distances_bb = _checked(self._between(samples), len(samples))
            before = list(samples)
            batch = self.collate(samples)
            listed = isinstance(batch, tuple | list) and _are_among(batch, [*before, *samples])
            distances_bb = _follow(distances_bb, before, batch if listed else samples)
            if isinstance(batch, Mapping):
                if self.key in batch:
                    raise InputError(
                        f"the batch must not have the key {self.key!r} already, got "
                        f"{', '.join(map(repr, batch))}. Choose another one: key=..."
                    )
                if not isinstance(batch, MutableMapping):
                    return {**batch, self.key: distances_bb}
                batch = copy.copy(batch)  # a copy keeps its type, which may have .to(device)
                batch[self.key] = distances_bb
                return batch
            if isinstance(batch, tuple | list) and not listed:
                return (*batch, distances_bb)
            return batch, distances_bb

    def _between(self, samples: list[Any]) -> Any:
        """What pairwise returns for the samples."""
        try:
            return self.pairwise(samples)
        except KeyError as error:
            if not (samples and isinstance(samples[0], Mapping)):
                raise
            raise InputError(
                f"pairwise must find its keys, got KeyError({error}) for samples with "
                f"{', '.join(map(repr, samples[0]))}. The Trainer of transformers keeps what the "
                "model does not take only with remove_unused_columns=False."
            ) from error


class each_pair:  # noqa: N801 - it is used like a function, and is a class to be picklable
    """Lift a distance between two objects to the distances of a batch, for `PairwiseCollate`.

    The distance has to be symmetric: it is computed for i < j only, and is 0 for i = j.

    Args:
        distance: From two objects to a number.
        of: From a sample of the data set to the object; by default the sample itself.

    Raises:
        InputError: If what is given is not callable; while loading, if the distance returns no
            number.

    Example:
        >>> gap = each_pair(lambda a, b: abs(a - b), of=lambda sample: sample[0])
        >>> gap([(1.0, "label"), (4.0, "label")])
        tensor([[0., 3.],
                [3., 0.]])
    """

    def __init__(
        self, distance: Callable[[Any, Any], float], *, of: Callable[[Any], Any] | None = None
    ) -> None:
        with error_prefix("each_pair"):
            for name, value in (("distance", distance), ("of", of)):
                if not callable(value) and (name, value) != ("of", None):
                    raise InputError(f"{name} must be callable, got {type(value).__name__}.")
        self.distance, self.of = distance, of

    def __call__(self, samples: Sequence[Any]) -> Tensor:
        """The distances of all pairs of samples."""
        objects = list(samples) if self.of is None else [self.of(sample) for sample in samples]
        distances_bb = torch.zeros(len(objects), len(objects), dtype=torch.float32, device="cpu")
        for i, first in enumerate(objects):
            for j in range(i):
                distances_bb[i, j] = distances_bb[j, i] = self._between(first, objects[j])
        return distances_bb

    def _between(self, first: Any, second: Any) -> float:
        value = self.distance(first, second)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"each_pair: distance must return a number, got {type(value).__name__}."
            ) from error
        if torch.finfo(torch.float32).max < number < math.inf:
            raise InputError(
                f"each_pair: distance must be one that float32 can hold, got {number:.4g}. Choose "
                "another unit."
            )
        return number


def _are_among(batch: Sequence[Any], samples: Sequence[Any]) -> bool:
    """Whether a batch holds samples as they are, in any order, rather than their fields."""
    return {id(element) for element in batch} <= {id(sample) for sample in samples}


def _follow(distances_bb: Tensor, before: list[Any], after: Sequence[Any]) -> Tensor:
    """Return the distances in the order in which ``collate`` has left the samples."""
    if [id(sample) for sample in after] == [id(sample) for sample in before]:
        return distances_bb  # returned early, since one object may stand for two samples
    place = {id(sample): at for at, sample in enumerate(before)}
    order = [place.get(id(sample), -1) for sample in after]
    if -1 not in order:
        return distances_bb[order][:, order]
    if len(order) != len(before) or any(at not in (-1, i) for i, at in enumerate(order)):
        raise InputError(
            "collate must leave it clear which sample is which, got a list in which it has "
            f"replaced {order.count(-1)} of {len(order)} samples and moved or dropped others of "
            f"{len(before)}. Make the new samples in a list of its own, after the order is final."
        )
    return distances_bb  # each sample was replaced in its place


def _plain(distances: Any) -> Any:
    """Return an array as torch takes it: contiguous, in native byte order, and of numbers."""
    if isinstance(distances, Tensor) or not hasattr(distances, "__array__"):
        return distances
    array = distances.__array__()
    kind = "=f8" if array.dtype.kind == "O" else array.dtype.newbyteorder("=")
    return array.astype(kind, order="C")


def _checked(distances: Any, n: int) -> Tensor:
    """Return the distances as a floating tensor of its own; refuse what cannot be distances."""
    refuse_masked(
        distances,
        "what pairwise returns",
        "Fill them with NaN, which says that a distance is not known.",
    )
    if isinstance(distances, Tensor):
        check_dense(distances, "what pairwise returns")
    try:  # cloned, because the callable may write each batch into the same table
        plain = _plain(distances)
        device = plain.device if isinstance(plain, Tensor) else "cpu"
        distances_bb = torch.as_tensor(plain, device=device).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(distances).__name__
        raise InputError(f"pairwise must return numbers, got {kind} ({error}).") from error
    if tuple(distances_bb.shape) != (n, n) or distances_bb.is_complex():
        raise InputError(
            f"pairwise must return ({n}, {n}) real distances for {n} samples, got "
            f"{distances_bb.dtype} of shape {tuple(distances_bb.shape)}. "
            "each_pair makes them of a distance between two objects."
        )
    if not distances_bb.is_floating_point():
        distances_bb = distances_bb.to(torch.float32)
    exact_bb = distances_bb.to(exact_dtype(distances_bb.device))
    check_distances(exact_bb, "distances", mirrored=exact_bb.T, own=0)
    return distances_bb
