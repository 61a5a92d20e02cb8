"""The record of a forward pass, and whether its backward pass is still to come."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isoreg._attach.samples import Call
from isoreg.errors import IsoregError, LayerError


class Pulse:
    """Lives as long as the graph of a forward pass, and knows whether backward went through it."""

    __slots__ = ("__weakref__", "spent")

    def __init__(self) -> None:
        self.spent = False

    def __call__(self, gradients: tuple[Tensor | None, ...]) -> None:
        # Gradients that require gradients, as in a gradient penalty, are part of a loss, whose own
        # backward pass is still to come.
        self.spent = not any(x is not None and x.requires_grad for x in gradients)


class Use(NamedTuple):
    """One use of a layer in a forward pass: the layer's name, and which use it is, from 1."""

    layer: str
    number: int


@dataclasses.dataclass
class Record:
    """What was recorded in one forward pass.

    Attributes:
        call: The tensors that may hold the samples; None if the reference is something else.
        references: What the features are compared with, a tensor for each time that it was made.
        sources: For each reference the node of the graph that made it, or None.
        time_major: Whether the model holds modules whose first axis is time.
        features: (b, d) features by layer name. A layer that ran more than once has ``name``,
            ``name:2``, ``name:3``, ...
        uses: By the same names, in the order of the forward pass, which use of a layer it is.
        nodes: By the same names, the node of the graph that made the layer's tensor.
        unwatched: Layers whose gradient should have been watched, and could not be.
        failure: Kind and text of the error that `Recorder.take` is to raise. (The error itself
            would keep the features alive through its traceback.)
        pulse: Whether the pass still waits for its backward pass; None if that cannot be told.
        earlier: The pulses of passes that came before this one and were not read.
        replaced: Whether a compiled pass came before this one and was not read.
        depth: How many references were being made when the pass began.
    """

    call: Call | None = None
    references: list[Tensor] = dataclasses.field(default_factory=list)
    sources: list[Any] = dataclasses.field(default_factory=list)
    time_major: bool = False
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    uses: dict[str, Use] = dataclasses.field(default_factory=dict)
    nodes: dict[str, Any] = dataclasses.field(default_factory=dict)
    unwatched: list[str] = dataclasses.field(default_factory=list)
    failure: tuple[type[IsoregError], str] | None = None
    pulse: weakref.ref[Pulse] | None = None
    earlier: list[weakref.ref[Pulse]] = dataclasses.field(default_factory=list)
    replaced: bool = False
    depth: int = 0

    def next_use(self, layer: str) -> str:
        """Count a use of a layer: its name for the first, then ``name:2``, ``name:3``, ..."""
        number, name = 1, layer
        while name in self.uses:
            number += 1
            name = f"{layer}:{number}"
        self.uses[name] = Use(layer, number)
        return name

    def order_by(self, layers: list[str]) -> None:
        """Put features in the order of the layers, which need not be that of a forward pass."""
        order = [(layers.index(use.layer), use.number, name) for name, use in self.uses.items()]
        self.features = {name: self.features[name] for _, _, name in sorted(order)}

    def check_axes(self, x: Tensor) -> None:
        """Refuse features or a reference whose first two axes may each be the samples."""
        if self.time_major and x.ndim == 3 and x.shape[0] == x.shape[1]:
            raise LayerError(
                f"shape {tuple(x.shape)} may hold {x.shape[0]} samples on its first axis or on its "
                "second, because the model holds a module with batch_first=False. Say which: "
                "pool=lambda output: ... for a layer, iso(labels, reference=...) for the points."
            )

    @property
    def follows_unread(self) -> bool:
        """Whether an earlier pass was not read, and still waits for its backward pass."""
        pulses = [pulse() for pulse in self.earlier]
        return self.replaced or any(p is not None and not p.spent for p in pulses)

    @property
    def is_spent(self) -> bool:
        """Whether the backward pass of this record is done."""
        pulse = None if self.pulse is None else self.pulse()
        return pulse is not None and pulse.spent

    def note_graph(self, use: str, value: Tensor) -> None:
        """Remember the node of the graph that made a tensor, and wait for its backward pass."""
        transformed, node = torch._C._are_functorch_transforms_active(), value.grad_fn
        functorch = torch._C._functorch
        while node is None and functorch.is_functorch_wrapped_tensor(value):
            value = functorch.get_unwrapped(value)
            node = value.grad_fn
        if node is not None and not transformed:
            self.nodes[use] = node
        if node is not None and self.pulse is None:
            pulse = Pulse()
            self.pulse = weakref.ref(pulse)
            node.register_prehook(pulse)


def new_record(last: Record | None) -> Record:
    """Return an empty record that knows of the unread records before it."""
    record = Record()
    if last is None:
        return record
    if torch.compiler.is_compiling():
        record.replaced = last.failure is None
    else:
        pulses = [*last.earlier, *([] if last.pulse is None else [last.pulse])]
        record.earlier = [pulse for pulse in pulses if pulse() is not None]
        record.replaced = last.replaced
    return record
