"""Checks of `IsometryRegularizer`: of the model when it is built, and of each recorded batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isoreg._attach.balance import AutoBeta
from isoreg._attach.record import Record
from isoreg._graph import nodes_before
from isoreg._tables import check_dense
from isoreg.errors import InputError, RecordError
from isoreg.masks import check_shape


def check_model(model: nn.Module) -> None:
    """Refuse objects that are no model, and models whose features or gradients would be wrong."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, nn.DataParallel):
        raise InputError(
            "nn.DataParallel runs copies of the model whose features are lost. "
            "Use DistributedDataParallel, one process a device."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a model of torch.jit.script takes no hooks. Attach to the model that was scripted, "
            "and script it for use alone."
        )
    check_private(model)


def check_private(model: nn.Module) -> None:
    """Refuse models that Opacus watches, also if it was attached after the regularizer."""
    if any("autograd_grad_sample_hooks" in vars(module) for module in model.modules()):
        raise InputError(
            "a penalty on pairs cannot be trained with Opacus: one sample would change another's "
            "gradient, which voids the bound on what a sample reveals. Use one of the two."
        )


def check_parallel(model: nn.Module, features: dict[str, Tensor]) -> None:
    """Refuse plain features of a tensor-parallel model: they may be only one device's part."""
    plain = [name for name, x in features.items() if not _is_distributed(x)]
    if plain and _is_tensor_parallel(model):
        raise InputError(
            f"layer {plain[0]!r} of a tensor-parallel model gave a plain tensor, which may hold a "
            "part of the dimensions. Give that layer use_local_output=False in the plan of "
            "parallelize_module, so that it returns a DTensor, which is gathered."
        )


def whole_tensor(x: Tensor) -> Tensor:
    """Return features or a reference as one plain tensor, gathered from all devices."""
    distributed: Any = x
    return distributed.full_tensor() if _is_distributed(x) else x


def _is_distributed(x: Tensor) -> bool:
    plain = type(x) in {Tensor, nn.Parameter}
    return not plain and hasattr(x, "placements") and hasattr(x, "full_tensor")


def _is_tensor_parallel(model: nn.Module) -> bool:
    sharded = any(type(module).__name__.startswith("FSDP") for module in model.modules())
    for parameter in model.parameters():
        if _is_distributed(parameter):
            placements: Any = parameter.placements  # type: ignore[attr-defined]
            # one sharded axis is FSDP2's own, which it gathers before the forward pass
            if sum(not place.is_replicate() for place in placements) > sharded:
                return True
    return False


def check_watched(record: Record, beta: float | AutoBeta) -> None:
    """Refuse "auto" if pool= picks from a structure that a layer gave: its gradient is unseen."""
    if isinstance(beta, AutoBeta) and record.unwatched:
        raise InputError(
            f"beta='auto' cannot see the gradient of layer {record.unwatched[0]!r}, which returns "
            "no tensor but a structure that pool= picks from. Name the layer inside that makes "
            "the tensor, or give beta a number."
        )


def batch_size(features: dict[str, Tensor]) -> int:
    """Return the number of samples; refuse features that disagree on it or have no distances."""
    first, x = next(iter(features.items()))
    for name, other in features.items():
        check_dense(other, f"the features of layer {name!r}")
        if other.ndim == 0 or not other.is_floating_point():
            raise InputError(
                f"layer {name!r} must give floating features with one row a sample, got "
                f"{other.dtype} of shape {tuple(other.shape)}. See layers= and pool=."
            )
        if other.shape[0] != x.shape[0]:
            raise InputError(
                f"layers {first!r} and {name!r} gave features of {len(x)} and {len(other)} "
                "samples. All need one row a sample: see pool=."
            )
    return x.shape[0]


def check_reference(reference: Tensor, features: dict[str, Tensor], name: str = "inputs") -> None:
    """Refuse a reference without one row a sample; ``name`` is the argument that gave it."""
    if not isinstance(reference, Tensor):
        raise InputError(
            "the reference must be a tensor with one row a sample, "
            f"got {type(reference).__name__}. Convert it with torch.as_tensor."
        )
    check_dense(reference, "the reference")
    if reference.ndim == 0:
        raise InputError(
            "the reference must have a batch axis, got a 0-dimensional tensor. "
            "Say what to compare with: inputs=lambda *args, **kwargs: ..."
        )
    if not reference.is_floating_point():
        raise InputError(
            f"the reference must be floating to have distances, got {reference.dtype}. For token "
            "ids name the embedding, inputs='embedding'; for integer images convert them, "
            "inputs=lambda x: x.float()."
        )
    for layer, x in features.items():
        if x.shape[0] != reference.shape[0]:
            unit = "inputs" if name == "inputs" else "rows of the reference"
            raise InputError(
                f"layer {layer!r} gave features of shape {tuple(x.shape)} for "
                f"{len(reference)} {unit}. Both need one row a sample: see pool= and {name}=."
            )


def check_batch_labels(labels: Tensor | None, n: int) -> None:
    """Refuse labels that do not belong to the recorded batch of n."""
    if isinstance(labels, Tensor) and labels.ndim > 0 and labels.shape[0] != n:
        raise InputError(
            f"{len(labels)} labels for a recorded batch of {n}. Call it with the labels of the "
            "batch that went through the model last, or run other forward passes inside "
            "`with iso.paused():`."
        )
    if labels is not None:
        check_shape(labels, n)  # the penalty checks the values later


def check_uses(record: Record, *, paired: bool) -> None:
    """Refuse a layer that may have run on several batches, unless each use has its reference."""
    if paired:
        _check_order(record)
        return
    last_nodes: dict[str, Any] = {}
    for name, (layer, number) in record.uses.items():
        earlier, node = last_nodes.get(layer), record.nodes.get(name)
        last_nodes[layer] = node
        if number == 1:
            continue
        if node is None and record.features[name].requires_grad:
            raise RecordError(
                f"layer {layer!r} ran {number} times in a compiled pass, where it cannot be seen "
                "whether its uses depend on each other. Name a layer that runs once, or do not "
                "compile the model."
            )
        if earlier is None and node is None:
            continue  # both uses are frozen, so neither gives a gradient
        if earlier not in nodes_before(node):
            unrelated = "on inputs that do not depend on each other"
            why = unrelated if earlier else "first without gradients and then with them"
            raise RecordError(
                f"layer {layer!r} ran {number} times in one forward pass, {why}, so it is not "
                "known which samples each use belongs to. Name a layer that runs once. Or watch "
                "the inner network by a regularizer of its own, and read the penalty after each of "
                "its passes; or run the others inside `with iso.paused():`."
            )


def _check_order(record: Record) -> None:
    """Refuse a layer whose uses ran in another order than the references they are paired with."""
    for name, (_, number) in record.uses.items():
        node, sources = record.nodes.get(name), record.sources
        if node is None or number > len(sources) or any(source is None for source in sources):
            continue
        made_from = [source in nodes_before(node) for source in sources]
        if any(made_from) and not made_from[number - 1]:
            raise RecordError(
                f"{name!r} is use {number} of the layer, and was made from another use of what "
                "inputs names, so it is not known which belong together. Let both run in one order."
            )
