"""`IsometricEmbedding`: an MDS that places new points, with classes if there are any."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from isoreg._attach.reference import evaluating
from isoreg._devices import pick_device
from isoreg._pairs.precision import full_precision
from isoreg.diagnostics import distortion_of
from isoreg.embedding.blocks import CallableMetric, resolve_blocks
from isoreg.embedding.fitting import MEASURED, fit_map
from isoreg.embedding.network import pack, unpack
from isoreg.embedding.own_network import seeded
from isoreg.embedding.picture import draw, drawn_classes
from isoreg.embedding.rules import (
    check_settings,
    columns_unless_raised,
    read_rows,
    refuse_other_order,
)
from isoreg.embedding.targets import Targets, classmates_first, read_targets
from isoreg.embedding.training import Pairs
from isoreg.errors import InputError, error_prefix

_ROWS_AT_ONCE = 8192
_NAME = "IsometricEmbedding"


def _on_cpu() -> AbstractContextManager[Any]:
    """What names no device is made on the CPU, also where torch's default is another."""
    usual = torch.get_default_device().type == "cpu"  # the context would slow each operation
    return nullcontext() if usual else torch.device("cpu")


class IsometricEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""A map of the data whose distances are those of the data, as a scikit-learn transformer.

    A network f is trained so that :math:`|f(x_i) - f(x_j)| \approx d(x_i, x_j)`. Without labels
    for all pairs: metric MDS with a `transform` for new samples. With labels for the pairs within
    each class, while the classes are kept apart:

    .. math::
        \mathrm{CE} + \beta\, \frac{\sum_{ij} G_{ij} (d_{ij} - s |f_i - f_j|)^2}
        {r^2 \sum_{ij} G_{ij}} + \beta_{all}\, \frac{\sum_{ij} (d_{ij} - t |f_i - f_j|)^2}{r^2 N^2}

    with CE the cross-entropy of the logits :math:`-2 |f_i - p_k|^2 / r^2`, r the radius of the
    classes (mean root mean square), G = 1 within a class, s and t the best scales of each batch,
    and :math:`p_k` places of the classes: the metric MDS of their means, at a median distance of
    4 r and, where the map has the room, at least 2 r apart. At the end the map is scaled so that
    **a length within a class is a distance in the data's unit**; between classes it is longer by
    the factor that keeps them apart. Without labels every length is in the data's unit.

    Columns are used as they are, as every distance does: standardise them (`StandardScaler`) if
    their units differ. Nothing of size n^2 is ever made; memory grows with n d, batch_size^2 and
    the square of the number of classes, whose places are found together.

    Source: Beshkov, Verhellen and Lepperød (2022), section 4.1, names maps and other metrics as
    uses of its penalty, which is the term of beta; the rest is this package's.

    Args:
        n_components: Dimensions of the map.
        metric: A name in `isoreg.distances.METRICS` except "geodesic"; "precomputed", together
            with ``fit(X, distances=...)``, where the network still takes X; or a callable from two
            sets of a and b samples to their (a, b) distances, which other samples must not change.
            `fit` asks it for one batch at a time, the first with two samples of each class.
        metric_takes: What a callable takes: "rows" of X, or "indices", the places of the samples in
            the X of this fit, for objects that are no rows. Cross-validation fits parts of X, in
            which the places are others.
        beta: Weight of the distances within classes. Not used without labels.
        beta_all: Weight of the distances between all pairs. Not used without labels.
        near: Near pairs count more: weights d^-near. 0: all the same, 1: as in Sammon's mapping,
            2: elastic scaling; below 10.
        clusterer: A scikit-learn clusterer whose clusters of X are the classes if there is no y
            (-1, its outliers, have none).
        network: A `torch.nn.Module` from (b, d) rows to (b, n_components), which is copied before
            it is trained; its input is centred and divided by one number. By default three hidden
            layers of 160 ReLU units.
        max_epochs: Passes over the data; by default 10, or what 100 + n/2 steps (at most 1,200)
            take if that is more.
        batch_size: Samples a step; all of them if they are fewer.
        learning_rate: The largest of its one cycle, below 1000.
        noise: Gaussian noise on the training inputs, in radii of the classes (in the data's
            Euclidean distance). By default 1 with labels, and 0 without.
        early_stopping: Stop when the stress of held-out samples has not fallen for
            n_iter_no_change of the at most 40 looks at it, and keep the best network.
        validation_fraction: Share of the samples that is held out for that.
        n_iter_no_change: See early_stopping.
        cache: A file in which the distances of a callable are kept, one a pair of samples, for
            further epochs and fits. One file a metric; where it takes indices, one a list of
            objects, since a place does not say what stands there.
        device: "auto" (CUDA if there is one, else the CPU), or a device of torch.
        random_state: Seed of the network, the batches and the noise. On one machine, with as many
            threads of torch, the same seed gives the same map; not if a network of your own draws,
            as dropout does, while another Python thread does.
        verbose: Show progress.

    Attributes:
        network_: The trained module, from rows of X to points of the map.
        stress_: Kruskal's stress of at most 1,000 training samples (held-out ones with
            early_stopping), batch_size at a time, within classes if there are any:
            sqrt(sum (d - d_map)^2 / sum d^2). NaN if no two of them are of one class.
        history_: Lists by name: "step", "loss" and "stress" at each look.
        classes_: Labels of the classes, (k,), or (k, levels) for several columns; None without.
        prototypes_: (k, n_components) places of the classes on the map; None without.
        n_iter_: Steps that were taken.
        n_features_in_: As in scikit-learn.
        feature_names_in_: As in scikit-learn.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> embedding = IsometricEmbedding(max_epochs=100, random_state=0)
        >>> embedding.fit_transform(X, y).shape
        (150, 2)
        >>> embedding.stress_ < 0.4
        True
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        metric: str | CallableMetric = "euclidean",
        metric_takes: str = "rows",
        beta: float = 3.0,
        beta_all: float = 3.0,
        near: float = 0.0,
        clusterer: Any = None,
        network: nn.Module | None = None,
        max_epochs: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 1e-2,
        noise: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        cache: str | Path | None = None,
        device: str | torch.device = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.metric = metric
        self.metric_takes = metric_takes
        self.beta = beta
        self.beta_all = beta_all
        self.near = near
        self.clusterer = clusterer
        self.network = network
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.noise = noise
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.cache = cache
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, distances: Any = None) -> IsometricEmbedding:
        """Learn the map, with a warning if distances to a few samples drown all others.

        Args:
            X: (n, d) samples: an array or a data frame of numbers. What belongs to a sample
                stands in the same place, and is refused where pandas names it otherwise.
            y: None; (n,) classes, -1 for unknown; or (n, levels), a column each, coarse to fine.
            distances: (n, n) for ``metric="precomputed"``; NaN: this pair is not known.

        Returns:
            The estimator.

        Raises:
            ValueError: If X, y or a setting is not usable: an `isoreg.InputError`, or
                scikit-learn's own.

        Example:
            >>> X = np.random.default_rng(0).normal(size=(30, 4))
            >>> IsometricEmbedding(max_epochs=5, random_state=0).fit(X).network_.training
            False
        """
        prefix, columns = error_prefix(f"{_NAME}.fit"), columns_unless_raised(self)
        with prefix, columns, _on_cpu(), torch.inference_mode(False), torch.enable_grad():
            check_settings(self)
            refuse_other_order(X, y=y, distances=distances)
            rows = read_rows(self, X, ensure_min_samples=2)
            targets = self._targets(rows, y)
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            blocks = resolve_blocks(
                rows, self.metric, takes=self.metric_takes, distances=distances, cache=self.cache
            )
            device = pick_device(self.device)
            # all of it: layers that are lazy draw their numbers when they are first called
            seeding = nullcontext() if self.network is None else seeded(seed, device)
            with full_precision(device), seeding:
                fitted = fit_map(self, rows, blocks, targets, seed)
        self._fitted_components, self._fitted_own = self.n_components, self.network is not None
        self.network_, self.stress_ = fitted.network, fitted.stress
        self.history_, self.n_iter_ = vars(fitted.progress), fitted.progress.step[-1]
        self.classes_ = None if targets is None else targets.classes_
        self.prototypes_ = fitted.prototypes
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Place samples on the map, those of `fit` and new ones alike.

        Args:
            X: (n, d) samples.

        Returns:
            (n, n_components) points, float32 if X is, else float64.

        Raises:
            ValueError: scikit-learn's own, if X does not fit to what was learned from.

        Example:
            >>> X = np.random.default_rng(0).normal(size=(30, 4))
            >>> IsometricEmbedding(max_epochs=5, random_state=0).fit(X).transform(X[:3]).shape
            (3, 2)
        """
        check_is_fitted(self)
        with error_prefix(f"{_NAME}.transform"):
            rows = read_rows(self, X, reset=False)
        return self._points(rows).numpy().astype(rows.dtype)

    def score(self, X: Any, y: Any = None, *, distances: Any = None) -> float:
        """Minus Kruskal's stress of at most 1,000 of the samples, within classes if y is given.

        Args:
            X: (n, d) samples.
            y: As in `fit`, with any labels.
            distances: (n, n) distances of these samples, if ``metric="precomputed"``.

        Returns:
            From -1 or less to 0, which is an isometry; NaN without pairs.

        Raises:
            ValueError: If X or y is not usable, ``metric="precomputed"`` gets no distances, or the
                metric takes the places of samples in `fit`'s X.

        Example:
            >>> X = np.random.default_rng(0).normal(size=(30, 2))
            >>> IsometricEmbedding(random_state=0).fit(X).score(X) > -0.2
            True
        """
        check_is_fitted(self)
        with error_prefix(f"{_NAME}.score"), _on_cpu():
            if callable(self.metric) and self.metric_takes == "indices":
                raise InputError(
                    "there is no score where a metric takes indices, since places in fit's X say "
                    "nothing of X. Compare with "
                    "isoreg.diagnostics.distortion(None, points, input_distances=...)."
                )
            refuse_other_order(X, y=y, distances=distances)
            rows = read_rows(self, X, reset=False)
            blocks = resolve_blocks(rows, self.metric, distances=distances, cache=self.cache)
            targets = None if y is None else read_targets(y, len(rows), to_learn=False)
            pairs = Pairs(blocks, 1.0, targets, torch.empty(0))
            # at random: each so-many-th of sorted rows could be of another class
            places = np.random.default_rng(0).permutation(len(rows))
            classes = None if targets is None else targets.classes
            places = classmates_first(places, classes)[:MEASURED]
            return -distortion_of(*pairs.compared(self._points(rows[places]), places)).stress

    def plot(
        self,
        X: Any,
        y: Any = None,
        *,
        unit: str | None = "",
        axes: Any = None,
    ) -> Any:
        """Draw samples on the map, with a scale bar: a length here is a distance.

        Args:
            X: (n, d) samples.
            y: (n,) their classes, or several columns, as in `fit`: for colours and names. A class
                of `fit` has the same colour in every picture of the map, unless it needs more
                colours for classes that are new.
            unit: The unit of the distances, written beside the scale bar; None or "": no unit.
            axes: matplotlib axes to draw on, with linear scales; None: new ones.

        Returns:
            The axes; ``plot(X, y).figure.savefig("map.png", dpi=200)`` saves them.

        Raises:
            InputError: If the map has not two dimensions, or the unit is no text.
            MissingExtraError: If matplotlib is not installed.

        Example:
            >>> X = np.random.default_rng(0).normal(size=(30, 4))
            >>> axes = IsometricEmbedding(max_epochs=5, random_state=0).fit(X).plot(X, unit="mm")
            >>> axes.texts[-1].get_text().endswith("mm")
            True
        """
        with error_prefix(f"{_NAME}.plot"), _on_cpu():
            check_is_fitted(self)
            if self._n_features_out != 2:
                raise InputError(f"n_components must be 2 to be drawn, got {self._n_features_out}.")
            if not isinstance(unit, str | None):
                raise InputError(f"unit must be a text or None, got {unit!r}. Write unit='mm'.")
            refuse_other_order(X, y=y)
            points = self.transform(X)
            classes = None if y is None else drawn_classes(y, len(points), self.classes_)
            within = "within a class" if self.classes_ is not None else ""
            return draw(np.asarray(points), classes, f"{unit or ''} {within}".strip(), axes)

    @property
    def _n_features_out(self) -> int:
        # of the fit: a parameter may have been set since; a pickle of earlier versions has none
        return int(getattr(self, "_fitted_components", self.n_components))

    def _targets(self, rows: NDArray[Any], y: Any) -> Targets | None:
        """The labels, given or found by the clusterer."""
        if y is not None and self.clusterer is not None:
            raise InputError("a clusterer is for a fit without labels, got y as well. Drop one.")
        if y is not None:
            return read_targets(y, len(rows))
        if self.clusterer is None:
            return None
        clusters = clone(self.clusterer).fit_predict(rows.copy())  # some compute in place
        try:
            return read_targets(clusters, len(rows))
        except InputError as error:
            raise InputError(
                f"{type(self.clusterer).__name__} must find at least two clusters, got "
                f"{len(set(np.asarray(clusters).tolist()) - {-1})} in {len(rows)} samples."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: networks on the processor, the default one as arrays (for skops)."""
        return pack(dict(super().__getstate__()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The reverse of `__getstate__`, with the defaults of what an earlier version had not."""
        with _on_cpu():
            super().__setstate__({**vars(IsometricEmbedding()), **unpack(dict(state))})

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn (1.6 and later) asks."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        return tags

    def _points(self, rows: NDArray[Any]) -> Tensor:
        batches = torch.tensor(rows, device="cpu").split(_ROWS_AT_ONCE)
        network, device = self.network_, self.network_.mean.device
        with torch.no_grad(), evaluating(network), full_precision(device):
            # a network that squeezes gives one row without its first axis
            return torch.cat([network(batch).cpu().reshape(len(batch), -1) for batch in batches])
