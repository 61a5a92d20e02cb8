"""The references that features are compared with, and the exchange that makes a control."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from isoreg._attach.layers import Layer, find_layers
from isoreg._attach.pooling import tensors_in
from isoreg._attach.record import Use
from isoreg.errors import InputError, IsoregError
from isoreg.masks import top_classes

Source: TypeAlias = "Layer | Teacher | Callable[..., Tensor] | None"
"""A layer, teacher or callable that gives the reference; None means the samples of the call."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode inside the block; each module's mode is put back, also after an error."""
    # a frozen module of torch.jit has no mode
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Teacher:
    """Another network, called on what the model is called with: in eval mode, without gradients.

    The mode of each of its modules is put back afterwards, also after an error.

    Example:
        >>> teacher = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9))
        >>> answer = Teacher(teacher)(torch.ones(4, 3))
        >>> answer.shape, answer.requires_grad, teacher[1].training
        (torch.Size([4, 2]), False, True)
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the one floating tensor of the network's answer."""
        with evaluating(self.module), torch.no_grad():
            answer = self.module(*args, **kwargs)
        tensors = [x for x in tensors_in(answer) if x.is_floating_point()]
        if len(tensors) != 1:
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors) or "none"
            raise InputError(
                "the network given as inputs must return one floating tensor, got "
                f"{type(answer).__name__} with {shapes}. Pick one: "
                "inputs=lambda x: teacher(x).<name>, with teacher in eval mode."
            )
        return tensors[0].detach()


def find_source(model: nn.Module, inputs: object) -> Source:
    """Return what to compare with, for the ``inputs`` that the user gave.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> find_source(model, "0").name, type(find_source(model, nn.Linear(3, 2))).__name__
        ('0', 'Teacher')
    """
    if isinstance(inputs, nn.Module) and all(inputs is not module for module in model.modules()):
        return Teacher(inputs)
    if inputs is None or (callable(inputs) and not isinstance(inputs, nn.Module)):
        return inputs
    if not isinstance(inputs, str | nn.Module):
        raise InputError(
            "inputs must be None, a layer or its name, a network or a callable, "
            f"got {type(inputs).__name__}. The points of one batch go to the call: "
            "iso(labels, reference=points)."
        )
    layers = find_layers(model, inputs)
    if len(layers) > 1:
        names = ", ".join(repr(layer.name) for layer in layers)
        raise InputError(f"inputs must name one layer, got {inputs!r}, which matches {names}.")
    return layers[0]


def named_source(source: Source) -> str | None:
    """Return the name of a reference for texts; None for the usual one, the samples."""
    if source is None:
        return None
    if isinstance(source, Layer):
        return repr(source.name)
    named = type(source.module) if isinstance(source, Teacher) else source
    return str(getattr(named, "__name__", type(named).__name__))


class Exchange:
    """Draws random permutations of a batch that map each sample to one of the same class.

    It has a generator of its own, so that a run with control and one without it draw the same
    numbers elsewhere. It never waits for a device. A compiled step draws from torch's generator.

    Example:
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> bool((labels[Exchange().permutation(labels, 4)] == labels).all())
        True
    """

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def state(self) -> Tensor:
        """The state of the generator, for a checkpoint."""
        return self._generator.get_state()

    def go_on(self, state: Tensor) -> None:
        """Continue with the generator's state of a checkpoint."""
        self._generator.set_state(state.cpu())

    def permutation(self, labels: Tensor | None, n: int) -> Tensor:
        """Draw (n,) positions on the labels' device; of probabilities (n, C) the largest counts."""
        # torch.compile cannot take a generator into a graph
        compiled = torch.compiler.is_compiling()
        generator = None if compiled else self._generator
        drawn = torch.randperm(n, generator=generator, device="cpu")
        if labels is None:
            return drawn
        classes = top_classes(labels)
        drawn = drawn.to(classes.device)
        by_class = classes.argsort(stable=True)
        shuffled = drawn[classes[drawn].argsort(stable=True)]
        return torch.empty_like(drawn).scatter_(0, by_class, shuffled)


def pair_uses(uses: Mapping[str, Use], references: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the reference of each use of a layer, by the name of the use.

    Example:
        >>> uses = {"layer": Use("layer", 1), "layer:2": Use("layer", 2)}
        >>> pair_uses(uses, [torch.zeros(1), torch.ones(1)])
        {'layer': tensor([0.]), 'layer:2': tensor([1.])}
    """
    if len(references) == 1:
        return dict.fromkeys(uses, references[0])
    counts = {use.layer: use.number for use in uses.values()}
    for layer, count in counts.items():
        if count != len(references):
            raise InputError(
                f"layer {layer!r} ran {count} times and what inputs names {len(references)} times, "
                "so it is not known which belong together. Give reference= or name another layer."
            )
    return {name: references[use.number - 1] for name, use in uses.items()}


@contextlib.contextmanager
def naming_the_source(source: Source) -> Iterator[None]:
    """Say which argument failed when a teacher or a callable cannot take the model's arguments."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        network = isinstance(source, Teacher)
        if isinstance(error, IsoregError) or (isinstance(error, RuntimeError) and not network):
            raise
        kind = "the network" if network else "the callable"
        advice = "" if not network else " A part of a teacher: inputs=lambda x: part(x).detach()."
        raise InputError(
            f"inputs: {kind} is called with what the model is called with, got {error}. Give a "
            f"callable that picks: inputs=lambda *args, **kwargs: <a tensor>.{advice}"
        ) from error
