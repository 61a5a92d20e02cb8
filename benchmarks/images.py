"""Which images a study trains, chooses and measures on, and whether an earlier choice saw them.

A study trains, chooses and measures on *parts* of data sets. It may not measure on images that it
trains or chooses on. If an earlier choice has seen the measured images, the page says so below its
table; some data sets have no unseen images left. `SET_ASIDE` names parts that no study has read: a
new claim is measured there, once, after all choices, and the part is then moved to `SEEN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

SIZES = {
    "MNIST train": 60_000,
    "MNIST test": 10_000,
    "CIFAR-10 train": 50_000,
    "CIFAR-10 test": 10_000,
    "digits train": 1_077,
    "digits validation": 360,
    "digits test": 360,
}
"""Number of images of each split. The bundled digits are scikit-learn's."""


@dataclass(frozen=True)
class Part:
    """Some images of a split, or random points.

    Attributes:
        of: Name of a split in `SIZES`, or of the random points.
        rows: Slice (start, stop, step) of the split, in which stop is left out; None: all of it.
        shuffled: Whether the slice is taken after the split was permuted with seed 0.
        but: Part that is left out.
        seeds: Generator seeds of random points; empty for images.
    """

    of: str
    rows: tuple[int, int, int] | None = None
    shuffled: bool = False
    but: Part | None = None
    seeds: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.seeds:
            return f"{self.of} drawn with seed {', '.join(map(str, self.seeds))}"
        if self.rows is None:
            text = self.of
        else:
            first, last, step = self.rows
            spacing = f", one in {step}" if step > 1 else ""
            text = f"{self.of}{', shuffled' * self.shuffled}, {first:,} to {last:,}{spacing}"
        return f"{text}, but {self.but}" if self.but else text

    def members(self) -> frozenset[int]:
        """Places of the images in the split, or the seeds of random points."""
        return _members(self)


@cache
def _members(part: Part) -> frozenset[int]:
    if part.seeds or part.of not in SIZES:
        return frozenset(part.seeds)
    size = SIZES[part.of]
    order = torch.arange(size)
    if part.shuffled:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    places = frozenset(order[slice(*(part.rows or (0, size, 1)))].tolist())
    return places - part.but.members() if part.but else places


def overlap(one: Part, other: Part) -> int:
    """How many images two parts share."""
    return len(one.members() & other.members()) if one.of == other.of else 0


@dataclass(frozen=True)
class Uses:
    """The parts that a study trains, chooses and measures on.

    Attributes:
        trained: Parts on which networks are trained, or whose labels probes and neighbours know.
        chosen: Parts on which settings are chosen.
        measured: Parts on which published figures are measured.
    """

    trained: tuple[Part, ...] = ()
    chosen: tuple[Part, ...] = ()
    measured: tuple[Part, ...] = ()


def rows(of: str, first: int, last: int, *, step: int = 1, shuffled: bool = False) -> Part:
    """The slice of a split from ``first`` up to, but without, ``last``."""
    return Part(of, (first, last, step), shuffled)


SIXTH = rows("MNIST train", 5, 60_000, step=6)
FIVE_SIXTHS = Part("MNIST train", but=SIXTH)

SET_ASIDE = (
    Part(
        "CIFAR-10 train",
        (12_000, 40_000, 1),
        shuffled=True,
        but=rows("CIFAR-10 train", 0, 50_000, step=10),
    ),
    Part("torus", seeds=(10_000, 10_001, 10_002)),
)
"""Parts that no study has trained, chosen or measured on."""

SEEN = (Part("MNIST test"), Part("CIFAR-10 test"), Part("digits test"))
"""Splits that were measured on before some choice was made, so no unseen image of them is left."""


def faults(uses: Uses) -> list[str]:
    """Sentences on measured parts that are also trained or chosen on, and on use of `SET_ASIDE`."""
    sentences = []
    for part in uses.measured:
        for role, parts in (("trained", uses.trained), ("chosen", uses.chosen)):
            sentences += [
                f"measured on {overlap(part, other)} images that are {role} on too: {part}"
                for other in parts
                if overlap(part, other)
            ]
    for part in (*uses.trained, *uses.chosen, *uses.measured):
        count = sum(overlap(part, other) for other in SET_ASIDE)
        sentences += [f"uses {count} images that are set aside: {part}"] if count else []
    return sentences


def sentence(uses: Uses) -> str:
    """The sentence below a table that names its images; "" if the study measures on none.

    Raises:
        ValueError: If the study's own uses overlap, or if it uses images that are set aside.
    """
    if wrong := faults(uses):
        raise ValueError("; ".join(wrong))
    if not uses.measured:
        return ""
    seen_parts = [part for part in uses.measured if any(overlap(part, other) for other in SEEN)]
    text = f"Images: measured on {_listed(uses.measured)}"
    text += f", chosen on {_listed(uses.chosen)}." if uses.chosen else ", nothing was chosen."
    if seen_parts:
        names = " and ".join(dict.fromkeys(part.of for part in seen_parts))
        text += f" Earlier versions of these studies measured on {names} too and were changed "
        text += "afterwards: no image of it is left that no choice has seen."
    return text


def _listed(parts: tuple[Part, ...]) -> str:
    return "; ".join(map(str, parts))


def as_field(uses: Uses) -> dict[str, Any]:
    """The ``images`` field of a results file: the parts by role, and whether they are unseen."""
    parts_by_role = {role: [str(part) for part in parts] for role, parts in vars(uses).items()}
    return {**parts_by_role, "unseen": not any(overlap(p, s) for p in uses.measured for s in SEEN)}
