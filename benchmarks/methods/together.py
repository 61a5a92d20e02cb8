"""Isometry together with its best rival."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.methods.distances import isometry
from benchmarks.methods.registry import method
from benchmarks.methods.step import Part, Step
from isoreg import ReferenceHead


@method("isometry-and-head", title="isometry and a second head")
def isometry_and_head(
    model: nn.Module,
    *,
    weight: float,
    outputs: int,
    head: float,
    until: float | None = 0.7,
) -> Part:
    """The penalty on what enters the classifier, and a head there that predicts the reference.

    Args:
        model: Images to logits.
        weight: Beta, of the penalty.
        outputs: Coordinates of the reference.
        head: Weight of the head's loss when training begins.
        until: Share of training after which that weight has fallen to 0, evenly; None: it stays.

    Returns:
        The term.
    """
    penalty, second = isometry(model, beta=weight), ReferenceHead(model, outputs)
    assert penalty.term is not None
    term, finish = penalty.term, penalty.finish

    def both(step: Step) -> Tensor:
        second.weight = head * (1.0 if until is None else max(0.0, 1 - step.progress / until))
        predicted: Tensor = second(step.reference)
        return term(step) + predicted

    def take_off() -> None:
        second.detach()
        if finish:
            finish()

    parameters = (*penalty.parameters, *second.parameters())
    return Part(before=penalty.before, term=both, finish=take_off, parameters=parameters)
