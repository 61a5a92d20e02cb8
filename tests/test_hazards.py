"""What breaks plug-ins of this kind: compilers, replicas, threads, processes, frozen layers."""

from __future__ import annotations

import copy
import gc
import os
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from isoreg import InputError, IsometryRegularizer, LayerError, RecordError, isometry_penalty
from isoreg._attach.layers import Layers

Y = torch.arange(12) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def expected(model: Net, x: Tensor, y: Tensor = Y) -> Tensor:
    return isometry_penalty(x, torch.tanh(model.body(x)), y)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("first", ["attach", "compile", "compile and attach to the compiled"])
def test_a_compiled_model_is_recorded_when_attached_before_its_first_call(first: str) -> None:
    model, x = Net(), torch.randn(12, 6)
    if first == "attach":
        iso = IsometryRegularizer(model)
        run = compiled(model)
    else:
        run = compiled(model)
        iso = IsometryRegularizer(run if "to the" in first else model)  # type: ignore[arg-type]
    for _ in range(2):
        run(x)
        torch.testing.assert_close(iso(Y), expected(model, x))


@pytest.mark.usefixtures("_fresh_compiler")
def test_attaching_after_a_compiled_call_is_an_error_that_says_how() -> None:
    model, x = Net(), torch.randn(12, 6)
    run = compiled(model)
    run(x)
    for target in (model, run):
        iso = IsometryRegularizer(target)  # type: ignore[arg-type]
        run(x)
        with pytest.raises((RecordError, LayerError), match=r"attach before its first.*\.reset"):
            iso(Y)
        iso.detach()


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_second_model_of_a_compiled_class_is_an_error_and_the_advice_works() -> None:
    x = torch.randn(12, 6)
    compiled(Net())(x)
    model = Net()
    iso = IsometryRegularizer(model)
    run = compiled(model)
    run(x)
    with pytest.raises((RecordError, LayerError), match=r"second model.*_dynamo\.reset"):
        iso(Y)
    torch._dynamo.reset()
    run(x)
    torch.testing.assert_close(iso(Y), expected(model, x))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("layers", [None, ["0", "2"]])
def test_models_of_one_kind_are_compiled_once_however_many_steps_they_take(
    layers: list[str] | None,
) -> None:
    counter, x = CompileCounter(), torch.randn(12, 6)
    for _ in range(3):
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        iso, run = IsometryRegularizer(model, layers), torch.compile(model, backend=counter)
        for _ in range(34):  # the first, and one in 32, are looked at closely
            (run(x).sum() + iso(Y)).backward()
    assert counter.frame_count == 1


def test_hooks_have_numbers_that_no_other_hook_has() -> None:
    model, calls = Net(), list[str]()
    model.register_forward_hook(lambda *_: calls.append("user's"))
    first, second = IsometryRegularizer(model, "body"), IsometryRegularizer(model, "body")
    loaded = copy.deepcopy(model)  # holds the hooks' numbers
    third = IsometryRegularizer(loaded, "body")
    first.detach()
    x = torch.randn(12, 6)
    model(x), loaded(x)
    assert calls == ["user's"] * 2
    assert_close(second(Y), isometry_penalty(x, model.body(x), Y))
    assert_close(third(Y), isometry_penalty(x, loaded.body(x), Y))


def test_a_regularizer_that_is_made_anew_for_its_model_loses_no_hook_to_the_old_one() -> None:
    model, x = Net(), torch.randn(12, 6)
    for _ in range(3):  # as a notebook's cell that is run again
        iso = IsometryRegularizer(model)
        model(x)
        assert_close(iso(Y), expected(model, x))


def test_data_parallel_is_refused_with_its_replacement() -> None:
    with pytest.raises(InputError, match=r"DataParallel.*DistributedDataParallel"):
        IsometryRegularizer(nn.DataParallel(Net()))


def test_threads_keep_their_records_apart() -> None:
    model, wrong = Net(), []
    iso = IsometryRegularizer(model)

    def train(seed: int) -> None:
        x = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        twin = Net()
        twin.load_state_dict(model.state_dict())
        value = expected(twin, x)
        for _ in range(30):
            model(x)
            if not torch.allclose(iso(Y), value):
                wrong.append(seed)

    workers = [threading.Thread(target=train, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


class Waits(Net):
    """Waits at one place of a pass until another thread's pass is done."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.meanwhile = where, lambda: None
        self.head.forward = self.heads

    def at(self, where: str) -> None:
        meanwhile = self.meanwhile
        if where == self.where:
            self.meanwhile = lambda: None
            meanwhile()

    def heads(self, x: Tensor) -> Tensor:
        self.at("inside the classifier")
        return F.linear(x, self.head.weight, self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(x))
        self.at("before the classifier")
        logits = self.head(hidden)
        self.at("behind the classifier")
        return logits


def in_a_thread(function: Callable[[], None]) -> Callable[[], None]:
    def meanwhile() -> None:
        worker = threading.Thread(target=function)
        worker.start()
        worker.join()

    return meanwhile


@pytest.mark.parametrize("where", ["before", "inside", "behind"])
def test_the_first_pass_of_a_thread_finds_the_classifier_while_another_one_s_does(
    where: str,
) -> None:
    model, x, other = Waits(f"{where} the classifier"), torch.randn(12, 6), torch.randn(12, 6)
    iso, values = IsometryRegularizer(model), []

    def train() -> None:
        model(other)
        values.append(iso(Y))

    model.meanwhile = in_a_thread(train)
    model(x)
    torch.testing.assert_close(iso(Y), expected(model, x))
    torch.testing.assert_close(values, [expected(model, other)])
    model(x)
    torch.testing.assert_close(iso(Y), expected(model, x))
    hooked = {n for n, m in model.named_modules() if m._forward_pre_hooks or m._forward_hooks}
    assert hooked == {"", "head"}, "nothing is searched any more"


def test_a_pass_of_another_thread_is_recorded_while_a_classifier_is_looked_for() -> None:
    torch._dynamo.reset()
    model, other, x, values = Waits("before the classifier"), Net(), torch.randn(12, 6), []
    looks, iso = IsometryRegularizer(model), IsometryRegularizer(other, "head")

    def train() -> None:
        other(x)
        values.append(iso(Y))

    model.meanwhile = in_a_thread(train)
    model.compile(backend="eager")  # so that another pass looks for the classifier
    model(x)
    assert looks.layers == ["head"]
    expected = isometry_penalty(x, other(x), Y)
    torch.testing.assert_close(values, [expected, expected])  # and in the pass itself
    torch._dynamo.reset()


def test_of_a_thread_that_ended_nothing_is_kept_once_another_one_calls() -> None:
    model, x, records = Net(), torch.randn(12, 6), []
    iso = IsometryRegularizer(model)

    def call() -> None:
        model(x)
        records.append(weakref.ref(iso._recorder._states.current.finished))

    for _ in range(3):
        worker = threading.Thread(target=call)
        worker.start()
        worker.join()
    gc.collect()
    assert [record() for record in records[:2]] == [None, None]


def test_parametrized_layers_get_the_gradient_of_the_penalty() -> None:
    model, x = Net(), torch.randn(12, 6)
    nn.utils.parametrizations.weight_norm(model.body)
    iso = IsometryRegularizer(model)
    model(x)
    found = torch.autograd.grad(iso(Y), tuple(model.body.parameters()))
    reference = torch.autograd.grad(expected(model, x), tuple(model.body.parameters()))
    torch.testing.assert_close(found, reference)


def test_functional_call_is_penalised_for_the_parameters_that_it_was_given() -> None:
    model, x = Net(), torch.randn(12, 6)
    iso = IsometryRegularizer(model)
    given_ = {name: (2 * p).detach().requires_grad_() for name, p in model.named_parameters()}
    torch.func.functional_call(model, given_, (x,))
    (found,) = torch.autograd.grad(iso(Y), given_["body.weight"])
    features = torch.tanh(F.linear(x, given_["body.weight"], given_["body.bias"]))
    (reference,) = torch.autograd.grad(isometry_penalty(x, features, Y), given_["body.weight"])
    torch.testing.assert_close(found, reference)


def test_gradient_accumulation_adds_the_penalties_of_the_parts() -> None:
    model = Net()
    iso = IsometryRegularizer(model)
    parts = [torch.randn(12, 6) for _ in range(3)]
    for x in parts:
        model(x)
        iso(Y).backward()
    found = model.body.weight.grad.clone()  # type: ignore[union-attr]
    total = torch.stack([expected(model, x) for x in parts]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, model.body.weight)[0])


def train_in_two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = Net()
    wrapped = DistributedDataParallel(model)
    iso = IsometryRegularizer(model if rank else wrapped)
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(rank))
    (F.cross_entropy(wrapped(x), Y) + iso(Y)).backward()
    torch.save(model.body.weight.grad, f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # the other rank may still wait for this one
    os._exit(0)  # gloo's threads may abort a process that ends by itself


def test_under_ddp_each_rank_penalises_its_own_batch_and_gradients_are_averaged(
    tmp_path: Path,
) -> None:
    mp.spawn(train_in_two_processes, args=(str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = Net()
    losses = []
    for rank in range(2):
        x = torch.randn(12, 6, generator=torch.Generator().manual_seed(rank))
        losses.append(F.cross_entropy(model(x), Y) + expected(model, x))
    (reference,) = torch.autograd.grad(sum(losses) / 2, model.body.weight)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), reference)


def test_stages_are_those_of_timms_feature_info() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=4)
    assert IsometryRegularizer(model, "stages").layers == [
        info["module"] for info in model.feature_info
    ]
    with pytest.raises(LayerError, match="stages"):
        IsometryRegularizer(Net(), "stages")


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(width // 2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (2, -1))
        return self.mix(tokens, tokens, tokens)[0].flatten(1)


class Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.filter(x[:, None])[:, 0]


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, width),
    "convolution": Convolution,
    "attention": Attention,
    "residual": lambda width: Residual(nn.Linear(width, width)),
    "in place": lambda width: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, width)),
    "norm": nn.LayerNorm,
}


@settings(max_examples=40)
@given(
    kinds=st.lists(st.sampled_from([*BLOCKS, "shared"]), min_size=1, max_size=5),
    chosen=st.integers(0, 4),
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=10),
    seed=st.integers(0, 1000),
)
def test_any_network_gets_the_gradient_that_a_loss_by_hand_would_give(
    kinds: list[str], chosen: int, labels: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    shared = nn.Linear(6, 6)
    blocks = [shared if kind == "shared" else BLOCKS[kind](6) for kind in kinds]
    model = nn.Sequential(nn.Linear(4, 6), *blocks, nn.Linear(6, 3)).double()
    x, y = torch.randn(len(labels), 4, dtype=torch.float64), torch.tensor(labels) % 3
    layer = model[1 + chosen % len(blocks)]
    hidden, features = x, []
    for module in model:
        hidden = module(hidden)
        if module is layer:
            features.append(hidden.clone())
    by_hand = F.cross_entropy(hidden, y) + 0.3 * isometry_penalty(x, features, y).sum()
    reference = torch.autograd.grad(by_hand, tuple(model.parameters()))
    iso = IsometryRegularizer(model, layer, beta=0.3)
    loss = F.cross_entropy(model(x), y) + iso(y)
    found = torch.autograd.grad(loss, tuple(model.parameters()))
    torch.testing.assert_close(found, reference)


def test_inputs_may_be_a_layer_of_the_model_itself() -> None:
    model, x = Net(), torch.randn(12, 6)
    iso = IsometryRegularizer(model, inputs=model.body)
    model(x)
    reference = isometry_penalty(model.body(x).detach(), torch.tanh(model.body(x)), Y)
    torch.testing.assert_close(iso(Y), reference)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("part", ["compiled", "uncompiled"])
def test_a_part_is_recorded_that_is_compiled_or_not_as_the_rest_is_not_or_is(part: str) -> None:
    class Parts(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.part(x))

    model, x = Parts(), torch.randn(12, 6)
    iso = IsometryRegularizer(model, "body", beta=1.0)
    part_of = torch.compiler.disable if part == "uncompiled" else compiled
    model.part = part_of(lambda x: torch.tanh(model.body(x)))
    run = compiled(model) if part == "uncompiled" else model
    for _ in range(2):
        run(x)
        torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))


class Deep(nn.Module):
    """A model of more modules than torch.compile compiles one function for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(9))
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(self.norm(self.drop(x)))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_default_layer_of_a_deep_compiled_model_is_found_and_nothing_else_changes(
    backend: str,
) -> None:
    torch._dynamo.reset()
    x, y, found = torch.rand(12, 6), torch.arange(12) % 2, []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Deep()
        iso = IsometryRegularizer(model)
        call = torch.compile(model, backend=backend) if compiled else model
        torch.manual_seed(1)
        losses = []
        for n in (12, 12, 8):
            loss = call(x[:n]).square().mean() + iso(y[:n])
            loss.backward()
            losses.append(loss.detach())
        found.append((losses, model.head.weight.grad, model.norm.running_mean, model.training))
        assert iso.layers == ["head"]
    torch.testing.assert_close(found[0], found[1])
    torch._dynamo.reset()


class Noisy(nn.Module):
    """It draws, counts, and returns something else for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(6, 5), nn.Linear(5, 3)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.steps = 0
        self.losses: list[Tensor] = []
        self.kept = {"last": deque([0], maxlen=2), "counts": Counter(), "seen": {0}}

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.losses.append(x.square().mean())
        self.kept["last"].append(len(self.losses))
        self.kept["counts"]["passes"] += 1
        self.kept["seen"].add(len(self.losses))
        self.mean = 0.9 * self.mean + x.mean().detach()  # another tensor each time
        self.steps += 1
        self.later = getattr(self, "later", 0) + 1  # which a first pass adds
        z = self.body(x + torch.randn_like(x) + random.random() + np.random.rand())
        return self.fc(z) if self.training else z


def test_the_pass_that_looks_for_a_classifier_leaves_nothing_and_nobody_else_sees_it() -> None:
    x, y, found = torch.rand(12, 6), torch.arange(12) % 2, []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Noisy()
        named = IsometryRegularizer(model, "body", inputs="body")
        both = [IsometryRegularizer(model), IsometryRegularizer(model)]
        call = torch.compile(model, backend="eager") if compiled else model
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        steps = []
        for _ in range(3):
            out = call(x)
            steps += [out.sum(), named(y), *[iso(y) for iso in both]]
        assert [iso.layers for iso in both] == [["fc"], ["fc"]]
        found.append((*steps, model.passes, model.mean, model.steps, model.later))
        last, counts, seen = model.kept.values()
        found[-1] += (model.losses, list(last), counts["passes"], sorted(seen))
    torch.testing.assert_close(*found)
    torch._dynamo.reset()


def test_where_no_classifier_is_found_before_a_compiled_pass_one_is_told_to_name_the_layer() -> (
    None
):
    class Once(Noisy):
        tried: ClassVar[list[bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            if not self.tried:
                self.tried.append(True)
                raise ValueError("not yet")
            return super().forward(x)

    torch._dynamo.reset()
    model = Once()
    iso = IsometryRegularizer(model)
    torch.compile(model, backend="eager")(torch.rand(4, 6))
    with pytest.raises(LayerError, match=r"not yet.*layers="):
        iso(None)
    model(torch.rand(4, 6))  # uncompiled it is found
    iso(None)
    torch._dynamo.reset()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.fc(torch.tanh(self.body(x)))


def find_classifiers_of_wrappers(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=1
    )
    model, x, y = Scaled(), torch.rand(12, 6), torch.arange(12) % 2
    expected = isometry_penalty(x, torch.tanh(model.body(x)), y)
    compiled = torch.compile(model, backend="eager")
    for wrapped, name in (
        (DistributedDataParallel(model), "module.fc"),
        (compiled, "_orig_mod.fc"),
        (DistributedDataParallel(compiled), "module._orig_mod.fc"),
        (torch.compile(DistributedDataParallel(model), backend="eager"), "_orig_mod.module.fc"),
    ):
        torch._dynamo.reset()
        with IsometryRegularizer(wrapped) as iso:
            wrapped(x)
            torch.testing.assert_close(iso(y), expected)
            assert iso.layers == [name]
        around = name.removesuffix("fc")
        selectors: list[Layers] = ["body", "bod?", {"body": 2.0, "b*": 1.0}, around + "body"]
        for layers in selectors:  # by the name that it had before, or the one that it has
            torch._dynamo.reset()
            with IsometryRegularizer(wrapped, layers, inputs="body") as iso:
                wrapped(x)
                features = model.body(x)
                weight = 2.0 if isinstance(layers, dict) else 1.0
                penalty = isometry_penalty(features.detach(), features, y)
                torch.testing.assert_close(iso(y), weight * penalty)
                assert iso.layers == [around + "body"]
    os._exit(0)  # gloo's threads may abort a process that ends by itself


def test_what_wrappers_hold_is_no_classifier(tmp_path: Path) -> None:
    mp.spawn(find_classifiers_of_wrappers, args=(str(tmp_path),), nprocs=1)


def test_why_no_classifier_is_found_before_a_compiled_part_is_said() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 5)
            self.fine, self.coarse = nn.Linear(5, 3), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.tanh(self.body(x))
            return self.fine(hidden), self.coarse(hidden)

    torch._dynamo.reset()
    model = nn.Sequential(torch.compile(Two(), backend="eager"))
    iso = IsometryRegularizer(model)
    model(torch.rand(12, 6))
    with pytest.raises(LayerError, match="made by '0._orig_mod.fine', '0._orig_mod.coarse'"):
        iso(Y)
    torch._dynamo.reset()
