"""`beta="auto"`: what it measures, the weight that follows, and what may not matter."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import AutoBeta, InputError, IsometryRegularizer, RobustLoss, isometry_penalty
from isoreg._attach.balance import GradientNorms, Pull, merged
from isoreg._attach.monitor import WARN_AT

LAYERS = ["1", "3"]


def net(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    act = [nn.ReLU(inplace=True) if inplace else nn.Tanh() for _ in range(2)]
    return nn.Sequential(nn.Linear(5, 8), act[0], nn.Linear(8, 6), act[1], nn.Linear(6, 3))


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.rand(16, 5, generator=torch.Generator().manual_seed(seed)), torch.arange(16) % 3


def ratio_by_hand(model: nn.Sequential, x: Tensor, y: Tensor, layer: int) -> float:
    """|dL/dphi| / |dP/dphi| for one layer, by two backward passes through a graph without hooks."""
    phi = model[: layer + 1](x)
    loss = F.cross_entropy(model[layer + 1 :](phi), y)
    (by_loss,) = torch.autograd.grad(loss, phi, retain_graph=True)
    (by_penalty,) = torch.autograd.grad(isometry_penalty(x, phi, y), phi)
    return float(by_loss.norm() / by_penalty.norm())


def train(
    model: nn.Module, iso: IsometryRegularizer, steps: int, *, scale: float = 1.0, first: int = 0
) -> list[float]:
    """Betas of some steps; the loss is multiplied by a number before, gradients divided after."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        (scale * (F.cross_entropy(model(x), y) + iso(y))).backward()
        found.append(iso.beta)
        for p in model.parameters():
            p.grad /= scale
        optimizer.step()
    return found


def test_the_average_moves_to_where_the_penalty_is() -> None:
    auto = AutoBeta()
    assert auto.weigh(torch.ones((), device="meta")).device.type == "meta"
    assert {x.device.type for x in auto.state_dict().values()} == {"meta"}


# What is measured


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("share", [0.1, 2.0])
def test_the_weight_makes_the_penaltys_gradient_the_share_of_the_losss(
    layer: int, share: float
) -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, str(layer), beta=AutoBeta(share))
    for _ in range(3):
        (F.cross_entropy(model(x), y) + iso(y)).backward()
    assert iso.beta == pytest.approx(share * ratio_by_hand(model, x, y, layer), rel=1e-4)


def test_of_the_first_batch_the_weighted_penalty_is_a_hundredth_of_the_share() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")
    model(x)
    assert iso(y).item() == pytest.approx(0.001)


@pytest.mark.parametrize("rate", [0.05, 0.0005])
def test_a_penalty_that_begins_at_nothing_does_not_drown_the_loss(rate: float) -> None:
    (x, y), student = batch(), net()
    teacher = copy.deepcopy(student[:-1])
    iso = IsometryRegularizer(student, beta="auto", inputs=teacher)
    optimizer, shares = torch.optim.SGD(student.parameters(), rate), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(student(x), y)
        penalty = iso(y)
        with iso.paused():
            features = student[:-1](x)
            own = iso.beta * isometry_penalty(teacher(x).detach(), features, y)
            pulls = [
                torch.autograd.grad(value, features)[0].norm()
                for value in (own, F.cross_entropy(student[-1](features), y))
            ]
        shares.append(float(pulls[0] / pulls[1]))
        (loss + penalty).backward()
        optimizer.step()
    assert shares[0] == 0
    assert max(shares) < 0.6
    assert iso.state_dict()["beta"].keys() == {"log", "weight", "used", "size"}


def test_a_state_of_an_earlier_version_is_read() -> None:
    beta = AutoBeta()
    state = {"log": torch.tensor(0.5), "weight": torch.tensor(0.5), "used": torch.tensor(0.1)}
    beta.load_state_dict(state)
    assert float(beta.weigh(torch.tensor(1e9))) == pytest.approx(0.1 * math.e)


def test_gradients_are_those_of_a_number_for_beta() -> None:
    gradients = []
    for beta in ("auto", None):
        model, (x, y) = net(), batch()
        weight = "auto" if beta else 0.001 / isometry_penalty(x, model[:-1](x), y).item()
        iso = IsometryRegularizer(model, beta=weight)
        (F.cross_entropy(model(x), y) + iso(y)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for auto, number in zip(*gradients, strict=True):
        torch.testing.assert_close(auto, number)


def test_with_several_layers_the_share_is_that_of_all_their_features_together() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, LAYERS, beta=AutoBeta(0.2))
    for _ in range(2):  # the later layer's penalty is part of what reaches the earlier one
        (F.cross_entropy(model(x), y) + iso(y)).backward()
    phi1 = model[:2](x)
    phi3 = model[2:4](phi1)
    rest = F.cross_entropy(model[4:](phi3), y) + iso.beta * isometry_penalty(x, phi3, y)
    own = isometry_penalty(x, phi3, y)
    loss = F.cross_entropy(model[4:](phi3), y)
    at = [
        torch.autograd.grad(rest, phi1, retain_graph=True)[0],
        torch.autograd.grad(loss, phi3, retain_graph=True)[0],
    ]
    by_penalty = [
        torch.autograd.grad(isometry_penalty(x, phi1, y), phi1, retain_graph=True)[0],
        torch.autograd.grad(own, phi3)[0],
    ]
    norm = [math.hypot(*[float(g.norm()) for g in gs]) for gs in (at, by_penalty)]
    assert iso.beta == pytest.approx(0.2 * norm[0] / norm[1], rel=0.02)


def test_in_place_layers_behind_the_recorded_one_do_not_disturb_the_measurement() -> None:
    model, (x, y) = net(inplace=True), batch()
    iso = IsometryRegularizer(model, "2", beta="auto")
    for _ in range(3):
        (F.cross_entropy(model(x), y) + iso(y)).backward()
    phi = model[:3](x)
    (by_loss,) = torch.autograd.grad(F.cross_entropy(model[4](phi.relu()), y), phi)
    (by_penalty,) = torch.autograd.grad(
        isometry_penalty(x, p := phi.detach().requires_grad_(), y), p
    )
    assert iso.beta == pytest.approx(0.1 * float(by_loss.norm() / by_penalty.norm()), rel=1e-4)


def test_a_structured_output_is_measured_at_its_first_tensor() -> None:
    class Pair(nn.Tanh):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return super().forward(x), "extra"

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.pair, self.b = nn.Linear(5, 8), Pair(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.pair(self.a(x))[0])

    torch.manual_seed(0)
    model, (x, y) = Net(), batch()
    twin = nn.Sequential(model.a, nn.Tanh(), model.b)
    iso = IsometryRegularizer(model, "pair", beta="auto")
    for _ in range(2):
        (F.cross_entropy(model(x), y) + iso(y)).backward()
    assert iso.beta == pytest.approx(0.1 * ratio_by_hand(twin, x, y, 1), rel=1e-4)
    iso.detach()
    iso = IsometryRegularizer(model, "pair", beta="auto", pool=lambda out: out[0])
    model(x)
    with pytest.raises(InputError, match="cannot see the gradient of layer 'pair'.*inside"):
        iso(y)


def test_a_gradient_that_the_loss_itself_takes_is_no_measurement() -> None:
    model, (x, y) = net(), batch()
    criterion = RobustLoss(model, eps=0.1)
    iso = IsometryRegularizer(model, beta="auto")
    seen: list[Tensor] = []
    model[3].register_forward_hook(
        lambda _m, _a, out: out.register_hook(lambda g: seen.append(g.detach().clone())) and None
    )
    for _ in range(2):
        loss = criterion(x, y)
        seen.clear()  # of the inner gradient
        loss.backward()
        phi = model[:-1](x).detach().requires_grad_()
        (by_penalty,) = torch.autograd.grad(isometry_penalty(x, phi, y), phi)
        expected = 0.1 * float(seen[0].norm() / by_penalty.norm())
        (criterion(x, y) + iso(y)).backward()
    criterion(x, y)
    iso(y)
    assert iso.beta == pytest.approx(expected, rel=1e-4)


def test_loss_and_penalty_may_go_backward_one_after_the_other() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")
    for _ in range(2):
        F.cross_entropy(model(x), y).backward(retain_graph=True)
        iso(y).backward()
    assert iso.beta == pytest.approx(0.1 * ratio_by_hand(model, x, y, 3), rel=1e-4)


@pytest.mark.parametrize("unseen", ["create_graph", "torch.func", "left out", ""])
def test_a_weight_that_never_sees_a_gradient_says_so(unseen: str) -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (x,))
        penalty = iso(y)
        return F.cross_entropy(logits, y) + (0 if unseen == "left out" else penalty)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(WARN_AT[0]):
            if unseen == "torch.func":
                torch.func.grad(loss)({name: p.detach() for name, p in model.named_parameters()})
            else:
                model.zero_grad()
                loss(dict(model.named_parameters())).backward(create_graph=unseen == "create_graph")
    told = [str(x.message) for x in caught if "measured no gradient" in str(x.message)]
    assert len(told) == bool(unseen)


def test_frozen_features_are_not_watched() -> None:
    copy, norms = torch.ones(2, 2), GradientNorms()
    norms.watch("layer", torch.ones(2, 2), copy)
    assert norms.take() == {}


# What may not matter


@settings(max_examples=8)
@given(scale=st.floats(2.0**-10, 2.0**14))
def test_a_scaled_loss_changes_no_weight(scale: float) -> None:
    plain, scaled = net(), net()
    expected = train(plain, IsometryRegularizer(plain, LAYERS, beta="auto"), 4)
    found = train(scaled, IsometryRegularizer(scaled, LAYERS, beta="auto"), 4, scale=scale)
    assert found == pytest.approx(expected, rel=1e-3)


def test_steps_that_overflow_or_hold_no_pairs_do_not_count() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")
    for _ in range(2):
        (F.cross_entropy(model(x), y) + iso(y)).backward()
    before = iso.beta
    (float("inf") * (F.cross_entropy(model(x), y) + iso(y))).backward()
    (F.cross_entropy(model(x[:3]), y[:3]) + iso(y[:3])).backward()
    model(x), iso(y)
    assert iso.beta == pytest.approx(before, rel=1e-5)


def test_a_first_batch_without_pairs_gets_weight_zero_and_training_goes_on() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")
    model(x[:3])
    assert iso(y[:3]).item() == 0
    assert iso.beta == 0
    model(x)
    assert iso(y).item() == pytest.approx(0.001)


def test_under_autocast_the_weight_is_about_the_same() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta="auto")
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), y) + iso(y)
        loss.backward()
    assert iso.beta == pytest.approx(0.1 * ratio_by_hand(model, x, y, 3), rel=0.05)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    whole, broken = net(), net()
    expected = train(whole, IsometryRegularizer(whole, LAYERS, beta="auto"), 6)
    iso = IsometryRegularizer(broken, LAYERS, beta="auto")
    train(broken, iso, 3)
    torch.save(iso.state_dict(), file := io.BytesIO())
    iso.detach()
    file.seek(0)
    iso = IsometryRegularizer(broken, LAYERS, beta="auto")
    iso.load_state_dict(torch.load(file))
    assert train(broken, iso, 3, first=3) == expected[3:]


def test_a_run_that_goes_back_to_a_checkpoint_forgets_the_gradients_after_it() -> None:
    model = net()
    iso = IsometryRegularizer(model, LAYERS, beta="auto")
    train(model, iso, 3)
    saved = copy.deepcopy((model.state_dict(), iso.state_dict()))
    expected = train(model, iso, 2, first=3)
    x, y = batch(9)
    (1e3 * F.cross_entropy(model(x), y) + iso(y)).backward()  # the step that is to be undone
    model.load_state_dict(saved[0])
    iso.load_state_dict(saved[1])
    assert train(model, iso, 2, first=3) == expected


def test_a_compiled_model_gives_the_same_weights() -> None:
    torch._dynamo.reset()
    plain, compiled = net(), net()
    expected = train(plain, IsometryRegularizer(plain, LAYERS, beta="auto"), 3)
    iso = IsometryRegularizer(compiled, LAYERS, beta="auto")
    assert train(torch.compile(compiled, backend="eager"), iso, 3) == pytest.approx(expected)


# Setting and reading it


def test_the_average_forgets_at_the_rate_of_its_momentum() -> None:
    beta = AutoBeta(1.0, momentum=0.5)
    beta.weigh(torch.tensor(1.0))
    ratios = [2.0, 8.0]
    for ratio in ratios:
        used = beta.beta
        beta.update({
            "layer": Pull(torch.tensor(ratio), used, torch.zeros(()))
        })  # own norm / used = 1
        beta.weigh(torch.tensor(1.0))
    mean = (0.25 * math.log(2) + 0.5 * math.log(8)) / 0.75
    assert float(beta.beta) == pytest.approx(math.exp(mean))


def test_a_number_can_be_scheduled_and_stays_what_it_is() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta=0.2)
    model(x)
    value = iso(y).item()
    iso.beta = 0.4
    model(x)
    assert iso(y).item() == pytest.approx(2 * value)
    assert iso.state_dict() == {"beta": 0.4}
    iso.load_state_dict({"beta": 0.3})
    assert iso.beta == 0.3


def test_an_autobeta_that_was_given_is_the_one_that_is_used() -> None:
    given_beta, (x, y), model = AutoBeta(0.2), batch(), net()
    iso = IsometryRegularizer(model, beta=given_beta)
    model(x), iso(y)
    assert iso.beta == float(given_beta.beta) > 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: AutoBeta(0), "AutoBeta: share must be a positive number, got 0."),
        (lambda: AutoBeta(math.inf), "AutoBeta: share must be a positive number, got inf."),
        (lambda: AutoBeta(momentum=1), "AutoBeta: momentum must be in [0, 1), got 1."),
        (lambda: AutoBeta(momentum=-0.1), "AutoBeta: momentum must be in [0, 1), got -0.1."),
        (lambda: IsometryRegularizer(net(), beta="auto").load_state_dict({"beta": {"log": 1}}),
         "IsometryRegularizer.load_state_dict: the checkpoint of beta='auto' needs a number "
         "'weight', got None."),
        (lambda: AutoBeta().load_state_dict({"log": torch.ones(2), "weight": 1, "used": 1}),
         "the checkpoint of beta='auto' needs a number 'log', got tensor([1., 1.])."),
        (
            lambda: IsometryRegularizer(net()).load_state_dict(None),  # type: ignore[arg-type]
            "IsometryRegularizer.load_state_dict: the checkpoint must hold 'beta', got None.",
        ),
        (lambda: IsometryRegularizer(net(), beta="automatic"),
         "IsometryRegularizer: beta must be a finite number >= 0, 'auto' or an AutoBeta, got "
         "'automatic'."),
        (lambda: IsometryRegularizer(net(), beta="auto").load_state_dict({"beta": 0.1}),
         "IsometryRegularizer.load_state_dict: the checkpoint was made with beta as a number, this "
         "regularizer with 'auto'. Build it with the same kind of beta."),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text


def test_without_momentum_the_last_batch_alone_counts() -> None:
    beta = AutoBeta(1.0, momentum=0)
    beta.weigh(torch.tensor(1.0))
    for ratio in (2.0, 8.0):
        beta.update({"layer": Pull(torch.tensor(ratio), beta.beta, torch.zeros(()))})
        assert float(beta.weigh(torch.tensor(1.0))) == pytest.approx(ratio)


def test_what_was_loaded_is_a_copy_without_graph() -> None:
    state = {name: torch.tensor(0.5, requires_grad=True) for name in ("log", "weight", "used")}
    beta = AutoBeta()
    beta.load_state_dict(state)
    with torch.no_grad():
        state["used"].fill_(9.0)
    assert beta.beta == 0.5
    assert not any(value.requires_grad for value in beta.state_dict().values())
    beta.load_state_dict({"log": 1, "weight": 1.0, "used": 0})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda iso: pickle.loads(pickle.dumps(iso))])
def test_a_copy_knows_what_the_last_backward_pass_measured(copied) -> None:
    model = net()
    iso = IsometryRegularizer(model, beta="auto")
    train(model, iso, 2)
    twin = copied(iso)
    other = copy.deepcopy(model)
    again = IsometryRegularizer(other, beta="auto")
    again.load_state_dict(twin.state_dict())
    x, y = batch(2)
    model(x)
    other(x)
    torch.testing.assert_close(again(y), iso(y))
    assert again.beta == iso.beta


def test_gradients_in_half_precision_are_measured_in_single() -> None:
    features = torch.ones(3, 100, dtype=torch.bfloat16, requires_grad=True) * 1
    copy, norms = features.clone(), GradientNorms()
    norms.watch("layer", features, copy)
    (features.sum() + 2 * copy.sum()).backward()
    (found,) = norms.take().values()
    assert found == (pytest.approx(300**0.5), pytest.approx(2 * 300**0.5), 600.0)
    assert {x.dtype for x in found} == {torch.float32}


def test_passes_of_several_sizes_count_as_one_gradient() -> None:
    norms = GradientNorms()
    for n in (2, 5):
        features = torch.ones(n, 3, requires_grad=True) * 1
        copy = features.clone()
        norms.watch("layer", features, copy)
        (3 * features[0, 0] + 4 * copy[0, 0]).backward()
    (found,) = norms.take().values()
    assert found == (pytest.approx(18**0.5), pytest.approx(32**0.5), 24.0)


def test_several_passes_count_as_one_gradient_of_all_of_them() -> None:
    norms = torch.tensor([[3.0, 5.0, 1.0], [4.0, 12.0, 2.0]])
    assert merged([Pull(*row) for row in norms]) == (5.0, 13.0, 3.0)


def test_the_first_weight_is_that_of_the_penalty_with_the_weights_of_its_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    iso = IsometryRegularizer(model, {"1": 1.0, "3": 30.0}, beta=AutoBeta(0.1))
    model(torch.rand(12, 5))
    assert iso(None).item() == pytest.approx(0.01 * 0.1, rel=1e-5)
