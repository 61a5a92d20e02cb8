"""`IsometryRegularizer`: wires a model's layers, a recorder and the penalty together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isoreg._attach.balance import AutoBeta, GradientNorms, check_beta
from isoreg._attach.checks import (
    batch_size,
    check_batch_labels,
    check_model,
    check_parallel,
    check_private,
    check_uses,
    check_watched,
    whole_tensor,
)
from isoreg._attach.classifier import check_classifier, choose_layers
from isoreg._attach.given import Given
from isoreg._attach.layers import Layer, Layers, refuse_time_major
from isoreg._attach.monitor import Monitor, Step
from isoreg._attach.pooling import Pool, resolve_pool
from isoreg._attach.record import Record
from isoreg._attach.recorder import Recorder
from isoreg._attach.reference import Exchange, Source, find_source, named_source, pair_uses
from isoreg._attach.watching import Watching
from isoreg._pairs.options import (
    NUMBER,
    Options,
    Scale,
    check_reduction,
    check_scale,
    refuse_queue,
)
from isoreg._ranks.exchange import Group, check_group, mean_over_ranks, resolve_group
from isoreg.distances import Metric, euclidean, flatten_points, resolve_metric
from isoreg.errors import InputError, error_prefix
from isoreg.masks import check_label_values
from isoreg.memory import FeatureQueue, bare_names
from isoreg.penalty import layer_penalties
from isoreg.report import IsometryReport

_NAME = "IsometryRegularizer"


class _Factors:
    """Keeps numbers as a tensor, and makes a new one only if they or its kind have changed."""

    def __init__(self) -> None:
        self._stored: tuple[object, Tensor] | None = None

    def like(self, x: Tensor, numbers: list[float]) -> Tensor:
        """Return the numbers as a tensor with the dtype and the device of x."""
        # a tensor made in inference mode can never be part of a graph
        kind = type(x), x.dtype, x.device, torch.is_inference_mode_enabled(), numbers
        if self._stored is None or self._stored[0] != kind:
            self._stored = kind, torch.tensor(numbers, dtype=x.dtype, device=x.device)
        return self._stored[1]


class IsometryRegularizer(Watching):
    r"""Adds the isometry penalty of chosen layers to the loss of any model.

    .. math::
        \mathrm{iso}(y) = \sum_l \beta_l\, \frac{1}{N^2}
        \sum_{ij} G_{ij} (d(x_i, x_j) - s\, d(\phi^l_i, \phi^l_j))^2

    where x is the batch that the model was called with last, phi^l is the output of layer l, and G
    marks the pairs of equal label in y (see `isoreg.isometry_penalty`). Forward hooks watch the
    model, whose outputs, state dict, class and pickles stay the same. Forward passes in eval mode,
    without gradients or inside ``with iso.paused():`` are not recorded.

    Source: "Isometric Representations in Neural Networks Improve Robustness" (Beshkov, Verhellen
    and Lepperød, 2022); the paper penalises the last hidden layer, which is the default here.

    Args:
        model: The model to regularise.
        layers: The layers whose features are compared. None means what enters the classifier, the
            module whose result the model returns. It is found in the first forward pass, unless
            timm or a chain of modules shows it before; if it is not certain, as in autoencoders, an
            error lists candidates. If it follows a dropout, whose noise counts as distance, name
            the module before the dropout. Layers are given as a name, a glob within dotted parts
            (``"blocks.*"``), a module, a module type, a predicate on (name, module), ``"stages"``
            of a timm model, a list of these, or a dict name -> weight. Names are those in the
            model, or those before it was compiled or put into `DistributedDataParallel`.
        beta: Weight of the penalty, finite and >= 0; beta_l is beta times the weight of l. "auto"
            or an `isoreg.AutoBeta` keeps the penalty's gradient at a share of the loss's, 0.1 by
            default.
        inputs: What the features are compared with. None means the tensor of the call that holds
            the samples, detached; if several may, an error lists them. A layer, or its name,
            means its output, detached. Another network (a teacher) is called on the same arguments,
            in eval mode and without gradients. A callable gets the call's arguments too, but its
            result is not detached: ``inputs=lambda x: x`` lets the penalty reach an input that
            requires a gradient, such as a learned one. Networks and callables get copies of the
            call's tensors, so that changing them in place does not reach the model. For points or
            distances of single batches see `__call__`.
        input_distance: The metric of the reference; by default the same as ``distance``.
        control: Compare each sample with the reference of a random sample of its class, drawn anew
            in each call (given distances are permuted in rows and columns alike). What training
            gains over this control is due to the geometry; what both gain is due to features that
            are spread out at all.
        pool: How a layer's output becomes one vector a sample: "flatten", "mean" (over tokens
            (N, tokens, width), or over the space of maps (N, channels, h, w)), "mean_last" (maps
            with channels last), "token" (the first one) or a callable on what the layer returns.
            A pooling is refused if the model's layers show that channels lie on another axis, as
            in signals (N, channels, length) or in Swin's maps; a compiled pass does not check it.
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        scale: Factor s: a positive number, a 0-dimensional tensor or "fit".
        reduction: "batch" (divide by N^2) or "pairs" (by the weight of the pairs).
        process_group: The ranks whose batches are one batch: None (this process alone), "world",
            or a `torch.distributed` group. The mean of the value over the ranks is the penalty of
            the whole batch, and averaging gradients, as `DistributedDataParallel` and FSDP do,
            gives its gradient. Every rank must call this in every step. `report` shows the pairs of
            the local batch.
        queue: How many past samples each batch is compared with too; None for none. See
            `isoreg.FeatureQueue` for what is then minimised, and what it needs.

    Raises:
        IsoregError: If a layer is unknown, or an option has a wrong type or value.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> iso = IsometryRegularizer(model, beta=0.1)
        >>> iso
        IsometryRegularizer(beta=0.1, layers=['2'], at='input', distance='euclidean', scale=1.0)
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
        input_distance: Metric | None = None,
        control: bool = False,
        pool: Pool = "flatten",
        distance: Metric = "euclidean",
        scale: Scale = 1.0,
        reduction: Literal["batch", "pairs"] = "batch",
        process_group: Group = None,
        queue: int | None = None,
    ) -> None:
        with error_prefix(_NAME):
            check_model(model)
            if control not in (True, False):  # a text such as "no" would count as true
                raise InputError(f"control must be True or False, got {control!r}.")
            scale = check_scale(scale)
            check_reduction(reduction)
            metric = resolve_metric(distance)
            input_metric = metric if input_distance is None else resolve_metric(input_distance)
            options = Options(metric, input_metric, scale, reduction, given=False)
            check_group(process_group)
            memory = None if queue is None else FeatureQueue(queue)
            usual = metric is input_metric is euclidean
            if queue is not None and not (usual and isinstance(scale, NUMBER)):
                refuse_queue(options)
            pooling = resolve_pool(pool)
            chosen = choose_layers(model, layers)
            if isinstance(pool, str):
                refuse_time_major(model, chosen)
            source = find_source(model, inputs)
            if isinstance(source, Layer):
                refuse_time_major(model, [source], "give the points: iso(labels, reference=...)")
            weight = check_beta(beta)
        self._beta = weight
        self._distance = distance
        self._input_distance = input_distance
        self._reduction = reduction
        self._options = options
        self._exchange = Exchange() if control else None
        self.process_group = process_group
        self._queue = memory
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._warned = False
        self._begin(source, Recorder(model, chosen, pooling, source))
        self._set_watch()

    def _begin(self, source: Source, recorder: Recorder | None) -> None:
        """Set what a new regularizer, or a copy of one, begins with, before any step."""
        self._source, self._recorder = source, recorder
        self._penalties: tuple[list[str], Tensor] = ([], torch.zeros(0))
        self._total: Tensor | None = None
        self._called_with: Tensor | float | None = None
        self._gradients = GradientNorms()
        self._factors = _Factors()
        self._monitor = Monitor(self._options.metric, self._options.input_metric)

    def __call__(
        self,
        labels: Tensor | None,
        *,
        reference: Tensor | None = None,
        distances: Tensor | None = None,
        pair_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty of the last recorded forward pass, and drop the record.

        Args:
            labels: (N,) integers (-100 pairs with nobody) or (N, C) probabilities of the batch that
                went through the model last, or None to keep the distances of all pairs.
            reference: (N, ...) points of this batch to compare with, in place of what was
                recorded; they get no gradient.
            distances: (N, N) distances of this batch to compare with, in place of points: the
                diagonal is not read, NaN is a pair whose distance is not known. Across ranks and
                with a queue they are wider, as ``input_distances`` of `isoreg.isometry_penalty`.
            pair_weights: (N, N) factors of the pairs, at least 0; they are wider in the same cases.

        Returns:
            Scalar ``sum_l beta_l * penalty_l``, to be added to the loss.

        Raises:
            IsoregError: If nothing is recorded, it is not certain which pass or which tensor is
                meant, the labels do not fit, or the reference has no distances.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
            >>> iso = IsometryRegularizer(model, beta=0.1)
            >>> x, table = torch.rand(16, 8), torch.rand(100, 3)
            >>> batch = torch.arange(16)
            >>> _ = model(x)
            >>> iso(None, reference=table[batch]).ndim
            0
        """
        with error_prefix(_NAME):
            record = self._take()
            n = batch_size(record.features)
            self._shapes = {name: tuple(x.shape) for name, x in record.features.items()}
            check_batch_labels(labels, n)
            if labels is not None and self._monitor.due and not torch.compiler.is_compiling():
                check_label_values(labels)  # on accelerators not every step checks them
            check_watched(record, self._beta)
            self._warn_of_frozen(record)
            given = Given.of(record, self._source, labels, n, (reference, distances, pair_weights))
            if self._exchange is not None:
                given = given.exchanged(self._exchange.permutation(labels, n))
            check_uses(record, paired=len(given.references) > 1 and labels is None)
            penalties, first = self._compare(record, labels, given)
        self._penalties = list(record.features), penalties.detach()
        total = self._weighted_sum(record, penalties)
        self._total = total.detach()
        self._called_with = self._beta.beta if isinstance(self._beta, AutoBeta) else self._beta
        if not torch.compiler.is_compiling():
            self._record_step(record, labels, given, first)
        return total

    @property
    def distance(self) -> Metric:
        """The metric of the features; it cannot be changed."""
        return self._distance

    @property
    def scale(self) -> Scale:
        """The factor of the feature distances; it cannot be changed."""
        return self._options.scale

    @property
    def reduction(self) -> Literal["batch", "pairs"]:
        """What the sum over pairs is divided by; it cannot be changed."""
        return self._reduction

    @property
    def penalties(self) -> dict[str, Tensor]:
        """Penalty of each layer in the last call, detached and without its weight."""
        names, values = self._penalties
        return dict(zip(names, values, strict=True))

    @property
    def beta(self) -> float:
        """Weight of the penalty; with "auto" that of the last call, 0 before it. It can be set."""
        return float(self._beta.beta if isinstance(self._beta, AutoBeta) else self._beta)

    @beta.setter
    def beta(self, beta: float | str | AutoBeta) -> None:
        with error_prefix(_NAME):
            self._beta = beta if beta is self._beta else check_beta(beta)

    def log_dict(self, prefix: str = "isometry/") -> dict[str, float]:
        """The last call as a flat dict for TensorBoard, W&B, CSV or any other logger.

        Args:
            prefix: In front of each name.

        Returns:
            ``penalty`` (what the call returned, weights included), ``beta``, and ``penalty/NAME``
            of each layer without its weight. Empty before the first call. This waits for the
            device once; `penalties` does not.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
            >>> iso = IsometryRegularizer(model, beta=0.1)
            >>> x, y = torch.rand(16, 8), torch.randint(2, (16,))
            >>> loss = nn.functional.cross_entropy(model(x), y) + iso(y)
            >>> list(iso.log_dict())
            ['isometry/penalty', 'isometry/beta', 'isometry/penalty/2']
        """
        tensors = self.log_tensors(prefix)
        values = torch.stack([*tensors.values()]).tolist() if tensors else []
        return dict(zip(tensors, values, strict=True))

    def log_tensors(self, prefix: str = "isometry/") -> dict[str, Tensor]:
        """As `log_dict`, but without waiting for the device, for loggers that read tensors later.

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
        device, dtype = self._total.device, self._total.dtype
        beta = torch.as_tensor(self._last_beta, dtype=dtype, device=device)
        penalties = {f"penalty/{name}": value for name, value in self.penalties.items()}
        tensors = {"penalty": self._total, "beta": beta, **penalties}
        return {prefix + name: value.to(self._total) for name, value in tensors.items()}

    def report(self) -> IsometryReport:
        """Report how the layers fare, with warnings that say what to do. Print the result.

        Distances are those of the last step that was looked at closely: one step in 32 is,
        beginning with the first. The gradients are known after ``backward()``.

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
        return self._monitor.report(self._last_beta)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: beta, with "auto" its averages, the queue, the shuffles.

        Returns:
            Tensors, numbers and text. With "auto", save the state of each rank of a group.
        """
        self._read_gradients()
        state: dict[str, Any] = {
            "beta": self._beta.state_dict() if isinstance(self._beta, AutoBeta) else self._beta
        }
        if self._exchange is not None:
            state["control"] = self._exchange.state()
        return state if self._queue is None else state | {"queue": self._queue.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the state of a checkpoint.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If only one of the checkpoint and this regularizer has a beta of "auto", or
                a queue, or if their queues differ in size or hold features of other layers.
        """
        with error_prefix(f"{_NAME}.load_state_dict"):
            self._check_state(state)
            self._read_gradients()  # those of a pass before are no part of what is loaded
            if isinstance(self._beta, AutoBeta):
                self._beta.load_state_dict(state["beta"])
            else:
                self._beta = check_beta(state["beta"])
            if self._queue is not None:
                self._queue.load_state_dict(state["queue"])
            if self._exchange is not None and "control" in state:
                self._exchange.go_on(state["control"])

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or "beta" not in state:
            entries = sorted(map(str, state)) if isinstance(state, Mapping) else repr(state)
            raise InputError(f"the checkpoint must hold 'beta', got {entries}.")
        auto = isinstance(self._beta, AutoBeta)
        if isinstance(state["beta"], Mapping) != auto:
            saved, present = ("a number", "'auto'") if auto else ("'auto'", "a number")
            raise InputError(
                f"the checkpoint was made with beta as {saved}, this regularizer with {present}. "
                "Build it with the same kind of beta."
            )
        if ("queue" in state) != (self._queue is not None):
            saved, present = ("with", "without") if "queue" in state else ("without", "with")
            raise InputError(
                f"the checkpoint was made {saved} a queue, this regularizer {present}. "
                "Build it with the same queue=."
            )
        if self._queue is not None:
            self._queue.check_state_dict(state["queue"])
            self._check_layers(state["queue"].get("layers", []))

    def _check_layers(self, uses: list[str]) -> None:
        """Refuse a queue of layers that are not watched; a use is a name, or ``name:2``, ..."""
        names = bare_names(self.layers)
        other = [use for use in uses if use not in names and use.rpartition(":")[0] not in names]
        if names and other:
            raise InputError(
                f"the checkpoint's queue must hold features of the layers {names}, got those of "
                f"{other[0]!r}. Watch the same layers, or start with an empty queue: load "
                "state | {'queue': iso.state_dict()['queue']}."
            )

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose features are compared; none until a classifier is found."""
        return [layer.name for layer in self._recorded_layers()]

    def __enter__(self) -> IsometryRegularizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        layers = self._recorded_layers()
        named = [
            f"{name} {self._shapes[name]}" if name in self._shapes else name for name in self.layers
        ]
        at = ", at='input'" if layers and layers[0].at_input else ""
        unusual = {
            "inputs": named_source(self._source),
            "input_distance": self._input_distance and repr(self._input_distance),
            "reduction": repr(self.reduction) if self.reduction != "batch" else None,
            "queue": None if self._queue is None else self._queue.size,
            "control": None if self._exchange is None else True,
        }
        extra = "".join(f", {name}={value}" for name, value in unusual.items() if value is not None)
        return (
            f"{_NAME}(beta={self._beta}, layers={named or 'not known before a pass'}{at}, "
            f"distance={self._distance!r}, scale={self.scale!r}{extra})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: weights, averages and queue, but no hooks."""
        self._read_gradients()
        names = {"_beta", "_distance", "_input_distance", "_reduction", "_options", "_exchange"}
        names |= {"process_group", "_queue", "_shapes", "_warned"}
        state = {name: value for name, value in vars(self).items() if name in names}
        if not isinstance(self.process_group, str):  # a group lives in this process alone
            state["process_group"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin(None, None)

    @property
    def _last_beta(self) -> Tensor | float:
        """The weight in the last call, a tensor if it was learned; before it the present weight."""
        return self.beta if self._called_with is None else self._called_with

    def _recorded_layers(self) -> list[Layer]:
        return [] if self._recorder is None else self._recorder.layers

    def _take(self) -> Record:
        """Return the record of the last pass, checked if a close look is due, in whole tensors."""
        recorder = self._attached()
        record = recorder.take()
        if self._monitor.due:
            assert recorder.model is not None  # its forward pass was recorded
            check_classifier(recorder.model, recorder.layers)
            check_private(recorder.model)
            check_parallel(recorder.model, record.features)
        if self._queue is not None or self.process_group is not None:
            record.order_by(self.layers)  # past samples and other ranks keep this order
        record.features = {name: whole_tensor(x) for name, x in record.features.items()}
        return record

    def _compare(self, record: Record, labels: Tensor | None, given: Given) -> tuple[Tensor, int]:
        """Return all layers' penalties, and the column of the first local sample in the tables."""
        features, references = record.features, given.references
        if len(references) < 2:
            return self._penalise(references[0] if references else None, features, labels, given)
        if self._queue is not None:
            raise InputError(
                f"queue= keeps one batch a pass, and what inputs names ran {len(references)} times "
                "in this one. Leave the queue out, or watch the inner network by a regularizer of "
                "its own."
            )
        paired = pair_uses(record.uses, references)
        by_name: dict[str, Tensor] = {}
        for reference in references:
            group = {name: x for name, x in features.items() if paired[name] is reference}
            penalties, first = self._penalise(reference, group, labels, given)
            by_name |= zip(group, penalties, strict=True)
        return torch.stack([by_name[name] for name in features]), first

    def _penalise(
        self,
        reference: Tensor | None,
        features: Mapping[str, Tensor],
        labels: Tensor | None,
        given: Given,
    ) -> tuple[Tensor, int]:
        if self._queue is not None:
            self._queue.hold_layers([*features])
        names = [f"the features of layer {name!r}" for name in features]
        return layer_penalties(
            reference,
            [flatten_points(*pair) for pair in zip(features.values(), names, strict=True)],
            labels,
            self._options if reference is not None else self._options._replace(given=True),
            input_distances=given.distances,
            pair_weights=given.pair_weights,
            process_group=self.process_group,
            queue=self._queue,
            narrow=[x.dtype for x in features.values()],
            names=names,
        )

    def _warn_of_frozen(self, record: Record) -> None:
        frozen = [name for name, x in record.features.items() if not x.requires_grad]
        if frozen and not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warnings.warn(
                f"{_NAME}: the features of layer {frozen[0]!r} need no gradient, so their penalty "
                "changes nothing. Are all parameters up to it frozen?",
                stacklevel=3,
            )

    def _weighted_sum(self, record: Record, penalties: Tensor) -> Tensor:
        """Return the sum of beta_l * penalty_l; a beta of "auto" is a tensor and comes last."""
        beta = 1.0 if isinstance(self._beta, AutoBeta) else self._beta
        by_layer = {layer.name: beta * layer.weight for layer in self._recorded_layers()}
        weights = [by_layer[record.uses[name].layer] for name in record.features]
        if torch.compiler.is_compiling():
            if isinstance(self._beta, AutoBeta):
                raise InputError(
                    f"{_NAME}: beta='auto' reads gradients in backward, which a compiled step does "
                    "not show. Compile the model alone, or give beta a number."
                )
            return torch.stack([w * x for w, x in zip(weights, penalties, strict=True)]).sum()
        self._read_gradients()
        total = torch.dot(penalties, self._factors.like(penalties, weights))
        if isinstance(self._beta, AutoBeta):
            total = total * self._weigh(self._beta, total)
        return total

    def _weigh(self, beta: AutoBeta, penalty: Tensor) -> Tensor:
        """Return beta, which is the same on all ranks of the group."""
        weight = beta.weigh(penalty)
        if group := resolve_group(self.process_group):
            measured = beta.is_measured.to(weight)  # 0 on a rank whose batches had no pairs so far
            sums = mean_over_ranks(torch.stack([weight, measured * weight, measured]), group)
            beta.beta = weight = torch.where(sums[2] > 0, sums[1] / sums[2], sums[0])
        return weight

    def _read_gradients(self) -> None:
        """Collect the gradient norms of the last backward pass, for the report and for "auto"."""
        norms = self._gradients.take()
        self._monitor.record_gradients(norms, self._last_beta)
        if isinstance(self._beta, AutoBeta):
            self._beta.update(norms)

    def _record_step(self, record: Record, labels: Tensor | None, given: Given, first: int) -> None:
        """Keep what `report` needs of this step, and watch the next one if it is due."""
        monitor = self._monitor
        was_due = monitor.due
        monitor.record_step(*self._penalties)
        if was_due:
            references = pair_uses(record.uses, given.references) if given.references else {}
            step = Step(record.features, references, given.distances, given.pair_weights, first)
            monitor.look_closely(step, labels, self.scale)
        if monitor.wants_to_warn:
            if not torch._C._are_functorch_transforms_active():  # values cannot be read inside one
                monitor.warn(self.report(), stacklevel=4)
            if isinstance(self._beta, AutoBeta) and not self._beta.is_measured:
                warnings.warn(
                    f"{_NAME}: beta='auto' has measured no gradient yet, so the penalty weighs "
                    "next to nothing. Is it a part of the loss? Gradients of create_graph=True "
                    "or by torch.func are not seen: give beta a number there.",
                    stacklevel=3,
                )
        self._set_watch()

    def _set_watch(self) -> None:
        """Measure the gradients of the next pass, if beta or a close look needs them."""
        auto = isinstance(self._beta, AutoBeta)
        reader = self._attached().reader
        reader.watch = self._gradients.watch if auto or self._monitor.due else None
        reader.watch_compiled = auto
