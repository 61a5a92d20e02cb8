"""Real images of digits: scikit-learn's own and MNIST."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoreg.errors import InputError, error_prefix, import_extra

DATA_VARIABLE = "ISOREG_DATA"
_DIGITS_SPLITS = ("train", "validation", "test")
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, bundled with it: 1,797 real scans of 8 by 8 pixels.

    The split is fixed, random and stratified: 1,077 training, 360 validation, 360 test images.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.

    Args:
        split: "train", "validation" or "test".

    Returns:
        Images (n, 1, 8, 8), float32 from 0 to 1, and labels (n,), integers from 0 to 9.

    Raises:
        InputError: If the split is unknown.
        MissingExtraError: If scikit-learn is not installed (extra ``data``).

    Example:
        >>> images, labels = digits("test")
        >>> images.shape, labels.bincount().min().item()
        (torch.Size([360, 1, 8, 8]), 35)
    """
    with error_prefix("digits"):
        _check_split(split, _DIGITS_SPLITS)
        loaded = import_extra("sklearn.datasets", "data").load_digits()
        halve = import_extra("sklearn.model_selection", "data").train_test_split
    images = torch.from_numpy(loaded.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(loaded.target).long()
    rest, test = halve(range(len(labels)), test_size=360, random_state=0, stratify=labels)
    train, validation = halve(rest, test_size=360, random_state=0, stratify=labels[rest])
    chosen = {"train": train, "validation": validation, "test": test}[split]
    return images[chosen], labels[chosen]


def mnist(split: str, root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """MNIST, read through torchvision.

    Looked for below ``root``, else below the folder that the environment variable
    ``ISOREG_DATA`` names, else downloaded by torchvision into the folder of torch's hub. A folder
    that is named must hold ``MNIST/raw/`` with the four IDX files, and nothing is then downloaded.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Proceedings of the IEEE 86(11).

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        root: Folder that holds ``MNIST/raw/``.

    Returns:
        Images (n, 1, 28, 28), float32 from 0 to 1, and labels (n,), integers from 0 to 9.

    Raises:
        InputError: If the split is unknown, or a file is missing and cannot be downloaded.
        MissingExtraError: If torchvision is not installed (extra ``data``).

    Example:
        >>> images, labels = mnist("train")  # doctest: +SKIP
        >>> images.shape  # doctest: +SKIP
        torch.Size([60000, 1, 28, 28])
    """
    with error_prefix("mnist"):
        _check_split(split, tuple(_MNIST_FILES))
        dataset_type = import_extra("torchvision.datasets", "data").MNIST
        named = os.environ.get(DATA_VARIABLE) or None if root is None else root
        if named is not None:
            folder = Path(named).expanduser()
            _check_files(folder, split)
            dataset = dataset_type(str(folder), train=split == "train")
        else:
            dataset = _downloaded(dataset_type, split)
    return dataset.data.unsqueeze(1).float() / 255, dataset.targets


def _downloaded(dataset_type: Any, split: str) -> Any:
    folder = Path(torch.hub.get_dir()).parent / "isoreg"
    try:
        return dataset_type(str(folder), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{_MNIST_FILES[split][0]} is not in {folder / 'MNIST' / 'raw'} and could not be "
            f"downloaded ({error}). {_ADVICE}"
        ) from error


def _check_files(folder: Path, split: str) -> None:
    raw = folder / "MNIST" / "raw"
    for name in _MNIST_FILES[split]:
        if not (raw / name).is_file() and not (raw / f"{name}.gz").is_file():
            raise InputError(f"{name} is not in {raw}. {_ADVICE}")


def _check_split(split: str, allowed: tuple[str, ...]) -> None:
    if split not in allowed:
        raise InputError(f"split must be one of {', '.join(map(repr, allowed))}, got {split!r}.")


_ADVICE = (
    "Put the four MNIST files below a folder as MNIST/raw/ and name that folder, as root= or in "
    f"the environment variable {DATA_VARIABLE}; with neither, they are downloaded."
)
