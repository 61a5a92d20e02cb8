"""The isometry penalty in any LightningModule, by a callback."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from isoreg._attach.layers import Layers, find_layers
from isoreg.errors import InputError, error_prefix, import_extra
from isoreg.integrations.batches import Finder, Named, check_options, find_labels, labels_finder
from isoreg.integrations.steps import Term, Wrapper
from isoreg.regularizer import IsometryRegularizer

pl: Any = import_extra("lightning.pytorch", "lightning")
_NAME = "IsometryCallback"
_STATES = "of each process"


class IsometryCallback(pl.Callback):  # type: ignore[misc]
    """Adds the isometry penalty to what ``training_step`` returns; the module stays as it is.

    During training the module's ``__dict__`` holds a wrapped ``training_step``, because Lightning's
    hooks before ``backward`` cannot replace the loss; Lightning wraps compiled steps in this way
    too. The wrapper is removed after training, also after an error. Lightning handles accumulation
    and float16 as usual. Values are logged as ``isometry/...``; ``callback.iso`` is the
    `isoreg.IsometryRegularizer`. With several callbacks ``isometry/penalty`` is their sum and each
    beta is ``isometry/beta/LAYER``. If two share a layer, other names of the second end in ``(2)``.

    Args:
        layers: As in `isoreg.IsometryRegularizer`; names are those in the LightningModule.
        model: None compares features with the tensor of the batch that holds the samples. A
            submodule's name compares them with the input of that submodule, and layers are named
            within it.
        labels: The labels' key in the batch, or a callable on the batch. None, or a callable that
            returns None, means all pairs. By default the labels are the batch's second entry, or
            under the key labels, label, label_ids, targets, target or y.
        reference: Points to compare with: their key in the batch, or a callable on the batch.
        distances: Distances to compare with, found in the same way.
        pair_weights: Weights of the pairs, found in the same way.
        options: Options of `isoreg.IsometryRegularizer`. A callable ``inputs`` gets the arguments
            of ``training_step``, or of the named model.

    Raises:
        InputError: If an option is unknown; when training starts, if optimization is manual or a
            layer is unknown.

    Example:
        >>> callback = IsometryCallback(beta=0.1)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        layers: Layers = None,
        *,
        model: str | None = None,
        labels: Finder = find_labels,
        reference: Finder = None,
        distances: Finder = None,
        pair_weights: Finder = None,
        **options: Any,
    ) -> None:
        with error_prefix(_NAME):
            check_options(options, IsometryRegularizer)
            self._labels = labels_finder(labels)
        self._build: Any = functools.partial(IsometryRegularizer, layers=layers, **options)
        self._model = model
        self._named = Named(reference=reference, distances=distances, pair_weights=pair_weights)
        finders = {"reference": reference, "distances": distances, "pair_weights": pair_weights}
        if labels is not find_labels:
            finders["labels"] = "all pairs" if labels is None else labels
        places = [f", {key}={_named(x)}" for key, x in finders.items() if x is not None]
        self._key = f"({_named(layers)}, {model!r}, {sorted(options)}{''.join(places)})"
        self._added: tuple[Wrapper, Term] | None = None
        self._loaded: dict[str, Any] | None = None
        self._trained: weakref.ref[Any] | None = None
        self.iso: IsometryRegularizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds, without the module that is trained now."""
        state = vars(self) | {"_added": None, "_trained": None}
        # Lightning gives each callback the methods of the module under these names
        return {name: value for name, value in state.items() if name not in ("log", "log_dict")}

    @property
    def state_key(self) -> str:
        """A key that tells the callbacks of one trainer apart, by what they were built with."""
        return f"{_NAME}{self._key}"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the module and wrap its step."""
        wrapper = Wrapper.of(pl_module, pl_module.log_dict, lambda: trainer.training)
        with error_prefix(_NAME):
            if not pl_module.automatic_optimization:
                raise InputError(
                    "optimization must be automatic, got a module that does it by hand. Add the "
                    "penalty to its loss there: an IsometryRegularizer is two lines."
                )
            previous = self.iso
            self.iso = self._build(
                find_layers(pl_module, self._model)[0].module if self._model else wrapper.step
            )
            if self._loaded is not None:  # only once: a later fit continues where this one ends
                states = dict(enumerate(self._loaded.get(_STATES, [])))
                # the first process's state, if the checkpoint is of fewer processes
                self.iso.load_state_dict(states.get(trainer.global_rank, self._loaded))
            elif previous is not None and self._trained and self._trained() is pl_module:
                self.iso.load_state_dict(previous.state_dict())
            self._loaded, self._trained = None, weakref.ref(pl_module)
        self._added = wrapper, Term(_NAME, self.iso, self._labels, self._named)
        wrapper.add(self._added[1], pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the module as it was."""
        if self.iso is not None:
            self.iso.detach()
        if self._added is not None:
            wrapper, term = self._added
            wrapper.remove(term, pl_module)
            self._added = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module as it was."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what the regularizer needs to continue."""
        if self._loaded is not None:
            return self._loaded
        return self.iso.state_dict() if self.iso is not None else {}

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save the state of each process, which has its own average, queue and shuffles."""
        state = self.state_dict()
        is_distributed = dist.is_available() and dist.is_initialized()
        # if one process has failed, the others never reach the gather, which would wait for them
        if not is_distributed or trainer.interrupted or not state or _STATES in state:
            return
        states: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
        dist.gather_object(state, states)
        checkpoint["callbacks"][self.state_key] = state | {_STATES: states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._loaded = state_dict or None


def _named(layers: Any) -> str:
    """Describe layers by what is the same in every process: names, or else types."""
    if isinstance(layers, list | tuple | Mapping):
        return str([_named(layer) for layer in layers])
    return repr(layers) if layers is None or isinstance(layers, str) else type(layers).__name__
