"""How well an encoder's distances stand in for those of new objects, and what both cost."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.encoders.data import Objects
from benchmarks.timing import interleaved
from isoreg.diagnostics import distortion_of

Encode = Callable[[Tensor], Tensor]
NEAREST, AGAIN = 10, 100
_KNOWN, _ASKED = 1_000, 50


def agreement(exact: Tensor, learned: Tensor) -> dict[str, float]:
    """How well one (n, n) table of distances follows another, over the pairs of different objects.

    Returns:
        The root mean squared difference as a share of the mean distance, Pearson's r, and the share
        of the ten nearest by ``learned`` that are among the ten nearest by ``exact``.
    """
    pairs = torch.ones_like(exact, dtype=torch.bool).triu(1)
    gaps = exact[pairs].double() - learned[pairs].double()
    oneself = torch.eye(len(exact), dtype=torch.bool)
    tables = (table.masked_fill(oneself, torch.inf) for table in (exact, learned))
    return {
        "RMSE": float(gaps.detach().square().mean().sqrt() / exact[pairs].double().mean()),
        "r": distortion_of(exact[pairs].double(), learned[pairs].double()).correlation,
        "overlap": overlap(*tables, among=NEAREST),
    }


def overlap(exact: Tensor, learned: Tensor, *, among: int) -> float:
    """Share of the ten nearest among the first ``among`` by ``learned``; each row is a query.

    With equal distances the ten are not unique: every object as near as the tenth counts as one.
    """
    nearest = min(NEAREST, exact.shape[1])
    tenth = exact.kthvalue(nearest, 1).values
    few = learned.topk(min(among, learned.shape[1]), largest=False).indices
    hits = (exact.gather(1, few) <= tenth[:, None] * (1 + 1e-6)).sum(1)
    return hits.clamp_max(nearest).float().mean().item() / nearest


def new_objects(encode: Encode, objects: Objects, places: Tensor) -> dict[str, float]:
    """`agreement` of the encoder's distances of these objects, on which it was not trained."""
    points = encode(objects.x[places])
    return agreement(objects.distances(places, places), torch.cdist(points, points))


def search(encode: Encode, objects: Objects) -> dict[str, float]:
    """Share of each test object's ten nearest training objects that a search on points finds."""
    points, queries = encode(objects.x[objects.train]), encode(objects.x[objects.test])
    exact = objects.distances(objects.test, objects.train)
    candidates = index_of(points)(queries, AGAIN)
    # a candidate's rank serves as its distance; other objects are infinitely far
    ranks = torch.full_like(exact, torch.inf)
    ranks.scatter_(
        1, candidates, torch.arange(candidates.shape[1]).float().expand(candidates.shape)
    )
    return {f"recall {few}": overlap(exact, ranks, among=few) for few in (NEAREST, AGAIN)}


def index_of(points: Tensor) -> Callable[[Tensor, int], Tensor]:
    """A search: it takes queries and k, and gives the indices of the k nearest points in order."""
    if importlib.util.find_spec("faiss"):
        import faiss

        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points.numpy())
        return lambda queries, k: torch.from_numpy(
            index.search(queries.numpy(), min(k, len(points)))[1]
        )
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(algorithm="brute").fit(points.numpy())
    return lambda queries, k: torch.from_numpy(
        fitted.kneighbors(queries.numpy(), min(k, len(points)), return_distance=False)
    )


def costs(encode: Encode, objects: Objects, *, seconds: float = 1.0) -> dict[str, float | str]:
    """Seconds that one new object takes: its distances to known objects, and its nearest ones.

    Distances are computed by the distance itself, and by the encoder, which has the points of the
    known objects. The nearest are found by a search on points, whose hundred candidates are then
    put in order by the distance itself.
    """
    known, queries = objects.train[:_KNOWN], objects.test[:_ASKED]
    points = encode(objects.x[known])
    find = index_of(points)

    def one_by_one(answer: Callable[[Tensor], object]) -> Callable[[], object]:
        return lambda: [answer(place[None]) for place in queries]

    def looked_up(place: Tensor) -> Tensor:
        candidates = known[find(encode(objects.x[place]), AGAIN)[0]]
        return objects.compute(place, candidates).topk(min(NEAREST, len(candidates))).values

    calls = {
        "the distance": one_by_one(lambda place: objects.compute(place, known)),
        "one pass": one_by_one(lambda place: torch.cdist(encode(objects.x[place]), points)),
        "passes together": lambda: torch.cdist(encode(objects.x[queries]), points),
        "search": one_by_one(looked_up),
    }
    measured = interleaved(calls, seconds=seconds)
    by = "FAISS" if importlib.util.find_spec("faiss") else "scikit-learn"
    return {name: value / len(queries) for name, value in measured.items()} | {"by": by}
