"""`ReferenceHead`: the rival of isometry, a linear head that predicts the reference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isoreg._attach.checks import check_model, check_reference
from isoreg._attach.classifier import check_classifier, choose_layers
from isoreg._attach.layers import Layers, refuse_time_major
from isoreg._attach.pooling import Pool, resolve_pool
from isoreg._attach.recorder import Recorder
from isoreg._attach.watching import Watching
from isoreg._pairs.precision import full_precision
from isoreg.distances import flatten_points
from isoreg.errors import InputError, RecordError, check_integer, check_not_negative, error_prefix

_NAME = "ReferenceHead"
_MANY = 1000  # no accumulation of gradients has as many calls between two changes of the weights


class ReferenceHead(Watching, nn.Module):
    r"""A linear head on a model's features that predicts the coordinates of a reference.

    .. math::
        \mathrm{head}(r) = w\, \frac{1}{N} \sum_i | A \phi_i + b - r_i |^2

    where phi are the recorded features, A and b are the head's own weights and w is ``weight``. If
    labels are to be read from the features afterwards, isometry should be compared with this head,
    which often wins there. The head's *answers* keep the reference's distances; the features keep
    them less well than with isometry. The head predicts in the dtype of its weights, which is the
    model's, also under autocast; the loss is computed in float32 or better.

    Args:
        model: The model; it is recorded as by `isoreg.IsometryRegularizer`.
        out_features: Coordinates of the reference.
        layer: One layer, as in `isoreg.IsometryRegularizer`; None: what enters the classifier.
        weight: Factor w of the loss, at least 0. It may be changed at any time.
        pool: As in `isoreg.IsometryRegularizer`.

    Raises:
        IsoregError: If the layer is unknown or an argument has a wrong value.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> head = ReferenceHead(model, 3)
        >>> optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()])
        >>> x, y, reference = torch.rand(16, 8), torch.randint(2, (16,)), torch.rand(16, 3)
        >>> (F.cross_entropy(model(x), y) + head(reference)).backward()
        >>> head.linear.weight.grad.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        out_features: int,
        layer: Layers = None,
        *,
        weight: float = 1.0,
        pool: Pool = "flatten",
    ) -> None:
        super().__init__()
        with error_prefix(_NAME):
            check_model(model)
            check_integer("out_features", out_features, 1)
            check_not_negative("weight", weight)
            layers = choose_layers(model, layer)
            pooling = resolve_pool(pool)
            if isinstance(pool, str):
                refuse_time_major(model, layers)
            if len(layers) > 1:
                names = ", ".join(repr(choice.name) for choice in layers)
                raise InputError(f"layer must name one layer, got {names}.")
        self.weight = weight
        kinds = (p.dtype for p in model.parameters() if p.is_floating_point())
        self.linear: nn.Linear = nn.LazyLinear(out_features, dtype=next(kinds, None))
        if layers and type(layers[0].module) is nn.Linear:
            linear = layers[0].module
            width = linear.in_features if layers[0].at_input else linear.out_features
            self.linear = nn.Linear(width, out_features).to(linear.weight)
        self._calls, self._row = 0, torch.empty(0)
        self._recorder = Recorder(model, layers, pooling, source=_no_reference)

    def forward(self, reference: Tensor) -> Tensor:
        """Return the loss of the last recorded forward pass, and drop the record.

        Args:
            reference: (N, ...) points of the batch that went through the model last; they get no
                gradient.

        Returns:
            A scalar.

        Raises:
            IsoregError: If nothing is recorded, or the reference does not belong to it.
        """
        with error_prefix(_NAME):
            if not torch.compiler.is_compiling():
                check_not_negative("weight", self.weight)  # the user may have changed it
            recorder = self._attached()
            record = recorder.take()
            if recorder.model is not None:
                check_classifier(recorder.model, recorder.layers)
            (name, features), *later = record.features.items()
            if later:
                raise RecordError(
                    f"layer {name!r} ran {1 + len(later)} times in one forward pass, and one use "
                    "is predicted from. Name a layer that runs once, or run the other passes "
                    "inside `with head.paused():`."
                )
            check_reference(reference, {name: features}, "reference")
            points = flatten_points(reference.detach(), "reference").to(features.device)
            if points.shape[1] != self.linear.out_features:
                raise InputError(
                    f"the reference must have {self.linear.out_features} coordinates a sample, "
                    f"got {points.shape[1]}. Build the head with out_features={points.shape[1]}."
                )
        if is_lazy(self.linear.weight):
            if torch._C._are_functorch_transforms_active():  # here torch would end the process
                raise RecordError(
                    f"{_NAME}: the width of the features is not known yet, and torch.func makes no "
                    "weights. Call the model and the head once on a batch before."
                )
            widest = torch.promote_types(self.linear.weight.dtype, features.dtype)
            self.linear.to(features.device, widest)
        elif features.shape[1:] != self.linear.weight.shape[1:]:
            raise InputError(
                f"{_NAME}: the features must be (N, {self.linear.weight.shape[1]}) as before, got "
                f"{tuple(features.shape)}. Sequences of several lengths need pool='mean'."
            )
        dtype = self.linear.weight.dtype  # features may be bf16 because autocast made them so
        exact = torch.promote_types(dtype, torch.float32)  # squares of 256 overflow float16
        with full_precision(features.device):
            difference: Tensor = self.linear(features.to(dtype)).to(exact) - points.to(exact)
        if not torch.compiler.is_compiling():
            self._warn_of_untrained()
        if len(points) == 0:
            return difference.sum()
        return self.weight * difference.square().sum(1).mean()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The head's weights, for the optimizer.

        Args:
            recurse: As in `torch.nn.Module`.

        Yields:
            Each parameter.

        Raises:
            RecordError: If their number is not known yet.
        """
        if is_lazy(self.linear.weight):
            raise RecordError(
                f"{_NAME}: the width of the features is not known yet. Call the model and the head "
                "once on a batch before you build the optimizer."
            )
        yield from super().parameters(recurse)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in `torch.nn.Module`; this works also before the width of the features is known.

        Args:
            set_to_none: As in `torch.nn.Module`.
        """
        self.linear.zero_grad(set_to_none)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: weights, but no hooks on a model."""
        return {**vars(self), "_recorder": None}

    def _warn_of_untrained(self) -> None:
        weight, self._calls = self.linear.weight, self._calls + 1
        if self._calls == 1:
            self._row = weight[0].detach().clone()
        if self._calls != _MANY or not weight.requires_grad:
            return
        if torch.equal(weight[0].detach().cpu(), self._row.cpu()):
            warnings.warn(
                f"{_NAME}: its weights are what they were {_MANY} calls before. Does the optimizer "
                "have them? torch.optim.Adam([*model.parameters(), *head.parameters()])",
                stacklevel=3,
            )


def _no_reference(*_: object, **__: object) -> Tensor:
    """A source without content for the recorder: each call of the head gives the reference."""
    return torch.empty(0)
