"""The paper's own architecture: locally isometric layers, and a stack of them over a hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg._tables import check_dense
from isoreg.errors import InputError, check_integer, check_not_negative, error_prefix
from isoreg.masks import IGNORED
from isoreg.penalty import isometry_penalty

# The number of LILs that the loss of a level reaches, its own included; None: all up to its own.
GRADIENTS: dict[str, int | None] = {"own": 1, "preceding": 2, "full": None}
REFERENCES = ("inputs", "preceding")
HEADS = ("shared", "own")


class LocallyIsometricLayer(nn.Sequential):
    r"""A stack of linear layers and activations, trained to keep distances within each class.

    .. math::
        L = \alpha\, \text{CE} + \beta\, \frac{1}{N^2} \| G \odot D_M - G \odot D_\Phi \|_F^2

    This module is the map to Phi; `isometry` is the second term.

    Source: section 2.2 of "Isometric Representations in Neural Networks Improve Robustness"
    (Beshkov, Verhellen and Lepperød, 2022), whose layers are tanh.

    Args:
        in_features: Dimensions of a point.
        width: Units of each layer, and dimensions of a feature.
        depth: Number of linear layers.
        activation: Called without arguments, makes the module behind each linear layer.

    Raises:
        InputError: If a number is below 1, or ``activation`` does not make modules.

    Example:
        >>> import torch
        >>> layer = LocallyIsometricLayer(3, width=20)
        >>> points, labels = torch.rand(10, 3), torch.arange(10) % 2
        >>> features = layer(points)
        >>> features.shape, layer.isometry(points, features, labels).shape
        (torch.Size([10, 20]), torch.Size([]))
    """

    def __init__(
        self,
        in_features: int,
        *,
        width: int = 20,
        depth: int = 4,
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        with error_prefix("LocallyIsometricLayer"):
            for name, number in (("in_features", in_features), ("width", width), ("depth", depth)):
                check_integer(name, number, 1)
            modules: list[nn.Module] = []
            for index in range(depth):
                linear = nn.Linear(width if index else in_features, width)
                modules += [linear, _make(activation)]
        super().__init__(*modules)
        self.in_features = in_features

    def forward(self, x: Tensor) -> Tensor:
        """The features of points.

        Args:
            x: (N, in_features) points, of the dtype of the weights.

        Returns:
            (N, width) features.

        Raises:
            InputError: If the points have another width or dtype.
        """
        with error_prefix("LocallyIsometricLayer"):
            _check_points(x, self)
        for module in self:
            x = module(x)
        return x

    def isometry(self, reference: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """The penalty of features against the points whose distances they should keep.

        Args:
            reference: (N, ...) points.
            features: (N, width) output of this layer for the same samples.
            labels: As in `isoreg.isometry_penalty`.

        Returns:
            A scalar.
        """
        return isometry_penalty(reference, features, labels)


class StackedLIL(nn.Module):
    r"""Locally isometric layers on top of each other, one for each level of a label hierarchy.

    The loss is the sum over levels k of

    .. math::
        \alpha\, \text{CE}(\text{head}(\Phi_k), y_k) +
        \beta\, \frac{1}{N^2} \| G_k \odot D_M - G_k \odot D_{\Phi_k} \|_F^2

    A shared head has one output for each class of the largest level; a level uses the first of
    them. With ``heads="own"`` each level has a linear head of its own.

    Source: section 2.3 and figure 4 of the paper: 4 layers of 20 tanh units, one shared head, and
    a loss of each level that does not reach the levels before it.

    Args:
        in_features: Dimensions of a point.
        classes: Number of classes of each level, from the first LIL to the last.
        width: Units of each layer.
        depth: Layers of each LIL.
        gradients: How far the loss of a level reaches: "own" (its LIL alone), "preceding" (also
            the LIL before it) or "full" (all before it).
        heads: "shared" or "own".
        reference: What the features of a level are compared with: "inputs" (the original points)
            or "preceding" (the features of the LIL before it, as constants).

    Raises:
        InputError: If an option is unknown, or ``classes`` is empty or holds a number below 2.

    Example:
        >>> from isoreg.datasets import torus
        >>> points, levels = torus(100)
        >>> model = StackedLIL(3, [2, 4, 8])
        >>> [tuple(logits.shape) for logits in model(points)]
        [(100, 2), (100, 4), (100, 8)]
        >>> model.loss(points, levels, beta=100.0).backward()
    """

    def __init__(
        self,
        in_features: int,
        classes: Sequence[int],
        *,
        width: int = 20,
        depth: int = 4,
        gradients: str = "own",
        heads: str = "shared",
        reference: str = "inputs",
    ) -> None:
        super().__init__()
        with error_prefix("StackedLIL"):
            _check_choice("gradients", gradients, GRADIENTS)
            _check_choice("heads", heads, HEADS)
            _check_choice("reference", reference, REFERENCES)
            if not isinstance(classes, Sequence) or not classes:
                raise InputError(f"classes must be a list of a number a level, got {classes!r}.")
            for number in classes:
                check_integer("a number of classes", number, 2)
            self.lils = nn.ModuleList(
                LocallyIsometricLayer(width if index else in_features, width=width, depth=depth)
                for index in range(len(classes))
            )
        outputs = [max(classes)] if heads == "shared" else list(classes)
        self.heads = nn.ModuleList(nn.Linear(width, number) for number in outputs)
        self.in_features = in_features
        self.classes = tuple(classes)
        self.gradients = gradients
        self.reference = reference

    def features(self, x: Tensor) -> list[Tensor]:
        """Features after each LIL; their graphs reach as far back as ``gradients`` says.

        Args:
            x: (N, in_features) points.

        Returns:
            A tensor (N, width) for each level.

        Raises:
            InputError: If the points have another shape.
        """
        with error_prefix("StackedLIL"):
            _check_points(x, self)
            if x.ndim != 2:
                raise _shape_error(x, self.in_features)
        reach = GRADIENTS[self.gradients]
        outputs: list[Tensor] = []
        entering = [x]
        for level in range(len(self.lils)):
            # if a loss reaches further than its own LIL, the LILs before that run once more
            first = level if reach is None else max(0, level + 1 - reach)
            h = entering[first]
            for lil in self.lils[first : level + 1]:
                h = lil(h)
            outputs.append(h)
            entering.append(h if reach is None else h.detach())
        return outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of each level.

        Args:
            x: (N, in_features) points.

        Returns:
            A tensor (N, classes) for each level.

        Raises:
            InputError: If the points have another shape.
        """
        return self._logits(self.features(x))

    def loss(
        self, x: Tensor, levels: Sequence[Tensor], *, alpha: float = 1.0, beta: float = 1.0
    ) -> Tensor:
        """Sum over levels of cross-entropy and isometry penalty.

        Args:
            x: (N, in_features) points.
            levels: Labels (N,) of each level, -100 (`isoreg.masks.IGNORED`) for samples without a
                class in it.
            alpha: Weight of the cross-entropy.
            beta: Weight of the penalty.

        Returns:
            A scalar.

        Raises:
            InputError: If points, levels or labels do not fit, or a weight is negative.
        """
        with error_prefix("StackedLIL.loss"):
            features = self.features(x)
            self._check_levels(len(x), levels)
            check_not_negative("alpha", alpha)
            check_not_negative("beta", beta)
            alpha, beta = float(alpha), float(beta)
            preceding = [x, *[h.detach() for h in features[:-1]]]
            references = preceding if self.reference == "preceding" else [x] * len(features)
            total = x.new_zeros(())
            terms = zip(references, features, self._logits(features), levels, strict=True)
            for reference, h, logits, y in terms:
                y = y.long()  # in uint8, class 156 equals IGNORED
                # without any label the sum is 0, but the mean would be NaN
                kind = "mean" if bool((y != IGNORED).any()) else "sum"
                total = total + alpha * F.cross_entropy(logits, y, reduction=kind)
                # the penalty is skipped at beta=0, because collapsed features make it slow
                if beta:
                    total = total + beta * isometry_penalty(reference, h, y)
        return total

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"classes={self.classes}, gradients={self.gradients!r}, reference={self.reference!r}"

    def _logits(self, features: list[Tensor]) -> list[Tensor]:
        heads = list(self.heads) * len(features)  # a shared head serves each level
        levels = zip(heads, features, self.classes, strict=False)
        return [head(h)[:, :classes] for head, h, classes in levels]

    def _check_levels(self, n: int, levels: Sequence[Tensor]) -> None:
        count = len(levels) if isinstance(levels, Sequence) else type(levels).__name__
        if count != len(self.classes):
            raise InputError(
                f"one tensor of labels for each of {len(self.classes)} levels is needed, "
                f"got {count}."
            )
        for index, (y, classes) in enumerate(zip(levels, self.classes, strict=True)):
            if isinstance(y, Tensor):
                check_dense(y, f"levels[{index}]")
            is_tensor = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex())
            if not is_tensor or y.shape != (n,):
                got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else repr(y)
                raise InputError(f"levels[{index}] must hold {n} integers, got {got}.")
            labels = y.long()
            labels = labels[labels != IGNORED]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise InputError(
                    f"levels[{index}] must hold classes from 0 to {classes - 1}, "
                    f"got {int(labels.min())} to {int(labels.max())}."
                )


def _check_points(x: Tensor, model: LocallyIsometricLayer | StackedLIL) -> None:
    if isinstance(x, Tensor):
        check_dense(x, "x")
    if not isinstance(x, Tensor) or x.shape[-1:] != (model.in_features,):
        raise _shape_error(x, model.in_features)
    weight = next(model.parameters(), x)
    can_cast = x.is_floating_point() and x.dtype != torch.float64  # which autocast leaves alone
    casts = can_cast and torch.is_autocast_enabled(x.device.type)
    if x.dtype != weight.dtype and not casts:
        raise InputError(
            f"x must be {weight.dtype} like the weights, got {x.dtype}. Try x.to({weight.dtype})."
        )


def _shape_error(x: object, width: int) -> InputError:
    got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
    return InputError(f"x must be points (N, {width}), got {got}. Try x.flatten(1).")


def _make(activation: Callable[[], nn.Module]) -> nn.Module:
    try:
        module = None if isinstance(activation, nn.Module) else activation()
    except TypeError:  # it is not callable, or it needs arguments
        module = None
    if not isinstance(module, nn.Module):
        raise InputError(
            "activation must make a module each time, as nn.Tanh does, got "
            f"{activation!r}. Give its class, or lambda: <the module>."
        )
    return module


def _check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    choices = list(allowed)
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
