"""The search for robustness by geometry: its terms against loops, its rule, its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.objectives import attach
from benchmarks.objectives.batch_pairs import KEPT, METRICS, PUNISHED
from benchmarks.robust import search
from benchmarks.robust.evaluation import survival
from benchmarks.robust.search_report import tables
from benchmarks.robust.selection import (
    SearchSettings,
    ahead_of_baseline,
    best,
    differences,
    is_ahead,
    kept,
    promising,
)
from benchmarks.robust.variants import LONGER, PLAIN, VARIANTS, baselines
from isoreg.robustness import evaluate
from isoreg.robustness.local import first_order_margin_loss

NORMS = {
    "manhattan": lambda v: v.abs().sum(),
    "euclidean": lambda v: v.square().sum().sqrt(),
    "chebyshev": lambda v: v.abs().max(),
}


def batch(n: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 3, 4, generator=generator).double(), torch.arange(n) % 3


def mlp(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 6), activation(), nn.Linear(6, 5), activation()]
    return nn.Sequential(*layers, nn.Linear(5, 3)).double()


def added(recipe: dict, model: nn.Module | None = None, progress: float = 1.0) -> Tensor:
    """What a recipe of terms adds to cross-entropy."""
    images, labels = batch()
    model = model or mlp()
    with attach(model, recipe) as objective:
        return objective(images, labels, progress=progress) - F.cross_entropy(model(images), labels)


def chosen_pairs(pairs: str) -> list[tuple[int, int]]:
    _, labels = batch()
    every = [(i, j) for i in range(9) for j in range(i + 1, 9)]
    if pairs == "all":
        return every
    return [(i, j) for i, j in every if (labels[i] == labels[j]) == (pairs == "within")]


def wanted(metric: str, pairs: str) -> dict[tuple[int, int], float]:
    """The distances of the images, as shares of their mean."""
    images, _ = batch()
    found = {(i, j): float(NORMS[metric](images[i] - images[j])) for i, j in chosen_pairs(pairs)}
    return {pair: value / mean(found.values()) for pair, value in found.items()}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("punish", PUNISHED)
@pytest.mark.parametrize("pairs", KEPT)
def test_pairs_of_a_batch_are_held_to_their_share_of_the_mean_distance(
    metric: str, punish: str, pairs: str
) -> None:
    features = mlp()[:5](batch()[0])
    size = 1.2 * float(torch.pdist(features).mean().detach())  # some pairs above, some below
    expected, signs = torch.zeros(()).double(), set()
    for (i, j), share in wanted(metric, pairs).items():
        gap = NORMS["euclidean"](features[i] - features[j]) - size * share
        signs.add(bool(gap > 0))
        if punish == "both" or (gap > 0) == (punish == "stretching"):
            expected = expected + 2 * 0.3 * gap**2 / 81
    assert signs == {True, False}
    options = {"beta": 0.3, "size": size, "metric": metric, "punish": punish, "pairs": pairs}
    torch.testing.assert_close(added({"batch-pairs": options}), expected)


@pytest.mark.parametrize("pairs", KEPT)
def test_the_shuffled_control_keeps_the_distances_of_each_two_classes_and_moves_them(
    pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With features that are all equal the gaps are the wanted distances themselves."""
    seen: list[Tensor] = []
    monkeypatch.setitem(PUNISHED, "both", lambda gaps: seen.append(-gaps) or gaps)
    model, (_, labels) = mlp(), batch()
    nn.init.zeros_(model[3].weight)
    true = wanted("euclidean", pairs)
    options = {"beta": 1.0, "size": 1.0, "pairs": pairs}
    added({"batch-pairs": options}, model)
    torch.testing.assert_close(seen.pop(), torch.tensor(list(true.values())).double())
    by_classes: dict[tuple[int, ...], list[int]] = {}
    for place, (i, j) in enumerate(true):
        by_classes.setdefault(tuple(sorted((int(labels[i]), int(labels[j])))), []).append(place)
    orders = set()
    for _ in range(30):
        added({"batch-pairs": {**options, "shuffled": True}}, model)
        found, values = seen.pop(), torch.tensor(list(true.values())).double()
        orders.add(tuple(found.tolist()))
        for places in by_classes.values():
            torch.testing.assert_close(found[places].sort().values, values[places].sort().values)
    assert len(orders) > 20


def test_pairs_refuse_unknown_names_and_a_batch_without_pairs_adds_nothing() -> None:
    options = {"beta": 1.0, "size": 1.0}
    with pytest.raises(ValueError, match="manhattan, euclidean, chebyshev is needed, got 'L1'"):
        added({"batch-pairs": {**options, "metric": "L1"}})
    images, model = batch()[0][:2], mlp()
    with attach(model, {"batch-pairs": options}) as objective:
        loss = objective(images, torch.tensor([0, 1]))
    torch.testing.assert_close(loss, F.cross_entropy(model(images), torch.tensor([0, 1])))


def slope(model: nn.Module, x: Tensor, label: int, rival: int) -> Tensor:
    x = x[None].clone().requires_grad_()
    logits = model(x)[0]
    return torch.autograd.grad(logits[rival] - logits[label], x, create_graph=True)[0][0]


def rival_of(logits: Tensor, label: int) -> int:
    return max((k for k in range(3) if k != label), key=lambda k: logits[k].item())


@pytest.mark.parametrize("factor", [0.0, 0.7])
def test_each_image_and_its_linearised_worst_case_are_held_at_their_distance(
    factor: float,
) -> None:
    model, (images, labels) = mlp(), batch()
    expected = torch.zeros(()).double()
    for x, y in zip(images, labels.tolist(), strict=True):
        worst = x + 0.1 * slope(model, x, y, rival_of(model(x[None])[0], y)).sign().detach()
        moved = (model[:5](worst[None]) - model[:5](x[None])).norm()
        expected = expected + 5 * (moved - factor * (worst - x).norm()) ** 2 / 9
    # half of the radius at half of the ramp
    options = {"weight": 5.0, "eps": 0.2, "factor": factor}
    torch.testing.assert_close(added({"worst-case-pairs": options}, progress=0.25), expected)


def test_the_random_control_moves_as_far_in_other_directions() -> None:
    """Features that are linear in the pixels, and the classifier of the first of them."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Linear(1, 3)).double()
    options = {"weight": 1.0, "eps": 0.1}
    worst = added({"worst-case-pairs": options}, linear)
    torch.testing.assert_close(worst, 0.01 * linear[1].weight.abs().sum() ** 2)
    random = [added({"worst-case-pairs": {**options, "random": True}}, linear) for _ in range(200)]
    assert all(value < worst for value in random)
    # for independent signs the squared move of the features is on average eps^2 |W|^2
    expected = 0.01 * linear[1].weight.square().sum()
    torch.testing.assert_close(torch.stack(random).mean(), expected, rtol=0.1, atol=0)
    both = {**options, "factor": 1.0, "random": True}
    nn.init.zeros_(linear[1].weight)  # what is left is the distance of the images
    assert added({"worst-case-pairs": both}, linear).item() == pytest.approx(0.01 * 12, rel=1e-4)


def test_at_radius_0_the_pairs_have_finite_gradients() -> None:
    model = mlp()
    added({"worst-case-pairs": {"weight": 1.0, "eps": 0.1}}, model, progress=0.0).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_second_linearisation_mixes_the_slopes_at_both_points(share: float) -> None:
    model, (images, labels) = mlp(), batch()
    expected = torch.zeros(()).double()
    for x, y in zip(images, labels.tolist(), strict=True):
        logits = model(x[None])[0]
        rival = rival_of(logits, y)
        here = slope(model, x, y, rival)
        there = slope(model, (x + 0.1 * here.sign()).detach(), y, rival)
        gain = 0.1 * ((1 - share) * here.abs().sum() + share * there.abs().sum())
        raised = logits + gain * F.one_hot(torch.tensor(rival), 3)
        expected = expected + F.cross_entropy(raised[None], torch.tensor([y])) / 9
    with attach(model, {"second-linearisation": {"eps": 0.1, "share": share}}) as objective:
        found = objective(images, labels)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, model[1].weight)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_second_linearisation_of_share_0_is_the_library_s_and_the_control_differs() -> None:
    images, labels = batch()
    for progress, radius in ((0.25, 0.1), (0.9, 0.2)):
        with attach(mlp(), {"second-linearisation": {"eps": 0.2, "share": 0.0}}) as objective:
            found = objective(images, labels, progress=progress)
        expected = first_order_margin_loss(mlp(), images, labels, eps=radius)
        torch.testing.assert_close(found, expected)
    losses = set()
    for random in (False, True, True):
        options = {"eps": 0.2, "share": 1.0, "random": random}
        with attach(mlp(), {"second-linearisation": options}) as objective:
            losses.add(round(objective(images, labels).item(), 9))
    assert len(losses) >= 2


@pytest.mark.parametrize("title", VARIANTS)
def test_every_variant_and_control_trains_on_the_margin_and_leaves_no_trace(title: str) -> None:
    variant = VARIANTS[title]
    images, labels = batch()
    assert variant.baseline in baselines(6)
    for control in (False, True)[: 1 + (variant.control is not None)]:
        plans = [variant.plan(setting, 6, control=control) for setting in variant.settings]
        assert len({json.dumps(plan.to_dict()) for plan in plans}) == len(plans) >= 2
        for plan in plans:
            model = mlp()
            with attach(model, plan.recipe) as objective:
                objective(images, labels, progress=0.5).backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    if variant.control:
        assert variant.plan(variant.settings[0], 6) != plans[0]


def test_survival_is_the_worst_case_over_attacks_and_falls_with_the_radius() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(60, 1, 4, 4)
    labels = model(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 3
    attacks = ["pgd-margin", "fgsm"]
    found = survival(model, images, labels, (0.01, 0.03), attacks)
    # attacks on a linear model all find its exact worst case
    report = evaluate(model, images, labels, eps=[0.01, 0.03], attacks=attacks)
    assert found["clean"] == pytest.approx(50 / 60)
    assert found["worst case"] == pytest.approx({
        f"{eps:g}": value for eps, value in report.worst_case.items()
    })
    assert list(found["worst case"]) == ["0.01", "0.03"]
    assert 0 < found["worst case"]["0.03"] < found["worst case"]["0.01"] < 50 / 60


def test_survival_counts_an_image_only_if_every_attack_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of six images one is misclassified; the attacks fool those of their radius, each its own."""
    fooled = {("a", 0.2): {1, 2}, ("b", 0.2): {3}, ("a", 0.1): {1}, ("b", 0.1): {3, 4}}
    asked = []

    class Found:
        def __init__(self, attack: str, eps: float, numbers: list[int]) -> None:
            asked.append((attack, eps, numbers))
            alive = [number not in fooled[attack, eps] for number in numbers]
            self.survived = {attack: {eps: alive}}

    def evaluated(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Found:
        del model, y
        return Found(options["attacks"][0], options["eps"], x[:, 0].long().tolist())

    monkeypatch.setattr("benchmarks.robust.evaluation.evaluate", evaluated)
    images, labels = torch.arange(6.0)[:, None], torch.tensor([1, 0, 0, 0, 0, 0])
    found = survival(lambda x: -torch.cat([x * 0, x + 1], 1), images, labels, (0.1, 0.2), "ab")
    # 4 survives the larger ball, so what is found in the smaller one cannot count
    assert asked == [
        ("a", 0.2, [1, 2, 3, 4, 5]),
        ("b", 0.2, [3, 4, 5]),
        ("a", 0.1, [1, 2, 3]),
        ("b", 0.1, [2, 3]),
    ]
    assert found["worst case"] == pytest.approx({"0.1": 3 / 6, "0.2": 2 / 6})


SETTINGS = replace(SearchSettings(), noise=0.01, clean_floor=0.9)


def tried(
    title: str,
    value: float,
    setting: str = "",
    *,
    control: bool = False,
    seed: int = 0,
    clean: float = 0.95,
) -> dict[str, Any]:
    """A run of the search."""
    key = {"phase": "search", "training": title, "setting": setting}
    key |= {"control": control, "seed": seed}
    worst = {"0.1": value + 0.1, "0.2": value - 0.1}
    return {"key": key, "figures": {"clean": clean, "worst case": worst}}


RATE, L1, SECOND = "rate", "isometry within classes, L1", "second linearisation"


def test_the_best_setting_is_the_most_robust_of_those_that_are_accurate_enough() -> None:
    runs = [tried(L1, 0.6, "a"), tried(L1, 0.7, "b"), tried(L1, 0.9, "c", clean=0.8)]
    runs += [tried(L1, 0.95, "a", control=True), tried(L1, 0.99, "a", seed=1)]
    assert best(runs, L1, SETTINGS) is runs[1]
    assert best(runs[2:], L1, SETTINGS) is runs[2]
    assert best(runs, L1, SETTINGS, control=True) is runs[3]
    assert best([], L1, SETTINGS) is None


def test_what_beats_its_own_baseline_gets_a_control_and_what_beats_both_more_seeds() -> None:
    runs = [tried(PLAIN, 0.6), tried(LONGER, 0.7)]
    runs += [tried(RATE, 0.62), tried(L1, 0.75, "a"), tried(SECOND, 0.705)]
    assert ahead_of_baseline(runs, SETTINGS) == [L1, RATE]
    assert promising(runs, SETTINGS) == [RATE]  # no control yet
    assert promising([*runs, tried(L1, 0.745, control=True)], SETTINGS) == [RATE]
    assert promising([*runs, tried(L1, 0.73, control=True)], SETTINGS) == [L1, RATE]


def test_what_is_ahead_of_baseline_and_control_over_the_seeds_is_kept() -> None:
    def over_seeds(*values: float, **key: Any) -> list[dict[str, Any]]:
        return [tried(value=value, seed=seed, **key) for seed, value in enumerate(values)]

    runs = over_seeds(0.6, 0.61, 0.62, title=LONGER)
    runs += over_seeds(0.65, 0.65, 0.68, title=L1, setting="a")
    runs += [tried(L1, 0.99, "b", clean=0.1)]  # not the best setting
    losing = over_seeds(0.6, 0.65, 0.72, title=L1, setting="a", control=True)
    beaten = over_seeds(0.6, 0.6, 0.64, title=L1, setting="b", control=True)
    assert differences(runs, L1, LONGER, SETTINGS) == pytest.approx([0.05, 0.04, 0.06])
    assert kept([*runs, *losing], SETTINGS) == []
    assert kept([*runs, *beaten], SETTINGS) == [L1]
    assert not is_ahead([0.1])
    assert is_ahead([0.1, 0.2])
    assert not is_ahead([-0.1, 0.2, 0.1])


def images(n: int = 60) -> tuple[Tensor, Tensor]:
    """Noise with a bright row that tells the label."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10
    noise[torch.arange(n), 0, labels] = 1
    return noise, labels


def test_the_search_goes_through_its_stages_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.robust.training.mnist",
        lambda split, _: images(60 if split == "test" else 11_000),
    )
    path = tmp_path / "search.json"
    for _ in range(2):
        arguments = ["robust", "--part", "search", "--quick", "--out", str(path)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    found = json.loads(path.read_text())
    keys = [run["key"] for run in found["runs"]]
    assert len({json.dumps(key) for key in keys}) == len(keys)
    trained = [(key["training"], key["control"]) for key in keys if key["phase"] == "search"]
    assert trained == [
        *((title, False) for title in baselines(1)),
        *[(SECOND, False)] * 2,
        *[(SECOND, True)] * 2,
    ]
    assert set(found["runs"][5]["figures"]) == {*baselines(1), SECOND}
    assert tables(found) == path.with_suffix(".md").read_text()
    assert "second linearisation" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("lasting", [True, False])
def test_more_seeds_are_for_what_promises_and_test_images_for_what_is_kept(
    lasting: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Runs whose score is known in advance: share 1 wins, over all seeds if it is lasting."""
    seen: list[tuple[str, bool, int, str]] = []

    def scored(self: Any, plan: Any, seed: int) -> dict[str, Any]:
        del self
        options = plan.recipe.get(SECOND.replace(" ", "-"), {})
        wins = not options.get("random") and (lasting or seed == 0)
        value = 0.5 + 0.2 * options.get("share", 0) * wins
        found = {"0.1": value + 0.01 * seed, "0.2": value}
        return {"clean": 0.97, "worst case": found, "training seconds": 1.0, **plan.to_dict()}

    monkeypatch.setattr(search._Lab, "validate", scored)
    monkeypatch.setattr(search._Lab, "test", scored)
    monkeypatch.setattr(search, "relative_costs", lambda _, plans, seconds: dict.fromkeys(plans, 2))
    settings = replace(SearchSettings().quick(), variants=2, noise=0.01)
    results = search.run(
        settings, seeds=3, data_dir=None, device="cpu", out=tmp_path / "search.json"
    )
    for run in results.runs[6:]:
        if run["key"]["phase"] != "cost":
            key = run["key"]
            seen.append((key["training"], key["control"], key["seed"], key["phase"]))
    three = [(title, False) for title in baselines(1)]
    chosen = [*three, (SECOND, False), (SECOND, True)]
    later = [(*which, seed, "search") for seed in (1, 2) for which in chosen]
    tested = [(*which, seed, "test") for seed in (0, 1, 2) for which in chosen]
    assert [entry for entry in seen if entry in later] == later
    assert [entry for entry in seen if entry[3] == "test"] == (tested if lasting else [])
    settings_seen = {run["key"]["setting"] for run in results.runs if run["key"].get("seed") == 2}
    assert settings_seen == {"", "share 1", "share 0.5"}
