"""Modules that move, leave or are exchanged after attaching: the same modules are compared."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoreg import (
    AutoBeta,
    InputError,
    IsometryRegularizer,
    LayerError,
    RecordError,
    ReferenceHead,
    isometry_penalty,
)

DRAWS = torch.Generator().manual_seed(0)
X, Y = torch.rand(12, 6, generator=DRAWS), torch.arange(12) % 3


class Blocks(nn.Module):
    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(count)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x)


def compared(model: nn.Module, modules: list[nn.Module]) -> Tensor:
    """The penalties of what modules return, by hooks of our own."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda *given: found.append(given[2])) for module in modules
    ]
    model(X)
    for hook in hooks:
        hook.remove()
    return sum(isometry_penalty(X, x, Y) for x in found)


def prune(model: Blocks) -> None:
    del model.blocks[1]


def rebuild(model: Blocks) -> None:
    model.blocks = nn.ModuleList([block for k, block in enumerate(model.blocks) if k != 2])


def swap(model: Blocks) -> None:
    model.blocks[0], model.blocks[1] = model.blocks[1], model.blocks[0]


def insert(model: Blocks) -> None:
    model.blocks.insert(1, nn.Linear(6, 6))


@pytest.mark.parametrize("change", [prune, rebuild, swap, insert])
@pytest.mark.parametrize("seen", [True, False])
def test_watched_modules_stay_watched_under_their_new_names(change: Callable, seen: bool) -> None:
    model = Blocks()
    iso, before = IsometryRegularizer(model, "blocks.*"), [*model.blocks]
    if seen:
        model(X)
        iso(Y)
    change(model)
    model(X)
    kept = [block for block in before if any(block is other for other in model.blocks)]
    value = iso(Y)
    names = {module: name for name, module in model.named_modules()}
    assert sorted(iso.layers) == sorted(names[block] for block in kept)
    torch.testing.assert_close(value, compared(model, kept))
    assert list(iso.penalties) == sorted(iso.layers)


def test_a_module_keeps_its_weight_where_it_moves() -> None:
    model = Blocks()
    iso = IsometryRegularizer(model, {"blocks.1": 1.0, "blocks.3": 5.0})
    last = model.blocks[3]
    del model.blocks[0]
    model(X)
    value = iso(Y)
    assert iso.layers == ["blocks.0", "blocks.2"]
    expected = compared(model, [model.blocks[0]]) + 5 * compared(model, [last])
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("layers", [None, "2", nn.Linear])
def test_a_chain_that_grows_in_front_shifts_what_is_watched(layers: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    iso, third = IsometryRegularizer(model, layers), model[2]
    linear = [m for m in model if isinstance(m, nn.Linear)]
    model.insert(1, nn.Sigmoid())
    model(X)
    watched = {None: [model[4]], "2": [third], nn.Linear: linear}[layers]
    torch.testing.assert_close(iso(Y), compared(model, watched))


def test_a_reference_that_moves_is_followed() -> None:
    model = Blocks()
    iso, first = IsometryRegularizer(model, "blocks.3", inputs="blocks.1"), model.blocks[1]
    last = model.blocks[3]
    del model.blocks[0]
    model(X)
    references: list[Tensor] = []
    hook = first.register_forward_hook(lambda *given: references.append(given[2].detach()))
    features: list[Tensor] = []
    other = last.register_forward_hook(lambda *given: features.append(given[2]))
    value = iso(Y)
    model(X)
    torch.testing.assert_close(value, isometry_penalty(references[0], features[0], Y))
    hook.remove(), other.remove()


def test_a_layer_that_left_is_not_forgotten_in_silence() -> None:
    model = Blocks()
    iso = IsometryRegularizer(model, "blocks.3")
    del model.blocks[3]
    model(X)
    with pytest.raises(RecordError, match=r"layer 'blocks.3' did not run"):
        iso(Y)


def test_a_layer_that_was_exchanged_is_watched_in_its_place() -> None:
    model = Blocks()
    iso = IsometryRegularizer(model, "blocks.1")
    model.blocks[1] = nn.Linear(6, 6)
    model(X)
    torch.testing.assert_close(iso(Y), compared(model, [model.blocks[1]]))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x)))


@pytest.mark.parametrize(
    ("build", "classifier"),
    [
        (lambda head: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), "head.2"),
        (lambda head: nn.Sequential(head, nn.Tanh(), nn.Linear(3, 4)), "head.2"),
        (lambda head: Head(), "head.out"),
        (lambda head: nn.Linear(6, 4), "head"),
    ],
)
@pytest.mark.parametrize("beta", [1.0, "auto"])
def test_of_a_head_that_was_exchanged_what_enters_its_classifier_is_compared(
    build: Callable[[nn.Module], nn.Module], classifier: str, beta: Any
) -> None:
    model = Blocks()
    iso = IsometryRegularizer(model, beta=beta)
    for _ in range(2):
        (model(X).square().mean() + iso(Y)).backward()
    assert iso.layers == ["head"]
    model.head = build(model.head)
    entering: list[Tensor] = []
    last = model.get_submodule(classifier)
    hook = last.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    for _ in range(2):
        model(X)
        iso(Y)
        found = iso.penalties[classifier]
        torch.testing.assert_close(found, isometry_penalty(X, entering[-1], Y).detach())
    hook.remove()
    assert iso.layers == [classifier]
    iso.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Pretext(Head):
    def __init__(self, top: nn.Module | None) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        projected = super().forward(x)
        return projected if self.top is None else self.top(projected)


@pytest.mark.parametrize("before", [None, nn.Identity()], ids=["none", "identity"])
def test_what_enters_a_head_that_comes_on_top_after_the_first_pass_is_compared(
    before: nn.Module | None,
) -> None:
    model = Pretext(before)
    iso = IsometryRegularizer(model)
    model(X)
    iso(Y)
    assert iso.layers == ["out"]
    model.top = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    for _ in range(2):
        model(X)
        value = iso(Y)
        assert iso.layers == ["top.2"]
        entering = model.top[:2](Head.forward(model, X))
        torch.testing.assert_close(value, isometry_penalty(X, entering, Y))
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 2  # model's and classifier's


def test_a_chain_that_grows_after_its_first_pass_is_watched_at_its_new_end() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6))
    iso = IsometryRegularizer(model)
    model(X)
    with pytest.raises(LayerError, match="as many numbers a sample as it takes"):
        iso(Y)
    model.append(nn.Linear(6, 2))
    for _ in range(3):
        model(X)
        torch.testing.assert_close(iso(Y), isometry_penalty(X, model[:3](X), Y))
        assert iso.layers == ["3"]
    model.append(nn.Linear(2, 7))
    for _ in range(3):
        model(X)
        torch.testing.assert_close(iso(Y), isometry_penalty(X, model[:4](X), Y))
        assert iso.layers == ["4"]
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 2


def test_after_detach_nothing_of_the_model_is_kept() -> None:
    model = Blocks()
    iso = IsometryRegularizer(model, "blocks.*")
    parameters = [weakref.ref(p) for p in model.parameters()]
    iso.detach()
    names = iso.layers
    del model
    gc.collect()
    assert not any(parameter() is not None for parameter in parameters)
    assert names == iso.layers == [f"blocks.{k}" for k in range(4)]


# Uses, transforms and scripted parts


def test_a_frozen_layer_may_run_many_times() -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        relu = nn.ReLU()
        return nn.Sequential(nn.Linear(6, 5), relu, nn.Linear(5, 5), relu, nn.Linear(5, 5), relu)

    values = []
    for frozen in (False, True):
        model = made()
        model[0].requires_grad_(not frozen)
        model[2].requires_grad_(not frozen)
        model[4].requires_grad_(not frozen)
        iso = IsometryRegularizer(model, nn.ReLU)
        model(X)
        if frozen:
            with pytest.warns(UserWarning, match="need no gradient"):
                values.append(iso(Y))
        else:
            values.append(iso(Y))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("transform", ["jvp", "vjp"])
def test_a_pass_inside_a_transform_that_has_ended_has_its_gradient(transform: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    iso = IsometryRegularizer(model, "1", inputs="0")
    if transform == "jvp":
        torch.func.jvp(model, (X,), (torch.ones_like(X),))
    else:
        _, _pullback = torch.func.vjp(model, X)
    iso(Y).backward()
    found = model[0].weight.grad.clone()
    model.zero_grad()
    isometry_penalty(model[0](X).detach(), model[:2](X), Y).backward()
    torch.testing.assert_close(found, model[0].weight.grad)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_model_may_hold_scripted_parts_and_its_teacher_may_be_frozen() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(6, 6)), nn.Linear(6, 5), nn.Linear(5, 3))
    teacher = torch.jit.freeze(torch.jit.script(nn.Linear(6, 4).eval()))
    iso = IsometryRegularizer(model, "1", inputs=teacher)
    model(X)
    torch.testing.assert_close(iso(Y), isometry_penalty(teacher(X), model[:2](X), Y))
    with pytest.raises(LayerError, match=r"layer '0' is of torch.jit.script and takes no hooks"):
        IsometryRegularizer(model, "0")


# What callables and heads are given


@dataclasses.dataclass
class Batch:
    x: Tensor


class Graph:
    """As graph libraries and detection models hand on a batch: no container that is known."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Stored(MutableMapping):
    """Keeps its items in a dict of its own, which copy.copy shares."""

    def __init__(self, x: Tensor) -> None:
        self.items_by_name = {"x": x}

    def __getitem__(self, name: str) -> Tensor:
        return self.items_by_name[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.items_by_name[name] = value

    def __delitem__(self, name: str) -> None:
        del self.items_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_by_name)

    def __len__(self) -> int:
        return len(self.items_by_name)


Named = namedtuple("Named", "x")
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda x: {"x": x},
    "ordered": lambda x: OrderedDict(x=x),
    "user": lambda x: UserDict(x=x),
    "named": Named,
    "data class": Batch,
    "nested": lambda x: [{"x": x}],
    "object": Graph,
    "objects": lambda x: [Graph(x)],
    "stored": Stored,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_that_works_in_place_changes_nothing_of_the_call(kind: str) -> None:
    def tensor_of(batch: Any) -> Tensor:
        batch = batch[0] if isinstance(batch, list) else batch
        return batch["x"] if isinstance(batch, MutableMapping) else batch.x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 3)

        def forward(self, batch: Any) -> Tensor:
            return self.body(tensor_of(batch))

    model, x = Net(), X.clone()
    expected, batch = model(KINDS[kind](X)), KINDS[kind](x)
    iso = IsometryRegularizer(model, "body", inputs=lambda batch: tensor_of(batch).mul_(3))
    output = model(batch)
    assert torch.equal(output, expected)
    assert torch.equal(x, X)
    assert tensor_of(batch) is x
    torch.testing.assert_close(iso(Y), isometry_penalty(3 * X, output, Y))


def test_where_the_tensors_of_an_object_are_is_asked() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 6)

        def forward(self, batch: Graph) -> Tensor:
            return self.body(batch.x)

    model = Net()
    iso = IsometryRegularizer(model, "body")
    model(Graph(X))
    with pytest.raises(InputError, match=r"with an object that is no container\. Say what"):
        iso(Y)
    iso = IsometryRegularizer(model, "body", inputs=lambda batch: batch.x)
    model(Graph(X))
    torch.testing.assert_close(iso(Y), isometry_penalty(X, model.body(X), Y))


def test_a_teacher_that_writes_to_the_batch_leaves_it_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 6)

        def forward(self, batch: Graph) -> Tensor:
            batch.x = self.body(batch.x)
            return batch.x

    student, teacher = Net(), Net()
    iso = IsometryRegularizer(student, "body", inputs=teacher)
    torch.testing.assert_close(student(Graph(X)), student.body(X))
    torch.testing.assert_close(iso(Y), isometry_penalty(teacher.body(X), student.body(X), Y))


def test_an_automatic_weight_that_is_given_twice_begins_anew() -> None:
    def run(beta: Any) -> list[float]:
        torch.manual_seed(0)
        model, found = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), []
        iso = IsometryRegularizer(model, beta=beta)
        for _ in range(4):
            (nn.functional.cross_entropy(model(X), Y) + iso(Y)).backward()
            found.append(iso.beta)
        iso.beta = iso._beta  # its own
        assert iso.beta == found[-1]
        return found

    shared = AutoBeta(0.3)
    assert run(shared) == run(shared) == run(AutoBeta(0.3))
    assert float(shared.beta) > 0  # the first run's


def test_a_head_whose_width_was_not_known_is_loaded_and_its_gradients_are_cleared() -> None:
    torch.manual_seed(0)
    model = Blocks()
    head = ReferenceHead(model, 4)
    head.zero_grad()
    model(X)
    value = head(X[:, :4])
    other = ReferenceHead(copy.deepcopy(model), 4)
    twin = Blocks()
    twin.load_state_dict(model.state_dict())
    other = ReferenceHead(twin, 4)
    other.load_state_dict(head.state_dict())
    twin(X)
    torch.testing.assert_close(other(X[:, :4]), value)
    value.backward()
    head.zero_grad()
    assert head.linear.weight.grad is None


# What is refused


class Group:
    """Lives in one process."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle 'ProcessGroup' object")


def test_a_copy_of_a_regularizer_has_no_group_and_watches_nothing() -> None:
    iso = IsometryRegularizer(Blocks())
    iso.process_group = Group()
    with pytest.raises(RecordError, match="a copy watches no model"):
        copy.deepcopy(iso)(Y)
    iso.process_group = "world"
    assert copy.deepcopy(iso).process_group == "world"


def test_layers_come_in_any_order_that_can_be_gone_through() -> None:
    layers = {"a": X, "b": 2 * X}
    expected = isometry_penalty(X, [X, 2 * X], Y)
    assert torch.equal(isometry_penalty(X, layers.values(), Y), expected)
    assert torch.equal(isometry_penalty(X, (x for x in layers.values()), Y), expected)


def test_a_part_of_a_teacher_that_cannot_take_the_batch_is_named() -> None:
    model, teacher = Blocks(), nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2))
    iso = IsometryRegularizer(model, inputs=teacher[1])
    with pytest.raises(InputError, match=r"inputs: the network is called with what.*part"):
        model(X)
    assert iso.layers == []


def test_the_reference_of_a_call_that_is_of_other_samples_is_named() -> None:
    model = Blocks()
    iso = IsometryRegularizer(model)
    model(X)
    with pytest.raises(InputError, match=r"for 3 rows of the reference.*reference="):
        iso(Y, reference=X[:3])
    model(X)
    distances = torch.rand(12, 12)
    distances[1, 0] = torch.nan
    with pytest.raises(InputError, match="is NaN in both orders"):
        iso(None, distances=distances)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("at_input", [False, True])
def test_a_model_whose_layer_was_replaced_with_its_hooks_is_copied(
    detached: bool, at_input: bool
) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    iso = IsometryRegularizer(model, None if at_input else "2")
    new = nn.Linear(6, 3)
    for hook in model[2]._forward_hooks.values():
        new.register_forward_hook(hook)
    for hook in model[2]._forward_pre_hooks.values():
        new.register_forward_pre_hook(hook)
    model[2] = new  # as quantisation does, and then copies the model to convert it
    gc.collect()
    if detached:
        iso.detach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(X), model(X))
    if not detached:
        iso(Y)
