"""torch's default dtype and device are the user's: they decide nothing of ours."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isoreg import IsometryRegularizer
from isoreg.datasets import entangled_rings, torus
from isoreg.embedding import IsometricEmbedding
from isoreg.integrations.loading import PairwiseCollate, each_pair
from isoreg.references import manifold, patches
from isoreg.robustness.pgd import margin, pgd

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.rand(40, 1, 12, 12, generator=DRAWS)
ROWS = torch.rand(60, 4, generator=DRAWS)
CLASSES, TWICE = torch.arange(60) % 7, torch.arange(60) // 7 % 50
NETWORK = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


@contextmanager
def default(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def a_map(**options: Any) -> Tensor:
    embedding = IsometricEmbedding(max_epochs=3, random_state=0, **options)
    return torch.from_numpy(embedding.fit_transform(ROWS.numpy(), np.arange(60) % 3))


def an_attack() -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 3, dtype=torch.float32, bias=False))
    nn.init.eye_(model[1].weight)
    y = torch.zeros(40, dtype=torch.long)
    return pgd(model, IMAGES, y, eps=0.5, norm="L2", steps=2, loss=margin)[0]


def an_automatic_weight() -> Tensor:
    model = copy.deepcopy(NETWORK)
    with IsometryRegularizer(model, beta="auto") as iso:
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(ROWS), torch.arange(60) % 2)
            (loss + iso(torch.arange(60) % 2)).backward()
        return torch.tensor(list(iso.log_dict().values()), dtype=torch.float64)


MADE: dict[str, Callable[[], Tensor]] = {
    "rings": lambda: entangled_rings(30, noise=0.1)[0],
    "torus": lambda: torus(30)[0],
    "patches": lambda: patches(IMAGES, size=5, filters=8, grid=2)(IMAGES),
    "manifold": lambda: manifold(ROWS, neighbors=8, dimensions=3)(ROWS),
    "pairs": lambda: each_pair(lambda a, b: abs(a - b))([0.1, 0.3, 0.7]),
    "map": a_map,
    "map by a network": lambda: a_map(network=NETWORK),
    "attack": an_attack,
    "automatic weight": an_automatic_weight,
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_what_is_made_is_the_same_under_any_default(name: str, kind: torch.dtype) -> None:
    expected = MADE[name]()
    with default(kind):
        found = MADE[name]()
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def training(**options: Any) -> list[float]:
    """Penalties of steps on the processor, with all that a regularizer keeps between them."""
    model, found = copy.deepcopy(NETWORK), []
    labels = None if options.pop("one_class", False) else CLASSES
    with IsometryRegularizer(model, **options) as iso:
        for _ in range(3):
            (model(ROWS[TWICE]).square().mean() + iso(labels)).backward()
            found += [*iso.log_dict().values(), float(model[0].weight.grad.norm())]
            iso.load_state_dict(iso.state_dict())
            found += [float(layer.gradient) for layer in iso.report().layers.values()]
    return found


@pytest.mark.parametrize("backend", ["", "torch"])
@pytest.mark.parametrize(
    "options",
    [
        {"beta": "auto", "queue": 30},
        {"control": True},
        {"one_class": True, "scale": "fit"},
        {"distance": "cosine"},
    ],
)
def test_a_default_device_is_not_that_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, backend: str, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("ISOREG_BACKEND", backend)
    expected = training(**options)
    with torch.device("meta"):  # stands for any that the model is not on
        found = training(**options)
    torch.testing.assert_close(found, expected)


def test_distances_are_made_where_workers_can_make_them() -> None:
    collate = PairwiseCollate(each_pair(lambda a, b: abs(a - b)), collate=list)
    with torch.device("meta"):
        assert collate([0.1, 0.3, 0.7])[1].device.type == "cpu"
        assert PairwiseCollate(lambda _: [[0.0]], collate=list)([0.1])[1].device.type == "cpu"


def test_a_saved_map_has_its_unit_wherever_it_is_loaded() -> None:
    embedding = IsometricEmbedding(max_epochs=3, random_state=0).fit(ROWS.numpy())
    saved, unit = pickle.dumps(embedding), float(embedding.network_.unit)
    with default(torch.bfloat16):
        assert float(pickle.loads(saved).network_.unit) == unit
