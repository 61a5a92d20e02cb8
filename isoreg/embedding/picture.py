"""A map drawn with a scale bar, since a length on it is a distance."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoreg.embedding.targets import UNKNOWN, class_codes
from isoreg.errors import InputError, import_extra
from isoreg.plots import COLOURS

_SMALL = 8
_DIRECT = 24  # more classes than this are not named on the map
_GREY = "#999999"


def draw(points: NDArray[Any], labels: NDArray[Any] | None, unit: str, axes: Any) -> Any:
    """Draw a map: equal axes without ticks, classes named where they are, a scale bar.

    Args:
        points: (n, 2) points.
        labels: (n,) classes, -1 in grey, or None.
        unit: What is written behind the length of the bar.
        axes: matplotlib axes, or None for those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: If there is no point, the labels are not as many, or no classes.
    """
    if not len(points) or (labels is not None and len(labels) != len(points)):
        got = f"{len(points)} points" + ("" if labels is None else f" and {len(labels)} labels")
        raise InputError(f"there must be a point to draw, and one label for each, got {got}.")
    if axes is None:
        figure = import_extra("matplotlib.figure", "plots").Figure(
            figsize=(5, 5), layout="constrained"
        )
        axes = figure.subplots()
    ink, ground = _ink(axes)
    size = float(np.clip(8000 / len(points), 4, 20))
    style = {"s": size, "alpha": 0.75, "linewidths": 0}
    if labels is None:
        axes.scatter(*points.T, color=COLOURS[0], **style)
    else:
        _scatter_classes(axes, points, labels, style, ink, ground)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _scale_bar(axes, points, unit, ink)
    return axes


def _ink(axes: Any) -> tuple[Any, Any]:
    """What can be read on the axes' ground, and that ground; None: there is none, but a page's."""
    colors, rc = import_extra("matplotlib.colors", "plots"), import_extra("matplotlib", "plots")
    grounds = (axes.get_facecolor(), axes.figure.get_facecolor())
    ground = next((each for each in grounds if colors.to_rgba(each)[3] > 0), None)
    if ground is None:
        return rc.rcParams["text.color"], None
    brightness = float(np.dot(colors.to_rgb(ground), (0.299, 0.587, 0.114)))
    return "black" if brightness > 0.5 else "white", ground


def _scatter_classes(
    axes: Any,
    points: NDArray[Any],
    labels: NDArray[Any],
    style: dict[str, Any],
    ink: Any,
    ground: Any,
) -> None:
    effects = import_extra("matplotlib.patheffects", "plots")
    colormaps = import_extra("matplotlib", "plots").colormaps
    halo = [] if ground is None else [effects.withStroke(linewidth=2.5, foreground=ground)]
    try:
        codes, values = class_codes(labels)
    except ValueError as error:  # scikit-learn's own of numbers that are no classes
        raise InputError(f"labels must be classes, one for each point ({error}).") from error
    names = values.tolist()
    many = colormaps["tab10" if len(names) <= 10 else "tab20"].colors
    colours = COLOURS if len(names) <= len(COLOURS) else many
    axes.scatter(*points[codes == UNKNOWN].T, color=_GREY, **style)
    for code, (name, colour) in enumerate(zip(names, cycle(colours), strict=False)):
        own = points[codes == code]
        axes.scatter(*own.T, color=[colour], label=str(name), **style)
        if len(names) <= _DIRECT:
            axes.text(
                *np.median(own, axis=0),
                str(name),
                color=ink,
                fontsize=_SMALL,
                ha="center",
                va="center",
                path_effects=halo,
            )


def _scale_bar(axes: Any, points: NDArray[Any], unit: str, ink: Any) -> None:
    """A bar of a round length, about a fifth of the map, below its left corner."""
    low, high = points.min(0), points.max(0)
    width = float((high - low).max())
    if width == 0:
        return
    power = 10.0 ** math.floor(math.log10(width / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width / 4)
    at = low[1] - 0.06 * width
    axes.plot([low[0], low[0] + length], [at, at], color=ink, linewidth=2, gid="scale bar")
    style = {"color": ink, "fontsize": _SMALL, "va": "top"}
    axes.text(low[0], at - 0.02 * width, f"{length:g} {unit}".strip(), **style)
