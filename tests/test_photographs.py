"""Reading photographs: tars and class folders, decoded once, and what is said if there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from photographs import CLASSES, fake_photographs
from PIL import Image

from benchmarks import photographs


@pytest.mark.parametrize("tar", [True, False])
def test_images_come_class_by_class_from_a_tar_or_folders(tmp_path: Path, tar: bool) -> None:
    fake_photographs(tmp_path, "test", 3, tar=tar)
    images, labels = photographs.read("test", tmp_path)
    assert images.shape == (30, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [label for label in range(len(CLASSES)) for _ in range(3)]
    rows = images.float().mean((1, 3))
    assert all(rows[3 * label, label : label + 3].mean() > 90 for label in range(10))


def test_the_folder_that_is_named_may_itself_hold_the_splits(tmp_path: Path) -> None:
    fake_photographs(tmp_path, "train", 1)
    assert len(photographs.read("train", tmp_path / "cifar10-jpeg")[0]) == 10


def test_a_colour_survives_decoding(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "red"
    folder.mkdir(parents=True)
    Image.new("RGB", (48, 40), (200, 0, 90)).save(folder / "0.png")
    images, _ = photographs.read("train", tmp_path, size=16)
    assert images.shape == (1, 3, 16, 16)
    assert images[0, :, 8, 8].tolist() == [200, 0, 90]


def test_images_are_decoded_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_photographs(tmp_path / "a", "test", 1)
    fake_photographs(tmp_path / "b", "test", 2)
    cache = tmp_path / "cache"
    first = photographs.read("test", tmp_path / "a", cache)
    assert len(photographs.read("test", tmp_path / "b", cache)[0]) == 20
    monkeypatch.setattr(photographs, "_decoded", lambda *_: pytest.fail("decoded again"))
    again = photographs.read("test", tmp_path / "a", cache)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"train\.tar is not there"):
        photographs.read("train", tmp_path, tmp_path / "cache")


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("ISOREG_DATA", raising=False)
    monkeypatch.setattr("timm.data.create_dataset", refuse)
    with pytest.raises(SystemExit, match=r"no route.*--data-dir"):
        photographs.read("test", None)
