"""Which tensor, which layer, which pass: only the right value or an error of ours."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import IsometryRegularizer, ReferenceHead, isometry_penalty
from isoreg._attach.checks import (
    batch_size,
    check_batch_labels,
    check_parallel,
    check_reference,
    whole_tensor,
)
from isoreg._attach.reference import Teacher
from isoreg._attach.samples import choose_samples, parameter_names, read_call
from isoreg.errors import InputError, IsoregError, LayerError, RecordError

N = 12
Y = torch.arange(N) % 3
SOFT = 0.9 * F.one_hot(Y, 3).float() + 0.1 / 3


class Net(nn.Module):
    """Takes anything; `pick` says which tensor of it the network reads."""

    def __init__(self, pick=lambda *args, **kwargs: args[0], width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(width, 6), nn.Linear(6, 3)
        self.pick = pick

    def forward(self, *args, **kwargs) -> Tensor:
        return self.head(torch.tanh(self.body(self.pick(*args, **kwargs).float().flatten(1))))

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x.float().flatten(1)))


def points(*shape: int) -> Tensor:
    return torch.randn(N, *(shape or (8,)), generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Batch:
    noise: Tensor
    image: Tensor


EXTRAS = {
    "weights": torch.rand(N),
    "column": torch.rand(N, 1),
    "ids": torch.arange(N),
    "mask": torch.ones(N, 5, dtype=torch.bool),
    "temperature": torch.tensor(2.0),
    "codebook": torch.rand(5, 8),
    "targets": torch.rand(N, 8),
    "labels": SOFT,
    "soft": SOFT.clone(),
    "boxes": torch.rand(N, 4),
}


@given(
    names=st.lists(st.sampled_from(sorted(EXTRAS)), max_size=3, unique=True),
    place=st.integers(0, 3),
    form=st.sampled_from(["positional", "keyword", "dict", "list"]),
    name=st.sampled_from(["x", "image", "signal"]),
)
def test_any_call_is_compared_with_its_samples_or_refused(names, place, form, name) -> None:
    x = points()
    items = [(key, EXTRAS[key]) for key in names]
    items.insert(place, (name, x))
    at = [key for key, _ in items].index(name)
    forms = {
        "positional": ([value for _, value in items], {}, lambda *a: a[at]),
        "keyword": ([], dict(items), lambda **k: k[name]),
        "dict": ([dict(items)], {}, lambda d: d[name]),
        "list": ([[value for _, value in items]], {}, lambda values: values[at]),
    }
    args, kwargs, pick = forms[form]
    model = Net(pick)
    iso = IsometryRegularizer(model, "body")
    model(*args, **kwargs)
    try:
        value = iso(SOFT)
    except InputError as error:
        assert "inputs=" in str(error)
        assert len(items) > 1
        return
    torch.testing.assert_close(value, isometry_penalty(x, model.body(x), SOFT))


def test_names_and_shapes_find_the_samples_beside_what_is_no_sample() -> None:
    x = points()
    for extras in ({"targets": SOFT}, {"weights": torch.rand(N)}, {"boxes": torch.rand(N, 4)}):
        model = Net(lambda batch: batch["image"])
        iso = IsometryRegularizer(model)
        model({**extras, "image": x})
        torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))


@pytest.mark.parametrize("weights", [torch.rand(N), torch.rand(N, 1)])
def test_one_number_a_sample_is_never_the_samples_beside_another_tensor(weights: Tensor) -> None:
    model, x = Net(lambda first, second: second), points()
    iso = IsometryRegularizer(model)
    model(weights, x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))
    model = Net(lambda first, second: F.one_hot(second, N).float(), width=N)
    iso = IsometryRegularizer(model)
    model(weights, torch.randperm(N))
    with pytest.raises(InputError, match="more than one number a sample"):
        iso(SOFT)


X = points(3)
IDS = torch.randint(9, (N, 5))
BESIDE_IDS: dict[str, tuple[dict[str, Tensor], str]] = {
    "a mask of floats": ({"input_ids": IDS, "attention_mask": torch.ones(N, 5)}, "must be float"),
    "columns of numbers": ({"categories": IDS, "numeric": torch.rand(N, 3)}, "2 tensors that may"),
    "weights of tokens": ({"weights": torch.rand(N, 5), "tokens": IDS}, r"tokens int64 \(12, 5\)"),
    "vectors with a mask of integers": ({"features": X, "attention_mask": IDS}, ""),
    "vectors with a mask of booleans": ({"features": X, "padded": IDS > 3}, ""),
    "vectors with integers of other samples": ({"features": X, "edges": IDS[:2]}, ""),
    "vectors with complex numbers": ({"features": X, "spectrum": X.cfloat()}, ""),
    "vectors with a sparse graph": ({"features": X, "edges": torch.eye(N).to_sparse()}, ""),
    "vectors with lengths": ({"features": X, "lengths": IDS[:, 0]}, ""),
    "a masked image beside its mask": ({"masked_image": X, "mask": X}, "masked_image"),
    "a masked image beside ids": ({"masked_image": X, "words": IDS}, "2 tensors that may"),
    "images with a mask of tokens": ({"pixel_values": X, "attention_mask": IDS}, ""),
    "images with tokens": ({"pixel_values": X, "input_ids": IDS}, "2 tensors that may"),
    "vectors by name": ({"inputs_embeds": X, "token_type_ids": IDS}, ""),
    "one number by name": ({"x": X[:, :1], "context": X}, "x"),
    "one number a sample by name": ({"x": X[:, 0], "context": X}, "x"),
    "one number beside a mask": ({"pixels": X[:, :1], "mask": X}, "pixels"),
}


def found_or_refused(call: object, labels: Tensor | None, n: int, expected: Tensor | str) -> None:
    """Whether the samples are these, or there is an error that says this."""
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            choose_samples(call, labels, n)
    else:
        assert torch.equal(choose_samples(call, labels, n), expected)


@pytest.mark.parametrize(("given", "expected"), BESIDE_IDS.values(), ids=BESIDE_IDS)
def test_what_stands_beside_token_ids_or_masks_is_the_samples_or_refused(
    given: dict[str, Tensor], expected: str
) -> None:
    found_or_refused(read_call((), given, []), Y, N, given.get(expected, expected or X))


def test_two_tensors_that_may_be_the_samples_are_refused_with_their_shapes() -> None:
    model = Net(lambda batch: batch.noise)
    iso = IsometryRegularizer(model)
    model(Batch(points(), torch.rand(N, 2)))
    iso(Y)  # one of them is called image
    model = Net(lambda first, second: first)
    iso = IsometryRegularizer(model)
    model(points(), torch.rand(N, 4))
    with pytest.raises(InputError, match=r"2 tensors .*\(12, 8\).*\(12, 4\).*inputs="):
        iso(Y)


def test_images_in_uint8_are_images_and_other_integers_are_not() -> None:
    images = torch.randint(0, 256, (N, 1, 2, 4), dtype=torch.uint8)
    model = Net()
    iso = IsometryRegularizer(model)
    model(images)
    x = images.float()
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))
    model(images.long())
    with pytest.raises(InputError, match="int64"):
        iso(Y)


def test_a_list_of_single_samples_is_one_batch_and_one_of_several_shapes_is_refused() -> None:
    x = points()
    model = Net(torch.stack)
    iso = IsometryRegularizer(model)
    model(list(x.unbind()))
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))
    model = Net(lambda values: torch.stack([value[:8] for value in values]))
    iso = IsometryRegularizer(model)
    model([torch.rand(8 + i % 2) for i in range(N)])
    with pytest.raises(InputError, match="different shapes"):
        iso(Y)


LISTS: dict[str, tuple[int, list[Tensor], object]] = {
    "single samples": (3, [torch.rand(4, 2) for _ in range(3)], (3, 4, 2)),
    "one sample": (1, [torch.rand(4, 2)], (1, 4, 2)),
    "one batch of one": (1, [torch.rand(1, 2)], (1, 2)),
    "one batch": (3, [torch.rand(3, 2)], (3, 2)),
    "a batch beside other rows": (3, [torch.rand(3, 2), torch.rand(5, 2)], (3, 2)),
    "two batches": (3, [torch.rand(3, 2), torch.rand(3, 2)], "2 tensors that may hold"),
    "as many batches as samples": (3, [torch.rand(3, 2)] * 3, "may be 3 single .* 3 batches of 3"),
    "these of several widths": (2, [torch.rand(2, 2), torch.rand(2, 3)], "2 tensors that may"),
    "samples of several shapes": (2, [torch.rand(4, 2), torch.rand(5, 2)], "different shapes"),
}


@pytest.mark.parametrize(("n", "values", "expected"), LISTS.values(), ids=LISTS)
def test_a_list_is_read_as_single_samples_or_as_batches_or_refused(
    n: int, values: list[Tensor], expected: object
) -> None:
    call = read_call((values,), {}, ["views"])
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            choose_samples(call, None, n)
    else:
        assert choose_samples(call, None, n).shape == expected


Y_AMONG: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "one of another shape": ({"z": (4, 3), "y": (4, 2)}, "z"),
    "one of its shape": ({"z": (4, 3), "y": (4, 3)}, r"got z \(4, 3\), y \(4, 3\)"),
    "one that is named": ({"x": (4, 3), "y": (4, 3)}, "x"),
    "two others": ({"a": (4, 3), "b": (4, 2), "y": (4, 3)}, r"got a \(4, 3\), b \(4, 2\)"),
    "nothing": ({"y": (4, 3)}, "y"),
}


@pytest.mark.parametrize(("shapes", "expected"), Y_AMONG.values(), ids=Y_AMONG)
def test_y_is_the_labels_name_unless_it_looks_like_the_only_other_tensor(
    shapes: dict[str, tuple[int, ...]], expected: str
) -> None:
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    found_or_refused(read_call((), tensors, []), None, 4, tensors.get(expected, expected))


AMONG: dict[str, tuple[tuple[object, ...], dict[str, object], str]] = {
    "alone": ((X,), {}, ""),
    "alone, called labels": ((), {"labels": X}, "was called without one"),
    "beside another tensor": ((X,), {"noise": torch.rand(N, 2)}, r"got argument 0 .*, noise \("),
    "beside the labels": ((X,), {"soft": SOFT}, ""),
    "beside equal labels": ((X,), {"soft": SOFT.clone()}, ""),
    "beside other soft labels": ((X,), {"soft": SOFT.flip(1)}, "2 tensors that may hold"),
    "beside a number": ((points(5), torch.tensor(2.0)), {}, ""),
    "a column beside y": ((torch.rand(N, 1),), {"y": torch.arange(N)}, ""),
    "in a list with text": (([X, "text"],), {}, ""),
    "in a list with ids": (([points(5), torch.arange(N)],), {}, ""),
    "looking like labels beside ids": ((torch.arange(N), SOFT.flip(1)), {}, "must be floating"),
    "none": ((), {}, "was called without one"),
}


@pytest.mark.parametrize(("args", "kwargs", "refused"), AMONG.values(), ids=AMONG)
def test_among_what_a_model_is_called_with_the_samples_are_found_or_refused(
    args: tuple[object, ...], kwargs: dict[str, object], refused: str
) -> None:
    first = args[0] if args else None
    expected = refused or (first[0] if isinstance(first, list) else first)
    found_or_refused(read_call(args, kwargs, []), SOFT, N, expected)


SAMPLES = ["x", "input", "inputs", "data", "sample", "samples", "inputs_embeds"]
TOWERS = ["image", "images", "img", "imgs", "video", "videos", "audio", "audios"]
TOWERS += ["pixel_values", "input_values", "input_features"]


@pytest.mark.parametrize("name", [*SAMPLES, *TOWERS, "text", "texts"])
def test_what_is_called_as_samples_are_is_taken_before_another_tensor(name: str) -> None:
    call = read_call((), {"other": torch.rand(N, 2), name: X}, [])
    assert torch.equal(choose_samples(call, None, N), X)


TWINS = [("x", "x2"), ("x", "other"), ("image", "image2"), ("img", "img_augmented")]


@pytest.mark.parametrize(("first", "second"), [*TWINS, ("inputs_embeds", "decoder_inputs_embeds")])
@pytest.mark.parametrize("turned", [False, True])
def test_the_other_of_two_alike_is_not_passed_over_for_its_name(
    first: str, second: str, turned: bool
) -> None:
    def join(*views: Tensor) -> Tensor:
        return torch.cat(views, 1)

    a, b = points(), points()
    names = (second, first) if turned else (first, second)
    model = Net(lambda batch: join(*(batch[name] for name in names)), width=16)
    iso = IsometryRegularizer(model)
    model(dict(zip(names, (a, b), strict=True)))
    with pytest.raises(InputError, match=f"2 tensors that may hold.*{first}.*inputs=") as found:
        iso(Y)
    assert second in str(found.value)
    model(dict(zip(names, (a, b), strict=True)))
    both = join(a, b)
    torch.testing.assert_close(
        iso(Y, reference=both), isometry_penalty(both, model.features(both), Y)
    )


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_a_number_a_sample_beside_another_is_no_other_sample(shape: tuple[int, ...]) -> None:
    x, time = torch.rand(shape), torch.rand(shape)
    assert torch.equal(choose_samples(read_call((x, time), {}, ["x", "t"]), None, N), x)


@pytest.mark.parametrize("name", TOWERS)
def test_images_or_sounds_are_not_taken_before_what_another_tower_may_take(name: str) -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.text = nn.Linear(X.shape[1], 4), nn.Linear(2, 4)

        def forward(self, text: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
            return self.text(text), self.first(given[name])

    model = Towers()
    iso = IsometryRegularizer(model, "text")
    model(torch.rand(N, 2), **{name: X})
    with pytest.raises(InputError, match="called with 2 tensors that may hold the samples"):
        iso(Y)
    call = read_call((), {"input_ids": torch.ones(N, 5, dtype=torch.long), name: X}, [])
    with pytest.raises(InputError, match="2 tensors"):
        choose_samples(call, None, N)
    call = read_call((), {"x": torch.rand(N, 2), name: X}, [])
    with pytest.raises(InputError, match="2 tensors"):
        choose_samples(call, None, N)
    call = read_call((), {"time": torch.rand(N), "boxes": torch.rand(N, 4), name: X}, [])
    assert torch.equal(choose_samples(call, None, N), X)


@pytest.mark.parametrize("name", ["labels", "label", "label_ids", "targets", "target"])
def test_what_is_called_as_labels_are_holds_no_samples(name: str) -> None:
    for call in (read_call((X,), {}, [name]), read_call((), {name: X}, [])):
        assert call == ([], [])


ALONE: dict[str, tuple[Tensor, Tensor | None, str]] = {
    "one number a sample": (torch.rand(N), None, ""),
    "a column": (torch.rand(N, 1), None, ""),
    "a column beside the labels": (torch.rand(N, 1), Y, ""),
    "a column beside other integers": (torch.rand(N, 1), None, r"argument 1 int64 \(12,\)"),
    "images of integers": (torch.zeros(N, 2, 2, dtype=torch.uint8), Y, ""),
    "a table of integers": (torch.zeros(N, 2, dtype=torch.uint8), Y, r"argument 0 uint8 \(12, 2\)"),
    "a number": (torch.tensor(2.0), Y, r"argument 0 float32 \(\)"),
    "sparse": (torch.eye(N).to_sparse(), Y, r"argument 0 float32 sparse_coo \(12, 12\)"),
    "nested": (torch.nested.nested_tensor([X[0]]), Y, "argument 0 float32 nested"),
}


@pytest.mark.parametrize(("value", "labels", "refused"), ALONE.values(), ids=ALONE)
def test_beside_what_looks_like_labels_anything_that_has_distances_is_the_samples(
    value: Tensor, labels: Tensor | None, refused: str
) -> None:
    beside = [] if labels is None and not refused else [Y]
    call = read_call((value, *beside), {}, [])
    found_or_refused(call, labels, N, refused or value.float())


class Pair(NamedTuple):
    noise: Tensor
    image: Tensor


@pytest.mark.parametrize("kind", [Pair, Batch])
def test_fields_name_what_they_hold(kind: type) -> None:
    call = read_call((kind(torch.rand(N, 2), X),), {}, ["batch"])
    assert [str(c) for c in call.candidates] == ["batch.noise (12, 2)", "batch.image (12, 3)"]
    assert torch.equal(choose_samples(call, None, N), X)
    assert read_call((X, kind), {}, []).candidates[0].path == "argument 0"  # a class holds nothing


def test_what_is_taken_from_a_call_is_a_copy_without_graph() -> None:
    x = points().requires_grad_()
    value = choose_samples(read_call((x,), {}, ["x"]), None, N)
    assert not value.requires_grad
    with torch.no_grad():
        x.zero_()
    assert torch.equal(value, points())


def test_parameters_name_what_is_given_by_position_if_they_take_it() -> None:
    class Many(nn.Module):
        def forward(self, first: Tensor, /, second: Tensor, *more: Tensor, y: Tensor) -> None: ...

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Tensor, **kwargs: Tensor) -> None: ...

    assert parameter_names(Wrapper(Wrapper(Many()))) == ["first", "second"]
    assert parameter_names(Wrapper(nn.Sequential())) == ["input"]
    assert parameter_names(Wrapper(nn.ModuleList([nn.ReLU(), nn.ReLU()]))) == []


# The reference of a batch


def test_points_of_one_batch_take_the_place_of_what_was_recorded_and_get_no_gradient() -> None:
    model, x, table = Net(), points(), points(5).requires_grad_()
    iso = IsometryRegularizer(model, beta=0.5)
    model(x)
    value = iso(Y, reference=table)
    torch.testing.assert_close(value, 0.5 * isometry_penalty(table, model.features(x), Y))
    value.backward()
    assert table.grad is None


def test_distances_of_one_batch_with_unknown_pairs_and_weights() -> None:
    model, x = Net(), points()
    given_bb = torch.cdist(points(5), points(5))
    given_bb[0, 3] = given_bb[3, 0] = torch.nan
    weights_bb = torch.ones(N, N)
    weights_bb[1, 4] = weights_bb[4, 1] = 3.0
    iso = IsometryRegularizer(model)
    model(x)
    value = iso(Y, distances=given_bb, pair_weights=weights_bb)
    phi = model.features(x)
    same = (Y[:, None] == Y) & ~given_bb.isnan() & ~torch.eye(N, dtype=torch.bool)
    gaps = (given_bb.nan_to_num() - torch.cdist(phi, phi)).square() * weights_bb
    torch.testing.assert_close(value, gaps[same].sum() / N**2)
    shown = iso.report().layers["head"].distortion
    assert shown.pairs == int(same.sum()) // 2
    assert shown.stress == shown.stress


def test_reference_and_distances_together_are_refused() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model)
    model(x)
    with pytest.raises(InputError, match="not both"):
        iso(Y, reference=x, distances=torch.cdist(x, x))


def test_an_input_distance_measures_the_reference_alone() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model, input_distance="manhattan")
    model(x)
    expected = isometry_penalty(x, model.features(x), Y, input_distance="manhattan")
    torch.testing.assert_close(iso(Y), expected)


# Teachers


def test_a_teacher_gets_no_gradient_and_keeps_its_mode_and_statistics() -> None:
    teacher = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    before = copy.deepcopy(teacher.state_dict())
    teacher[2].eval()
    model, x = Net(), points()
    iso = IsometryRegularizer(model, inputs=teacher)
    model(x)
    value = iso(Y)
    value.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert [m.training for m in teacher.modules()] == [True, True, True, False]
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    answer = teacher.eval()(x).detach()
    torch.testing.assert_close(value, isometry_penalty(answer, model.features(x), Y))


@pytest.mark.parametrize(
    ("inputs", "kind"), [(nn.Linear(8, 2), "the network"), (lambda x: x, "the callable")]
)
def test_a_teacher_or_callable_that_cannot_take_the_call_is_named(inputs, kind: str) -> None:
    model = Net()
    iso = IsometryRegularizer(model, inputs=inputs)
    with pytest.raises(InputError, match=f"inputs: {kind} is called with what the model is called"):
        model(points(), points())
    iso.detach()


class Doubling(nn.Module):
    """It works in place on what it is called with."""

    def forward(self, batch: dict[str, list[Tensor]]) -> Tensor:
        return batch["images"][0].mul_(2)


@pytest.mark.parametrize("inputs", [Doubling(), lambda batch: batch["images"][0].mul_(2)])
def test_what_a_teacher_or_callable_does_in_place_is_not_seen_by_the_model(inputs) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 3)

        def forward(self, batch: dict[str, list[Tensor]]) -> Tensor:
            return self.net(batch["images"][0])

    model, x = Model(), torch.rand(6, 8)
    batch = {"images": [x.clone()]}
    iso = IsometryRegularizer(model, "net", inputs=inputs, beta=1.0)
    torch.testing.assert_close(model(batch), model.net(x))
    assert torch.equal(batch["images"][0], x)
    expected = isometry_penalty(2 * x, model.net(x), None)
    torch.testing.assert_close(iso(None), expected)


class Images(list):
    """A list of a kind of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    image: Tensor
    settings: object


class Settings:
    """Holds no tensor, and is what it is: a tokenizer, a lock."""

    def __init__(self) -> None:
        self.width, self.names = 8, ["image"]


SETTINGS = Settings()
FORMS = {
    "list": lambda x: Images([x, SETTINGS]),
    "mapping": lambda x: UserDict(image=x, settings=SETTINGS),
    "fields": lambda x: Batch(image=x, noise=SETTINGS),
    "slots": lambda x: Fixed(x, SETTINGS),
    "named tuple": lambda x: Pair(SETTINGS, x),
    "attributes": lambda x: SimpleNamespace(image=x, settings=SETTINGS),
}


def parts(batch: object) -> list[object]:
    """The image and the settings."""
    if isinstance(batch, list | UserDict):
        return [*batch] if isinstance(batch, list) else [*batch.values()]
    other = batch.noise if isinstance(batch, Batch | Pair) else batch.settings
    return [batch.image, other]


@pytest.mark.parametrize("form", FORMS)
def test_a_callable_gets_the_call_in_its_form_with_tensors_of_its_own(form: str) -> None:
    asked = []

    def doubled(batch: object) -> Tensor:
        asked.append(batch)
        return parts(batch)[0].mul_(2)

    model, x = Net(lambda batch: parts(batch)[0]), points()
    batch = FORMS[form](x.clone())
    iso = IsometryRegularizer(model, "body", inputs=doubled, beta=1.0)
    torch.testing.assert_close(model(batch), model.head(model.features(x)))
    assert torch.equal(parts(batch)[0], x)
    torch.testing.assert_close(iso(None), isometry_penalty(2 * x, model.body(x), None))
    assert type(asked[0]) is type(batch)
    assert parts(asked[0])[1] is SETTINGS


@pytest.mark.parametrize("settings", [SETTINGS, torch.Size([8])])
def test_a_callable_gets_what_holds_no_tensor_as_it_is(settings: object) -> None:
    asked = []

    def reference(x: Tensor, settings: object) -> Tensor:
        asked.append(settings)
        return x

    model = Net(lambda x, settings: x)
    iso = IsometryRegularizer(model, "body", inputs=reference)
    model(points(), settings)
    assert asked[0] is settings
    iso.detach()


def test_a_teacher_returns_one_floating_tensor_among_others() -> None:
    class Answering(nn.Module):
        def __init__(self, *answer: Tensor) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.answer

    one = torch.rand(4, 2)
    assert torch.equal(Teacher(Answering(torch.arange(4), one))(one), one)
    for answer, shapes in (
        ((one, one[:, :1]), r"\(4, 2\), \(4, 1\)"),
        ((torch.arange(4),), "none"),
    ):
        with pytest.raises(InputError, match=f"one floating tensor, got tuple with {shapes}. Pick"):
            Teacher(Answering(*answer))(one)
    assert not Teacher(nn.Identity())(one.requires_grad_()).requires_grad


def test_a_reference_is_one_layer() -> None:
    with pytest.raises(
        InputError, match=r"inputs must name one layer, got '\*', .* 'body', 'head'"
    ):
        IsometryRegularizer(Net(), "body", inputs="*")


class Again(nn.Module):
    """Uses a layer as often as it is told, each time on what the last time gave, or anew."""

    def __init__(self, fresh: int) -> None:
        super().__init__()
        self.inner, self.head, self.fresh = nn.Linear(8, 8), nn.Linear(8, 3), fresh

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        for use in (2, 3):
            h = self.inner(torch.rand_like(h) if use == self.fresh else h)
        return self.head(h)


@pytest.mark.parametrize("fresh", [0, 2, 3])
def test_each_use_of_a_layer_depends_on_the_use_before_it_or_is_refused(fresh: int) -> None:
    model = Again(fresh)
    iso = IsometryRegularizer(model, "inner")
    model(points())
    if fresh:
        with pytest.raises(RecordError, match=f"layer 'inner' ran {fresh} times"):
            iso(Y)
    else:
        iso(Y)
        assert list(iso.penalties) == ["inner", "inner:2", "inner:3"]


def test_the_control_exchanges_distances_of_the_own_batch_alone() -> None:
    model = Net()
    iso = IsometryRegularizer(model, control=True)
    model(points())
    with pytest.raises(InputError, match=r"of shape \(12, 12\), got \(3, 3\)"):
        iso(Y, distances=torch.ones(3, 3))


class Doing(Net):
    """Does with its parts what a function says."""

    def __init__(self, what: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        self.other, self.weight, self.what = nn.Linear(6, 3), nn.Parameter(torch.rand(3, 6)), what
        self.depth = 1

    def forward(self, x: Tensor) -> object:
        return self.what(self, x)


def overwriting(net: Net, x: Tensor) -> Tensor:
    features = net.features(x)
    logits = net.head(features)
    features.zero_()
    return logits


def probed_behind(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    return net.head(net.features(x)), net.head(net.features(x.flip(0)).detach())


def probed_before(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    fixed = {name: weight.detach() for name, weight in net.body.named_parameters()}
    probed = torch.func.functional_call(net.body, fixed, (x.flip(0),))
    return net.head(net.features(x)), probed


def itself(net: Net, x: Tensor) -> Tensor:
    net.depth = 1 - net.depth
    return net.head(net.features(x)) if net.depth else net(2 * x)


PASSES: dict[str, tuple[Callable[[Net, Tensor], object], str | None, type[IsoregError], str]] = {
    "what entered the head is overwritten": (
        overwriting, None, LayerError, "changed in place what had entered 'head'"),
    "two heads": (
        lambda net, x: (net.head(net.features(x)), net.other(net.features(x))),
        None, LayerError, "'head', 'other'"),
    "weights without a module": (
        lambda net, x: F.linear(net.features(x), net.weight),
        None, LayerError, "weights of its own"),
    "a use without a gradient behind one with it": (
        probed_behind, None, RecordError, "layer 'head' ran 2 times"),
    "a use without a gradient before one with it": (
        probed_before, "body", RecordError, "first without gradients and then"),
    "two batches in a pass": (
        lambda net, x: net.head(net.features(x)) + net.head(net.features(x**2)),
        "body", RecordError, "'body' ran 2 times"),
    "a model that calls itself": (itself, "body", RecordError, "called itself"),
}  # fmt: skip


@pytest.mark.parametrize(("what", "layer", "error", "text"), PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("labels", [Y, None], ids=["labels", "all pairs"])
def test_a_pass_whose_features_are_not_certain_is_refused(
    what: Callable[[Net, Tensor], object],
    layer: str | None,
    error: type[IsoregError],
    text: str,
    labels: Tensor | None,
) -> None:
    model = Doing(what)
    iso = IsometryRegularizer(model, layer)
    for _ in range(2):  # the first pass finds the classifier
        model(points())
        with pytest.raises(error, match=text):
            iso(labels)


X4 = torch.rand(4, 2)
REFERENCES: dict[str, tuple[object, str]] = {
    "a list": ([[0.0]], "the reference must be a tensor with one row a sample, got list"),
    "sparse": (X4.to_sparse(), "the reference must be a dense tensor"),
    "a number": (torch.tensor(1.0), "the reference must have a batch axis, got a 0-dim"),
    "integers": (
        torch.arange(4),
        "the reference must be floating to have distances, got torch.int",
    ),
    "of other samples": (torch.rand(3, 2), "features of shape (4, 2) for 3 inputs. Both need"),
    "of these samples": (torch.rand(4, 3, 2), ""),
}


@pytest.mark.parametrize(("reference", "text"), REFERENCES.values(), ids=REFERENCES)
def test_a_reference_has_a_row_for_each_sample_or_is_refused(reference, text: str) -> None:
    if not text:
        check_reference(reference, {"a": X4})
    else:
        with pytest.raises(InputError, match=re.escape(text)):
            check_reference(reference, {"a": X4})


def test_what_was_recorded_is_held_to_the_same_as_what_is_named() -> None:
    model = Net()
    for options, named in (({"inputs": lambda x: x[:3]}, None), ({}, points()[:3])):
        iso = IsometryRegularizer(model, **options)
        model(points())
        with pytest.raises(InputError, match="for 3 .*Both need one row a sample"):
            iso(Y, reference=named)


FEATURES: dict[str, tuple[Tensor, str]] = {
    "sparse": (X4.to_sparse(), "the features of layer 'b' must be a dense tensor"),
    "a number": (torch.tensor(1.0), "layer 'b' must give floating features with one row a sample"),
    "integers": (torch.arange(4), "layer 'b' must give floating features with one row a sample"),
    "of other samples": (torch.rand(3), "layers 'a' and 'b' gave features of 4 and 3 samples"),
    "one number a sample": (torch.rand(4), ""),
}


@pytest.mark.parametrize(("features", "text"), FEATURES.values(), ids=FEATURES)
def test_features_have_a_row_for_each_sample_or_are_refused(features: Tensor, text: str) -> None:
    if not text:
        assert batch_size({"a": X4, "b": features}) == 4
    else:
        with pytest.raises(InputError, match=re.escape(text)):
            batch_size({"a": X4, "b": features})


def test_labels_without_an_axis_belong_to_no_batch() -> None:
    with pytest.raises(InputError, match=r"integer labels must be class numbers.* got shape \(\)"):
        check_batch_labels(torch.tensor(1), 4)


class Part(Tensor):
    """As a DTensor: it says how it is placed, and gives the whole."""

    @staticmethod
    def __new__(cls, *kept: bool):
        return torch.ones(2, 2).as_subclass(cls)

    def __init__(self, *kept: bool) -> None:
        self.placements = [SimpleNamespace(is_replicate=lambda kept=k: kept) for k in kept]

    def full_tensor(self) -> Tensor:
        return torch.zeros(4, 2)


class FSDPNet(nn.Module):
    pass


@pytest.mark.parametrize(
    ("kind", "kept", "parallel"),
    [
        (nn.Module, [False], True),
        (nn.Module, [True], False),
        (nn.Module, [], False),
        (FSDPNet, [False, True], False),
        (FSDPNet, [False, False], True),
    ],
)
def test_plain_features_of_a_tensor_parallel_model_are_refused(
    kind: type[nn.Module], kept: list[bool], parallel: bool
) -> None:
    model = kind()
    model.parameters = lambda: [Part(*kept), torch.ones(2)]  # type: ignore[method-assign]
    check_parallel(model, {"a": Part(False)})
    if parallel:
        with pytest.raises(InputError, match="layer 'b' of a tensor-parallel model gave a plain"):
            check_parallel(model, {"a": Part(False), "b": X4})
    else:
        check_parallel(model, {"a": Part(False), "b": X4})


def test_what_is_placed_on_several_devices_is_gathered_and_nothing_else() -> None:
    assert torch.equal(whole_tensor(Part(False)), torch.zeros(4, 2))
    other = X4.as_subclass(type("Other", (Tensor,), {}))
    other.placements = []
    for plain in (X4, nn.Parameter(X4), other):
        assert whole_tensor(plain) is plain


def test_a_callable_may_ask_the_watched_model_without_end() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model, "body", inputs=lambda x: model(x))
    logits = model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(logits, model.body(x), Y))


# The default layer


class Autoencoder(nn.Module):
    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
        self.dec = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


def test_an_autoencoder_is_refused_with_its_narrowest_layer() -> None:
    chain = nn.Sequential(nn.Linear(8, 2), nn.Tanh(), nn.Linear(2, 8))
    for model, narrow in ((Autoencoder(), "enc.2"), (chain, "0")):
        iso = IsometryRegularizer(model)
        model(points())
        with pytest.raises(LayerError, match=rf"layers=.*narrowest, '{narrow}' \(2 numbers"):
            iso(Y)
    for n in (N, 1):
        model = Autoencoder()
        iso = IsometryRegularizer(model)
        model(x=points()[:n])
        last = (
            r"'enc\.2', 'enc', 'dec\.0', 'dec\.2', 'dec', or for an autoencoder the narrowest, "
            r"'enc\.2' \(2 numbers"
        )
        with pytest.raises(LayerError, match=f"as it takes, 8, so .*for example one of {last}"):
            iso(Y[:n])


def test_a_squeezing_layer_is_no_classifier_and_a_convolution_before_pooling_is() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1)
            self.squeeze = nn.Linear(8, 8)

        def maps(self, x: Tensor) -> Tensor:
            h = torch.relu(self.conv(x))
            return h * torch.sigmoid(self.squeeze(h.mean((2, 3))))[:, :, None, None]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.maps(x)).mean((2, 3))

    model, x = Squeezing(), points(3, 8, 8)
    iso = IsometryRegularizer(model)
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.maps(x), Y))
    assert iso.layers == ["head"]


class OwnHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def test_a_head_of_any_class_is_found() -> None:
    model, x = Net(), points()
    for head in (OwnHead(), nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))):
        model.head = head
        with IsometryRegularizer(model) as iso:
            model(x)
            torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))


class Adapter(nn.Module):
    """As a low-rank adapter wraps a layer in its place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.low = base, nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.low(x)


def test_an_adapter_around_the_head_is_the_classifier() -> None:
    model, x = Net(), points()
    model.head = Adapter(model.head)
    iso = IsometryRegularizer(model)
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))
    assert iso.layers == ["head"]


# One pass, one comparison


def test_a_second_pass_before_the_penalty_is_refused_and_the_advice_works() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model)
    outputs = model(x), model(2 * x)
    with pytest.raises(RecordError, match=r"more than once.*paused"):
        iso(Y)
    del outputs
    logits = model(x)
    with iso.paused():
        other = model(2 * x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))
    assert logits.shape == other.shape


def test_a_pass_that_could_not_be_recorded_hides_no_unread_one_before_it() -> None:
    model, x, fails = Net(), points(), [False, True, False]
    iso = IsometryRegularizer(model, "body", pool=lambda out: None if fails.pop(0) else out)
    kept = [model(batch) for batch in (x, x.flip(0), x.roll(1, 0))]
    with pytest.raises(RecordError, match="ran more than once"):
        iso(Y)
    fails += [True, False]
    del kept
    model(x), model(x)
    iso(Y)


def test_passes_whose_backward_is_done_or_whose_result_is_dropped_do_not_count() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model)
    warm_up = model(2 * x)
    warm_up.sum().backward()
    model(3 * x)
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.features(x), Y))


@pytest.mark.parametrize("transform", ["jvp", "vjp"])
def test_a_second_pass_inside_a_transform_is_refused_like_any_other(transform: str) -> None:
    def passes(x: Tensor) -> object:
        if transform == "vjp":
            return torch.func.vjp(model, x)
        return torch.func.jvp(model, (x,), (x,))

    model, x = Net(), points()
    iso = IsometryRegularizer(model, "body")
    outputs = passes(x.flip(0)), passes(x)
    with pytest.raises(RecordError, match="ran more than once"):
        iso(Y)
    del outputs
    passes(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model.body(x), Y))


def test_uses_of_a_layer_are_compared_with_the_same_use_of_the_reference() -> None:
    class Siamese(Net):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (super().forward(a) - super().forward(b)).abs()

    model, a, b = Siamese(), points(), points() ** 2
    iso = IsometryRegularizer(model, "head", inputs="body")
    model(a, b)
    value = iso(None)
    expected = sum(
        isometry_penalty(model.body(x).detach(), model.head(model.features(x))) for x in (a, b)
    )
    torch.testing.assert_close(value, expected)
    model(a, b)
    with pytest.raises(RecordError, match="'head' ran 2 times"):  # whose labels are they?
        iso(Y)


# Control and rival


@pytest.mark.parametrize("options", [{}, {"distances": torch.cdist(points(), points())}])
def test_the_control_exchanges_the_reference_within_classes_and_draws_anew(options) -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model, control=True)
    values = []
    for _ in range(3):
        state = torch.random.get_rng_state()
        model(x)
        values.append(iso(Y, **options).item())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert len(set(values)) == 3
    each = torch.arange(N)
    model(x)  # alone in its class, a sample keeps its reference: there are no pairs
    assert float(iso(each, **options)) == 0.0


@pytest.mark.parametrize("labels", [Y, SOFT], ids=["integers", "probabilities"])
def test_an_exchange_leaves_every_class_as_it_is_and_moves_its_members(labels: Tensor) -> None:
    from isoreg._attach.reference import Exchange

    exchange = Exchange()
    drawn = torch.stack([exchange.permutation(labels, N) for _ in range(50)])
    assert torch.equal(drawn.sort(1).values, torch.arange(N).expand(50, N))
    assert torch.equal(Y[drawn], Y.expand(50, N))
    reached = [set(column.tolist()) for column in drawn.T]
    assert all(len(members) == N // 3 for members in reached)


def test_the_control_gives_no_class_the_reference_of_a_sample_without_one() -> None:
    model, x, y = Net(), points()[:5], torch.tensor([0, 0, 1, -100, -100])
    soft = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    iso = IsometryRegularizer(model, control=True)
    for _ in range(9):  # the only pair keeps its distance whoever it is exchanged with
        model(x)
        torch.testing.assert_close(iso(soft), isometry_penalty(x, model.features(x), y))


@pytest.mark.parametrize("part", ["a layer", "the model"])
def test_a_teacher_of_the_models_own_modules_is_no_pass_of_another_watcher(part: str) -> None:
    model, x = Net(), points()
    teacher = nn.Sequential(model.body if part == "a layer" else model, nn.Dropout(0.9))
    plain, head = IsometryRegularizer(model), ReferenceHead(model, 2, "body")
    taught = IsometryRegularizer(model, "body", inputs=teacher)
    late = IsometryRegularizer(model, "body", inputs="body")
    model(x)
    torch.testing.assert_close(plain(Y), isometry_penalty(x, model.features(x), Y))
    predicted = head.linear(model.body(x))
    torch.testing.assert_close(head(x[:, :2]), (predicted - x[:, :2]).square().sum(1).mean())
    assert float(late(Y)) == 0.0
    reference = teacher.eval()(x).detach()
    torch.testing.assert_close(taught(Y), isometry_penalty(reference, model.body(x), Y))


def test_a_network_that_a_callable_trains_is_recorded_by_its_own_watcher() -> None:
    model, other, x = Net(), Net(), points()
    watcher = IsometryRegularizer(other)
    iso = IsometryRegularizer(model, "body", inputs=lambda x: other(x))
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(other(x), model.body(x), Y))
    torch.testing.assert_close(watcher(Y), isometry_penalty(x, other.features(x), Y))


def test_a_callable_that_returns_distances_is_told_where_they_belong() -> None:
    model, x = Net(), points()
    iso = IsometryRegularizer(model, inputs=lambda x: torch.cdist(x, x))
    model(x)
    with pytest.raises(InputError, match=r"looks like the distances.*iso\(labels, distances="):
        iso(Y)
    model(x)
    with pytest.raises(InputError, match="looks like the distances"):
        iso(Y, reference=torch.cdist(x, x))


@pytest.mark.parametrize("kind", ["reference", "distances"])
def test_the_control_equals_some_exchange_within_the_classes(kind: str) -> None:
    model, x, y = Net(), points()[:4], torch.tensor([0, 0, 1, 1])
    iso = IsometryRegularizer(model, control=True)
    given_bb = torch.cdist(x, x)
    model(x)
    value = iso(y, **({"reference": x} if kind == "reference" else {"distances": given_bb}))
    # pairs of a class of two keep their distance whoever they are exchanged with
    torch.testing.assert_close(value, isometry_penalty(x, model.features(x), y))


def test_a_reference_head_learns_to_predict_the_reference_and_leaves_it_alone() -> None:
    model, x = Net(), points()
    head = ReferenceHead(model, 2, "body")
    reference = (x[:, :2] * 3).requires_grad_()
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], 0.05)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        model(x)
        loss = head(reference)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.01 * losses[0]
    assert reference.grad is None
    with pytest.raises(InputError, match="out_features=3"):
        model(x)
        head(x[:, :3])


# Models in the wild, and state


def test_per_sample_gradients_are_refused_before_and_after_attaching() -> None:
    model = Net()
    iso = IsometryRegularizer(model)
    model.autograd_grad_sample_hooks = []  # where Opacus keeps its hooks
    model(points())
    with pytest.raises(InputError, match="Opacus"):
        iso(Y)
    with pytest.raises(InputError, match="Opacus"):
        IsometryRegularizer(model)


def test_scripting_is_refused_in_a_sentence_and_tracing_and_export_work() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    iso = IsometryRegularizer(model)
    with pytest.raises(LayerError, match=r"script.*detach"):
        torch.jit.script(model)
    x = points()
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    iso(Y)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_a_quantisation_aware_copy_of_a_hooked_layer_writes_no_record() -> None:
    model, x = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), points()
    iso = IsometryRegularizer(model, "0")
    hooks = list(model[0]._forward_hooks.values()), list(model[2]._forward_pre_hooks.values())
    model[0] = nn.Linear(8, 6)  # as prepare_qat swaps a layer and registers its hooks again
    for hook in hooks[0]:
        model[0].register_forward_hook(hook)
    model(x)
    torch.testing.assert_close(iso(Y), isometry_penalty(x, model[0](x), Y))
    assert list(iso.penalties) == ["0"]


def test_copies_and_pickles_of_a_regularizer_keep_its_state_and_watch_nothing() -> None:
    model = Net()
    iso = IsometryRegularizer(model, "body", beta=0.3, queue=5)
    for twin in (copy.deepcopy(iso), pickle.loads(pickle.dumps(iso))):
        assert twin.state_dict()["beta"] == 0.3
        model(points())
        with pytest.raises(RecordError, match="copy watches no model"):
            twin(Y)
        iso(Y)


def test_a_checkpoint_that_does_not_fit_changes_nothing() -> None:
    iso = IsometryRegularizer(Net(), beta=0.3, queue=5)
    other = IsometryRegularizer(Net(), beta=0.7, queue=8)
    with pytest.raises(InputError, match="queue"):
        iso.load_state_dict(other.state_dict())
    assert iso.beta == 0.3
    with pytest.raises(InputError, match="beta"):
        iso.load_state_dict({})


def test_a_checkpoint_of_another_kind_is_refused_with_both_kinds() -> None:
    options = {"a number": {"beta": 0.3}, "'auto'": {"beta": "auto"}}
    options |= {"with": {"queue": 5}, "without": {}}
    made = {kind: IsometryRegularizer(Net(), **chosen) for kind, chosen in options.items()}
    for pair, text in (
        (("a number", "'auto'"), "with beta as {}, this regularizer with {}"),
        (("with", "without"), "{} a queue, this regularizer {}"),
    ):
        for there, here in (pair, pair[::-1]):
            sentence = f"load_state_dict: the checkpoint was made {text.format(there, here)}. Build"
            with pytest.raises(InputError, match=sentence):
                made[here].load_state_dict(made[there].state_dict())


def test_a_pause_belongs_to_the_thread_that_asked() -> None:
    from threading import Thread

    model, x, found = Net(), points(), []
    iso = IsometryRegularizer(model, "body")

    def other() -> None:
        model(x)
        found.append(float(iso(Y)))

    with iso.paused():
        thread = Thread(target=other)
        thread.start()
        thread.join()
    assert found


@pytest.mark.parametrize("name", ["distance", "scale", "reduction"])
def test_what_past_steps_were_reported_in_cannot_be_changed(name: str) -> None:
    iso = IsometryRegularizer(Net())
    with pytest.raises(AttributeError):
        setattr(iso, name, "euclidean")


def test_every_error_of_this_page_is_ours() -> None:
    assert issubclass(RecordError, IsoregError)


LABELS = {
    "column": (Y[:, None], r"labels\.squeeze\(1\)"),
    "column of floats": (Y[:, None].float(), "squeeze"),
    "unlabelled": (torch.where(Y == 0, -1, Y), "-100"),
    "targets of a regression": (Y + 0.3, "labels=None"),
    "one-hot integers": (F.one_hot(Y), r"\.argmax\(1\)"),
    "several labels": ((torch.arange(N * 4) % 3 == 0).reshape(N, 4).float(), "several labels"),
    "not a number": (torch.full((N, 3), torch.nan), "NaN"),
    "a list": (Y.tolist(), "list"),
}


@pytest.mark.parametrize(("labels", "remedy"), LABELS.values(), ids=LABELS)
def test_labels_that_cannot_be_used_are_refused_with_what_their_user_needs(labels, remedy) -> None:
    model = Net()
    iso = IsometryRegularizer(model)
    for _ in range(2):  # the first step is looked at more closely than the second
        model(points())
        with pytest.raises(InputError, match=rf"^IsometryRegularizer: .*{remedy}"):
            iso(labels)


def test_labels_are_known_by_identity_where_their_values_cannot_be_looked_at() -> None:
    # no values at all stand for those on a device that nobody may wait for
    images, soft = torch.empty(N, 8, device="meta"), torch.empty(N, 3, device="meta")
    call = read_call(((images, soft),), {}, ["batch"])
    assert choose_samples(call, soft, N).shape == images.shape
    with pytest.raises(InputError, match="2 tensors"):
        choose_samples(call, soft.clone(), N)


# One graph


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inputs": "1"},
        {"inputs": "teacher"},
        {"control": True},
        {"layers": ["0", "1"], "pool": "mean"},
    ],
)
def test_a_step_with_its_penalty_is_one_graph_equal_to_eager(backend: str, options: dict) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    if options.get("inputs") == "teacher":
        options = {"inputs": nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))}
    iso = IsometryRegularizer(model, **options)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y) + iso(y)

    run = torch.compile(step, backend=backend, fullgraph=True)
    for n in (N, N, 8):
        x, y = points()[:n], Y[:n]
        found = run(x, y)
        if "control" not in options:  # it draws anew in each call
            torch.testing.assert_close(found, step(x, y))
    torch._dynamo.reset()


def test_a_compiled_model_alone_has_no_break() -> None:
    torch._dynamo.reset()
    model, x = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), points()
    iso = IsometryRegularizer(model, ["0", "1"])
    run = torch.compile(model, backend="eager", fullgraph=True)
    run(x)
    parts = isometry_penalty(x, [model[0](x), model[:2](x)], Y)
    torch.testing.assert_close(iso(Y), parts.sum())
    torch._dynamo.reset()


def test_a_head_reads_one_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(InputError, match="^ReferenceHead: layer must name one layer, got '0', '2'"):
        ReferenceHead(model, 2, nn.Linear)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (torch.rand(5, 2), "5"),
        (torch.tensor(1.0), "batch axis"),
        (torch.zeros(6, 2).long(), "floating"),
        ([[1.0, 2.0]] * 6, "tensor"),
        (torch.rand(6, 3), "2 coordinates a sample, got 3"),
    ],
)
def test_a_head_refuses_what_is_no_reference_of_its_batch(reference: object, text: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    head = ReferenceHead(model, 2)
    model(torch.rand(6, 4))
    with pytest.raises(InputError, match=rf"^ReferenceHead: .*{text}"):
        head(reference)  # type: ignore[arg-type]
