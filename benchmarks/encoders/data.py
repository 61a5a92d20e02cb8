"""Objects whose distance is expensive: words, series and digits, with the packages they need."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.study import Skip
from isoreg import datasets

Ink = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Block = Callable[[Tensor, Tensor], Tensor]
"""A function from the indices of a and of b objects to their (a, b) distances."""

_LETTERS = 12


@dataclass(frozen=True)
class Objects:
    """Objects with their distance, and who is trained and measured on which of them.

    Attributes:
        x: (n, ...) inputs of a network.
        compute: Computes the distances of objects, without the table.
        train: Indices of the objects that every method is trained on.
        more: Indices of further objects, for methods that need no table of all distances.
        validation: Indices of the objects that settings are chosen on.
        test: Indices of the objects that figures are measured on.
        table: (n, n) distances, where one is too slow to be computed in each step.
        between: Computes the distances of new inputs: (b, b) of b of them, or (a, b) of a and b;
            None: such inputs have no distance.
        disturb: Makes inputs with noise from inputs and a strength; None: it cannot be done.
    """

    x: Tensor
    compute: Block
    train: Tensor
    more: Tensor
    validation: Tensor
    test: Tensor
    table: Tensor | None = None
    between: Callable[..., Tensor] | None = None
    disturb: Callable[[Tensor, float], Tensor] | None = None

    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(a, b) distances of objects by index, from the table if there is one."""
        if self.table is None:
            return self.compute(rows, columns)
        return self.table[rows][:, columns]


def words(folder: Path, most: int) -> Objects:
    """English words of 4 to 12 letters with Levenshtein's distance; inputs are (12, 27) one-hot."""
    del folder
    listed = _needed("wordfreq").top_n_list("en", 20_000)
    _needed("rapidfuzz")
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    plain = [w for w in listed if w.isascii() and w.isalpha() and 4 <= len(w) <= _LETTERS]
    order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0))
    chosen = [plain[place] for place in order[:most].tolist()]
    x = torch.stack([spelt(word) for word in chosen])

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        first, second = ([chosen[place] for place in places.tolist()] for places in (rows, columns))
        table = cdist(first, second, scorer=Levenshtein.distance, dtype=np.uint8)
        return torch.from_numpy(table).float()

    sizes = [size * len(chosen) // 17_000 for size in (1_000, 1_000, 4_000)]
    return _split(x, compute, sizes)


def spelt(word: str) -> Tensor:
    """(12, 27) one-hot code of a word, a row for each place; column 0 means no letter there."""
    letters = [ord(letter) - ord("a") + 1 for letter in word.lower()]
    places = torch.tensor(letters + [0] * (_LETTERS - len(letters)))
    return torch.nn.functional.one_hot(places, 27).float()


def series(folder: Path, most: int) -> Objects:
    """ItalyPowerDemand, 24 hours each; distance: the root of dynamic time warping's squared one."""
    _needed("aeon")
    from aeon.datasets import load_italy_power_demand
    from aeon.distances import dtw_pairwise_distance

    raw = load_italy_power_demand()[0]
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[:most]
    x = torch.from_numpy(raw).float().flatten(1)[order]

    def warped(*inputs: Tensor) -> Tensor:
        table = dtw_pairwise_distance(*(part.double().numpy()[:, None] for part in inputs))
        return torch.from_numpy(table).sqrt().float()

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        return warped(x[rows], x[columns])

    def noisy(inputs: Tensor, noise: float) -> Tensor:
        return inputs + noise * torch.randn_like(inputs)

    objects = _with_table(folder / f"dtw-{len(x)}.pt", x, compute)
    return replace(objects, between=warped, disturb=noisy)


def digits(folder: Path, most: int) -> Objects:
    """scikit-learn's digits with Wasserstein's distance: how many pixels ink moves on average."""
    transport = _needed("ot")
    parts = [datasets.digits(split)[0] for split in ("test", "validation", "train")]
    images = torch.cat(parts).flatten(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    x = images[order]
    places = np.argwhere(np.ones((8, 8))).astype(float)
    ground = transport.dist(places, places, metric="euclidean")

    def cost(first: Ink, second: Ink) -> float:
        (sources, source_ink), (targets, target_ink) = first, second
        between = np.ascontiguousarray(ground[sources[:, None], targets])
        # two steps are skipped: shares of ink sum to 1, and the dual's solution is not used
        quick = {"check_marginals": False, "center_dual": False}
        return float(transport.emd2(source_ink, target_ink, between, **quick))

    def moved(*batches: Tensor) -> Tensor:
        first, *others = ([_ink(image) for image in images] for images in batches)
        if others:
            return torch.tensor([[cost(a, b) for b in others[0]] for a in first])
        half = torch.zeros(len(first), len(first))
        for place, a in enumerate(first):
            half[place, :place] = torch.tensor([cost(a, b) for b in first[:place]])
        return half + half.T

    def noisy(inputs: Tensor, noise: float) -> Tensor:
        return inputs * (noise * torch.randn_like(inputs)).exp()  # pixels without ink stay 0

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        return moved(x[rows], x[columns])

    objects = _with_table(folder / f"wasserstein-{len(x)}.pt", x, compute)
    return replace(objects, between=moved, disturb=noisy)


def _ink(image: Tensor) -> Ink:
    """Indices of the pixels with ink, and each one's share; the others would only cost time."""
    shares = image.double().numpy() / float(image.double().sum())
    return (shares > 0).nonzero()[0], shares[shares > 0]


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Skip(f"{package} is not installed: pip install '.[encoders]'") from error


def _with_table(path: Path, x: Tensor, compute: Block) -> Objects:
    """Objects with a table that is kept in a file; validation and test have a fifth each."""

    def all_pairs() -> Tensor:
        half = torch.zeros(len(x), len(x))
        for place in range(1, len(x)):
            half[place, :place] = compute(torch.tensor([place]), torch.arange(place))[0]
        return half + half.T

    return _split(x, compute, [len(x) // 5] * 2, computed_once(path, all_pairs))


def _split(x: Tensor, compute: Block, sizes: Sequence[int], table: Tensor | None = None) -> Objects:
    """Split in the order test, validation, train; with three sizes the rest is ``more``."""
    n = len(x)
    rest = n - sum(sizes)
    parts = torch.arange(n).split([*sizes, rest] if len(sizes) == 3 else [*sizes, rest, 0])
    test, validation, train, more = parts
    return Objects(x, compute, train, more, validation, test, table)
