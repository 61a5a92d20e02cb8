"""The description of a study, and the code that runs every study."""

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
    """Raised, with the reason, if a run cannot be measured here; the study goes on without it."""


class Lacking(Exception):  # noqa: N818
    """Raised when a choice, and so the next key, depends on runs that are not measured yet."""


@dataclass(frozen=True)
class Study(Generic[S]):
    """The description of one study: what it measures and how it is shown.

    Attributes:
        name: Name of the results file: the command, and after a dash the part of the command.
        settings: Function that makes the settings, a frozen dataclass, from ``quick`` and from the
            study's command-line options, which are its other parameters.
        keys: Yields the keys of the runs in order. A key may depend on earlier runs in the `Lab`.
        measure: Measures one run and returns its figures.
        tables: Turns settings and runs into Markdown.
        draw: Draws settings and runs into a file; None: the study has no figure.
        shows: What the study shows, in one line.
        time: How long the study takes.
        data: Which data the study reads.
        seeds: Default number of seeds; 0: the study has none.
        device: Whether the study can run on another device than the processor.
        determines: What determines a run beside its key; None: all settings.
        verdict: Returns sentences on what falls short of the limits; if any, the command fails.
        fresh: Whether these settings delete the old results file instead of continuing it.
        committed: Files in ``results/`` that the study made, each with its options; None: one file
            of the study's name, made without options; {}: no file yet.
        uses: The images that the study trains, chooses and measures on.
        entries: For each row of the tables, how its strength was chosen.
        frozen: Whether the run of a key is kept and shown although no code makes it any more, as
            its question is answered; None: no run is kept so.
        without_control: Why no method of ours in the tables has a control; "": all have one.
        without_raw: Where raw inputs are shown, if the tables probe features without them.
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

    def page(self, results: Found) -> str:
        """The tables, and below them the sentences of `claims`, `images` and `provenance`.

        Raises:
            Unfair: If a row and its control did not have the same chances, if a method of ours has
                no control and no reason for that, or if the probed raw inputs are missing.
        """
        if self.entries is None and not self.without_control and _names_ours(results["runs"]):
            raise Unfair(f"{self.name}: a method of ours without `entries` or `without_control`")
        if self.uses.measured and not self.without_raw:
            demand_raw_inputs(results["runs"])
        rules = [below(self.entries(results))] if self.entries else []
        rules += [f"Without a control: {self.without_control}."] if self.without_control else []
        rules += [f"Without the raw inputs: {self.without_raw}."] if self.without_raw else []
        rules += [sentence(self.uses), doubts(results["runs"])]
        return joined(self.tables(results), *rules)

    @property
    def command(self) -> str:
        """The command that runs the study: its name up to the first dash."""
        return self.name.partition("-")[0]

    @property
    def part(self) -> str:
        """The value of ``--part`` that selects the study; "" if its name has no dash."""
        return self.name.partition("-")[2]

    def determinants(self, key: Key, settings: S) -> dict[str, Any]:
        """Everything that determines a run beside its key, as it is read back from JSON."""
        values = self.determines(key, settings) if self.determines else _asdict(settings)
        determinants: dict[str, Any] = as_json(values)
        return determinants


@dataclass
class Lab(Generic[S]):
    """One execution of a study: its settings, its surroundings and its runs so far.

    Attributes:
        settings: Settings that determine the figures.
        results: The results file.
        seeds: Number of seeds.
        quick: Whether this is a short trial whose figures mean nothing.
        data_dir: Folder with the data; None: ``ISOREG_DATA``, or a download.
        device: Name of a torch device.
        workers: Number of processes that prepare data.
        runs: Runs of the keys so far, in the order of the keys.
        tick: Called after each step of a measurement, to move the progress bar.
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
    _values: dict[str, Any] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Folder for files that are computed once for several runs."""
        return self.results.path.parent / "cache"

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Call ``make`` once for each name, keep its result and return it from then on."""
        if name not in self._values:
            self._values[name] = make()
        value: Made = self._values[name]
        return value

    def found(self) -> Found:
        """The data for tables and figures, with the runs of these settings in the file's order."""
        order = {id(run): place for place, run in enumerate(self.results.runs)}
        runs = sorted(self.runs, key=lambda run: order[id(run)])
        return {
            "settings": as_json(_asdict(self.settings)),
            "environment": self.results.environment,
            "runs": runs,
        }


def quickly(settings: S, **changes: Any) -> Callable[[bool], S]:
    """A ``settings`` function for a study without options; a quick run has ``changes``."""

    def make(quick: bool) -> S:
        return replace(settings, **changes) if quick else settings  # type: ignore[type-var]

    return make


def run(study: Study[S], lab: Lab[S]) -> Found:
    """Measure the runs that the file does not hold yet, and save each one when it is done."""
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
    """Yield keys and fingerprints of a study's runs, up to a key that needs a missing run.

    Runs that the file holds are added to the lab.
    """
    try:
        for key in study.keys(lab):
            made = fingerprint(study.determinants(key, lab.settings))
            done = lab.results.get(key, made)
            if done is not None:
                lab.runs.append(done)
            yield as_json(key), made
    except Lacking:
        return
    for frozen_run in frozen(study, lab):
        lab.runs.append(frozen_run)
        yield frozen_run["key"], frozen_run["made"]


def frozen(study: Study[S], lab: Lab[S]) -> list[Run]:
    """The runs of the file that no code makes any more, but that are kept and shown."""
    return [run for run in lab.results.runs if study.frozen and study.frozen(run["key"])]


def execute(study: Study[S], lab: Lab[S], console: Console) -> None:
    """Run, print the tables, and save them (.md) and the figure (.png) beside the results.

    Raises:
        SystemExit: If the study's verdict names something that falls short.
    """
    results, path = run(study, lab), lab.results.path
    text = study.tables(results) if lab.quick else study.page(results)
    write_atomically(path.with_suffix(".md"), text)
    written = [path.name, path.with_suffix(".md").name]
    if study.draw:
        study.draw(results, path.with_suffix(".png"))
        written.append(path.with_suffix(".png").name)
    console.print(Markdown(text))
    console.print(f"saved {', '.join(written)} in {path.parent}")
    if study.verdict and (short := study.verdict(results)):
        raise SystemExit("below the limits:\n" + "\n".join(short))


def new_lab(
    study: Study[S],
    out: Path,
    *,
    quick: bool = False,
    options: dict[str, Any] | None = None,
    **where: Any,
) -> Lab[S]:
    """Make the lab of a study; ``options`` are for its settings, ``where`` for `Lab`."""
    settings = study.settings(quick=quick, **(options or {}))
    if study.fresh(settings) and out.exists():
        read(out, study.name)  # this raises if the file is another study's
        out.unlink()
    results = Results(out, study.name, _asdict(settings), as_field(study.uses))
    return Lab(settings, results, quick=quick, **where)


def _progress_bar() -> Progress:
    """A bar on standard error that shows description, count and elapsed time."""
    return Progress(
        TextColumn("[bold]{task.description:<60}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _names_ours(runs: Iterable[Run]) -> bool:
    """Whether a value of some key contains "isometry", as the method of this library does."""
    keys = (run["key"] for run in runs)
    return any("isometry" in str(value) for key in keys for value in key.values())


def _asdict(settings: Any) -> dict[str, Any]:
    return asdict(settings)
