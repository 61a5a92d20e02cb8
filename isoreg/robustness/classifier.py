"""The model as attacks see it: a function from pixels between 0 and 1 to logits."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress

import torch
from torch import Tensor, nn

from isoreg._random import same_numbers
from isoreg.errors import InputError
from isoreg.robustness.outputs import logits_of
from isoreg.robustness.stand_in import stand_in_for
from isoreg.robustness.state import copied
from isoreg.robustness.straight_through import guided
from isoreg.robustness.units import Normalisation, PerChannel


class PixelClassifier(nn.Module):
    """Logits of pixels from 0 to 1, which are scaled to the bounds and normalised for the model.

    If the model is quantised, gradients are those of its twin in floating point.

    Args:
        model: Images to logits.
        bounds: Smallest and largest pixel in the user's units.
        mean: A number, or one for each channel, in those units; or None.
        std: A number, or one for each channel; or None.
        dtype: The dtype that the model takes, if pixels have more digits; None: that of the pixels.

    Raises:
        InputError: If an argument or the model is unusable.

    Example:
        >>> doubled = PixelClassifier(nn.Identity(), bounds=(0, 2), mean=None, std=None)
        >>> doubled(torch.tensor([[0.5, 1.0]]))
        tensor([[1., 2.]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        bounds: tuple[float, float],
        mean: PerChannel | None,
        std: PerChannel | None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.bounds, self.dtype = bounds, dtype
        self.normalisation = Normalisation(mean, std)
        self.model = model
        self.stand_in = stand_in_for(model)
        self.shares = False  # whether copies may share the parameters, as calls do not change them
        self.seeds = False  # whether the model seeds the generators that attacks draw from too

    def with_model(self, model: nn.Module) -> PixelClassifier:
        """Another model behind the same units, in eval mode."""
        classifier = PixelClassifier(
            model, bounds=self.bounds, mean=None, std=None, dtype=self.dtype
        )
        classifier.normalisation, classifier.seeds = self.normalisation, self.seeds
        with suppress(NotImplementedError, AttributeError):  # some models have no other mode
            classifier.eval()
        return classifier

    def copied(self) -> PixelClassifier:
        """A copy with a state of its own; itself, if the model cannot be copied."""
        copy = copied(self.model, share=self.shares)
        return self if copy is None else self.with_model(copy)

    def in_float32(self) -> PixelClassifier | None:
        """A copy that computes in float32; None, if the model cannot be copied."""
        copy = copied(self.model, share=False)
        if copy is None:
            return None
        classifier = self.with_model(copy.float())
        classifier.dtype = torch.float32
        return classifier

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) of pixels (n, ...) from 0 to 1; an output without any is refused."""
        x = self.normalisation(self.as_given(pixels))
        with same_numbers() if self.seeds else nullcontext():
            if self.stand_in is None:
                return _logits(self.model, x)
            logits = _logits(self.model, x.detach())
            return guided(logits, _logits(self.stand_in, x)) if x.requires_grad else logits

    def as_given(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 1 in the units and the dtype of the user's images."""
        return self.in_units(pixels).to(self.dtype or pixels.dtype)

    def in_units(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 1 in the user's units, between the bounds."""
        low, high = self.bounds
        return low + pixels * (high - low)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits; a single image is passed twice if the model does not take it alone."""
    try:
        return logits_of(model(x), len(x))
    except Exception as error:  # batch statistics, or a graph that was exported for two or more
        if len(x) == 1:
            with suppress(Exception):
                return logits_of(model(torch.cat([x, x])), 2)[:1]
        guard = re.search(r"Guard failed: .*\.size\(\)\[0\] (.+)", str(error))
        if guard:  # torch.export has no class of its own for this error
            raise InputError(
                "the model must take batches of every size, got one that was exported for a batch "
                f"size {guard[1]}, and {len(x)} images. Export it with dynamic_shapes, of which "
                "the first axis is torch.export.Dim.DYNAMIC."
            ) from error
        raise
