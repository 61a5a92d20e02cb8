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
    """Tensors without a device are made on the CPU, even if torch's default device is another."""
    usual = torch.get_default_device().type == "cpu"  # a needless context slows each operation
    return nullcontext() if usual else torch.device("cpu")


class IsometricEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""A map of the data whose distances are those of the data, as a scikit-learn transformer.

    A network f is trained so that :math:`|f(x_i) - f(x_j)| \approx d(x_i, x_j)`. Without labels
    this holds for all pairs: it is metric MDS with a `transform` for new samples. With labels it
    holds for the pairs within each class, while the classes are kept apart. The loss is then

    .. math::
        \mathrm{CE} + \beta\, \frac{\sum_{ij} G_{ij} (d_{ij} - s |f_i - f_j|)^2}
        {r^2 \sum_{ij} G_{ij}} + \beta_{all}\, \frac{\sum_{ij} (d_{ij} - t |f_i - f_j|)^2}{r^2 N^2}

    with CE the cross-entropy of the logits :math:`-2 |f_i - p_k|^2 / r^2`, r the radius of the
    classes (mean root mean square), G = 1 within a class, s and t the best scales of each batch,
    and :math:`p_k` places of the classes: the metric MDS of their means, at a median distance of
    4 r and, where the map has the room, at least 2 r apart. At the end the map is scaled so that
    **a length within a class is a distance in the data's unit**; between classes it is longer by
    the factor that keeps them apart. Without labels every length is in the data's unit.

    Distances use the columns as they are: standardise them (`StandardScaler`) if their units
    differ. No (n, n) array is ever made: memory grows with n d, with batch_size^2, and with the
    square of the number of classes, since the places of all classes are found together.

    Source: Beshkov, Verhellen and Lepperød (2022), section 4.1, names maps and other metrics as
    uses of its penalty, which is the term of beta; the rest is this package's.

    Args:
        n_components: Dimensions of the map.
        metric: A name in `isoreg.distances.METRICS` except "geodesic"; "precomputed", together
            with ``fit(X, distances=...)``, where the network still takes X; or a callable that
            takes two sets of a and b samples and returns their (a, b) distances. A distance must
            not depend on the other samples of the call. `fit` calls it for one batch at a time; the
            first batch holds two samples of each class.
        metric_takes: What a callable takes: "rows" of X, or "indices", the places of the samples in
            the X of this fit, for objects that are not rows of numbers. Cross-validation fits parts
            of X, in which a sample has another place.
        beta: Weight of the distances within classes. Not used without labels.
        beta_all: Weight of the distances between all pairs. Not used without labels.
        near: Pairs have the weights d^-near, so that near ones count more; below 10. With 0 all
            pairs count the same, 1 is Sammon's mapping, 2 is elastic scaling.
        clusterer: A scikit-learn clusterer whose clusters of X are the classes if there is no y.
            Its outliers (-1) have no class.
        network: A `torch.nn.Module` from (b, d) rows to (b, n_components), which is copied before
            it is trained; its input is centred and divided by one number. By default three hidden
            layers of 160 ReLU units. A file of skops can hold the default only, a pickle any.
        max_epochs: Passes over the data; by default 10, or what 100 + n/2 steps (at most 1,200)
            take if that is more.
        batch_size: Samples a step; all samples if there are fewer.
        learning_rate: The largest learning rate of the one-cycle schedule, below 1000.
        noise: Standard deviation of Gaussian noise on the training inputs, in radii of the classes
            (in the data's Euclidean distance), or in the radius of all samples if there are no
            labels. By default 1 with labels, and 0 without.
        early_stopping: Stop when the stress of held-out samples has reached no new low at
            n_iter_no_change checks in a row, of at most 40, and keep the best network.
        validation_fraction: Share of the samples that is held out for that.
        n_iter_no_change: See early_stopping.
        cache: A file that keeps the distance of each pair from a callable metric, for later epochs
            and fits. Use one file for each metric. If the metric takes indices, use one for each
            list of objects, since an index does not say which object it stands for.
        device: "auto" (CUDA if there is one, else the CPU), or a device of torch.
        random_state: Seed of the network, the batches and the noise. On one machine, with the same
            number of torch threads, the same seed gives the same map, unless your own network draws
            random numbers, as dropout does, while another Python thread draws some too.
        verbose: Show progress.

    Attributes:
        network_: The trained module, from rows of X to points of the map.
        stress_: Kruskal's stress of at most 1,000 training samples (held-out ones with
            early_stopping), over pairs in parts of batch_size, within classes if there are any:
            sqrt(sum (d - d_map)^2 / sum d^2). NaN if no two of these samples are of one class.
        history_: A dictionary of lists: "step", "loss" and "stress" at each check of the stress.
        classes_: Labels of the classes, (k,), or (k, levels) for several columns; None without.
        prototypes_: (k, n_components) places of the classes on the map; None without.
        n_iter_: Number of training steps that were taken.
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
        """Learn the map; warn if a few samples lie so far out that they drown all other distances.

        Args:
            X: (n, d) samples: an array or a data frame of numbers. Row i of y and of distances
                belongs to row i of X; a pandas index that contradicts this is refused.
            y: None; (n,) classes, -1 for unknown; or (n, levels), a column for each level of
                classes from coarse to fine.
            distances: (n, n) for ``metric="precomputed"``; NaN marks a pair that is not known.

        Returns:
            The estimator.

        Raises:
            ValueError: If X, y or a setting is not usable: an `isoreg.InputError`, or
                scikit-learn's own error.

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
            # The whole fit is seeded: lazy layers draw their weights when they are first called.
            seeding = nullcontext() if self.network is None else seeded(seed, device)
            with full_precision(device), seeding:
                fitted = fit_map(self, rows, blocks, targets, seed)
        self._fitted_components, self._fitted_own = self.n_components, self.network is not None
        self.network_, self.stress_ = fitted.network, fitted.stress
        self.history_, self.n_iter_ = fitted.history, fitted.history["step"][-1]
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
            ValueError: If X does not match the X of `fit`: scikit-learn's own error, or an
                `isoreg.InputError`.

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
            y: As in `fit`; it may hold labels that `fit` did not see.
            distances: (n, n) distances of these samples, if ``metric="precomputed"``.

        Returns:
            0 for an isometry, -1 if all samples lie in one point, or less; NaN without pairs.

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
            # Places are drawn at random: evenly spaced ones of sorted rows may share no class.
            places = np.random.default_rng(0).permutation(len(rows))
            classes = None if targets is None else targets.classes
            places = classmates_first(places, classes)[:MEASURED]
            return -distortion_of(*pairs.compared(self._points(rows[places]), places)).stress

    def plot(self, X: Any, y: Any = None, *, unit: str | None = "", axes: Any = None) -> Any:
        """Draw samples on the map, with a scale bar, since a length on the map is a distance.

        Args:
            X: (n, d) samples.
            y: (n,) classes of the samples, or several columns, as in `fit`, for colours and names.
                A class of `fit` has the same colour in every picture of the map, unless a picture
                needs more colours for new classes.
            unit: The unit of the distances, written beside the scale bar; None or "": no unit.
            axes: matplotlib axes to draw on, with linear scales; None: new ones.

        Returns:
            The axes; ``plot(X, y).figure.savefig("map.png", dpi=200)`` saves them.

        Raises:
            InputError: If the map does not have two dimensions, or the unit is not a text.
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
        # n_components may have been set since the fit; pickles of earlier versions lack the other.
        return int(getattr(self, "_fitted_components", self.n_components))

    def _targets(self, rows: NDArray[Any], y: Any) -> Targets | None:
        """The labels that the user gave, or that the clusterer found; None without both."""
        if y is not None and self.clusterer is not None:
            raise InputError("a clusterer is for a fit without labels, got y as well. Drop one.")
        if y is not None:
            return read_targets(y, len(rows))
        if self.clusterer is None:
            return None
        clusters = clone(self.clusterer).fit_predict(rows.copy())  # some clusterers change X
        try:
            return read_targets(clusters, len(rows))
        except InputError as error:
            raise InputError(
                f"{type(self.clusterer).__name__} must find at least two clusters, got "
                f"{len(set(np.asarray(clusters).tolist()) - {-1})} in {len(rows)} samples."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: networks go to the CPU, the default one as arrays (for skops)."""
        return pack(dict(super().__getstate__()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reverse `__getstate__`; settings that an earlier version lacked get their defaults."""
        with _on_cpu():
            super().__setstate__({**vars(IsometricEmbedding()), **unpack(dict(state))})

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn (1.6 and later) which dtypes stay and which y is allowed."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        return tags

    def _points(self, rows: NDArray[Any]) -> Tensor:
        batches = torch.tensor(rows, device="cpu").split(_ROWS_AT_ONCE)
        network, device = self.network_, self.network_.mean.device
        with torch.no_grad(), evaluating(network), full_precision(device):
            # A network that squeezes its output returns a single row without its first axis.
            return torch.cat([network(batch).cpu().reshape(len(batch), -1) for batch in batches])
