"""Small changes of a source text that a test should notice, found in its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_TEXT = (ast.Raise, ast.JoinedStr, ast.Assert)
_UNTOUCHED = {"annotation", "returns", "decorator_list", "bases", "type_params"}
# on a processor there is no other device, and a zip of equal lengths is one with or without strict
_UNSEEN = {"device", "strict", "stacklevel", "non_blocking"}
# how a drawing looks, of which tests hold colours, words, places and sizes of figures alone
_UNSEEN |= {"alpha", "cmap", "fontsize", "frameon", "gridsize", "ha", "labelsize", "linewidth"}
_UNSEEN |= {"linewidths", "loc", "markersize", "nbins", "textcoords", "va", "xytext", "zorder"}
_DEVICES = {"cpu", "cuda", "mps"}
_LARGER = 1e4


@dataclass(frozen=True)
class Mutation:
    """A change of one place.

    Attributes:
        line: Where it begins, counted from 1.
        last: Where the changed piece ends.
        was: The lines of the place before, stripped and joined.
        becomes: The same afterwards.
        text: The whole source with the change.
        bound: Whether the place runs when the module is imported.
    """

    line: int
    last: int
    was: str
    becomes: str
    text: str
    bound: bool


def mutations(source: str) -> list[Mutation]:
    """Every change that `_changes` knows, in the order of the text."""
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:index])) for index in range(len(lines) + 1)]
    inside = _inside_functions(tree)
    found: dict[str, Mutation] = {}
    for node in _places(tree):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        for changed in _changes(node):
            whole = source.encode()
            text = (whole[:begin] + _written(changed, node).encode() + whole[end:]).decode()
            if text in found or not _parses(text):
                continue
            last = node.end_lineno or node.lineno
            was = _joined(source.splitlines()[node.lineno - 1 : last])
            extra = len(text.splitlines()) - len(source.splitlines())
            becomes = _joined(text.splitlines()[node.lineno - 1 : last + extra])
            bound = node.lineno not in inside
            found[text] = Mutation(node.lineno, last, was, becomes, text, bound)
    return sorted(found.values(), key=lambda mutation: mutation.line)


def _places(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Nodes that may change: no docstrings, annotations, imports, texts of errors, decorators."""
    if isinstance(node, (ast.Import, ast.ImportFrom, *_TEXT)):
        return
    if isinstance(node, ast.keyword) and node.arg in _UNSEEN:
        return
    if isinstance(node, (ast.expr, ast.stmt)):
        yield node
    for name, value in ast.iter_fields(node):
        if name in _UNTOUCHED or (name == "keywords" and not isinstance(node, ast.Call)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_docstring(child):
                yield from _places(child)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    new = deepcopy(node)
    if isinstance(new, ast.Compare):
        for index, operator in enumerate(new.ops):
            other = deepcopy(new)
            other.ops[index] = _COMPARE[type(operator)]()
            yield other
    elif isinstance(new, (ast.BinOp, ast.AugAssign)) and type(new.op) in _BINARY:
        if not (isinstance(new, ast.BinOp) and _is_text(new)):
            new.op = _BINARY[type(new.op)]()
            yield new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, (ast.Not, ast.USub, ast.Invert)):
        yield new.operand
    elif isinstance(new, ast.Constant):
        yield from map(ast.Constant, _values(new.value))
    elif isinstance(new, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
        yield new
    elif isinstance(new, ast.Call):
        yield from _calls(new)
    elif isinstance(new, ast.Subscript) and isinstance(new.slice, ast.Slice):
        if isinstance(new.ctx, ast.Load):
            yield new.value
    elif _is_call(new) or isinstance(new, (ast.Continue, ast.Break)):
        yield ast.Pass()
    elif isinstance(new, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
        for index, part in enumerate(new.generators):
            if part.ifs:
                other = deepcopy(new)
                other.generators[index].ifs = []
                yield other


def _calls(call: ast.Call) -> Iterator[ast.AST]:
    """A method that is not called, and each keyword left out."""
    called = call.func
    if isinstance(called, ast.Attribute) and not (_is_library(called.value) or _is_move(call)):
        yield called.value
    for index, keyword in enumerate(call.keywords):
        if keyword.arg and keyword.arg not in _UNSEEN:
            other = deepcopy(call)
            del other.keywords[index]
            yield other


def _is_move(call: ast.Call) -> bool:
    """Whether a call is ``x.cpu()`` or ``x.to(device)``, whatever the device is called."""
    if getattr(call.func, "attr", "") == "cpu":
        return True
    names = [getattr(a, "attr", getattr(a, "id", "")) for a in call.args]
    return getattr(call.func, "attr", "") == "to" and set(names) == {"device"}


def _values(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value * _LARGER if 0 < abs(value) < 0.01 else value * 2 + 0.5 * (value == 0)]
    is_name = isinstance(value, str) and value.isidentifier() and value not in _DEVICES
    return [f"{value}x"] if is_name else []


def _written(changed: ast.AST, node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(changed))
    return f"({text})" if isinstance(node, ast.expr) and not _is_atom(changed) else text


def _is_atom(node: ast.AST) -> bool:
    return isinstance(node, (ast.Constant, ast.Name, ast.Call, ast.Attribute, ast.Subscript))


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str)
        for part in ast.walk(node)
    )


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_library(node: ast.AST) -> bool:
    """Whether a dotted name is of a module, whose functions are no methods."""
    while isinstance(node, ast.Attribute):
        node = node.value
    modules = {"torch", "F", "nn", "math", "np", "dist", "self", "super", "numba", "tl", "triton"}
    return isinstance(node, ast.Name) and node.id in modules


def _inside_functions(tree: ast.AST) -> set[int]:
    """Lines of the bodies of functions."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.AsyncFunctionDef))
        for part in (node.body if isinstance(node.body, list) else [node.body])
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
