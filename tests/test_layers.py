"""Which modules `IsometryRegularizer(model, layers)` chooses, seen from outside."""

import copy
import dataclasses
import functools
import itertools
import re
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from isoreg import IsometryRegularizer, isometry_penalty
from isoreg._attach import classifier
from isoreg._attach.classifier import ClassifierSearch, choose_layers
from isoreg._attach.layers import Layers, find_layers
from isoreg._graph import nodes_before
from isoreg.errors import InputError, LayerError


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(dim=1)
    )


@functools.cache
def from_timm(name: str, **options: object) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, pretrained=False, **options)


def resnet18(classes: int = 4) -> nn.Module:
    return copy.deepcopy(from_timm("resnet18", num_classes=classes))


def vit_tiny(name: str = "vit_tiny_patch16_224") -> nn.Module:
    return copy.deepcopy(from_timm(name, num_classes=4, img_size=32))


class HeadFirst(nn.Module):
    """The classifier is registered before the body, so `the last nn.Linear` is the wrong one."""

    def __init__(self, pretrained_cfg: dict[str, object] | None) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 4)
        self.body = nn.Linear(6, 8)
        if pretrained_cfg is not None:
            self.pretrained_cfg = pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.body(x)))


def hook_count(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if "hooks" in name and hooks is not None
    )


# The default representation


def test_the_default_of_a_sequential_is_its_last_linear_layer() -> None:
    assert IsometryRegularizer(mlp()).layers == ["4"]


def test_the_default_finds_the_last_linear_layer_inside_submodules() -> None:
    model = nn.Sequential(mlp()[:4], nn.Sequential(nn.Dropout(0.0), nn.Linear(8, 4)))
    assert IsometryRegularizer(model).layers == ["1.1"]


def test_a_model_that_is_one_linear_layer_is_its_own_classifier() -> None:
    model, x, y = nn.Linear(6, 4), torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    iso = IsometryRegularizer(model)
    model(x)
    assert iso(y).item() == pytest.approx(0.0, abs=1e-6)  # what enters it are the inputs
    assert len(iso.layers) == len(iso.penalties) == 1


def test_a_model_without_modules_is_told_to_have_some() -> None:
    class Bare(nn.Module):
        def forward(self, x):
            return 2 * x

    with pytest.raises(LayerError, match="Bare holds no modules whose outputs could be features"):
        IsometryRegularizer(Bare())


def test_the_default_records_the_input_of_the_classifier_not_its_output() -> None:
    model, x, y = mlp(), torch.randn(10, 6), torch.arange(10) % 2
    iso = IsometryRegularizer(model)
    model(x)
    torch.testing.assert_close(iso(y), isometry_penalty(x, model[:4](x), y))


def test_a_named_classifier_records_its_output() -> None:
    model, x, y = mlp(), torch.randn(10, 6), torch.arange(10) % 2
    iso = IsometryRegularizer(model, "4")
    model(x)
    torch.testing.assert_close(iso(y), isometry_penalty(x, model[:5](x), y))


def test_the_default_of_a_timm_resnet_is_its_classifier_fc() -> None:
    assert IsometryRegularizer(resnet18()).layers == ["fc"]


def test_the_default_of_a_timm_vit_is_its_classifier_head() -> None:
    assert IsometryRegularizer(vit_tiny()).layers == ["head"]


def test_pretrained_cfg_names_the_classifier_before_the_model_runs() -> None:
    assert IsometryRegularizer(HeadFirst({"classifier": "classifier"})).layers == ["classifier"]


@pytest.mark.parametrize("cfg", [None, {}, {"classifier": None}, {"classifier": "no.such.module"}])
def test_the_classifier_is_what_the_model_returns_not_what_is_registered_last(cfg) -> None:
    model, x, y = HeadFirst(cfg), torch.randn(10, 6), torch.arange(10) % 2
    iso = IsometryRegularizer(model)
    assert iso.layers == []
    model(x)
    torch.testing.assert_close(iso(y), isometry_penalty(x, torch.tanh(model.body(x)), y))
    assert iso.layers == ["classifier"]


def chain(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def declaring(*, of_class: bool = False, **config: object) -> HeadFirst:
    return type("Declaring", (HeadFirst,), {"pretrained_cfg": config} if of_class else {})(
        None if of_class else config
    )


KNOWN: dict[str, tuple[nn.Module, str | None]] = {
    "a chain": (chain(4, 3, 2), "1"),
    "a chain through a bottleneck": (chain(6, 2, 4), "1"),
    "a chain that is wider inside": (chain(4, 8, 4), "1"),
    "an autoencoder": (chain(8, 2, 8), None),
    "a chain that ends with what has no matrix": (
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Softmax(1)),
        "1",
    ),
    "layers of no width yet": (nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(3)), None),
    "no weights": (nn.Sequential(nn.Flatten(), nn.Tanh()), None),
    "named": (declaring(classifier="classifier"), "classifier"),
    "named by its class": (declaring(of_class=True, classifier="classifier"), "classifier"),
    "named, of several": (declaring(classifier=("head", "classifier", "body")), "classifier"),
    "named in a chain": (nn.Sequential(nn.Flatten(), declaring(classifier="body")), "1.body"),
    "named wrongly": (declaring(classifier="head"), None),
}


@pytest.mark.parametrize(("model", "name"), KNOWN.values(), ids=KNOWN)
def test_the_classifier_is_known_of_chains_and_of_models_that_name_it(
    model: nn.Module, name: str | None
) -> None:
    layers = choose_layers(model, None)
    assert [layer.name for layer in layers] == ([] if name is None else [name])
    for layer in layers:
        assert layer.at_input
        assert layer.module is model.get_submodule(layer.name)


class Returning(nn.Module):
    """A body and a head, of which a function makes what the model returns."""

    def __init__(self, give: Callable[..., object], *widths: int) -> None:
        super().__init__()
        first, middle, last = widths or (6, 8, 4)
        self.body, self.head, self.decoder = (
            nn.Linear(first, middle), nn.Linear(middle, last), nn.Linear(last, 5)
        )  # fmt: skip
        self.scale = nn.Parameter(torch.ones(last))
        self.act, self.soft = nn.ReLU(), nn.LogSoftmax(dim=1)
        self.apart, self.tied = Apart(last), Tied(self.head)
        self.give = give

    def forward(self, x: Tensor) -> object:
        features = self.act(self.body(x))
        return self.give(self, features, self.head(features))


class Apart(nn.Linear):
    """Weights of a loss: it returns a number."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


class Tied(nn.Module):
    """Applies the weights of a module that it holds, which does not run."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.held = nn.Linear(head.in_features, head.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.held.weight)


class Score(nn.Linear):
    """One number a sample, without an axis of its own."""

    def __init__(self) -> None:
        super().__init__(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


def test_a_head_of_one_number_a_sample_is_found() -> None:
    model, x = Returning(lambda m, f, _y: m.score(f)), torch.randn(10, 6)
    model.score = Score()
    with IsometryRegularizer(model) as iso:
        model(x)
        torch.testing.assert_close(iso(None), isometry_penalty(x, model.body(x).relu()))
        assert iso.layers == ["score"]


def tokens(x: Tensor) -> Tensor:
    return x[:, None].expand(-1, 3, -1)


@dataclasses.dataclass
class Output:
    hidden: Tensor
    logits: Tensor


POINTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


FOUND: dict[str, Returning] = {
    "plain": Returning(lambda _m, _f, y: y),
    "through a module without weights": Returning(lambda m, _f, y: m.soft(y)),
    "beside weights of a loss": Returning(lambda m, _f, y: (m.apart(y), y)[1]),
    "scaled by a vector": Returning(lambda m, _f, y: y * m.scale),
    "with maps beside": Returning(lambda _m, f, y: (y, tokens(f).detach())),
    "a mapping with logits": Returning(lambda _m, f, y: {"hidden": tokens(f), "logits": y}),
    "an object with logits": Returning(lambda _m, f, y: Output(tokens(f), y)),
    "a loss": Returning(lambda _m, _f, y: y.logsumexp(1).sum()),
    "a loss beside detached logits": Returning(
        lambda _m, _f, y: {"loss": y.logsumexp(1).sum(), "logits": y.detach()}
    ),
    "a loss first": Returning(lambda _m, _f, y: (y.sum(), y)),
    "through a bottleneck": Returning(lambda _m, _f, y: y, 6, 2, 4),
    "as wide as the inputs": Returning(lambda _m, _f, y: y, 6, 6, 6),
    "a number for each threshold": Returning(lambda _m, _f, y: y + torch.arange(4.0), 6, 8, 1),
    "a number for each sign": Returning(lambda _m, _f, y: torch.cat([-y, y], 1), 6, 8, 1),
    "the best of each class": Returning(lambda _m, _f, y: y.view(-1, 2, 2).amax(2)),
    "the mean of twins": Returning(lambda _m, _f, y: torch.stack([y, y * 2]).mean(0)),
}


@pytest.mark.parametrize("model", FOUND.values(), ids=FOUND)
def test_the_head_is_found_behind_what_a_model_makes_of_its_result(model: Returning) -> None:
    x, y = torch.randn(10, model.body.in_features), torch.arange(10) % 2
    with IsometryRegularizer(model) as iso:
        for _ in range(2):  # in the second pass it is known
            model(x)
            assert iso.layers == ["head"]
            torch.testing.assert_close(iso(y), isometry_penalty(x, model.body(x).relu(), y))


UNKNOWN: dict[str, tuple[Callable[..., object], str]] = {
    "without a graph": (lambda _m, _f, y: y.detach(), "no tensor with a gradient"),
    "tokens": (lambda _m, _f, y: (y, tokens(y)), r"shape (10, 3, 4), which is not one vector"),
    "maps": (lambda _m, _f, y: tokens(y)[None], r"shape (1, 10, 3, 4), which is not one vector"),
    "of no module": (lambda m, _f, _y: m.scale * 2, "what was made by none of its modules"),
    "of two": (lambda _m, f, y: (f, y), "what was made by 'body', 'head'"),
    "decoded": (lambda m, _f, y: m.decoder(y), "what its decoder made, 'decoder'"),
    "a loss of tokens": (lambda m, f, _y: m.head(tokens(f)).sum(),
     "a loss, and 'head' gave more than one vector a sample"),
    "with another's weights": (lambda m, f, _y: nn.functional.linear(f, m.head.weight),
     "what weights of its own were applied to"),
    "with the weights of a module that did not run": (lambda m, f, _y: m.tied(f),
     "what weights of its own were applied to"),
    **{
        f"with points that do not learn, by {name}": (
            lambda _m, _f, y, compare=compare: compare(y, POINTS),
            "what weights of its own were applied to, or prototypes",
        )
        for name, compare in {
            "a product": nn.functional.linear,
            "a product with a bias": lambda y, p: nn.functional.linear(y, p, torch.ones(3)),
            "einsum": lambda y, p: torch.einsum("nd,kd->nk", y, p),
            "products in batches": lambda y, p: (p.expand(len(y), -1, -1) @ y[:, :, None])[..., 0],
            "a vector": lambda y, p: torch.mv(y, p[0]),
            "a convolution": lambda y, p: nn.functional.conv1d(y[:, None], p[:, None])[..., 0],
            "distances": torch.cdist,
            "distances of products": lambda y, p: torch.cdist(
                y, p, compute_mode="use_mm_for_euclid_dist"
            ),
            "squares of differences": lambda y, p: -(y[:, None] - p).square().sum(2),
            "sums of products": lambda y, p: (y[:, None] * p).sum(2),
            "angles": lambda y, p: nn.functional.cosine_similarity(y[:, None], p[None], dim=2),
            "each other": lambda y, _p: y @ y.T,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize(("give", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_classifier_that_is_not_certain_is_refused_with_the_reason(
    give: Callable[..., object], text: str
) -> None:
    model = Returning(give)
    with IsometryRegularizer(model) as iso:
        model(torch.randn(10, 6))
        with pytest.raises(
            LayerError, match=re.escape(f"Returning returned {text}") + ".*, so its"
        ):
            iso(None)


class Trunk(nn.Module):
    """Gives features to whoever puts a head behind it."""

    def __init__(self, net: nn.Module, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.net = stem, net

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(self.stem(x))
        found = found[0] if isinstance(found, tuple) else found
        return found.mean((2, 3)) if found.ndim > 3 else found.mean(1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.two(self.one(x).relu())).relu()


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())


SIZE, SIGNAL = (6, 3, 8, 8), (6, 7, 5)
HEADLESS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...], str]] = {
    "maps": (convolutions(), nn.Identity(), SIZE, "what 'net' made of the model's own input"),
    "of scaled": (convolutions(), nn.Tanh(), SIZE, "what several layers of 'net' made"),
    "a block": (Residual(), nn.Conv2d(3, 3, 3), SIZE, "what several layers of 'net' made"),
    "of tokens": (
        nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()),
        nn.Linear(5, 5),
        SIGNAL,
        "what several layers of 'net' made",
    ),
    "a recurrence": (
        nn.GRU(5, 6, batch_first=True),
        nn.Identity(),
        SIGNAL,
        "what 'net' made of the model's own input",
    ),
}


@pytest.mark.parametrize(("net", "stem", "size", "text"), HEADLESS.values(), ids=HEADLESS)
def test_a_network_without_a_classifier_is_not_compared_by_what_enters_it(
    net: nn.Module, stem: nn.Module, size: tuple[int, ...], text: str
) -> None:
    model = Trunk(net, stem)
    with IsometryRegularizer(model) as iso:
        model(torch.randn(size))
        with pytest.raises(LayerError, match=f"Trunk returned {text}, so its"):
            iso(None)


def test_a_convolution_with_what_is_behind_it_classifies() -> None:
    head = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(4, 3, 1), nn.ReLU())
    model, x = Trunk(head, nn.Conv2d(3, 4, 3)), torch.randn(SIZE)
    with IsometryRegularizer(model) as iso:
        model(x)
        torch.testing.assert_close(iso(None), isometry_penalty(x, model.stem(x), None))
        assert iso.layers == ["net"]


def test_modules_that_were_compiled_before_are_no_way_to_a_classifier() -> None:
    node = type("Node", (), {"name": lambda _: "CompiledFunctionBackward", "next_functions": ()})()
    with pytest.raises(LayerError, match="not all of the model's modules were seen to run"):
        list(ClassifierSearch(nn.Linear(2, 2))._sources(node, {}))


@pytest.mark.parametrize(
    ("compiled", "advice"), [(False, "hold them as attributes"), (True, "attach before its first")]
)
def test_layers_that_run_no_hooks_are_said_to_be_unseen(
    compiled: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.kept = nn.Linear(6, 4), [nn.Linear(4, 3)]

        def forward(self, x: Tensor) -> Tensor:
            return self.kept[0](self.net.forward(x))

    monkeypatch.setattr(classifier, "was_used", lambda: compiled)
    model = Hidden()
    with IsometryRegularizer(model) as iso:
        model(torch.randn(5, 6))
        with pytest.raises(LayerError, match=f"modules were seen to run.*{advice}"):
            iso(None)


def test_a_timm_model_without_classes_is_recorded_where_its_classifier_was() -> None:
    model, x, y = resnet18(classes=0), torch.randn(6, 3, 32, 32), torch.arange(6) % 2
    iso = IsometryRegularizer(model)
    features = model(x)
    torch.testing.assert_close(iso(y), isometry_penalty(x, features, y))


def test_a_timm_model_with_two_classifiers_works_by_default() -> None:
    model = vit_tiny("deit_tiny_distilled_patch16_224")
    iso = IsometryRegularizer(model)
    assert iso.layers
    assert set(iso.layers) <= {"head", "head_dist"}
    model(torch.randn(4, 3, 32, 32))
    assert iso(torch.tensor([0, 0, 1, 1])).item() > 0


# Names, globs, lists, weights


def test_a_name_chooses_that_module_however_deep() -> None:
    assert IsometryRegularizer(resnet18(), "layer1.0.conv1").layers == ["layer1.0.conv1"]
    assert IsometryRegularizer(vit_tiny(), "blocks.3.attn.qkv").layers == ["blocks.3.attn.qkv"]


def test_a_name_does_not_choose_modules_that_merely_start_with_it() -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(12)])
    assert IsometryRegularizer(model, "1").layers == ["1"]


def test_a_glob_chooses_every_match_in_the_models_order() -> None:
    stages = ["layer1", "layer2", "layer3", "layer4"]
    assert IsometryRegularizer(resnet18(), "layer?").layers == stages
    vit = vit_tiny()
    assert IsometryRegularizer(vit, "blocks.[02]").layers == ["blocks.0", "blocks.2"]
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(12)])
    assert IsometryRegularizer(model, "*").layers == [str(i) for i in range(12)]


def test_a_wildcard_stays_within_one_dotted_part() -> None:
    vit = vit_tiny()
    assert IsometryRegularizer(vit, "blocks.*").layers == [f"blocks.{i}" for i in range(12)]
    assert IsometryRegularizer(vit, "blocks.1?.attn.*").layers[0] == "blocks.10.attn.qkv"


def test_modules_types_and_predicates_choose_layers_too() -> None:
    model = mlp()
    assert IsometryRegularizer(model, model[1]).layers == ["1"]
    assert IsometryRegularizer(model, nn.Tanh).layers == ["1", "3"]
    assert IsometryRegularizer(model, [nn.Softmax, "0"]).layers == ["5", "0"]
    wide = IsometryRegularizer(model, lambda _name, module: getattr(module, "in_features", 0) == 8)
    assert wide.layers == ["2", "4"]
    for nothing in (nn.Conv2d, nn.Tanh(), lambda _name, _module: False):
        with pytest.raises(LayerError, match=r"^IsometryRegularizer: "):
            IsometryRegularizer(model, nothing)


def test_a_module_registered_under_two_names_is_found_by_either_and_counted_once() -> None:
    model = nn.Sequential()
    model.a = model.b = nn.Linear(6, 6)
    assert IsometryRegularizer(model, "a").layers == ["a"]
    assert IsometryRegularizer(model, "b").layers == ["b"]
    assert IsometryRegularizer(model, ["b", "a", "*"]).layers == ["b"]


def test_a_list_may_mix_names_and_globs_and_counts_no_layer_twice() -> None:
    model = resnet18()
    layers = IsometryRegularizer(model, ["layer1", "layer[12]", "fc"]).layers
    assert sorted(layers) == ["fc", "layer1", "layer2"]


def test_a_dict_gives_each_layer_its_own_weight() -> None:
    model, x, y = mlp(), torch.randn(10, 6), torch.arange(10) % 2
    iso = IsometryRegularizer(model, {"0": 0.5, "2": 3.0}, beta=0.1)
    assert sorted(iso.layers) == ["0", "2"]
    model(x)
    first, second = model[:1](x), model[:3](x)
    expected = 0.1 * (0.5 * isometry_penalty(x, first, y) + 3 * isometry_penalty(x, second, y))
    torch.testing.assert_close(iso(y), expected)


def test_of_a_dict_a_full_name_goes_before_a_glob_wherever_it_stands() -> None:
    for layers in ({"*": 0.5, "2": 3.0}, {"2": 3.0, "*": 0.5}, {"2": 3.0, "[02]": 0.5}):
        found = {layer.name: layer.weight for layer in find_layers(mlp(), layers)}
        assert found["2"] == 3.0, layers
        assert found["0"] == 0.5, layers


def test_one_module_under_two_names_has_one_weight() -> None:
    model = mlp()
    model.append(model[0])
    assert [layer.weight for layer in find_layers(model, {"0": 2.0, "6": 2, "*": 1.0})][:1] == [2.0]
    with pytest.raises(InputError, match=r"'0' and '6' are one module.*got 2 and 3"):
        find_layers(model, {"0": 2.0, "6": 3.0})


TIME_MAJOR = {
    "recurrent": lambda first: nn.GRU(4, 4, batch_first=first),
    "attention": lambda first: nn.MultiheadAttention(4, 2, batch_first=first),
    "encoder layer": lambda first: nn.TransformerEncoderLayer(4, 2, 8, batch_first=first),
    "encoder": lambda first: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=first), 1, enable_nested_tensor=False
    ),
    "decoder": lambda first: nn.TransformerDecoder(
        nn.TransformerDecoderLayer(4, 2, 8, batch_first=first), 1
    ),
}


@pytest.mark.parametrize("build", TIME_MAJOR.values(), ids=TIME_MAJOR)
def test_a_layer_whose_first_axis_is_time_needs_a_pooling_that_knows_it(build) -> None:
    for time_major in (True, False):
        model = nn.Sequential(build(not time_major))
        if time_major:
            with pytest.raises(LayerError, match="'0' has batch_first=False"):
                IsometryRegularizer(model, "0", pool="mean")
        else:
            IsometryRegularizer(model, "0", pool="mean")
        IsometryRegularizer(model, "0", pool=lambda output: output[0])


def test_a_layer_that_weighs_nothing_is_allowed() -> None:
    assert [layer.weight for layer in find_layers(mlp(), {"0": 0, "2": 1})] == [0.0, 1.0]


@pytest.mark.parametrize("wrap", [list, lambda found: SimpleNamespace(info=found)])
def test_stages_are_those_that_the_model_s_feature_info_names(wrap) -> None:
    model = mlp()
    model.feature_info = wrap([{"module": "0"}, {"module": "2"}])
    assert [layer.name for layer in find_layers(model, "stages")] == ["0", "2"]
    compiled = torch.compile(model)
    assert [layer.name for layer in find_layers(compiled, "stages")] == [
        "_orig_mod.0",
        "_orig_mod.2",
    ]
    model.feature_info = wrap([{"module": "0"}, {"module": "20"}])
    for wrapped in (model, compiled):
        with pytest.raises(LayerError, match=r"stages that are no modules, got '20'.*example '2'"):
            find_layers(wrapped, "stages")


def test_compiled_parts_go_by_the_names_that_they_had_as_well() -> None:
    def names(layers: Layers) -> list[str]:
        return [layer.name for layer in find_layers(model, layers)]

    inner = mlp()
    model = nn.Sequential(OrderedDict(first=nn.Linear(6, 6), net=torch.compile(inner)))
    assert names("net.1") == names("net._orig_mod.1") == ["net._orig_mod.1"]
    assert names("net.?") == [f"net._orig_mod.{number}" for number in range(6)]
    assert names("net") == ["net"]
    assert names("net._orig_mod") == ["net._orig_mod"]
    with pytest.raises(LayerError, match="no layer is called 'net.9'. Close matches: 'net.5'"):
        find_layers(model, "net.9")
    model.add_module("again", inner)
    for other in ("again.1", "net._orig_mod.1"):
        with pytest.raises(
            InputError, match=r"'net.1' are one module, so they must have one weight"
        ):
            find_layers(model, {other: 1.0, "net.1": 2.0})


def test_layers_is_what_the_penalties_are_named_after() -> None:
    model = resnet18()
    iso = IsometryRegularizer(model, ["bn1", "layer?", "fc"], pool="mean")
    model(torch.randn(4, 3, 32, 32))
    iso(torch.tensor([0, 0, 1, 1]))
    assert sorted(iso.penalties) == sorted(iso.layers)


# What is refused, and that nothing was attached by then


@pytest.mark.parametrize(
    ("build", "wrong", "near"),
    [
        (resnet18, "layer5", "layer4"),
        (resnet18, "layer1.0.cov1", r"layer1\.0\.conv1"),
        (vit_tiny, "heads", "head"),
        (vit_tiny, "block.0.mlp", r"blocks\.0\.mlp"),
    ],
)
def test_an_unknown_name_is_refused_with_close_matches(build, wrong: str, near: str) -> None:
    with pytest.raises(LayerError, match=rf"(?s)^IsometryRegularizer: .*{wrong}.*\b{near}\b"):
        IsometryRegularizer(build(), wrong)


def test_an_unknown_name_is_refused_wherever_it_is_given() -> None:
    model = mlp()
    for layers in ("9", ["0", "9"], {"0": 1.0, "9": 1.0}, "9*", ["0", "x?"]):
        with pytest.raises(LayerError, match=r"^IsometryRegularizer: "):
            IsometryRegularizer(model, layers)
    with pytest.raises(LayerError, match=r"(?s)^IsometryRegularizer: .*9"):
        IsometryRegularizer(model, "0", inputs="9")
    assert hook_count(model) == 0


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [
        (["a", "b", "c", "d"], "zzzz", "'b', 'c', 'd'"),
        ([f"layer{i}" for i in range(1, 7)], "layer0", "'layer6', 'layer5', 'layer4'"),
        (["fc_out", "body", "head", "stem"], "fc", "'fc_out'"),
    ],
)
def test_three_names_are_told_the_nearest_or_the_last(
    names: list[str], wanted: str, told: str
) -> None:
    model = nn.Sequential(OrderedDict((name, nn.Tanh()) for name in names))
    with pytest.raises(
        LayerError, match=rf"no layer is called '{wanted}'. Close matches: {told}\."
    ):
        find_layers(model, wanted)
    model.feature_info = [{"module": wanted}]
    near = told.rpartition(",")[0] if wanted == "layer0" else ", ".join(map(repr, names[:5]))
    if wanted != "fc":
        with pytest.raises(
            LayerError, match=f"that are no modules, got '{wanted}'.*example {near}"
        ):
            find_layers(model, "stages")


def test_no_layer_at_all_is_refused() -> None:
    for nothing in ([], {}, ""):
        with pytest.raises(LayerError, match=r"^IsometryRegularizer: "):
            IsometryRegularizer(mlp(), nothing)


def test_a_model_that_returns_maps_needs_layers() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(4, 3, 5, 5)
    with IsometryRegularizer(model) as iso:
        model(x)
        with pytest.raises(LayerError, match=r"^IsometryRegularizer: .*one vector.*layers=.*'0'"):
            iso(torch.tensor([0, 0, 1, 1]))
    assert hook_count(model) == 0
    assert IsometryRegularizer(model, "0").layers == ["0"]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "x", None])
def test_a_weight_must_be_a_finite_number_from_zero_up(weight: object) -> None:
    model = mlp()
    with pytest.raises((InputError, LayerError), match=rf"(?s)^IsometryRegularizer: .*{weight}"):
        IsometryRegularizer(model, {"0": 1.0, "2": weight})
    assert hook_count(model) == 0


def test_of_a_timm_model_within_another_its_own_classifier_counts() -> None:
    class Wrapper(nn.Module):
        def __init__(self, top: nn.Module) -> None:
            super().__init__()
            self.backbone, self.top = from_timm("resnet18", num_classes=4), top

        def forward(self, x: Tensor) -> Tensor:
            return self.top(self.backbone(x))

    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 0, 1, 1])
    # with a layer behind it the timm model is no longer what classifies
    for top, layer in ((nn.Identity(), "backbone.fc"), (nn.Linear(4, 2), "top")):
        model = Wrapper(top)
        iso = IsometryRegularizer(model)
        model(x)
        iso(y)
        assert iso.layers == [layer]
        iso.detach()


def test_a_graph_of_very_many_paths_is_walked_node_by_node() -> None:
    x = torch.ones(1, requires_grad=True)
    total = x
    for _ in range(60):
        total = total + total
    assert sum(1 for _ in nodes_before(total.grad_fn)) == 61
