"""What came out of an evaluation, image by image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from isoreg.errors import InputError, import_extra

PAPER_NOTE = "the protocol of the paper, not a measure of robustness"


@dataclass(frozen=True)
class RobustnessReport:
    """Robust accuracy, per image.

    Attributes:
        norm: "Linf" or "L2".
        eps: Radii, in the units of the images.
        correct: Whether each clean image is classified correctly.
        survived: For each attack and radius, whether each image is still classified correctly.
        warnings: Why the figures may be better than the model.
        seconds: Time of each attack over all radii.
        preset: What was asked for.

    Example:
        >>> report = RobustnessReport("Linf", [0.1], [True, True], {"fgsm": {0.1: [True, False]}})
        >>> report.clean, report.worst_case
        (1.0, {0.1: 0.5})
    """

    norm: str
    eps: list[float]
    correct: list[bool]
    survived: dict[str, dict[float, list[bool]]]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    preset: str = ""

    @property
    def clean(self) -> float:
        """Share of clean images that are classified correctly."""
        return _share(self.correct)

    @property
    def accuracy(self) -> dict[str, dict[float, float]]:
        """Share of all images that are correct before and after each attack, by radius."""
        return {
            attack: {eps: _share(found) for eps, found in by_eps.items()}
            for attack, by_eps in self.survived.items()
        }

    @property
    def worst_case(self) -> dict[float, float]:
        """Share of images that survive every attack, by radius."""
        return {eps: _share(self._survivors(eps)) for eps in self.eps}

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; `from_dict` reads it back."""
        found = asdict(self)
        found["survived"] = {
            attack: [[eps, images] for eps, images in by_eps.items()]
            for attack, by_eps in self.survived.items()
        }
        return {**found, "clean": self.clean, "worst case": list(self.worst_case.items())}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> RobustnessReport:
        """The report that `to_dict` wrote.

        Args:
            found: What it returned, also after a round trip through JSON.

        Returns:
            An equal report.
        """
        fields = {name: found[name] for name in cls.__dataclass_fields__}
        fields["survived"] = {
            attack: dict(map(tuple, rows)) for attack, rows in found["survived"].items()
        }
        return cls(**fields)

    def to_frame(self) -> Any:
        """A pandas frame with a row for each attack and a column for each radius.

        Returns:
            The frame.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        rows = {**self.accuracy, "worst case": self.worst_case}
        return import_extra("pandas", "attacks").DataFrame.from_dict(rows, orient="index")

    def plot(self, axes: Any = None) -> Any:
        """Accuracy over radius, for each attack and in the worst case.

        Args:
            axes: matplotlib axes; new ones by default.

        Returns:
            The axes.

        Raises:
            MissingExtraError: If matplotlib is not installed (extra ``plots``).
        """
        if axes is None:
            figure = import_extra("matplotlib.figure", "plots").Figure(layout="constrained")
            axes = figure.subplots()
        radii = [0.0, *self.eps]
        for attack, by_eps in self.accuracy.items():
            values = [100 * self.clean, *[100 * by_eps[e] for e in self.eps]]
            axes.plot(radii, values, marker=".", linewidth=1, label=attack)
        worst = [100 * self.clean, *[100 * value for value in self.worst_case.values()]]
        axes.plot(radii, worst, marker="o", linewidth=2, color="black", label="worst case")
        axes.set(xlabel=f"{self.norm} radius eps", ylabel="accuracy (%)", ylim=(0, 100))
        if self.preset == "paper":
            axes.set_title(PAPER_NOTE, fontsize=9)
        axes.legend(fontsize=8)
        return axes

    def compare(self, other: RobustnessReport) -> dict[float, float]:
        """Whether two models differ: p values of the exact McNemar test, by radius.

        Both must be reports on the same images in the same order. With b images that only the
        one survives and c that only the other does, b is Binomial(b + c, 1/2) if they are equal.

        Args:
            other: The other model's report.

        Returns:
            A two-sided p value for each radius of both.

        Raises:
            InputError: If the reports are not on as many images in the same norm.
            MissingExtraError: If scipy is not installed.
        """
        if len(self.correct) != len(other.correct) or self.norm != other.norm:
            raise InputError(
                "compare: reports must be on the same images in the same norm, got "
                f"{len(self.correct)} in {self.norm} and {len(other.correct)} in {other.norm}."
            )
        binomtest = import_extra("scipy.stats", "attacks").binomtest
        found = {}
        for eps in self.eps:
            if eps in other.eps:
                pairs = list(zip(self._survivors(eps), other._survivors(eps), strict=True))
                b, c = pairs.count((True, False)), pairs.count((False, True))
                found[eps] = float(binomtest(b, b + c).pvalue) if b + c else 1.0
        return found

    def __str__(self) -> str:
        """A table, and the warnings."""
        head = f"{self.norm} eps".ljust(18) + "".join(f"{eps:>9.4g}" for eps in self.eps)
        lines = [f"{len(self.correct)} images, {100 * self.clean:.1f} % clean accuracy", head]
        if self.preset == "paper":
            lines.insert(0, f"({PAPER_NOTE})")
        for name, by_eps in {**self.accuracy, "worst case": self.worst_case}.items():
            lines.append(name.ljust(18) + "".join(f"{100 * by_eps[e]:>8.1f}%" for e in self.eps))
        return "\n".join([*lines, *[f"WARNING: {warning}" for warning in self.warnings]])

    def _survivors(self, eps: float) -> list[bool]:
        columns = [by_eps[eps] for by_eps in self.survived.values()]
        return [all(image) for image in zip(self.correct, *columns, strict=True)]


def _share(images: list[bool]) -> float:
    return sum(images) / len(images)
