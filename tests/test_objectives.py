"""Ways to train: each loss against its formula, and a plain model at the end."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.internals import first_order_margin_loss
from benchmarks.methods import attach, method, rivals
from benchmarks.methods.distances import shuffle_within
from benchmarks.methods.step import Part, Step
from benchmarks.rivals.study import Settings, grids
from isoreg import isometry_penalty


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 3, 4, generator=generator).double(), torch.arange(n) % 3


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(5, 3)).double()


def loss_of(recipe: dict, progress: float = 1.0) -> Tensor:
    with attach(mlp(), recipe) as objective:
        return objective(*batch(), progress=progress)


def cross_entropy() -> Tensor:
    images, labels = batch()
    return F.cross_entropy(mlp()(images), labels)


def distances(x: Tensor) -> list[list[Tensor]]:
    return [[(a - b).norm() for b in x.flatten(1)] for a in x.flatten(1)]


def jacobians() -> Tensor:
    """(n, classes, pixels)."""
    model, (images, _) = mlp(), batch()
    rows = [torch.autograd.functional.jacobian(model, x[None]) for x in images]
    return torch.stack([row.reshape(3, 12) for row in rows])


def test_an_empty_recipe_is_cross_entropy() -> None:
    torch.testing.assert_close(loss_of({}), cross_entropy())


@pytest.mark.parametrize("layers", [None, "activations"])
def test_isometry_adds_the_published_penalty_of_its_layers(layers: str | None) -> None:
    images, labels = batch()
    model = mlp()
    dx = distances(images)
    expected = cross_entropy()
    for depth in (5,) if layers is None else (3, 5):
        dphi = distances(model[:depth](images))
        for i in range(8):
            for j in range(8):
                if labels[i] == labels[j]:
                    expected = expected + 0.3 * (dx[i][j] - 2 * dphi[i][j]) ** 2 / 64
    found = loss_of({"isometry": {"beta": 0.3, "scale": 2.0, "layers": layers}})
    torch.testing.assert_close(found, expected)


def test_relational_distillation_is_the_huber_loss_of_relative_distances() -> None:
    images, _ = batch()
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    relative = []
    for x in (images, mlp()[:5](images)):
        d = distances(x)
        mean = sum(d[i][j] for i, j in pairs) / len(pairs)
        relative.append([d[i][j] / mean for i, j in pairs])
    gaps = [(a - b).abs() for a, b in zip(*relative, strict=True)]
    huber = sum(g**2 / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps)
    found = loss_of({"relational-distillation": {"weight": 7.0}})
    torch.testing.assert_close(found, cross_entropy() + 7 * huber)


def test_weight_decay_is_half_the_squared_weights_without_biases() -> None:
    squares = sum(p.square().sum() for n, p in mlp().named_parameters() if n.endswith("weight"))
    torch.testing.assert_close(
        loss_of({"weight-decay": {"weight": 0.2}}), cross_entropy() + 0.1 * squares
    )


def test_label_smoothing_is_cross_entropy_to_mixed_labels() -> None:
    images, labels = batch()
    target = 0.7 * F.one_hot(labels, 3) + 0.3 / 3
    expected = -(target * mlp()(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss_of({"label-smoothing": {"share": 0.3}}), expected)


def test_noise_is_cross_entropy_of_images_that_are_noisy_by_sigma() -> None:
    images, labels = batch()
    model = mlp()
    torch.manual_seed(4)
    expected = F.cross_entropy(model(images + 0.5 * torch.randn_like(images)), labels)
    with attach(model, {"noise": {"sigma": 0.5}}) as objective:
        torch.manual_seed(4)
        torch.testing.assert_close(objective(images, labels), expected)


def test_the_jacobian_term_is_on_average_half_the_squared_frobenius_norm() -> None:
    expected = jacobians().square().sum((1, 2)).mean() / 2
    images, labels = batch()
    with attach(mlp(), {"jacobian": {"weight": 1.0}}) as objective:
        losses = torch.stack([objective(images, labels).detach() for _ in range(1000)])
    torch.testing.assert_close((losses - cross_entropy()).mean(), expected, rtol=0.05, atol=0)


def test_the_input_gradient_term_is_its_square_image_by_image() -> None:
    images, labels = batch()
    model, squares = mlp(), []
    for x, y in zip(images, labels, strict=True):
        x = x[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y[None]), x)
        squares.append(gradient.square().sum())
    expected = cross_entropy() + 3 * torch.stack(squares).mean()
    torch.testing.assert_close(loss_of({"input-gradient": {"weight": 3.0}}), expected)


def test_the_first_order_margin_is_that_of_the_library_with_a_growing_radius() -> None:
    images, labels = batch()
    for progress, radius in [(0.0, 0.0), (0.2, 0.08), (0.5, 0.2), (0.9, 0.2)]:
        expected = first_order_margin_loss(mlp(), images, labels, eps=radius)
        found = loss_of({"first-order-margin": {"eps": 0.2}}, progress)
        torch.testing.assert_close(found, expected)


def linear(classes: int = 2) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    return model, model[1].weight.detach()


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_adversarial_training_sees_the_exact_worst_case_of_a_linear_model(name: str) -> None:
    model, w = linear()
    images = 0.4 + 0.2 * batch()[0]
    labels = torch.arange(8) % 2
    worst = images.flatten(1) + 0.1 * (w[1 - labels] - w[labels]).sign()
    expected = F.cross_entropy(model[1](worst), labels)
    with attach(model, {name: {"eps": 0.1}}) as objective:
        # one step of 1.25 eps from a random point may end before the border of the ball
        found = torch.stack([objective(images, labels) for _ in range(40)])
        assert bool((found <= expected + 1e-12).all())
        if name == "pgd":
            torch.testing.assert_close(found, expected.expand(40))
        else:
            assert found.mean() > expected - 0.15 * (expected - loss_on(model, images, labels))
        small = objective(images, labels, progress=0.0)
        torch.testing.assert_close(small, loss_on(model, images, labels))


def loss_on(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels)


def test_trades_adds_the_divergence_at_the_exact_worst_point_of_a_linear_model() -> None:
    model, w = linear()
    images = 0.4 + 0.2 * batch()[0]
    labels = torch.arange(8) % 2
    clean = model(images).softmax(1)
    either = []
    for sign in (1, -1):
        p = model[1](images.flatten(1) + sign * 0.1 * (w[1] - w[0]).sign()).softmax(1)
        either.append((clean * (clean / p).log()).sum(1))
    expected = loss_on(model, images, labels)
    with attach(model, {"trades": {"eps": 0.1, "beta": 2.0}}) as objective:
        found = objective(images, labels)
        # the two ends of the ball differ in divergence, and the start decides which is found
        low = expected + 2 * torch.minimum(*either).mean()
        high = expected + 2 * torch.maximum(*either).mean()
        assert low - 1e-9 <= found <= high + 1e-9
        assert low > expected + 0.01
        torch.testing.assert_close(objective(images, labels, progress=0.0), expected)


def test_adversarial_images_stay_within_the_ball_and_the_pixels() -> None:
    seen: list[Tensor] = []
    images, labels = batch()
    model = mlp()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for name in ("fgsm", "pgd", "trades"):
        with attach(model, {name: {"eps": 0.3}}) as objective:
            objective(images, labels)
    assert len(seen) == 2 + 8 + 8
    assert all(((x - images).abs() <= 0.3 + 1e-9).all() for x in seen)
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen)


def test_attacks_within_training_leave_batch_statistics_and_modes_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 3))
    model[2].eval()
    images, labels = batch()
    with attach(model, {"pgd": {"eps": 0.1}}) as objective:
        objective(images.float(), labels).backward()
    assert int(model[1].num_batches_tracked) == 1
    assert [m.training for m in model] == [True, True, False, True]


@pytest.mark.parametrize("name", ["spectral-norm", "orthogonal", "parseval"])
def test_weights_that_stretch_nothing_remain_in_a_plain_model(name: str) -> None:
    model, (images, labels) = mlp(), batch()
    twin = mlp()
    recipe = {name: {"temperature": 5.0, **({"pull": 0.1} if name == "parseval" else {})}}
    with attach(model, recipe) as objective:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        for _ in range(400):
            loss = objective(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step()
        expected = F.cross_entropy(5 * model.eval()(images), labels)
        model.train()
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert model.training
    torch.testing.assert_close(F.cross_entropy(5 * model(images), labels), expected)
    for layer in (model[1], model[3], model[5]):
        assert type(layer) is nn.Linear
        values = torch.linalg.svdvals(layer.weight.detach())
        assert values.max() < 1.02
        if name != "spectral-norm":
            assert values.min() > 0.98


def test_one_step_of_parseval_is_the_published_one_for_wide_and_tall_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(24, 3)).double()
    before = [model[0].weight.detach().flatten(1).clone(), model[2].weight.detach().clone()]
    with attach(model, {"parseval": {"temperature": 1.0, "pull": 0.1}}) as objective:
        objective.after_step()
    after = [model[0].weight.detach().flatten(1), model[2].weight.detach()]
    for w, found in zip(before, after, strict=True):
        torch.testing.assert_close(found, 1.1 * w - 0.1 * w @ w.T @ w)


def test_terms_add_up_and_two_criteria_are_refused() -> None:
    both = {"first-order-margin": {"eps": 0.2}, "isometry": {"beta": 0.1}}
    first, second = ({name: options} for name, options in both.items())
    together = loss_of(both) - loss_of(first)
    torch.testing.assert_close(together, loss_of(second) - cross_entropy())
    with pytest.raises(ValueError, match="one method of a recipe may replace"):
        loss_of({"pgd": {"eps": 0.1}, "noise": {"sigma": 0.1}})
    with pytest.raises(ValueError, match="methods are .*isometry, .* got isometri"):
        loss_of({"isometri": {}})


@pytest.mark.parametrize("recipe", [r for of in grids(Settings()).values() for r in of], ids=str)
def test_every_setting_trains_and_leaves_no_trace(recipe: dict) -> None:
    model, (images, labels) = mlp(), batch()
    assert json.loads(json.dumps(recipe)) == recipe
    with attach(model, recipe) as objective:
        parameters = list(model.parameters())
        objective(images, labels, progress=0.4).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        objective.after_step()
    assert [type(m) for m in model] == [type(m) for m in mlp()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_a_model_is_plain_again_after_an_error() -> None:
    model = mlp()
    with (
        pytest.raises(KeyError),
        attach(model, {"isometry": {"beta": 1.0}, "orthogonal": {"temperature": 1.0}}),
    ):
        raise KeyError
    assert not any(m._forward_hooks or hasattr(m, "parametrizations") for m in model.modules())


def test_every_rival_has_settings() -> None:
    assert all(len(found.grid) >= 4 for found in rivals().values())
    assert len(rivals()) == 15


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="each has a name of its own, got 'pgd' a second time"):
        method("pgd", title="another")(lambda model: Part())


def test_the_radius_reaches_eps_in_the_middle_of_training() -> None:
    radii = [Step(mlp(), *batch(), p, track_input=False).radius(0.4) for p in (0, 0.25, 0.5, 1)]
    assert radii == pytest.approx([0, 0.2, 0.4, 0.4])


def test_the_norm_is_of_the_last_features() -> None:
    gaps = mlp()[:5](batch()[0]).norm(dim=1) - 2
    found = loss_of({"feature-norm": {"weight": 0.5, "length": 2.0}})
    torch.testing.assert_close(found, cross_entropy() + 0.5 * gaps.square().mean())


def test_the_control_permutes_within_classes_and_nearly_everywhere() -> None:
    labels = torch.randint(2, (400,))
    partners = shuffle_within(labels)
    assert torch.equal(labels[partners], labels)
    assert torch.equal(partners.sort().values, torch.arange(400))
    assert (partners != torch.arange(400)).float().mean() > 0.9


def test_mixed_images_are_exchanged_within_the_class_that_counts_most() -> None:
    labels = torch.arange(60) % 3
    partners = shuffle_within(0.4 * F.one_hot(labels, 3) + 0.2)
    assert torch.equal(labels[partners], labels)
    assert not torch.equal(partners, torch.arange(60))


def test_features_are_compared_with_the_reference_of_the_step() -> None:
    images, labels = batch()
    reference = torch.rand(8, 7, generator=torch.Generator().manual_seed(2)).double()
    features = mlp()[:5](images)
    for recipe, penalty in (
        ({"isometry": {"beta": 0.5}}, isometry_penalty(reference, features, labels)),
        ({"isometry": {"beta": 0.5, "pairs": "all"}}, isometry_penalty(reference, features)),
    ):
        with attach(mlp(), recipe) as objective:
            found = objective(images, labels, reference=reference)
        torch.testing.assert_close(found, cross_entropy() + 0.5 * penalty)


def test_a_second_head_is_trained_to_predict_the_reference() -> None:
    images, labels = batch()
    model, reference = mlp().float(), torch.rand(8, 4)
    with attach(model, {"second-head": {"weight": 2.0, "outputs": 4}}) as objective:
        weight, bias = objective.parameters
        found = objective(images.float(), labels, reference=reference)
        predicted = model[:5](images.float()) @ weight.T + bias
    error = (predicted - reference).square().sum(1).mean()
    expected = F.cross_entropy(model(images.float()), labels) + 2 * error
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("at", ["activations", "features"])
def test_dropout_drops_in_training_alone_and_ends(at: str) -> None:
    model, (images, _) = mlp(), batch()
    plain = model(images)
    with attach(model, {"dropout": {"share": 0.5, "at": at}}):
        dropped = model(images)
        assert not torch.allclose(dropped, plain)
        torch.testing.assert_close(model.eval()(images), plain)
        model.train()
    torch.testing.assert_close(model(images), plain)


def test_the_shuffled_penalty_is_the_published_one_of_exchanged_images() -> None:
    images, labels = batch()
    with attach(mlp(), {"isometry": {"beta": 0.5, "shuffled": True}}) as objective:
        found = objective(images, labels)
    mlp()  # seeds, and draws its weights
    exchanged = images[shuffle_within(labels)]
    features = mlp()[:5](images)
    expected = cross_entropy() + 0.5 * isometry_penalty(exchanged, features, labels)
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, loss_of({"isometry": {"beta": 0.5}}))
