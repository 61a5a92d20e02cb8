"""Data sets: real, complete, and clear about what is missing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from isoreg import InputError, MissingExtraError, errors
from isoreg.datasets import digits, mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def write_mnist(root: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Files in the format of yann.lecun.com: big-endian header, then bytes; tests backwards."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    shape, n = struct.pack(">IIII", 2051, *images.shape), struct.pack(">II", 2049, len(labels))
    for prefix, step in (("train", 1), ("t10k", -1)):
        pixels, classes = images.numpy()[::step].tobytes(), labels.numpy()[::step].tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(shape + pixels)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(n + classes)


def test_digits_are_all_of_scikit_learns_once_and_real() -> None:
    from sklearn.datasets import load_digits

    splits = [digits(split) for split in ("train", "validation", "test")]
    images = torch.cat([images for images, _ in splits]).flatten(1) * 16
    labels = torch.cat([labels for _, labels in splits])
    ours = sorted(map(tuple, torch.cat([images, labels[:, None]], 1).int().tolist()))
    theirs = load_digits()
    expected = sorted(
        (*map(int, row), int(label)) for row, label in zip(theirs.data, theirs.target, strict=True)
    )
    assert ours == expected


def test_digits_have_the_promised_shape_range_and_balance() -> None:
    images, labels = digits("train")
    assert images.shape == (1077, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0, 1)
    assert labels.bincount().min() > 100


# what was measured on a split counts only as long as it is the same split
FIRST = {
    "train": [7, 8, 9, 6, 7, 1, 7, 4, 0, 3, 1, 1],
    "validation": [5, 0, 5, 9, 7, 1, 8, 1, 9, 2, 5, 2],
    "test": [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6],
}


@pytest.mark.parametrize("split", FIRST)
def test_digits_come_in_the_same_order_every_time(split: str) -> None:
    with torch.device("meta"):  # the user's default device
        again = digits(split)
    torch.testing.assert_close(digits(split), again, rtol=0, atol=0)
    assert digits(split)[1][:12].tolist() == FIRST[split]
    assert len(digits(split)[0]) == {"train": 1077}.get(split, 360)


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^digits: split .*'validation'.*'dev'"):
        digits("dev")
    with pytest.raises(InputError, match=r"^mnist: split .*'train'.*'validation'"):
        mnist("validation")


def test_mnist_is_read_from_root_scaled_and_with_a_channel(tmp_path: Path) -> None:
    pixels = torch.randint(256, (7, 28, 28), dtype=torch.uint8)
    write_mnist(tmp_path, pixels, torch.arange(7, dtype=torch.uint8))
    images, labels = mnist("train", tmp_path)
    torch.testing.assert_close(images, pixels[:, None].float() / 255)
    assert labels.tolist() == list(range(7))
    assert labels.dtype == torch.int64
    assert mnist("test", tmp_path)[1].tolist() == [*range(6, -1, -1)]


def test_root_goes_before_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.zeros(2, 28, 28, dtype=torch.uint8)
    write_mnist(tmp_path / "here", pixels, torch.ones(2, dtype=torch.uint8))
    write_mnist(tmp_path / "there", pixels, torch.zeros(2, dtype=torch.uint8))
    monkeypatch.setenv("ISOREG_DATA", str(tmp_path / "there"))
    assert mnist("train", tmp_path / "here")[1].tolist() == [1, 1]
    assert mnist("train")[1].tolist() == [0, 0]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows' name of it
    assert mnist("train", "~/here")[1].tolist() == [1, 1]
    monkeypatch.setenv("ISOREG_DATA", "~/there")
    assert mnist("train")[1].tolist() == [0, 0]
    monkeypatch.chdir(tmp_path / "here")
    assert mnist("train", "")[1].tolist() == [1, 1]


def test_files_may_be_packed_and_those_of_the_split_are_needed(tmp_path: Path) -> None:
    pixels = torch.randint(256, (7, 28, 28), dtype=torch.uint8)
    write_mnist(tmp_path, pixels, torch.arange(7, dtype=torch.uint8))
    raw, whole = tmp_path / "MNIST" / "raw", mnist("train", tmp_path)
    for file in list(raw.iterdir()):
        if file.name.startswith("train"):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    torch.testing.assert_close(mnist("train", tmp_path), whole, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"^mnist: t10k-images-idx3-ubyte is not in"):
        mnist("test", tmp_path)
    (raw / f"{LABELS}.gz").unlink()
    with pytest.raises(InputError, match=f"^mnist: {LABELS} is not in"):
        mnist("train", tmp_path)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        (IMAGES, b""),
        (IMAGES, b"<html>not found</html>"),
        (IMAGES, struct.pack(">IIII", 2051, 7, 28, 28) + bytes(100)),  # the rest is missing
        (LABELS, struct.pack(">II", 2049, 6) + bytes(6)),  # one label less
        (LABELS, struct.pack(">II", 3329, 7) + bytes(28)),  # floating labels
        (f"{IMAGES}.gz", b"not packed"),
        (f"{IMAGES}.gz", gzip.compress(bytes(1000), mtime=0)[:12]),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(name: str, held: bytes, tmp_path: Path) -> None:
    pixels = torch.zeros(7, 28, 28, dtype=torch.uint8)
    write_mnist(tmp_path, pixels, torch.arange(7, dtype=torch.uint8))
    raw = tmp_path / "MNIST" / "raw"
    (raw / name.removesuffix(".gz")).unlink()
    (raw / name).write_bytes(held)
    with pytest.raises(InputError, match=r"^mnist: .*MNIST/raw.*Put the four MNIST files"):
        mnist("train", tmp_path)


def test_a_root_that_is_no_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"^mnist: root must be a folder or None, got 5\."):
        mnist("train", 5)  # type: ignore[arg-type]


def test_a_missing_file_is_named_with_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        mnist("train", tmp_path)
    text = str(caught.value)
    assert text.startswith("mnist: train-images-idx3-ubyte is not in ")
    assert str(tmp_path / "MNIST" / "raw") in text
    assert "ISOREG_DATA" in text


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_download_is_asked_for_the_split_that_the_user_named(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(folder: str, *, train: bool, download: bool) -> None:
        asked.append((folder, train, download))
        write_mnist(Path(folder), torch.zeros(3, 28, 28).byte(), torch.arange(3).byte())

    monkeypatch.delenv("ISOREG_DATA", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torchvision.datasets.MNIST", fetch)
    images, labels = mnist(split)
    assert asked == [(str(tmp_path / "isoreg"), split == "train", True)]
    assert images.shape == (3, 1, 28, 28)
    assert sorted(labels.tolist()) == [0, 1, 2]


def test_a_failed_download_says_how_to_get_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.delenv("ISOREG_DATA", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torchvision.datasets.MNIST", refuse)
    with pytest.raises(InputError, match=r"(?s)^mnist: .*no network.*MNIST/raw/.*root="):
        mnist("test")


def test_a_missing_package_is_an_error_that_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"nothing_like_it.*isoreg\[plots\]"):
        errors.import_extra("nothing_like_it.inner", "plots")


def test_an_error_inside_an_installed_package_is_not_called_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import nothing_like_it\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_like_it") as caught:
        errors.import_extra("broken_package", "plots")
    assert not isinstance(caught.value, MissingExtraError)
