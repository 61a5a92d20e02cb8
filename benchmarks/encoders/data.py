"""Objects whose distance costs something: words, series and digits, with the packages they need."""

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
"""From the places of a and of b objects to their (a, b) distances."""

_LETTERS = 12


@dataclass(frozen=True)
class Objects:
    """Objects, and what their distance is.

    Attributes:
        x: (n, ...) what a network takes.
        compute: The distance itself, computed anew.
        train: Places of the objects that every method is trained on.
        more: Places of objects that only what needs no table of all distances can be trained on.
        validation: Places.
        test: Places.
        table: (n, n) where a distance is too slow to be computed in each step.
        between: From b inputs to their (b, b) distances, or from a and b to (a, b), where objects
            may be made anew.
        disturb: From inputs and a strength to inputs with noise.
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
        """(a, b) distances, from the table if there is one."""
        if self.table is None:
            return self.compute(rows, columns)
        return self.table[rows][:, columns]


def words(folder: Path, most: int) -> Objects:
    """English words of 4 to 12 letters under Levenshtein's distance; 12 times 27 zeros and ones."""
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
        first, second = ([chosen[place] for place in part.tolist()] for part in (rows, columns))
        found = cdist(first, second, scorer=Levenshtein.distance, dtype=np.uint8)
        return torch.from_numpy(found).float()

    sizes = [size * len(chosen) // 17_000 for size in (1_000, 1_000, 4_000)]
    return _split(x, compute, sizes)


def spelt(word: str) -> Tensor:
    """(12, 27) zeros and ones: which letter stands where, or none."""
    letters = [ord(letter) - ord("a") + 1 for letter in word.lower()]
    places = torch.tensor(letters + [0] * (_LETTERS - len(letters)))
    return torch.nn.functional.one_hot(places, 27).float()


def series(folder: Path, most: int) -> Objects:
    """ItalyPowerDemand, 24 hours each, under the root of dynamic time warping's sum of squares."""
    _needed("aeon")
    from aeon.datasets import load_italy_power_demand
    from aeon.distances import dtw_pairwise_distance

    raw = load_italy_power_demand()[0]
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[:most]
    x = torch.from_numpy(raw).float().flatten(1)[order]

    def warped(*of: Tensor) -> Tensor:
        found = dtw_pairwise_distance(*(part.double().numpy()[:, None] for part in of))
        return torch.from_numpy(found).sqrt().float()

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        return warped(x[rows], x[columns])

    def noisy(inputs: Tensor, noise: float) -> Tensor:
        return inputs + noise * torch.randn_like(inputs)

    objects = _with_table(folder / f"dtw-{len(x)}.pt", x, compute)
    return replace(objects, between=warped, disturb=noisy)


def digits(folder: Path, most: int) -> Objects:
    """scikit-learn's digits under Wasserstein's distance: by how many pixels ink must be moved."""
    transport = _needed("ot")
    parts = [datasets.digits(part)[0] for part in ("test", "validation", "train")]
    images = torch.cat(parts).flatten(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    x = images[order]
    places = np.argwhere(np.ones((8, 8))).astype(float)
    ground = transport.dist(places, places, metric="euclidean")

    def cost(first: Ink, second: Ink) -> float:
        (of, ink), (to, wanted) = first, second
        between = np.ascontiguousarray(ground[of[:, None], to])
        # the shares of ink sum to 1, and the dual's solution is not asked for
        quick = {"check_marginals": False, "center_dual": False}
        return float(transport.emd2(ink, wanted, between, **quick))

    def moved(*of: Tensor) -> Tensor:
        first, *others = ([_ink(image) for image in images] for images in of)
        if others:
            return torch.tensor([[cost(a, b) for b in others[0]] for a in first])
        half = torch.zeros(len(first), len(first))
        for place, a in enumerate(first):
            half[place, :place] = torch.tensor([cost(a, b) for b in first[:place]])
        return half + half.T

    def noisy(inputs: Tensor, noise: float) -> Tensor:
        return inputs * (noise * torch.randn_like(inputs)).exp()  # paper stays white

    def compute(rows: Tensor, columns: Tensor) -> Tensor:
        return moved(x[rows], x[columns])

    objects = _with_table(folder / f"wasserstein-{len(x)}.pt", x, compute)
    return replace(objects, between=moved, disturb=noisy)


def _ink(image: Tensor) -> Ink:
    """Which pixels have ink, and each one's share: those without would only cost time."""
    shares = image.double().numpy() / float(image.double().sum())
    return (shares > 0).nonzero()[0], shares[shares > 0]


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Skip(f"{package} is not installed: pip install '.[encoders]'") from error


def _with_table(path: Path, x: Tensor, compute: Block) -> Objects:
    """A fifth each for validation and test; each pair computed once, and kept in a file."""

    def all_pairs() -> Tensor:
        found = torch.zeros(len(x), len(x))
        for place in range(1, len(x)):
            found[place, :place] = compute(torch.tensor([place]), torch.arange(place))[0]
        return found + found.T

    return _split(x, compute, [len(x) // 5] * 2, computed_once(path, all_pairs))


def _split(x: Tensor, compute: Block, sizes: Sequence[int], table: Tensor | None = None) -> Objects:
    """Test, validation, training and, if the sizes of all three are given, ``more``."""
    n = len(x)
    rest = n - sum(sizes)
    parts = torch.arange(n).split([*sizes, rest] if len(sizes) == 3 else [*sizes, rest, 0])
    test, validation, train, more = parts
    return Objects(x, compute, train, more, validation, test, table)
