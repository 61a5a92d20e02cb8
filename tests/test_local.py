"""The first-order margin: exact where the model is linear, and a well-behaved criterion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import InputError, IsometryRegularizer, RobustLoss, isometry_penalty
from isoreg.robustness.local import first_order_margin_loss


def batch(n: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 5).double(), torch.arange(n) % classes


def mlp(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes)).double()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.3)])
def test_it_is_the_exact_worst_case_of_a_linear_model_of_two_classes(norm: str, eps: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2).double()
    x, y = batch(classes=2)
    w = model.weight.detach()
    towards = w[1 - y] - w[y]  # raises the other class
    step = towards.sign() if norm == "Linf" else F.normalize(towards, dim=1)
    expected = F.cross_entropy(model(x + eps * step), y)
    found = first_order_margin_loss(model, x, y, eps=eps, norm=norm)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters)
    )


@pytest.mark.parametrize(
    ("norm", "eps", "n"), [("Linf", 0.2, 12), ("L2", 0.2, 12), ("L2", 1.0, 1), ("Linf", 1.0, 2)]
)
def test_it_is_the_formula_computed_image_by_image(norm: str, eps: float, n: int) -> None:
    model, (x, y) = mlp(), batch(n)
    losses = []
    for image, label in zip(x, y.tolist(), strict=True):
        image = image.clone().requires_grad_()
        z = model(image[None])[0]
        rival = max((k for k in range(3) if k != label), key=lambda k: z[k].item())
        (g,) = torch.autograd.grad(z[rival] - z[label], image, create_graph=True)
        raised = z + eps * g.norm(p=1 if norm == "Linf" else 2) * F.one_hot(torch.tensor(rival), 3)
        losses.append(torch.logsumexp(raised, 0) - raised[label])
    expected = torch.stack(losses).mean()
    found = first_order_margin_loss(model, x, y, eps=eps, norm=norm)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    )
    for gradient, reference in pairs:
        torch.testing.assert_close(gradient, reference)


def test_at_radius_zero_it_is_cross_entropy() -> None:
    model, (x, y) = mlp(), batch()
    expected = F.cross_entropy(model(x), y)
    torch.testing.assert_close(first_order_margin_loss(model, x, y, eps=0.0), expected)


def test_a_vanishing_gradient_gives_no_nan() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100)  # no unit is active: the input has no influence
    x, y = batch()
    for norm in ("Linf", "L2"):
        model.zero_grad()
        first_order_margin_loss(model, x, y, eps=0.1, norm=norm).backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_warm_up_of_one_call_begins_with_cross_entropy_and_without_one_it_begins_at_eps() -> None:
    model, (x, y) = mlp(), batch()
    for steps, eps in ((1, 0.0), (0, 0.4)):
        found = RobustLoss(model, eps=0.4, warmup_steps=steps)(x, y)
        torch.testing.assert_close(found, first_order_margin_loss(model, x, y, eps=eps))


def test_a_model_that_was_sharded_after_the_loss_was_built_is_refused_too() -> None:
    model, (x, y) = nn.Sequential(mlp()), batch()
    criterion = RobustLoss(model, eps=0.1)
    model[0] = type("FSDPModule", (nn.Linear,), {})(5, 3)
    with pytest.raises(InputError, match="^RobustLoss: model must be whole on this rank"):
        criterion(x, y)


def test_the_radius_grows_over_the_training_calls_alone_and_resumes() -> None:
    model, (x, y) = mlp(), batch()
    criterion = RobustLoss(model, eps=0.4, warmup_steps=4)
    for step in range(6):
        expected = first_order_margin_loss(model, x, y, eps=0.4 * min(1, step / 4))
        with torch.no_grad():
            torch.testing.assert_close(criterion(x, y), expected.detach())
        model.eval()
        criterion(x, y)
        model.train()
        torch.testing.assert_close(criterion(x, y), expected)
    assert criterion.state_dict() == {"steps": 6}
    again = RobustLoss(model, eps=0.4, warmup_steps=4)
    for wrong in ({}, {"steps": -3}, {"steps": 0.5}):
        with pytest.raises(
            InputError, match="RobustLoss.load_state_dict: steps must be an integer"
        ):
            again.load_state_dict(wrong)
    again.load_state_dict(criterion.state_dict())
    torch.testing.assert_close(again(x, y), criterion(x, y))


def test_batch_statistics_are_updated_once_and_the_model_runs_once() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    x, y = batch()
    RobustLoss(model, eps=0.1)(x.float(), y).backward()
    assert int(model[1].num_batches_tracked) == 1
    assert len(calls) == 1


def test_beside_it_the_regularizer_has_the_record_of_its_forward() -> None:
    model, (x, y) = mlp(), batch()
    with IsometryRegularizer(model, beta=0.5) as iso:
        criterion = RobustLoss(model, eps=0.1)
        loss = criterion(x, y)
        penalty = iso(y)
    expected = 0.5 * isometry_penalty(x, model[:2](x), y)
    torch.testing.assert_close(penalty, expected)
    (loss + penalty).backward()
    assert x.grad is None
    assert not x.requires_grad


def test_it_trains_a_network_to_survive_where_plain_training_does_not() -> None:
    from isoreg.datasets import digits
    from isoreg.robustness import evaluate

    x, y = digits("train")
    survivors = []
    for eps in (0.0, 0.1):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        criterion = RobustLoss(model, eps=eps, warmup_steps=100)
        for _ in range(200):
            optimizer.zero_grad()
            criterion(x, y).backward()
            optimizer.step()
        images, labels = digits("validation")
        report = evaluate(model, images, labels, eps=0.1, attacks="quick")
        survivors.append(report.worst_case[0.1])
    assert survivors[1] > survivors[0] + 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: RobustLoss(m, eps=-1.0),
         "RobustLoss: eps must be a number, finite and >= 0, got -1"),
        (lambda m, x, y: RobustLoss(m, eps=0.1, norm="L1"), "RobustLoss: norm must be one of 'L"),
        (lambda m, x, y: RobustLoss(m, eps=0.1, warmup_steps=-1), "RobustLoss: warmup_steps must"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, torch.eye(3)[y]),
         "RobustLoss: labels must be 12 integers, got torch.float32 of shape (12, 3). Soft"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, y[:5]),
         "RobustLoss: labels must be 12 integers, got torch.int64 of shape (5,)."),
        (lambda m, x, y: RobustLoss(m, eps=float("inf")),
         "RobustLoss: eps must be a number, finite and >= 0, got inf"),
        (lambda m, x, y: first_order_margin_loss(m, x, y, eps=0.1, norm="L1"),
         "first_order_margin_loss: norm must be one of 'Linf', 'L2', got 'L1'."),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(mlp(), *batch())
    assert str(caught.value).startswith(message)
