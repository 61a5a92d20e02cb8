"""Compare committed results with the present settings: which runs are missing, which are stale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims import Unfair
from benchmarks.results import Key, Run, identity, read
from benchmarks.study import Lab, Lacking, Study, expected, new_lab

RESULTS = Path(__file__).parent / "results"
FROZEN = {
    "robust-search": "one seed, and the answer was no: the search has no code any more",
    "structure-choices": "one seed on validation images: what it chose is measured by structure",
    "timm-finetune": "one seed, no accuracy beyond the noise; see examples/timm_finetune.py",
    "structure-torus": "five seeds: most of the gain is the control's too, and the page says so",
    "timm-scale": "three seeds on validation images: the unit that it chose is the recipe of timm",
    "mnist-code": "one seed by the released code's conventions: the answer is that of the text's",
    "structure-neighbours": "three seeds: nothing is clearly better than the control",
    "scaling-model": "predictions for hardware that was never measured: the model is gone",
}
"""Committed files that no study regenerates, each with the reason."""
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError)
"""Errors that a study raises when it reads runs with other keys or figures than it makes now."""


@dataclass
class Findings:
    """The findings on one results file.

    Attributes:
        file: Name of the file.
        runs: How many of its runs the present settings ask for.
        lacking: Keys of runs that the present settings ask for and that the file does not hold.
        stale: Keys of runs that the present settings do not ask for, each with the reason.
        error: Why the file could not be read, or why its table could not be made.
        table: Whether the committed table equals the one that is made from the runs.
        uncertain: How many runs name no commit, or a commit "with changes".
        images: Whether the file and its study name the same images.
    """

    file: str
    runs: int = 0
    lacking: list[Key] = field(default_factory=list)
    stale: list[tuple[Key, str]] = field(default_factory=list)
    error: str = ""
    table: bool = True
    uncertain: int = 0
    images: bool = True


def committed(studies: Iterable[Study[Any]]) -> dict[str, tuple[Study[Any], dict[str, Any]]]:
    """Map each committed file to its study and to the options that the file was made with."""
    sources: dict[str, tuple[Study[Any], dict[str, Any]]] = {}
    for study in studies:
        files = {study.name: {}} if study.committed is None else study.committed
        sources |= {file: (study, options) for file, options in files.items()}
    return sources


def lab_of(study: Study[Any], options: dict[str, Any], path: Path) -> Lab[Any]:
    """The lab of a committed file; it is used to read runs, not to measure."""
    return new_lab(study, path, options=options, seeds=study.seeds or 1)


def check(studies: Iterable[Study[Any]], folder: Path = RESULTS) -> Iterator[Findings]:
    """Compare every JSON file of a folder with the present settings; frozen files are skipped."""
    known = committed(studies)
    for path in sorted(folder.glob("*.json")):
        if path.stem in FROZEN:
            continue
        if path.stem not in known:
            yield Findings(path.name, error="is of no study that there is")
            continue
        study, options = known[path.stem]
        try:
            lab = lab_of(study, options, path)
            findings = compare(path.name, study, lab)
        except (SystemExit, *_UNREADABLE) as error:
            yield Findings(path.name, error=_sentence(error))
            continue
        page = path.with_suffix(".md")
        findings.images = read(path).get("images") == lab.results.images
        try:
            findings.table = not page.exists() or study.page(lab.found()) == page.read_text()
        except Lacking:  # the table chooses settings by runs that are missing
            findings.table = False
        except _UNREADABLE as error:
            findings.error = _sentence(error)
        yield findings


def _sentence(error: BaseException) -> str:
    """The sentence on a file that its study cannot read, or refuses to make a table of."""
    if isinstance(error, SystemExit | Unfair):
        return str(error)
    return f"holds runs that its study cannot read ({type(error).__name__}: {error})"


def compare(file: str, study: Study[Any], lab: Lab[Any]) -> Findings:
    """Compare the runs of a file with those that its study asks for."""
    required = {identity({"key": key, "made": made}): key for key, made in expected(study, lab)}
    present = {identity(run): run for run in lab.results.runs}
    keys = {key for key, _ in required}
    findings = Findings(file, runs=len(required.keys() & present.keys()))
    findings.uncertain = sum(not r["commit"] or "with" in r["commit"] for r in lab.results.runs)
    findings.lacking = [key for name, key in required.items() if name not in present]
    for name, run in present.items():
        if name not in required:
            why = _difference(study, lab, run) if name[0] in keys else "not wanted by the settings"
            findings.stale.append((run["key"], why))
    return findings


def _difference(study: Study[Any], lab: Lab[Any], run: Run) -> str:
    """Name the determinants of a run that have changed, with the old and the present value."""
    now = study.determinants(run["key"], lab.settings)
    then = lab.results.made.get(run["made"], {})
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name}: {then.get(name)!r}, now {now.get(name)!r}" for name in names)
