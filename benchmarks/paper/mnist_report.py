"""Tables and the figure of the MNIST experiment."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.results import Found
from benchmarks.style import BLACK, deviation, new_figure, plain, save
from benchmarks.tables import Column, count, grouped, page, seeds_of, table

SHOWN_SIZES = (0.027826, 0.077426, 0.215443)
GEOMETRY = (
    Column("test accuracy %", "clean"),
    Column("within-class distances: Pearson r", "distortion/correlation", 2),
    Column("stress", "distortion/stress", 2),
)


def tables(results: Found) -> str:
    """Three Markdown tables: clean accuracy, the standard attack, the paper's attack."""
    settings = results["settings"]
    by_beta = {f"{beta:g}": runs for beta, runs in sorted(grouped(results["runs"], "beta").items())}
    worst = [Column(f"eps {eps:g}", f"worst case at {eps}") for eps in settings["eps"]]
    paper = [
        Column(f"FGSM {size:.3f}, {title}", f"{name}/{index}")
        for title, name in (("combined", "fgsm, combined loss"), ("CE", "fgsm, standard"))
        for index, size in enumerate(settings["attack_sizes"])
        if size in SHOWN_SIZES
    ]
    return page(
        f"# MNIST, the paper's experiment ({settings['convention']} convention)",
        f"{settings['test_images']:,} test images, {count(seeds_of(results), 'seed')}, "
        f"{count(settings['epochs'], 'epoch')}; mean ± standard deviation over seeds.",
        "## Accuracy and geometry (the paper's table 1)",
        table("beta", by_beta, GEOMETRY),
        "## Robust accuracy, standard attack",
        f"Share of images, in %, that survive both PGD-{settings['steps']} on cross-entropy "
        f"and PGD-{settings['steps']} on the margin, each with one random start, in the L-inf "
        "ball of radius eps. The attacker sees the classifier and nothing else.",
        table("beta", by_beta, worst),
        "## The same networks under the paper's attack",
        "Accuracy in %. Under 'combined' the attack climbs cross-entropy plus beta times the "
        "isometry term, so each row faces another attacker; under 'CE' cross-entropy alone.",
        table("beta", by_beta, paper),
    )


_PANELS = {
    "fgsm, combined loss": "FGSM on cross-entropy + isometry\n(the paper's attack)",
    "pgd, combined loss": "10-step PGD on cross-entropy + isometry\n(the paper's text)",
    "pgd, combined loss, clean gradient": "10 steps along the gradient at the clean image\n"
    "(the released code)",
    "fgsm, standard": "FGSM on cross-entropy",
    "pgd, standard": "10-step PGD on cross-entropy",
}


def draw(results: Found, path: Path) -> None:
    """Draw accuracy against attack size for every beta, with one panel per attack."""
    settings = results["settings"]
    by_beta = dict(sorted(grouped(results["runs"], "beta").items()))
    figure = new_figure(10, 6.2)
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for axis, (name, title) in zip(axes, _PANELS.items(), strict=False):
        curves = {beta: [run[name] for run in runs] for beta, runs in by_beta.items()}
        _curves(axis, curves, settings["attack_sizes"])
        axis.set(xscale="log", xlabel=f"L-inf {'eps' if name.startswith('fgsm') else 'step'}")
        axis.set_title(title, fontsize=9)
    worst = {
        beta: [[run[f"worst case at {eps}"] for eps in settings["eps"]] for run in runs]
        for beta, runs in by_beta.items()
    }
    _curves(axes[5], worst, settings["eps"])
    axes[5].set_xlabel("L-inf eps")
    title = f"Standard attack: worst case of PGD-{settings['steps']}\n"
    axes[5].set_title(title + "on cross-entropy and on the margin", fontsize=9)
    axes[0].set_ylabel("accuracy (%)")
    axes[3].set_ylabel("accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save(figure, path, dpi=150)


def _curves(axis: Axes, by_beta: dict[float, list[list[float]]], sizes: list[float]) -> None:
    """Draw one line per beta, from dark to light, with a band of one standard deviation."""
    colors = mpl.colormaps["viridis"].resampled(len(by_beta) + 1)
    for index, (beta, curves) in enumerate(by_beta.items()):
        points = [[100 * value for value in values] for values in zip(*curves, strict=True)]
        first = beta == 0
        color, style = (BLACK, "--") if first else (colors(index), "-")
        label = "beta 0 (plain)" if first else f"beta {beta:g}"
        centre = [mean(values) for values in points]
        axis.plot(sizes, centre, style, color=color, label=label, marker="o", markersize=3)
        low = [mean(values) - deviation(values) for values in points]
        high = [mean(values) + deviation(values) for values in points]
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 100)
    plain(axis)
