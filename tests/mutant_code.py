"""Put the code of a changed source into the functions that were made of the source as it was."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

Functions = dict[tuple[str, str, int], list[FunctionType]]


def living() -> Functions:
    """All functions there are, by file, name and first line."""
    found = defaultdict(list)
    for function in gc.get_objects():
        if type(function) is FunctionType:
            found[_place(function.__code__)].append(function)
    return found


def swaps(
    file: str, source: str, text: str, functions: Functions
) -> list[tuple[FunctionType, CodeType]] | None:
    """The living functions that a change reaches, each with its new code.

    None: it reaches something else, such as what ran at import, or a function that is compiled.
    """
    path = str(Path(file).resolve())
    before = compile(source, path, "exec", dont_inherit=True)
    after = compile(text, path, "exec", dont_inherit=True)
    changed = list(_changed(before, after))
    found = []
    for old, new in changed:
        users = _made_of(old, functions)
        if not users or old.co_freevars != new.co_freevars:
            return None
        found += [(function, new) for function in users]
        for inner, becomes in _inner(old, new):  # made before the change, as attacks by name are
            if users := _made_of(inner, functions):
                if inner.co_freevars != becomes.co_freevars:
                    return None
                found += [(function, becomes) for function in users]
    return found or (None if source != text else [])


def _made_of(code: CodeType, functions: Functions) -> list[FunctionType]:
    return [f for f in functions.get(_place(code), []) if _does(f.__code__) == _does(code)]


def _inner(before: CodeType, after: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Functions inside of a function, at any depth, that do something else."""
    for old, new in zip(_inside(before), _inside(after), strict=False):
        if _does(old) != _does(new):
            yield old, new
            yield from _inner(old, new)


def _changed(before: CodeType, after: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The outermost functions, of a module or of its classes, that do something else."""
    for old, new in zip(_inside(before), _inside(after), strict=False):
        if "__qualname__" in old.co_names and "__module__" in old.co_names:  # a class's body
            yield from _changed(old, new)
        elif _does(old) != _does(new):
            yield old, new


def _inside(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _place(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_name, code.co_firstlineno


def _does(code: CodeType) -> tuple[Any, ...]:
    """All of a code but its place in the text."""
    constants = [_does(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants
