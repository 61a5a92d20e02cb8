"""Tables of the journal version's CIFAR-10 experiment."""

from __future__ import annotations

from benchmarks.paper.mnist_report import GEOMETRY
from benchmarks.results import Found
from benchmarks.tables import Column, count, grouped, page, seeds_of, table

SHOWN = (0.01, 0.027826, 0.077426)
_KINDS = (("its attack", "combined"), ("on CE", "cross-entropy"))


def tables(results: Found) -> str:
    """Markdown tables of clean accuracy and geometry, the journal's attack and the standard one."""
    settings = results["settings"]
    by_training = grouped(results["runs"], "training")
    sizes = settings["attack_sizes"]
    return page(
        "# CIFAR-10 (JPEG), the journal version's experiment",
        f"{settings['train_images']:,} training images, {count(settings['epochs'], 'epoch')}, "
        f"{count(seeds_of(results), 'seed')}; two convolutions and four tanh layers of 100 units, "
        "as in the released code, trained from scratch where that code begins with a pretrained "
        "VGG. Mean ± standard deviation over seeds.",
        "## Accuracy and geometry",
        f"{settings['test_images']:,} test images. Distances are compared with those of the "
        "pixels, or where it says so with those of a body trained before on cross-entropy.",
        table("training", by_training, GEOMETRY),
        "## Under the journal version's attack",
        f"Accuracy in % on {settings['attacked']} test images, with every gradient taken at the "
        "clean image. Its attack climbs cross-entropy plus beta times the isometry term, so each "
        "row faces another attacker; on CE all rows face the same one.",
        table("training", by_training, _paper("fgsm", "FGSM", sizes)),
        f"The same in {settings['paper_steps']} steps of the size in a ball of "
        f"{settings['paper_ball']}:",
        table("training", by_training, _paper("pgd, clean gradient", "steps of", sizes)),
        "## Under a standard attack",
        f"Share of {settings['attacked']} test images, in %, that survive PGD of 40 steps on "
        "cross-entropy (one start) and on the margin (two starts).",
        table("training", by_training, [*_worst("Linf", settings), *_worst("L2", settings)]),
    )


def _paper(name: str, title: str, sizes: list[float]) -> list[Column]:
    return [
        Column(
            f"{title} {size:.3f}, {text}",
            lambda run, n=f"{name}, {kind}", s=size: run[n][sizes.index(s)],  # type: ignore[misc]
        )
        for text, kind in _KINDS
        for size in SHOWN
    ]


def _worst(norm: str, settings: dict[str, list[float]]) -> list[Column]:
    shown = {"Linf": lambda eps: f"L-inf {eps * 255:g}/255", "L2": lambda eps: f"L2 {eps:g}"}
    return [
        Column(shown[norm](eps), lambda run, n=f"standard, {norm}", at=index: run[n][at])  # type: ignore[misc]
        for index, eps in enumerate(settings[norm.lower()])
    ]
