"""Examples of isoreg; each runs as ``python -m examples.NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#767676"


def save(figure: Figure, path: Path) -> None:
    """Save a transparent picture whose black becomes a grey that is legible on any background."""
    for artist in figure.findobj(lambda item: hasattr(item, "set_color")):
        if getattr(artist, "get_color", str)() in ("black", "k"):
            artist.set(color=_INK)
    for axes in figure.axes:
        axes.spines[:].set_edgecolor(_INK)
        axes.tick_params(color=_INK, labelcolor=_INK)
        if legend := axes.get_legend():
            legend.get_frame().set_alpha(0)
    figure.savefig(path, dpi=150, transparent=True)
