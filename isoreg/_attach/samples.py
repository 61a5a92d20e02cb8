"""Finds the tensor of a call that holds the samples, or refuses to guess and lists candidates.

A candidate is a floating tensor, or images in uint8, whose name is not a label's. The choice is
made when the penalty is computed, because the labels are known then. Integers may be token ids,
which have no distances: they are never compared, but make a tensor beside them less certain.
"""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isoreg.errors import InputError

LABEL_NAMES = ("labels", "label", "label_ids", "targets", "target", "y")
"""Names under which a tensor holds labels, in the order in which they are looked for."""
_OF_ONE_TOWER = frozenset([
    *("image", "images", "img", "imgs", "video", "videos", "audio", "audios", "text", "texts"),
    *("pixel_values", "input_values", "input_features"),
])
SAMPLE_NAMES = _OF_ONE_TOWER | {
    *("x", "input", "inputs", "data", "sample", "samples", "inputs_embeds"),
}
"""Names under which a tensor holds the samples, even if another floating tensor is given too."""
_REMEDY = "Say what to compare with: inputs=lambda *args, **kwargs: <a tensor>, or reference=."


class Candidate(NamedTuple):
    """A tensor of the call: its path there, its own name, a copy of it, and a reference to it."""

    path: str
    name: str
    value: Tensor
    original: weakref.ref[Tensor] | None

    def __str__(self) -> str:
        return f"{self.path} {tuple(self.value.shape)}"


class Listed(NamedTuple):
    """A list of tensors of the call: batches, or the single samples of one batch."""

    path: str
    name: str
    entries: list[Candidate]

    def __str__(self) -> str:
        return f"{self.path}, a list of {len(self.entries)} tensors"


class Call(NamedTuple):
    """The tensors of a call that may hold the samples, as they were before the model ran.

    Attributes:
        candidates: Copies of the tensors that can be compared.
        incomparable: The tensors that cannot be compared, without labels.
    """

    candidates: list[Candidate | Listed]
    incomparable: list[Other]


class Other(NamedTuple):
    """A tensor of the call that cannot be compared: its path and kind, its own name, its shape."""

    text: str
    name: str
    shape: torch.Size | None
    dtype: torch.dtype

    def may_be_samples(self, n: int) -> bool:
        """Whether it may be token ids or categories: several integers a sample, not a mask."""
        integers = not (self.dtype.is_floating_point or self.dtype.is_complex)
        several = self.shape is not None and len(self.shape) > 1 and self.shape[0] == n
        return integers and self.dtype != torch.bool and several and not _is_mask(self.name)


def parameter_names(module: nn.Module) -> list[str]:
    """Return the argument names of a module's forward; wrappers that pass all on are looked into.

    Returns:
        The names; empty if only ``*args`` and ``**kwargs`` are declared.

    Example:
        >>> parameter_names(nn.Linear(2, 2))
        ['input']
    """
    while True:
        kinds = inspect.signature(module.forward).parameters
        names = [name for name, p in kinds.items() if p.kind < p.VAR_POSITIONAL]
        children = list(module.children())
        if names or len(children) != 1:
            return names
        module = children[0]


def read_call(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> Call:
    """Collect the tensors that may hold the samples, before the model can change them in place.

    Returns:
        The candidates, detached and copied; ``names`` are what positional arguments are called.

    Example:
        >>> images, weights = torch.ones(2, 3), torch.ones(2)
        >>> read_call((images, weights), {}, ["images", "targets"]).candidates[0].path
        'images'
    """
    candidates: list[Candidate | Listed] = []
    incomparable: list[Other] = []
    places = [names[i] if i < len(names) else f"argument {i}" for i in range(len(args))]
    for place, argument in (*zip(places, args, strict=True), *kwargs.items()):
        for path, name, value in _inside(place, place, argument):
            if name in LABEL_NAMES and name != "y":
                continue
            if isinstance(value, list):
                entries = [_candidate(f"{path}[{index}]", name, x) for index, x in enumerate(value)]
                candidates.append(Listed(path, name, entries))
            elif _comparable(value):
                candidates.append(_candidate(path, name, value))
            elif name != "y":
                shape = None if value.is_nested else value.shape
                incomparable.append(Other(f"{path} {_kind(value)}", name, shape, value.dtype))
    return Call(candidates, incomparable)


def choose_samples(call: Call, labels: Tensor | None, n: int) -> Tensor:
    """Return the tensor that holds the n samples of a call.

    Returns:
        (n, ...) floating points; if the only candidate has another length, that one.

    Example:
        >>> call = read_call((torch.ones(3, 2), torch.ones(3, 4)), {}, ["x", "noise"])
        >>> choose_samples(call, None, 3).shape
        torch.Size([3, 2])
    """
    incomparable = [x for x in call.incomparable if labels is None or x.shape != labels.shape]
    unfolded = [c for candidate in call.candidates for c in _unfold(candidate, n)]
    candidates = [c for c in unfolded if not _is_labels(c, labels)]
    choices = [c for c in candidates if len(c.value) == n] or candidates
    if len(choices) > 1 or incomparable:
        choices = [c for c in choices if not _is_mask(c.name)]
    choices = _without_y(choices)
    named = [c for c in choices if c.name in SAMPLE_NAMES]
    if len(named) == 1 and not any(_is_twin(c, named[0]) for c in choices):
        choices = named
    elif len(choices) > 1 or incomparable:  # one number a sample may be a weight, a time or a score
        choices = [c for c in choices if c.value.numel() > len(c.value)]
    if not choices or (incomparable and _looks_like(choices[0].value, labels)):
        raise InputError(_no_samples([x.text for x in incomparable] + [*map(str, call.candidates)]))
    # tokens beside images may be the samples of a second encoder
    settled = any(c.name not in _OF_ONE_TOWER for c in named)
    rivals = [] if settled else [x.text for x in incomparable if x.may_be_samples(n)]
    if len(choices) + len(rivals) > 1:
        raise InputError(
            f"the model was called with {len(choices) + len(rivals)} tensors that may hold the "
            f"samples, got {', '.join([*map(str, choices), *rivals])}. {_REMEDY}"
        )
    samples = choices[0].value
    return samples if samples.is_floating_point() else samples.float()


def _is_mask(name: str) -> bool:
    return name.endswith(("mask", "masks"))


def _unfold(candidate: Candidate | Listed, n: int) -> list[Candidate]:
    """Split a list of tensors into the batches that it holds, or stack its single samples."""
    if isinstance(candidate, Candidate):
        return [candidate]
    path, name, entries = candidate
    values = [entry.value for entry in entries]
    shapes = sorted({tuple(x.shape) for x in values})
    are_batches = all(len(x) == n for x in values)
    if len(values) != n or (are_batches and (n == 1 or len(shapes) > 1)):
        return entries
    if len(shapes) > 1:
        raise InputError(
            f"{path} is a list of {n} samples of different shapes, which have no distances, got "
            f"{', '.join(map(str, shapes))}. {_REMEDY}"
        )
    if are_batches:
        raise InputError(
            f"{path} may be {n} single samples or {n} batches of {n}, got a list of {n} tensors "
            f"of shape {shapes[0]}. {_REMEDY}"
        )
    return [Candidate(path, name, torch.stack(values), None)]


def _without_y(candidates: list[Candidate]) -> list[Candidate]:
    """Drop ``y``, which usually names labels, unless it looks like the only other tensor."""
    rest = [c for c in candidates if c.name != "y"]
    shapes = [c.value.shape for c in candidates if c.name == "y"]
    return candidates if len(rest) == 1 and rest[0].value.shape in shapes else rest or candidates


def _is_twin(candidate: Candidate, named: Candidate) -> bool:
    """Whether a candidate has the same shape under another name, like a second view."""
    alike = candidate.value.shape == named.value.shape
    several = candidate.value.numel() > len(candidate.value)  # one number a sample may be a time
    return alike and several and candidate.name not in {named.name, "y"}


def _looks_like(value: Tensor, labels: Tensor | None) -> bool:
    return labels is not None and value.dtype == labels.dtype and value.shape == labels.shape


def _is_labels(candidate: Candidate, labels: Tensor | None) -> bool:
    """Whether a tensor is the labels, or equals them; only on the CPU are values compared."""
    if labels is None or torch.compiler.is_compiling():
        return False
    if candidate.original is not None and candidate.original() is labels:
        return True
    value, on_cpu = candidate.value, labels.device.type == candidate.value.device.type == "cpu"
    return on_cpu and _looks_like(value, labels) and torch.equal(value, labels)


def _no_samples(tensors: list[str]) -> str:
    if not tensors:
        return (
            "there is no tensor to compare the features with: the model was called without one, "
            f"with labels alone, or with an object that is no container. {_REMEDY}"
        )
    return (
        "the model's inputs must be floating, and hold more than one number a sample or stand "
        f"alone, got {', '.join(tensors)}. For token ids name the embedding, inputs='embedding'; "
        "convert other integers, inputs=lambda x: x.float()."
    )


def _inside(path: str, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield path, last name and tensor (or list of tensors) of all that an argument holds."""
    if isinstance(value, Tensor):
        yield path, name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _inside(f"{path}[{key!r}]", str(key), item)
    elif isinstance(value, tuple | list):
        if hasattr(value, "_asdict"):  # a named tuple
            for key, item in value._asdict().items():
                yield from _inside(f"{path}.{key}", key, item)
        elif _may_be_samples(value):
            yield path, name, list(value)
        else:
            for index, item in enumerate(value):
                yield from _inside(f"{path}[{index}]", name, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _inside(f"{path}.{field.name}", field.name, getattr(value, field.name))


def _may_be_samples(value: Sequence[Any]) -> bool:
    tensors = [x for x in value if isinstance(x, Tensor) and _comparable(x)]
    return len(tensors) == len(value) and len({x.ndim for x in tensors}) == 1


def _comparable(x: Tensor) -> bool:
    """Whether distances between the rows of a tensor mean something."""
    # a nested tensor cannot be asked for its shape
    plain = not x.is_nested and x.layout is torch.strided and x.ndim > 0
    return plain and (x.is_floating_point() or (x.dtype == torch.uint8 and x.ndim > 2))


def _kind(x: Tensor) -> str:
    layout = "" if x.layout is torch.strided else f" {str(x.layout).removeprefix('torch.')}"
    shape = "nested" if x.is_nested else tuple(x.shape)
    return f"{str(x.dtype).removeprefix('torch.')}{layout} {shape}"


def _candidate(path: str, name: str, x: Tensor) -> Candidate:
    original = None if torch.compiler.is_compiling() else weakref.ref(x)
    # images of an attack or a margin loss require a gradient; distances between them need none
    return Candidate(path, name, x.detach().clone(), original)
