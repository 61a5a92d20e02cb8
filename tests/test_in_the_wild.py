"""What real libraries make of a watched model, and tensors that have no distances."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import IsometryRegularizer, isometry_penalty
from isoreg.errors import InputError, RecordError

N = 12
Y = torch.arange(N) % 3
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A body, something between that nobody needs, and a head."""

    def __init__(self, read: Any = lambda x: x, between: Any = lambda h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
        self.between, self.head = Between(between), nn.Linear(6, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.read(x))
        self.between(h)
        return self.head(h)


class Between(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Any:
        return self.function(h)


def nested(x: Tensor, **options: Any) -> Tensor:
    return torch.nested.as_nested_tensor(list(x.unbind()), **options)


def jagged(x: Tensor) -> Tensor:
    return nested(x, layout=torch.jagged)


def many(x: Tensor) -> Tensor:
    return torch.stack(list(x.unbind()))


STRANGE: dict[str, tuple[Any, Any, str]] = {
    "nested": (nested, many, "rows of one length"),
    "jagged": (jagged, many, "rows of one length"),
    "sparse": (lambda x: x.to_sparse(), lambda x: x.to_dense(), "a dense tensor"),
    "csr": (lambda x: x.detach().to_sparse_csr(), lambda x: x.to_dense(), "a dense tensor"),
    "complex": (lambda x: torch.complex(x, x), lambda x: x.real, "floating"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_reference_and_distances_that_are_no_dense_numbers_are_refused_by_their_kind(
    kind: str,
) -> None:
    make, _, text = STRANGE[kind]
    model = Net()
    iso = IsometryRegularizer(model)
    model(X)
    with pytest.raises(InputError, match=f"reference must .*{text}"):
        iso(Y, reference=make(X))
    model(X)
    with pytest.raises(InputError, match="real numbers" if kind == "complex" else text):
        iso(Y, distances=make(torch.cdist(X, X)))


@pytest.mark.parametrize("kind", STRANGE)
def test_the_models_input_may_be_of_such_a_kind_where_it_is_not_compared_with(kind: str) -> None:
    make, back, _ = STRANGE[kind]
    model = Net(read=back)
    iso = IsometryRegularizer(model)
    model(make(X))
    with pytest.raises(InputError, match=r"inputs must be floating.* got x .*Say|inputs=") as found:
        iso(Y)
    word = {"csr": "sparse_csr", "sparse": "sparse_coo"}.get(kind, kind)
    assert word in str(found.value)
    model(make(X))
    torch.testing.assert_close(iso(Y, reference=X), isometry_penalty(X, model.body(X), Y))


@pytest.mark.parametrize("pool", ["flatten", "mean", lambda x: x])
@pytest.mark.parametrize("kind", STRANGE)
def test_features_of_such_a_kind_are_refused_and_training_goes_on(kind: str, pool: Any) -> None:
    make, _, text = STRANGE[kind]
    model = Net(between=make)
    iso = IsometryRegularizer(model, "between", pool=pool)
    out = model(X)
    with pytest.raises(InputError, match=f"layer 'between' .*{text}"):
        iso(Y)
    F.cross_entropy(out, Y).backward()
    iso.detach()
    with IsometryRegularizer(model, "body") as other:
        model(X)
        torch.testing.assert_close(other(Y), isometry_penalty(X, model.body(X), Y))


def lora(model: nn.Module, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **options)).train()


def test_a_head_with_lora_and_one_that_is_saved_are_the_classifier() -> None:
    for options in (
        {"target_modules": ["head", "body.0"]},
        {"target_modules": ["body.0"], "modules_to_save": ["head"]},
    ):
        base = Net()
        wrapped = lora(base, **options)
        iso = IsometryRegularizer(wrapped)
        wrapped(X)
        found = iso(Y)
        assert iso.layers[0].startswith("base_model.model.head")
        torch.testing.assert_close(found, isometry_penalty(X, base.body(X), Y))


def test_a_layer_that_lora_wraps_after_attaching_is_recorded_with_its_adapter() -> None:
    base = Net()
    iso = IsometryRegularizer(base, "body.0")
    plain = isometry_penalty(X, base.body[0](X), Y)
    wrapped = lora(base, target_modules=["body.0"])
    wrapped(X)
    found, expected = iso(Y), isometry_penalty(X, base.body[0](X), Y)
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, plain)


def test_a_saved_head_that_is_wrapped_after_attaching_is_followed() -> None:
    base = Net()
    iso = IsometryRegularizer(base, "head", pool=lambda x: x)
    wrapped = lora(base, target_modules=["body.0"], modules_to_save=["head"])
    with torch.no_grad():
        for parameter in base.head.modules_to_save["default"].parameters():
            parameter.mul_(3)
    out = wrapped(X)
    torch.testing.assert_close(iso(Y), isometry_penalty(X, out, Y))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_may_be_prepared_for_quantisation_after_attaching() -> None:
    from torch.ao import quantization

    for inplace in (True, False):
        model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).train()
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
        iso = IsometryRegularizer(model, "0")
        prepared = quantization.prepare_qat(model, inplace=inplace)
        prepared(X)
        if inplace:
            expected = isometry_penalty(X, prepared[0](X), Y)
            torch.testing.assert_close(iso(Y), expected)
        else:
            with pytest.raises(RecordError, match="was not called since"):
                iso(Y)
        iso.detach()
        again = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).train()
        again.qconfig = quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
        IsometryRegularizer(again).detach()
        assert quantization.prepare_qat(again)(X).shape == (N, 3)


@pytest.mark.parametrize("layers", [None, "body"])
def test_a_watched_model_is_exported_as_an_untouched_one(layers: str | None) -> None:
    model = Net()
    twin = copy.deepcopy(model)
    iso = IsometryRegularizer(model, layers)
    program = torch.export.export(model, (X,))
    untouched = torch.export.export(twin, (X,))
    torch.testing.assert_close(program.module()(X), twin(X))
    assert [node.target for node in program.graph.nodes] == [
        node.target for node in untouched.graph.nodes
    ]
    model(X)
    torch.testing.assert_close(iso(Y), isometry_penalty(X, model.body(X), Y))


def test_a_watched_model_is_compiled_ahead_of_time_as_an_untouched_one(tmp_path: Path) -> None:
    model = Net()
    iso = IsometryRegularizer(model)
    program = torch.export.export(model, (X,))
    try:
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "model.pt2")
        )
    except Exception as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip("no C++ compiler")
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(X), model(X))
    torch.testing.assert_close(iso(Y), isometry_penalty(X, model.body(X), Y))


def test_a_watched_model_is_written_to_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = Net()
    iso = IsometryRegularizer(model)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (X,), str(path), dynamo=True, verbose=False)
    onnx.checker.check_model(str(path))
    model(X)
    torch.testing.assert_close(iso(Y), isometry_penalty(X, model.body(X), Y))


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"layers": "body", "beta": "auto"}, "compile the model alone, or give beta a number"),
        ({}, "call the model once before compiling it, or name the layer with layers="),
    ],
)
def test_what_one_graph_cannot_hold_is_refused_with_what_to_do(
    options: dict[str, Any], advice: str
) -> None:
    model = Net()
    iso = IsometryRegularizer(model, **options)

    @torch.compile(fullgraph=True, backend="eager")
    def step(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y) + iso(y)

    with pytest.raises(torch._dynamo.exc.Unsupported, match=advice):
        step(X, Y)
    torch._dynamo.reset()
    if "beta" not in options:  # the advice works
        model(X)
        iso(Y)
        found = step(X, Y)
        expected = F.cross_entropy(model(X), Y) + isometry_penalty(X, model.body(X), Y)
        torch.testing.assert_close(found, expected)


def test_booleans_are_two_classes() -> None:
    model = Net()
    iso = IsometryRegularizer(model)
    model(X)
    torch.testing.assert_close(iso(Y == 0), isometry_penalty(X, model.body(X), (Y == 0).long()))
