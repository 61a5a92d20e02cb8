"""The benchmark of what features keep: its probes, controls, corruptions and command."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from commandline import run_and_resume, run_quickly
from photographs import fake_photographs
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from benchmarks import probes
from benchmarks.methods import attach
from benchmarks.structure import data as samples
from benchmarks.structure import digits, distances, distances_report, training
from benchmarks.structure.data import Data, Split, manifold_of_patches
from benchmarks.structure.evaluation import pixels_of
from benchmarks.structure.settings import TASKS, Settings
from benchmarks.structure.training import chosen_strengths, mlp, train
from benchmarks.structure.trials import MANIFOLD, TRIALS
from benchmarks.structure.unlabelled import learnt, patches, pixels
from benchmarks.study import new_lab
from isoreg import datasets

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def small_mnist(split: str, *_: object) -> tuple[Tensor, Tensor]:
    """Real digits of 8 by 8 pixels, enlarged to MNIST's size."""
    images, labels = datasets.digits(split)
    return F.interpolate(images, size=28, mode="bilinear"), labels


TINY = replace(
    Settings(),
    train_images=300,
    known=200,
    landmarks=150,
    test_images=200,
    width=20,
    epochs=1,
    examples=((1, 2), (10, 1)),
    strengths=(1.0, 100.0),
    tasks=("even or odd",),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for study in (digits.DIGITS, digits.SEARCH, distances_report.STUDY):
        monkeypatch.setitem(vars(study), "settings", lambda quick: TINY)
    monkeypatch.setattr(samples, "mnist", small_mnist)
    monkeypatch.setattr(training, "PICTURED", 30)


def test_the_neighbours_vote_as_scikit_learn_s_do_where_there_is_a_majority() -> None:
    x, y = torch.randn(300, 3), torch.randint(2, (300,))
    new, expected = torch.randn(200, 3), torch.randint(2, (200,))
    theirs = KNeighborsClassifier(5).fit(x, y).score(new, expected)
    assert probes.knn_accuracy(x, y, new, expected) == pytest.approx(theirs)


def test_between_equal_votes_the_nearest_neighbour_decides() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    y = torch.tensor([1, 0, 0, 1, 2])
    assert probes.knn_accuracy(x, y, torch.zeros(1, 1), torch.tensor([1])) == 1


def test_standard_features_have_the_same_ratios_of_distances_and_unit_spread() -> None:
    x = 7 * torch.randn(50, 4) + 3
    standard = probes.standardized(x, x)
    ratio = torch.pdist(standard) / torch.pdist(x)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    torch.testing.assert_close(standard.square().sum(1).mean(), torch.tensor(1.0))


def test_probes_do_not_depend_on_the_unit_of_the_features() -> None:
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    new, expected = torch.randn(90, 4), torch.arange(90) % 3
    scores = [
        probes.probe_accuracy(unit * x, y, unit * new, expected, strength=1.0)
        for unit in (0.01, 1.0, 100.0)
    ]
    assert max(scores) - min(scores) < 0.03


def test_a_draw_holds_as_many_examples_of_every_class_and_is_repeatable() -> None:
    labels = torch.randint(4, (200,))
    chosen = probes.examples_of_each(labels, 5, seed=3)
    assert labels[chosen].bincount().tolist() == [5] * 4
    assert torch.equal(chosen, probes.examples_of_each(labels, 5, seed=3))
    assert not torch.equal(chosen, probes.examples_of_each(labels, 5, seed=4))


def tiny_data() -> Data:
    x, fine = small_mnist("train")
    split = Split(x[:200], fine[:200])
    tables = dict.fromkeys(("pixels", "patches", "manifold of patches"), split.x)
    return Data(split, split, split, TASKS["even or odd"], tables)


@pytest.mark.parametrize("name", TRIALS)
def test_every_method_learns_the_coarse_labels_and_leaves_no_hook(name: str) -> None:
    settings = replace(TINY, epochs=20, batch_size=50, learning_rate=5e-3)
    trial, data = TRIALS[name], tiny_data()
    model = train(data, trial, strength=trial.strength / 20, seed=0, settings=settings)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    predicted = model(data.train.x).argmax(1)
    assert probes.accuracy(predicted, data.coarse(data.train.fine)) > 0.75


@pytest.mark.parametrize("name", [name for name in TRIALS if TRIALS[name].strengths])
def test_a_method_s_strength_acts_and_vanishes_with_it(name: str) -> None:
    trial, data = TRIALS[name], tiny_data()
    x, labels = data.train.x, data.coarse(data.train.fine)

    def loss(strength: float) -> float:
        torch.manual_seed(0)
        model = mlp(x[0], 2, TINY)
        with attach(model, trial.recipe(strength, 784)) as objective:
            return objective(x, labels, reference=x).item()

    torch.manual_seed(0)
    plain = F.cross_entropy(mlp(x[0], 2, TINY)(x), labels).item()
    assert loss(0.0) == pytest.approx(plain, rel=1e-5)
    assert abs(loss(0.5) - plain) > 1e-4


def test_strengths_are_chosen_among_those_that_keep_the_coarse_accuracy() -> None:
    def tried(method: str, strength: float, coarse: float, fine: float) -> dict[str, object]:
        figures = {"coarse": coarse, "10 a class": fine}
        return {"key": {"method": method, "strength": strength}, "figures": figures}

    runs = [
        tried("cross-entropy", 0.0, 0.98, 0.6),
        tried("a", 0.1, 0.979, 0.7),
        tried("a", 0.2, 0.978, 0.8),
        tried("a", 0.3, 0.95, 0.9),
        tried("b", 0.1, 0.90, 0.9),
        tried("b", 0.2, 0.95, 0.1),
    ]
    chosen = chosen_strengths(runs)
    assert chosen == {"cross-entropy": 0.0, "a": 0.2, "b": 0.2}


def test_the_strengths_in_use_are_those_that_the_committed_search_chose() -> None:
    chosen = chosen_strengths(json.loads((RESULTS / "structure-search.json").read_text())["runs"])
    assert {name: method.strength for name, method in TRIALS.items()} == chosen


def test_choosing_never_reads_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_alone(split: str, *_: object) -> tuple[Tensor, Tensor]:
        assert split == "train", "the test images were read"
        return small_mnist(split)

    monkeypatch.setattr(samples, "mnist", train_alone)
    data = samples.digits(TINY, None, cache=tmp_path, validate=True)
    pixels = [split.x.flatten(1).double() for split in (data.train, data.validation, data.test)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert torch.cdist(pixels[first], pixels[second]).min() > 0.1, "splits overlap"


def test_distances_are_asked_about_images_that_are_not_of_the_test_until_strengths_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(split: str, *_: object) -> tuple[Tensor, Tensor]:
        assert split in allowed, "the test images were read"
        return small_mnist(split)

    monkeypatch.setattr(samples, "mnist", read)
    allowed = {"train"}
    ask = distances.asked(TINY, None, tmp_path, validate=True)
    data, truth = ask.data, ask.truth
    assert torch.cdist(truth.images.flatten(1), data.train.x.flatten(1)).min() > 0.1
    assert torch.equal(truth.labels, data.coarse(data.test.fine))
    manifold = manifold_of_patches(data, TINY)
    of_table = torch.pdist(data.references[MANIFOLD])
    torch.testing.assert_close(torch.pdist(manifold(data.train.x)), of_table, rtol=0.01, atol=0.01)
    above = torch.ones(len(truth.images), len(truth.images)).triu(1).bool()
    for name, places in {MANIFOLD: manifold, distances.PIXELS: pixels_of}.items():
        expected = torch.pdist(places(truth.images))
        torch.testing.assert_close(truth.distances[name][above], expected, rtol=0.01, atol=0.01)
    assert (truth.distances[distances.SHIFTS] <= truth.distances[distances.PIXELS] + 0.01).all()
    allowed = {"train", "test"}
    ask = distances.asked(TINY, None, tmp_path, validate=False)
    found = distances.agreements(pixels_of, ask, TINY)
    assert found[distances.PIXELS]["r"] == pytest.approx(1)
    assert found[distances.SHIFTS]["r"] < 0.999
    found = distances.agreements(ask.placed, ask, TINY)
    assert found[distances.SHIFTS]["r"] > found[distances.PIXELS]["r"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("part", ["digits", "search", "recipe", "distances"])
def test_each_part_runs_resumes_and_leaves_a_table(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: TRIALS[name] for name in ("cross-entropy", "isometry, manifold")}
    monkeypatch.setattr(digits, "TRIALS", few)
    monkeypatch.setattr(digits, "FIRST", tuple(few))
    monkeypatch.setattr(digits, "WIDE", tuple(few))
    monkeypatch.setattr(training, "embedding", lambda x, seed: x[:, : 2 + seed].tolist())
    out = tmp_path / f"{part}.json"
    runs = run_and_resume(out, "structure", "--part", part)
    table = out.with_suffix(".md").read_text()
    for run in runs:
        shown = (value for name, value in run["key"].items() if name == "method")
        assert all(name in table for name in shown)
    assert ("300 units a layer |" in table) == (part == "digits")
    longer = [f"{name}, 300 units a layer, 2 epochs, moved" for name in few]
    assert (f"{longer[0]} |" in table) == (part == "digits")
    assert (f"{longer[1]}, fitted |" in table) == (part == "digits")
    if part in ("digits", "search", "distances"):
        assert out.with_suffix(".png").stat().st_size > 10_000


def test_the_table_has_the_order_of_the_methods_whatever_was_run_first() -> None:
    shot = {f"{n} a class": {"accuracy": [0.5]} for n in (1, 10)}
    figures = {"coarse": 0.9, "few-shot": shot, "kNN": 0.5, "probe": 0.5, "NMI": 0.5}
    last, first = list(TRIALS)[-1], next(iter(TRIALS))
    keys = ({"method": first, "width": 300}, {"method": last}, {"method": first})
    runs = [{"key": {"task": "even or odd", "seed": 0, **key}, "figures": figures} for key in keys]
    settings = {**asdict(Settings()), "examples": [[1, 1]]}
    lines = digits.tables({"settings": settings, "runs": runs}).splitlines()
    found = [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]
    assert found == [first, last, f"{first}, 300 units a layer"]


def test_another_strength_in_the_code_meets_no_run_that_was_made_with_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = new_lab(digits.DIGITS, tmp_path / "digits.json", quick=True)
    before = list(digits.keys(lab))
    name = "isometry, manifold"
    monkeypatch.setitem(TRIALS, name, replace(TRIALS[name], strength=0.123))
    after = list(digits.keys(lab))
    changed = [key for key in after if key not in before]
    assert {(key["method"], key["strength"]) for key in changed} == {(name, 0.123)}


def test_what_photographs_are_compared_with_does_not_depend_on_a_batch_and_is_learnt_once(
    tmp_path: Path,
) -> None:
    images = torch.rand(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reference = learnt(images, tmp_path, epochs=1)
    features = reference(images)
    torch.testing.assert_close(features[:30], reference(images[:30]), rtol=1e-3, atol=1e-4)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    torch.testing.assert_close(learnt(images, tmp_path, epochs=1)(images), features)
    assert kept.stat().st_mtime_ns == before
    others = [of(images).flatten(1) for of in (pixels(images), patches(images, filters=8))]
    for found in map(torch.pdist, (features, *others)):
        assert found.square().mean().sqrt() == pytest.approx(10, rel=0.05)


def test_photographs_are_read_once_and_run_from_the_command_line(tmp_path: Path) -> None:
    fake_photographs(tmp_path, "train", 30)
    fake_photographs(tmp_path, "test", 10)
    out = tmp_path / "cifar.json"
    run_quickly(out, "structure", "--part", "cifar", "--data-dir", str(tmp_path))
    assert "isometry, patches" in out.with_suffix(".md").read_text()
    assert len(list((tmp_path / "cache").glob("photographs-*.pt"))) == 2
