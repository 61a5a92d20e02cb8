"""What a study uses its images for, and whether a choice has seen those that it measures on.

A study trains, chooses and measures on *parts* of data sets. It may not measure on images that it
trains or chooses on. If any earlier choice has seen the images of a measurement, the text below its
table says so; some data sets have no unseen images left. `SET_ASIDE` names images that no study has
read: a new claim is measured there, once, after all choices, and its part is then moved to `SEEN`.
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
"""Images of each split. The bundled digits are scikit-learn's."""


@dataclass(frozen=True)
class Part:
    """Some images of a split, or points that are drawn.

    Attributes:
        of: A name of `SIZES`, or what is drawn.
        rows: As in a slice: first, last + 1, step; None: the whole split.
        shuffled: Whether rows count in the split's random permutation from seed 0, not its order.
        but: A part that is left out.
        seeds: For points that are drawn: the seeds of their generators.
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
            whole = self.of
        else:
            first, last, step = self.rows
            each = f", one in {step}" if step > 1 else ""
            whole = f"{self.of}{', shuffled' * self.shuffled}, {first:,} to {last:,}{each}"
        return f"{whole}, but {self.but}" if self.but else whole

    def members(self) -> frozenset[int]:
        """The images by their place in the split, or the drawn points by their seeds."""
        return _members(self)


@cache
def _members(part: Part) -> frozenset[int]:
    if part.seeds or part.of not in SIZES:
        return frozenset(part.seeds)
    size = SIZES[part.of]
    order = torch.arange(size)
    if part.shuffled:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    taken = frozenset(order[slice(*(part.rows or (0, size, 1)))].tolist())
    return taken - part.but.members() if part.but else taken


def overlap(one: Part, other: Part) -> int:
    """How many images two parts share."""
    return len(one.members() & other.members()) if one.of == other.of else 0


@dataclass(frozen=True)
class Uses:
    """The images that a study uses, by purpose.

    Attributes:
        trained: Networks are trained on it; probes and neighbours know its labels.
        chosen: Settings are chosen on it.
        measured: Published figures are measured on it.
    """

    trained: tuple[Part, ...] = ()
    chosen: tuple[Part, ...] = ()
    measured: tuple[Part, ...] = ()


def rows(of: str, first: int, last: int, *, step: int = 1, shuffled: bool = False) -> Part:
    """A part of a split."""
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
"""What no study trains on, chooses on or has measured on."""

SEEN = (Part("MNIST test"), Part("CIFAR-10 test"), Part("digits test"))
"""Measured on before some choice was made: of these splits nothing is left."""


def faults(uses: Uses) -> list[str]:
    """Sentences on images that are measured on and also trained or chosen on, or are set aside."""
    found = []
    for part in uses.measured:
        for role, others in (("trained", uses.trained), ("chosen", uses.chosen)):
            found += [
                f"measured on {overlap(part, other)} images that are {role} on too: {part}"
                for other in others
                if overlap(part, other)
            ]
    for part in (*uses.trained, *uses.chosen, *uses.measured):
        kept = sum(overlap(part, other) for other in SET_ASIDE)
        found += [f"uses {kept} images that are set aside: {part}"] if kept else []
    return found


def sentence(uses: Uses) -> str:
    """The sentence below a table on the images that it is measured on; "" if there are none.

    Raises:
        ValueError: If the study's own uses overlap.
    """
    if wrong := faults(uses):
        raise ValueError("; ".join(wrong))
    if not uses.measured:
        return ""
    seen = [part for part in uses.measured if any(overlap(part, other) for other in SEEN)]
    text = f"Images: measured on {_listed(uses.measured)}"
    text += f", chosen on {_listed(uses.chosen)}." if uses.chosen else ", nothing was chosen."
    if seen:
        names = " and ".join(dict.fromkeys(part.of for part in seen))
        text += f" Earlier versions of these studies measured on {names} too and were changed "
        text += "afterwards: no image of it is left that no choice has seen."
    return text


def _listed(parts: tuple[Part, ...]) -> str:
    return "; ".join(map(str, parts))


def as_field(uses: Uses) -> dict[str, Any]:
    """The field ``images`` of a file of results."""
    said = {role: [str(part) for part in parts] for role, parts in vars(uses).items()}
    return {**said, "unseen": not any(overlap(p, s) for p in uses.measured for s in SEEN)}
