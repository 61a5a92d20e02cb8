"""Figures that fit a column (3.4 inches): distances kept, and robust accuracy (extra ``plots``).

Each function draws on the given matplotlib axes, or on those of a new figure, and returns them:
``shepard(x, phi, y).figure.savefig("shepard.png", dpi=200)``. The colours are those of Okabe and
Ito, which colour-blind readers can tell apart; lines differ in dash and marker as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, cycle
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from isoreg.diagnostics import Distortion, distances_within, distortion_of
from isoreg.distances import Metric
from isoreg.errors import InputError, check_integer, error_prefix, import_extra
from isoreg.report import IsometryReport
from isoreg.robustness import RobustnessReport

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE = (3.4, 2.6)
_LAYER = 0.3  # width of a layer's number, in inches
_LETTER = 0.055  # width of a letter of a layer's name, in inches
_LONG = 20  # slanted names with more letters leave no room beside the axes
_LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue
_SMALL = 8


def shepard(
    inputs: Tensor,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
    axes: Any = None,
) -> Any:
    """Draw the distances of pairs before and after the map; kept distances are on the diagonal.

    Args:
        inputs: (N, ...) inputs.
        features: (N, ...) features of the same samples.
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        axes: matplotlib axes to draw on, with linear scales; None: new ones.

    Returns:
        The axes.

    Raises:
        InputError: If shapes disagree, no pair is left, or a distance is not finite.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> x = torch.rand(20, 3)
        >>> shepard(x, 2 * x).get_xlabel()
        'distance between inputs'
    """
    with error_prefix("shepard"):
        distances = distances_within(inputs, features, labels, distance=distance)
        dx, dphi = (d.cpu() for d in distances)  # matplotlib reads only CPU tensors
        _check_pairs(dx, dphi)
        axes = linear_axes(axes)
    longest = float(max(dx.max(), dphi.max())) or 1.0
    right, top = ((float(d.max()) or longest) * 1.05 for d in (dx, dphi))
    cells = {"gridsize": 40, "extent": (0, right, 0, top)}  # the data may be one point
    axes.hexbin(dx, dphi, **cells, mincnt=1, bins="log", cmap="cividis", linewidths=0.1)
    axes.axline((0, 0), slope=1, color=COLOURS[1], linewidth=1, linestyle="--", label="kept")
    axes.legend(fontsize=_SMALL - 1, frameon=False, loc="upper left")
    measured = distortion_of(dx, dphi)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    numbers = f"r = {measured.correlation:.3f}, stress = {measured.stress:.3f}"
    title = f"{numbers}, {measured.pairs:,} pair{'s' * (measured.pairs != 1)}\n(bright: many)"
    _label(axes, "distance between inputs", "distance between features", title)
    return axes


def distance_histograms(
    inputs: Tensor,
    features: Tensor | Mapping[str, Tensor],
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
    bins: int = 40,
    axes: Any = None,
) -> Any:
    """Draw histograms of the distances within classes, of the inputs and of one or more features.

    Args:
        inputs: (N, ...) inputs.
        features: (N, ...) features, or several of them by name, other than "inputs".
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        bins: Number of bins, which all histograms share.
        axes: matplotlib axes to draw on, with linear scales; None: new ones.

    Returns:
        The axes.

    Raises:
        InputError: If shapes disagree, no pair is left, or a distance is not finite.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> x = torch.rand(20, 3)
        >>> axes = distance_histograms(x, {"plain": x / 9, "isometry": x})
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['inputs', 'plain', 'isometry']
    """
    curves: dict[str, Tensor] = {}
    with error_prefix("distance_histograms"):
        check_integer("bins", bins, 1)
        named = _named(features, "features", "features", Tensor)
        if "inputs" in named:
            raise InputError("features must have other names than 'inputs', which is taken.")
        for name, phi in named.items():
            curves["inputs"], curves[name] = distances_within(
                inputs, phi, labels, distance=distance
            )
        _check_pairs(*curves.values())
        axes = linear_axes(axes)
    top = max(float(d.max()) for d in curves.values()) or 1.0
    styles = zip(chain([ink_on(axes)[0]], cycle(COLOURS)), cycle(_DASHES), strict=False)
    for (name, distances), (colour, dash) in zip(curves.items(), styles, strict=False):
        counts, edges = torch.histogram(distances.cpu(), bins, range=(0.0, top))
        shares = 100 * counts / len(distances)
        style = {"color": colour, "linestyle": dash, "linewidth": 1.3}
        axes.stairs(shares, edges, label=as_written(name), **style)
    axes.set_xlim(0, top)
    _label(axes, "distance between two samples of a class" if labels is not None else "distance")
    axes.set_ylabel("share of pairs (%)", fontsize=_SMALL)
    axes.legend(fontsize=_SMALL - 1, frameon=False)
    return axes


def robust_accuracy(
    reports: RobustnessReport | Mapping[str, RobustnessReport], *, axes: Any = None
) -> Any:
    """Draw worst-case accuracy over all attacks against their radius, for one or more models.

    Args:
        reports: A report of `isoreg.robustness.evaluate`, or several by name.
        axes: matplotlib axes to draw on, with linear scales; None: new ones.

    Returns:
        The axes.

    Raises:
        InputError: If there is no report, or they are not in one norm.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> report = RobustnessReport("Linf", [0.1], [True, True], {"pgd": {0.1: [True, False]}})
        >>> robust_accuracy({"plain": report}).lines[0].get_ydata().tolist()
        [100.0, 50.0]
    """
    with error_prefix("robust_accuracy"):
        named = _named(reports, "", "reports", RobustnessReport)
        norms = sorted({report.norm for report in named.values()})
        if len(norms) != 1:
            raise InputError(f"reports must be in one norm, got {' and '.join(norms)}.")
        axes = linear_axes(axes)
    styles = zip(cycle(COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False)
    for (name, report), (colour, marker, dash) in zip(named.items(), styles, strict=False):
        worst = report.worst_case
        radii = sorted(worst)
        axes.plot(
            [0.0, *radii],
            [100 * report.clean, *[100 * worst[eps] for eps in radii]],
            color=colour,
            marker=marker,
            linestyle=dash,
            markersize=4,
            linewidth=1.3,
            label=as_written(
                str(name)
                + (" (warnings)" if report.warnings else "")
                + (f" ({report.note})" if report.note else "")
            ),
        )
    axes.set_ylim(0, 100)
    axes.set_xlim(0, None)
    axes.locator_params(axis="x", nbins=5)
    _label(axes, f"{norms[0]} radius eps (units of the inputs)", "worst-case accuracy (%)")
    if any(name or report.warnings or report.note for name, report in named.items()):
        axes.legend(fontsize=_SMALL - 1, frameon=False)
    return axes


def layer_distortion(layers: IsometryReport | Mapping[str, Distortion], *, axes: Any = None) -> Any:
    """Draw for each layer how far distances are shrunk and stretched: a bar from least to most.

    The dot is the typical factor (1 / scale), and the number above is Pearson's r. An isometry is a
    dot on the dashed line. Layers without pairs, or whose features are all equal, are left out. A
    new figure grows with the number of layers and the length of their names.

    Args:
        layers: What ``iso.report()`` returned, or distortions by name, in the order of the model.
        axes: matplotlib axes to draw on; None: new ones.

    Returns:
        The axes.

    Raises:
        InputError: If there is no layer with pairs, or one whose stress is NaN.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> from isoreg.diagnostics import distortion
        >>> x = torch.rand(9, 3)
        >>> axes = layer_distortion({"first": distortion(x, x / 2), "last": distortion(x, x / 4)})
        >>> [tick.get_text() for tick in axes.get_xticklabels()]
        ['first', 'last']
    """
    with error_prefix("layer_distortion"):
        shown = _with_pairs(layers)
        names = list(map(as_written, shown))
        longest, are_tight = max(map(len, names)), sum(map(len, names)) > 30
        width, height = max(_SIZE[0], _LAYER * len(shown)), _SIZE[1]
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if are_tight else {}
        if are_tight and longest > _LONG:
            turned, height = {"rotation": 90}, height + _LETTER * longest
        axes = _straight(axes, (width, height))
        if axes.get_xscale() != "linear":
            raise InputError(
                f"axes must be one whose x axis is linear, got {axes.get_xscale()}: layers stand "
                "at 0, 1 and so on."
            )
    axes.axhline(1, color=COLOURS[1], linewidth=1, linestyle="--")
    least = min(d.contraction or d.expansion / 1000 for d in shown.values())
    for place, d in enumerate(shown.values()):
        low = d.contraction or least  # a logarithmic axis has no 0
        axes.plot([place, place], [low, d.expansion], color=COLOURS[0], linewidth=5, alpha=0.4)
        axes.plot([place], [1 / d.scale], "o", color=COLOURS[0], markersize=4)
        axes.annotate(
            f"{d.correlation:.2f}",
            (place, d.expansion),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=_SMALL - 1,
        )
    axes.set_yscale("log")
    _plain_log(axes.yaxis, narrow=max(d.expansion for d in shown.values()) < 100 * least)
    axes.margins(x=0.1, y=0.15)
    axes.set_xticks(range(len(names)), names, **turned)
    title = "bar: least to most, dot: typical,\nnumber: Pearson's r"
    _label(axes, "layer", "feature distance / input distance", title)
    return axes


def _with_pairs(layers: IsometryReport | Mapping[str, Distortion]) -> dict[str, Distortion]:
    """The layers of `layer_distortion` that can be drawn, by name; at least one."""
    if isinstance(layers, IsometryReport):
        layers = {name: layer.distortion for name, layer in layers.layers.items()}
    named = _named(layers, "", "layers", Distortion)
    measured = {name: d for name, d in named.items() if d.pairs}
    lost = [repr(name) for name, d in measured.items() if not isfinite(d.stress)]
    if lost:
        raise InputError(
            f"the stress of a layer must be a number, got NaN for {', '.join(lost)}. Are there "
            "infinite entries or NaN, or are all inputs equal?"
        )
    shown = {name: d for name, d in measured.items() if d.expansion > 0}
    if not shown:
        raise InputError(
            "at least one layer must have pairs and features that differ, got "
            f"{len(named)} layers without. Train a step first, with two samples of a class."
        )
    return shown


def _plain_log(axis: Any, *, narrow: bool) -> None:
    """Write the numbers of a logarithmic axis without powers of ten."""
    ticker = import_extra("matplotlib.ticker", "plots")
    shown = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(shown)
    axis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(shown if narrow else ticker.NullFormatter())


def _named(objects: Any, name: str, argument: str, kind: type) -> dict[str, Any]:
    """The objects to draw, by name; a single object gets the name ``name``."""
    named = {name: objects} if isinstance(objects, kind) else objects
    if not isinstance(named, Mapping) or not all(isinstance(v, kind) for v in named.values()):
        raise InputError(
            f"{argument} must be a {kind.__name__}, or several of them by name, got "
            f"{type(objects).__name__}."
        )
    if not named:
        raise InputError(f"{argument} must be at least one {kind.__name__}, got none.")
    return dict(named)


def _straight(axes: Any, size: tuple[float, float]) -> Any:
    """The given axes, if they are rectilinear, or those of a new figure."""
    if axes is None:
        fig = import_extra("matplotlib.figure", "plots").Figure(figsize=size, layout="constrained")
        return fig.subplots()
    if getattr(axes, "name", None) != "rectilinear":
        kind = getattr(axes, "name", None) or type(axes).__name__
        raise InputError(
            f"axes must be matplotlib axes in a plane, got {kind}. Of plt.subplots(1, 2) give one."
        )
    return axes


def linear_axes(axes: Any, size: tuple[float, float] = _SIZE) -> Any:
    """The given axes, if they are rectilinear and linear, or those of a new figure.

    Plots that show 0, or that compare lengths along both axes, need linear scales.

    Args:
        axes: The axes as the user gave them.
        size: Size of a new figure, in inches.

    Returns:
        The axes.

    Raises:
        InputError: If the axes are of another kind, or have other scales.

    Example:
        >>> linear_axes(None).get_xscale()
        'linear'
    """
    axes = _straight(axes, size)
    scales = [axes.get_xscale(), axes.get_yscale()]
    if scales != ["linear", "linear"]:
        raise InputError(f"axes must be one with linear scales, got {' and '.join(scales)}.")
    return axes


def as_written(name: object) -> str:
    r"""Escape a name, so that matplotlib shows it unchanged: not as a formula, and in the legend.

    Args:
        name: The name.

    Returns:
        The text to give to matplotlib.

    Example:
        >>> print(as_written("a_$b$"))
        a_\$b\$
    """
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def ink_on(axes: Any) -> tuple[Any, Any]:
    """A colour that can be read on the background of axes, and the colour of that background.

    Args:
        axes: matplotlib axes.

    Returns:
        Two colours; the second is None if axes and figure are transparent, as on a web page.

    Example:
        >>> axes = linear_axes(None)
        >>> axes.set_facecolor("white")
        >>> ink_on(axes)[0]
        'black'
    """
    colors, rc = import_extra("matplotlib.colors", "plots"), import_extra("matplotlib", "plots")
    grounds = (axes.get_facecolor(), axes.figure.get_facecolor())
    ground = next((colour for colour in grounds if colors.to_rgba(colour)[3] > 0), None)
    if ground is None:
        return rc.rcParams["text.color"], None
    brightness = sum(w * x for w, x in zip(_LUMA, colors.to_rgb(ground), strict=True))
    return "black" if brightness > 0.5 else "white", ground


def _label(axes: Any, x: str, y: str = "", title: str = "") -> None:
    axes.set_xlabel(x, fontsize=_SMALL)
    if y:
        axes.set_ylabel(y, fontsize=_SMALL)
    if title:
        axes.set_title(title, fontsize=_SMALL)
    axes.tick_params(which="both", labelsize=_SMALL - 1)
    axes.spines[["top", "right"]].set_visible(False)


def _check_pairs(*distances: Tensor) -> None:
    if not len(distances[0]):
        raise InputError(
            "there must be a pair to draw, got none. Give more samples of a class, or labels=None."
        )
    count = sum(int((~d.square().isfinite()).sum()) for d in distances)
    if count:
        raise InputError(
            f"distances must be finite to be drawn, got {count} that are not. Are there infinite "
            "entries, NaN, or numbers whose squares overflow?"
        )
