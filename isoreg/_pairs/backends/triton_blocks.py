"""Value and gradient of the Euclidean penalty by Triton, without ever waiting for the GPU.

The samples are sorted by label on the device, so that the columns with which a row has pairs are a
range. A program compares a tile of rows with the columns from the least start of their ranges to
the largest end. It reads both on the device, so that no shape and no launch depends on data. No
other program writes its part of the gradient and its sums: every run gives the same bits.

Squared input distances are computed once for all layers. Squared distances of a narrow layer are
computed in the kernel that compares them; those of a wide layer are computed before, so that
programs can share the dimensions of its gradient. Rows are taken in slabs: beside the results,
memory holds a few matrices of at most `_PAIRS_AT_ONCE` numbers and a centred copy of a wide layer.

Narrow layers, and all layers in float64, subtract points directly. Wide layers multiply points,
relative to a member of their class, in full float32; pairs that are so near each other that
products lose digits are subtracted directly.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from isoreg._pairs.plan import Answer, Call, Scales, Total
from isoreg.masks import IGNORED

_TILE = 32
_CHUNK, _LEAST = 64, 16
_WARPS = 8
_NARROW = 64
"""Up to this width points are subtracted directly; not above `_CHUNK`, the most a program holds."""
_PAIRS_AT_ONCE = 1 << 24
_PROGRAMS = 512
_SHARE = 256
"""If there are fewer tiles than programs, dimensions are cut into shares of at least this many."""
_PRECISION = "ieee"
"""The precision of products; three TF32 parts ("tf32x3") would keep two bits less."""
_CAPABILITY = (8, 0)
_MODES = {"differences": 0, "products": 1, "labels": 2}


def refuses(call: Call) -> str | None:
    """Why Triton cannot serve this call; None if it can."""
    kernels = _load_kernels()
    if kernels is None:
        return "triton is not installed"
    dtype, device = call.features[0].dtype, call.features[0].device
    if dtype not in (torch.float32, torch.float64):
        return f"the Triton kernels compute in float32 or float64, not in {dtype}"
    if kernels.INTERPRETED:
        return None if device.type == "cpu" else "Triton interprets, for tensors on a CPU"
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the Triton kernels are for NVIDIA GPUs, not for {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        least, actual = (".".join(map(str, version)) for version in (_CAPABILITY, capability))
        return f"the Triton kernels need a GPU of compute capability {least}, this one has {actual}"
    return None


@torch.no_grad()
def compare(call: Call, scale: Scales, total: Total, *, needs_grad: bool) -> Answer:
    """Sums over the pairs of a call, and gradients; no value is read on the host."""
    ones = call.features[0].new_ones(len(call.features), dtype=torch.float64)
    if scale is None:
        return Answer(_compare(call, ones, ones, needs_grad=False)[0][1:], [])
    scales = ones * scale
    sums, gradients = _compare(call, scales, 4 * scales / total, needs_grad=needs_grad)
    return Answer((sums[0] / total).to(call.features[0].dtype), gradients)


@dataclass(frozen=True)
class _Order:
    """The local rows and all columns in the order of their labels, as the kernels take them."""

    rows: Tensor
    columns: Tensor
    starts: Tensor
    ends: Tensor
    origins: Tensor | None
    """(n,) for each sample the first of its class; None if all samples are one class."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.rows, self.columns, self.starts, self.ends

    @property
    def n(self) -> int:
        return len(self.columns)

    def slabs(self) -> Iterator[tuple[int, _Order]]:
        """Slabs of rows that have few enough pairs, each with the number of its first tile."""
        step = max(1, _PAIRS_AT_ONCE // (_TILE * max(1, self.n))) * _TILE
        for begin in range(0, len(self.rows), step):
            slab = slice(begin, begin + step)
            sides = self.rows[slab], self.columns, self.starts[slab], self.ends[slab]
            yield begin // _TILE, _Order(*sides, self.origins)

    def reorder(self, matrix: Tensor, local: int) -> Tensor:
        """The rows and columns of a (local, n) matrix in this order."""
        return matrix[(self.rows - local)[:, None], self.columns]


def _order(call: Call, n: int) -> _Order:
    local, positions = call.local, torch.arange(n, device=call.features[0].device)
    if call.labels is None or call.labels.is_floating_point():
        rows = positions[local]
        return _Order(rows, positions, torch.zeros_like(rows), torch.full_like(rows, n), None)
    classes = call.labels.long()
    labels, columns = classes.sort(stable=True)
    row_labels, rows = classes[local].sort(stable=True)
    rows = rows + local.start
    # the range of a sample that pairs with nobody is the sample itself, so that NaN in it is found
    ignored = row_labels == IGNORED
    places = torch.empty_like(columns).scatter_(0, columns, positions)[rows]
    starts = torch.where(ignored, places, torch.searchsorted(labels, row_labels))
    ends = torch.where(ignored, places + 1, torch.searchsorted(labels, row_labels, right=True))
    return _Order(rows, columns, starts, ends, columns[torch.searchsorted(labels, classes)])


def _compare(
    call: Call, scales: Tensor, factors: Tensor, *, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """(3, L) float64 sums of G (D - s d)^2, G D d and G d^2; gradients multiplied by factors."""
    features = [x.contiguous() for x in call.features]
    count = call.local.stop - call.local.start
    order = _order(call, len(features[0]))
    sums = factors.new_empty(len(features), -(-count // _TILE), 3)
    gradients = [x.new_empty(count, x.shape[1]) for x in features if needs_grad]
    for tile, slab in order.slabs():
        if call.inputs is None:
            assert call.targets is not None
            targets = slab.reorder(call.targets, call.local.start)
        else:
            inputs = call.inputs.contiguous()
            targets = _squares(inputs, _centred(inputs, slab), slab, _mode(inputs))
        pairs = _Pairs(slab, targets, _weights(call, slab), call, tile)
        for index, x in enumerate(features):
            into = gradients[index] if gradients else None
            _compare_layer(x, pairs, scales[index], factors[index], sums[index], into)
    return sums.sum(1).T, gradients


@dataclass(frozen=True)
class _Pairs:
    """The targets and weights that all layers share, for the rows of one slab."""

    order: _Order
    targets: Tensor
    weights: Tensor | None
    call: Call
    tile: int


def _compare_layer(
    x: Tensor, pairs: _Pairs, scale: Tensor, factor: Tensor, sums: Tensor, gradient: Tensor | None
) -> None:
    """Write a layer's sums for the tiles of the slab, and its gradient by the rows of the slab."""
    order, mode, width = pairs.order, _mode(x), x.shape[1]
    stored, centred = width > _NARROW, _centred(x, order)
    squares = _squares(x, centred, order, mode) if stored else x
    dimensions = _CHUNK if width > _LEAST else _LEAST
    chunks = 1 if gradient is None else max(1, -(-width // dimensions))
    _launch(
        "compare_kernel",
        -(-len(order.rows) // _TILE) * chunks,
        (x, centred, *order.tensors, pairs.targets, squares),
        (x if pairs.weights is None else pairs.weights, scale, factor, sums),
        (x if gradient is None else gradient, width, order.n, len(order.rows)),
        (pairs.tile, pairs.call.local.start, chunks),
        D=dimensions,
        MODE=mode,
        GIVEN=pairs.call.inputs is None,
        STORED=stored,
        WEIGHTED=pairs.weights is not None,
        GRADIENT=gradient is not None,
    )


def _squares(x: Tensor, centred: Tensor, order: _Order, mode: int) -> Tensor:
    """(rows, n) squared distances, or products of labels; undefined where there is no pair."""
    width, count, n = x.shape[1], len(order.rows), order.n
    down, across = -(-count // _TILE), -(-n // _TILE)
    splits = max(1, min(_PROGRAMS // max(1, down * across), width // _SHARE))
    share = -(-width // (splits * _CHUNK)) * _CHUNK
    out = x.new_empty(splits, count, n)
    _launch(
        "square_kernel",
        down * across * splits,
        (x, centred, *order.tensors, out, width, n, count, across, splits, share),
        D=_CHUNK // 2,
        MODE=mode,
    )
    return out[0] if splits == 1 else out.sum(0)


def _weights(call: Call, order: _Order) -> Tensor | None:
    """(rows, n) weights from soft labels and given weights; None if all pairs weigh 1."""
    weights = None
    if call.labels is not None and call.labels.is_floating_point():
        labels = call.labels.to(call.features[0].dtype).contiguous()
        weights = _squares(labels, labels, order, _MODES["labels"])
    if call.weights is not None:
        factors = order.reorder(call.weights, call.local.start)
        weights = factors if weights is None else weights.mul_(factors)
    return weights


def _mode(x: Tensor) -> int:
    wide = x.dtype == torch.float32 and x.shape[1] > _NARROW
    return _MODES["products" if wide else "differences"]


def _centred(x: Tensor, order: _Order) -> Tensor:
    """Points relative to a member of their class if products are taken, else the given points."""
    if _mode(x) != _MODES["products"]:
        return x
    return x - (x[:1] if order.origins is None else x[order.origins])


def _launch(
    kernel: str, programs: int, *arguments: tuple[Tensor | int, ...], **constants: int
) -> None:
    """Run a kernel on the device of its tensors; no other function here runs one."""
    if programs == 0:
        return
    flat = [x for group in arguments for x in group]
    device = next(x.device for x in flat if isinstance(x, Tensor))
    constants |= {"M": _TILE, "N": _TILE, "num_warps": _WARPS}
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        getattr(_load_kernels(), kernel)[(programs,)](*flat, PRECISION=_PRECISION, **constants)


@functools.cache
def _load_kernels() -> ModuleType | None:
    """`triton_kernels`, loaded when first needed; None where Triton is not installed."""
    try:
        from isoreg._pairs.backends import triton_kernels
    except ImportError:
        return None
    return triton_kernels
