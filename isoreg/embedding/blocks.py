"""The distances of one batch, from any metric: those of all samples are never computed at once.

A block function maps the places (row numbers) of b samples to their (b, b) distances, in which NaN
marks a pair whose distance is not known.
Axes: b = batch, n = samples, d = columns.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoreg._tables import check_dense, check_distances
from isoreg.distances import METRICS, distances_by
from isoreg.embedding.cache import Compute, PairCache, sample_keys
from isoreg.errors import InputError, refuse_masked

Array: TypeAlias = NDArray[Any]
Places: TypeAlias = NDArray[np.int64]
Blocks: TypeAlias = Callable[[Places], Tensor]
CallableMetric: TypeAlias = Callable[[Array, Array], Any]

TAKES = ("rows", "indices")
NAMES = tuple(name for name in METRICS if name != "geodesic")
# The p of these metrics in torch.cdist, which needs no more memory than the (b, b) result.
_LEAN = {"manhattan": 1.0, "chebyshev": torch.inf}
_LEAF = 32  # a callable gets a batch of at most this size in one call
_TRIED, _FEW = 16, 5  # before training, a callable is tried on many samples, then on few of them

_OF_TWO = {  # what to write for a distance d between two samples
    "rows": "of two rows: metric=lambda a, b: scipy.spatial.distance.cdist(a, b, d).",
    "indices": "of two objects: metric=lambda i, j: [[d(objects[a], objects[b]) for b in j] "
    "for a in i].",
}


def resolve_blocks(
    rows: Array,
    metric: str | CallableMetric,
    *,
    takes: str = "rows",
    distances: Any = None,
    cache: str | Path | None = None,
) -> Blocks:
    """The block function of a metric. A callable metric is first tried on a few samples.

    Args:
        rows: (n, d) samples.
        metric: A name in `NAMES`, "precomputed", or a callable that takes two sets of a and b
            samples and returns their (a, b) distances.
        takes: What a callable takes: "rows" (a, d) and (b, d), or "indices" (a,) and (b,).
        distances: (n, n) distances, for "precomputed".
        cache: A file that keeps the distances of a callable.

    Returns:
        The block function.

    Raises:
        InputError: If the arguments contradict each other, or the values cannot be distances.
    """
    precomputed = isinstance(metric, str) and metric == "precomputed"
    if precomputed and distances is None:
        raise InputError("metric='precomputed' needs the table of distances: distances=...")
    if distances is not None and not precomputed:
        raise InputError(f"distances= belongs to metric='precomputed', got metric={metric!r}.")
    if takes not in TAKES:
        raise InputError(f"metric_takes must be {' or '.join(map(repr, TAKES))}, got {takes!r}.")
    if cache is not None and not callable(metric):
        raise InputError(f"cache is for a metric that is a callable, got metric={metric!r}.")
    if distances is not None:
        return _table_blocks(distances, len(rows))
    if callable(metric):
        return _callable_blocks(rows, metric, takes, cache)
    if not isinstance(metric, str) or metric not in (*NAMES, "geodesic"):
        allowed = ", ".join(map(repr, (*NAMES, "precomputed")))
        got = repr(metric) if isinstance(metric, str) else type(metric).__name__
        raise InputError(f"metric must be a callable or one of {allowed}, got {got}.")
    if metric == "geodesic":
        raise InputError(
            "geodesic distances of a batch depend on the batch: compute those of all samples with "
            "isoreg.distances.geodesic and pass metric='precomputed', distances=..."
        )
    points = torch.tensor(np.asarray(rows, dtype=np.float64))
    if metric in _LEAN:
        return lambda places: torch.cdist(points[places], points[places], p=_LEAN[metric])
    return lambda places: distances_by(METRICS[metric], points[torch.as_tensor(places)])


def as_array(values: Any, name: str) -> Array:
    """The values in numpy; a tensor narrower than float32 is widened, a masked array refused."""
    if not isinstance(values, Tensor):
        refuse_masked(values, name, "Fill them with NaN, which says that a distance is not known.")
        return np.asarray(values)
    check_dense(values, name)
    narrow = values.is_floating_point() and values.dtype.itemsize < 4
    array: Array = (values.float() if narrow else values).detach().cpu().numpy()
    return array


def _table_blocks(distances: Any, n: int) -> Blocks:
    table = as_array(distances, "distances")
    if table.shape != (n, n) or table.dtype.kind not in "iuf":
        raise InputError(
            f"distances must be real numbers of shape ({n}, {n}) for {n} samples, got "
            f"{_description(distances, table)}."
        )
    for start in range(0, n, 256):  # in parts, since the table may be larger than the memory
        rows, columns = table[start : start + 256], table[:, start : start + 256].T
        check_distances(_wide(rows), "distances", mirrored=_wide(columns), own=start)
    return lambda places: torch.as_tensor(np.array(table[np.ix_(places, places)], dtype=np.float64))


def _description(values: Any, table: Array) -> str:
    return f"{table.dtype} of shape {table.shape}" if table.ndim else type(values).__name__


def _wide(values: Array) -> Tensor:
    with np.errstate(over="ignore"):  # a longdouble may exceed the range of float64
        return torch.from_numpy(np.array(values, np.float64, order="C"))


def _callable_blocks(rows: Array, metric: CallableMetric, takes: str, cache: Any) -> Blocks:
    n, of_two = len(rows), f"A distance d {_OF_TWO[takes]}"
    try:
        inspect.signature(metric).bind(rows, rows)
    except TypeError as error:
        raise InputError(
            f"metric must take two sets of samples, got a callable for which {error}."
        ) from error
    except ValueError:  # some callables of compiled modules have no signature
        pass

    def ask(a: Places, b: Places) -> Array:
        # The places are copied, because a metric may change its arguments in place.
        got = metric(a.copy(), b.copy()) if takes == "indices" else metric(rows[a], rows[b])
        block = as_array(got, "metric's result")
        if block.shape != (len(a), len(b)) or block.dtype.kind not in "iuf":
            raise InputError(
                f"metric must map {len(a)} and {len(b)} samples to ({len(a)}, {len(b)}) real "
                f"distances, got {_description(got, block)}. {of_two}"
            )
        distances = _wide(block)
        check_distances(distances, "metric")
        return distances.numpy()

    sample = np.unique(np.linspace(0, n - 1, min(n, _TRIED)).astype(np.int64))
    try:
        table = ask(sample, sample[:-1])
    except InputError:
        raise
    # a distance that takes two single samples raises one of these
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"metric must take {len(sample)} and {len(sample) - 1} samples at once, got its error: "
            f"{error!r}. {of_two}"
        ) from error
    mirrored = ask(sample[:-1], sample)
    check_distances(torch.from_numpy(table), "metric", mirrored=torch.from_numpy(mirrored.T), own=0)
    _check_independence(ask(sample[-_FEW:], sample[:-1][:_FEW]), table[-_FEW:, :_FEW])
    if cache is None:
        return lambda places: torch.as_tensor(_symmetric(ask, places))
    name = getattr(metric, "__qualname__", type(metric).__qualname__)
    return _cached_blocks(ask, PairCache(cache, name), sample_keys(rows, places=takes == "indices"))


def _check_independence(among_few: Array, among_more: Array) -> None:
    """Refuse a metric whose distance of two samples changes with the other samples of the call."""
    gaps = np.nan_to_num(np.abs(among_few - among_more))
    if gaps.max(initial=0) > 0.01 * np.nan_to_num(among_more).max(initial=0):
        few, more = among_few.flat[gaps.argmax()], among_more.flat[gaps.argmax()]
        raise InputError(
            "metric must give two samples one distance, whichever others it is asked for, got "
            f"{few:.4g} among few and {more:.4g} among more. Compute beforehand what depends on "
            "all samples, as V of scipy's 'seuclidean'."
        )


def _symmetric(ask: Callable[[Places, Places], Array], places: Places) -> Array:
    """All distances of a batch; the callable computes little more than half of the table."""
    size = len(places)
    if size <= _LEAF:
        block = ask(places, places)
        check_distances(torch.from_numpy(block), "metric", mirrored=torch.from_numpy(block.T))
        return block
    first, second = places[: size // 2], places[size // 2 :]
    cross = ask(first, second)
    quarters = [[_symmetric(ask, first), cross], [cross.T, _symmetric(ask, second)]]
    distances: Array = np.block(quarters)
    return distances


def _cached_blocks(
    ask: Callable[[Places, Places], Array], store: PairCache, keys: list[int]
) -> Blocks:
    def block(places: Places) -> Tensor:
        table = np.zeros((len(places), len(places)))
        # The longest row comes first: the cache checks known pairs in the first rows it is given.
        for i in reversed(range(1, len(places))):
            sample, other_keys = places[i : i + 1], [keys[other] for other in places[:i]]

            def compute(missing: Places, reverse: bool, sample: Places = sample) -> Array:
                return ask(places[missing], sample).T if reverse else ask(sample, places[missing])

            def compute_both(missing: Places, reverse: bool, compute: Compute = compute) -> Array:
                row, column = compute(missing, reverse), compute(missing, not reverse)
                check_distances(torch.from_numpy(row), "metric", mirrored=torch.from_numpy(column))
                return row

            # Symmetry is checked for one sample a batch: checking all would double the cost.
            compute_row = compute_both if i == len(places) - 1 else compute
            table[i, :i] = table[:i, i] = store.row(keys[sample[0]], other_keys, compute_row)
        return torch.as_tensor(table)

    return block
