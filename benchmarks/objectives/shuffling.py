"""The control of isometry: what features are compared with, exchanged within each class."""

from __future__ import annotations

import torch
from torch import Tensor


class Exchanged:
    """The images of a batch, exchanged within their classes: a callable for ``inputs=``."""

    def __init__(self) -> None:
        self._labels: Tensor | None = None

    def use(self, labels: Tensor) -> None:
        """Labels of the next batch.

        Args:
            labels: (n) or, of mixed images, (n, classes), where the largest counts.
        """
        self._labels = labels if labels.ndim == 1 else labels.argmax(1)

    def __call__(self, images: Tensor, *_: object) -> Tensor:
        """For each image another one of its class."""
        assert self._labels is not None
        return images[shuffle_within(self._labels)]


def shuffle_within(labels: Tensor) -> Tensor:
    """For each sample a random one of its class: a permutation."""
    partners = torch.empty_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        partners[members] = members[torch.randperm(len(members))]
    return partners
