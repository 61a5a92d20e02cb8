"""`iso.report()`: its numbers, its warnings, what it keeps, and the flat dict for loggers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import IsometryRegularizer, isometry_penalty
from isoreg._attach.balance import Pull
from isoreg._attach.monitor import EVERY, WARN_AT, Monitor, Step
from isoreg.diagnostics import Distortion, distortion, distortion_of
from isoreg.report import IsometryReport, LayerReport

GOOD = Distortion(10, 0.9, 0.2, 1.2, 0.8, 1.0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def step(model: nn.Module, iso: IsometryRegularizer, x: Tensor, y: Tensor | None) -> None:
    (F.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.long)) + iso(y)).backward()


def ran(*layers: object) -> IsometryRegularizer:
    """The regularizer of a model that has made one step."""
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, *layers)
    step(model, iso, x, y)
    return iso


@pytest.mark.parametrize("scale", [1.0, 4.0, "fit"])
def test_each_layer_is_measured_as_by_distortion(scale: float | str) -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, ["1", "3"], beta=0.3, scale=scale)
    step(model, iso, x, y)
    report = iso.report()
    assert (report.beta, report.steps, report.without_pairs) == (0.3, 1, 0)
    for name, layer in report.layers.items():
        phi = model[: int(name) + 1](x)
        plain = distortion(x, phi, y)
        factor = plain.scale if scale == "fit" else scale
        expected = dataclasses.replace(distortion(x, factor * phi, y), scale=plain.scale)
        for field, value in dataclasses.asdict(expected).items():
            assert getattr(layer.distortion, field) == pytest.approx(value, rel=1e-4), field
        penalty = isometry_penalty(x, phi, y, scale=scale)
        assert layer.penalty == pytest.approx(penalty.item(), rel=1e-4)


def test_a_report_asks_a_device_for_no_type_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    iso = ran()
    seen = []
    monkeypatch.setattr("isoreg._attach.monitor.exact_dtype", lambda _: torch.float32)  # as on MPS
    monkeypatch.setattr(
        "isoreg._attach.monitor.distortion_of", lambda *d: seen.extend(d) or distortion_of(*d)
    )
    iso.report()
    assert [d.dtype for d in seen] == [torch.float32, torch.float32]


def test_the_gradients_ratio_is_that_of_the_weighted_penalty_to_the_loss() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta=0.3)
    (F.cross_entropy(model(x), y) + iso(y)).backward()
    phi = model[:-1](x).detach().requires_grad_()
    (by_loss,) = torch.autograd.grad(F.cross_entropy(model[-1](phi), y), phi)
    (by_penalty,) = torch.autograd.grad(0.3 * isometry_penalty(x, phi, y), phi)
    expected = float(by_penalty.norm() / by_loss.norm())
    assert iso.report().layers["4"].gradient == pytest.approx(expected, rel=1e-4)


def test_only_one_step_in_many_is_looked_at_closely_and_large_batches_are_sampled() -> None:
    model = net()
    x = batch(300)[0]
    iso = IsometryRegularizer(model)
    step(model, iso, x, None)
    first = iso.report().layers["4"].distortion
    assert first.pairs == 256 * 255 // 2
    for _ in range(EVERY - 1):
        step(model, iso, x[:10], None)
    assert iso.report().layers["4"].distortion == first
    step(model, iso, x[:10], None)
    assert iso.report().layers["4"].distortion.pairs == 45


def test_looks_and_warnings_come_at_the_steps_that_are_promised() -> None:
    monitor, looks, warned = Monitor("euclidean", "euclidean"), [], []
    x = torch.randn(3, 2)
    for step in range(1100):
        if monitor.due:
            looks.append(step)
            monitor.look_closely(Step({"a": x}, {"a": x}, None, None, first=0), None, 1.0)
        monitor.record_step(["a"], torch.ones(1))
        warned += [step + 1] * monitor.wants_to_warn
        assert len(monitor._uncounted) <= 33, "what is counted is not kept"
    assert looks == list(range(0, 1100, 32))
    assert warned == [129, 1025]
    assert monitor.report(1.0).without_pairs == 0


@pytest.mark.parametrize("given", ["distances", "pair_weights"])
def test_of_a_table_that_reaches_into_the_queue_the_batch_is_reported(given: str) -> None:
    model, (x, _) = net(), batch(165)
    table = torch.rand(165, 165, generator=torch.Generator().manual_seed(2))
    table = torch.minimum(table, table.T)
    table = table.round() if given == "pair_weights" else table
    queued, alone = IsometryRegularizer(model, queue=9), IsometryRegularizer(model)
    for at in range(0, 165, 5):  # the last of these steps is the second that is looked at
        own, past = torch.arange(at, at + 5), torch.arange(max(0, at - 9), at)
        model(x[own])
        queued(None, **{given: table[own][:, torch.cat([own, past])]})
        alone(None, **{given: table[own][:, own]})
    assert queued.report().layers["4"].distortion == alone.report().layers["4"].distortion


def test_a_reference_is_reported_in_its_own_distance() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, input_distance="manhattan")
    step(model, iso, x, y)
    expected = distortion(x, model[:-1](x), y, input_distance="manhattan")
    assert iso.report().layers["4"].distortion == expected


@pytest.mark.parametrize("soft", [False, True])
def test_of_a_large_batch_labels_distances_and_weights_are_sampled_alike(soft: bool) -> None:
    model, (x, y) = net(), batch(300)
    labels = 0.8 * F.one_hot(y, 3).float() + 0.2 / 3 if soft else y
    iso = IsometryRegularizer(model)
    step(model, iso, x, labels)
    phi = model[:-1](x)
    expected = distortion(x[:256], phi[:256], y[:256])
    assert iso.report().layers["4"].distortion == expected
    weights = torch.ones(300, 300)
    weights[:10] = weights[:, :10] = 0
    given = IsometryRegularizer(model)
    model(x)
    given(labels, distances=torch.cdist(x, x), pair_weights=weights).backward()
    found = given.report().layers["4"].distortion
    assert found.pairs == distortion(x[10:256], phi[10:256], y[10:256]).pairs < expected.pairs
    assert found.correlation == pytest.approx(
        distortion(x[10:256], phi[10:256], y[10:256]).correlation, abs=1e-4
    )


def test_samples_whose_soft_label_is_a_row_of_zeros_are_in_no_pair_of_the_report() -> None:
    model, (x, y) = net(), batch()
    soft = F.one_hot(y, 3).float()
    soft[::4] = 0
    iso = IsometryRegularizer(model)
    step(model, iso, x, soft)
    expected = distortion(x, model[:-1](x), y.index_fill(0, torch.arange(0, len(y), 4), -100))
    assert iso.report().layers["4"].distortion == expected


def pull(loss: float, penalty: float, along: float) -> Pull:
    return Pull(*map(torch.tensor, (loss, penalty, along)))


def test_one_odd_step_among_many_moves_no_figure_of_the_gradients() -> None:
    iso = ran()
    monitor = iso._monitor
    monitor._norms.clear()
    monitor._early.clear()
    for count in range(40):
        odd = count % 10 == 5 or count == 38
        usual = pull({1: 1.0, 2: 3.0}.get(count, 1.0), 1.0, 0.0)
        monitor.record_gradients({"4": pull(50.0, 5e3, 2.5e3) if odd else usual}, 1.0)
    layer = iso.report().layers["4"]
    assert layer.gradient == pytest.approx(1.0)
    assert layer.progress == pytest.approx(1.0)
    assert layer.remaining == pytest.approx(0.5)


@pytest.mark.parametrize("before", [0.0, 1e-5])
def test_gradients_are_told_for_the_weight_of_the_last_call(before: float) -> None:
    model, (x, y) = net(), batch()
    fresh, changed = IsometryRegularizer(model, beta=0.3), IsometryRegularizer(model, beta=before)
    step(model, fresh, x, y)
    expected = fresh.report().layers["4"]
    for _ in range(34):  # two of them are looked at
        step(model, changed, x, y)
    changed.beta = 0.3
    step(model, changed, x, y)
    for _ in range(31 if before == 0 else 0):  # from a weight of 0 nothing follows: a look later
        step(model, changed, x, y)
    layer = changed.report().layers["4"]
    assert layer.gradient == pytest.approx(expected.gradient, rel=1e-4)
    assert layer.progress == pytest.approx(expected.progress, rel=1e-4)
    changed.beta = 7.0
    assert changed.report().beta == 0.3
    assert changed.log_dict()["isometry/beta"] == pytest.approx(0.3)


LEARNED = torch.tensor(0.4), torch.tensor(0.1)


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        (*LEARNED, 2.0),  # each weight fits the gradients of its own step
        (0.4, 0.1, 8.0),
        (0.4, LEARNED[1], 8.0),
        (LEARNED[0], 0.1, 8.0),
        (0.0, 0.0, 2.0),
        (0.4, 0.0, math.nan),
    ],
)
def test_gradients_of_a_step_with_another_weight_grow_with_it_unless_both_were_learned(
    now: float | Tensor, then: float | Tensor, expected: float
) -> None:
    iso = ran()
    iso._monitor._norms.clear()
    iso._monitor.record_gradients({"4": pull(1.0, 2.0, 0.0)}, then)
    gradient = iso._monitor.report(now).layers["4"].gradient
    assert gradient == pytest.approx(expected, nan_ok=True)


def test_of_a_weight_that_was_zero_no_warning_is_made() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta=0.0)
    step(model, iso, x, y)
    iso.beta = 0.3
    step(model, iso, x, y)
    assert math.isnan(iso.report().layers["4"].gradient)
    assert iso.report().warnings == []


@pytest.mark.parametrize("overflowed", [math.inf, math.nan])
def test_a_step_that_overflowed_is_no_part_of_the_medians(overflowed: float) -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model)
    model(x)
    iso(y)
    for count in range(8):
        broken = pull(overflowed, overflowed, overflowed)
        iso._monitor.record_gradients({"4": broken if count % 2 else pull(1.0, 2.0, 0.5)}, 1.0)
    layer = iso.report().layers["4"]
    assert (layer.gradient, layer.progress, layer.remaining) == (2.0, 1.5, 1.0)


def test_a_new_regularizer_and_a_detached_one_can_be_asked() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model)
    assert iso.report().layers == {}
    assert iso.log_dict() == {}
    step(model, iso, x, y)
    before = str(iso.report())
    iso.detach()
    assert str(iso.report()) == before


def test_the_report_goes_through_json_and_prints_a_row_a_layer() -> None:
    iso = ran(["1", "3"])
    report = iso.report()
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))["layers"]["3"]
    assert found["distortion"]["pairs"] == 35
    assert found["remaining"] is None, "not known before the fourth look"
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["layer", "1", "3"]
    assert len(lines[1]) == len(lines[2]) == len(lines[3])


def test_the_table_stands_under_its_head() -> None:
    found = Distortion(35, 0.9876, 0.1234, 1234.5, 0.000123, 2.5)
    layers = {
        "features.encoder": LayerReport(found, 0.01234, 0.1, 1.0),
        "last": LayerReport(found, 1.0, 7.0, -1.0),
    }
    report = IsometryReport(0.1, 9, 4, layers, looked_at=9)
    assert str(report).splitlines()[:4] == [
        "beta 0.1, 9 steps, 4 of them without pairs",
        "layer             pairs  Pearson r   stress  contraction  expansion    scale   penalty  "
        "gradient",
        "features.encoder     35      0.988    0.123     0.000123   1.23e+03      2.5    0.0123  "
        "     0.1",
        "last                 35      0.988    0.123     0.000123   1.23e+03      2.5         1  "
        "       7",
    ]
    far = dataclasses.replace(found, stress=1234567.0)  # features on another scale
    apart = str(IsometryReport(0.1, 9, 4, {"a": LayerReport(far, 0.01234, 0.1)})).splitlines()
    assert apart[2].split()[:4] == ["a", "35", "0.988", "1.23e+06"]
    assert len(apart[2]) == len(apart[1])
    short = str(IsometryReport(0.1, 9, 4, {"a": layers["features.encoder"]})).splitlines()
    assert short[1].startswith("layer         pairs")
    before = str(IsometryReport(0.1, 40, 4, layers, looked_at=33)).splitlines()[0]
    assert before.endswith("without pairs; distances of step 33, one in 32 is looked at")
    assert report.to_dict()["warnings"] == report.warnings != []
    assert report.to_dict()["layers"]["last"]["distortion"]["pairs"] == 35


# Warnings


def test_batches_without_pairs_are_counted_and_warned_of() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model)
    for labels in (y[:3], y[:3], y[:6]):
        step(model, iso, x[: len(labels)], labels)
    report = iso.report()
    assert report.without_pairs == 2
    assert "2 of 3 batches held no two samples of one class" in report.warnings[0]


@pytest.mark.parametrize(
    ("layer", "kind", "text"),
    [
        (LayerReport(GOOD, 0.5, 7.0, -0.5), "drowns", "7 times the loss's.*With beta=0.014 it"),
        (LayerReport(GOOD, 0.5, 1e-5), "idle", "next to nothing.*With beta=1e\\+04 it"),
        (LayerReport(GOOD, 0.5, 0.0), "gradient", "penalty of layer 'a' is 0.5 and gives no grad"),
        (
            LayerReport(dataclasses.replace(GOOD, expansion=0.003, scale=500.0), 0.5, 0.1),
            "collapsed",
            "at most 0.003 times as large. Give scale=500 or scale='fit', or raise beta.",
        ),
    ],
)
def test_a_warning_says_what_is_wrong_and_what_to_do(
    layer: LayerReport, kind: str, text: str
) -> None:
    report = IsometryReport(1.0, 10, 0, {"a": layer})
    assert [found for found, _ in report.problems()] == [kind]
    (warning,) = report.warnings
    assert re.search(text, warning), warning
    assert f"WARNING: {warning}" in str(report)


NONE = dataclasses.replace(GOOD, pairs=0, expansion=0.0)
SMALL = dataclasses.replace(GOOD, expansion=0.0099)
LIMITS: dict[str, tuple[LayerReport, float, list[str]]] = {
    "hardly idle": (LayerReport(GOOD, 0.5, 0.00101), 1.0, []),
    "idle": (LayerReport(GOOD, 0.5, 0.00099), 1.0, ["idle"]),
    "idle at beta 0": (LayerReport(GOOD, 0.5, 0.00099), 0.0, []),
    "hardly drowning": (LayerReport(GOOD, 0.5, 2.99, -0.5), 1.0, []),
    "drowning": (LayerReport(GOOD, 0.5, 3.01, -0.5), 1.0, ["drowns"]),
    "in nobody's way": (LayerReport(GOOD, 0.5, 3.01, 0.0), 1.0, []),
    "in the way of what is fitted": (LayerReport(GOOD, 0.5, 3.01, -0.1, 0.9), 1.0, ["drowns"]),
    "as hard as early": (LayerReport(GOOD, 0.5, 3.01, 0.5, 1.0), 1.0, ["drowns"]),
    "in the way of little": (LayerReport(GOOD, 0.5, 7.2, 0.9, 0.7), 1.0, []),
    "in the way of a pull that grew": (LayerReport(GOOD, 0.5, 7.2, 0.9, 1.3), 1.0, ["drowns"]),
    "not measured": (LayerReport(GOOD, 0.5, float("nan")), 1.0, []),
    "satisfied": (LayerReport(GOOD, 0.0, 0.0), 1.0, []),
    "without pairs": (LayerReport(NONE, 0.5, 0.0), 1.0, []),
    "exactly as idle": (LayerReport(GOOD, 0.5, 0.001), 1.0, []),
    "exactly drowning": (LayerReport(GOOD, 0.5, 3.0, -0.5), 1.0, []),
    "exactly collapsed": (
        LayerReport(dataclasses.replace(GOOD, expansion=0.01), 0.5, 0.1),
        1.0,
        [],
    ),
    "collapsed": (LayerReport(SMALL, 0.5, 0.1), 1.0, ["collapsed"]),
    "collapsed and stuck": (LayerReport(SMALL, 0.5, 0.0), 1.0, ["collapsed", "gradient"]),
}


@pytest.mark.parametrize(("layer", "beta", "kinds"), LIMITS.values(), ids=LIMITS)
def test_a_layer_is_warned_of_from_a_limit_on(
    layer: LayerReport, beta: float, kinds: list[str]
) -> None:
    report = IsometryReport(beta, 10, 5, {"a": layer})
    assert [kind for kind, _ in report.problems()] == kinds


def test_features_that_are_all_equal_have_no_scale_to_give() -> None:
    layer = LayerReport(dataclasses.replace(GOOD, expansion=0.0), 0.5, 0.1)
    (warning,) = IsometryReport(1.0, 10, 5, {"a": layer}).warnings
    assert warning.endswith("at most 0 times as large. Do raise beta.")
    assert IsometryReport(1.0, 9, 5, {}).warnings[0].startswith("5 of 9 batches held no two")


def test_medians_are_over_the_last_looks_and_what_remains_over_three_at_either_end() -> None:
    x = torch.randn(5, 3)
    monitor = Monitor("euclidean", "euclidean")
    monitor.record_step(["a"], torch.ones(1))
    monitor.look_closely(Step({"a": x}, {"a": x}, None, None, first=0), None, 1.0)
    for loss in range(1, 21):
        one = torch.tensor(1.0)
        monitor.record_gradients({"a": Pull(loss * one, 2 * loss * one, loss**3 * one)}, 1.0)
        assert math.isnan(monitor.report(1.0).layers["a"].remaining) is (loss < 4)
    monitor.record_gradients({}, 1.0)
    found = monitor.report(1.0).layers["a"]
    assert found.gradient == 2.0
    assert found.progress == 1 + 12.5, "the last 16 are 5 to 20"
    assert found.remaining == 19 / 2.5, "18, 19, 20 over 2, 3: the first look is no measure"


def test_a_layer_that_some_looks_did_not_see_has_no_share_of_theirs() -> None:
    monitor, one = Monitor("euclidean", "euclidean"), torch.tensor(1.0)
    x = torch.randn(5, 3)
    monitor.record_step([*"abcd"], torch.ones(4))
    layers = dict.fromkeys("abcd", x)
    monitor.look_closely(Step(layers, layers, None, None, first=0), None, 1.0)
    for look in range(1, 7):
        seen = {"a": Pull(look * one, one, one), "b": Pull(0 * one, one, one)}
        monitor.record_gradients(seen | {"c" if look > 3 else "d": Pull(one, one, one)}, 1.0)
    found = monitor.report(1.0).layers
    assert found["a"].remaining == 5 / 2.5
    assert math.isnan(found["b"].remaining)
    assert math.isnan(found["b"].gradient), "the loss never pulled"
    assert math.isnan(found["c"].remaining), "it was not seen early"
    assert math.isnan(found["d"].remaining), "it was not seen late"
    assert found["c"].gradient == 1.0


def test_what_remains_of_the_losss_pull_falls_while_it_is_fitted_and_not_where_it_drowns() -> None:
    found = {}
    x, y = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    x[:, 0] += 3 * y
    for beta in (0.01, 1e4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
        iso = IsometryRegularizer(model, beta=beta)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(300):
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + iso(y)).backward()
            optimizer.step()
        found[beta] = iso.report().layers["2"].remaining
    assert found[0.01] < 0.3
    assert found[1e4] > found[0.01]


def test_collapsed_features_and_a_weight_that_drowns_the_loss_are_seen_in_a_real_run() -> None:
    model, (x, y) = net(), batch()
    with torch.no_grad():
        model[2].weight.mul_(1e-4)
    iso = IsometryRegularizer(model, beta=1e6)
    step(model, iso, x, y)
    kinds = [kind for kind, _ in iso.report().problems()]
    assert kinds == ["collapsed", "drowns"]


def test_warnings_come_unasked_once_early_in_training() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, beta=1e6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(WARN_AT[0] - 1):
            step(model, iso, x, y)
        assert caught == []
        for _ in range(WARN_AT[1] - WARN_AT[0] + 1):
            step(model, iso, x, y)
    (warning,) = caught
    assert "IsometryRegularizer: at layer '4' the penalty's gradient" in str(warning.message)
    assert warning.filename == __file__


# For loggers


def test_the_flat_dict_holds_floats_of_the_last_call() -> None:
    model, (x, y) = net(), batch()
    iso = IsometryRegularizer(model, {"1": 2.0, "3": 1.0}, beta=0.1)
    model(x)
    value = iso(y)
    found = iso.log_dict("train/iso/")
    first, second = (p.item() for p in iso.penalties.values())
    assert found == {
        "train/iso/penalty": pytest.approx(value.item()),
        "train/iso/beta": pytest.approx(0.1),
        "train/iso/penalty/1": pytest.approx(first),
        "train/iso/penalty/3": pytest.approx(second),
    }
    assert all(type(number) is float for number in found.values())
    assert value.item() == pytest.approx(0.1 * (2 * first + second))


def test_tensors_for_loggers_are_alike_and_hold_no_graph() -> None:
    model, (x, y) = net().double(), batch()
    iso = IsometryRegularizer(model)
    assert iso.penalties == iso.log_tensors() == {}
    model(x.double())
    iso(y)
    for value in iso.log_tensors().values():
        assert (value.dtype, value.shape, value.grad_fn) == (torch.float64, (), None)


def test_a_layer_that_is_isometric_already_is_no_batch_without_pairs() -> None:
    model, (x, y) = nn.Sequential(nn.Identity(), *net()), batch()
    iso = IsometryRegularizer(model, ["0", "1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing before the first layer can be trained
        step(model, iso, x, y)
    assert next(iter(iso.penalties.values())) == 0
    assert iso.report().without_pairs == 0
