"""Run the census, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from benchmarks.census.check import Subject, check
from benchmarks.census.subjects import timm_modules, timm_subject, transformers_subjects
from benchmarks.results import Results, write_atomically
from benchmarks.tables import markdown_table

SAMPLE = (
    "byobnet",
    "convnext",
    "edgenext",
    "efficientnet",
    "ghostnet",
    "levit",
    "mobilenetv3",
    "mobilevit",
    "regnet",
    "resnet",
    "tiny_vit",
    "vision_transformer",
)


def run(*, out: Path, modules: list[str] | None = None, transformers: bool = True) -> Results:
    """Check what is not yet in the file ``out``."""
    results = Results(out, {"batch": 4, "beta": 0.1, "steps": 2})
    jobs: dict[str, Callable[[], Subject]] = {
        f"timm {name}": (lambda name=name: timm_subject(name))  # type: ignore[misc]
        for name in modules or timm_modules()
    }
    if transformers:
        jobs |= {subject.name: (lambda s=subject: s) for subject in transformers_subjects()}  # type: ignore[misc]
    todo = [name for name in jobs if not results.has({"of": name})]
    for name in track(todo, "checking", console=Console(stderr=True)):
        results.add({"of": name}, check(jobs[name]()))
    return results


def report(results: Results, console: Console) -> None:
    """Print how many attach and which do not; save the whole table."""
    rows = [run_["figures"] for run_ in results.runs]
    good = sum(row["result"] == "ok" for row in rows)
    header = ("model", "layer", "features", "result", "reason")
    summary = f"# Census\n\n{good} of {len(rows)} attach, train two steps and detach without trace."
    bad = [row for row in rows if row["result"] != "ok"]
    text = f"{summary}\n\n{markdown_table(header, ([row[h] for h in header] for row in rows))}\n"
    write_atomically(results.path.with_suffix(".md"), text)
    console.print(Markdown(summary))
    if bad:
        console.print(Markdown(markdown_table(header, ([row[h] for h in header] for row in bad))))
    console.print(f"saved {results.path} and {results.path.with_suffix('.md').name}")
