"""The graph that autograd keeps."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any


def nodes_before(node: Any, ends: Container[Any] = ()) -> Iterator[Any]:
    """A node of the graph and those that it was made from, each once.

    Args:
        node: A `grad_fn`, or None, which was made from nothing.
        ends: Nodes behind which the walk does not go.

    Yields:
        The nodes.
    """
    waiting, known = [node], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        yield node
        if node not in ends:
            waiting += [before for before, _ in node.next_functions]
