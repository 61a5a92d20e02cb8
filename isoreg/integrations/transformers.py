"""The isometry penalty in the Trainer of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoreg._attach.reference import evaluating
from isoreg._attach.samples import LABEL_NAMES, choose_samples, read_call
from isoreg.errors import RecordError, error_prefix, import_extra
from isoreg.integrations.batches import Finder, Named, check_options, find_labels, labels_finder
from isoreg.integrations.calls import leaving_out, names_taken, uncompiled
from isoreg.regularizer import IsometryRegularizer

transformers: Any = import_extra("transformers", "transformers")
_FILE = "isometry.pt"
_COLUMNS = "With remove_unused_columns=False a batch keeps what the model does not take."


class IsometryTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer that adds the isometry penalty to the loss; all else is as in transformers.

    Beta means the same under gradient accumulation: if the loss of an update is the mean over its
    batches, the penalty is the mean as well. But many models take ``num_items_in_batch`` and do not
    divide by it, so that the Trainer adds up the losses of an accumulation: then the penalties are
    added up as well. Two evaluations of the first accumulated batch, in eval mode, show which case
    it is. The penalty is logged beside the loss as ``isometry/...``; hooks are removed when
    ``train`` ends; ``trainer.iso`` is the `isoreg.IsometryRegularizer`. For another Trainer class:
    ``class Mine(IsometryTrainer, Other)``.

    Columns that are named here stay in the batch; for columns that a callable reads, set
    ``remove_unused_columns=False``. The model is called without the columns that it does not take.

    Args:
        args: Arguments of the Trainer.
        isometry: Options of `isoreg.IsometryRegularizer`: ``layers``, ``beta``, ... Features are
            compared with the model's main input (for token ids, with their embeddings) unless
            ``inputs`` says otherwise.
        isometry_labels: The key of the labels (N,) in a batch, or a callable on it. None, or a
            callable that returns None, means all pairs. By default they are under the one name in
            the Trainer's ``label_names``, or under labels, label, label_ids, targets, target or y.
        isometry_reference: Points to compare with: their key in the batch, or a callable on it.
        isometry_distances: Distances to compare with, found in the same way.
        kwargs: Keyword arguments of the Trainer.

    Raises:
        InputError: If an option of ``isometry`` is unknown.
        RecordError: In the first step, if an overridden ``compute_loss`` left the penalty out.

    Example:
        >>> class Mine(IsometryTrainer): ...
        >>> # Mine(model, args, train_dataset=..., isometry={"beta": 0.1}).train()
    """

    iso: IsometryRegularizer | None = None

    def __init__(
        self,
        *args: Any,
        isometry: Mapping[str, Any] | None = None,
        isometry_labels: Finder = find_labels,
        isometry_reference: Finder = None,
        isometry_distances: Finder = None,
        **kwargs: Any,
    ) -> None:
        with error_prefix("IsometryTrainer"):
            check_options(isometry or {}, IsometryRegularizer)
            self._isometry_labels = labels_finder(isometry_labels, "isometry_labels", _COLUMNS)
        self._named = Named(
            reference=isometry_reference,
            distances=isometry_distances,
            pair_weights=None,
            prefix="isometry_",
            advice=_COLUMNS,
        )
        finders = isometry_labels, isometry_reference, isometry_distances
        self._keys = [finder for finder in finders if isinstance(finder, str)]
        self._adds = any(finder not in (None, find_labels) for finder in finders)
        self._isometry = dict(isometry or {})
        self._trains = self._attached = self._added = False
        super().__init__(*args, **kwargs)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train with the penalty attached; a checkpoint's state of the penalty is resumed too."""
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = transformers.trainer_utils.get_last_checkpoint(self.args.output_dir)
        self._resumed = Path(checkpoint) if checkpoint else None
        self._loss_is_mean: bool | None = None  # another model or loss may be trained now
        self._trains, self._added = True, False
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.iso is not None:
                self.iso.detach()
            self._trains = self._attached = False

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the Trainer's step, and refuse a first step whose loss does not hold the penalty."""
        self._attach_once(model)  # before an overridden compute_loss needs iso.paused()
        with leaving_out(model, self._left_out(model)):
            loss = super().training_step(model, *args, **kwargs)
        if self._trains and not self._added:
            raise RecordError(
                "IsometryTrainer: compute_loss must reach this class's own in training mode, got a "
                "step without. Call super().compute_loss(...) in yours, name IsometryTrainer first "
                "among the bases, and let model.train() switch training on."
            )
        return loss

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the Trainer's step, in which the model gets only what it takes."""
        if getattr(self.args, "predict_with_generate", False):  # generate refuses other columns
            names, _ = names_taken(uncompiled(self.accelerator.unwrap_model(model)))
            names |= {"labels", *self.label_names}
            inputs = {k: x for k, x in inputs.items() if k in names or not self._is_ours(k)}
        with leaving_out(model, self._left_out(model)):
            return super().prediction_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the Trainer's loss; while `train` runs in training mode, with the penalty."""
        options: Any = {"num_items_in_batch": num_items_in_batch}
        if not self._trains or not model.training:
            return super().compute_loss(model, inputs, return_outputs, **options)
        self._attach_once(model)  # in case an overridden training_step calls this
        with error_prefix("IsometryTrainer"):
            assert self.iso is not None
            # first, because the Trainer may take labels out of the batch
            labels, keywords = self._labels_of(inputs), self._named(inputs)
            if self._loss_is_mean is None and self.current_gradient_accumulation_steps > 1:
                self._loss_is_mean = self._is_mean(model, inputs, num_items_in_batch)
            loss, outputs = super().compute_loss(model, inputs, True, **options)
            penalty = self.iso(labels, **keywords)
        self._added = True
        if self._loss_is_mean:  # of an accumulation, which the Trainer then does not divide
            penalty = penalty / self.current_gradient_accumulation_steps
        return (loss + penalty, outputs) if return_outputs else loss + penalty

    def _labels_of(self, batch: Any) -> Tensor | None:
        if self._isometry_labels is not find_labels:
            return self._isometry_labels(batch)
        declared = self.label_names if len(self.label_names) == 1 else []
        names = [*dict.fromkeys([*declared, *LABEL_NAMES])]
        return find_labels(batch, names, "isometry_labels", _COLUMNS)

    def _is_ours(self, key: str) -> bool:
        """Whether a key of the batch may be there for the penalty alone."""
        usual = {*self.label_names, *LABEL_NAMES}
        return self._adds or (self._isometry_labels is find_labels and key in usual)

    def _left_out(self, model: Any) -> Callable[[str], bool]:
        """Return a test for the keys that the model is called without, as it does not take them."""
        names, any_other = names_taken(uncompiled(self.accelerator.unwrap_model(model)))
        return lambda key: not any_other and key not in names and self._is_ours(key)

    def _set_signature_columns_if_needed(self) -> None:
        """Add the columns that the penalty needs to those that the Trainer keeps."""
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns
        missing = [key for key in self._keys if key not in columns]
        # a new list, because others may hold the first one
        self._signature_columns: list[str] = [*columns, *missing]

    def _is_mean(self, model: Any, inputs: Any, items: Any) -> bool:
        """Whether the loss is already divided by the number of items in the accumulation."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is not None:
            return bool(scaled)
        if items is None or not (self.model_accepts_loss_kwargs or self.compute_loss_func):
            return False
        assert self.iso is not None
        with self.iso.paused(), evaluating(model), torch.no_grad():
            loss, half = (
                float(super(IsometryTrainer, self).compute_loss(model, dict(inputs), False, n))
                for n in (items, 2 * items)
            )
        return not abs(half) > 0.75 * abs(loss)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the penalties beside the loss."""
        if self._attached and "loss" in logs and self.iso is not None:
            logs.update(self.iso.log_dict())
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.iso is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)  # another process may be slower
            torch.save(self.iso.state_dict(), Path(output_dir) / self._own_file())

    def _own_file(self) -> str:
        """Return the file of this process, which has its own average, queue and shuffles."""
        index = self.args.process_index
        return f"isometry_{index}.pt" if index else _FILE

    def _default(self) -> Callable[..., Tensor] | None:
        """Return what to compare with if ``label_names`` has more than the usual names, or None."""
        names = [*self.label_names]
        if set(names) <= set(LABEL_NAMES):
            return None

        def samples(**inputs: Any) -> Tensor:
            labels = [x for name in names if isinstance(x := inputs.get(name), Tensor)]
            rest = {name: x for name, x in inputs.items() if name not in names}
            first = next(x for x in inputs.values() if isinstance(x, Tensor) and x.ndim > 0)
            call = read_call((), rest, [])
            return choose_samples(call, labels[0] if labels else None, first.shape[0])

        return samples

    def _attach_once(self, model: Any) -> None:
        if self._trains and not self._attached:
            with error_prefix("IsometryTrainer"):
                self._attach(uncompiled(self.accelerator.unwrap_model(model)))

    def _attach(self, model: Any) -> None:
        name = getattr(model, "main_input_name", "")
        if name == "input_ids":
            # encoder and decoder hold copies of the model's embedding, which itself is not called
            pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
            default: Any = (model.get_encoder() if pair else model).get_input_embeddings()
        else:
            default = (lambda **inputs: inputs[name]) if name else self._default()
        self.iso = IsometryRegularizer(model, **{"inputs": default, **self._isometry})
        self._attached = True
        if self._resumed is not None:
            # the first process's file, if the checkpoint is of fewer processes
            files = [self._resumed / name for name in (self._own_file(), _FILE)]
            saved = next((file for file in files if file.exists()), None)
            if saved is not None:
                self.iso.load_state_dict(torch.load(saved, weights_only=True))
