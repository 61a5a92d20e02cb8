"""Pairs across ranks: value and gradients are those of one process with the whole batch."""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.ranks import run_ranks
from isoreg import (
    AutoBeta,
    FeatureQueue,
    InputError,
    IsometryRegularizer,
    RankError,
    isometry_penalty,
    penalty,
    regularizer,
)
from isoreg._ranks import exchange
from isoreg._ranks.exchange import (
    check_device,
    check_group,
    check_same,
    describe,
    pack,
    resolve_group,
    unpack,
)
from isoreg.diagnostics import distortion
from isoreg.distances import METRICS
from isoreg.masks import IGNORED

# Ranks simulated in one process: all that a rank does but the communication


class Meeting:
    """Where the threads of simulated ranks exchange what they have."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=30)
        self.slots: list[Any] = [None] * count


class Member(NamedTuple):
    """The process group of one simulated rank."""

    rank: int
    meeting: Meeting


class ThreadedDist:
    """As much of `torch.distributed` as gathering needs, among threads."""

    @staticmethod
    def get_rank(group: Member) -> int:
        return group.rank

    @staticmethod
    def get_world_size(group: Member) -> int:
        return len(group.meeting.slots)

    @staticmethod
    def get_backend_config(group: Member) -> str:
        return "cpu:threads"

    @staticmethod
    def all_gather_single(found: Tensor, x: Tensor, *, group: Member) -> None:
        group.meeting.slots[group.rank] = x
        group.meeting.barrier.wait()
        found.copy_(torch.cat(group.meeting.slots))
        group.meeting.barrier.wait()


def in_threads(function: Callable[[Member], Any], count: int) -> list[Any]:
    """Results of a function on each of so many simulated ranks; the first error is raised."""
    meeting = Meeting(count)
    errors: list[BaseException] = []

    def run(rank: int) -> Any:
        torch.set_num_threads(1)
        try:
            return function(Member(rank, meeting))
        except BaseException as error:
            errors.append(error)  # later ones are of ranks that this one left waiting
            meeting.barrier.abort()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(count) as pool:
        patch.setattr(exchange, "dist", ThreadedDist)
        patch.setattr(penalty, "resolve_group", lambda group: group)
        results = list(pool.map(run, range(count)))
    if errors:
        raise errors[0]
    return results


TABLES = ("input_distances", "pair_weights")


def split_penalty(
    inputs: Tensor | None,
    features: list[Tensor],
    labels: Tensor | None,
    sizes: list[int],
    **options: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Mean over simulated ranks of values, and of the gradients by all features."""
    parts, kinds = slices(sizes), [torch.int64] * 2
    if labels is not None:  # integers of any type are class numbers, also of two types
        kinds = [labels.dtype, labels.dtype if labels.is_floating_point() else torch.int64]

    def one_rank(group: Member) -> tuple[Tensor, list[Tensor]]:
        part = parts[group.rank]
        own = [x.detach()[part].requires_grad_() for x in features]
        found = isometry_penalty(
            None if inputs is None else inputs[part],
            own,
            None if labels is None else labels[part].to(kinds[group.rank % 2]),
            process_group=group,  # type: ignore[arg-type]
            **{name: x[part] if name in TABLES else x for name, x in options.items()},
        )
        assert not any(x._backward_hooks for x in own), "the user's tensors are as they were"
        return found.detach(), list(torch.autograd.grad(found.sum(), own))

    values, gradients = zip(*in_threads(one_rank, len(sizes)), strict=True)
    joined = [torch.cat(found) / len(sizes) for found in zip(*gradients, strict=True)]
    return torch.stack(values).mean(0), joined


def slices(sizes: list[int]) -> list[slice]:
    """Where the samples of each rank stand."""
    return [slice(a, b) for a, b in pairwise([0, *accumulate(sizes)])]


def whole_penalty(
    inputs: Tensor | None, features: list[Tensor], labels: Tensor | None, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().requires_grad_() for x in features]
    found = isometry_penalty(inputs, leaves, labels, **options)
    return found.detach(), list(torch.autograd.grad(found.sum(), leaves))


def error(found: list[Tensor], expected: list[Tensor], *, floor: float = 1e-6) -> float:
    """Largest relative error, each tensor measured by its norm, or by the floor if it is less."""
    pairs = zip(found, expected, strict=True)
    return max(((a - b).norm() / b.norm().clamp_min(floor)).item() for a, b in pairs)


def batch(n: int, classes: int, *, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    x = torch.randn(n, 6, dtype=dtype)
    features = [torch.randn(n, d, dtype=dtype) for d in (3, 9)]
    return x, features, torch.randint(classes, (n,))


splits = st.lists(st.integers(0, 40), min_size=1, max_size=8)


@pytest.mark.usefixtures("way")
@given(
    sizes=splits,
    classes=st.sampled_from([1, 2, 10, 60]),
    scale=st.sampled_from([1.0, 0.3]),
    reduction=st.sampled_from(["batch", "pairs"]),
    kind=st.sampled_from(["integers", "none", "uint8", "ignored"]),
    seed=st.integers(0, 99),
)
@example(sizes=[9, 0, 12], classes=2, scale=0.3, reduction="pairs", kind="ignored", seed=0)
def test_every_split_gives_value_and_gradient_of_one_process(
    sizes: list[int], classes: int, scale: float, reduction: str, kind: str, seed: int
) -> None:
    torch.manual_seed(seed)
    x, features, y = batch(sum(sizes), classes, dtype=torch.float64)
    if kind == "none":
        y = None
    elif kind == "uint8":
        y = y.to(torch.uint8) + 150  # 156 is IGNORED, read as a byte
    elif kind == "ignored":
        y[::3] = IGNORED
    options = {"scale": scale, "reduction": reduction}
    value, gradients = split_penalty(x, features, y, sizes, **options)
    expected, expected_gradients = whole_penalty(x, features, y, **options)
    torch.testing.assert_close(value, expected)
    assert error(gradients, expected_gradients) < 1e-9


@pytest.mark.usefixtures("way")
@given(
    sizes=st.lists(st.integers(0, 99), min_size=1, max_size=16).filter(lambda x: sum(x) > 200),
    classes=st.sampled_from([1, 10, 100]),
    seed=st.integers(0, 99),
)
def test_every_split_in_float32_keeps_five_digits(
    sizes: list[int], classes: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, features, y = batch(sum(sizes), classes)
    value, gradients = split_penalty(x, features, y, sizes)
    expected, expected_gradients = whole_penalty(x, features, y)
    torch.testing.assert_close(value, expected)
    assert error(gradients, expected_gradients) < 1e-5


@pytest.mark.usefixtures("way")
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    option=st.sampled_from(["fit", "tensor", "soft", *METRICS]),
    tables=st.sets(st.sampled_from(TABLES)),
    reduction=st.sampled_from(["batch", "pairs"]),
    seed=st.integers(0, 99),
)
@example(sizes=[4, 0, 5], option="cosine", tables=set(TABLES), reduction="pairs", seed=0)
def test_every_split_of_the_other_options_gives_value_and_gradient_of_one_process(
    sizes: list[int], option: str, tables: set[str], reduction: str, seed: int
) -> None:
    torch.manual_seed(seed)
    x, features, y = batch(sum(sizes), 3, dtype=torch.float64)
    options: dict[str, Any] = {"reduction": reduction}
    if option == "fit":
        options["scale"] = "fit"
    elif option == "tensor":
        options["scale"] = torch.tensor(0.7)
    elif option == "soft":
        y = torch.rand(len(y), 4, dtype=torch.float64).softmax(1)
    else:
        options["distance"] = option
    for name in sorted(tables):
        table = torch.rand(len(y), len(y), dtype=torch.float64)
        if name == "input_distances":
            x, table[torch.rand_like(table) < 0.1] = None, torch.nan
        options[name] = table + table.T
    value, gradients = split_penalty(x, features, y, sizes, **options)
    expected, expected_gradients = whole_penalty(x, features, y, **options)
    torch.testing.assert_close(value, expected)
    # a scale fitted to one pair leaves a gradient of 0
    assert error(gradients, expected_gradients, floor=1e-3) < 1e-9


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["offset", "collapsed", "duplicates", "clusters"])
def test_difficult_features_keep_their_digits(kind: str) -> None:
    x, (features, _), y = batch(300, 3)
    if kind == "offset":
        features = features + 100
    elif kind == "collapsed":
        features = 1e-3 * features + 30 * torch.randn(3, 3)[y]
    elif kind == "duplicates":
        features = features[torch.arange(300) // 2]
    else:
        features = 1e-3 * features + torch.randn(300, 3)[torch.arange(300) % 30]
    _, found = split_penalty(x, [features], y, [100, 7, 193])
    wide = [features.double()]
    _, expected = whole_penalty(x.double(), wide, y)
    assert error([found[0].double()], expected) < 1e-5


@pytest.mark.usefixtures("way")
def test_classes_larger_than_a_tile_are_cut() -> None:
    x, features, _ = batch(1700, 1)
    for y in (None, torch.arange(1700) % 2):
        value, gradients = split_penalty(x, features, y, [600, 0, 1100])
        expected, expected_gradients = whole_penalty(x, features, y)
        torch.testing.assert_close(value, expected)
        assert error(gradients, expected_gradients) < 1e-5


@pytest.mark.usefixtures("way")
def test_a_nan_in_a_sample_without_pair_is_not_lost() -> None:
    x, features, y = batch(12, 3)
    y[5], features[1][5, 0] = 99, torch.nan
    value, _ = split_penalty(x, features, y, [4, 8])
    assert torch.isfinite(value[0])
    assert torch.isnan(value[1])


def test_a_sample_that_is_not_finite_is_kept_in_no_ranks_queue() -> None:
    x, (features, _), y = batch(12, 3)
    y[:4], y[4:] = 0, 1 + y[4:]  # the first rank has no pair with the second
    features[5, 0] = torch.nan
    parts, queues = slices([4, 8]), [FeatureQueue(20), FeatureQueue(20)]

    def one_rank(group: Member) -> Tensor:
        part = parts[group.rank]
        given = x[part], features[part], y[part]
        return isometry_penalty(
            *given,
            process_group=group,  # type: ignore[arg-type]
            queue=queues[group.rank],
        )

    first, second = in_threads(one_rank, 2)
    assert first.isfinite()
    assert second.isnan()
    kept = torch.arange(12) != 5
    for queue in queues:
        held = queue.state_dict()["rows"]
        assert all(torch.equal(a, b[kept]) for a, b in zip(held, (x, features, y), strict=True))


@pytest.mark.parametrize(
    "needed", [["scale"], ["inputs"], ["scale", "inputs"], ["labels"], [TABLES[0]]]
)
def test_what_is_learned_gets_the_gradient_of_one_process(needed: list[str]) -> None:
    x, (features, _), _ = batch(10, 2, dtype=torch.float64)
    y, table = torch.rand(10, 2, dtype=torch.float64).softmax(1), torch.cdist(x, x)

    def gradients(part: slice, group: Member | None) -> list[Tensor]:
        given = {"inputs": x[part].clone(), "labels": y[part].clone(), "scale": torch.tensor(0.7)}
        if needed == [TABLES[0]]:
            given |= {"inputs": None, TABLES[0]: table[part].clone()}
        wanted = [given[name].requires_grad_() for name in needed]
        found = isometry_penalty(features=features[part], process_group=group, **given)
        return list(torch.autograd.grad(found, wanted))

    parts = slices([4, 6])
    ranks = in_threads(lambda group: gradients(parts[group.rank], group), 2)
    expected = gradients(slice(None), None)
    for name, a, b, whole in zip(needed, *ranks, expected, strict=True):
        found = (a + b) / 2 if name == "scale" else torch.cat([a, b]) / 2
        torch.testing.assert_close(found, whole)


@pytest.mark.parametrize(
    ("sizes", "width", "dtype"),
    [([2, 0, 3], 2, torch.float64), ([2, 1], 0, torch.float32), ([1, 1], 1, torch.uint8)],
)
def test_rows_of_all_ranks_come_in_the_order_of_the_ranks(
    sizes: list[int], width: int, dtype: torch.dtype
) -> None:
    parts, rows = slices(sizes), sum(sizes)
    x = torch.arange(rows * width, dtype=dtype).view(rows, width)
    gathered = in_threads(
        lambda g: exchange.gather_rows({"x": x[parts[g.rank]]}, "", g), len(sizes)
    )
    for rank, found in enumerate(gathered):
        assert torch.equal(found.tensors["x"], x)
        assert (found.local, found.ranks) == (parts[rank], len(sizes))


@pytest.mark.parametrize("options", [{}, {"scale": "fit"}, {"distance": "cosine"}])
def test_second_derivatives_are_refused(options: dict[str, Any]) -> None:
    x, (features, _), y = batch(10, 2)
    own = features[:5].clone().requires_grad_()

    def differentiate(group: Member) -> None:
        found = isometry_penalty(x[:5], own, y[:5], process_group=group, **options)
        torch.autograd.grad(found, own, create_graph=True)

    with pytest.raises(InputError, match="no second derivatives"):
        in_threads(differentiate, 2)


def test_function_transforms_are_refused() -> None:
    x, (features, _), y = batch(10, 2)

    def differentiate(group: Member) -> None:
        torch.func.grad(lambda f: isometry_penalty(x, f, y, process_group=group))(features)

    with pytest.raises(InputError, match="torch.func"):
        in_threads(differentiate, 2)


def test_input_distances_need_a_column_for_every_rank() -> None:
    _, (features, _), y = batch(5, 2)

    def compare(group: Member) -> None:
        isometry_penalty(None, features, y, input_distances=torch.rand(5, 9), process_group=group)

    words = "each of the 10 samples of all ranks, in the order of the ranks, got 9"
    with pytest.raises(InputError, match=words):
        in_threads(compare, 2)


@pytest.mark.parametrize("queue", [None, 9])
def test_the_report_reads_the_own_samples_out_of_distances_across_ranks(queue: int | None) -> None:
    x, _, _ = batch(10, 2)
    every, parts = torch.cdist(x, x) + 1, [slice(0, 3), slice(3, 10)]

    def compare(group: Member) -> Any:
        part = parts[group.rank]
        model = nn.Sequential(nn.Linear(x.shape[1], 4), nn.Tanh(), nn.Linear(4, 3))
        iso = IsometryRegularizer(model, queue=queue)
        iso.process_group = group  # type: ignore[assignment]
        model(x[part])
        weights = torch.ones(len(x), len(x)).index_fill(1, torch.tensor([0, 4]), 0)
        weights = (weights * weights.T)[part]
        iso(None, distances=every[part], pair_weights=weights)
        found = iso.report().layers["2"].distortion
        features, known = model[:2](x[part]), every[part, part].clone()
        return found, distortion(
            None,
            features,
            None,
            input_distances=known.masked_fill(weights[:, part] == 0, torch.nan),
        )

    for found, expected in in_threads(compare, 2):
        assert found.pairs == expected.pairs > 0
        torch.testing.assert_close(found.stress, expected.stress)


# The parts of the communication that need none


@given(
    n=st.integers(0, 5),
    widths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_packed_rows_come_back_bit_by_bit(n: int, widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    types = [torch.bfloat16, torch.float64, torch.float32, torch.int64]
    tensors = [(100 * torch.randn(n, d)).to(dtype) for d, dtype in zip(widths, types, strict=False)]
    for found, x in zip(unpack(pack(tensors), tensors), tensors, strict=True):
        assert found.dtype == x.dtype
        assert torch.equal(found, x)


def test_ranks_that_disagree_are_told_how() -> None:
    a, b = (describe({"labels": x}, "scale 1.0") for x in (torch.ones(2, 1), torch.ones(3, 4)))
    check_same([a, a])
    first, other = "labels torch.float32, 1 a sample", "labels torch.float32, 4 a sample"
    for said, rank in (([a, a, b], 2), ([a, b], 1)):
        words = f"got '{first}' on rank 0 and '{other}' on rank {rank}."
        with pytest.raises(RankError, match=words):
            check_same(said)
    with pytest.raises(RankError, match=f"got '{a}' on rank 0 and '{a}; queue' on rank 1."):
        check_same([a, f"{a}; queue"])


def test_a_group_that_cannot_move_the_tensors_is_refused() -> None:
    check_device("cpu:gloo,cuda:nccl", torch.device("cpu"))
    with pytest.raises(InputError, match=r"\(cuda:nccl\) cannot move tensors on cpu"):
        check_device("cuda:nccl", torch.device("cpu"))


def test_what_is_no_group_is_refused_when_the_regularizer_is_built() -> None:
    check_group(None)
    check_group("world")
    with pytest.raises(InputError, match="IsometryRegularizer: process_group must be .*got 2"):
        IsometryRegularizer(nn.Linear(2, 2), process_group=2)  # type: ignore[arg-type]


def test_world_without_ranks_is_this_process_alone() -> None:
    assert resolve_group("world") is None
    x, features, y = batch(10, 2)
    torch.testing.assert_close(
        isometry_penalty(x, features, y, process_group="world"), isometry_penalty(x, features, y)
    )


def test_a_broken_connection_is_told_with_its_reason_and_what_to_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer. Address 10.0.0.1\nframe 7")

    monkeypatch.setattr(ThreadedDist, "all_gather_single", broken)
    with pytest.raises(RankError, match=r"of 2 ranks failed: Connection closed by peer\. Every"):
        in_threads(lambda group: exchange.mean_over_ranks(torch.ones(()), group), 2)  # type: ignore[arg-type]


# Real processes


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


LAYERS = ["1", "3"]
SIZES = [5, 0, 14]
MANY = 8  # classes: with 19 samples, most pairs lie across the ranks


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(sum(SIZES), 5, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(sum(SIZES)) % MANY


def part_of(rank: int) -> slice:
    return slices(SIZES)[rank]


def penalty_gradients(model: nn.Module, iso: IsometryRegularizer, x: Tensor, y: Tensor) -> Any:
    model.zero_grad()
    model(x)
    value = iso(y)
    value.backward()
    return value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def under_ddp(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    x, y = data()
    part = part_of(rank)
    for name, options in {
        "plain": {},
        "pairs": {"reduction": "pairs"},
        "fit": {"scale": "fit"},
        "cosine": {"distance": "cosine"},
        "queue": {"queue": 30},
    }.items():
        model = net()[:4]
        ddp = DistributedDataParallel(model)
        iso = IsometryRegularizer(model, LAYERS, process_group="world", **options)
        found[name] = [penalty_gradients(ddp, iso, x[part], y[part]) for _ in range(2)][-1]
        if name == "queue":
            found["held"] = iso.state_dict()["queue"]
    model = net()[:4]
    ddp = DistributedDataParallel(model)
    iso = IsometryRegularizer(model, LAYERS, process_group=dist.group.WORLD)
    with ddp.no_sync():
        ddp(x[part])
        (iso(y[part]) / 2).backward()
    ddp(1 - x[part])
    (iso(y[part]) / 2).backward()
    found["accumulated"] = [p.grad for p in model.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        model.zero_grad()
        ddp(x[part])
        value = iso(y[part])
    value.backward()
    found["mixed"] = value.dtype, [p.grad for p in model.parameters()]
    model = net()
    ddp = DistributedDataParallel(model)
    iso = IsometryRegularizer(model, LAYERS, process_group="world", beta="auto")
    found["beta"] = []
    for _ in range(3):
        (ddp(x[part]).square().sum() + iso(y[part])).backward()
        found["beta"].append(iso.beta)
    found["report"] = str(iso.report())
    with torch.no_grad():
        features = [x[part], 2 * x[part]]
        found["frozen"] = isometry_penalty(x[part], features, y[part], process_group="world")
    return found


@pytest.fixture(scope="module")
def ddp_runs() -> list[dict[str, Any]]:
    return run_ranks(under_ddp, len(SIZES))


def one_process(**options: Any) -> tuple[float, list[Tensor]]:
    model, (x, y) = net()[:4], data()
    with IsometryRegularizer(model, LAYERS, **options) as iso:
        return [penalty_gradients(model, iso, x, y) for _ in range(2)][-1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("pairs", {"reduction": "pairs"}),
        ("fit", {"scale": "fit"}),
        ("cosine", {"distance": "cosine"}),
        ("queue", {"queue": 30}),
    ],
)
def test_under_ddp_with_an_empty_rank_gradients_are_those_of_one_process(
    ddp_runs: list[dict[str, Any]], name: str, options: dict[str, Any]
) -> None:
    value, gradients = one_process(**options)
    values = [found[name][0] for found in ddp_runs]
    assert sum(values) / len(values) == pytest.approx(value, rel=1e-5)
    for found in ddp_runs:
        assert error(found[name][1], gradients) < 1e-5


def test_without_a_group_the_gradients_would_be_others() -> None:
    model, (x, y) = net()[:4], data()
    iso = IsometryRegularizer(model, LAYERS)
    parts = [penalty_gradients(model, iso, x[part_of(r)], y[part_of(r)]) for r in range(3)]
    averaged = [torch.stack(g).mean(0) for g in zip(*(p[1] for p in parts), strict=True)]
    assert error(averaged, one_process()[1]) > 0.1


def test_gradients_accumulate_under_no_sync(ddp_runs: list[dict[str, Any]]) -> None:
    model, (x, y) = net()[:4], data()
    iso = IsometryRegularizer(model, LAYERS)
    for inputs in (x, 1 - x):
        model(inputs)
        (iso(y) / 2).backward()
    for found in ddp_runs:
        assert error(found["accumulated"], [p.grad for p in model.parameters()]) < 1e-5


def test_features_in_bfloat16_give_the_penalty_in_float32(ddp_runs: list[dict[str, Any]]) -> None:
    model, (x, y) = net()[:4], data()
    iso = IsometryRegularizer(model, LAYERS)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        iso(y).backward()
    for found in ddp_runs:
        assert found["mixed"][0] == torch.float32
        # the gradient of the weights is a product in bfloat16, of other parts of the batch
        assert error(found["mixed"][1], [p.grad for p in model.parameters()]) < 0.03


def test_an_automatic_beta_is_the_same_on_every_rank(ddp_runs: list[dict[str, Any]]) -> None:
    first, empty, _ = ddp_runs
    assert len(set(first["beta"])) == 3
    assert min(first["beta"]) > 0
    assert all(found["beta"] == first["beta"] for found in ddp_runs)
    assert "0 of them without pairs" in first["report"]
    assert "3 steps" in empty["report"]


def test_ranks_that_have_measured_nothing_do_not_pull_an_automatic_beta_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regularizer, "resolve_group", lambda group: group)

    def weigh(group: Member, measured: list[float]) -> float:
        beta = AutoBeta(0.3)
        if group.rank < len(measured):
            log, weight = torch.tensor(measured[group.rank]).log(), torch.tensor(1.0)
            state = {"log": log, "weight": weight, "used": weight}
            beta.load_state_dict(state)
        iso = IsometryRegularizer(net(), LAYERS, beta=beta)
        iso.process_group = group  # type: ignore[assignment]
        return float(iso._weigh(beta, torch.tensor(1.0 if group.rank < 2 else 0.0)))

    for measured, expected in (
        ([2.0], 0.3 * 2),
        ([2.0, 4.0], 0.3 * 3),
        ([], 0.003 * 2 / 3),  # the first batch: a hundredth of the share, by its penalty
    ):
        found = in_threads(lambda group, of=measured: weigh(group, of), 3)
        assert found == pytest.approx([expected] * 3)


def test_features_are_sent_in_the_type_that_they_have() -> None:
    x, features, y = batch(4, 2)
    seen: list[list[torch.dtype]] = []

    def compare(group: Member) -> None:
        isometry_penalty(x, [features[0].bfloat16(), features[1]], y, process_group=group)

    def spy(tensors: list[Tensor]) -> Tensor:
        seen.append([found.dtype for found in tensors])
        return pack(tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "pack", spy)
        in_threads(compare, 2)
    assert seen == 2 * [[torch.float32, torch.bfloat16, torch.float32, torch.int64]]


def test_what_all_ranks_have_in_half_precision_is_compared_in_float32() -> None:
    x, (features, _), y = batch(8, 2)
    x, features = (30 + x).bfloat16(), (30 + features).bfloat16()
    places: list[Tensor] = []

    def compare(group: Member) -> None:
        local = slice(4 * group.rank, 4 * group.rank + 4)
        places.append(isometry_penalty(x[local], features[local], y[local], process_group=group))

    in_threads(compare, 2)
    expected = isometry_penalty(x.double(), features.double(), y)
    torch.testing.assert_close(sum(places) / 2, expected.float())


def test_a_step_gathers_rows_once_and_nothing_in_the_backward_pass() -> None:
    x, (features, _), y = batch(8, 2)
    calls: list[int] = []

    def differentiate(group: Member) -> None:
        own = features.clone().requires_grad_()
        found = isometry_penalty(x, [own, own * 2], y, process_group=group)
        before = len(calls)
        found.sum().backward()
        assert len(calls) == before

    def spy(found: Tensor, given: Tensor, *, group: Member) -> None:
        calls.append(given.numel() * given.element_size())
        gather(found, given, group=group)

    gather = ThreadedDist.all_gather_single
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadedDist, "all_gather_single", staticmethod(spy))
        in_threads(differentiate, 2)
    rows = 8 * (4 * (6 + 3 + 3) + 8)
    assert sorted(calls) == [16, 16, rows, rows]


def test_every_rank_holds_the_queue_of_one_process(ddp_runs: list[dict[str, Any]]) -> None:
    model, (x, y) = net()[:4], data()
    iso = IsometryRegularizer(model, LAYERS, queue=30)
    for _ in range(2):
        penalty_gradients(model, iso, x, y)
    expected = iso.state_dict()["queue"]
    for found in ddp_runs:
        assert [found["held"][k] for k in ("kind", "layers")] == [expected["kind"], LAYERS]
        held = {k: found["held"][k] for k in ("size", "rows")}
        torch.testing.assert_close(held, {k: expected[k] for k in ("size", "rows")})


def test_without_gradients_the_value_is_the_same(ddp_runs: list[dict[str, Any]]) -> None:
    x, y = data()
    mean = torch.stack([found["frozen"] for found in ddp_runs]).mean(0)
    torch.testing.assert_close(mean, isometry_penalty(x, [x, 2 * x], y))


def under_fsdp(rank: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, (x, y) = net()[:4], data()
    mesh = init_device_mesh("cpu", (2,))
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh)
    iso = IsometryRegularizer(model, LAYERS, process_group=mesh.get_group())
    part = slice(0, 7) if rank == 0 else slice(7, None)
    model(x[part])
    value = iso(y[part])
    value.backward()
    return value.item(), [p.grad.full_tensor() for p in model.parameters()]


def test_under_fsdp2_gradients_are_those_of_one_process() -> None:
    runs = run_ranks(under_fsdp, 2)
    value, gradients = one_process()
    assert sum(run[0] for run in runs) / 2 == pytest.approx(value, rel=1e-5)
    for run in runs:
        assert error(run[1], gradients) < 1e-5


def in_groups(rank: int) -> Any:
    x, y = data()
    features = [x[rank::4].clone().requires_grad_()]
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    alone = [dist.new_group([k]) for k in range(4)]
    found = {}
    inputs, labels = x[rank::4] ** 2, y[rank::4]
    for name, group in {"pair": groups[rank // 2], "one": alone[rank]}.items():
        value = isometry_penalty(inputs, features, labels, process_group=group)
        found[name] = value.detach(), *torch.autograd.grad(value.sum(), features)
    with pytest.raises(InputError, match="must hold this process"):
        isometry_penalty(inputs, features, labels, process_group=groups[1 - rank // 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            isometry_penalty(inputs, features, labels)
    found["warnings"] = [str(warning.message) for warning in caught]
    return found


def test_groups_of_two_and_of_one_and_a_forgotten_one() -> None:
    runs = run_ranks(in_groups, 4)
    x, y = data()
    for pair in (0, 1):
        ranks = [2 * pair, 2 * pair + 1]
        order = torch.cat([torch.arange(len(x))[r::4] for r in ranks])
        leaf = x[order].clone().requires_grad_()
        value = isometry_penalty(x[order] ** 2, [leaf], y[order])
        value.sum().backward()
        mean = (runs[ranks[0]]["pair"][0] + runs[ranks[1]]["pair"][0]) / 2
        torch.testing.assert_close(mean, value.detach())
        gathered = torch.cat([runs[r]["pair"][1] for r in ranks]) / 2
        assert error([gathered], [leaf.grad]) < 1e-5
    for rank, found in enumerate(runs):
        leaf = x[rank::4].clone().requires_grad_()
        value = isometry_penalty(x[rank::4] ** 2, [leaf], y[rank::4])
        value.sum().backward()
        torch.testing.assert_close(found["one"], (value.detach(), leaf.grad))
        (warning,) = found["warnings"]
        assert "4 ranks, but pairs across ranks are ignored, pass process_group=" in warning


def refusal(function: Callable[..., object], *args: object, **options: object) -> str:
    """What a call says of ranks that disagree, or nothing."""
    try:
        function(*args, **options)
    except RankError as problem:
        return str(problem)
    return ""


def disagreeing(rank: int) -> list[str]:
    x, y = data()
    soft = F.one_hot(y, MANY).float()
    said = []
    for labels, options in [
        ((y, soft)[rank], {}),
        ((y, None)[rank], {}),
        (y, {"scale": 1.0 + rank}),
        ((soft, soft.double())[rank], {}),
        (y.to((torch.int64, torch.uint8)[rank]), {}),  # no disagreement
        (y, {"inputs": x[:, : 2 - rank]}),
        (y, {"inputs": None, "input_distances": torch.rand(len(x), 2 * len(x)), "wide": rank}),
    ]:
        given: dict[str, Any] = {
            "inputs": x,
            "features": [x[:, options.pop("wide", 0) :]],
            **options,
        }
        said.append(refusal(isometry_penalty, **given, labels=labels, process_group="world"))
    return said


def test_ranks_that_disagree_all_raise_and_can_go_on() -> None:
    first, second = run_ranks(disagreeing, 2)
    assert first == second
    soft, missing, scale, wide, same, inputs, features = first
    assert "isometry_penalty: every rank must" in soft
    assert (
        f"got 'labels torch.int64, 1 a sample' on rank 0 and 'labels torch.float32, {MANY}" in soft
    )
    assert "'labels given' on rank 0 and 'labels None' on rank 1" in missing
    assert "'scale 1.0' on rank 0 and 'scale 2.0' on rank 1" in scale
    assert "float32" in wide
    assert "float64" in wide
    assert same == ""
    assert "'inputs torch.float32, 2 a sample' on rank 0 and 'inputs torch.float32, 1" in inputs
    assert "'features[0] torch.float32, " in features


def losing_a_rank(rank: int, how: str) -> Any:
    x, y = data()
    for step in range(3):
        if rank == 1 and step == 1:
            if how == "dies":
                os._exit(1)
            time.sleep(5)
            return None
        start = time.monotonic()
        try:
            isometry_penalty(x, [x], y, process_group="world")
        except RankError as problem:
            return str(problem), time.monotonic() - start
    return None


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_lost_rank_is_an_error_within_the_timeout_of_the_group(how: str) -> None:
    message, seconds = run_ranks(losing_a_rank, 2, how, timeout=2)[0]
    assert "isometry_penalty: gathering the features of 2 ranks failed" in message
    assert seconds < 5


def compiled_and_not(rank: int) -> Any:
    x, y = data()
    x, y = x[rank::2], y[rank::2]
    found = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="eager")):
        leaf = x.clone().requires_grad_()
        penalty = wrap(lambda leaf: isometry_penalty(x, leaf.square(), y, process_group="world"))
        value = penalty(leaf)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    return found


def test_a_compiled_penalty_across_ranks_is_that_of_eager() -> None:
    for eager, compiled in run_ranks(compiled_and_not, 2):
        torch.testing.assert_close(compiled, eager)


def disagreeing_in_secret(rank: int) -> list[str]:
    """What the sizes and types of all tensors do not tell."""
    x, y = data()
    x, y = x[rank::2], y[rank::2]
    own, shared = FeatureQueue(12), FeatureQueue(12)
    isometry_penalty(x[:8], x[:8], y[:8], queue=own)  # of this rank alone
    isometry_penalty(x, x, y, queue=shared, process_group="world")
    loaded = FeatureQueue(12)
    loaded.load_state_dict(own.state_dict())
    same = FeatureQueue(12)
    same.load_state_dict(shared.state_dict())
    inputs = x.clone().requires_grad_(rank == 1)
    return [
        refusal(isometry_penalty, points, x, y, queue=queue, process_group="world")
        for points, queue in [(x, own), (x, loaded), (x, same), (x, same), (inputs, None)]
    ]


def test_ranks_that_would_compare_with_other_samples_or_other_pairs_are_told() -> None:
    first, second = run_ranks(disagreeing_in_secret, 2)
    assert first == second
    own, loaded, *same, inputs = first
    assert same == ["", ""]
    for message in (own, loaded):
        assert "got 'queue of 12, 8 held, whose bytes add up to " in message
    assert re.search("labels without gradient.* on rank 0 and .*labels with gradient.* on", inputs)


def after_the_end(rank: int) -> list[str]:
    x, y = data()
    world, old = dist.group.WORLD, dist.new_group([0, 1])
    said = []
    for group, end in [(old, lambda: dist.destroy_process_group(old)), (world, None)]:
        isometry_penalty(x, x, y, process_group=group)
        if end is None:
            dist.destroy_process_group()
        else:
            end()
        with pytest.raises(InputError) as caught:
            isometry_penalty(x, x, y, process_group=group)
        said.append(str(caught.value))
    isometry_penalty(x, x, y, process_group="world")  # there is none: this process alone
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with pytest.raises(InputError, match="is still there"):
        isometry_penalty(x, x, y, process_group=world)
    return said


def test_a_group_that_has_ended_is_refused_and_not_taken_for_one_process() -> None:
    for said in run_ranks(after_the_end, 2):
        assert len(said) == 2
        assert all("got one that destroy_process_group() has ended" in text for text in said)


def out_of_memory(*_: object) -> None:
    raise MemoryError


def failing_once_on_one_rank(rank: int) -> list[str]:
    x, y = data()
    x, y = x[rank::2], y[rank::2]
    queue, said = FeatureQueue(12), []
    for step in range(4):
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1 and step == 2:
                patch.setattr("isoreg._ranks.penalty._by_rows", out_of_memory)
            try:
                isometry_penalty(x + step, x, y, queue=queue, process_group="world")
                said.append("")
            except (MemoryError, RankError) as problem:
                said.append(str(problem) or "out of memory")
    return said


def test_a_rank_that_lost_a_step_does_not_go_on_with_another_queue_than_the_others() -> None:
    first, second = run_ranks(failing_once_on_one_rank, 2)
    assert (first[:3], second[:3]) == (["", "", ""], ["", "", "out of memory"])
    assert first[3] == second[3]
    assert "got 'queue of 12, 12 held' on rank 0 and 'queue of 12, 12 held, whose" in first[3]


def watching_other_layers(rank: int) -> str:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    iso = IsometryRegularizer(model, [["0", "1"], ["1", "0"]][rank], process_group="world")
    model(torch.randn(6, 5))
    return refusal(iso, None)


def test_ranks_that_watch_equally_wide_layers_in_another_order_are_refused() -> None:
    for said in run_ranks(watching_other_layers, 2):
        assert "got \"the features of layer '0' torch.float32" in said
        assert "and \"the features of layer '1' torch.float32" in said
