"""`IsometryRegularizer`: wires a model's layers, a recorder and the penalty together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from isoreg._ranks.exchange import Group, check_group, mean_over_ranks, resolve_group
from isoreg.balance import AutoBeta, GradientNorms, check_beta
from isoreg.checks import (
    batch_size,
    check_batch_labels,
    check_model,
    check_watched,
    find_reference,
)
from isoreg.distances import Metric, resolve_metric
from isoreg.errors import InputError, called
from isoreg.layers import Layer, Layers, find_layers
from isoreg.memory import FeatureQueue
from isoreg.monitor import Monitor
from isoreg.penalty import Scale, check_reduction, check_scale, isometry_penalty
from isoreg.pooling import Pool, resolve_pool
from isoreg.recorder import Record, Recorder
from isoreg.report import IsometryReport

_NAME = "IsometryRegularizer"


class IsometryRegularizer:
    r"""Adds the isometry penalty of chosen layers to the loss of any model.

    .. math::
        \mathrm{iso}(y) = \sum_l \beta_l\, \frac{1}{N^2}
        \sum_{ij} G_{ij} (d(x_i, x_j) - s\, d(\phi^l_i, \phi^l_j))^2

    with x the batch that the model was called with last, phi^l the output of layer l and G the
    pairs of equal label in y (see `isoreg.isometry_penalty`). The model is watched through
    forward hooks and left as it was: same outputs, state dict, class and pickles. Forward passes
    in eval mode, without gradients or inside ``with iso.paused():`` are not recorded.

    Source: "Isometric Representations in Neural Networks Improve Robustness" (Beshkov, Verhellen
    and Lepperød, 2022); the paper penalises the last hidden layer, which is the default here.

    Args:
        model: The model to regularise.
        layers: None: what enters the classifier (timm's ``pretrained_cfg`` names it; else the last
            `nn.Linear`). A name, a glob within dotted parts (``"blocks.*"``), a module, a module
            type, a predicate on (name, module), ``"stages"`` of a timm model, a list of these, or
            a dict name -> weight.
        beta: Weight of the penalty, finite and >= 0; beta_l is beta times the weight of l. "auto",
            or an `isoreg.AutoBeta`: the weight that keeps the penalty's gradient at a share of the
            loss's, 0.1 by default.
        inputs: What the features are compared with. None: the first tensor that the model is
            called with, detached. A layer, or its name: its output, detached. A callable on the
            call's arguments, whose result is not detached: ``inputs=lambda x: x`` lets the penalty
            reach an input that requires a gradient, as a learned one does.
        pool: How a layer's output becomes one vector a sample: "flatten", "mean" (over tokens, or
            over the space of maps with channels first), "mean_last" (channels last), "token" (the
            first one) or a callable on what the layer returns.
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        scale: A positive number, a 0-dimensional tensor or "fit".
        reduction: "batch" (divide by N^2) or "pairs" (by the weight of the pairs).
        process_group: The ranks whose batches are one batch: None (this process alone), "world",
            or a `torch.distributed` group. The mean of the value over the ranks is the penalty of
            the whole batch, and averaging gradients, as `DistributedDataParallel` and FSDP do,
            gives its gradient. Every rank must call this in every step. `report` shows the pairs of
            the own batch.
        queue: How many past samples to compare with too (`isoreg.FeatureQueue` says what is then
            minimised); None for none.

    Raises:
        IsoregError: If a layer is unknown, or an option has a wrong type or value.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> iso = IsometryRegularizer(model, beta=0.1)
        >>> iso
        IsometryRegularizer(beta=0.1, layers=['input of 2'], distance='euclidean', scale=1.0)
        >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
        >>> loss = nn.functional.cross_entropy(model(x), y) + iso(y)
        >>> loss.backward()
        >>> list(iso.penalties)
        ['2']
        >>> iso.detach()
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        beta: float | str | AutoBeta = 1.0,
        inputs: str | nn.Module | Callable[..., Tensor] | None = None,
        pool: Pool = "flatten",
        distance: Metric = "euclidean",
        scale: Scale = 1.0,
        reduction: str = "batch",
        process_group: Group = None,
        queue: int | None = None,
    ) -> None:
        with called(_NAME):
            check_model(model)
            weight = check_beta(beta)
            resolve_metric(distance)
            check_scale(scale)
            check_reduction(reduction)
            check_group(process_group)
            memory = None if queue is None else FeatureQueue(queue)
            pooling = resolve_pool(pool)
            chosen = find_layers(model, layers)
            reference = find_reference(model, inputs)
        self._beta = weight
        self.distance = distance
        self.scale = scale
        self.reduction = reduction
        self.process_group = process_group
        self._queue = memory
        self._layers = chosen
        self._penalties: dict[str, Tensor] = {}
        self._total: Tensor | None = None
        self._gradients = GradientNorms()
        self._monitor = Monitor(distance)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._warned = False
        self._recorder = Recorder(model, chosen, pooling, reference)
        self._recorder.watch = self._gradients.watch

    def __call__(self, labels: Tensor | None) -> Tensor:
        """Penalty of the last recorded forward pass; the record is dropped.

        Args:
            labels: (N,) integers or (N, C) probabilities of the batch that went through the
                model last, or None to keep the distances of all pairs.

        Returns:
            Scalar ``sum_l beta_l * penalty_l``, to be added to the loss.

        Raises:
            IsoregError: If nothing is recorded, the labels do not fit, or the inputs have no
                distances.
        """
        with called(_NAME):
            record = self._recorder.take()
            n = batch_size(record)
            self._shapes = {name: tuple(x.shape) for name, x in record.features.items()}
            self._warn_of_frozen(record)
            check_batch_labels(labels, n)
            check_watched(record, self._beta)
            penalties = isometry_penalty(
                record.reference,
                list(record.features.values()),
                labels,
                distance=self.distance,
                scale=self.scale,
                reduction=self.reduction,
                process_group=self.process_group,
                queue=self._queue,
            )
        self._penalties = dict(zip(record.features, penalties.detach().unbind(), strict=True))
        self._read_gradients()
        total = (penalties * penalties.new_tensor(self._weights(record))).sum()
        total = total * self._weigh(total)
        self._total = total.detach()
        self._look(record, labels, penalties)
        return total

    @property
    def penalties(self) -> dict[str, Tensor]:
        """Penalty of each layer in the last call, detached and without its weight."""
        return dict(self._penalties)

    @property
    def beta(self) -> float:
        """Weight of the penalty; with "auto" that of the last call. Can be set, also to "auto"."""
        return float(self._beta.beta if isinstance(self._beta, AutoBeta) else self._beta)

    @beta.setter
    def beta(self, beta: float | str | AutoBeta) -> None:
        with called(_NAME):
            self._beta = check_beta(beta)

    def log_dict(self, prefix: str = "isometry/") -> dict[str, float]:
        """The last call as a flat dict for TensorBoard, W&B, CSV or any other logger.

        Args:
            prefix: In front of each name.

        Returns:
            ``penalty`` (what the call returned, weights included), ``beta``, and ``penalty/NAME``
            of each layer without its weight. Empty before the first call. Waits for the device
            once; `penalties` does not.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
            >>> iso = IsometryRegularizer(model, beta=0.1)
            >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
            >>> loss = nn.functional.cross_entropy(model(x), y) + iso(y)
            >>> list(iso.log_dict())
            ['isometry/penalty', 'isometry/beta', 'isometry/penalty/2']
        """
        found = self.log_tensors(prefix)
        values = torch.stack([*found.values()]).tolist() if found else []
        return dict(zip(found, values, strict=True))

    def log_tensors(self, prefix: str = "isometry/") -> dict[str, Tensor]:
        """As `log_dict`, without waiting for the device: for loggers that read tensors later.

        Args:
            prefix: In front of each name.

        Returns:
            0-dimensional tensors, detached, on the penalty's device. Empty before the first call.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
            >>> iso = IsometryRegularizer(model, beta=0.1)
            >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
            >>> loss = nn.functional.cross_entropy(model(x), y) + iso(y)
            >>> iso.log_tensors()["isometry/beta"]
            tensor(0.1000)
        """
        if self._total is None:
            return {}
        beta = self._beta.beta if isinstance(self._beta, AutoBeta) else self._beta
        named = {f"penalty/{name}": value for name, value in self._penalties.items()}
        found = {"penalty": self._total, "beta": torch.as_tensor(beta), **named}
        return {prefix + name: value.to(self._total) for name, value in found.items()}

    def report(self) -> IsometryReport:
        """How the layers fare, with warnings that say what to do. Print it.

        Distances are those of the last step that was looked at closely, which is one in 32, from
        the first on. The gradients are known after ``backward()``.

        Returns:
            By layer the pairs, Pearson's r, stress, contraction and expansion, scale, penalty and
            the ratio of the penalty's gradient to the loss's.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
            >>> iso = IsometryRegularizer(model, beta=0.1)
            >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
            >>> (nn.functional.cross_entropy(model(x), y) + iso(y)).backward()
            >>> print(iso.report())
            beta 0.1, 1 steps, 0 of them without pairs
            layer ...
            2 ...
        """
        self._read_gradients()
        return self._monitor.report(self.beta)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the weight, with "auto" its running average, and the queue."""
        self._read_gradients()
        state = {
            "beta": self._beta.state_dict() if isinstance(self._beta, AutoBeta) else self._beta
        }
        return state if self._queue is None else state | {"queue": self._queue.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint was.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If the checkpoint had a number for beta and this one has "auto", or a
                queue and this one has none or another size, or the other way round.
        """
        beta, auto = state["beta"], isinstance(self._beta, AutoBeta)
        if isinstance(beta, Mapping) != auto:
            found, wanted = ("a number", "'auto'") if auto else ("'auto'", "a number")
            raise InputError(
                f"{_NAME}.load_state_dict: the checkpoint was made with beta as {found}, this "
                f"regularizer with {wanted}. Build it with the same kind of beta."
            )
        if ("queue" in state) != (self._queue is not None):
            found, wanted = ("with", "without") if "queue" in state else ("without", "with")
            raise InputError(
                f"{_NAME}.load_state_dict: the checkpoint was made {found} a queue, this "
                f"regularizer {wanted}. Build it with the same queue=."
            )
        if isinstance(self._beta, AutoBeta):
            self._beta.load_state_dict(beta)
        else:
            self.beta = beta
        if self._queue is not None:
            with called(f"{_NAME}.load_state_dict"):
                self._queue.load_state_dict(state["queue"])

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose features are compared."""
        return [layer.name for layer in self._layers]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave forward passes inside the block unrecorded, for attacks and evaluations.

        Yields:
            Nothing.
        """
        with self._recorder.paused():
            yield

    def detach(self) -> None:
        """Take all hooks off the model and forget the record. May be called again."""
        self._recorder.remove()

    def __enter__(self) -> IsometryRegularizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        places = [self._place(layer) for layer in self._layers]
        return (
            f"{_NAME}(beta={self._beta}, layers={places}, "
            f"distance={self.distance!r}, scale={self.scale!r})"
        )

    def _place(self, layer: Layer) -> str:
        name = f"input of {layer.name or 'the model'}" if layer.at_input else layer.name
        shape = self._shapes.get(layer.name)
        return f"{name} {shape}" if shape else name

    def _warn_of_frozen(self, record: Record) -> None:
        frozen = [name for name, x in record.features.items() if not x.requires_grad]
        if frozen and not self._warned:
            self._warned = True
            warnings.warn(
                f"{_NAME}: the features of layer {frozen[0]!r} need no gradient, so their penalty "
                "changes nothing. Are all parameters up to it frozen?",
                stacklevel=3,
            )

    def _weights(self, record: Record) -> list[float]:
        """Weight of each recorded use of a layer; a use is called ``name`` or ``name:2``."""
        weights = {layer.name: layer.weight for layer in self._layers}
        return [
            weights[use] if use in weights else weights[use.rpartition(":")[0]]
            for use in record.features
        ]

    def _weigh(self, penalty: Tensor) -> Tensor | float:
        """Beta, the same on all ranks of the group."""
        if not isinstance(self._beta, AutoBeta):
            return self._beta
        beta = self._beta.weigh(penalty)
        if group := resolve_group(self.process_group):
            self._beta.beta = beta = mean_over_ranks(beta, group)
        return beta

    def _read_gradients(self) -> None:
        """Take in what the last backward pass brought to the watched layers."""
        norms = self._gradients.take()
        self._monitor.saw_gradients(norms)
        if isinstance(self._beta, AutoBeta):
            self._beta.update(norms)

    def _look(self, record: Record, labels: Tensor | None, penalties: Tensor) -> None:
        """Keep what `report` needs of this step, and watch the next one if it is due."""
        assert record.reference is not None
        self._monitor.saw(record.reference, record.features, labels, penalties, scale=self.scale)
        if self._monitor.wants_to_warn:
            self._monitor.warn(self.report(), stacklevel=3)
        watch = self._monitor.due or isinstance(self._beta, AutoBeta)
        self._recorder.watch = self._gradients.watch if watch else None
