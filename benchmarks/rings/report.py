"""Table and figure of the rings, from the results."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results, figures_by
from benchmarks.rings.figure import draw
from benchmarks.tables import markdown_table, percent, spread


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, draw)


def tables(results: dict[str, Any]) -> str:
    """Two Markdown tables: distances, and the bound on the loss's gradient."""
    settings = results["settings"]
    seeds = len({run["key"]["seed"] for run in results["runs"]})
    return (
        "\n\n".join([
            "# Entangled rings",
            f"{settings['points']} points, {settings['epochs']:,} epochs, "
            f"{seeds} seed{'s' if seeds > 1 else ''}; mean ± "
            "standard deviation over seeds. Distances within each ring; 'stress of all pairs' "
            "also counts those between the rings.",
            _distances(results),
            "## The bound on the gradient of the loss",
            "The paper: for an isometric representation |dL/dx| is at most |dL/dPhi| (K = 1). "
            "Measured: the largest ratio of the two over the points, the largest singular value "
            "of dPhi/dx, and its gain along the ring and across it.",
            _gradients(results),
        ])
        + "\n"
    )


def _distances(results: dict[str, Any]) -> str:
    everywhere = figures_by(results, "variant", "all pairs")
    distortions = figures_by(results, "variant", "distortion")
    rows = []
    for variant, accuracy in figures_by(results, "variant", "accuracy").items():
        found = distortions[variant]
        names = (("correlation", 5), ("stress", 4), ("expansion", 3), ("contraction", 3))
        cells = [spread([d[name] for d in found], digits) for name, digits in names]
        rows.append([
            variant,
            percent(accuracy),
            *cells,
            spread([d["stress"] for d in everywhere[variant]], 3),
        ])
    return markdown_table(
        [
            "training",
            "accuracy %",
            "Pearson r",
            "stress",
            "largest ratio",
            "smallest ratio",
            "stress of all pairs",
        ],
        rows,
    )


def _gradients(results: dict[str, Any]) -> str:
    names = ("constant", "Jacobian", "along", "across")
    rows = [
        [variant, *[spread([g[name] for g in found], 2) for name in names]]
        for variant, found in figures_by(results, "variant", "gradients").items()
    ]
    header = ["training", "largest ratio", "largest singular value", "along", "across"]
    return markdown_table(header, rows)
