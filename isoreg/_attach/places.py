"""The watched layers of a model and their hooks, which follow modules that move in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from isoreg._attach.classifier import known_classifier
from isoreg._attach.layers import Layer, is_time_major, module_at
from isoreg.errors import RecordError

Watch: TypeAlias = Callable[[Layer, str | None], RemovableHandle]
"""Hooks a layer, whose features get this name. With None, the layer gives the reference."""


@dataclasses.dataclass
class _Place:
    """A watched layer, the name of its features, and its hook."""

    layer: Layer
    name: str | None
    handle: RemovableHandle


class Places:
    """The places at which a model is watched.

    Attributes:
        layers: The layers whose features are recorded.
        time_major: Whether modules of the model take time as the first axis.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[Layer] = []
        self.time_major = any(map(is_time_major, model.modules()))
        self._all: list[_Place] = []

    def add(self, layer: Layer, name: str | None, watch: Watch) -> None:
        """Watch one more layer."""
        self._all.append(_Place(layer, name, watch(layer, name)))
        self._list_layers()

    def clear(self) -> None:
        """Forget all modules of the model, and keep only the names of the layers."""
        self._all.clear()
        self.layers = [dataclasses.replace(layer, module=nn.Module()) for layer in self.layers]

    def follow(self, model: nn.Module, watch: Watch, *, grown: bool) -> bool:
        """Put each hook last, and let it follow a module that moved or the one that replaced it.

        Args:
            model: The model as it is now.
            watch: Hooks a layer.
            grown: Whether modules were added, so that another one may be the classifier.

        Returns:
            Whether the watched classifier was lost, so that a pass must show the present one.
        """
        strays = []
        for place in self._all:
            at_name = module_at(model, place.layer.name)
            if at_name is not place.layer.module or (grown and place.layer.at_input):
                strays.append(place)
            elif not torch.compiler.is_compiling():
                _move_last(place.handle)
        if not strays:
            return False
        if torch.compiler.is_compiling():
            raise RecordError(
                f"layer {strays[0].layer.name!r} was replaced after attaching. Call the model once "
                "uncompiled, and its place is watched."
            )
        names, is_lost = {module: name for name, module in model.named_modules()}, False
        moved = {id(place): _moved(place.layer, names, model) for place in strays}
        for place in strays:
            layer = moved[id(place)]
            if place.layer.at_input and (layer is None or grown):  # perhaps another classifier
                layer = known_classifier(model)
                if layer is None:
                    is_lost = True
                    self._drop(place)
                    continue
            module = module_at(model, place.layer.name) if layer is None else layer.module
            if module is None:
                continue  # nothing took its place; `Recorder.take` says later that it did not run
            watched = [moved.get(id(p)) or p.layer for p in self._all if p is not place]
            if place.name and any(module is other.module for other in watched):
                self._drop(place)  # it is the module of another layer now, and is watched once
                continue
            self._move(place, dataclasses.replace(layer or place.layer, module=module), watch)
        self._list_layers()
        return is_lost

    def _move(self, place: _Place, layer: Layer, watch: Watch) -> None:
        place.handle.remove()
        self.time_major = self.time_major or any(map(is_time_major, layer.module.modules()))
        place.layer, place.name = layer, place.name and layer.name
        place.handle = watch(layer, place.name)

    def _drop(self, place: _Place) -> None:
        place.handle.remove()
        self._all.remove(place)

    def _list_layers(self) -> None:
        self.layers = [place.layer for place in self._all if place.name is not None]


def _moved(layer: Layer, names: Mapping[nn.Module, str], model: nn.Module) -> Layer | None:
    """Return a layer under its module's present name; None if the module left or was wrapped."""
    name, around = names.get(layer.module), module_at(model, layer.name)
    inside = around is not None and any(inner is layer.module for inner in around.modules())
    if name is None or inside:
        return None  # a wrapper, such as an adapter, is watched in its stead
    return dataclasses.replace(layer, name=name)


def _move_last(handle: RemovableHandle) -> None:
    """Run a hook after all others, also later ones, so that it sees the output as they left it."""
    hooks = handle.hooks_dict_ref()  # None if the module is gone
    if hooks and handle.id in hooks:
        hooks.move_to_end(handle.id)
