"""What is recorded where modules run several times, or take several tensors, or put time first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoreg import IsometryRegularizer, ReferenceHead, isometry_penalty
from isoreg.errors import InputError, IsoregError, LayerError, RecordError

torch.manual_seed(0)
N = 6
X = torch.randn(N, 8)
Y = torch.tensor([0, 1, 0, 1, 0, 1])


class Model(nn.Module):
    """A model whose forward pass is a function of it and of what it is called with."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.run(self, *args, **kwargs)


def expected(x: Tensor, features: Tensor, y: Tensor | None = Y) -> float:
    return float(isometry_penalty(x.flatten(1), features.flatten(1).detach(), y))


def steps(model: nn.Module, *args: Any, labels: Tensor | None = Y, **options: Any) -> list[float]:
    """The penalties of two steps on one batch."""
    iso, found = IsometryRegularizer(model, **options), []
    for _ in range(2):
        model(*args)
        found.append(iso(labels).item())
    return found


def test_the_first_step_sees_every_use_of_a_recurrent_classifier() -> None:
    entered: list[Tensor] = []

    def forward(model: Model, x: Tensor) -> Tensor:
        h, out = model.start(x).tanh(), torch.zeros(())
        entered.clear()
        for _ in range(3):
            h = model.cell(h).tanh()
            entered.append(h)
            out = out + model.head(h)
        return out

    layers = {"start": nn.Linear(8, 5), "cell": nn.Linear(5, 5), "head": nn.Linear(5, 3)}
    first, second = steps(Model(forward, **layers), X)
    assert first == second == pytest.approx(sum(expected(X, h) for h in entered), rel=1e-5)


def test_uses_meet_their_references_also_where_ranks_put_the_layers_in_one_order() -> None:
    layers = {"source": nn.Identity(), "a": nn.Linear(4, 5), "b": nn.Linear(5, 3)}
    model = Model(lambda m, x: sum(m.b(m.a(m.source(v))) for v in x.split(4, 1)), **layers)
    penalties, stresses = [], []
    for group in (None, "world"):
        options: dict[str, Any] = {"inputs": "source", "process_group": group}
        iso = IsometryRegularizer(model, ["a", "b"], **options)
        model(X * torch.arange(1, 9))
        iso(None)
        penalties.append({name: x.item() for name, x in iso.penalties.items()})
        layer_reports = iso.report().layers.items()
        stresses.append({name: layer.distortion.stress for name, layer in layer_reports})
    assert [*penalties[0]] == ["a", "b", "a:2", "b:2"]
    assert [*penalties[1]] == ["a", "a:2", "b", "b:2"]
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-5)
    assert stresses[0] == pytest.approx(stresses[1], rel=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_a_classifier_that_runs_without_gradients_too_is_refused_from_the_first_step_on(
    last: bool,
) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        def answer(x: Tensor) -> Tensor:
            return model.head(model.enc(x).tanh())

        if last:
            found = answer(x)
        with torch.no_grad(), model.leave_out():
            before = answer(x).sum()
        return found if last else answer(x + before)

    model = Model(forward, enc=nn.Linear(8, 5), head=nn.Linear(5, 3))
    iso = IsometryRegularizer(model)
    model.leave_out = contextlib.nullcontext
    for _ in range(2):
        model(X)
        with pytest.raises(IsoregError, match=r"without gradients .*inside `with iso.paused\(\):`"):
            iso(Y)
    iso = IsometryRegularizer(model)
    model.leave_out = iso.paused
    entered: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    for _ in range(2):
        entered.clear()
        model(X)
        assert iso(Y).item() == pytest.approx(expected(X, entered[0 if last else 1]), rel=1e-5)


@pytest.mark.parametrize("join", [torch.sub, lambda a, b: torch.cat([a, b], 1)])
def test_two_views_through_one_classifier_are_refused_from_the_first_step_on(join: Any) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return join(*(model.head(model.enc(view)) for view in x.split(4, 1)))

    model = Model(forward, enc=nn.Linear(4, 5), head=nn.Linear(5, 3))
    iso = IsometryRegularizer(model)
    for _ in range(2):
        model(X)
        with pytest.raises(RecordError, match="do not depend on each other"):
            iso(Y)


def test_a_classifier_that_works_in_place_on_its_input_is_no_wrong_number() -> None:
    class Cosine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x.div_(x.detach().norm(dim=1, keepdim=True)) @ self.weight.T

    model = Model(lambda m, x: m.head(m.enc(x)), enc=nn.Linear(8, 5), head=Cosine(5, 3))
    iso = IsometryRegularizer(model)
    model(X)
    with pytest.raises(LayerError, match="changed in place what had entered 'head'"):
        iso(Y)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_was_worked_on_in_place_before_it_entered_is_recorded(inplace: bool) -> None:
    layers = {"enc": nn.Linear(8, 5), "act": nn.ReLU(inplace=inplace), "head": nn.Linear(5, 3)}
    model = Model(lambda m, x: m.head(m.act(m.enc(x))), **layers)
    assert steps(model, X) == pytest.approx([expected(X, model.enc(X).relu())] * 2, rel=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_several_tensors_that_enter_the_classifier_are_refused(named: bool) -> None:
    layers = {"a": nn.Linear(8, 4), "b": nn.Linear(8, 4), "head": nn.Bilinear(4, 4, 3)}

    def forward(model: Model, x: Tensor) -> Tensor:
        if named:
            return model.head(input1=model.a(x), input2=model.b(x))
        return model.head(model.a(x), model.b(x))

    model = Model(forward, **layers)
    iso = IsometryRegularizer(model)
    for _ in range(2):
        model(X)
        with pytest.raises(IsoregError, match=r"2 tensors .* \(6, 4\), \(6, 4\)"):
            iso(Y)


def test_of_several_tensors_the_one_with_a_gradient_enters() -> None:
    class Gated(nn.Linear):
        def forward(self, gate: Tensor, x: Tensor) -> Tensor:
            return gate * super().forward(x)

    model = Model(
        lambda m, x: m.head(gate=torch.ones(N, 1), x=m.b(x)), b=nn.Linear(8, 4), head=Gated(4, 3)
    )
    assert steps(model, X) == pytest.approx([expected(X, model.b(X))] * 2, rel=1e-5)


def two_uses(order: str) -> Model:
    def forward(model: Model, a: Tensor, b: Tensor) -> Tensor:
        stems = {"a": model.stem(a), "b": model.stem(b)}
        return sum(model.enc(stems[view]).sum() for view in order)  # type: ignore[return-value]

    return Model(forward, stem=nn.Linear(8, 5), enc=nn.Linear(5, 4))


def test_uses_in_another_order_than_their_references_are_refused() -> None:
    a, b = X, torch.randn(N, 8)
    model = two_uses("ab")
    right = sum(expected(model.stem(x), model.enc(model.stem(x)), None) for x in (a, b))
    found = steps(model, a, b, labels=None, layers="enc", inputs="stem")
    assert found == pytest.approx([right] * 2, rel=1e-5)
    with pytest.raises(RecordError, match="another use of what inputs names"):
        steps(two_uses("ba"), a, b, labels=None, layers="enc", inputs="stem")


LAYER = nn.TransformerEncoderLayer(4, 2, 8)


@pytest.mark.parametrize("name", ["enc", "enc.0", "enc.0.linear2", "enc.0.norm2"])
def test_layers_in_and_around_what_puts_time_first_are_refused(name: str) -> None:
    model = nn.ModuleDict({"enc": nn.Sequential(LAYER)})
    with pytest.raises(LayerError, match="batch_first=False"):
        IsometryRegularizer(model, name)
    with pytest.raises(LayerError, match="batch_first=False"):
        ReferenceHead(model, 2, name)
    IsometryRegularizer(model, name, pool=lambda x: x.transpose(0, 1).flatten(1)).detach()


def test_a_reference_with_time_first_is_refused() -> None:
    model = nn.ModuleDict({"at": nn.GRU(4, 4), "w": nn.Linear(4, 2)})
    with pytest.raises(LayerError, match=r"reference=\.\.\."):
        IsometryRegularizer(model, "w", inputs="at")


def last_state(model: Model, x: Tensor) -> Tensor:
    return model.head(model.rnn(x)[0][-1])


def every_state(model: Model, x: Tensor) -> Tensor:
    return model.head(model.rnn(x)[0])[-1]


@pytest.mark.parametrize("forward", [last_state, every_state])
def test_as_many_steps_in_time_as_samples_are_refused(forward: Any) -> None:
    model = Model(forward, rnn=nn.GRU(5, 4), head=nn.Linear(4, 3))
    iso = IsometryRegularizer(model)
    model(torch.randn(N, N, 5))
    with pytest.raises(LayerError, match="on its first axis or on its second"):
        iso(Y)


def test_a_layer_that_puts_time_first_and_came_later_is_noticed() -> None:
    rnn = nn.GRU(5, 4, batch_first=True)
    model = Model(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=rnn, head=nn.Linear(4, 3))
    x = torch.randn(N, N, 5)
    iso = IsometryRegularizer(model, "rnn")
    model(x)
    assert float(iso(Y)) == pytest.approx(expected(x, rnn(x)[0]), rel=1e-5)
    model.rnn = nn.GRU(5, 4)
    model(x)
    with pytest.raises(LayerError, match="on its first axis or on its second"):
        iso(Y)


def test_modules_behind_the_classifier_are_noticed() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    iso = IsometryRegularizer(model)
    model.append(nn.Tanh())
    model.append(nn.Linear(3, 2))
    model(X)
    with pytest.raises(LayerError, match="what enters '2' was recorded.* now '4' is"):
        iso(Y)


def test_a_thread_does_not_get_what_one_that_ended_left() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    iso = IsometryRegularizer(model)
    found: list[object] = []

    def read() -> None:
        try:
            found.append(iso(Y).item())
        except RecordError as error:
            found.append(error)

    for _ in range(20):  # numbers of threads are given again at once
        for target in (lambda: model(X), read):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert all(isinstance(each, RecordError) for each in found)


def test_a_pass_whose_gradient_is_a_part_of_the_loss_still_waits_for_its_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    x, other = torch.rand(N, 8), torch.rand(N, 8)
    iso = IsometryRegularizer(model)
    for differentiated, waits in ((True, True), (False, False)):
        seen = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(seen).sum(), seen, create_graph=differentiated)
        model(other)
        if waits:
            with pytest.raises(RecordError, match="ran more than once"):
                iso(Y)
            slope.square().sum().backward()
        else:
            assert iso(Y).item() == pytest.approx(expected(other, model[:-1](other)))


def test_a_queue_takes_no_two_batches_of_one_pass() -> None:
    model = Model(
        lambda self, a, b: self.encode(self.see(a)) + self.encode(self.see(b)),
        see=nn.Linear(4, 3),
        encode=nn.Linear(3, 2),
    )
    iso = IsometryRegularizer(model, "encode", inputs="see", queue=64)
    model(torch.rand(6, 4), torch.rand(6, 4))
    with pytest.raises(InputError, match="queue= keeps one batch a pass.* ran 2 times"):
        iso(None)


def test_uses_of_a_layer_in_a_compiled_pass_are_refused_by_the_reason() -> None:
    torch._dynamo.reset()
    model = Model(
        lambda self, x: self.head(self.act(self.body(self.act(self.body(x))))),
        body=nn.Linear(8, 8),
        act=nn.Tanh(),
        head=nn.Linear(8, 3),
    )
    iso = IsometryRegularizer(model, "act")
    model(X)
    assert list(iso(Y) and iso.penalties) == ["act", "act:2"]
    torch.compile(model, backend="eager")(X)
    with pytest.raises(
        RecordError, match="ran 2 times in a compiled pass, where it cannot be seen"
    ):
        iso(Y)
    torch._dynamo.reset()


def test_a_control_goes_on_with_its_shuffles_where_a_checkpoint_was() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    whole = IsometryRegularizer(model, control=True)
    found = []
    for step in range(6):
        if step == 3:
            state = whole.state_dict()
        model(X)
        found.append(whole(Y).item())
    whole.detach()
    resumed = IsometryRegularizer(model, control=True)
    resumed.load_state_dict(state)
    for step in range(3, 6):
        model(X)
        assert resumed(Y).item() == found[step]
    assert len(set(found)) > 1


def test_layers_that_become_one_module_are_watched_once() -> None:
    model = nn.Sequential()
    model.a, model.b = nn.Linear(8, 8), nn.Linear(8, 8)
    late = IsometryRegularizer(model, ["a", "b"])
    model(X)
    late(Y)
    model.b = model.a
    soon = IsometryRegularizer(model, ["a", "b"])
    model(X)
    assert late(Y).item() == pytest.approx(soon(Y).item())
    assert late.layers == soon.layers == ["a"]
    assert list(late.penalties) == list(soon.penalties) == ["a", "a:2"]
