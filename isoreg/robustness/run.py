"""The attacks of an evaluation, one row of the report after another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from isoreg._random import seed_all
from isoreg.robustness.attacks import ATTACKS, WITHOUT_GRADIENT
from isoreg.robustness.classifier import PixelClassifier
from isoreg.robustness.outputs import answers
from isoreg.robustness.report import RobustnessReport
from isoreg.robustness.straight_through import Contexts, StraightThrough
from isoreg.robustness.student import taught
from isoreg.robustness.task import Task, evenly

_SAMPLE = 100


@dataclass
class Run:
    """The rows of a report while they are being made.

    Attributes:
        task: The task with all images; its radius is not used.
        sizes: Radii in the user's units, and in pixels from 0 to 1.
        batch_size: Images attacked at once.
        whole_batches: Whether misclassified images are attacked too, so that each batch holds the
            same images as when the clean accuracy was measured.
        correct: (n) whether each clean image is classified correctly.
        contexts: Contexts for gradients, from `gradient_contexts`; an image must survive in each
            of them.
        survived: For each row and radius, whether each image is still classified correctly.
        seconds: Time of each row.
        history: How many images were fooled after each restart of an attack.
    """

    task: Task
    sizes: dict[float, float]
    batch_size: int
    whole_batches: bool
    correct: Tensor = field(init=False)
    contexts: Contexts = (StraightThrough,)
    survived: dict[str, dict[float, list[bool]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = self.task.classifier, self.task.images, self.task.labels
        self.correct = _predictions(*clean, self.batch_size)

    def sample(self) -> tuple[Tensor, Tensor]:
        """A batch of images, or 100 if that is more, evenly from all, and their labels."""
        count = max(self.batch_size, _SAMPLE)
        return evenly(self.task.images, count), evenly(self.task.labels, count)

    def correctly_classified(self) -> tuple[Tensor, Tensor]:
        """Images that are classified correctly when clean, and their labels."""
        return self.task.images[self.correct], self.task.labels[self.correct]

    def survivors(self, radius: float) -> Tensor:
        """(n) whether each image survives every row so far within a radius in the user's units."""
        return torch.tensor(self.report([], "").survivors(radius), device=self.correct.device)

    def attack(
        self, name: str, radius: float, *, row: str | None = None, task: Task | None = None
    ) -> None:
        """Attack at one radius, and judge what comes back by our own forward pass.

        Args:
            name: Name of the attack.
            radius: Radius in the user's units.
            row: Name of the row in the report, if it differs from the attack's.
            task: A task with another classifier, if that is attacked instead.
        """
        begin = time.perf_counter()
        if name == "student" and self.task.student is None:
            size = max(self.sizes.values())
            student = taught(
                self.task.classifier, self.correctly_classified()[0], eps=size, norm=self.task.norm
            )
            self.task = replace(self.task, student=student)
        row = row or name
        task = replace(task or self.task, eps=self.sizes[radius])
        survivors, counts = self._survivors(name, task)
        self.survived.setdefault(row, {})[radius] = survivors.tolist()
        self.history[f"{row} at eps {radius:g}"] = counts
        self.seconds[row] = self.seconds.get(row, 0.0) + time.perf_counter() - begin

    def report(self, warnings: list[str], preset: str) -> RobustnessReport:
        """The report of the rows so far, with warnings and the name of the preset."""
        radii, correct = list(self.sizes), self.correct.tolist()
        norm, seconds = self.task.norm, dict(self.seconds)
        return RobustnessReport(
            *(norm, radii, correct, self.survived, warnings, seconds, preset),
            labels=self.task.labels.tolist(),
        )

    def _survivors(self, name: str, task: Task) -> tuple[Tensor, list[int]]:
        """Which images stay correct, and how many were fooled after each restart."""
        survivors = self.correct.clone()
        counts: list[int] = []
        attacked = torch.ones_like(self.correct) if self.whole_batches else self.correct
        batches = attacked.nonzero()[:, 0].split(self.batch_size)
        for batch in filter(len, batches):  # split gives an empty batch if there are none
            batch_task = replace(task, images=task.images[batch], labels=task.labels[batch])
            for context in self.contexts if name not in WITHOUT_GRADIENT else self.contexts[:1]:
                seed_all(task.seed)
                with context():
                    adversarial, fooled = ATTACKS[name](batch_task)
                survivors[batch] &= _predictions(
                    task.classifier, adversarial, batch_task.labels, self.batch_size
                )
            counts = [a + b for a, b in zip(counts or [0] * len(fooled), fooled, strict=True)]
        return survivors, counts


@torch.no_grad()
def _predictions(
    classifier: PixelClassifier, pixels: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    batches = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([answers(classifier(x)) == y for x, y in batches])
