"""Tables and the figure of the MNIST experiment, from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.mnist.figure import draw
from benchmarks.publish import publish
from benchmarks.results import Results, figures_by
from benchmarks.tables import markdown_table, percent, spread

SHOWN_SIZES = (0.027826, 0.077426, 0.215443)


def report(results: Results, console: Console) -> None:
    """Print the tables; save them and the figure beside the results."""
    publish(results, console, tables, draw)
    for suffix in (".json", ".md", ".png"):
        console.print(f"saved {_short(results.path.with_suffix(suffix))}")


def tables(results: dict[str, Any]) -> str:
    """Three Markdown tables: clean accuracy, the standard attack, the paper's attack."""
    settings = results["settings"]
    seeds = len({run["key"]["seed"] for run in results["runs"]})
    return (
        "\n\n".join([
            f"# MNIST, the paper's experiment ({settings['convention']} convention)",
            f"{settings['test_images']:,} test images, {_count(seeds, 'seed')}, "
            f"{_count(settings['epochs'], 'epoch')}; mean ± standard deviation over seeds.",
            "## Accuracy and geometry (the paper's table 1)",
            _geometry(results),
            "## Robust accuracy, standard attack",
            f"Share of images, in %, that survive both PGD-{settings['steps']} on cross-entropy "
            f"and PGD-{settings['steps']} on the margin, each with one random start, in the L-inf "
            "ball of radius eps. The attacker sees the classifier and nothing else.",
            _standard(results),
            "## The same networks under the paper's attack",
            "Accuracy in %. Under 'combined' the attack climbs cross-entropy plus beta times the "
            "isometry term, so each row faces another attacker; under 'CE' cross-entropy alone.",
            _paper(results),
        ])
        + "\n"
    )


def _geometry(results: dict[str, Any]) -> str:
    distortions = figures_by(results, "beta", "distortion")
    rows = [
        [
            f"{beta:g}",
            percent(clean),
            spread([d["correlation"] for d in distortions[beta]], 2),
            spread([d["stress"] for d in distortions[beta]], 2),
        ]
        for beta, clean in figures_by(results, "beta", "clean").items()
    ]
    return markdown_table(
        ["beta", "test accuracy %", "within-class distances: Pearson r", "stress"], rows
    )


def _standard(results: dict[str, Any]) -> str:
    eps = results["settings"]["eps"]
    worst = {e: figures_by(results, "beta", f"worst case at {e}") for e in eps}
    rows = [
        [f"{beta:g}", *[percent(worst[e][beta]) for e in eps]]
        for beta in figures_by(results, "beta", "clean")
    ]
    return markdown_table(["beta", *[f"eps {e:g}" for e in eps]], rows)


def _paper(results: dict[str, Any]) -> str:
    sizes = results["settings"]["attack_sizes"]
    shown = [size for size in SHOWN_SIZES if size in sizes]
    combined = figures_by(results, "beta", "fgsm, combined loss")
    standard = figures_by(results, "beta", "fgsm, standard")
    rows = []
    for beta in combined:
        row = [f"{beta:g}"]
        for curves in (combined[beta], standard[beta]):
            row += [percent([curve[sizes.index(size)] for curve in curves]) for size in shown]
        rows.append(row)
    header = [f"FGSM {size:.3f}, {loss}" for loss in ("combined", "CE") for size in shown]
    return markdown_table(["beta", *header], rows)


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
