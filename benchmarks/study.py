"""What a study is, and the one runner of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.claims import Entry, Unfair, below, demand_raw_inputs
from benchmarks.images import Uses, as_field, sentence
from benchmarks.provenance import doubts
from benchmarks.results import (
    Figures,
    Found,
    Key,
    Results,
    Run,
    as_json,
    fingerprint,
    read,
    write_atomically,
)
from benchmarks.tables import page as joined

S = TypeVar("S")
Made = TypeVar("Made")


class Skip(Exception):  # noqa: N818 (it is no error)
    """Raised if a run cannot be measured here, with the reason; the study goes on without it."""


class Lacking(Exception):  # noqa: N818
    """Raised if keys or a choice depend on runs that do not exist yet."""


@dataclass(frozen=True)
class Study(Generic[S]):
    """A study: all that differs between studies.

    Attributes:
        name: Name of its file of results: the command, and after a dash the part of the command.
        settings: Makes the settings, a frozen dataclass, from ``quick`` and the options of the
            command line, which are the other parameters of this function.
        keys: The keys of the runs in their order. They may depend on the runs so far, in the `Lab`.
        measure: The figures of a run.
        tables: Settings and runs to Markdown.
        draw: Settings and runs to a figure; None if the study has no figure.
        shows: What it shows, in a line.
        time: How long it takes.
        data: What it reads.
        seeds: Default number of seeds; 0 if the study has none.
        device: Whether it can run on another device than the CPU.
        determines: What determines a run besides its key; None: all settings.
        verdict: Sentences on what falls short; if there are any, the command fails.
        fresh: Whether to begin a new file instead of continuing the old one.
        committed: Files in ``results/`` that it made, with the options they were made with; None:
            the one of its name, without options; {}: it was not run yet.
        uses: Which images it trains, chooses and measures on.
        entries: For each row of its tables, the strengths from which it was chosen.
        frozen: Whether a run of the file, by its key, is kept and shown although no code makes it
            any more, because its question is answered. None: no run is.
        without_control: Why no row of a method of ours has a control; "" if they have one.
        without_raw: Where to find the raw inputs, if features are probed here and they are not.
    """

    name: str
    settings: Callable[..., S]
    keys: Callable[[Lab[S]], Iterable[Key]]
    measure: Callable[[Key, Lab[S]], Figures]
    tables: Callable[[Found], str]
    draw: Callable[[Found, Path], None] | None = None
    shows: str = ""
    time: str = ""
    data: str = "none"
    seeds: int = 0
    device: bool = False
    determines: Callable[[Key, S], dict[str, Any]] | None = None
    verdict: Callable[[Found], list[str]] | None = None
    fresh: Callable[[S], bool] = lambda _: False
    committed: dict[str, dict[str, Any]] | None = None
    uses: Uses = Uses()  # noqa: RUF009 (it is frozen)
    entries: Callable[[Found], Mapping[str, Entry]] | None = None
    without_control: str = ""
    frozen: Callable[[Key], bool] | None = None
    without_raw: str = ""

    def page(self, found: Found) -> str:
        """The tables, and below them what the rules of `claims`, `images` and `provenance` ask for.

        Raises:
            Unfair: If a row had chances that its control had not, or a method of ours no control.
        """
        if self.entries is None and not self.without_control and _names_ours(found["runs"]):
            raise Unfair(f"{self.name}: a method of ours without `entries` or `without_control`")
        if self.uses.measured and not self.without_raw:
            demand_raw_inputs(found["runs"])
        rules = [below(self.entries(found))] if self.entries else []
        rules += [f"Without a control: {self.without_control}."] if self.without_control else []
        rules += [f"Without the raw inputs: {self.without_raw}."] if self.without_raw else []
        rules += [sentence(self.uses), doubts(found["runs"])]
        return joined(self.tables(found), *rules)

    @property
    def command(self) -> str:
        """The command that runs it."""
        return self.name.partition("-")[0]

    @property
    def part(self) -> str:
        """Its part of the command; "" for the only or the main part."""
        return self.name.partition("-")[2]

    def determinants(self, key: Key, settings: S) -> dict[str, Any]:
        """What determines a run besides its key, as in JSON."""
        found = self.determines(key, settings) if self.determines else _asdict(settings)
        plain: dict[str, Any] = as_json(found)
        return plain


@dataclass
class Lab(Generic[S]):
    """The surroundings in which a study runs, and the runs that it has so far.

    Attributes:
        settings: What determines the figures.
        results: The file of results.
        seeds: Number of seeds.
        quick: Whether the study is only tried out, so that its figures mean nothing.
        data_dir: Folder with the data, or None.
        device: A torch device.
        workers: Processes that prepare data.
        runs: The runs of the keys so far, in the order of the keys.
        tick: Called after each step of a training.
    """

    settings: S
    results: Results
    seeds: int = 1
    quick: bool = False
    data_dir: Path | None = None
    device: str = "cpu"
    workers: int = 0
    runs: list[Run] = field(default_factory=list)
    tick: Callable[[], None] = lambda: None
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Folder for files that are computed once for several runs."""
        return self.results.path.parent / "cache"

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """The object of this name, which the first call makes."""
        if name not in self._kept:
            self._kept[name] = make()
        found: Made = self._kept[name]
        return found

    def found(self) -> Found:
        """The content of tables and figures, with the runs of these settings only."""
        order = {id(run): place for place, run in enumerate(self.results.runs)}
        runs = sorted(self.runs, key=lambda run: order[id(run)])
        return {
            "settings": as_json(_asdict(self.settings)),
            "environment": self.results.environment,
            "runs": runs,
        }


def quickly(settings: S, **changes: Any) -> Callable[[bool], S]:
    """The ``settings`` of a study without options: if it is quick, these with the changes."""

    def make(quick: bool) -> S:
        return replace(settings, **changes) if quick else settings  # type: ignore[type-var]

    return make


def run(study: Study[S], lab: Lab[S]) -> Found:
    """Measure the runs that the file does not hold yet, and save each of them at once."""
    with _progress_bar() as progress:
        bar = progress.add_task("", total=None)
        for key in study.keys(lab):
            progress.update(bar, description=", ".join(map(str, key.values())))
            determinants = study.determinants(key, lab.settings)
            made = fingerprint(determinants)
            done = lab.results.get(key, made)
            if done is None:
                lab.results.refresh()  # another process may have done it meanwhile
                done = lab.results.get(key, made)
            if done is None:
                steps = progress.add_task("  steps of training", total=None, visible=False)
                lab.tick = lambda task=steps: progress.update(task, advance=1, visible=True)  # type: ignore[misc]
                try:
                    done = lab.results.add(key, determinants, study.measure(key, lab))
                except Skip as reason:
                    progress.console.print(f"skipped {key}: {reason}")
                finally:
                    progress.remove_task(steps)
            if done is not None:
                lab.runs.append(done)
            progress.advance(bar)
    lab.runs += frozen(study, lab)
    return lab.found()


def expected(study: Study[S], lab: Lab[S]) -> Iterator[tuple[Key, str]]:
    """Keys and fingerprints of a study's runs, as far as they follow from the runs that it has."""
    try:
        for key in study.keys(lab):
            made = fingerprint(study.determinants(key, lab.settings))
            done = lab.results.get(key, made)
            if done is not None:
                lab.runs.append(done)
            yield as_json(key), made
    except Lacking:
        return
    for kept in frozen(study, lab):
        lab.runs.append(kept)
        yield kept["key"], kept["made"]


def frozen(study: Study[S], lab: Lab[S]) -> list[Run]:
    """The runs of the file that are kept and shown although no code makes them any more."""
    return [run for run in lab.results.runs if study.frozen and study.frozen(run["key"])]


def execute(study: Study[S], lab: Lab[S], console: Console) -> None:
    """Run, print the tables, and save them (.md) and the figure (.png) beside the results.

    Raises:
        SystemExit: If the study's verdict says that something falls short.
    """
    found, path = run(study, lab), lab.results.path
    text = study.tables(found) if lab.quick else study.page(found)
    write_atomically(path.with_suffix(".md"), text)
    written = [path.name, path.with_suffix(".md").name]
    if study.draw:
        study.draw(found, path.with_suffix(".png"))
        written.append(path.with_suffix(".png").name)
    console.print(Markdown(text))
    console.print(f"saved {', '.join(written)} in {path.parent}")
    if study.verdict and (short := study.verdict(found)):
        raise SystemExit("below the limits:\n" + "\n".join(short))


def new_lab(
    study: Study[S],
    out: Path,
    *,
    quick: bool = False,
    options: dict[str, Any] | None = None,
    **where: Any,
) -> Lab[S]:
    """The lab of a study with options for its settings; ``where`` goes to `Lab`."""
    settings = study.settings(quick=quick, **(options or {}))
    if study.fresh(settings) and out.exists():
        read(out, study.name)  # refuses another study's file, which must stay
        out.unlink()
    results = Results(out, study.name, _asdict(settings), as_field(study.uses))
    return Lab(settings, results, quick=quick, **where)


def _progress_bar() -> Progress:
    """Description, bar, count and time, on standard error."""
    return Progress(
        TextColumn("[bold]{task.description:<60}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _names_ours(runs: Iterable[Run]) -> bool:
    """Whether a key names the method of this library, as a method, a choice or a recipe."""
    keys = (run["key"] for run in runs)
    return any("isometry" in str(value) for key in keys for value in key.values())


def _asdict(settings: Any) -> dict[str, Any]:
    return asdict(settings)
