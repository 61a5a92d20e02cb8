"""Photographs for tests: their colours tell the class. The folder of tests is on the path."""

from __future__ import annotations

import tarfile
from pathlib import Path

import torch
from PIL import Image

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def fake_photographs(folder: Path, split: str, each: int, *, tar: bool = True) -> None:
    """JPEG files of 32 by 32 pixels in one folder a class, in a tar unless told otherwise."""
    images = folder / "cifar10-jpeg" / split
    for label, name in enumerate(CLASSES):
        (images / name).mkdir(parents=True)
        for index in range(each):
            noise = torch.randint(0, 60, (32, 32, 3), dtype=torch.uint8)
            noise[label : 3 * label + 3] += 100
            Image.fromarray(noise.numpy()).save(images / name / f"{index}.jpg")
    if tar:
        with tarfile.open(images.with_suffix(".tar"), "w") as archive:
            archive.add(images, arcname=split)
