"""Lower bounds of an MLP's accuracy under every attack in the L-inf ball, by linear relaxation.

Each activation is enclosed between two lines over the range of its input. The margin between two
logits then lies between two linear functions of the image, whose least value over a box is known.
The arithmetic is plain float64, not interval arithmetic, so a bound holds up to rounding.

Source: Zhang et al. (2018), "Efficient Neural Network Robustness Certification with General
Activation Functions" (CROWN), intersected with interval bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoreg.errors import InputError
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.mlp import ACTIVATIONS, Affine, Layer, layers_of
from isoreg.robustness.task import evenly

_NUMBERS_AT_ONCE = 20_000_000
_HALVINGS = 30
_COMPARED = 20


@dataclass(frozen=True)
class Lines:
    """Two lines around an activation: slopes and intercepts, (n, units) each."""

    low: Tensor
    low_at: Tensor
    high: Tensor
    high_at: Tensor


@torch.no_grad()
def check_same(classifier: PixelClassifier, pixels: Tensor) -> None:
    """Refuse a model whose logits, at some of the images, are not what its layers compute."""
    pixels = evenly(pixels, _COMPARED)
    x = classifier.normalisation(classifier.in_units(pixels.double())).flatten(1)
    for layer in layers_of(classifier.model):
        x = x @ layer.weight.T + layer.bias if isinstance(layer, Affine) else ACTIVATIONS[layer](x)
    expected = classifier(pixels).double()
    if x.shape != expected.shape or not torch.allclose(x, expected, rtol=1e-2, atol=1e-2):
        raise InputError(
            "certified=True bounds what the layers compute, got a model that returns something "
            "else. Leave certified out: the report is then an upper bound alone."
        )


def certified(
    classifier: PixelClassifier, pixels: Tensor, labels: Tensor, size: float
) -> list[bool]:
    r"""Which images no change of at most ``size`` a pixel can make the model misclassify.

    An image counts if for each other class j the bound proves

    .. math:: \min_{\|x' - x\|_\infty \le \epsilon,\; x' \in [0, 1]^d} f_y(x') - f_j(x') > 0

    Args:
        classifier: Around an MLP.
        pixels: (n, ...) from 0 to 1.
        labels: (n).
        size: Radius, in those pixels.

    Returns:
        A truth value an image; False where the bound is too loose to say.

    Raises:
        InputError: If the model is no MLP.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> classifier = PixelClassifier(model, bounds=(-1, 1), mean=None, std=None)
        >>> certified(classifier, torch.tensor([[0.8], [0.6]]), torch.tensor([0, 0]), 0.2)
        [True, False]
    """
    layers = layers_of(classifier.model)
    widest = max([pixels[0].numel(), *(len(x.bias) for x in layers if isinstance(x, Affine))])
    verdicts: list[bool] = []
    at_once = max(1, _NUMBERS_AT_ONCE // widest**2)
    for x, y in zip(pixels.split(at_once), labels.split(at_once), strict=True):
        ends = [(x + change).clamp(0, 1).double() for change in (-size, size)]
        low, high = (classifier.normalisation(classifier.in_units(end)).flatten(1) for end in ends)
        verdicts += (least_margin(layers, low, high, y) > 0).tolist()
    return verdicts


@torch.no_grad()
def least_margin(layers: list[Layer], low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Lower bounds (n) of the margin over all points of the boxes from low to high, (n, d)."""
    steps: list[Affine | Lines] = []  # the layers so far, with lines in place of activations
    bounds = low, high
    for layer in layers:
        if isinstance(layer, Affine):
            steps.append(layer)
            middle, radius = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
            middle = middle @ layer.weight.T + layer.bias
            radius = radius @ layer.weight.abs().T
            bounds = middle - radius, middle + radius
            if len(steps) > 1:  # the first layer's interval is exact
                rows = torch.eye(len(layer.bias)).to(low).expand(len(low), -1, -1)
                least = _lower_bounds(rows, steps, low, high)
                most = -_lower_bounds(-rows, steps, low, high)
                bounds = torch.maximum(bounds[0], least), torch.minimum(bounds[1], most)
        else:
            steps.append(_lines(layer, *bounds))
            bounds = ACTIVATIONS[layer](bounds[0]), ACTIVATIONS[layer](bounds[1])
    classes = bounds[0].shape[1]
    one_hot = torch.eye(classes).to(low)[labels]
    rows = one_hot[:, None] - torch.eye(classes).to(low)
    margins = _lower_bounds(rows, steps, low, high)
    return margins.masked_fill(one_hot.bool(), torch.inf).amin(1)


def _lower_bounds(rows: Tensor, steps: list[Affine | Lines], low: Tensor, high: Tensor) -> Tensor:
    """Lower bounds (n, m) of rows (n, m, outputs) times the output of the steps."""
    total = rows.new_zeros(rows.shape[:2])
    for step in reversed(steps):
        if isinstance(step, Affine):
            total = total + rows @ step.bias
            rows = rows @ step.weight
        else:
            above, below = rows.clamp(min=0), rows.clamp(max=0)
            ends = (above, step.low_at), (below, step.high_at)
            total = total + sum((half * intercepts[:, None]).sum(2) for half, intercepts in ends)
            rows = above * step.low[:, None] + below * step.high[:, None]
    above, below = rows.clamp(min=0), rows.clamp(max=0)
    return total + (above @ low[..., None] + below @ high[..., None])[..., 0]


def _lines(kind: type[nn.Module], low: Tensor, high: Tensor) -> Lines:
    """Lines below and above an activation over a range."""
    if kind is nn.ReLU:
        crossing = (low < 0) & (high > 0)
        chord = torch.where(crossing, high / (high - low), (low >= 0).to(low))
        below = torch.where(crossing, (high > -low).to(low), chord)
        return Lines(below, torch.zeros_like(low), chord, torch.where(crossing, -chord * low, 0))
    half = 2 if kind is nn.Sigmoid else 1  # sigmoid(x) is (1 + tanh(x / 2)) / 2
    low, high = low / half, high / half
    above, above_at = _above_tanh(low, high)
    below, minus_below_at = _above_tanh(-high, -low)  # tanh(-x) is -tanh(x)
    lines = below, -minus_below_at, above, above_at
    if kind is nn.Tanh:
        return Lines(*lines)
    return Lines(*(x / 4 if at % 2 == 0 else (1 + x) / 2 for at, x in enumerate(lines)))


def _above_tanh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line above tanh: a tangent at a point above 0, or the chord."""
    at_low = low.tanh()
    # A tangent at a point >= 0 is above the whole curve if it is above the curve's lower end.
    lower, touch = torch.zeros_like(low), high.clamp(min=0)
    for _ in range(_HALVINGS):
        middle = (lower + touch) / 2
        value = middle.tanh()
        over = value + (1 - value.square()) * (low - middle) >= at_low
        lower, touch = torch.where(over, lower, middle), torch.where(over, middle, touch)
    touch = torch.where(low >= 0, (low + high) / 2, touch)
    value = touch.tanh()
    slope = 1 - value.square()
    is_tangent = value + slope * (low - touch) >= at_low
    chord = (high.tanh() - at_low) / (high - low).clamp_min(1e-12)
    return (
        torch.where(is_tangent, slope, chord),
        torch.where(is_tangent, value - slope * touch, at_low - chord * low),
    )
