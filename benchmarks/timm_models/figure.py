"""The figure of the study of timm's models."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks import style
from benchmarks.results import Found
from benchmarks.style import line_of, new_figure, plain, save
from benchmarks.tables import grouped, runs_by, with_keys

# markers differ too, for readers who see no colours
_LOOKS = {
    "plain": (style.BLACK, "X", "-"),
    "isometry, features": (style.VERMILION, "o", "-"),
    "isometry, stages": (style.ORANGE, "s", "-"),
    "its control: images shuffled": (style.PURPLE, "v", "-."),
    "plain, no Mixup": (style.BLACK, "P", ":"),
    "RobustLoss": (style.BLUE, "^", "--"),
    "FGSM training": (style.GREEN, "D", "--"),
}


def draw_training(results: Found, path: Path) -> None:
    """Draw accuracy over the attack's radius and r by layer, in a column for each network."""
    tested = runs_by(with_keys(results, phase="test"), "network")
    if not tested:
        return
    networks = list(tested)
    figure = new_figure(4.2 * len(networks), 7.2)
    grid = figure.subplots(2, len(networks), squeeze=False, sharey="row")
    radii = results["settings"]["radii"]
    for column, name in enumerate(networks):
        above, below = grid[0, column], grid[1, column]
        for method, figures in grouped(tested[name], "method").items():
            shares = [f["attacked"]["shares"] for f in figures]
            curves = [[100 * by[f"{radius}"] for radius in (0, *radii)] for by in shares]
            _line(above, method, range(len(radii) + 1), curves)
            layers = list(figures[0]["distortion"])
            curves = [[f["distortion"][x]["correlation"] for x in layers] for f in figures]
            _line(below, method, range(len(layers)), curves)
            below.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
        above.set_title(name, fontsize=10)
        above.set_xticks(range(len(radii) + 1), ["clean", *(f"{r}/255" for r in radii)])
        above.set_xlabel("L-inf radius of the attack (pixels from 0 to 1)")
        below.set_xlabel("layer")
        for axis in (above, below):
            plain(axis)
    grid[0, 0].set_ylabel("worst-case accuracy (%)")
    grid[1, 0].set_ylabel("Pearson's r within classes")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    save(figure, path)


def _line(axis: Axes, method: str, places: range, curves: list[list[float]]) -> None:
    colour, marker, line = _LOOKS.get(method, (style.PURPLE, "v", "-."))
    look = {"color": colour, "marker": marker, "linestyle": line, "label": method}
    line_of(axis, places, list(zip(*curves, strict=True)), **look, markersize=5, linewidth=1.2)
