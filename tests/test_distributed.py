"""Pairs across ranks: value and gradients are those of one process with the whole batch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.ranks import run_ranks
from isoreg import (
    InputError,
    IsometryRegularizer,
    RankError,
    across,
    isometry_penalty,
)
from isoreg.distances import METRICS
from isoreg.distributed import (
    Gathered,
    check_device,
    check_group,
    check_same,
    describe,
    pack,
    resolve_group,
    unpack,
)
from isoreg.masks import IGNORED
from isoreg.rows import plan_rows

# Ranks simulated in one process: all that a rank does but the communication


class Simulated:
    """A process group whose other ranks are not there: gathering gives what they would send."""

    def __init__(self, tensors: list[Tensor], sizes: list[int], rank: int) -> None:
        bounds = [0, *accumulate(sizes)]
        self.own = slice(bounds[rank], bounds[rank + 1])
        self.gathered = Gathered(tensors, self.own, len(sizes))


@contextmanager
def simulated() -> Iterator[None]:
    """Gather from `Simulated` groups."""

    def gather(sent: dict[str, Tensor], _: str, group: Simulated) -> Gathered:
        whole = group.gathered
        for mine, x in zip(sent.values(), whole.tensors, strict=True):
            torch.testing.assert_close(mine, x[whole.own], rtol=0, atol=0, equal_nan=True)
        return whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(across, "gather_rows", gather)
        patch.setattr("isoreg.penalty.resolve_group", lambda group: group)
        yield


def split_penalty(
    inputs: Tensor | None,
    features: list[Tensor],
    labels: Tensor | None,
    sizes: list[int],
    input_distances: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Mean over simulated ranks of values, and of the gradients by all features."""
    first = inputs if input_distances is None else input_distances
    whole = [first, *(x.detach().flatten(1) for x in features)]
    if labels is not None:
        whole.append(labels if labels.is_floating_point() else labels.long()[:, None])
    values, gradients = [], [torch.zeros_like(x) for x in features]
    with simulated():
        for rank in range(len(sizes)):
            group = Simulated(whole, sizes, rank)
            own = [x.detach()[group.own].requires_grad_() for x in features]
            found = isometry_penalty(
                None if inputs is None else inputs[group.own],
                own,
                None if labels is None else labels[group.own],
                input_distances=None if input_distances is None else input_distances[group.own],
                process_group=group,
                **options,
            )
            values.append(found.detach())
            for total, g in zip(gradients, torch.autograd.grad(found.sum(), own), strict=True):
                total[group.own] += g / len(sizes)
    return torch.stack(values).mean(0), gradients


def whole_penalty(
    inputs: Tensor | None, features: list[Tensor], labels: Tensor | None, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().requires_grad_() for x in features]
    found = isometry_penalty(inputs, leaves, labels, **options)
    return found.detach(), list(torch.autograd.grad(found.sum(), leaves))


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative error, each tensor measured by its norm; 0 must be met exactly."""
    pairs = zip(found, expected, strict=True)
    return max(((a - b).norm() / b.norm()).nan_to_num(0, posinf=1).item() for a, b in pairs)


def batch(n: int, classes: int, *, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    x = torch.randn(n, 6, dtype=dtype)
    features = [torch.randn(n, d, dtype=dtype) for d in (3, 9)]
    return x, features, torch.randint(classes, (n,))


splits = st.lists(st.integers(0, 40), min_size=1, max_size=8)


@given(
    sizes=splits,
    classes=st.sampled_from([1, 2, 10, 60]),
    scale=st.sampled_from([1.0, 0.3]),
    reduction=st.sampled_from(["batch", "pairs"]),
    kind=st.sampled_from(["integers", "none", "uint8", "ignored"]),
    seed=st.integers(0, 99),
)
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


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    option=st.sampled_from(["fit", "tensor", "soft", "given", *METRICS]),
    reduction=st.sampled_from(["batch", "pairs"]),
    seed=st.integers(0, 99),
)
def test_every_split_of_the_other_options_gives_value_and_gradient_of_one_process(
    sizes: list[int], option: str, reduction: str, seed: int
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
    elif option == "given":
        options["input_distances"] = torch.rand(len(y), len(y), dtype=torch.float64)
        x = None
    else:
        options["distance"] = option
    value, gradients = split_penalty(x, features, y, sizes, **options)
    expected, expected_gradients = whole_penalty(x, features, y, **options)
    torch.testing.assert_close(value, expected)
    assert error(gradients, expected_gradients) < 1e-9


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


def test_classes_larger_than_a_tile_are_cut() -> None:
    x, features, _ = batch(1700, 1)
    for y in (None, torch.arange(1700) % 2):
        value, gradients = split_penalty(x, features, y, [600, 0, 1100])
        expected, expected_gradients = whole_penalty(x, features, y)
        torch.testing.assert_close(value, expected)
        assert error(gradients, expected_gradients) < 1e-5


@given(
    labels=st.lists(st.sampled_from([0, 1, 2, 7, IGNORED]), max_size=200),
    copies=st.integers(1, 8),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 200)),
)
def test_a_plan_holds_each_pair_of_an_own_sample_once(
    labels: list[int], copies: int, cut: tuple[int, int]
) -> None:
    y = torch.tensor(labels * copies, dtype=torch.long)
    n, (start, stop) = len(y), sorted(cut)
    own = slice(min(start, n), min(stop, n))
    times = torch.zeros(own.stop - own.start + 1, n, dtype=torch.long)
    for block in plan_rows(y, own, n, device=y.device, width=1):
        places = block.places.view(block.rows.shape)
        for place, columns, mask in zip(places, block.columns, block.mask, strict=True):
            spread = torch.zeros(len(place), n, dtype=torch.long)
            spread.index_add_(1, columns, mask.long())
            times.index_add_(0, place, spread)
    expected = (y[own, None] == y) & (y != IGNORED)
    expected[torch.arange(len(expected)), torch.arange(own.start, own.stop)] = False
    assert torch.equal(times[:-1], expected.long())
    assert not times[-1].any()


def test_a_rank_computes_its_share_of_the_pairs() -> None:
    y = torch.arange(64 * 32) % 100
    computed = [
        sum(b.mask.numel() for b in plan_rows(y, slice(k, k + 64), 2048, device=y.device, width=1))
        for k in range(0, 2048, 64)
    ]
    pairs = int((y[:, None] == y).sum())
    assert max(computed) <= 1.3 * pairs / 32


def test_a_nan_in_a_sample_without_pair_is_not_lost() -> None:
    x, features, y = batch(12, 3)
    y[5], features[1][5, 0] = 99, torch.nan
    value, _ = split_penalty(x, features, y, [4, 8])
    assert torch.isfinite(value[0])
    assert torch.isnan(value[1])


def test_learned_scales_and_inputs_get_the_gradient_of_one_process() -> None:
    x, (features, _), y = batch(10, 2, dtype=torch.float64)
    found: list[list[Tensor]] = []
    with simulated():
        for sizes in ([10], [4, 6]):
            inputs, scale = x.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)
            for rank in range(len(sizes)):
                group = Simulated([x, features, y[:, None]], sizes, rank)
                part = isometry_penalty(
                    inputs[group.own],
                    features[group.own],
                    y[group.own],
                    scale=scale,
                    process_group=group if len(sizes) > 1 else None,
                )
                (part / len(sizes)).backward()
            found.append([inputs.grad, scale.grad])
    torch.testing.assert_close(found[0], found[1])


def test_second_derivatives_and_function_transforms_are_refused() -> None:
    x, (features, _), y = batch(10, 2)
    with simulated():
        group = Simulated([x, features, y[:, None]], [4, 6], 1)
        own = features[group.own].clone().requires_grad_()

        def penalty(f: Tensor, **options: Any) -> Tensor:
            return isometry_penalty(x[4:], f, y[4:], process_group=group, **options)

        for options in ({}, {"scale": "fit"}):
            with pytest.raises(InputError, match="no second derivatives"):
                torch.autograd.grad(penalty(own, **options), own, create_graph=True)
        with pytest.raises(InputError, match="torch.func"):
            torch.func.grad(penalty)(own)


def test_input_distances_need_a_column_for_every_rank() -> None:
    _, (features, _), y = batch(10, 2)
    with simulated():
        group = Simulated([torch.rand(10, 9), features, y[:, None]], [4, 6], 1)
        with pytest.raises(InputError, match="each of the 10 samples of all ranks.* got 9"):
            isometry_penalty(
                None,
                features[4:],
                y[4:],
                input_distances=group.gathered.tensors[0][4:],
                process_group=group,
            )


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
    with pytest.raises(RankError, match="got 'labels torch.float32, 1 a sample' on rank 0 and"):
        check_same([a, a, b])
    with pytest.raises(RankError, match="on rank 1"):
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
    bounds = [0, *accumulate(SIZES)]
    return slice(bounds[rank], bounds[rank + 1])


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


def test_every_rank_holds_the_queue_of_one_process(ddp_runs: list[dict[str, Any]]) -> None:
    model, (x, y) = net()[:4], data()
    iso = IsometryRegularizer(model, LAYERS, queue=30)
    for _ in range(2):
        penalty_gradients(model, iso, x, y)
    expected = iso.state_dict()["queue"]
    for found in ddp_runs:
        torch.testing.assert_close(found["held"], expected)


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
    ]:
        try:
            isometry_penalty(x, [x], labels, process_group="world", **options)
            said.append("")
        except RankError as problem:
            said.append(str(problem))
    return said


def test_ranks_that_disagree_all_raise_and_can_go_on() -> None:
    first, second = run_ranks(disagreeing, 2)
    assert first == second
    soft, missing, scale, wide, same = first
    assert "isometry_penalty: every rank must" in soft
    assert (
        f"got 'labels torch.int64, 1 a sample' on rank 0 and 'labels torch.float32, {MANY}" in soft
    )
    assert "'labels given' on rank 0 and 'labels None' on rank 1" in missing
    assert "'scale 1.0' on rank 0 and 'scale 2.0' on rank 1" in scale
    assert "float32" in wide
    assert "float64" in wide
    assert same == ""


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
