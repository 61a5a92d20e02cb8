"""Chooses what a batch's features are compared with: what the call gives, or what was recorded."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from isoreg._attach.checks import check_reference, whole_tensor
from isoreg._attach.layers import Layer
from isoreg._attach.record import Record
from isoreg._attach.reference import Source
from isoreg._attach.samples import choose_samples
from isoreg.errors import InputError, RecordError


class Given(NamedTuple):
    """What the features of one batch are compared with.

    Attributes:
        references: Points for each time that the reference was made; empty if distances are given.
        distances: (N, N) distances in the place of points, or None.
        pair_weights: (N, N) factors of the pairs, or None.
    """

    references: list[Tensor]
    distances: Tensor | None
    pair_weights: Tensor | None

    @classmethod
    def of(
        cls,
        record: Record,
        source: Source,
        labels: Tensor | None,
        n: int,
        arguments: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> Given:
        """Take the reference or distances that the call gives, or else what was recorded."""
        reference, distances, pair_weights = arguments
        if reference is not None and distances is not None:
            raise InputError(
                "give reference= or distances=, not both: each takes the other's place."
            )
        references: list[Tensor] = []
        if reference is not None:
            check_reference(reference, record.features, "reference")
            references = [reference.detach()]
        elif distances is None:
            references = _recorded(record, source, labels, n)
        return cls(references, distances, pair_weights)

    def exchanged(self, order: Tensor) -> Given:
        """Return the control: ``order``, a permutation within each class, exchanges references."""
        distances, n = self.distances, len(order)
        if isinstance(distances, Tensor):
            if distances.shape != (n, n):
                raise InputError(
                    "control=True needs distances within the own batch, of shape "
                    f"({n}, {n}), got {tuple(distances.shape)}."
                )
            order = order.to(distances.device)
            distances = distances[order][:, order]
        references = [x[order.to(x.device)] for x in self.references]
        return self._replace(references=references, distances=distances)


def _recorded(record: Record, source: Source, labels: Tensor | None, n: int) -> list[Tensor]:
    references = record.references
    if record.call is not None:
        references = [choose_samples(record.call, labels, n)]
    if not references:
        named = f"layer {source.name!r}" if isinstance(source, Layer) else "inputs="
        raise RecordError(
            f"there is no tensor to compare the features with: {named} gave none, or did not "
            "run in the recorded forward pass. Give inputs=lambda *args, **kwargs: <a tensor>, "
            "or reference= in the call."
        )
    references = [whole_tensor(x) for x in references]
    for x in references:
        check_reference(x, record.features)
        record.check_axes(x)
    return references
