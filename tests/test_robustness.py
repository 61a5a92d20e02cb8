"""The report card against exact worst cases, masked models, and its promise to change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from zoo import Answers, Rounding, Temperature, honest, images_of

from isoreg import InputError, IsometryRegularizer
from isoreg.plots import robust_accuracy
from isoreg.robustness import PRESETS, evaluate

model = honest("plain")
images, labels = images_of("test", 100)


def cut(x: Tensor) -> Tensor:
    return model(x.detach())


def linear(classes: int = 2, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model on points far from the ends of [0, 1], with its own predictions as labels."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, classes))
    images = 0.4 + 0.2 * torch.rand(200, 1, 4, 5)
    with torch.no_grad():
        model[1].bias.sub_(model(images).mean(0))
        return model, images, model(images).argmax(1)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.02), ("L2", 0.08)])
@pytest.mark.parametrize("classes", [2, 4])
def test_attacks_reach_the_exact_worst_case_of_a_linear_model(
    norm: str, eps: float, classes: int
) -> None:
    eps = 2 * eps / classes
    model, images, labels = linear(classes)
    weight = model[1].weight.detach()
    logits = model(images).detach()
    # an image survives if its margin to each other class exceeds eps times the dual norm
    dual = (weight[labels][:, None] - weight[None]).norm(p=1 if norm == "Linf" else 2, dim=2)
    gaps = logits.gather(1, labels[:, None]) - logits
    exact = ((gaps > eps * dual) | (gaps == 0)).all(1)
    report = evaluate(model, images, labels, eps=eps, norm=norm, attacks="quick")
    assert 0.1 < exact.float().mean() < 0.9, "the radius decides"
    assert report.worst_case[eps] == pytest.approx(exact.float().mean().item(), abs=0.011)
    if classes == 2 and norm == "Linf":
        assert report.accuracy["fgsm"][eps] == report.worst_case[eps]


class Halved(nn.Module):
    """A model that takes images in half precision alone."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.dtype
        return self.model(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_model_in_half_precision_is_attacked_in_balls_of_full_precision(
    norm: str, dtype: torch.dtype
) -> None:
    model, images, _ = linear()
    rounded, x = Halved(copy.deepcopy(model), dtype), images[:40].to(dtype)
    labels = rounded(x).argmax(1)
    names = ["pgd-ce", "noise"]
    found = evaluate(rounded, x, labels, eps=0.04, norm=norm, attacks=names)
    full = evaluate(model, x.float(), labels, eps=0.04, norm=norm, attacks=names)
    assert found.clean == 1
    for name in names:
        assert found.accuracy[name][0.04] == pytest.approx(full.accuracy[name][0.04], abs=0.051)
    loss = {"training_loss": lambda x, *_: rounded(x).sum()}
    assert evaluate(rounded, x, labels, eps=0.1, attacks="paper", **loss).clean == 1


def test_of_a_model_that_is_never_right_nothing_is_attacked() -> None:
    pytest.importorskip("torchattacks")
    model, images, labels = linear()
    report = evaluate(model, images[:4], 1 - labels[:4], eps=0.1, norm="L2", attacks="deepfool")
    assert report.accuracy == {"deepfool": {0.1: 0.0}}


def test_the_standard_attacks_agree_and_accuracy_falls_with_eps() -> None:
    report = evaluate(model, images, labels, eps=[0.02, 0.1, 0.3])
    worst = list(report.worst_case.values())
    assert report.clean > 0.9
    assert report.clean >= worst[0] > worst[1] >= worst[2]
    assert worst[2] < 0.05
    white = [report.accuracy[name][0.1] for name in ("pgd-margin", "apgd-ce", "apgd-t")]
    assert max(white) - worst[1] < 0.06
    assert report.accuracy["noise"][0.1] > worst[1]
    assert report.warnings == []


@pytest.mark.parametrize("name", ["fgsm", "pgd-margin", "noise"])
@pytest.mark.parametrize("where", [slice(None), slice(0, 1)])
def test_nan_is_never_the_right_answer(name: str, where: slice) -> None:
    def undefined(x: Tensor) -> Tensor:
        grey = (x == 0.5).flatten(1).all(1)
        logits = torch.stack([torch.ones(len(x)), x.flatten(1).mean(1)], 1)
        logits[:, where] += torch.where(grey, 0, torch.nan)[:, None]
        return logits

    images, labels = torch.full((9, 1, 4, 5), 0.5), torch.zeros(9).long()
    report = evaluate(Answers(undefined), images, labels, eps=0.1, norm="L2", attacks=name)
    assert (report.clean, report.accuracy[name][0.1]) == (1.0, 0.0)


RADII = {"Linf": 0.1, "L2": 0.5}
# the full set in L2 has every attack; the others differ in L-inf
PRESETS_IN = [("quick", "Linf"), ("standard", "Linf"), ("full", "L2"), ("paper", "Linf")]


@pytest.fixture(scope="module")
def plain() -> dict[str, float]:
    """Worst case of the plain model, by preset."""
    return {
        preset: evaluate(
            model, images[:30], labels[:30], eps=RADII[norm], norm=norm, attacks=preset
        ).worst_case[RADII[norm]]
        for preset, norm in PRESETS_IN
    }


@pytest.mark.parametrize("mask", [Rounding, Temperature])
@pytest.mark.parametrize(("preset", "norm"), PRESETS_IN)
def test_a_masked_model_is_called_out_and_scores_no_better(
    plain, mask, preset: str, norm: str
) -> None:
    eps = RADII[norm]
    found = evaluate(mask(), images[:30], labels[:30], eps=eps, norm=norm, attacks=preset)
    assert found.warnings
    if preset == "paper":  # cross-entropy alone is fooled by large logits, and the report says so
        assert "not a measure of robustness" in str(found)
    else:
        assert found.worst_case[eps] <= plain[preset] + 0.04
    assert {name for name, _ in PRESETS_IN} == set(PRESETS)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda x: model(x).softmax(1), "looks like probabilities"),
        (lambda x: model(x) + 0.1 * torch.randn(len(x), 1), "output is random"),
        (cut, "exactly zero"),
        (cut, "every pixel may be changed"),
        (lambda x: model(x) / (x - x[:1]).flatten(1)[:, :1], "logits are not finite"),
        (Temperature(), "saturated"),
    ],
)
def test_each_sign_of_a_masked_gradient_has_its_sentence(mask, words: str) -> None:
    report = evaluate(Answers(mask), images, labels, eps=0.1, attacks="quick")
    assert any(words in warning for warning in report.warnings)
    assert words in str(report)


def test_a_cut_graph_is_attacked_without_an_error() -> None:
    report = evaluate(Answers(cut), images[:5], labels[:5], eps=0.5, norm="L2", attacks="full")
    assert "exactly zero" in str(report)
    assert set(report.survived) == {*PRESETS["full"], "student"}


def test_the_same_seed_gives_the_same_report_and_random_numbers_go_on() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (
        evaluate(model, images[:10], labels[:10], eps=0.5, norm="L2", attacks="full")
        for _ in range(2)
    )
    assert first.survived == second.survived
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    layers = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 10)]
    model = nn.Sequential(*layers).train()
    model[3].eval()
    model[1].bias.requires_grad_(False)
    iso = IsometryRegularizer(model)
    nn.functional.cross_entropy(model(images), labels).backward()
    model(images)  # the pass of a step that is not over
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad for p in model.parameters()]
    wanted = [p.requires_grad for p in model.parameters()]
    if fails:
        handle = model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyError("x")))
        with pytest.raises(KeyError):
            evaluate(model, images, labels, eps=0.1, attacks="quick")
        handle.remove()
    else:
        evaluate(model, images, labels, eps=0.1, attacks="quick")
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(a is b for a, b in zip([p.grad for p in model.parameters()], gradients, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert iso(labels).requires_grad, "an unread record survives the evaluation"


def test_normalisation_and_bounds_change_nothing_but_the_units() -> None:
    plain = evaluate(model, images, labels, eps=0.05, attacks="quick")

    unnormalised = Answers(lambda x: model((x * 2.0 + 3.0) / 255))
    units = {"eps": 255 * 0.05, "bounds": (0, 255), "mean": [3.0], "std": [2.0]}
    bytes_of = evaluate(unnormalised, 255 * images, labels, attacks="quick", **units)
    assert abs(bytes_of.worst_case[255 * 0.05] - plain.worst_case[0.05]) <= 0.02


@pytest.mark.parametrize(
    ("shape", "classes", "norm"),
    [((64,), 2, "L2"), ((8, 5), 3, "Linf"), ((3, 4, 6), 3, "L2"), ((1, 7, 7), 12, "Linf")],
)
def test_every_attack_takes_any_shape_of_image_number_of_classes_and_double_precision(
    shape: tuple[int, ...], classes: int, norm: str
) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, *shape).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), classes)).double()
    labels = model(images).argmax(1).int()
    eps = 2 * RADII[norm]
    report = evaluate(model, images, labels, eps=eps, norm=norm, attacks="full")
    assert report.clean == 1
    strongest = min(found[eps] for found in report.accuracy.values())
    assert strongest < 0.8
    assert {name for name, found in report.accuracy.items() if found[eps] < 1} >= {
        *({"deepfool", "cw"} if norm == "L2" else set()),
        *("fgsm", "pgd-ce", "pgd-margin-long", "apgd-ce", "apgd-t", "fab"),
    }


def test_progress_is_shown_when_asked_for_and_not_in_a_pipe(capsys) -> None:
    evaluate(model, images[:5], labels[:5], eps=0.1, attacks="quick")
    assert capsys.readouterr() == ("", "")
    evaluate(model, images[:5], labels[:5], eps=0.1, attacks="quick", progress=True)
    captured = capsys.readouterr()
    assert "pgd-margin, eps 0.1" in captured.err
    assert captured.out == ""
    assert captured.err.split("\r")[-1].strip() == "", "the bar is taken away"


@pytest.mark.parametrize("norm", RADII)
def test_the_paper_s_attack_climbs_what_it_is_given_in_the_user_s_units(norm) -> None:
    seen = []

    def bytes_of(x: Tensor) -> Tensor:
        return model(x / 255)

    def loss(x: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        seen.append((x.detach(), clean))
        return nn.functional.cross_entropy(bytes_of(x), y)

    wrapped = Answers(bytes_of)
    arguments = {"eps": 255 * RADII[norm], "norm": norm, "bounds": (0, 255), "attacks": "paper"}
    found = evaluate(wrapped, 255 * images, labels, training_loss=loss, **arguments)
    radius = 255 * RADII[norm]
    single, steps = "paper-fgsm-training-loss", "paper-pgd-training-loss"
    assert found.accuracy[single] == found.accuracy["fgsm"], "the same loss, the same attack"
    assert abs(found.accuracy[steps][radius] - found.accuracy["paper-pgd"][radius]) <= 0.03
    assert set(found.survived) == set(PRESETS["paper"])
    assert len(seen[0][0]) == 2, "it is tried before anything is attacked"
    assert len(seen) == 12
    torch.testing.assert_close(seen[1][0], seen[1][1])
    assert seen[-1][0].max() > 100

    def wrong(x: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        return -loss(x, clean, y)

    other = evaluate(wrapped, 255 * images, labels, training_loss=wrong, **arguments)
    assert other.accuracy[steps][radius] == other.clean


def test_the_paper_s_rows_are_marked_wherever_they_stand() -> None:
    mixed = evaluate(
        model, images[:20], labels[:20], eps=[0.1, 0.05], attacks=["pgd-margin", "paper-pgd"]
    )
    note = "not a measure of robustness"
    lines = str(mixed).splitlines()
    assert [line for line in lines if line.startswith("paper-pgd *")]
    assert [line for line in lines if line.startswith("worst case ") and "*" not in line]
    assert note in str(mixed)
    assert note in mixed.plot().get_title()
    assert "paper-pgd *" in mixed.plot().get_legend_handles_labels()[1]
    assert note in str(mixed.to_frame())
    assert list(mixed.plot().lines[0].get_xdata()) == [0.0, 0.05, 0.1]
    alone = evaluate(model, images[:20], labels[:20], eps=0.1, attacks="paper")
    assert note in robust_accuracy({"a": alone}).get_legend_handles_labels()[1][0]
    assert mixed.note == ""
    usual = evaluate(model, images[:20], labels[:20], eps=0.1, attacks="quick")
    assert note not in str(usual) + usual.plot().get_title() + str(usual.to_frame())


def test_corruptions_harm_little() -> None:
    accuracy = evaluate(model, images, labels, eps=0.1, attacks=["corruption", "pgd-ce"]).accuracy
    assert accuracy["corruption"][0.1] > accuracy["pgd-ce"][0.1] + 0.2


def test_a_radius_of_another_norm_s_scale_is_remarked_on() -> None:
    found = evaluate(model, images[:5], labels[:5], eps=8 / 255, norm="L2", attacks="fgsm")
    assert "is norm='Linf' meant?" in str(found)


def test_clean_images_that_fare_as_by_chance_and_bounds_of_other_units_are_remarked_on() -> None:

    def remarks(y: Tensor, count: int = 100, **options) -> str:
        found = evaluate(model, images[:count], y[:count], eps=0.1, attacks="noise", **options)
        assert "student" not in found.survived, "they are no sign of a mask"
        return str(found)

    assert "no better than chance among the 10 classes of these" in remarks((labels + 1) % 10)
    assert "no better than chance among the 2 classes" in remarks((labels > 0) * 5 + 3)
    assert "chance" not in remarks((labels + 1) % 10, 19), "of few images it is not known"
    assert "WARNING" not in remarks(labels)
    narrow = remarks(labels, bounds=(-10, 20))
    assert "images take up 3.3 % of the bounds (-10, 20)" in narrow
    assert "chance" not in remarks(labels[:1].expand(100)), "of one class nothing is known"


LAST, WEIGHT = torch.tensor([0, 1, 0, 3]), torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((4, 64), 2.0)}, "images must lie within bounds (0.0, 1.0), got 2"),
        ({"images": torch.zeros(0, 64)}, "images must be floating of shape (n, ...) with n > 0"),
        ({"images": torch.zeros(4, 64).byte()},
         "images must be floating of shape (n, ...) with n > 0, got torch.uint8 of shape (4, 64). "
         "Bytes become pixels with images.float() / 255."),
        ({"images": [torch.rand(4, 64)]}, "images must be a tensor, got list. Of a DataLoader"),
        ({"labels": torch.zeros(4).long().numpy()}, "labels must be a tensor, got ndarray."),
        ({"labels": torch.zeros(3).long()}, "labels must be 4 integers, got"),
        ({"labels": torch.full((4,), 7)}, "labels must be classes from 0 to 1, got 7"),
        ({"eps": -0.1}, "eps must be one or more numbers >= 0, got [-0.1]."),
        ({"progress": "no"}, "progress must be True, False or None, got 'no'."),
        ({"eps": []}, "eps must be one or more numbers >= 0, got []."),
        ({"eps": [0.1, 0.1]}, "eps must be different radii, got [0.1, 0.1]."),
        ({"training_loss": torch.sum}, "training_loss is climbed by the paper's attack alone"),
        ({"labels": torch.full((4,), -1)}, "labels must be classes from 0 to 1, got -1"),
        ({"norm": "L1"}, "norm must be one of 'Linf', 'L2', got 'L1'."),
        ({"attacks": "best"}, "attacks must be one of 'quick'"),
        ({"bounds": (1, 0)}, "bounds must be (smallest, largest)"),
        ({"attacks": None}, "attacks must be a name or a list of names, got None."),
        ({"seed": 1.5}, "seed must be an integer of at least -9223372036854775808 and at most 1"),
        ({"seed": 2**64}, "seed must be an integer of at least"),
        ({"certified": "no"}, "certified must be True or False, got 'no'."),
        ({"training_loss": 0.5, "attacks": "paper"}, "training_loss must be callable, got 0.5."),
        ({"model": torch.sum},
         "a model must be a torch.nn.Module, got builtin_function_or_method."),
        ({"transfer_from": nn.Linear}, "a model must be a torch.nn.Module, got the class Linear."),
        ({"transfer_from": nn.Linear(64, 2), "model": nn.Linear(64, 4), "labels": LAST},
         "labels must be classes of transfer_from from 0 to 1, got 3"),
        *(
            ({"training_loss": loss, "attacks": "paper"}, f"training_loss must give a scalar {got}")
            for loss, got in (
                (lambda x, *_: 0.5, "that depends on the adversarial images, got float."),
                (lambda x, *_: x.sum(1), "that depends on the adversarial images, got torch.fl"),
                (lambda x, *_: x.detach().sum(), "that depends on the adversarial images, got one"),
                (lambda x, *_: WEIGHT.sum(), "that depends on the adversarial images, got one w"),
            )
        ),
        ({"std": "a"}, "std must be a finite number, or one a channel, got 'a'."),
        ({"model": nn.Unflatten(1, (8, 8))},
         "the model must return logits of shape (n, classes), got (2, 8, 8)"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_early(change: dict, message: str) -> None:
    arguments = {
        "model": nn.Linear(64, 2),
        "images": torch.rand(4, 64),
        "labels": torch.zeros(4).long(),
        "eps": 0.1,
        "attacks": "quick",
        **change,
    }
    with pytest.raises(InputError) as caught:
        evaluate(
            arguments.pop("model"), arguments.pop("images"), arguments.pop("labels"), **arguments
        )
    assert str(caught.value).startswith(f"evaluate: {message}")
