"""The benchmark of timm's models: its networks, data, resuming, attacks and command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commandline import run_and_resume, run_quickly
from photographs import fake_photographs
from torch import Tensor, nn

from benchmarks.check import RESULTS
from benchmarks.results import read
from benchmarks.study import new_lab
from benchmarks.timm_models import settings as ways
from benchmarks.timm_models.corruptions import STRENGTHS, corrupted
from benchmarks.timm_models.cost import costs
from benchmarks.timm_models.data import Epochs, load
from benchmarks.timm_models.evaluation import by_layer, worst_case
from benchmarks.timm_models.experiment import STUDY, chosen, keys
from benchmarks.timm_models.networks import NETWORKS, network, stages
from benchmarks.timm_models.settings import ROWS, Schedule
from benchmarks.timm_models.training import Training, train
from isoreg import RobustLoss
from isoreg.diagnostics import distortion
from isoreg.robustness import evaluate

ISOMETRY = {"isometry": {"share": 0.3, "scale": "fit"}}


def small(name: str = "resnet10t", size: int = 16) -> nn.Sequential:
    return network(name, classes=10, size=size, narrow=True, seed=0)


def bytes_of(n: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.arange(n) % 10


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_pixels_of_a_small_image_and_have_stages(name: str) -> None:
    model = network(name, classes=10, size=32, narrow=False, seed=0).eval()
    assert len(stages(small(name, 32))) >= 4
    maps: list[Tensor] = []
    names = stages(model)
    model.get_submodule(names[0]).register_forward_hook(lambda *args: maps.append(args[2]))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert len(names) >= 4
    # stems for 224 pixels leave at most 8 by 8 places, 4 by 4 after the first stage
    assert (maps[0].shape[1] - 1 if maps[0].ndim == 3 else maps[0][0, 0].numel()) >= 64


def test_a_resnet_has_no_pooling_behind_its_stem() -> None:
    assert small(size=32).eval().net.forward_features(torch.rand(1, 3, 32, 32)).shape[2:] == (2, 2)


def test_pixels_are_normalised_inside() -> None:
    model = small().eval()
    x = torch.rand(2, 3, 16, 16)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    torch.testing.assert_close(model(x), model.net((x - mean) / std))


def test_another_model_of_timm_is_built_by_its_name() -> None:
    assert small("efficientvit_b0", 32).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_validation_images_are_no_training_images(tmp_path: Path) -> None:
    fake_photographs(tmp_path, "train", 4)
    fake_photographs(tmp_path, "test", 2)
    splits = load(tmp_path, tmp_path / "cache", size=32, validation_images=10, test_images=5)
    assert [len(s[0]) for s in (splits.train, splits.validation, splits.test)] == [30, 10, 5]
    seen = {image.numpy().tobytes() for image in splits.train[0]}
    assert not seen & {image.numpy().tobytes() for image in splits.validation[0]}
    assert Epochs(splits.train).classes == 10


def test_the_images_of_an_epoch_depend_on_seed_and_epoch_alone() -> None:
    split = bytes_of(40)
    first, again = (Epochs(split)(20, seed=3, epoch=1) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].dtype == torch.uint8
    for other in ({"seed": 4, "epoch": 1}, {"seed": 3, "epoch": 2}):
        assert not torch.equal(Epochs(split)(20, **other)[0], first[0])


def training(seed: int, epochs: Epochs) -> Training:
    return Training(
        epochs=epochs,
        schedule=Schedule(epochs=2, images=64),
        batch_size=32,
        weight_decay=0.05,
        mixup=0.2,
        seed=seed,
        device="cpu",
    )


def test_training_depends_on_its_seed_alone_and_leaves_no_hook() -> None:
    kept = Epochs(bytes_of(64))  # as in a study: what is augmented once draws nothing again

    def weights(seed: int) -> Tensor:
        model = small()
        average = train(model, ISOMETRY, training(seed, kept))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        torch.manual_seed(9)  # what was drawn before does not matter
        return torch.cat([value.flatten() for value in average.parameters()])

    first, again, other = (weights(seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first, again, rtol=1e-3, atol=1e-5)
    assert (first - other).abs().max() > 1e-3


def test_the_robust_loss_trains_a_vit_whose_attention_is_fused() -> None:
    model = small("vit_tiny_patch16_224").train()
    assert model.net.blocks[0].attn.fused_attn
    RobustLoss(model, eps=0.01)(torch.rand(4, 3, 16, 16), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_cascade_of_attacks_has_the_worst_case_of_all_at_once() -> None:
    torch.manual_seed(1)
    model = small()
    split = bytes_of(40)
    # statistics of batches, and a head that is right half of the time
    model.train()(split[0].float() / 255)
    model.eval()
    with torch.no_grad():
        labels = model(split[0].float() / 255).argmax(1)
    labels[::4] = (labels[::4] + 1) % 10
    split = (split[0], labels)
    # both without random numbers, so that it does not matter in which batch an image is
    groups = (("fgsm",), ("paper-pgd",))
    found = worst_case(model, split, (1, 2, 4), groups)
    x = split[0].float() / 255
    eps = [1 / 255, 2 / 255, 4 / 255]
    report = evaluate(model, x, labels, eps=eps, attacks=["fgsm", "paper-pgd"], progress=False)
    standing = torch.tensor(report.correct)
    for radius, e in zip(("1", "2", "4"), eps, strict=True):
        standing &= torch.tensor([by[e] for by in report.survived.values()]).all(0)
        assert found["shares"][radius] == pytest.approx(standing.float().mean().item())
    assert found["shares"]["0"] == report.clean == 0.75
    assert found["shares"]["0"] > found["shares"]["1"] > 0


@pytest.mark.parametrize("kind", STRENGTHS)
def test_corruptions_grow_with_their_strength_and_repeat(kind: str) -> None:
    images, _ = bytes_of(8, 32)
    changes = []
    for strength in STRENGTHS[kind]:
        found = corrupted(images, kind, strength)
        assert found.dtype == torch.uint8
        assert torch.equal(found, corrupted(images, kind, strength))
        changes.append((found.float() - images.float()).square().mean().item())
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_the_distortion_of_a_layer_is_that_of_its_pooled_output() -> None:
    model = small().eval()
    images, labels = bytes_of(40)
    found = by_layer(model, (images, labels), "cpu")
    assert list(found) == ["act1", "layer1", "layer2", "layer3", "layer4", "features"]
    x = images.float() / 255
    expected = distortion(x, model.net.forward_features(model.normalise(x)).mean((2, 3)), labels)
    for name in ("layer4", "features"):
        assert found[name]["correlation"] == pytest.approx(expected.correlation, abs=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_setting_is_chosen_by_the_mean_of_clean_and_attacked_accuracy() -> None:
    key = {"phase": "choose", "network": "n", "method": "RobustLoss"}
    runs = [
        {"key": {**key, "setting": "eps 2/255"}, "figures": {"clean": 0.6, "attacked": 0.2}},
        {"key": {**key, "setting": "eps 4/255"}, "figures": {"clean": 0.5, "attacked": 0.35}},
        {"key": {**key, "setting": "eps 8/255"}, "figures": {"clean": 0.4, "attacked": 0.4}},
        {"key": {**key, "setting": "eps 16/255"}, "figures": {"clean": 0.3, "attacked": 0.3}},
        {"key": {**key, "network": "m", "setting": "eps 2/255"}, "figures": {}},
    ]
    assert chosen(runs, "n", "RobustLoss") == "eps 4/255"
    assert chosen(runs, "n", "plain") == ""


def test_of_some_networks_one_seed_is_measured_and_of_the_others_all(tmp_path: Path) -> None:
    lab = new_lab(STUDY, tmp_path / "timm.json", seeds=3)
    lab.runs = read(RESULTS / "timm.json")["runs"]
    tested = [key for key in keys(lab) if key["phase"] == "test" and key["method"] == "plain"]
    seeds = {name: [k["seed"] for k in tested if k["network"] == name] for name in NETWORKS}
    assert seeds.pop("vit_tiny_patch16_224") == [0]
    assert list(seeds.values()) == [[0, 1, 2]] * 2


def test_costs_are_ratios_to_a_plain_step_with_memory_of_a_fresh_process() -> None:
    arguments = {"size": 16, "batch": 16, "narrow": True, "device": "cpu", "seconds": 0.01}
    found = costs("resnet10t", {}, **arguments, measure_memory=True)
    assert found["time"] > 0
    assert found["memory"] == pytest.approx(1, abs=0.3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs, and fewer ways to train on them."""
    fake_photographs(tmp_path, "train", 12)
    fake_photographs(tmp_path, "test", 4)
    few = {name: ROWS[name] for name in ("plain", "isometry, features")}
    monkeypatch.setattr("benchmarks.timm_models.experiment.ROWS", few)
    return tmp_path


def test_it_runs_resumes_and_leaves_its_tables(folder: Path) -> None:
    out = folder / "timm.json"
    found = run_and_resume(out, "timm", "--data-dir", str(folder))
    assert len(found) == 3 + 2 + 2
    table = out.with_suffix(".md").read_text()
    for run in found:
        assert run["key"].get("method", "") in table
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_options_reach_the_settings(folder: Path) -> None:
    out = folder / "o.json"
    options = ["--model", "resnet14t", "--epochs", "1"]
    run_quickly(out, "timm", "--data-dir", str(folder), *options)
    found = json.loads(out.read_text())["settings"]
    assert found["networks"] == ["resnet14t"]
    assert found["schedule"]["epochs"] == 1
    assert found["size"] == ways.settings(quick=True).size
    assert ways.ATTACKS[0] == ("fgsm", "pgd-ce", "pgd-margin")
