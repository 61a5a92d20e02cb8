"""`iso(labels)` is the penalty of what the model computed: values, gradients, options, errors."""

import copy
import dataclasses
import warnings
from collections import namedtuple
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import MODELS, TwoLayers, Y, batch, build, features, watched
from torch import Tensor, nn
from torch.nn import functional as F

import isoreg
from isoreg import IsometryRegularizer, isometry_penalty
from isoreg.errors import InputError, IsoregError, LayerError, RecordError


def classifier(model: nn.Module) -> nn.Module:
    return model[-1] if isinstance(model, nn.Sequential) else model.get_classifier()


def penalty_by_loops(inputs: Tensor, phi: Tensor, labels: Tensor | None) -> float:
    """The definition, pair by pair, in float64."""
    m, f, n = inputs.double().flatten(1), phi.detach().double().flatten(1), len(inputs)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if labels is None or labels[i] == labels[j]:
                total += float((m[i] - m[j]).norm() - (f[i] - f[j]).norm()) ** 2
    return total / n**2


# Value and gradient


@pytest.mark.parametrize("kind", MODELS)
def test_the_value_is_the_penalty_of_what_enters_the_classifier(kind: str) -> None:
    model, x, iso = watched(kind, beta=0.3)
    model(x)
    value = iso(Y)
    phi = features(build(kind), x)
    torch.testing.assert_close(value, 0.3 * isometry_penalty(x, phi, Y))
    assert value.item() == pytest.approx(0.3 * penalty_by_loops(x, phi, Y), rel=1e-4)
    assert value.shape == ()


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_all_parameters_equal_those_of_a_loss_written_by_hand(kind: str) -> None:
    model, twin, x = build(kind), build(kind), batch(kind)
    iso = IsometryRegularizer(model, beta=0.3)
    (F.cross_entropy(model(x), Y) + iso(Y)).backward()
    phi = features(twin, x)
    distances = torch.stack([(a - phi).square().sum(1).add(1e-24).sqrt() for a in phi])
    references = torch.cdist(x.flatten(1), x.flatten(1))
    same = Y[:, None] == Y
    penalty = (same * (references - distances).square()).sum() / len(x) ** 2
    (F.cross_entropy(classifier(twin)(phi), Y) + 0.3 * penalty).backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_the_penalty_alone_reaches_the_parameters_below_the_classifier(kind: str) -> None:
    model = build(kind)
    iso = IsometryRegularizer(model)
    model(batch(kind))
    iso(Y).backward()
    assert next(model.parameters()).grad.abs().sum() > 0
    assert all(p.grad is None for p in classifier(model).parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_two_lines_in_a_training_loop_lower_the_penalty(kind: str) -> None:
    model, x = build(kind), batch(kind)
    before = isometry_penalty(x, features(model, x), Y).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2 if kind == "mlp" else 1e-3)
    iso = IsometryRegularizer(model, beta=0.1)
    for _ in range(60 if kind == "mlp" else 10):
        loss = F.cross_entropy(model(x), Y) + iso(Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    iso.detach()
    assert isometry_penalty(x, features(model, x), Y).item() < 0.8 * before


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    beta=st.floats(0, 10),
    seed=st.integers(0, 100),
)
def test_any_batch_gives_beta_times_the_definition(
    labels: list[int], beta: float, seed: int
) -> None:
    model, y = build("mlp"), torch.tensor(labels)
    x = torch.randn(len(y), 6, generator=torch.Generator().manual_seed(seed))
    iso = IsometryRegularizer(model, beta=beta)
    model(x)
    expected = beta * penalty_by_loops(x, features(model, x), y)
    assert iso(y).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(order=st.permutations(range(6)))
def test_the_order_of_the_batch_does_not_matter(order: list[int]) -> None:
    model, x, iso = watched("mlp", ["0", "2"])
    model(x)
    value = iso(Y)
    model(x[order])
    torch.testing.assert_close(iso(Y[order]), value)


def test_a_batch_without_pairs_gives_a_zero_that_can_be_differentiated() -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    for labels in (torch.tensor([0]), torch.arange(3), torch.tensor([-100, -100])):
        model(batch("mlp")[: len(labels)])
        value = iso(labels)
        assert value.item() == 0
        value.backward()


def test_labels_none_keeps_the_distances_of_all_pairs() -> None:
    model, x, iso = watched("mlp")
    model(x)
    assert iso(None).item() == pytest.approx(
        penalty_by_loops(x, features(model, x), None), rel=1e-4
    )


def test_soft_labels_weigh_pairs_by_their_overlap() -> None:
    model, x = build("mlp"), batch("mlp")
    mixed = 0.7 * F.one_hot(Y, 4).float() + 0.3 * F.one_hot(Y.flip(0), 4).float()
    iso = IsometryRegularizer(model)
    model(x)
    value = iso(mixed)
    torch.testing.assert_close(value, isometry_penalty(x, features(model, x), mixed))
    model(x)
    assert not torch.isclose(value, iso(Y))


# Options of the penalty


@pytest.mark.parametrize(
    "options",
    [
        {"distance": "manhattan"},
        {"distance": lambda points: torch.cdist(points, points) * 2},
        {"scale": 10.0},
        {"scale": "fit"},
        {"scale": torch.tensor(0.5)},
        {"reduction": "pairs"},
        {"distance": "cosine", "scale": 2, "reduction": "pairs"},
    ],
)
def test_options_mean_what_they_mean_to_isometry_penalty(options: dict[str, object]) -> None:
    model, x, iso = watched("mlp", beta=2.0, **options)
    model(x)
    value = iso(Y)
    torch.testing.assert_close(value, 2 * isometry_penalty(x, features(model, x), Y, **options))
    model(x)
    plain = IsometryRegularizer(model, beta=2.0)
    model(x)
    assert not torch.isclose(value, plain(Y))


def test_beta_zero_is_a_zero_loss_that_still_reports_the_penalty() -> None:
    model, x, iso = watched("mlp", beta=0)
    model(x)
    assert iso(Y).item() == 0
    assert float(iso.penalties["4"]) > 0


def test_penalties_are_the_unweighted_terms_detached() -> None:
    model, x, iso = watched("mlp", {"0": 0.5, "2": 3.0}, beta=0.1)
    model(x)
    total = iso(Y)
    assert set(iso.penalties) == {"0", "2"}
    for name, value in iso.penalties.items():
        expected = isometry_penalty(x, model[: int(name) + 1](x), Y).detach()
        torch.testing.assert_close(value, expected)
        assert not value.requires_grad
    weighted = 0.1 * (0.5 * iso.penalties["0"] + 3.0 * iso.penalties["2"])
    torch.testing.assert_close(total.detach(), weighted)


def test_a_list_of_layers_sums_one_penalty_each_with_the_gradient_of_the_sum() -> None:
    model, x = build("mlp"), batch("mlp")
    twin = copy.deepcopy(model)
    iso = IsometryRegularizer(model, ["0", "3"], beta=0.1)
    model(x)
    iso(Y).backward()
    sum(0.1 * isometry_penalty(x, twin[: i + 1](x), Y) for i in (0, 3)).backward()
    for p, q in zip(model[:4].parameters(), twin[:4].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


# What is recorded


def test_an_in_place_activation_does_not_change_what_was_recorded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    twin, x = copy.deepcopy(model), batch("mlp")
    iso = IsometryRegularizer(model, "0")
    (F.cross_entropy(model(x), Y) + iso(Y)).backward()
    hidden = twin[0](x)
    loss = F.cross_entropy(twin[2](hidden.relu()), Y) + isometry_penalty(x, hidden, Y)
    loss.backward()
    assert float(iso.penalties["0"]) == pytest.approx(penalty_by_loops(x, hidden, Y), rel=1e-4)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_in_place_activations_of_a_timm_resnet_do_not_change_what_was_recorded() -> None:
    model, x, iso = watched("resnet18", "bn1")
    model(x)
    phi = model.bn1(model.conv1(x))
    assert (phi < 0).any()
    torch.testing.assert_close(iso(Y), isometry_penalty(x, phi, Y))


@pytest.mark.parametrize("inputs", [None, lambda x: x, lambda x: x[:, :5]])
def test_a_model_that_overwrites_its_inputs_is_compared_with_what_it_was_given(
    inputs: Callable[[Tensor], Tensor] | None,
) -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 8), nn.Linear(8, 4)), batch("mlp")
    iso = IsometryRegularizer(model, inputs=inputs)
    model(x.clone())
    reference = x if inputs is None else inputs(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(reference, model[1](x.relu()), Y))


def test_an_in_place_activation_does_not_break_the_gradient_of_a_callable_pool() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    twin, x = copy.deepcopy(model), batch("mlp")
    iso = IsometryRegularizer(model, "0", pool=lambda h: h.square())
    (F.cross_entropy(model(x), Y) + iso(Y)).backward()
    hidden = twin[0](x)
    penalty = isometry_penalty(x, hidden.square(), Y)
    (F.cross_entropy(twin[2](hidden.relu()), Y) + penalty).backward()
    torch.testing.assert_close(model[0].weight.grad, twin[0].weight.grad)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(torch.tanh(self.shared(x))))


def test_a_layer_used_twice_has_one_penalty_for_each_use() -> None:
    model, x = Twice(), batch("mlp")
    iso = IsometryRegularizer(model, {"shared": 2.0}, beta=0.5)
    assert iso.layers == ["shared"]
    first = model.shared(x)
    second = model.shared(first.tanh())
    for _ in range(2):  # the count starts again with every forward
        model(x)
        total = iso(Y)
        assert list(iso.penalties) == ["shared", "shared:2"]
        torch.testing.assert_close(
            torch.stack(list(iso.penalties.values())),
            isometry_penalty(x, [first, second], Y).detach(),
        )
        torch.testing.assert_close(total, isometry_penalty(x, [first, second], Y).sum())


def test_under_autocast_the_penalty_is_float32_of_the_bf16_features() -> None:
    model, x, iso = watched("mlp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phi = features(model, x)
        model(x)
        inside = iso(Y)
    model_out = torch.autocast("cpu", dtype=torch.bfloat16)(model)(x)
    outside = iso(Y)
    assert model_out.dtype == phi.dtype == torch.bfloat16
    expected = isometry_penalty(x, phi.float(), Y)
    for value in (inside, outside):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
    inside.backward()
    assert all(p.grad.isfinite().all() for p in model[:3].parameters())


def test_a_float64_model_has_a_float64_penalty() -> None:
    model, x = build("mlp").double(), batch("mlp").double()
    iso = IsometryRegularizer(model)
    model(x)
    value = iso(Y)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(penalty_by_loops(x, features(model, x), Y), rel=1e-12)


class Emitting(nn.Module):
    """A layer whose output is not just a tensor."""

    def __init__(self, pack: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.pack = nn.Linear(6, 8), pack

    def forward(self, x: Tensor) -> object:
        return self.pack(self.inner(x))


class Around(nn.Module):
    def __init__(self, pack: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.head = Emitting(pack), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.head(x)


Output = namedtuple("Output", ["loss", "hidden", "logits"])


@dataclasses.dataclass
class Data:
    loss: Tensor | None
    hidden: Tensor


@pytest.mark.parametrize(
    "pack",
    [
        lambda h: (h, h * 2),
        lambda h: [h, None],
        lambda h: (None, "name", h, h * 2),
        lambda h: ((h, h * 2), h * 3),
        lambda h: {"hidden": h, "logits": h * 2},
        lambda h: {"loss": None, "hidden": h},
        lambda h: Output(None, h, h * 2),
        lambda h: Data(None, h),
    ],
)
def test_of_an_output_that_holds_several_things_the_first_tensor_counts(
    pack: Callable[[Tensor], object],
) -> None:
    model, x = Around(pack), batch("mlp")
    iso = IsometryRegularizer(model, "layer")
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.layer.inner(x), Y))


class Overwritten(Around):
    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)[0].relu_()
        return self.head(x)


@pytest.mark.parametrize("pool", ["flatten", lambda out: out[0]])
def test_a_tensor_inside_an_output_may_be_overwritten_later(
    pool: str | Callable[[tuple[Tensor, ...]], Tensor],
) -> None:
    model, x = Overwritten(lambda h: (h,)), batch("mlp")
    iso = IsometryRegularizer(model, "layer", pool=pool)
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.layer.inner(x), Y))


def test_a_callable_pool_picks_from_the_layers_whole_output() -> None:
    model, x = Around(lambda h: {"hidden": h, "logits": h.tanh()}), batch("mlp")
    iso = IsometryRegularizer(model, "layer", pool=lambda out: out["logits"])
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.layer.inner(x).tanh(), Y))


def maps(model: nn.Module, x: Tensor) -> Tensor:
    return model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))


def tokens(model: nn.Module, x: Tensor) -> Tensor:
    return model.forward_features(x)


Pool = str | Callable[[Tensor], Tensor]
# a model, its layer, what that gives and its axes; a pooling, and the same by hand
POOLS = [
    ("resnet18", "layer1", maps, 4, "flatten", lambda h: h.flatten(1)),
    ("resnet18", "layer1", maps, 4, "mean", lambda h: h.mean((2, 3))),
    ("resnet18", "layer1", maps, 4, lambda h: h.amax((2, 3)), lambda h: h.amax((2, 3))),
    ("vit", "norm", tokens, 3, "flatten", lambda h: h.flatten(1)),
    ("vit", "norm", tokens, 3, "mean", lambda h: h.mean(1)),
    ("vit", "norm", tokens, 3, "token", lambda h: h[:, 0]),
    ("vit", "norm", tokens, 3, lambda h: h[:, 1:].mean(1), lambda h: h[:, 1:].mean(1)),
    ("mlp", None, features, 2, "mean", lambda h: h),
]


@pytest.mark.parametrize(("kind", "layer", "made", "axes", "pool", "by_hand"), POOLS)
def test_pool_reduces_maps_and_tokens_and_leaves_what_has_no_space(
    kind: str,
    layer: str | None,
    made: Callable[..., Tensor],
    axes: int,
    pool: Pool,
    by_hand: Callable[[Tensor], Tensor],
) -> None:
    model, x, iso = watched(kind, layer, pool=pool)
    model(x)
    given = made(model, x)
    assert given.ndim == axes
    torch.testing.assert_close(iso(Y), isometry_penalty(x, by_hand(given), Y))


def test_one_number_a_sample_is_a_feature_vector_of_width_one() -> None:
    model, x = Around(lambda h: h.sum(1)), batch("mlp")
    for pool in ("flatten", "mean", lambda h: h):
        iso = IsometryRegularizer(model, "layer", pool=pool)
        model(x)
        expected = isometry_penalty(x, model.layer.inner(x).sum(1, keepdim=True), Y)
        torch.testing.assert_close(iso(Y), expected)


# What it is compared with


class Keywords(TwoLayers):
    def forward(self, mode: str = "", *, pixels: Tensor, shift: float = 0.0) -> Tensor:
        return self.head(self.body(pixels + shift))


def test_the_inputs_may_be_given_by_keyword_and_after_other_things() -> None:
    model, x = Keywords(), batch("mlp")
    iso = IsometryRegularizer(model)
    model("train", pixels=x, shift=1.0)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))


@pytest.mark.parametrize("kind", MODELS)
def test_positional_and_keyword_inputs_are_the_same(kind: str) -> None:
    model, x, iso = watched(kind)
    model(x)
    value = iso(Y)
    model(**{"input" if kind == "mlp" else "x": x})
    torch.testing.assert_close(iso(Y), value)


class Nested(Keywords):
    def forward(self, sample: dict[str, object]) -> Tensor:
        return self.head(self.body(sample["views"][0]))


def test_the_samples_are_found_inside_a_nested_argument_and_two_views_are_refused() -> None:
    model, x = Nested(), batch("mlp")
    iso = IsometryRegularizer(model)
    model({"name": "a", "views": [x]})
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))
    model({"name": "a", "views": [x, x * 2]})
    with pytest.raises(InputError, match=r"2 tensors .*views'\]\[0\] \(6, 6\).*inputs="):
        iso(Y)


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(11, 5), nn.Linear(5, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_inputs_may_be_a_function_of_the_calls_arguments() -> None:
    model, x = Keywords(), batch("mlp")
    iso = IsometryRegularizer(model, inputs=lambda mode, pixels, shift: pixels[:, :2] * shift)
    model("train", pixels=x, shift=3.0)
    torch.testing.assert_close(iso(Y), isometry_penalty(x[:, :2] * 3, model.body(x), Y))


def test_inputs_as_a_function_make_integer_inputs_comparable() -> None:
    model, ids = Embedding(), torch.randint(0, 11, (6, 3))
    iso = IsometryRegularizer(model, inputs=lambda ids: F.one_hot(ids, 11).float().sum(1))
    model(ids)
    counts = F.one_hot(ids, 11).float().sum(1)
    torch.testing.assert_close(iso(Y), isometry_penalty(counts, model.embed(ids), Y))


def test_inputs_may_be_a_layers_output_which_gets_no_gradient() -> None:
    model, x = build("mlp"), batch("mlp")
    twin = copy.deepcopy(model)
    iso = IsometryRegularizer(model, inputs="0")
    assert iso.layers == ["4"]
    model(x)
    value = iso(Y)
    value.backward()
    reference = twin[0](x)
    expected = isometry_penalty(reference.detach(), twin[:4](x), Y)
    expected.backward()
    torch.testing.assert_close(value, expected)
    assert list(iso.penalties) == ["4"]
    for p, q in zip(model[:4].parameters(), twin[:4].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_reference_layer_overwritten_in_place_is_compared_as_it_was() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)), batch("mlp")
    iso = IsometryRegularizer(model, inputs="0")
    model(x)
    before = model[0](x).detach()
    torch.testing.assert_close(iso(Y), isometry_penalty(before, before.relu(), Y))


@pytest.mark.parametrize("attached", ["default", "by hand"])
def test_an_input_that_requires_a_gradient_gets_the_penaltys_only_where_it_is_asked_for(
    attached: str,
) -> None:
    model, x = build("mlp"), batch("mlp").requires_grad_()
    inputs = None if attached == "default" else (lambda x: x)
    iso = IsometryRegularizer(model, inputs=inputs)
    model(x)
    (found,) = torch.autograd.grad(iso(Y), x)
    reference = x.detach() if attached == "default" else x
    (expected,) = torch.autograd.grad(isometry_penalty(reference, features(model, x), Y), x)
    torch.testing.assert_close(found, expected)


def test_under_a_margin_loss_the_penalty_still_goes_the_fast_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("all N^2 distances were computed")

    monkeypatch.setattr(isoreg.penalty, "dense_by_options", refuse)
    model, x = build("mlp"), batch("mlp")
    criterion = isoreg.RobustLoss(model, eps=0.1)
    iso = IsometryRegularizer(model)
    (criterion(x, Y) + iso(Y)).backward()


# Errors: every one says who speaks, what is wrong and what to do


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), "0.1"])
def test_beta_must_be_a_finite_number_from_zero_up(beta: object) -> None:
    with pytest.raises(InputError, match=r"(?s)^IsometryRegularizer: .*beta.*(-1|nan|inf|0\.1)"):
        IsometryRegularizer(build("mlp"), beta=beta)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"pool": "max"}, ["pool", "max", "flatten", "mean", "token"]),
        ({"pool": 3}, ["pool", "3"]),
        ({"pool": {"head": "mean"}}, ["pool must be a callable or one of"]),
        ({"distance": "euclidian"}, ["distance", "euclidian", "euclidean"]),
        ({"distance": 2}, ["distance", "2"]),
        ({"reduction": "mean"}, ["reduction", "mean", "batch", "pairs"]),
        ({"scale": "best"}, ["scale", "best", "fit"]),
        ({"scale": 0.0}, ["scale", "0"]),
        ({"scale": -2.0}, ["scale", "-2"]),
        ({"scale": float("nan")}, ["scale", "nan"]),
        ({"scale": torch.ones(2)}, ["scale"]),
        ({"inputs": 3}, ["inputs", "int"]),
        ({"input_distance": "euclid"}, ["a distance", "euclid", "euclidean"]),
        ({"control": "no"}, ["control", "True or False", "'no'"]),
        ({"process_group": "everyone"}, ["process_group", "None, 'world'", "everyone"]),
        ({"queue": 0}, ["queue", "0"]),
    ],
)
def test_a_wrong_option_is_refused_at_construction_with_what_is_allowed(
    options: dict[str, object], facts: list[str]
) -> None:
    model = build("mlp")
    with pytest.raises((InputError, LayerError)) as caught:
        IsometryRegularizer(model, **options)
    message = str(caught.value)
    assert message.startswith("IsometryRegularizer: ")
    assert [fact for fact in facts if fact not in message] == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        IsometryRegularizer(build("mlp"), None, 0.1)


@pytest.mark.parametrize("labels", [torch.zeros(4, dtype=torch.long), torch.full((4, 2), 0.5)])
def test_labels_of_another_length_name_both_numbers(labels: Tensor) -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model)
    model(batch("mlp"))
    with pytest.raises(InputError, match=r"(?s)^IsometryRegularizer: ") as caught:
        iso(labels)
    assert "4" in str(caught.value)
    assert "6" in str(caught.value)
    assert "paused" in str(caught.value)


def test_integer_inputs_ask_for_inputs() -> None:
    model = Embedding()
    iso = IsometryRegularizer(model)
    model(torch.randint(0, 11, (6, 3)))
    with pytest.raises(InputError, match=r"(?s)^IsometryRegularizer: .*int64.*inputs="):
        iso(Y)


@pytest.mark.parametrize(
    ("pack", "pool", "text"),
    [
        (lambda _: None, "flatten", "'layer'"),
        (lambda _: (), "flatten", "'layer'"),
        (lambda _: {"a": "b"}, "flatten", "'layer'"),
        *((lambda h: h.sum(), pool, "'layer'") for pool in ("flatten", "mean", "token")),
        (lambda h: h, "token", "(?=.*token).*'layer'"),
    ],
)
def test_an_output_without_a_tensor_a_batch_axis_or_tokens_names_its_layer(
    pack: Callable[[Tensor], object], pool: str, text: str
) -> None:
    model = Around(pack)
    iso = IsometryRegularizer(model, "layer", pool=pool)
    model(batch("mlp"))
    with pytest.raises((LayerError, InputError), match=rf"(?s)^IsometryRegularizer: .*{text}"):
        iso(Y)


@pytest.mark.parametrize("result", [None, [[1.0] * 6] * 6, "pixels"])
def test_a_function_for_inputs_that_returns_no_tensor_is_named(result: object) -> None:
    model = build("mlp")
    iso = IsometryRegularizer(model, inputs=lambda _x: result)
    model(batch("mlp"))
    with pytest.raises(IsoregError, match=r"(?s)^IsometryRegularizer: .*inputs"):
        iso(Y)


@pytest.mark.parametrize("options", [{"layers": ["body", "skipped"]}, {"inputs": "skipped"}])
def test_a_layer_that_never_ran_is_named(options: dict[str, object]) -> None:
    model = TwoLayers()
    model.skipped = nn.Linear(6, 8)
    iso = IsometryRegularizer(model, **options)
    model(batch("mlp"))
    with pytest.raises(RecordError, match=r"(?s)^IsometryRegularizer: .*skipped"):
        iso(Y)


class Temperature(TwoLayers):
    def forward(self, temperature: Tensor, x: Tensor) -> Tensor:
        return self.head(self.body(x)) / temperature


@pytest.mark.parametrize("temperature", [torch.tensor(2.0), torch.ones(1, 4)])
def test_a_tensor_without_a_row_for_each_sample_is_not_what_holds_the_samples(
    temperature: Tensor,
) -> None:
    model, x = Temperature(), batch("mlp")
    iso = IsometryRegularizer(model)
    model(temperature, x)
    value = iso(Y)
    iso.detach()
    named = IsometryRegularizer(model, inputs=lambda _, x: x)
    model(temperature, x)
    torch.testing.assert_close(value, named(Y))


def test_a_model_called_without_any_tensor_asks_for_inputs() -> None:
    class Source(TwoLayers):
        def forward(self, seed: int) -> Tensor:
            return super().forward(batch("mlp", seed))

    model = Source()
    iso = IsometryRegularizer(model)
    model(3)
    with pytest.raises(IsoregError, match=r"(?s)^IsometryRegularizer: .*inputs="):
        iso(Y)


def test_an_error_while_reading_leaves_the_next_forward_usable() -> None:
    model, x, iso = watched("mlp")
    model(x)
    with pytest.raises(InputError):
        iso(Y[:3])
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, features(model, x), Y))


def test_it_is_found_at_the_top_of_the_package() -> None:
    assert isoreg.regularizer.IsometryRegularizer is isoreg.IsometryRegularizer


@pytest.mark.parametrize("frozen", [True, False])
def test_features_that_need_no_gradient_are_warned_of_once(frozen: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(not frozen)
    x, y = torch.rand(6, 4), torch.arange(6) % 2
    iso = IsometryRegularizer(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model(x)
            iso(y)
    found = [str(w.message) for w in caught if "need no gradient" in str(w.message)]
    assert len(found) == frozen
    assert all("Are all parameters up to it frozen?" in text for text in found)


def test_a_checkpoint_whose_beta_is_none_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    iso = IsometryRegularizer(model, beta=0.3)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="beta must be"):
            iso.load_state_dict({**iso.state_dict(), "beta": wrong})
        assert iso.beta == 0.3


def test_a_penalty_that_was_read_in_inference_mode_leaves_training_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    iso = IsometryRegularizer(model, beta=0.1)
    x, y = torch.rand(16, 8), torch.randint(2, (16,))
    model(x)
    with torch.inference_mode():
        read = iso(y)
    model(x)
    trained = iso(y)
    assert trained.item() == pytest.approx(read.item())
    trained.backward()


def test_given_distances_are_those_of_no_points_whatever_the_reference_is_measured_in() -> None:
    model, x, iso = watched("mlp", input_distance="manhattan")
    model(x)
    given_bb = torch.cdist(x, x)
    expected = isometry_penalty(None, features(model, x), Y, input_distances=given_bb)
    torch.testing.assert_close(iso(Y, distances=given_bb), expected)


def test_its_text_says_what_is_watched_and_how() -> None:
    x = batch("mlp")
    model = Twice()
    iso = IsometryRegularizer(model, beta=0.5, control=True)
    options = "distance='euclidean', scale=1.0, control=True)"
    assert repr(iso) == f"IsometryRegularizer(beta=0.5, layers=not known before a pass, {options}"
    model(x)
    iso(Y)
    layers = "layers=['head (6, 6)'], at='input'"
    assert repr(iso) == f"IsometryRegularizer(beta=0.5, {layers}, {options}"
    named = IsometryRegularizer(model, "shared", scale="fit")
    assert "layers=['shared'], distance='euclidean', scale='fit')" in repr(named)
    for inputs, text in ((nn.Linear(6, 2), "Linear"), ("shared", "'shared'"), (abs, "abs")):
        other = IsometryRegularizer(
            model, "head", inputs=inputs, input_distance="cosine", reduction="pairs"
        )
        assert f"inputs={text}, input_distance='cosine', reduction='pairs')" in repr(other)
    assert repr(IsometryRegularizer(model, "head", queue=8)).endswith("scale=1.0, queue=8)")


def test_a_copy_has_what_the_original_has() -> None:
    iso = IsometryRegularizer(build("mlp"), beta=0.3, scale=2.0, control=True, queue=5)
    twin = copy.deepcopy(iso)
    assert vars(twin).keys() == vars(iso).keys()
    assert twin.penalties == twin.log_dict() == twin.report().layers == {}
    for name in ("beta", "distance", "scale", "reduction", "process_group"):
        assert getattr(twin, name) == getattr(iso, name)
    twin.detach()
