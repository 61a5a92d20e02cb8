"""The life of the hooks: when they record, what they keep alive, how they leave the model."""

import contextlib
import copy
import gc
import io
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

import pytest
import torch
from networks import MODELS, TwoLayers, Y, batch, build, features, watched
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)
from torch.utils.hooks import RemovableHandle

from isoreg import IsometryRegularizer, isometry_penalty
from isoreg._attach.record import Record
from isoreg.errors import InputError, LayerError, RecordError


def expected(kind: str, x: Tensor) -> Tensor:
    """The penalty of `x` in an untouched twin."""
    return isometry_penalty(x, features(build(kind), x), Y)


def hooks(model: nn.Module) -> dict[tuple[str, str], int]:
    return {
        (path, name): len(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if "hooks" in name and value is not None
    }


def assert_same_model(model: nn.Module, twin: nn.Module) -> None:
    """Same class, attributes, hook dictionaries and state dict, module by module."""
    pairs = list(zip(model.named_modules(), twin.named_modules(), strict=True))
    for (name, module), (twin_name, twin_module) in pairs:
        assert (name, type(module)) == (twin_name, type(twin_module))
        assert vars(module).keys() == vars(twin_module).keys()
        assert module.training == twin_module.training
    assert hooks(model) == hooks(twin)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)


# When it records


@pytest.mark.parametrize("kind", MODELS)
def test_a_record_is_dropped_once_read(kind: str) -> None:
    model, x, iso = watched(kind)
    model(x)
    iso(Y)
    why = "no forward pass is recorded: the last record was already used, and one is read only once"
    with pytest.raises(RecordError, match=rf"^IsometryRegularizer: {why}\. .* once each\.$"):
        iso(Y)


def test_nothing_recorded_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "no forward pass is recorded: the model was not called since the recorder was attached"
    model, x, iso = watched("mlp")
    model.forward(x)
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", None)
    with pytest.raises(
        RecordError, match=rf"^IsometryRegularizer: {why}\. .* call the model itself"
    ):
        iso(Y)
    monkeypatch.undo()
    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend="eager")(x)
    with pytest.raises(RecordError, match="call the model itself.*If it is compiled, attach"):
        iso(Y)


def test_a_pass_that_is_only_traced_records_nothing_and_the_error_says_why() -> None:
    model, x, iso = watched("mlp")
    torch.jit.trace(model, x, check_trace=False)
    with pytest.raises(RecordError, match="the last forward pass was only traced or exported"):
        iso(Y)


def test_a_pass_that_began_before_it_was_attached_is_not_recorded() -> None:
    class Attaching(Stumbling):
        def forward(self, x: Tensor) -> Tensor:
            self.iso = [IsometryRegularizer(self, "first")]
            return super().forward(x)

    model = Attaching()
    model(batch("mlp"))
    with pytest.raises(RecordError, match="was not called since the recorder was attached"):
        model.iso[0](Y)


def test_a_compiled_pass_and_another_one_are_two_passes() -> None:
    model, x, iso = watched("mlp")
    iso._recorder._states._by_thread[0].finished = Record()  # as a compiled pass leaves one
    model(x)
    with pytest.raises(RecordError, match="the model ran more than once"):
        iso(Y)


class Busy(TwoLayers):
    """Does something between two layers."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        self.between()
        return self.head(hidden)


@pytest.mark.parametrize("how", ["paused", "thread"])
def test_what_runs_in_a_pause_or_another_thread_inside_a_pass_is_not_part_of_it(how: str) -> None:
    model, x = Busy(), batch("mlp")
    iso = IsometryRegularizer(model, "body")

    def paused() -> None:
        with iso.paused():
            model.body(2 * x)

    def threaded() -> None:
        thread = Thread(target=model.body, args=(2 * x,))
        thread.start()
        thread.join()

    model.between = paused if how == "paused" else threaded
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))
    assert list(iso.penalties) == ["body"]


@pytest.mark.parametrize("place", [lambda model: model, lambda model: model.head])
@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_forward_hook"])
def test_a_hook_of_somebody_else_may_detach_it_inside_a_pass(
    place: Callable[[nn.Module], nn.Module], register: str
) -> None:
    model, x, made = Busy(), batch("mlp"), []
    getattr(place(model), register)(lambda *_: made[0].detach())
    made.append(IsometryRegularizer(model, ["body", "head"]))
    made.append(IsometryRegularizer(model))
    logits = model(x)
    torch.testing.assert_close(logits, model.head(model.body(x)))
    with pytest.raises(RecordError, match="the recorder is detached from the model"):
        made[0](Y)
    torch.testing.assert_close(made[1](Y), isometry_penalty(x, model.body(x), Y))


def test_what_runs_in_a_replica_is_not_recorded_and_the_error_says_so() -> None:
    model, x, iso = watched("mlp")
    replica = copy.copy(model)
    replica._is_replica = True  # as nn.DataParallel marks its copies
    replica(x)
    with pytest.raises(RecordError, match="ran in a copy of the model. nn.DataParallel makes"):
        iso(Y)


def test_a_layer_that_took_the_hooks_of_another_is_no_copy_of_the_model() -> None:
    model, x, iso = watched("mlp", "0")
    other = nn.Linear(6, 8)
    for hook in model[0]._forward_hooks.values():
        other.register_forward_hook(hook)
    other(x)
    with pytest.raises(RecordError, match="the model was not called since"):
        iso(Y)


def test_passes_that_are_never_read_leave_no_trail() -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    for _ in range(5):
        model(batch("mlp"))
    assert len(iso._recorder._states.current.finished.earlier) <= 1


def test_once_the_classifier_is_found_no_other_module_is_watched() -> None:
    model = Busy()
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    found = {place: count for place, count in hooks(model).items() if count}
    kinds = ["_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"]
    after = ["_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"]
    at = [*(("", kind) for kind in kinds + after), *(("head", kind) for kind in kinds)]
    assert found == dict.fromkeys(at, 1)
    iso.detach()
    assert sum(hooks(model).values()) == 0


def test_a_classifier_that_is_called_by_keyword_is_found_and_recorded() -> None:
    class Keyword(Busy):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(input=self.body(x))

    model, x = Keyword(), batch("mlp")
    iso = IsometryRegularizer(model)
    for _ in range(2):
        model(x)
        torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))


def test_a_layer_that_was_taken_out_of_the_model_did_not_run() -> None:
    model = Odd()
    iso = IsometryRegularizer(model, ["body", "extra"])
    del model.extra
    model(batch("mlp"))
    with pytest.raises(RecordError, match="layer 'extra' did not run"):
        iso(Y)


def evaluation(model: nn.Module, x: Tensor) -> None:
    model.eval()
    model(x)
    model.train()


def under_no_grad(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def under_inference_mode(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)


SILENT = [evaluation, under_no_grad, under_inference_mode]


@pytest.mark.parametrize(
    ("silent", "why"),
    [(evaluation, "eval"), (under_no_grad, "gradients"), (under_inference_mode, "gradients")],
)
def test_a_forward_outside_training_records_nothing_and_the_error_says_why(
    silent: Callable[..., None], why: str
) -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    silent(model, batch("mlp"))
    with pytest.raises(RecordError, match=rf"^IsometryRegularizer: .*{why}"):
        iso(Y)


@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("kind", MODELS)
def test_a_forward_outside_training_does_not_replace_the_record(
    kind: str, silent: Callable[..., None]
) -> None:
    model, x, iso = watched(kind)
    model(x)
    silent(model, batch(kind, seed=2)[:3])
    torch.testing.assert_close(iso(Y), expected(kind, x))


@pytest.mark.parametrize("silent", SILENT)
def test_a_step_that_is_over_is_not_read_for_a_pass_that_was_not_recorded(
    silent: Callable[..., None],
) -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    model(batch("mlp")).sum().backward()  # without a penalty, as before a warm-up has ended
    silent(model, batch("mlp", seed=2))
    with pytest.raises(RecordError, match="the last forward pass ran"):
        iso(Y)


def test_the_last_training_forward_replaces_the_record() -> None:
    model, x, iso = watched("mlp")
    model(batch("mlp", seed=2)[:3])
    model(x)
    torch.testing.assert_close(iso(Y), expected("mlp", x))
    assert list(iso.penalties) == ["4"]


def test_calling_a_part_of_the_model_alone_leaves_the_record_as_it_is() -> None:
    model, x, iso = watched("mlp", "0")
    model(x)
    model[0](batch("mlp", seed=2)[:3])
    torch.testing.assert_close(iso(Y), isometry_penalty(x, build("mlp")[:1](x), Y))
    assert list(iso.penalties) == ["0"]


def test_a_reference_computed_with_the_models_own_layer_is_not_a_use_of_that_layer() -> None:
    model, x, iso = watched("mlp", ["0", "2"], inputs=lambda x: model[0](x).detach())
    model(x)
    iso(Y)
    assert list(iso.penalties) == ["0", "2"]


def test_the_models_mode_decides_not_the_layers_own() -> None:
    model, x, iso = watched("mlp")
    model.train()
    model[4].eval()  # a frozen part, as in fine-tuning
    model(x)
    torch.testing.assert_close(iso(Y), expected("mlp", x))


@pytest.mark.parametrize("kind", MODELS)
def test_paused_forwards_neither_record_nor_replace(kind: str) -> None:
    model, x, iso = watched(kind)
    with iso.paused():
        model(x)
    with pytest.raises(RecordError, match=r"^IsometryRegularizer: .*paused"):
        iso(Y)
    model(x)
    with iso.paused():
        model(batch(kind, seed=2)[:3])
    torch.testing.assert_close(iso(Y), expected(kind, x))


def test_a_pause_ends_with_its_outermost_block_even_after_an_exception() -> None:
    model, x, iso = watched("mlp")
    with pytest.raises(KeyError), iso.paused():
        raise KeyError
    with iso.paused():
        with iso.paused():
            pass
        model(x)
    with pytest.raises(RecordError):
        iso(Y)
    model(x)
    torch.testing.assert_close(iso(Y), expected("mlp", x))


class Stumbling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 71), nn.Linear(71, 4)
        self.stumble = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if self.stumble:
            raise FloatingPointError
        return self.second(hidden)


def test_a_normal_forward_after_one_that_raised_is_recorded_alone() -> None:
    model, x = Stumbling(), batch("mlp")
    iso = IsometryRegularizer(model, ["first", "second"])
    model.stumble = True
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            model(batch("mlp", seed=2)[:3])
    model.stumble = False
    model(x)
    total = iso(Y)
    assert sorted(iso.penalties) == ["first", "second"]
    hidden = model.first(x)
    by_hand = isometry_penalty(x, hidden, Y) + isometry_penalty(x, model.second(hidden), Y)
    torch.testing.assert_close(total, by_hand)


def test_a_forward_that_raised_replaces_the_record_before_it() -> None:
    model, x = Stumbling(), batch("mlp")
    iso = IsometryRegularizer(model, "first")
    model(x)
    model.stumble = True
    with pytest.raises(FloatingPointError):
        model(x)
    with pytest.raises(RecordError, match=r"^IsometryRegularizer: .*failed"):
        iso(Y)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_after_a_pass_that_was_interrupted_the_error_says_so(error: type[BaseException]) -> None:
    def interrupts(module: nn.Module, args: object) -> None:
        raise error

    model, x = Stumbling(), batch("mlp")
    iso = IsometryRegularizer(model, "first")
    for _ in range(2):  # before any pass, and after one that was read
        handle = model.second.register_forward_pre_hook(interrupts)
        with pytest.raises(error):
            model(x)
        with pytest.raises(RecordError, match="no forward pass is recorded: the last .* failed"):
            iso(Y)
        handle.remove()
        model(x)
        torch.testing.assert_close(iso(Y), isometry_penalty(x, model.first(x), Y))


def test_a_forward_in_eval_mode_after_one_that_raised_records_nothing() -> None:
    model, x = Stumbling(), batch("mlp")
    iso = IsometryRegularizer(model, "first")
    model.stumble = True
    with pytest.raises(FloatingPointError):
        model(x)
    model.stumble = False
    evaluation(model, x)
    with pytest.raises(RecordError):
        iso(Y)


class Checkpointed(TwoLayers):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x, use_reentrant=self.use_reentrant)
        return self.head(hidden)


def test_checkpointing_gives_the_same_gradients_and_leaves_no_record_behind() -> None:
    torch.manual_seed(0)
    model, x = Checkpointed(use_reentrant=False), batch("mlp")
    twin = copy.deepcopy(model)
    iso = IsometryRegularizer(model, "body")
    (F.cross_entropy(model(x), Y) + iso(Y)).backward()
    hidden = twin.body(x)
    (F.cross_entropy(twin.head(hidden), Y) + isometry_penalty(x, hidden, Y)).backward()
    torch.testing.assert_close(model.body.weight.grad, twin.body.weight.grad)
    with pytest.raises(RecordError):
        iso(Y)


def test_a_chain_that_is_checkpointed_module_by_module_is_watched_at_its_last_one() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
            self.head = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint_sequential(self.body, 2, x, use_reentrant=False))

    model, x = Chain(), batch("mlp")
    iso = IsometryRegularizer(model, "body")
    model(x)
    with pytest.raises(RecordError, match=r"'body' did not run .* name the last, 'body\.2'"):
        iso(Y)
    iso.detach()
    iso = IsometryRegularizer(model, "body.2")
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))


class Selective(nn.Module):
    """Keeps some results for its backward pass, and computes the others once more."""

    def __init__(self, keep: CheckpointPolicy | None) -> None:
        super().__init__()
        self.body, self.other, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.keep = keep

    def made(self, x: Tensor) -> Tensor:
        return self.other(self.body(x).tanh().clone()).sin().clone().exp() * 2

    def forward(self, x: Tensor) -> Tensor:
        def contexts() -> object:
            return create_selective_checkpoint_contexts(lambda *args, **kwargs: self.keep)

        if self.keep is not None:
            return self.head(checkpoint(self.made, x, use_reentrant=False, context_fn=contexts))
        return self.head(self.made(x))


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["body", "other"]},
        {"layers": "other", "inputs": "body"},
        {"layers": "body", "pool": lambda features: features * 2},
    ],
)
def test_what_a_selective_checkpoint_keeps_is_the_models_alone(options: dict[str, object]) -> None:
    gradients = []
    for keep in (None, CheckpointPolicy.MUST_SAVE, CheckpointPolicy.MUST_RECOMPUTE):
        torch.manual_seed(0)
        model, x = Selective(keep), batch("mlp")
        with IsometryRegularizer(model, **options) as iso:
            (F.cross_entropy(model(x), Y) + iso(Y)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0])


def test_reentrant_checkpointing_is_an_error_not_a_penalty_without_gradient() -> None:
    model = Checkpointed(use_reentrant=True)
    iso = IsometryRegularizer(model, "body")
    model(batch("mlp").requires_grad_())
    with pytest.raises(RecordError, match="body"):
        iso(Y)


@pytest.mark.parametrize("early", [True, False])
def test_what_a_backward_pass_computes_once_more_is_no_pass(early: bool) -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    x, later = batch("mlp"), batch("mlp", seed=2)
    with set_checkpoint_early_stop(early):
        loss = checkpoint(model, x, use_reentrant=False).sum() + iso(Y)
        checkpoint(model, later, use_reentrant=False)
        loss.backward()
        torch.testing.assert_close(iso(Y), expected("mlp", later))


def test_a_step_that_is_not_read_leaves_no_record_of_its_reentrant_checkpoint() -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    checkpoint(model, batch("mlp").requires_grad_(), use_reentrant=True).sum().backward()
    checkpoint(model, batch("mlp", seed=2).requires_grad_(), use_reentrant=True)
    with pytest.raises(RecordError, match="ran without gradients"):
        iso(Y)


class Forces(nn.Module):
    """Returns an energy and its gradient, as models of molecules do."""

    def __init__(self, saves: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.energy, self.saves = nn.Linear(8, 1), saves

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_()
        hidden = checkpoint(self.body, x, use_reentrant=False) if self.saves else self.body(x)
        energy = self.energy(hidden)
        return energy, torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("beta", [0.5, "auto"])
def test_a_gradient_inside_a_pass_is_no_use_of_a_checkpointed_layer(beta: object) -> None:
    gradients = []
    for saves in (False, True):
        torch.manual_seed(0)
        model, x = Forces(saves), batch("mlp")
        iso = IsometryRegularizer(model, "body.0", beta=beta)
        for _ in range(2):
            energy, forces = model(x.clone())
            (energy.square().mean() + forces.square().mean() + iso(Y)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


class FrozenBody(Stumbling):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.first(x)
        return self.second(hidden)


def test_a_layer_that_ran_without_gradients_is_an_error_not_a_penalty_without_gradient() -> None:
    model = FrozenBody()
    iso = IsometryRegularizer(model, ["first", "second"])
    model(batch("mlp"))
    with pytest.raises(RecordError, match="first"):
        iso(Y)


def test_a_part_of_a_pass_that_is_meant_to_have_no_gradients_can_be_left_out() -> None:
    class Twice(FrozenBody):
        """Conditions itself on what it made before, as diffusion models do."""

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad(), self.leave_out():
                before = self.first(x)
            return self.second(self.first(x) + before)

    model, x = Twice(), batch("mlp")
    iso = IsometryRegularizer(model, "first")
    model.leave_out = contextlib.nullcontext
    model(x)
    with pytest.raises(RecordError, match=r"meant to have none goes inside `with iso.paused\(\):`"):
        iso(Y)
    model.leave_out = iso.paused
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.first(x), Y))


def test_a_reference_layer_may_run_without_gradients() -> None:
    model, x = FrozenBody(), batch("mlp")
    iso = IsometryRegularizer(model, "second", inputs="first")
    model(x)
    hidden = model.first(x).detach()
    torch.testing.assert_close(iso(Y), isometry_penalty(hidden, model.second(hidden), Y))


# While attached, the model is what it was


@pytest.mark.parametrize("kind", MODELS)
def test_outputs_and_state_dict_stay_the_same_while_attached(kind: str) -> None:
    model, twin, x = build(kind), build(kind), batch(kind)
    iso = IsometryRegularizer(model)
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=0)
    iso(Y)
    torch.testing.assert_close(model.eval()(x), twin.eval()(x), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert type(model) is type(twin)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in twin.named_modules()]


@pytest.mark.parametrize("kind", MODELS)
def test_a_deep_copy_after_a_forward_never_writes_to_the_originals_record(kind: str) -> None:
    model, x, iso = watched(kind)
    model(x)
    duplicate = copy.deepcopy(model)
    duplicate.train()
    duplicate(batch(kind, seed=2)[:3])
    torch.testing.assert_close(iso(Y), expected(kind, x))
    duplicate(x)
    with pytest.raises(RecordError):
        iso(Y)


@pytest.mark.parametrize("kind", MODELS)
def test_a_deep_copy_computes_what_the_original_computes(kind: str) -> None:
    model, x, iso = watched(kind)
    model(x)
    duplicate = copy.deepcopy(model)
    torch.testing.assert_close(duplicate.eval()(x), model.eval()(x), rtol=0, atol=0)
    iso.detach()
    torch.testing.assert_close(duplicate(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_model_can_be_saved_and_loaded_while_a_record_waits(kind: str) -> None:
    model, x, iso = watched(kind)
    model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for loaded in (pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(loaded.eval()(x), model.eval()(x), rtol=0, atol=0)
        loaded.train()(batch(kind, seed=2)[:3])
    torch.testing.assert_close(iso(Y), expected(kind, x))


def test_a_model_saved_while_attached_takes_new_hooks_in_a_new_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    model = build("mlp")
    iso = IsometryRegularizer(model)
    blob = pickle.dumps(model)
    iso.detach()
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # where a new process starts to count
    loaded = pickle.loads(blob)
    seen: list[int] = []
    for module in (loaded, loaded[4]):
        module.register_forward_pre_hook(lambda _module, args: seen.append(len(args)))
        module.register_forward_hook(lambda _module, args, _out: seen.append(len(args)))
    loaded(batch("mlp"))
    assert seen == [1, 1, 1, 1]


def test_neither_the_record_nor_the_library_is_pickled_with_the_model() -> None:
    model, twin = build("mlp"), build("mlp")
    iso = IsometryRegularizer(model)
    model(torch.randn(10_000, 6))
    blob = pickle.dumps(model)
    assert len(blob) < len(pickle.dumps(twin)) + 5_000
    assert b"isoreg" not in blob  # it can be loaded where isoreg is not installed
    iso.detach()


# After detaching, the model is an untouched twin


def by_detach(model: nn.Module, x: Tensor) -> None:
    iso = IsometryRegularizer(model)
    model(x)
    iso.detach()


def by_context(model: nn.Module, x: Tensor) -> None:
    with IsometryRegularizer(model):
        model(x)


def by_exception(model: nn.Module, x: Tensor) -> None:
    with suppress(KeyError), IsometryRegularizer(model):
        model(x)
        raise KeyError


def by_dropping_it(model: nn.Module, x: Tensor) -> None:
    iso = IsometryRegularizer(model)
    model(x)
    del iso
    gc.collect()


@pytest.mark.parametrize("leave", [by_detach, by_context, by_exception, by_dropping_it])
@pytest.mark.parametrize("kind", MODELS)
def test_a_detached_model_equals_an_untouched_twin(
    kind: str, leave: Callable[[nn.Module, Tensor], None]
) -> None:
    model, twin, x = build(kind), build(kind), batch(kind)
    twin(x)  # what `leave` runs, without a regularizer
    leave(model, x)
    assert_same_model(model, twin)
    duplicate, restored = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert_same_model(duplicate, copy.deepcopy(twin))
    assert_same_model(restored, pickle.loads(pickle.dumps(twin)))
    out = twin.eval()(x)
    for same in (model, duplicate, restored):
        torch.testing.assert_close(same.eval()(x), out, rtol=0, atol=0)


def test_every_option_that_hooks_the_model_is_undone_by_detach() -> None:
    model, twin = build("mlp"), build("mlp")
    iso = IsometryRegularizer(model, ["0", "1", "4"], inputs="2")
    assert hooks(model) != hooks(twin)
    iso.detach()
    assert_same_model(model, twin)


def test_detach_keeps_the_hooks_of_others() -> None:
    model, calls = build("mlp"), []
    model[4].register_forward_hook(lambda *_: calls.append("before"))
    iso = IsometryRegularizer(model)
    model[4].register_forward_hook(lambda *_: calls.append("after"))
    iso.detach()
    model(batch("mlp"))
    assert calls == ["before", "after"]


def test_detaching_twice_is_harmless_and_a_detached_regularizer_records_nothing() -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    iso.detach()
    iso.detach()
    model(batch("mlp"))
    with pytest.raises(RecordError):
        iso(Y)


def test_a_context_manager_hands_out_the_regularizer_attached() -> None:
    model, x = build("mlp"), batch("mlp")
    with IsometryRegularizer(model) as iso:
        model(x)
        torch.testing.assert_close(iso(Y), expected("mlp", x))
    assert sum(hooks(model).values()) == 0, "also while the regularizer lives"


def test_two_regularizers_on_one_model_know_nothing_of_each_other() -> None:
    model, x = build("mlp"), batch("mlp")
    first, second = IsometryRegularizer(model, "0"), IsometryRegularizer(model)
    model(x)
    torch.testing.assert_close(second(Y), expected("mlp", x))
    torch.testing.assert_close(first(Y), isometry_penalty(x, model[:1](x), Y))
    with first.paused():
        model(x)
    torch.testing.assert_close(second(Y), expected("mlp", x))
    with pytest.raises(RecordError):
        first(Y)
    first.detach()
    model(x)
    torch.testing.assert_close(second(Y), expected("mlp", x))


# Memory: no cycle keeps a tensor alive, so nothing waits for the garbage collector


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(size: int) -> int:
    """Computed tensors whose last axis has this (deliberately odd) size."""
    tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
    tensors = [t for t in tensors if t.layout is torch.strided and not t.is_nested and t.ndim > 1]
    # what other tests compiled may have left tensors whose sizes are symbols
    sizes = [t.shape[-1] for t in tensors if not t.is_leaf]
    return sum(isinstance(each, int) and each == size for each in sizes)


def odd(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4))


def watch(module: nn.Module) -> list[weakref.ref[Tensor]]:
    """Weak references to every output of `module` from now on."""
    seen: list[weakref.ref[Tensor]] = []
    module.register_forward_hook(lambda _module, _args, out: seen.append(weakref.ref(out)))
    return seen


@pytest.mark.parametrize("layers", [None, ["0", "1"]])
@pytest.mark.usefixtures("no_gc")
def test_a_read_record_is_freed_with_its_loss(layers: list[str] | None) -> None:
    model = odd(37)
    seen = watch(model[0]) + watch(model[1])
    iso = IsometryRegularizer(model, layers)
    for _ in range(3):
        loss = F.cross_entropy(model(batch("mlp")), Y) + iso(Y)
        loss.backward()
        del loss
        assert all(ref() is None for ref in seen)
        assert alive(37) == 0
    assert all(not p.requires_grad and p.grad_fn is None for p in iso.penalties.values())


@pytest.mark.usefixtures("no_gc")
def test_reading_drops_the_record_even_while_the_loss_is_not_kept() -> None:
    model = odd(41)
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    assert alive(41) > 0
    iso(Y).item()
    assert alive(41) == 0


@pytest.mark.usefixtures("no_gc")
def test_a_record_never_read_is_freed_by_the_next_forward() -> None:
    model = odd(43)
    iso = IsometryRegularizer(model)
    counts = []
    for _ in range(4):
        model(batch("mlp"))
        counts.append(alive(43))
    assert counts == [counts[0]] * 4
    assert counts[0] > 0
    iso(Y)


@pytest.mark.usefixtures("no_gc")
def test_detach_frees_a_record_that_nobody_read() -> None:
    model = odd(47)
    seen, x = watch(model[1]), batch("mlp")
    iso = IsometryRegularizer(model)
    model(x)
    assert alive(47) > 0
    iso.detach()
    assert seen[0]() is None
    assert alive(47) == 0


@pytest.mark.usefixtures("no_gc")
def test_the_inputs_are_freed_with_the_record() -> None:
    model = odd(53)
    iso = IsometryRegularizer(model)
    x = batch("mlp")
    ref = weakref.ref(x)
    model(x)
    iso(Y).item()
    del x
    assert ref() is None


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("build_odd", [lambda: odd(61), Stumbling], ids=["known", "searched"])
def test_a_forward_that_is_not_recorded_keeps_nothing_alive(
    build_odd: Callable[[], nn.Module],
) -> None:
    model, x = build_odd(), batch("mlp")
    seen = watch(list(model.children())[1])
    iso = IsometryRegularizer(model)
    evaluation(model, x)
    with iso.paused():
        model(x)
    under_no_grad(model, x)
    assert len(seen) == 3
    assert all(ref() is None for ref in seen)


@pytest.mark.parametrize("layers", [None, "first"])
@pytest.mark.usefixtures("no_gc")
def test_a_forward_that_raised_keeps_nothing_alive_and_is_no_record(layers: str | None) -> None:
    model = Stumbling()
    model.stumble = True
    iso = IsometryRegularizer(model, layers)
    with pytest.raises(FloatingPointError):
        model(batch("mlp"))
    assert alive(71) == 0
    with pytest.raises(RecordError):
        iso(Y)


class Describe(nn.Module):
    def forward(self, x: Tensor) -> tuple[str, str]:
        return "shape", str(x.shape)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.describe, self.head = nn.Linear(6, 67), Describe(), nn.Linear(67, 4)
        self.extra = nn.Linear(67, 67)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        self.describe(hidden)
        return self.head(hidden)


@pytest.mark.parametrize(
    ("layers", "labels"),
    [("body", Y[:3]), (["body", "describe"], Y), (["describe", "body"], Y), (None, Y[:3])],
)
@pytest.mark.usefixtures("no_gc")
def test_an_error_keeps_nothing_alive_once_it_is_handled(
    layers: str | list[str], labels: Tensor
) -> None:
    model = Odd()
    iso = IsometryRegularizer(model, layers)
    model(batch("mlp"))
    with pytest.raises((InputError, LayerError)):
        iso(labels)
    assert alive(67) == 0


@pytest.mark.usefixtures("no_gc")
def test_a_pass_whose_classifier_is_not_certain_keeps_nothing_alive_once_it_is_refused() -> None:
    model = Busy()
    model.body, model.head = nn.Linear(6, 3), nn.Linear(3, 6)  # an autoencoder
    seen = watch(model.body)
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    with pytest.raises(LayerError, match="as many numbers a sample as it takes"):
        iso(Y)
    assert seen[0]() is None


@pytest.mark.usefixtures("no_gc")
def test_a_dropped_regularizer_needs_no_garbage_collector_to_free_model_and_record() -> None:
    model = odd(59)
    seen = watch(model[1])
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    gone = weakref.ref(iso)
    del iso
    assert gone() is None
    assert seen[0]() is None


@pytest.mark.parametrize("layers", ["0", None])
def test_what_others_make_of_a_layers_output_is_what_is_compared(layers: str | None) -> None:
    model, x, iso = watched("mlp", layers)
    seen = []

    def doubled(module: nn.Module, args: object, output: Tensor) -> Tensor:
        seen.append(2 * output)
        return 2 * output

    chosen = model.get_submodule(iso.layers[0])
    if layers:
        chosen.register_forward_hook(doubled)
    else:
        chosen.register_forward_pre_hook(lambda module, args: doubled(module, (), args[0]))
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, seen[-1], Y))
    iso.detach()
    assert [len(h) for key, h in vars(chosen).items() if key.startswith("_forward") and h] == [1]


def test_a_pass_inside_vmap_is_refused_when_its_penalty_is_read_and_the_next_one_is_as_ever() -> (
    None
):
    model, x, iso = watched("mlp")
    states = {name: p.detach()[None] for name, p in model.named_parameters()}

    def ran(state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, state, (x,))

    for wrapped in (torch.vmap(ran), torch.vmap(torch.func.grad(lambda state: ran(state).sum()))):
        wrapped(states)
        with pytest.raises(InputError, match="torch.vmap is not supported"):
            iso(Y)
    model(x)
    torch.testing.assert_close(iso(Y), expected("mlp", x))


def test_steps_of_packed_sequences_are_not_taken_for_samples() -> None:
    lengths = torch.tensor([4, 3, 2, 2])
    packed = nn.utils.rnn.pack_padded_sequence(torch.rand(4, 4, 3), lengths, batch_first=True)
    model, reference = nn.Sequential(nn.GRU(3, 5, batch_first=True)), torch.rand(4, 2)
    for named in (False, True):
        if named:
            model[0].register_forward_hook(lambda module, args, output: {"steps": [output[0]]})
        iso = IsometryRegularizer(model, "0")
        model(packed)
        with pytest.raises(LayerError, match="got a PackedSequence, whose rows are steps"):
            iso(None)
    model[0]._forward_hooks.clear()
    iso = IsometryRegularizer(model, "0", pool=lambda output: output[1][-1])
    features = model(packed)[1][-1]
    value = iso(None, reference=reference)
    torch.testing.assert_close(value, isometry_penalty(reference, features))
