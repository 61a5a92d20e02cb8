"""The methods of maps: each learns from rows and classes, and places new rows.

A method is fitted once for each of its settings; `Method.prepare` makes what all fits share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NeighborhoodComponentsAnalysis

from benchmarks.maps import regression
from benchmarks.maps.data import ALL, DATA, MNIST, optional
from isoreg.embedding import IsometricEmbedding

Array = NDArray[Any]
Place = Callable[[Array], Array]
Fitted = tuple[Array, Place]  # points of the learned samples, and what places others
Setting = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
        fit: Makes a map from rows, classes, seed, the result of ``prepare`` and a setting.
        grid: The settings that are tried, at most four.
        prepare: Computes from rows and classes what does not depend on the setting.
        version: It is raised when the method computes something else, so that it runs again.
        but: Data sets on which the method is not run, each with the reason.
    """

    fit: Callable[..., Fitted]
    grid: tuple[Setting, ...] = ({},)
    prepare: Callable[[Array, Array], Any] = lambda *_: None
    version: int = 1
    but: Mapping[str, str] = field(default_factory=dict)


def _estimator(make: Callable[..., Any], *, labels: bool = False) -> Callable[..., Fitted]:
    """A method whose estimator, with `transform`, ``make`` builds from n, a seed and a setting."""

    def fit(x: Array, y: Array, seed: int, _: Any, **setting: Any) -> Fitted:
        estimator = make(len(x), seed, **setting)
        points = estimator.fit_transform(x, y) if labels else estimator.fit_transform(x)
        return np.asarray(points), lambda new: np.asarray(estimator.transform(new))

    return fit


def _landmark_mds(x: Array, y: Array, seed: int, _: Any, landmarks: int) -> Fitted:
    """Classical MDS of some samples; all others are placed by their distances to these.

    Source: de Silva and Tenenbaum (2004), Sparse multidimensional scaling using landmark points.
    """
    del y
    landmarks = min(landmarks, len(x))
    chosen = np.random.default_rng(seed).choice(len(x), landmarks, replace=False)
    marks = x[chosen].astype(np.float64)
    squares = regression.distances(marks, marks) ** 2
    centre = np.eye(landmarks) - 1 / landmarks
    values, vectors = np.linalg.eigh(-centre @ squares @ centre / 2)
    to_points = (vectors[:, -2:] / np.sqrt(values[-2:])).T

    def place(new: Array) -> Array:
        gaps = regression.distances(new.astype(np.float64), marks) ** 2 - squares.mean(0)
        points: Array = -gaps @ to_points.T / 2
        return points

    return place(x), place


def _lda(x: Array, y: Array, seed: int, _: Any, shrinkage: float | None) -> Fitted:
    del seed
    solver = "svd" if shrinkage is None else "eigen"
    components = min(2, len(np.unique(y)) - 1)
    lda = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage, n_components=components)
    return lda.fit_transform(x, y), lda.transform


def _nca(x: Array, y: Array, seed: int, _: Any, init: str, max_iter: int) -> Fitted:
    init = "random" if init == "lda" and y.max() < 2 else init  # LDA of two classes is a line
    nca = NeighborhoodComponentsAnalysis(2, init=init, max_iter=max_iter, random_state=seed)
    return nca.fit_transform(x, y), nca.transform


def _umap(n: int, seed: int, n_neighbors: int, **setting: Any) -> Any:
    few = min(n_neighbors, n - 1)
    return optional("umap", "umap-learn").UMAP(random_state=seed, n_neighbors=few, **setting)


def _tsne(x: Array, y: Array, seed: int, _: Any, perplexity: float) -> Fitted:
    del y
    tsne = optional("openTSNE", "openTSNE").TSNE(
        perplexity=min(perplexity, (len(x) - 1) / 3), random_state=seed, n_jobs=1
    )
    learned = tsne.fit(x)
    return np.asarray(learned), lambda new: np.asarray(learned.transform(new))


def _pacmap(x: Array, y: Array, seed: int, _: Any, **setting: Any) -> Fitted:
    del y
    pacmap = optional("pacmap", "pacmap")
    learned = pacmap.PaCMAP(random_state=seed, save_tree=True, **setting)
    rows = x.astype(np.float32)
    points = learned.fit_transform(rows, init="pca")

    def place(new: Array) -> Array:
        placed: Array = learned.transform(new.astype(np.float32), basis=rows)[-len(new) :]
        return placed

    return points, place


def _phate(_: int, seed: int, **setting: Any) -> Any:
    return optional("phate", "phate").PHATE(random_state=seed, n_jobs=1, verbose=0, **setting)


def _ours(_: int, seed: int) -> Any:
    return IsometricEmbedding(random_state=seed)


def _control(x: Array, y: Array, seed: int, _: Any) -> Fitted:
    """Our method with classes, but distances are those of samples permuted within each class."""
    places, generator = np.arange(len(x)), np.random.default_rng(seed)
    for k in np.unique(y):
        places[y == k] = generator.permutation(places[y == k])
    permuted = x[places]

    def permuted_distances(a: Array, b: Array) -> Array:
        return regression.distances(permuted[a], permuted[b])

    embedding = IsometricEmbedding(
        metric=permuted_distances, metric_takes="indices", random_state=seed
    )
    return embedding.fit_transform(x, y), embedding.transform


def _settings(**options: tuple[Any, ...]) -> tuple[Setting, ...]:
    """One setting for each place: it takes the value at this place of every option."""
    values = zip(*options.values(), strict=True)
    return tuple(dict(zip(options, setting, strict=True)) for setting in values)


def _data(x: Array, *_: Any) -> Fitted:
    return x, lambda new: new


_SMALL = dict.fromkeys(DATA.keys() - {MNIST}, "all samples are landmarks there, which is PCA")
_PAIRS = {ALL: "it needs all pairs of samples, 29 GB of distances"}
_OF_CLASSES = {ALL: "it needs all pairs of each class, 3 GB, and minutes a class"}
OURS, OURS_WITHOUT, CONTROL = "isometry, classes", "isometry, no classes", "its control"

METHODS: dict[str, Method] = {
    "the data, no map": Method(_data),
    "PCA": Method(_estimator(lambda _, seed: PCA(2, random_state=seed))),
    "landmark MDS": Method(_landmark_mds, _settings(landmarks=(250, 500, 1000, 2000)), but=_SMALL),
    "LDA": Method(_lda, _settings(shrinkage=(None, 0.1, 0.5, 0.9))),
    "NCA": Method(
        _nca, _settings(init=("pca", "pca", "lda", "lda"), max_iter=(20, 60, 20, 60)), but=_PAIRS
    ),
    "UMAP": Method(
        _estimator(_umap), _settings(n_neighbors=(15, 15, 50, 50), min_dist=(0.1, 0.5, 0.1, 0.5))
    ),
    "supervised UMAP": Method(
        _estimator(_umap, labels=True),
        _settings(n_neighbors=(15, 15, 50, 50), target_weight=(0.5, 0.1, 0.5, 0.1)),
    ),
    "t-SNE": Method(_tsne, _settings(perplexity=(10, 30, 50, 100))),
    "PaCMAP": Method(
        _pacmap, _settings(n_neighbors=(10, 10, 20, 20), MN_ratio=(0.5, 2.0, 0.5, 2.0))
    ),
    "PHATE": Method(_estimator(_phate), _settings(knn=(5, 5, 15, 15), gamma=(1, 0, 1, 0))),
    "SMACOF, regression": Method(
        regression.on_smacof,
        _settings(noise=(0.0, 0.1, 0.3, 1.0)),
        regression.prepare_smacof,
        version=2,
        but=_PAIRS,
    ),
    "classes' SMACOF, regression": Method(
        regression.on_class_smacof,
        _settings(noise=(0.3, 1.0, 0.3, 1.0), weight=(1.0, 1.0, 3.0, 3.0)),
        regression.prepare_class_smacof,
        version=2,
        but=_OF_CLASSES,
    ),
    OURS_WITHOUT: Method(_estimator(_ours), version=2),
    OURS: Method(_estimator(_ours, labels=True), version=2),
    CONTROL: Method(_control, version=2),
}
