"""What `IsometryRegularizer` refuses: when it is built, and of each recorded batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from isoreg.balance import AutoBeta
from isoreg.errors import InputError
from isoreg.layers import Layer, find_layers
from isoreg.masks import check_labels
from isoreg.recorder import Record


def check_model(model: nn.Module) -> None:
    """Refuse what is no model, and copies of one whose features are lost.

    Args:
        model: What the user gave.

    Raises:
        InputError: If it cannot be watched.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, nn.DataParallel):
        raise InputError(
            "nn.DataParallel runs copies of the model whose features are lost. "
            "Use DistributedDataParallel, one process a device."
        )


def find_reference(
    model: nn.Module, inputs: str | nn.Module | Callable[..., Tensor] | None
) -> Layer | Callable[..., Tensor] | None:
    """What `Recorder` is to compare with.

    Args:
        model: The model.
        inputs: What the user gave: None, a layer or its name, or a callable.

    Returns:
        None, the one layer, or the callable.

    Raises:
        InputError: If it is none of them, or names several layers.
        LayerError: If there is no such layer.
    """
    own = isinstance(inputs, nn.Module) and any(inputs is module for module in model.modules())
    if inputs is None or (callable(inputs) and not own):
        return inputs
    if not isinstance(inputs, str | nn.Module):
        raise InputError(f"inputs must be None, a name or a callable, got {inputs!r}.")
    layers = find_layers(model, inputs)
    if len(layers) > 1:
        names = ", ".join(repr(layer.name) for layer in layers)
        raise InputError(f"inputs must name one layer, got {inputs!r}, which matches {names}.")
    return layers[0]


def check_watched(record: Record, beta: float | AutoBeta) -> None:
    """Refuse "auto" where the loss's gradient cannot be seen.

    Args:
        record: Of the batch.
        beta: A number or an `AutoBeta`.

    Raises:
        InputError: If a layer returned a structure that a callable picks from.
    """
    if isinstance(beta, AutoBeta) and record.unwatched:
        raise InputError(
            f"beta='auto' cannot see the gradient of layer {record.unwatched[0]!r}, which returns "
            "no tensor but a structure that pool= picks from. Name the layer inside that makes "
            "the tensor, or give beta a number."
        )


def batch_size(record: Record) -> int:
    """Size of the recorded batch, once inputs and features agree on it.

    Args:
        record: Of the batch.

    Returns:
        The number of samples.

    Raises:
        InputError: If they do not agree, or the inputs have no distances.
    """
    inputs = record.reference
    if inputs is None or inputs.ndim == 0:
        raise InputError(
            "the model's inputs must have a batch axis, got a 0-dimensional tensor. "
            "Say what to compare with: inputs=lambda *args, **kwargs: ..."
        )
    if not inputs.is_floating_point():
        raise InputError(
            f"the model's inputs must be floating to have distances, got {inputs.dtype}. For token "
            "ids name the embedding, inputs='embedding'; for integer images convert them, "
            "inputs=lambda x: x.float()."
        )
    for name, features in record.features.items():
        if features.ndim == 0 or len(features) != len(inputs):
            raise InputError(
                f"layer {name!r} gave features of shape {tuple(features.shape)} for "
                f"{len(inputs)} inputs. Both need one row a sample: see pool= and inputs=."
            )
    return len(inputs)


def check_batch_labels(labels: Tensor | None, n: int) -> None:
    """Refuse labels that do not belong to the recorded batch.

    Args:
        labels: What the user gave.
        n: Size of the batch.

    Raises:
        InputError: If they are not n usable labels.
    """
    if isinstance(labels, Tensor) and labels.ndim > 0 and len(labels) != n:
        raise InputError(
            f"{len(labels)} labels for a recorded batch of {n}. Call it with the labels of the "
            "batch that went through the model last, or run other forward passes inside "
            "`with iso.paused():`."
        )
    if labels is not None:
        check_labels(labels, n)
