"""One autograd node for all layers, which computes the gradients together with the values.

In eager mode the node is an `autograd.Function`. While `torch.compile` traces, it is the custom
operator ``isoreg::penalty``, which does the same and costs 100 microseconds more a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from isoreg._compiled import between_graphs
from isoreg._pairs import engine
from isoreg._pairs.dense import best_scale, dense_by_options
from isoreg._pairs.options import NUMBER, Options, Scale, check_scale, savable
from isoreg._pairs.plan import Call, Total, total_weight
from isoreg.distances import euclidean, exact_dtype
from isoreg.errors import InputError
from isoreg.masks import check_label_values


class Terms(NamedTuple):
    """How the sums of a call become penalties.

    Attributes:
        scale: A number, a 0-dimensional tensor or "fit".
        reduction: "batch" or "pairs".
        ranks: Number R of ranks, by which values and gradients are multiplied.
        mean: A function that averages a tensor over the ranks; None: this process is alone.
        rows: Number of rows of all ranks together; None: the number of rows of the call.
    """

    scale: Scale
    reduction: str
    ranks: int = 1
    mean: Callable[[Tensor], Tensor] | None = None
    rows: int | None = None


def engine_penalty(call: Call, terms: Terms, leaves: Sequence[Tensor] | None = None) -> Tensor:
    """(L,) penalties of a call. Gradients go to ``leaves`` (r, d), or if None to the features."""
    scale = terms.scale if isinstance(terms.scale, Tensor) else None
    if torch.compiler.is_compiling():
        if call.rows is not None:
            return _between_graphs(call, terms, leaves)
        number = terms.scale if isinstance(terms.scale, NUMBER) else 0.0
        tables = call.inputs, call.features, call.labels, call.targets, call.weights
        options = scale, float(number), terms.reduction
        flags = _needs_grad(call.features), _is_learned(terms.scale)
        return cast("Tensor", _operator(*tables, *options, *flags)[0])
    dtype = call.features[0].dtype
    leaves = call.features if leaves is None else [x.to(dtype) for x in leaves]
    return cast("Tensor", _Node.apply(call, terms, _needs_grad(leaves), scale, *leaves))


_between_graphs = between_graphs(
    engine_penalty, "the operator of a graph compares all rows of one batch with each other"
)


def _needs_grad(leaves: Sequence[Tensor]) -> bool:
    # this is asked before the node runs, because inside the node gradients are always off
    return torch.is_grad_enabled() and any(x.requires_grad for x in leaves)


def _is_learned(scale: Scale) -> bool:
    return isinstance(scale, Tensor) and scale.requires_grad


def _compute(
    call: Call, terms: Terms, *, needs_grad: bool, learned: bool
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Penalties, their gradients by the features, and their derivatives by the scale."""
    device, scale = call.device, terms.scale
    # `penalty_across`, which sets rows, has checked labels; on accelerators `layer_penalties` does
    if call.labels is not None and call.rows is None and device.type == "cpu":
        check_label_values(call.labels)
    if learned or isinstance(scale, str):
        moments = engine.compare(call, None, 1.0, needs_grad=False).sums
    if isinstance(scale, str):
        # at the best scale, the derivative by the scale is 0, so the scale is treated as a constant
        scale = best_scale(*(terms.mean(moments) if terms.mean else moments))
    elif isinstance(scale, Tensor):
        check_scale(scale)
        scale = scale.to(device, exact_dtype(device)).expand(len(call.features))
    # A backend that reads tables may find their total weight as it goes. Until then the sums are
    # divided as with the reduction "batch"; they are corrected below.
    is_known = terms.reduction == "batch" or not call.has_tables
    total = _total(call, terms if is_known else terms._replace(reduction="batch"))
    penalties, gradients, weight = engine.compare(call, scale, total, needs_grad=needs_grad)
    if not is_known:
        guess, total = total, _total(call, terms, weight)
        penalties *= guess / total
        gradients = [x * (guess / total) for x in gradients]
    slopes = 2 * (scale * moments[1] - moments[0]) / total if learned else None
    dtype = call.features[0].dtype  # a backend may have computed in float64
    return penalties.to(dtype), [x.to(dtype) for x in gradients], slopes


def _total(call: Call, terms: Terms, weight: Total | None = None) -> Total:
    """The number by which sums are divided."""
    local = call.local
    rows = local.stop - local.start if terms.rows is None else terms.rows
    if terms.reduction == "batch":
        return max(1, rows * call.size) / terms.ranks
    if call.has_tables or terms.rows is None:
        weight = total_weight(call) if weight is None else weight
        if terms.mean is not None:
            exact = torch.as_tensor(weight, dtype=exact_dtype(call.device), device=call.device)
            weight = terms.mean(exact[None])[0] * terms.ranks
    else:
        batch = slice(call.size - rows, call.size)  # the queue's samples come before it
        weight = total_weight(Call(None, call.features, call.labels, rows=batch, past=call.past))
    if isinstance(weight, Tensor) and weight.device.type != "cpu":
        return weight.masked_fill(weight <= 0, 1) / terms.ranks
    return (float(weight) if weight > 0 else 1.0) / terms.ranks


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        terms: Terms,
        needs_grad: bool,
        scale: Tensor | None,
        *features: Tensor,
    ) -> Tensor:
        learned = _is_learned(terms.scale)
        # the penalties are not stored in ctx, because a node that holds its own output is not freed
        penalties, *ctx.result = _compute(call, terms, needs_grad=needs_grad, learned=learned)
        ctx.terms, ctx.has_rows = terms, call.rows is not None
        tables = call.inputs, call.labels, call.targets, call.weights
        saved = [scale, *tables, *features]
        if needs_grad or learned:  # without a gradient, autograd saves nothing
            saved = [x if x is None else savable(x) for x in saved]
        ctx.save_for_backward(*saved)
        return penalties

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (shares,) = grad_outputs
        if not torch.is_grad_enabled():
            if not ctx.result:
                _ = ctx.saved_tensors  # torch says that they are freed after the first pass
            gradients, slopes = ctx.result
            last = not torch.compiler.is_compiling() and _is_last_pass(shares)
            if last:
                ctx.result = []
            weighed = _weigh(gradients, slopes, shares, ctx.terms.scale, in_place=last)
            return None, None, None, *weighed
        if ctx.has_rows:
            refuse_second_derivatives()
        scale, *saved = ctx.saved_tensors
        return None, None, None, *_densely(scale, saved, ctx.terms, shares)


def _is_last_pass(shares: Tensor) -> bool:
    """Whether stored gradients are not needed after this backward pass, so may be overwritten."""
    wrapped = torch._C._functorch  # several shares at once, which cannot be multiplied in place
    if wrapped.is_functorch_wrapped_tensor(shares) or wrapped.is_legacy_batchedtensor(shares):
        return False
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def _weigh(
    gradients: list[Tensor],
    slopes: Tensor | None,
    shares: Tensor,
    scale: Any,
    *,
    in_place: bool = False,
) -> list[Tensor | None]:
    """Gradients by the scale and the features, from those that the forward pass has stored."""
    slope = None if slopes is None else (slopes * shares).sum().to(scale)
    if not gradients:
        return [slope] + [None] * len(shares)
    multiply = torch.Tensor.mul_ if in_place else torch.mul  # new memory costs more than products
    pairs = zip(gradients, shares.unbind(), strict=True)
    return [slope, *(multiply(g, share) for g, share in pairs)]


def _densely(
    scale: Tensor | None, saved: list[Any], terms: Terms, shares: Tensor
) -> list[Tensor | None]:
    """The same gradients with a graph, by the dense path: stored gradients are constants."""
    inputs, labels, targets, weights, *features = saved
    # Views, because one layer of a network is computed from another: the gradient by a layer must
    # not contain its effect through the next layer, which autograd adds itself.
    scale = None if scale is None else scale.view_as(scale)
    features = [x.view_as(x) for x in features]
    reference = inputs if targets is None else targets
    factor: Scale = terms.scale if scale is None else scale
    options = Options(euclidean, euclidean, factor, terms.reduction, targets is not None)
    penalties = dense_by_options(reference, features, labels, options, weights)
    variables = [scale, *features]
    needed = [x for x in variables if x is not None and x.requires_grad]
    gradients = iter(torch.autograd.grad(penalties, needed, shares, create_graph=True))
    return [next(gradients) if x is not None and x.requires_grad else None for x in variables]


def refuse_second_derivatives() -> None:
    """Refuse a backward pass that is to be differentiated."""
    if torch.is_grad_enabled():
        raise InputError(
            "the penalty across ranks or with a queue has no second derivatives, because they "
            "would need the other ranks' graphs, got create_graph=True."
        )


@torch.library.custom_op(
    "isoreg::penalty",
    mutates_args=(),
    schema="(Tensor? inputs, Tensor[] features, Tensor? labels, Tensor? targets, Tensor? weights, "
    "Tensor? scale, float number, str reduction, bool needs_grad, bool learned) "
    "-> (Tensor, Tensor[], Tensor)",
)
def _operator(*arguments: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    """`_Node` as an operator that `torch.compile` can put into a graph; number 0 means "fit"."""
    *tables, scale, number, reduction, needs_grad, learned = arguments
    terms = Terms(scale if scale is not None else number or "fit", reduction)
    penalties, gradients, slopes = _compute(
        Call(*tables), terms, needs_grad=needs_grad, learned=learned
    )
    if slopes is None:
        slopes = torch.zeros_like(penalties, dtype=exact_dtype(penalties.device))
    return penalties, gradients, slopes


@_operator.register_fake
def _(*arguments: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    features, needs_grad = arguments[1], arguments[-2]
    penalties = features[0].new_empty(len(features))
    slopes = torch.empty_like(penalties, dtype=exact_dtype(penalties.device))
    return penalties, [x.new_empty(x.shape) for x in features if needs_grad], slopes


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    points, features, labels, targets, weights, scale, number, reduction, _, ctx.learned = inputs
    _, gradients, slopes = output
    ctx.count, ctx.terms = len(gradients), Terms(number or "fit", reduction)
    ctx.save_for_backward(slopes, *gradients, scale, points, labels, targets, weights, *features)


def _differentiate(ctx: Any, shares: Tensor, *_: Any) -> tuple[Any, ...]:
    slopes, *tensors = ctx.saved_tensors
    scale, *saved = tensors[ctx.count :]
    if torch.is_grad_enabled():
        slope, *gradients = _densely(scale, saved, ctx.terms, shares)
    else:
        learned = slopes if ctx.learned else None
        slope, *gradients = _weigh(tensors[: ctx.count], learned, shares, scale)
    return None, gradients, None, None, None, slope, None, None, None, None


_operator.register_autograd(_differentiate, setup_context=_remember)
