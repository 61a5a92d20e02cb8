"""The report card against exact worst cases, masked models, and its promise to change nothing."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from isoreg import InputError, IsometryRegularizer
from isoreg.datasets import digits
from isoreg.robustness import RobustnessReport, evaluate


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


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = digits("train")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    images, labels = digits("test")
    return model, images[:100], labels[:100]


def test_the_standard_attacks_agree_and_accuracy_falls_with_eps(trained) -> None:
    model, images, labels = trained
    report = evaluate(model, images, labels, eps=[0.02, 0.1, 0.3])
    worst = list(report.worst_case.values())
    assert report.clean > 0.9
    assert report.clean >= worst[0] > worst[1] >= worst[2]
    assert worst[2] < 0.05
    white = [report.accuracy[name][0.1] for name in ("pgd-margin", "apgd-ce", "apgd-t")]
    assert max(white) - worst[1] < 0.06
    assert report.accuracy["noise"][0.1] > worst[1]
    assert report.warnings == []


class Rounded(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(self.model(x) * 10) / 10


class Times(Rounded):
    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


@pytest.mark.parametrize("mask", [Rounded, Times])
@pytest.mark.parametrize("attacks", ["quick", "standard"])
def test_a_masked_model_is_called_out_and_scores_no_better(trained, mask, attacks: str) -> None:
    model, images, labels = trained
    plain = evaluate(model, images, labels, eps=0.1, attacks=attacks)
    masked = evaluate(mask(model), images, labels, eps=0.1, attacks=attacks)
    assert masked.warnings
    assert masked.worst_case[0.1] <= plain.worst_case[0.1] + 0.03


class Probabilities(Rounded):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(1)


class Noisy(Rounded):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + 0.1 * torch.randn(len(x), 1, device=x.device)


class Cut(Rounded):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Probabilities, "looks like probabilities"),
        (Noisy, "output is random"),
        (Cut, "exactly zero"),
        (Cut, "every pixel may be changed"),
        (Times, "saturated"),
    ],
)
def test_each_sign_of_a_masked_gradient_has_its_sentence(trained, mask, words: str) -> None:
    model, images, labels = trained
    report = evaluate(mask(model), images, labels, eps=0.1, attacks="quick")
    assert any(words in warning for warning in report.warnings)
    assert words in str(report)


def test_the_same_seed_gives_the_same_report_and_random_numbers_go_on(trained) -> None:
    model, images, labels = trained
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = evaluate(model, images, labels, eps=0.05)
    assert torch.equal(torch.rand(3), expected)
    second = evaluate(model, images, labels, eps=0.05)
    assert first.survived == second.survived


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(trained, fails: bool) -> None:
    _, images, labels = trained
    layers = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 10)]
    model = nn.Sequential(*layers).train()
    model[3].eval()
    model[1].bias.requires_grad_(False)
    iso = IsometryRegularizer(model)
    nn.functional.cross_entropy(model(images), labels).backward()
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


def test_normalisation_and_bounds_change_nothing_but_the_units(trained) -> None:
    model, images, labels = trained
    plain = evaluate(model, images, labels, eps=0.05, attacks="quick")

    class Unnormalised(Rounded):
        def forward(self, x: Tensor) -> Tensor:
            return self.model((x * 2.0 + 3.0) / 255)

    bytes_of = evaluate(
        Unnormalised(model),
        255 * images,
        labels,
        eps=255 * 0.05,
        attacks="quick",
        bounds=(0, 255),
        mean=[3.0],
        std=[2.0],
    )
    assert abs(bytes_of.worst_case[255 * 0.05] - plain.worst_case[0.05]) <= 0.02


def test_transfer_attacks_with_the_other_model(trained) -> None:
    model, images, labels = trained
    report = evaluate(model, images, labels, eps=0.1, attacks=["noise"], transfer_from=model)
    assert report.accuracy["transfer"][0.1] < report.accuracy["noise"][0.1] - 0.2


def report(survivors: list[bool]) -> RobustnessReport:
    return RobustnessReport("Linf", [0.1], [True] * len(survivors), {"a": {0.1: survivors}})


def test_a_report_survives_json_and_draws_and_frames_itself(trained) -> None:
    model, images, labels = trained
    found = evaluate(model, images, labels, eps=[0.05, 0.1], attacks="paper")
    again = RobustnessReport.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert "not a measure of robustness" in str(found)
    assert "not a measure of robustness" in found.plot().get_title()
    frame = found.to_frame()
    assert frame.loc["worst case", 0.1] == found.worst_case[0.1]


def test_comparing_is_the_exact_paired_test() -> None:
    a, b = report([True] * 8 + [False] * 8), report([True] * 2 + [False] * 14)
    assert a.compare(b)[0.1] == pytest.approx(2 * 0.5**6)
    assert a.compare(a) == {0.1: 1.0}
    with pytest.raises(InputError, match="compare: reports must be on the same images"):
        a.compare(report([True]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((4, 64), 2.0)}, "images must lie within bounds (0.0, 1.0), got 2"),
        ({"images": torch.zeros(0, 64)}, "images must be floating of shape (n, ...) with n > 0"),
        ({"labels": torch.zeros(3).long()}, "labels must be 4 integers, got"),
        ({"labels": torch.full((4,), 7)}, "labels must be classes from 0 to 1, got 7"),
        ({"eps": -0.1}, "eps must be one or more numbers >= 0, got [-0.1]."),
        ({"eps": 8.0}, "eps must be at most 1, the whole range of Linf"),
        ({"norm": "L1"}, "norm must be one of 'Linf', 'L2', got 'L1'."),
        ({"attacks": "best"}, "attacks must be one of 'quick'"),
        ({"attacks": []}, "attacks must name at least one attack"),
        ({"attacks": "transfer"}, "the attack 'transfer' needs transfer_from="),
        ({"bounds": (1, 0)}, "bounds must be (smallest, largest)"),
        ({"model": nn.GRU(64, 2)}, "the model must return logits of shape (n, classes), got tuple"),
    ],
)
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
