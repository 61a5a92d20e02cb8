"""Real images of digits: those of scikit-learn, and MNIST."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from isoreg.errors import InputError, error_prefix, import_extra

DATA_VARIABLE = "ISOREG_DATA"
_BYTES = 8  # the type of an IDX file whose numbers are bytes
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
    """MNIST, from its IDX files, plain or packed (.gz).

    The files are looked for below ``root``, else below the folder that the environment variable
    ``ISOREG_DATA`` names. A named folder must hold ``MNIST/raw/`` with the files of the split, and
    nothing is downloaded. If no folder is named, torchvision downloads the files into the folder
    ``isoreg`` beside that of torch's hub.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Proceedings of the IEEE 86(11).

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        root: Folder that holds ``MNIST/raw/``.

    Returns:
        Images (n, 1, 28, 28), float32 from 0 to 1, and labels (n,), integers from 0 to 9.

    Raises:
        InputError: If the split is unknown, a file is damaged, or missing and cannot be downloaded.
        MissingExtraError: If torchvision, which downloads, is not installed (extra ``data``).

    Example:
        >>> images, labels = mnist("train")  # doctest: +SKIP
        >>> images.shape  # doctest: +SKIP
        torch.Size([60000, 1, 28, 28])
    """
    with error_prefix("mnist"):
        _check_split(split, tuple(_MNIST_FILES))
        base = os.environ.get(DATA_VARIABLE) or None if root is None else root
        if not isinstance(base, str | os.PathLike | None):
            raise InputError(f"root must be a folder or None, got {base!r}.")
        raw = (_downloaded(split) if base is None else Path(base).expanduser()) / "MNIST" / "raw"
        images, labels = [_read_idx(raw, name) for name in _MNIST_FILES[split]]
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InputError(
                f"the files of {split!r} in {raw} must hold images (n, h, w) and n labels, got "
                f"{tuple(images.shape)} and {tuple(labels.shape)}. {_ADVICE}"
            )
    return images.unsqueeze(1).float() / 255, labels.long()


def _downloaded(split: str) -> Path:
    dataset_type = import_extra("torchvision.datasets", "data").MNIST
    folder = Path(torch.hub.get_dir()).parent / "isoreg"
    try:
        dataset_type(str(folder), train=split == "train", download=True)
        return folder
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{_MNIST_FILES[split][0]} is not in {folder / 'MNIST' / 'raw'} and could not be "
            f"downloaded ({error}). {_ADVICE}"
        ) from error


def _read_idx(raw: Path, name: str) -> Tensor:
    """The bytes of an IDX file. Before them it has their type, and number and length of axes."""
    plain, packed = raw / name, raw / f"{name}.gz"
    if not plain.is_file() and not packed.is_file():
        raise InputError(f"{name} is not in {raw}. {_ADVICE}")
    file = plain if plain.is_file() else packed
    try:
        content = file.read_bytes()
        content = content if file is plain else gzip.decompress(content)
        kind, axes = struct.unpack_from(">HBB", content)[1:]
        shape = struct.unpack_from(f">{axes}I", content, 4)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}). {_ADVICE}") from error
    start = 4 + 4 * axes
    if kind != _BYTES or not len(content) == start + math.prod(shape) > start:
        raise InputError(
            f"{file} must be a whole IDX file of bytes, got {len(content)} bytes. {_ADVICE}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def _check_split(split: str, allowed: tuple[str, ...]) -> None:
    if split not in allowed:
        raise InputError(f"split must be one of {', '.join(map(repr, allowed))}, got {split!r}.")


_ADVICE = (
    "Put the four MNIST files below a folder as MNIST/raw/ and name that folder, as root= or in "
    f"the environment variable {DATA_VARIABLE}; with neither, they are downloaded."
)
