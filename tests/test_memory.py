"""The queue of past samples: what is minimised with it, and that it can be saved."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import FeatureQueue, InputError, IsometryRegularizer, isometry_penalty, memory
from isoreg._pairs import engine

pytestmark = pytest.mark.usefixtures("way")


def samples(n: int, seed: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, features = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (4, 3))
    return x, features, torch.randint(classes, (n,), generator=generator)


def filled(size: int, batches: list[int]) -> tuple[FeatureQueue, list[Tensor]]:
    """A queue, and all that was put into it in the order of time."""
    queue, past = FeatureQueue(size), [samples(n, seed) for seed, n in enumerate(batches)]
    for x, features, y in past:
        isometry_penalty(x, features, y, queue=queue)
    return queue, [torch.cat(part) for part in zip(*past, strict=True)]


def objective(
    now: tuple[Tensor, Tensor, Tensor],
    past: list[Tensor],
    scale: float,
    reduction: str,
    twice: int = 2,
) -> Tensor:
    """F of the docstring, one pair at a time; with ``twice=1`` the value that is returned."""
    (x, features, y), (old_x, old_features, old_y) = now, past
    n, total = len(y), features.sum() * 0
    every = torch.cat([x, old_x]), torch.cat([features, old_features.detach()])
    labels, pairs = torch.cat([y, old_y]), 0
    for i in range(n):
        for j in range(len(labels)):
            if i != j and labels[i] == labels[j]:
                gap = (every[0][i] - every[0][j]).norm()
                gap = gap - scale * (every[1][i] - every[1][j]).norm()
                total = total + gap**2 * (1 if j < n else twice)
                pairs += 1
    return total / max(1, n * len(labels) if reduction == "batch" else pairs)


@given(
    batches=st.lists(st.integers(0, 6), max_size=4),
    n=st.integers(0, 7),
    size=st.integers(1, 20),
    scale=st.sampled_from([1.0, 0.4]),
    reduction=st.sampled_from(["batch", "pairs"]),
)
def test_value_and_gradient_are_those_of_the_documented_formula(
    batches: list[int], n: int, size: int, scale: float, reduction: str
) -> None:
    queue, past = filled(size, batches) if batches else (FeatureQueue(size), list(samples(0, 0)))
    x, features, y = samples(n, 99)
    kept = [part[-size:] for part in past]
    assert len(queue) == len(kept[0])
    leaf = features.clone().requires_grad_()
    value = isometry_penalty(x, leaf, y, queue=queue, scale=scale, reduction=reduction)
    expected = objective((x, leaf, y), kept, scale, reduction)
    torch.testing.assert_close(value, objective((x, leaf, y), kept, scale, reduction, twice=1))
    found = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaf))


@pytest.mark.usefixtures("way")
def test_classes_of_more_members_than_a_tile_and_of_unequal_size_keep_their_formula() -> None:
    x, features, _ = samples(1028, 0)
    y = (torch.arange(1028) >= 513).long()
    queue, now = FeatureQueue(2000), samples(6, 1)
    isometry_penalty(x, features, y, queue=queue)
    now = now[0], now[1], torch.tensor([0, 0, 0, 1, 1, 1])
    leaf = now[1].clone().requires_grad_()
    value = isometry_penalty(now[0], leaf, now[2], queue=queue)
    past = [x, features, y]
    expected = objective((now[0], leaf, now[2]), past, 1.0, "batch")
    torch.testing.assert_close(value, objective(now, past, 1.0, "batch", twice=1))
    found = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaf))


def test_an_empty_queue_changes_nothing_and_an_old_batch_is_forgotten() -> None:
    x, features, y = samples(20, 1)
    queue = FeatureQueue(20)
    plain = isometry_penalty(x, features, y)
    torch.testing.assert_close(isometry_penalty(x, features, y, queue=queue), plain)
    for seed in (2, 3):
        isometry_penalty(*samples(20, seed), queue=queue)
    again = FeatureQueue(20)
    isometry_penalty(*samples(20, 3), queue=again)
    found, expected = (isometry_penalty(x, features, y, queue=q) for q in (queue, again))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    queue.clear()
    assert len(queue) == 0
    torch.testing.assert_close(isometry_penalty(x, features, y, queue=queue), plain)


@pytest.mark.parametrize("kind", ["integers", "soft", "none"])
@pytest.mark.parametrize("looks", [True, False])
def test_a_step_that_overflowed_spoils_no_later_one(
    kind: str, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "can_look", lambda _: looks)
    (x, features, y), queue, clean = samples(6, 1), FeatureQueue(10), FeatureQueue(10)
    kept = torch.tensor([0, 2, 3, 5])
    bad = features.clone()
    bad[1, 2], bad[4, 0] = torch.inf, torch.nan
    labels = {"integers": y, "soft": F.one_hot(y, 3).double(), "none": None}[kind]
    assert not isometry_penalty(x, bad, labels, queue=queue).isfinite()
    sound = None if labels is None else labels[kept]
    isometry_penalty(x[kept], features[kept], sound, queue=clean)
    assert len(queue) == (4 if looks else 6), "not looked at, they stay and pair with nobody"
    later = *samples(6, 2)[:2], labels
    values = [isometry_penalty(*later, queue=q, reduction="pairs") for q in (queue, clean)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("of", [0, 1], ids=["inputs", "features"])
@pytest.mark.parametrize("label", [0, 7, -100], ids=["with pairs", "alone", "ignored"])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
@pytest.mark.parametrize("kind", ["integers", "soft", "weighed"])
def test_a_sample_that_is_not_finite_is_not_kept_whatever_its_label(
    of: int, label: int, bad: float, kind: str
) -> None:
    for n in (5, 150):
        queue, (x, features, y) = FeatureQueue(500), samples(n, 1)
        (x, features)[of][2, 1], y[2] = bad, label
        labels = F.one_hot(y.clamp_min(0), 8).double() if kind == "soft" else y
        weights = torch.zeros(n, n) if kind == "weighed" else None
        for _ in range(2):
            isometry_penalty(x, features, labels, queue=queue, pair_weights=weights)
        assert len(queue) == 2 * (n - 1)
        assert all(rows.isfinite().all() for rows in queue.state_dict()["rows"])


def test_an_error_in_the_penalty_leaves_the_queue_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (x, features, y), queue = samples(6, 1), FeatureQueue(10)
    isometry_penalty(x, features, y, queue=queue)
    before = queue.state_dict()
    monkeypatch.setattr(engine, "compare", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        isometry_penalty(*samples(6, 2), queue=queue)
    torch.testing.assert_close(queue.state_dict()["rows"], before["rows"], rtol=0, atol=0)


def test_a_queue_works_without_labels_and_for_several_layers() -> None:
    x, features, _ = samples(6, 1)
    queue = FeatureQueue(4)
    isometry_penalty(x, [features, x], None, queue=queue)
    old = [part[2:] for part in (x, features, torch.zeros(6))]
    now = x + 1, features * 2, torch.zeros(6)
    found = isometry_penalty(now[0], [now[1], x], None, queue=queue)
    torch.testing.assert_close(found[0], objective(now, old, 1.0, "batch", twice=1))


def train(
    model: nn.Module, iso: IsometryRegularizer, steps: range, check: dict[int, Tensor]
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        x = torch.rand(8, 5, generator=torch.Generator().manual_seed(step))
        y = torch.arange(8) % 5
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + iso(y)
        loss.backward()
        optimizer.step()
        check[step] = loss.detach()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))


def test_training_goes_on_from_a_saved_state_as_if_it_had_not_stopped() -> None:
    model, whole, resumed = net(), {}, {}
    iso = IsometryRegularizer(model, queue=30)
    train(model, iso, range(8), whole)
    model = net()
    iso = IsometryRegularizer(model, queue=30)
    train(model, iso, range(5), resumed)
    state = {"model": copy.deepcopy(model.state_dict()), "iso": iso.state_dict()}
    train(model, iso, range(5, 7), {})  # the state is a copy
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file)
    model = net()
    model.load_state_dict(state["model"])
    iso = IsometryRegularizer(model, queue=30)
    iso.load_state_dict(state["iso"])
    train(model, iso, range(5, 8), resumed)
    assert whole == resumed


def test_a_size_of_numpy_is_saved_as_a_number_that_torch_loads() -> None:
    file = io.BytesIO()
    torch.save(FeatureQueue(np.int64(3)).state_dict(), file)
    file.seek(0)
    FeatureQueue(3).load_state_dict(torch.load(file, weights_only=True))


def test_without_a_queue_there_is_nothing_to_save() -> None:
    model = net()
    iso = IsometryRegularizer(model)
    assert "queue" not in iso.state_dict()
    iso.load_state_dict(iso.state_dict())
    other = IsometryRegularizer(model, queue=3)
    with pytest.raises(
        InputError, match=r"checkpoint was made without a queue, this regularizer with\."
    ):
        other.load_state_dict(iso.state_dict())
    with pytest.raises(InputError, match=r"made with a queue, this regularizer without\."):
        iso.load_state_dict(other.state_dict())
    with pytest.raises(
        InputError, match="load_state_dict: the saved queue .* of 4 samples, got one of 3"
    ):
        IsometryRegularizer(model, queue=4).load_state_dict(other.state_dict())


class Either(nn.Module):
    """Two layers of one width, which run in either order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)
        self.first = True

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.a(x), self.b(x)) if self.first else (self.b(x), self.a(x))[::-1]
        return self.head(a + b)


def test_layers_that_run_in_another_order_meet_their_own_past() -> None:
    model, queue = Either(), FeatureQueue(20)
    iso = IsometryRegularizer(model, ["b", "a"], queue=20)
    for step in range(3):
        model.first, x, y = step != 1, torch.randn(8, 6), torch.randint(2, (8,))
        model(x)
        expected = isometry_penalty(x, [model.b(x), model.a(x)], y, queue=queue)
        torch.testing.assert_close(iso(y), expected.sum())
        assert list(iso.penalties) == ["b", "a"]


def after_a_step(model: nn.Module, layers: Any) -> IsometryRegularizer:
    iso = IsometryRegularizer(model, layers, queue=20)
    model(torch.randn(8, 6))
    iso(torch.arange(8) % 2)
    return iso


@pytest.mark.parametrize("late", [False, True], ids=["known at loading", "known by a pass"])
def test_a_saved_queue_of_other_layers_is_refused(late: bool) -> None:
    model = Either()
    state = after_a_step(model, "a").state_dict()
    other = IsometryRegularizer(model, None if late else "b", queue=20)
    text = r"must hold features of the layers \['{}'\], got those of \[?'a'"
    with pytest.raises(InputError, match=text.format("head" if late else "b")):
        other.load_state_dict(state)
        assert late, "the layers are known, so it is refused at once"
        model.head(torch.randn(8, 4))
        model(torch.randn(8, 6))
        other(torch.arange(8) % 2)


def test_a_queue_of_unknown_layers_is_refused_by_the_advice_of_the_error() -> None:
    model = Either()
    state, iso = after_a_step(model, "a").state_dict(), IsometryRegularizer(model, "b", queue=20)
    with pytest.raises(
        InputError, match=r"load state \| \{'queue': iso\.state_dict\(\)\['queue'\]\}\."
    ):
        iso.load_state_dict(state)
    iso.load_state_dict(state | {"queue": iso.state_dict()["queue"]})
    model(torch.randn(8, 6))
    iso(None)


def test_a_saved_queue_meets_its_own_layers_whatever_their_order() -> None:
    model = Either()
    saved = after_a_step(model, ["a", "b"])
    swapped = IsometryRegularizer(model, ["b", "a"], queue=20)
    swapped.load_state_dict(saved.state_dict())
    x, y = torch.randn(8, 6), torch.arange(8) % 2
    for iso in (saved, swapped):
        model(x)
        iso(y)
    for name, penalty in saved.penalties.items():
        torch.testing.assert_close(swapped.penalties[name], penalty)
    assert swapped.state_dict()["queue"]["layers"] == ["b", "a"]


def test_a_queue_that_was_saved_without_names_is_loaded() -> None:
    model = Either()
    saved = after_a_step(model, ["a", "b"])
    state = saved.state_dict()
    del state["queue"]["layers"]
    other = IsometryRegularizer(model, ["a", "b"], queue=20)
    other.load_state_dict(state)
    x = torch.randn(8, 6)
    for iso in (saved, other):
        model(x)
        iso(torch.arange(8) % 2)
    torch.testing.assert_close(other.penalties, saved.penalties)


def test_a_queue_of_given_distances_holds_no_inputs_and_is_loaded() -> None:
    model, (x, y) = Either(), (torch.randn(8, 6), torch.arange(8) % 2)
    saved, other = (IsometryRegularizer(model, ["a", "b"], queue=20) for _ in range(2))
    model(x)
    saved(y, distances=torch.cdist(x, x))
    other.load_state_dict(saved.state_dict())
    for iso in (saved, other):
        model(x)
        iso(y, distances=torch.cdist(x, torch.cat([x, x])))
    torch.testing.assert_close(other.penalties, saved.penalties)


def test_a_queue_of_a_wrapped_model_is_loaded_for_the_model_alone() -> None:
    model = Either()
    state = after_a_step(torch.compile(model, backend="eager"), "a").state_dict()
    assert state["queue"]["layers"] == ["a"]
    iso = IsometryRegularizer(model, "a", queue=20)
    iso.load_state_dict(state)
    model(torch.randn(8, 6))
    iso(torch.arange(8) % 2)
    assert len(iso.state_dict()["queue"]["rows"][0]) == 16


def test_a_watched_module_that_moves_starts_with_an_empty_queue() -> None:
    model = Either()
    iso = after_a_step(model, "a")
    model.b, model.a = model.a, model.b
    model(torch.randn(8, 6))
    iso(torch.arange(8) % 2)
    queue = iso.state_dict()["queue"]
    assert queue["layers"] == iso.layers == ["b"]
    assert len(queue["rows"][0]) == 8


def test_finite_rows_are_kept_however_large_they_are() -> None:
    queue, large = FeatureQueue(9), torch.full((3, 6), 1e38)
    large[1] *= -1
    large[2, 3] = torch.inf
    isometry_penalty(large, torch.rand(3, 6), torch.tensor([0, 1, 2]), queue=queue)
    rows = queue.state_dict()["rows"]
    assert torch.equal(rows[0], large[:2]), "only what is not finite is dropped"


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "many"])
def test_a_queue_of_no_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="IsometryRegularizer: queue must be an integer of"):
        IsometryRegularizer(net(), queue=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["batch", "pairs"])
@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("kind", ["distances", "weights", "both"])
def test_pairs_with_past_samples_count_where_their_distance_and_weight_are_given(
    kind: str, said: bool, reduction: str
) -> None:
    queue, past = filled(7, [4, 5])
    x, features, y = samples(6, 9)
    old_x, old_features, old_y = (part[-7:] for part in past)
    every = torch.cat([x, old_x])
    table, share = torch.cdist(x, every), torch.rand(6, 13, dtype=torch.float64)
    share[:, :6] = share[:, :6] + share[:, :6].T
    table[0, 3] = table[3, 0] = torch.nan
    if kind != "both":
        table, share = (table, None) if kind == "distances" else (None, share)  # type: ignore[assignment]
    if kind != "weights":  # a queue of features alone
        queue = FeatureQueue(7)
        for seed, n in enumerate([4, 5]):
            _, phi, labels = samples(n, seed)
            isometry_penalty(
                None, phi, labels, input_distances=torch.rand(1).double().expand(n, n), queue=queue
            )
    leaf, labels = features.clone().requires_grad_(), torch.cat([y, old_y])
    width = 13 if said else 6
    value = isometry_penalty(
        x if table is None else None,
        leaf,
        y,
        input_distances=None if table is None else table[:, :width],
        pair_weights=None if share is None else share[:, :width],
        queue=queue,
        reduction=reduction,
    )
    phi = torch.cat([leaf, old_features])
    distances = (phi[:6, None] - phi).square().sum(-1).add(1e-300).sqrt()
    targets = torch.cdist(x, every) if table is None else table
    weights = (y[:, None] == labels).double() * (1 if share is None else share)
    weights[torch.arange(6), torch.arange(6)] = 0
    weights[:, width:] = 0
    weights[targets.isnan()] = 0
    terms = weights * (targets.nan_to_num() - distances).square()
    total = 6 * 13 if reduction == "batch" else weights.sum()
    torch.testing.assert_close(value, terms.sum() / total)
    twice = torch.ones(13).double()
    twice[6:] = 2
    found = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, torch.autograd.grad((terms * twice).sum() / total, leaf))


def test_a_queue_compares_soft_labels_too() -> None:
    queue, hard = FeatureQueue(9), FeatureQueue(9)
    for seed in range(4):
        x, features, y = samples(5, seed)
        one_hot = F.one_hot(y, 3).double()
        found = isometry_penalty(x, features, one_hot, queue=queue)
        torch.testing.assert_close(found, isometry_penalty(x, features, y, queue=hard))
    with pytest.raises(InputError, match="of 3 classes in the queue and .* with labels now"):
        isometry_penalty(x, features, y, queue=queue)


def test_where_mixup_ends_one_hot_labels_go_on_with_the_queue() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    iso = IsometryRegularizer(model, queue=20)
    x, _, y = samples(8, 0)
    soft = F.one_hot(y, 3).double()
    model(x)
    iso(0.5 * soft + 0.5 * soft.flip(0))
    model(x)
    with pytest.raises(InputError, match=r"soft, as those of Mixup, give F.one_hot\(labels"):
        iso(y)
    model(x)
    penalty = iso(soft)
    features = model[:2](x)
    every = torch.cat([0.5 * soft + 0.5 * soft.flip(0), soft])
    gaps = (torch.cdist(x, x) - torch.cdist(features, features)).square().repeat(1, 2)
    torch.testing.assert_close(penalty, (gaps * (soft @ every.T)).mean())


def test_tables_of_another_width_are_refused_with_the_widths_that_fit() -> None:
    queue, _ = filled(4, [6])
    x, features, y = samples(6, 1)
    with pytest.raises(
        InputError, match=r"each of the 6 samples.*\(or 10, .*oldest first\).*got 8"
    ):
        isometry_penalty(x, features, y, queue=queue, pair_weights=torch.ones(6, 8))


def test_what_a_queue_cannot_do_is_refused() -> None:
    x, features, y = samples(6, 1)
    queue = FeatureQueue(4)
    for told, options in (
        ("scale fit", {"scale": "fit"}),
        ("scale a tensor", {"scale": torch.tensor(2.0)}),
        ("distance cosine", {"distance": "cosine"}),
        ("distance euclidean; input_distance cosine", {"input_distance": "cosine"}),
    ):
        with pytest.raises(InputError, match=f"isometry_penalty: queue needs the Euc.* {told};"):
            isometry_penalty(x, features, y, queue=queue, **options)
        with pytest.raises(InputError, match=f"IsometryRegularizer: queue needs the Euc.* {told};"):
            IsometryRegularizer(nn.Sequential(nn.Linear(4, 3)), "0", queue=4, **options)
    with pytest.raises(InputError, match="integer labels must be 0 or more, .* got -1"):
        isometry_penalty(x, features, y - 1, queue=queue)
    assert len(queue) == 0
    isometry_penalty(x, features, y, queue=queue)
    other = r"widths \[4, 3\] with labels in the queue and widths .* sequences of one length"
    with pytest.raises(InputError, match=other):
        isometry_penalty(x, x, y, queue=queue)
    with pytest.raises(InputError, match="without labels now"):
        isometry_penalty(x, features, None, queue=queue)
    soft = FeatureQueue(4)
    isometry_penalty(x, features, torch.eye(5)[y], queue=soft)
    with pytest.raises(InputError, match="soft labels of 5 classes in the queue .* 6 classes now"):
        isometry_penalty(x, features, torch.eye(6)[y], queue=soft)
    with pytest.raises(InputError, match=r"queue must be an isoreg.FeatureQueue or None, got int"):
        isometry_penalty(x, features, y, queue=4)  # type: ignore[arg-type]


def test_a_sum_that_half_precision_cannot_hold_is_no_reason_to_forget_a_sample() -> None:
    x, phi = torch.rand(6, 3), torch.full((6, 900), 100.0, dtype=torch.float16)
    queue = FeatureQueue(8)
    for _ in range(2):
        assert isometry_penalty(x, phi, queue=queue).isfinite()
    assert len(queue) == 8


def test_larger_batches_and_moves_within_the_memory_keep_the_order_of_what_is_held() -> None:
    queue, seen = FeatureQueue(5), torch.empty(0, 2, dtype=torch.float64)
    for n in (3, 1, 4, 1, 5, 9, 2, 6, 1, 1, 1, 12, 3, 0, 2, 7, 1, 1, 1, 1, 1, 1, 1):
        batch = torch.rand(n, 2, dtype=torch.float32 if n in {2, 12} else torch.float64)
        (past,), labels = queue.before([batch], None)
        assert torch.equal(past, seen[-5:])
        assert torch.equal(labels, torch.zeros(len(past) + n, dtype=torch.int64))
        queue.keep([batch], None, finite=n % 2 == 0)
        seen = torch.cat([seen, batch])
    state, other = queue.state_dict(), FeatureQueue(5)
    other.keep([torch.rand(7, 2)], None, finite=True)
    other.load_state_dict(state)
    state["rows"][0].zero_()  # neither queue's own
    for held in (queue, other):
        assert torch.equal(held.before([batch], None)[0][0], seen[-5:])
    other.load_state_dict(FeatureQueue(5).state_dict())
    assert len(other) == 0
    with pytest.raises(InputError, match="must be of 4 samples, got one of 5"):
        FeatureQueue(4).load_state_dict(state)


def test_a_batch_of_more_digits_widens_what_the_queue_holds() -> None:
    first, second, (x, features, y) = samples(5, 0), samples(5, 1), samples(6, 2)
    queue, exact = FeatureQueue(40), FeatureQueue(40)
    rounded = first[0].float(), first[1].float(), first[2]
    isometry_penalty(*rounded, queue=queue)
    isometry_penalty(rounded[0].double(), rounded[1].double(), first[2], queue=exact)
    values = []
    for held in (queue, exact):
        isometry_penalty(*second, queue=held)
        values.append(isometry_penalty(x, features, y, queue=held))
    torch.testing.assert_close(*values, rtol=1e-14, atol=0)


def test_a_queue_that_was_filled_in_inference_mode_goes_on_in_training() -> None:
    (x, features, y), past = samples(6, 1), samples(5, 0)
    queues = FeatureQueue(40), FeatureQueue(40), FeatureQueue(40)
    with torch.inference_mode():
        isometry_penalty(*past, queue=queues[0])
        queues[1].load_state_dict(queues[0].state_dict())
    isometry_penalty(*past, queue=queues[2])
    leaf = features.clone().requires_grad_()
    isometry_penalty(x[:0], features[:0], y[:0], queue=queues[1])
    values = [isometry_penalty(x, leaf, y, queue=queue) for queue in queues]
    torch.testing.assert_close(values[:2], [values[2]] * 2)
    sum(values).backward()


@pytest.mark.parametrize("key", ["size", "kind", "rows"])
def test_a_state_without_all_of_its_parts_is_refused(key: str) -> None:
    state = FeatureQueue(3).state_dict()
    del state[key]
    with pytest.raises(InputError, match="the saved queue must be of this version of isoreg, got"):
        FeatureQueue(3).load_state_dict(state)


def spoiled(**parts: object) -> dict[str, Any]:
    """The state of a queue of 6 that holds 4 samples, with other parts."""
    queue = FeatureQueue(6)
    isometry_penalty(*samples(4, 0), queue=queue)
    return queue.state_dict() | parts


@pytest.mark.parametrize(
    "state",
    [
        None,
        [1],
        {},
        spoiled(rows=None),
        spoiled(rows=[]),
        spoiled(kind=""),
        spoiled(kind=3),
        spoiled(rows=spoiled()["rows"][:2]),
        spoiled(rows=[x[:, None] for x in spoiled()["rows"]]),
        spoiled(rows=[x.numpy() for x in spoiled()["rows"]]),
        spoiled(rows=[x[: 4 - n] for n, x in enumerate(spoiled()["rows"])]),
        spoiled(layers=3),
        spoiled(layers=[3]),
        spoiled(layers=["a", "b", "c"]),
        spoiled(rows=[x[[0] * 7] for x in spoiled()["rows"]]),
    ],
)
def test_a_damaged_state_is_refused_and_the_queue_stays_as_it_was(state: Any) -> None:
    queue = FeatureQueue(6)
    isometry_penalty(*samples(5, 1), queue=queue)
    before = queue.state_dict()
    with pytest.raises(InputError, match=r"the saved queue must .*Start with an empty queue"):
        queue.load_state_dict(state)
    torch.testing.assert_close(queue.state_dict()["rows"], before["rows"])
    queue.load_state_dict(spoiled())
    assert len(queue) == 4


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_queue_and_the_queue_go_their_own_ways(
    duplicate: Callable[[FeatureQueue], FeatureQueue],
) -> None:
    queue = FeatureQueue(20)
    isometry_penalty(*samples(5, 0), queue=queue)
    other = duplicate(queue)
    isometry_penalty(*samples(5, 1), queue=queue)
    held = queue.state_dict()["rows"]
    isometry_penalty(*samples(5, 2), queue=other)
    torch.testing.assert_close(queue.state_dict()["rows"], held, rtol=0, atol=0)
    assert not torch.equal(other.state_dict()["rows"][0], held[0])
