"""Walks through the graph of autograd."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any


def nodes_before(node: Any, ends: Container[Any] = ()) -> Iterator[Any]:
    """Yield a node of the graph and all nodes that it was computed from, each once.

    Args:
        node: A `grad_fn`; None has no nodes.
        ends: Nodes at which the walk ends; they are yielded too.

    Yields:
        The nodes.
    """
    waiting, visited = [node], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield node
        if node not in ends:
            waiting += [before for before, _ in node.next_functions]
