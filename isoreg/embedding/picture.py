"""A map drawn with a scale bar, since a length on it is a distance."""

from __future__ import annotations

import math
from collections import Counter
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isoreg.embedding.targets import UNKNOWN, read_targets
from isoreg.errors import InputError, import_extra
from isoreg.plots import COLOURS, as_written, ink_on, linear_axes

_SMALL = 8
_DIRECT = 24  # more classes than this are not named on the map
_GREY = "#999999"


class MapClasses(NamedTuple):
    """Which samples are of which class, and what the classes are called.

    Attributes:
        codes: (n,) numbers, -1 for samples that are drawn in grey.
        names: The text on the map for each number.
    """

    codes: NDArray[np.int64]
    names: list[str]


def drawn_classes(y: Any, n: int, known: NDArray[Any] | None) -> MapClasses:
    """The classes of samples; those of the map's fit come first and keep their numbers.

    Args:
        y: As in `isoreg.embedding.IsometricEmbedding.fit`; it may hold labels that are new.
        n: Number of samples.
        known: ``classes_`` of the map.

    Returns:
        The classes. A name is the label in the last column; the labels before it are added where
        two classes share that name.

    Raises:
        InputError: If y does not hold n labels of classes.
    """
    targets = read_targets(y, n, to_learn=False)
    rows = [tuple(row) for row in targets.names]
    old = [] if known is None else [tuple(row) for row in known.reshape(len(known), -1).tolist()]
    new = [row for row in rows if row not in old]
    order = rows if len(new) == len(rows) else old + new
    number = {row: code for code, row in enumerate(order)}
    codes = np.array([*(number[row] for row in rows), UNKNOWN])[targets.classes]
    last = Counter(row[-1] for row in order)
    names = [str(row[-1]) if last[row[-1]] == 1 else ", ".join(map(str, row)) for row in order]
    return MapClasses(codes, names)


def draw(points: NDArray[Any], classes: MapClasses | None, unit: str, axes: Any) -> Any:
    """Draw a map: equal axes without ticks, classes named where they are, a scale bar.

    Args:
        points: (n, 2) points.
        classes: Their classes, or None.
        unit: The text behind the length of the bar.
        axes: matplotlib axes, or None for those of a new figure.

    Returns:
        The axes.

    Raises:
        InputError: If there is no point, or the axes are not two linear ones.
    """
    if not len(points):
        raise InputError("there must be a point to draw, got none.")
    axes = linear_axes(axes, (5, 5))
    size = float(np.clip(8000 / len(points), 4, 20))
    style = {"s": size, "alpha": 0.75, "linewidths": 0}
    if classes is None:
        axes.scatter(*points.T, color=COLOURS[0], **style)
    else:
        _scatter_classes(axes, points, classes, style)
    shared = len(axes.get_shared_x_axes().get_siblings(axes)) > 1
    shared = shared or len(axes.get_shared_y_axes().get_siblings(axes)) > 1
    axes.set_aspect("equal", adjustable="box" if shared else "datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _scale_bar(axes, points, unit)
    return axes


def _scatter_classes(
    axes: Any, points: NDArray[Any], classes: MapClasses, style: dict[str, Any]
) -> None:
    ink, ground = ink_on(axes)
    effects = import_extra("matplotlib.patheffects", "plots")
    colormaps = import_extra("matplotlib", "plots").colormaps
    halo = [] if ground is None else [effects.withStroke(linewidth=2.5, foreground=ground)]
    codes, names = classes
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"].colors
    colours = COLOURS if len(names) <= len(COLOURS) else palette
    axes.scatter(*points[codes == UNKNOWN].T, color=_GREY, **style)
    for code, (name, colour) in enumerate(zip(names, cycle(colours), strict=False)):
        members = points[codes == code]
        if not len(members):
            continue
        axes.scatter(*members.T, color=[colour], label=as_written(name), **style)
        if len(names) <= _DIRECT:
            axes.text(
                *np.median(members, axis=0),
                as_written(name).lstrip(),
                color=ink,
                fontsize=_SMALL,
                ha="center",
                va="center",
                path_effects=halo,
            )


def _scale_bar(axes: Any, points: NDArray[Any], unit: str) -> None:
    """A bar of a round length, about a fifth of the map, below its left corner."""
    ink, low = ink_on(axes)[0], points.min(0)
    width = float((points - low).max())
    if width == 0:
        return
    power = 10.0 ** math.floor(math.log10(width / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width / 4)
    height = low[1] - 0.06 * width
    axes.plot([low[0], low[0] + length], [height, height], color=ink, linewidth=2, gid="scale bar")
    style = {"color": ink, "fontsize": _SMALL, "va": "top"}
    axes.text(low[0], height - 0.02 * width, f"{length:g} {as_written(unit)}".strip(), **style)
