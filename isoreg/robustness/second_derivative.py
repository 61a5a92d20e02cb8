"""Custom autograd functions whose gradient silently cannot be differentiated again."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from isoreg._graph import nodes_before

Gradients: TypeAlias = "tuple[Tensor | None, ...]"


def watch_second_derivatives(result: Tensor) -> list[str]:
    """A list into which the next backward pass writes the functions that cut a gradient's graph.

    Torch itself raises for its own functions, and for those marked by `once_differentiable`. A
    gradient of zero does not count, because it needs no graph.

    Returns:
        The list, empty as yet.
    """
    cut: list[str] = []
    for node in nodes_before(result.grad_fn):
        if isinstance(node, BackwardCFunction):
            node.register_hook(
                partial(_record_cut, cut, type(node).__name__.removesuffix("Backward"))
            )
    return cut


def _record_cut(cut: list[str], name: str, passed_on: Gradients, arrived: Gradients) -> None:
    ends = [gradient for gradient in passed_on if gradient is not None]
    begins = [gradient for gradient in arrived if gradient is not None]
    lost = any(g.requires_grad for g in begins) and not any(g.requires_grad for g in ends)
    if lost and any(bool(gradient.any()) for gradient in ends):
        cut.append(name)
