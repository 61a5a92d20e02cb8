"""`IsometryCallback` with the real Lightning: same updates as by hand, and nothing left behind."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from isoreg import (
    AutoBeta,
    InputError,
    IsometryRegularizer,
    LayerError,
    RecordError,
    isometry_penalty,
)
from isoreg.integrations.batches import Named

pl = pytest.importorskip("lightning.pytorch")
callbacks = pytest.importorskip("isoreg.integrations.lightning")

X = torch.rand(24, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


class Direct(pl.LightningModule):
    """Calls a submodule, never itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Forward(Direct):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": F.cross_entropy(self(batch[0]), batch[1]), "extra": 1}


class Keys(Direct):
    def training_step(self, batch: Any) -> Any:  # Lightning looks up what a step takes
        return F.cross_entropy(self.net(batch["image"]), batch["label"])


class Augmented(Direct):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0] * 2), batch[1])


class Validated(Direct):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


class Shared(Direct):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.training_step(batch, batch_idx))


def loader(module: Any) -> DataLoader[Any]:
    if isinstance(module, Keys):
        rows = [{"label": y, "image": x} for x, y in zip(X, Y, strict=True)]
        return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]
    return DataLoader(TensorDataset(X, Y), batch_size=8)


def trainer(*found: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        callbacks=list(found),
        accelerator="cpu",
        enable_model_summary=False,
        **{"max_epochs": 1, **quiet, **options},
    )


def fit(module: Any, callback: Any, *, validated: bool = False, **options: Any) -> Any:
    found = trainer(callback, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(module, loader(module), loader(module) if validated else None)
    return found


def by_hand(
    *, factor: float = 1.0, accumulate: int = 1, labelled: bool = True, **options: Any
) -> list[Tensor]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iso = IsometryRegularizer(model, **options)
    batches = list(zip(X.split(8), Y.split(8), strict=True))
    for number, (x, y) in enumerate(batches, start=1):
        loss = F.cross_entropy(model(x * factor), y) + iso(y if labelled else None)
        (loss / accumulate).backward()
        if number % accumulate == 0 or number == len(batches):
            optimizer.step()
            optimizer.zero_grad()
    return list(model.parameters())


def same(module: nn.Module, expected: list[Tensor]) -> None:
    for found, wanted in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


class Logits(Direct):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits.detach()}


class Auxiliary(Direct):
    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1]) + self.auxiliary(logits).square().mean()
        return {"loss": loss, "logits": logits.detach()}


def test_of_several_heads_none_is_advised_as_features_unless_for_an_autoencoder() -> None:
    text = "TrainingStep returned what was made by .*, or for an autoencoder the narrowest, 'auxil"
    with pytest.raises(LayerError, match=text):
        fit(Auxiliary(), callbacks.IsometryCallback())


@pytest.mark.parametrize("kind", [Direct, Forward, Keys, Logits])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_is_that_of_a_loop_by_hand(kind: type[Any], accumulate: int) -> None:
    module = kind()
    callback = callbacks.IsometryCallback(beta=0.5)
    fit(module, callback, accumulate_grad_batches=accumulate)
    same(module, by_hand(beta=0.5, accumulate=accumulate))


def test_layers_are_named_as_in_the_module_or_within_the_named_model() -> None:
    for options in ({"layers": "net.1"}, {"layers": "1", "model": "net"}):
        module = Direct()
        fit(module, callbacks.IsometryCallback(beta=0.5, **options))
        same(module, by_hand(beta=0.5, layers="1"))


def test_a_named_model_is_compared_with_what_it_is_called_with() -> None:
    module = Augmented()
    fit(module, callbacks.IsometryCallback(beta=0.5, model="net"))
    same(module, by_hand(beta=0.5, factor=2.0))


@pytest.mark.parametrize("labels", [None, lambda batch: None], ids=["None", "a function"])
def test_without_labels_all_pairs_are_compared(labels: Any) -> None:
    module = Direct()
    fit(module, callbacks.IsometryCallback(beta=0.5, labels=labels))
    same(module, by_hand(beta=0.5, labelled=False))


def test_penalties_are_logged() -> None:
    found = fit(Direct(), callbacks.IsometryCallback(beta=0.5)).callback_metrics
    assert found["isometry/penalty"] == pytest.approx(0.5 * found["isometry/penalty/net.2"])
    assert found["isometry/penalty"] > 0
    assert found["isometry/beta"] == 0.5


def test_the_module_is_as_it_was_after_the_fit_and_after_an_error() -> None:
    class Failing(Direct):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return 1 / 0 if batch_idx == 1 else loss

    for kind in (Direct, Failing):
        module, callback = kind(), callbacks.IsometryCallback(beta=0.5)
        if kind is Failing:
            with pytest.raises(ZeroDivisionError):
                fit(module, callback)
        else:
            fit(module, callback)
        assert "training_step" not in vars(module)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert list(module.state_dict()) == list(kind().state_dict())
        assert callback.iso.report().steps == (1 if kind is Failing else 3)


def test_a_step_that_stood_in_the_modules_dict_is_put_back() -> None:
    module: Any = Direct()
    module.steps = 0

    def own(batch: Any, batch_idx: int) -> Any:
        module.steps += 1
        return Direct.training_step(module, batch, batch_idx)

    vars(module)["training_step"] = own
    fit(module, callbacks.IsometryCallback(beta=0.5))
    assert vars(module)["training_step"] is own
    assert module.steps == 3
    same(module, by_hand(beta=0.5))


def test_a_module_that_trains_in_eval_mode_is_penalised_as_well() -> None:
    class Frozen(Direct):
        def on_train_start(self) -> None:
            self.eval()  # as for batch statistics that should not move

    module = Frozen()
    fit(module, callbacks.IsometryCallback(beta=0.5))
    same(module, by_hand(beta=0.5))


@pytest.mark.parametrize("kind", [Validated, Shared])
def test_validation_between_epochs_is_not_recorded(kind: type[Any]) -> None:
    module, callback = kind(), callbacks.IsometryCallback(beta=0.5)
    found = fit(module, callback, validated=True)
    assert callback.iso.report().steps == 3
    same(module, by_hand(beta=0.5))
    losses = [F.cross_entropy(module.net(x), y) for x, y in loader(module)]
    shares = torch.tensor([len(x) for x, _ in loader(module)]) / len(X)
    expected = (torch.stack(losses) * shares).sum().detach()
    torch.testing.assert_close(found.callback_metrics["val_loss"], expected)


class WithGradients(Direct):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.enable_grad():  # as where an attack, or a force, is what is validated
            self.log("val_loss", self.training_step(batch, batch_idx).detach())


@pytest.mark.parametrize("model", [None, "net"])
def test_a_validation_that_takes_gradients_of_the_step_is_without_penalty(model: Any) -> None:
    module, callback = WithGradients(), callbacks.IsometryCallback(beta=0.5, model=model)
    found = fit(module, callback, validated=True, inference_mode=False)
    assert callback.iso.report().steps == 3
    same(module, by_hand(beta=0.5))
    expected = F.cross_entropy(module.net(X), Y).detach()
    torch.testing.assert_close(found.callback_metrics["val_loss"], expected)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda loss: (loss, 1), "must return a Tensor, a dict, or None"),
        (lambda loss: {"value": loss}, "the 'loss' key needs to be present"),
    ],
)
def test_what_is_no_loss_lightning_refuses_itself(made: Any, text: str) -> None:
    class Returning(Direct):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return made(super().training_step(batch, batch_idx))

    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match=text):
        fit(Returning(), callbacks.IsometryCallback(beta=0.5))


def test_mixed_precision_and_auto_beta_work() -> None:
    callback = callbacks.IsometryCallback(beta="auto")
    fit(Direct(), callback, precision="bf16-mixed")
    assert 0.01 < callback.iso.report().layers["net.2"].gradient < 1


def test_a_run_resumed_with_auto_beta_is_that_of_one_piece(tmp_path: Any) -> None:
    whole, broken = Direct(), Direct()
    expected = callbacks.IsometryCallback(beta=AutoBeta(0.3))
    fit(whole, expected, max_epochs=2)
    first = fit(broken, callbacks.IsometryCallback(beta=AutoBeta(0.3)))
    first.save_checkpoint(path := tmp_path / "last.ckpt")
    again = callbacks.IsometryCallback(beta=AutoBeta(0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(again, max_epochs=2).fit(broken, loader(broken), ckpt_path=path)
    assert again.iso.report().steps == 3
    assert again.iso.beta == expected.iso.beta
    same(broken, list(whole.parameters()))


class Manual(Direct):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "options", "kind", "text"),
    [
        (Manual, {}, InputError, "IsometryCallback: optimization must be automatic"),
        (Direct, {"model": "nett"}, LayerError, "IsometryCallback: no layer is called 'nett'"),
        (Direct, {"beta": -1}, InputError, "IsometryCallback: beta must be"),
        (Forward, {"model": "net.0", "layers": "1"}, LayerError, "IsometryCallback: no layer"),
    ],
)
def test_errors_come_when_training_starts(
    module: type[Any], options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        fit(module(), callbacks.IsometryCallback(**options))


def test_a_batch_without_labels_is_named() -> None:
    class Alone(Direct):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0]).square().mean()

    module = Alone()
    found = trainer(callbacks.IsometryCallback())
    with pytest.raises(InputError, match="IsometryCallback: labels are looked for in .*got list"):
        found.fit(module, DataLoader(TensorDataset(X), batch_size=8))


class Soft(Direct):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch["image"].float().flatten(1)), batch["label"])


def test_images_in_uint8_beside_soft_labels_are_what_features_are_compared_with() -> None:
    images = torch.randint(0, 9, (24, 1, 1, 5), dtype=torch.uint8)
    soft = 0.9 * F.one_hot(Y, 3) + 0.1 / 3
    rows = [{"label": y, "image": x} for x, y in zip(images, soft, strict=True)]
    module, callback = Soft(), callbacks.IsometryCallback(beta=0.1)
    trainer(callback, max_epochs=1).fit(module, DataLoader(rows, batch_size=24))
    expected = isometry_penalty(images.float(), net()[:2](images.float().flatten(1)), soft)
    torch.testing.assert_close(callback.iso.penalties["net.2"], expected.detach())


def test_a_second_fit_goes_on_with_the_weight_that_was_learnt_and_another_module_does_not() -> None:
    module, callback = Direct(), callbacks.IsometryCallback(beta="auto")
    fit(module, callback)
    learnt = callback.state_dict()["beta"]
    assert float(learnt["weight"]) > 0
    callback.on_train_start(trainer(callback), module)
    assert callback.state_dict()["beta"]["log"] == learnt["log"]
    callback.on_train_end(None, module)
    other = Direct()
    callback.on_train_start(trainer(callback), other)
    assert float(callback.state_dict()["beta"]["weight"]) == 0
    callback.on_train_end(None, other)


def test_a_loaded_checkpoint_is_saved_again_and_is_applied_once() -> None:
    state = {"beta": 0.7}
    callback, module, other = callbacks.IsometryCallback(beta=0.1), Direct(), Direct()
    callback.load_state_dict(state)
    assert callback.state_dict() == state
    for trained, beta in ((module, 0.7), (other, 0.1)):
        callback.on_train_start(trainer(callback), trained)
        assert callback.iso.beta == beta
        callback.on_train_end(None, trained)


def test_each_process_goes_on_with_its_own_state_and_a_new_one_with_that_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [{"beta": 0.5}, {"beta": 0.25}]
    callback, module = callbacks.IsometryCallback(beta=0.5), Direct()
    run = types.SimpleNamespace(global_rank=0, is_global_zero=True, world_size=2, interrupted=False)

    def gather_object(state: Any, gathered: list[Any]) -> None:
        assert state == states[0]
        gathered[:] = states

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "gather_object", gather_object)
    callback.on_train_start(run, module)
    saved = {"callbacks": {callback.state_key: callback.state_dict()}}
    callback.on_save_checkpoint(run, module, saved)
    callback.on_train_end(run, module)
    for run.global_rank, beta in enumerate((0.5, 0.25, 0.5)):
        again = callbacks.IsometryCallback(beta=0.1)
        again.load_state_dict(saved["callbacks"][callback.state_key])
        again.on_save_checkpoint(run, module, saved)  # before it trains: what was loaded stays
        again.on_train_start(run, module)
        assert again.iso.beta == beta
        again.on_train_end(run, module)


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (None, "None"),
        ("net.0", "'net.0'"),
        (nn.Tanh, "type"),
        (nn.Tanh(), "Tanh"),
        (["a", nn.Tanh()], "[\"'a'\", 'Tanh']"),
        (("a",), "[\"'a'\"]"),
        ({"a": 0.5}, "[\"'a'\"]"),
    ],
)
def test_callbacks_are_told_apart_by_what_is_the_same_in_every_process(
    layers: Any, told: str
) -> None:
    key = callbacks.IsometryCallback(layers, model="net", beta=0.1).state_key
    assert key == f"IsometryCallback({told}, 'net', ['beta'])"


def test_two_callbacks_share_a_trainer_and_unknown_options_are_refused() -> None:
    pair = [callbacks.IsometryCallback(layer, beta=0.1) for layer in ("net.0", "net.1")]
    trainer(*pair, max_epochs=1).fit(module := Direct(), loader(module))
    assert [list(callback.iso.penalties) for callback in pair] == [["net.0"], ["net.1"]]
    with pytest.raises(InputError, match=r"IsometryCallback: .*'betta'.*beta"):
        callbacks.IsometryCallback(betta=0.1)
    with pytest.raises(InputError, match=r"'xyzzy'. Close matches: .*\bbeta\b.*\bscale\b"):
        callbacks.IsometryCallback(xyzzy=0.1)  # near to none: all are named


def test_callbacks_with_other_labels_share_a_layer_and_each_logs_its_own() -> None:
    several = [
        callbacks.IsometryCallback(beta=0.5),
        callbacks.IsometryCallback(beta=0.25, labels=None),
        callbacks.IsometryCallback(beta=2.0, labels=lambda batch: batch[1] // 2),
        callbacks.IsometryCallback("net.2", beta=0.1, scale="fit"),
    ]
    found = trainer(*several, max_epochs=1)
    found.fit(module := Direct(), loader(module))
    logged = found.callback_metrics
    for callback, end in zip(several, ("", " (2)", " (3)", " (4)"), strict=True):
        assert logged[f"isometry/beta/net.2{end}"] == callback.iso.beta
        assert logged[f"isometry/penalty/net.2{end}"] == callback.iso.penalties["net.2"]
    total = sum(callback.iso.beta * callback.iso.penalties["net.2"] for callback in several)
    torch.testing.assert_close(logged["isometry/penalty"], total)


class Counting(Direct):
    """Counts its steps."""

    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.count()
        return super().training_step(batch, batch_idx)

    @torch.compiler.disable
    def count(self) -> None:
        self.steps += 1


@pytest.mark.parametrize("options", [{}, {"layers": "net.1"}, {"beta": 0.3, "scale": "fit"}])
def test_a_compiled_module_is_trained_as_one_that_is_not(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    modules, logged = (Counting(), Counting()), []
    for module in modules:
        callback = callbacks.IsometryCallback(**{"beta": 0.5, **options})
        compiled = torch.compile(module, backend="eager") if logged else module
        values = fit(compiled, callback, max_epochs=2).callback_metrics
        logged.append({name: float(x) for name, x in values.items()})
        assert callback.iso.report().steps == module.steps == 6
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)
    same(modules[1], list(modules[0].parameters()))


def test_a_module_that_was_compiled_and_ran_without_the_callback_is_told_what_to_do() -> None:
    torch._dynamo.reset()
    module = torch.compile(Direct(), backend="eager")
    trainer().fit(module, loader(module))
    with pytest.raises(RecordError, match=r"'net.2' did not run .*torch._dynamo.reset\(\) forgets"):
        fit(module, callbacks.IsometryCallback(beta=0.5))


class Snapshots(pl.Callback):  # type: ignore[misc]
    """Copies and pickles of a module, and of the other callbacks, made in training."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        others = [c for c in trainer.callbacks if isinstance(c, callbacks.IsometryCallback)]
        self.copied, self.callbacks = copy.deepcopy(pl_module), copy.deepcopy(others)
        self.pickles = [pickle.dumps(pl_module, protocol=p) for p in (0, 2, 5)]
        self.pickled_callbacks = pickle.dumps(others)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_copies_and_pickles_made_in_training_hold_the_step_as_the_module_has_it(
    own: bool, number: int
) -> None:
    module, seen = Direct(), Snapshots()
    if own:
        vars(module)["training_step"] = functools.partial(Direct.training_step, module)
    layers = ("net.0", None)[:number]
    trainer(*(callbacks.IsometryCallback(x) for x in layers), seen).fit(module, loader(module))
    assert not any(b"isoreg" in data for data in seen.pickles)
    assert b"Direct" not in seen.pickled_callbacks
    twin = copy.deepcopy(module)
    trainer().fit(twin, loader(twin))
    for other in (seen.copied, *map(pickle.loads, seen.pickles)):
        step = vars(other)["training_step"]
        assert (step.args[0] if own else step.__self__) is other
        trainer().fit(other, loader(other))
        same(other, list(twin.parameters()))
    again = Direct()
    trainer(*seen.callbacks).fit(again, loader(again))
    assert "training_step" not in vars(again)


@pytest.mark.parametrize(
    ("first", "second"), [({}, {"layers": "net.0"}), ({}, {"layers": "0", "model": "net"})]
)
def test_two_callbacks_do_the_same_in_either_order(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    logged, trained = [], []
    for turned in (False, True):
        pair = [callbacks.IsometryCallback(beta=b, **o) for b, o in ((0.5, first), (0.3, second))]
        found = trainer(*(pair[::-1] if turned else pair))
        found.fit(module := Direct(), loader(module))
        names = {name for callback in pair for name in callback.iso.penalties}
        expected = {"penalty", *(f"{kind}/{n}" for kind in ("penalty", "beta") for n in names)}
        assert set(found.callback_metrics) == {f"isometry/{name}" for name in expected}
        total = sum(float(callback.iso.log_dict()["isometry/penalty"]) for callback in pair)
        assert found.callback_metrics["isometry/penalty"] == pytest.approx(total)
        assert [callback.iso.beta for callback in pair] == [0.5, 0.3]
        logged.append({name: float(x) for name, x in found.callback_metrics.items()})
        trained.append(list(module.parameters()))
        assert "training_step" not in vars(module)
    assert logged[0] == pytest.approx(logged[1])
    same(module, trained[0])


@pytest.mark.parametrize("last", [0, 1])
def test_two_callbacks_leave_the_module_as_it_was_whichever_ends_first(last: int) -> None:
    module = Direct()
    pair = [callbacks.IsometryCallback(beta=0.5, layers=name) for name in ("net.0", "net.1")]
    for callback in pair:
        callback.on_train_start(None, module)
    pair[1 - last].on_train_end(None, module)
    assert "training_step" in vars(module)
    pair[last].on_train_end(None, module)
    assert "training_step" not in vars(module)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_step_that_another_wrapped_in_between_is_left_to_it() -> None:
    module: Any = Direct()
    mine = callbacks.IsometryCallback(beta=0.5)
    mine.on_train_start(None, module)
    inner = vars(module)["training_step"]
    vars(module)["training_step"] = others = lambda *args: inner(*args)
    mine.on_train_end(None, module)
    assert vars(module)["training_step"] is others
    expected = Direct().training_step((X, Y), 0)
    torch.testing.assert_close(module.training_step((X, Y), 0), expected)


def test_the_reference_may_stand_in_the_batch() -> None:
    rows = [{"label": y, "image": x, "place": x[:2]} for x, y in zip(X, Y, strict=True)]
    module, callback = Keys(), callbacks.IsometryCallback(beta=0.1, reference="place")
    trainer(callback, max_epochs=1).fit(module, DataLoader(rows, batch_size=24))
    expected = isometry_penalty(X[:, :2], net()[:2](X), Y)
    torch.testing.assert_close(callback.iso.penalties["net.2"], expected.detach())


def test_named_values_are_found_by_a_key_or_by_a_function_and_must_be_tensors() -> None:
    batch = {"x": X, "place": X[:, :2]}
    named = Named(reference=lambda b: 2 * b["place"], distances=None, pair_weights="place")
    found = named(batch)
    assert list(found) == ["reference", "pair_weights"]
    torch.testing.assert_close(found["reference"], 2 * X[:, :2])
    assert found["pair_weights"] is batch["place"]
    for wrong, text in (
        (lambda b: None, "reference must be a tensor, got NoneType"),
        ("places", "reference is to be found under 'places', got a batch with 'x', 'place'"),
    ):
        with pytest.raises(InputError, match=text):
            Named(reference=wrong, distances=None, pair_weights=None)(batch)
    with pytest.raises(InputError, match="got a batch with no keys"):
        Named(reference="place", distances=None, pair_weights=None)([X, Y])
