"""The report: the results of an evaluation, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isoreg.errors import InputError, import_extra
from isoreg.robustness.attacks import OF_THE_PAPER

PAPER_NOTE = "the protocol of the paper, not a measure of robustness"
_WORST = "worst case"
_PROVEN = "proven"
# Okabe and Ito's colours, which colour-blind readers can tell apart, without black
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osv^D<>ph"


@dataclass(frozen=True)
class RobustnessReport:
    """Robust accuracy, per image.

    Attributes:
        norm: "Linf" or "L2".
        eps: Radii, in the units of the images.
        correct: Whether each clean image is classified correctly.
        survived: For each attack and radius, whether each image is still classified correctly.
        warnings: Reasons why the figures may be better than the model is.
        seconds: Time of each attack over all radii.
        preset: The preset or the attack that was asked for, or "list".
        certified: For each radius, whether each image is proven to survive every attack; empty if
            that was not asked for.
        labels: Labels of the images; empty in reports that were saved without them.

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
    certified: dict[float, list[bool]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = {**self.survived, **({_PROVEN: self.certified} if self.certified else {})}
        for name, by_eps in rows.items():
            sizes = {len(images) for images in by_eps.values()} - {len(self.correct)}
            if {*by_eps} != {*self.eps} or sizes:
                raise InputError(
                    f"RobustnessReport: {name!r} must hold {len(self.correct)} images for each of "
                    f"the radii {self.eps}, got {[*sizes] or 'them'} for {[*by_eps]}."
                )
        if self.labels and len(self.labels) != len(self.correct):
            raise InputError(
                f"RobustnessReport: labels must be {len(self.correct)}, one an image, or none, "
                f"got {len(self.labels)}."
            )

    @property
    def clean(self) -> float:
        """Share of clean images that are classified correctly."""
        return _share(self.correct)

    @property
    def accuracy(self) -> dict[str, dict[float, float]]:
        """Share of all images that are correct before and after each attack, by radius."""
        return {
            attack: {eps: _share(images) for eps, images in by_eps.items()}
            for attack, by_eps in self.survived.items()
        }

    @property
    def worst_case(self) -> dict[float, float]:
        """Share of images that survive every attack at a radius and the smaller ones, by radius."""
        return {eps: _share(self.survivors(eps)) for eps in self.eps}

    @property
    def lower_bound(self) -> dict[float, float]:
        """Share of images that no attack can fool, by radius; empty if it was not asked for.

        The robust accuracy lies between it and `worst_case`.
        """
        return {eps: _share(proven) for eps, proven in self.certified.items()}

    def survivors(self, eps: float) -> list[bool]:
        """Whether each image is correct when clean and after every attack within a radius.

        An adversarial image at a smaller radius of the report lies within this one too, so it
        counts here even if the same attack fails at this radius.

        Args:
            eps: One of the radii.

        Returns:
            A truth value an image.

        Raises:
            InputError: If the report does not hold this radius.
        """
        if eps not in self.eps:
            radii = ", ".join(map(repr, self.eps))
            raise InputError(f"survivors: eps must be one of the report's, {radii}, got {eps!r}.")
        return self._surviving([radius for radius in self.eps if radius <= eps])

    def _surviving(self, radii: list[float]) -> list[bool]:
        """Whether each image is correct when clean and after every attack at all these radii."""
        columns = [by_eps[eps] for by_eps in self.survived.values() for eps in radii]
        return [all(image) for image in zip(self.correct, *columns, strict=True)]

    @property
    def note(self) -> str:
        """The note that the worst case measures no robustness, if only the paper's attacks ran."""
        return PAPER_NOTE if self._is_of_the_paper(_WORST) else ""

    def to_dict(self) -> dict[str, Any]:
        """The whole report as a dictionary for JSON; `from_dict` reads it back."""
        report = asdict(self)
        report["survived"] = {
            attack: [[eps, images] for eps, images in by_eps.items()]
            for attack, by_eps in self.survived.items()
        }
        report["certified"] = list(map(list, self.certified.items()))
        return {**report, "clean": self.clean, "worst case": list(self.worst_case.items())}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> RobustnessReport:
        """The report that `to_dict` wrote.

        Args:
            found: The dictionary that `to_dict` returned, also after a round trip through JSON.

        Returns:
            An equal report.

        Raises:
            InputError: If it is not such a dictionary, or a part is missing.
        """
        if not isinstance(found, Mapping):
            got = type(found).__name__
            raise InputError(f"from_dict: it must be the dictionary that to_dict wrote, got {got}.")
        missing = [name for name in ("norm", "eps", "correct", "survived") if name not in found]
        if missing:
            raise InputError(f"from_dict: it must hold what to_dict wrote, got no {missing[0]!r}.")
        fields = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        fields["certified"] = dict(map(tuple, found.get("certified", [])))
        fields["survived"] = {
            attack: dict(map(tuple, rows)) for attack, rows in found["survived"].items()
        }
        return cls(**fields)

    def to_frame(self) -> Any:
        """A pandas frame with a row for each attack and a column for each radius.

        If attacks of the paper's protocol ran, the name of the columns says that these rows are no
        measure of robustness.

        Returns:
            The frame.

        Raises:
            MissingExtraError: If pandas is not installed (extra ``attacks``).
        """
        rows = self._rows()
        frame = import_extra("pandas", "attacks").DataFrame.from_dict(rows, orient="index")
        if any(map(self._is_of_the_paper, rows)):
            frame.columns.name = "not a measure of robustness"
        return frame

    def plot(self, axes: Any = None) -> Any:
        """Accuracy over radius, for each attack and in the worst case.

        Args:
            axes: matplotlib axes; new ones by default.

        Returns:
            The axes; ``axes.figure.savefig`` writes them.

        Raises:
            MissingExtraError: If matplotlib is not installed (extra ``plots``).
        """
        if axes is None:
            figure = import_extra("matplotlib.figure", "plots").Figure(layout="constrained")
            axes = figure.subplots()
        order = sorted(self.eps)
        for index, (name, by_eps) in enumerate(self._rows().items()):
            values = [100 * value for value in (self.clean, *[by_eps[e] for e in order])]
            if name == _WORST:
                style: dict[str, Any] = {"color": "black", "linewidth": 2.5, "zorder": 3}
            else:
                colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS)]
                style = {"color": colour, "linestyle": dash, "linewidth": 1.2}
            marker = _MARKERS[index % len(_MARKERS)]
            label = self._marked(name)
            axes.plot([0.0, *order], values, marker=marker, markersize=4, label=label, **style)
        axes.set(
            xlabel=f"{self.norm} radius eps (units of the images)",
            ylabel="accuracy (%)",
            ylim=(-2, 102),
        )
        if any(map(self._is_of_the_paper, self._rows())):
            axes.set_title(f"* {PAPER_NOTE}", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return axes

    def compare(self, other: RobustnessReport) -> dict[float, float]:
        """Whether two models differ: p values of the exact McNemar test, by radius.

        Both reports must be on the same images in the same order; only their labels are checked. An
        image survives if no attack fools it at this radius or at a smaller one that both reports
        have. If b images survive in this report only, and c in the other only, then b is
        Binomial(b + c, 1/2) for two equally robust models.

        Args:
            other: The other model's report.

        Returns:
            A two-sided p value for each radius of both.

        Raises:
            InputError: If the reports are not on images with the same labels in the same norm, not
                of the same attacks, or have no radius in common.
            MissingExtraError: If scipy is not installed (extra ``attacks``).
        """
        if not isinstance(other, RobustnessReport):
            got = type(other).__name__
            raise InputError(f"compare: other must be a RobustnessReport, got {got}.")
        if len(self.correct) != len(other.correct) or self.norm != other.norm:
            raise InputError(
                "compare: reports must be on the same images in the same norm, got "
                f"{len(self.correct)} in {self.norm} and {len(other.correct)} in {other.norm}."
            )
        differing = sum(a != b for a, b in zip(self.labels, other.labels, strict=False))
        if differing:
            raise InputError(
                "compare: reports must be on the same images in the same order, got other labels "
                f"at {differing} of {len(self.labels)}."
            )
        if self._attacks_run != other._attacks_run:
            raise InputError(
                "compare: reports must be of the same attacks, or the model with fewer seems the "
                f"better one, got {self._attacks_run} and {other._attacks_run}."
            )
        common = [eps for eps in self.eps if eps in other.eps]
        if not common:
            raise InputError(
                "compare: reports must have a radius in common, got "
                f"{', '.join(map(repr, self.eps))} and {', '.join(map(repr, other.eps))}."
            )
        binomtest = import_extra("scipy.stats", "attacks").binomtest
        p_values = {}
        for eps in common:
            within = [radius for radius in common if radius <= eps]
            pairs = list(zip(self._surviving(within), other._surviving(within), strict=True))
            b, c = pairs.count((True, False)), pairs.count((False, True))
            p_values[eps] = float(binomtest(b, b + c).pvalue) if b + c else 1.0
        return p_values

    @property
    def _attacks_run(self) -> str:
        """The preset, or the listed attacks without the student, which signs may have added."""
        names = ", ".join(sorted({*self.survived} - {"student"}))
        return names if self.preset == "list" else repr(self.preset)

    def __str__(self) -> str:
        """A table with the seconds that each attack took, and the warnings."""
        rows = self._rows()
        width = 2 + max(len(self._marked(name)) for name in (f"{self.norm} eps", *rows))
        head = f"{self.norm} eps".ljust(width) + "".join(f"{eps:>9.4g}" for eps in self.eps)
        lines = [
            f"{len(self.correct)} images, {100 * self.clean:.1f} % clean accuracy",
            head + ("  seconds" if self.seconds else ""),
        ]
        for name, by_eps in rows.items():
            cells = "".join(f"{100 * by_eps[e]:>8.1f}%" for e in self.eps)
            time = f"{self.seconds[name]:>9.1f}" if name in self.seconds else ""
            lines.append(self._marked(name).ljust(width) + cells + time)
        if self.certified:
            cells = "".join(f"{100 * self.lower_bound[e]:>8.1f}%" for e in self.eps)
            lines.append(_PROVEN.ljust(width) + cells)
            between = ", ".join(
                f"{100 * self.lower_bound[e]:.1f} and {100 * self.worst_case[e]:.1f} % at {e:g}"
                for e in self.eps
            )
            lines.append(f"the robust accuracy lies between {between}")
        if any(map(self._is_of_the_paper, rows)):
            lines.append(f"* {PAPER_NOTE}")
        return "\n".join([*lines, *[f"WARNING: {warning}" for warning in self.warnings]])

    def _rows(self) -> dict[str, dict[float, float]]:
        return {**self.accuracy, _WORST: self.worst_case}

    def _marked(self, name: str) -> str:
        return f"{name} *" if self._is_of_the_paper(name) else name

    def _is_of_the_paper(self, name: str) -> bool:
        """Whether a row is of the paper's protocol; the worst case is if all attacks are."""
        names = list(self.survived) if name == _WORST else [name]
        return self.preset == "paper" or all(attack in OF_THE_PAPER for attack in names)


def _share(images: list[bool]) -> float:
    return sum(images) / len(images)
