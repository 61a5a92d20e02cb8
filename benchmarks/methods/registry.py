"""The registry of methods by name, and recipes that combine them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from benchmarks.methods.step import Objective, Options, Part, Recipe

Build = Callable[..., Part]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        title: Name of the method in tables and figures.
        build: Function from the model and the options to the method's `Part`.
        family: Group of methods to which this one belongs in figures.
        grid: Settings to choose from on validation data; empty if the method is no rival.
        version: Raise it whenever the code computes something else; the runs are then made again.
    """

    title: str
    build: Build
    family: str = ""
    grid: tuple[Options, ...] = ()
    version: int = 1


METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    title: str,
    family: str = "",
    grid: tuple[Options, ...] = (),
    version: int = 1,
    **fixed: Any,
) -> Callable[[Build], Build]:
    """Register the decorated function as a method; ``fixed`` holds options that never change.

    Raises:
        ValueError: If there is another method of this name.
    """

    def register(build: Build) -> Build:
        if name in METHODS:
            raise ValueError(f"method: each has a name of its own, got {name!r} a second time")
        bound = partial(build, **fixed) if fixed else build
        METHODS[name] = Method(title, bound, family, grid, version)
        return build

    return register


def grid(name: str, *values: float, **fixed: Any) -> tuple[Options, ...]:
    """Settings that differ in one option."""
    return tuple({name: value, **fixed} for value in values)


def rivals() -> dict[str, Method]:
    """The methods that have a grid."""
    return {name: entry for name, entry in METHODS.items() if entry.grid}


def title_of(name: str) -> str:
    """The title of a method, or the name itself if no method has it."""
    return METHODS[name].title if name in METHODS else name


def versions(recipe: Recipe) -> dict[str, int]:
    """The versions of a recipe's methods, which determine a run together with the recipe."""
    return {name: METHODS[name].version for name in recipe if name in METHODS}


@contextmanager
def attach(model: nn.Module, recipe: Recipe) -> Iterator[Objective]:
    """Prepare a model for training by a recipe; afterwards the model is a plain one again.

    Raises:
        ValueError: If a name is unknown, or two methods replace cross-entropy.
    """
    if unknown := set(recipe) - set(METHODS):
        raise ValueError(f"methods are {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    with ExitStack() as stack:
        parts = []
        for name, options in recipe.items():
            part = METHODS[name].build(model, **options)
            parts.append(part)
            if part.finish:
                stack.callback(part.finish)
        yield Objective(model, parts)
