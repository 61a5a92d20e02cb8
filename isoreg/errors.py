"""The errors that isoreg raises, each with the name of the function that the user called."""

from __future__ import annotations

import importlib
import math
import numbers
from types import ModuleType
from typing import Any


class IsoregError(Exception):
    """Base of every error that isoreg raises on purpose.

    Its text reads ``<callable>: <rule>, got <values>. <what to do>``. The callable is the public
    one that the user called: inner functions raise without a name, and `error_prefix` adds it.

    Example:
        >>> try:
        ...     import torch, isoreg
        ...     isoreg.isometry_penalty(torch.ones(3, 2), torch.ones(4, 2))
        ... except isoreg.IsoregError as error:
        ...     print(type(error).__name__)
        InputError
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self.caller: str | None = None

    def __str__(self) -> str:
        return f"{self.caller}: {self.message}" if self.caller else self.message


class InputError(IsoregError, ValueError):
    """An argument has the wrong shape, type or value.

    Example:
        >>> import torch, isoreg
        >>> isoreg.masks.partition(torch.tensor([0, 1]), [[0, 1], [1]])
        Traceback (most recent call last):
        isoreg.errors.InputError: partition: each class must stand in one group, got class 1 ...
    """


class LayerError(IsoregError, ValueError):
    """A layer cannot be found, or no distances can be measured between its outputs.

    Example:
        >>> import torch, isoreg
        >>> isoreg.IsometryRegularizer(torch.nn.Sequential(torch.nn.Linear(2, 2)), "l")
        Traceback (most recent call last):
        isoreg.errors.LayerError: IsometryRegularizer: no layer is called 'l'. ...
    """


class RecordError(IsoregError, RuntimeError):
    """The penalty was asked for when the forward pass that it needs was not recorded.

    Example:
        >>> import torch, isoreg
        >>> isoreg.IsometryRegularizer(torch.nn.Linear(2, 2))(torch.tensor([0]))
        Traceback (most recent call last):
        isoreg.errors.RecordError: IsometryRegularizer: no forward pass is recorded: ...
    """


class RankError(IsoregError, RuntimeError):
    """The ranks of a process group disagree, or one of them no longer answers.

    Example:
        >>> from isoreg._ranks.exchange import check_same
        >>> check_same(["scale 1.0", "scale 2.0"])
        Traceback (most recent call last):
        isoreg.errors.RankError: every rank must give the same kinds of values, ...
    """


class MissingExtraError(IsoregError, ImportError):
    """A package of one of isoreg's extras is not installed.

    Example:
        >>> import_extra("no_such_package", "plots")
        Traceback (most recent call last):
        isoreg.errors.MissingExtraError: no_such_package is not installed. ...
    """


class error_prefix:  # noqa: N801 - used like a function, and a class because that is faster
    """Put ``name`` in front of the message of an `IsoregError` that leaves this block.

    Blocks can be nested. The outermost wins, because it is the function that the user called.

    Args:
        name: The public callable, as the user wrote it.

    Example:
        >>> try:
        ...     with error_prefix("distances"):
        ...         raise InputError("they are none.")
        ... except InputError as error:
        ...     print(error)
        distances: they are none.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, IsoregError):
            error.caller = self.name


def check_integer(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Refuse a value that is no integer of a range.

    Args:
        name: Name of the value in errors.
        value: The value as the user gave it.
        least: The smallest integer that is allowed.
        most: The largest integer that is allowed.

    Raises:
        InputError: If the value is no such integer, or a boolean.

    Example:
        >>> check_integer("bins", 0, 1)
        Traceback (most recent call last):
        isoreg.errors.InputError: bins must be an integer of at least 1, got 0.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not least <= int(value) <= most:  # type: ignore[call-overload]
        below = "" if most == math.inf else f" and at most {most}"
        raise InputError(f"{name} must be an integer of at least {least}{below}, got {value!r}.")


def is_number(value: object) -> bool:
    """Whether a value is a real number of Python or numpy, and no boolean.

    Args:
        value: The value as the user gave it.

    Returns:
        True or False.

    Example:
        >>> is_number(2), is_number("2"), is_number(True)
        (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_positive(name: str, value: object) -> None:
    """Refuse a value that is no finite number above 0.

    Args:
        name: Name of the value in errors.
        value: The value as the user gave it.

    Raises:
        InputError: If the value is no such number, or a boolean.

    Example:
        >>> check_positive("sigma", -1)
        Traceback (most recent call last):
        isoreg.errors.InputError: sigma must be a positive number, got -1.
    """
    if not is_number(value) or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise InputError(f"{name} must be a positive number, got {value!r}.")


def check_not_negative(name: str, value: object) -> None:
    """Refuse a value that is no finite number of 0 or more.

    Args:
        name: Name of the value in errors.
        value: The value as the user gave it.

    Raises:
        InputError: If the value is no such number, or a boolean.

    Example:
        >>> check_not_negative("weight", -1)
        Traceback (most recent call last):
        isoreg.errors.InputError: weight must be a finite number >= 0, got -1.
    """
    if not is_number(value) or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise InputError(f"{name} must be a finite number >= 0, got {value!r}.")


def refuse_masked(values: Any, name: str, fill: str) -> None:
    """Refuse a numpy array with masked entries: the numbers below the mask would be used as known.

    Args:
        values: The values as the user gave them, of any type.
        name: Their name in errors.
        fill: The advice at the end of the error.

    Raises:
        InputError: If some of them are masked.

    Example:
        >>> import numpy as np
        >>> refuse_masked(np.ma.masked_equal([1, 2], 2), "y", "Write -1.")
        Traceback (most recent call last):
        isoreg.errors.InputError: y must not be masked, got 1 masked of 2 entries. Write -1.
    """
    if not any(kind.__module__.startswith("numpy.ma") for kind in type(values).__mro__):
        return  # the test is by name, because numpy may not be installed
    masked = values.size - values.count()
    if masked:
        raise InputError(
            f"{name} must not be masked, got {masked} masked of {values.size} entries. {fill}"
        )


def import_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of isoreg installs it.

    Args:
        module: Dotted name of the module to import.
        extra: The extra of isoreg that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module's package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"{package} is not installed. It comes with the extra {extra!r}: "
            f"pip install 'isoreg[{extra}]'"
        ) from error
