"""Check that the regularizer attaches to every architecture of timm, and to transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.library.census_check import check
from benchmarks.library.census_subjects import timm_modules, timm_subject, transformers_subjects
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import markdown_table, page

SAMPLE = (
    *("convnext", "edgenext", "ghostnet", "levit"),
    *("mobilevit", "resnet", "tiny_vit", "vision_transformer"),
)


@dataclass(frozen=True)
class Settings:
    """The constants of `census_check.check`, so that runs record them; they change nothing."""

    batch: int = 4
    beta: float = 0.1
    steps: int = 2


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """The modules of timm (a sample of them in a quick run), then the transformers."""
    for name in SAMPLE if lab.quick else timm_modules():
        yield {"of": f"timm {name}"}
    for subject in transformers_subjects():
        yield {"of": subject.name}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Layers, shape and result of one model."""
    del lab
    library, _, module = key["of"].partition(" ")
    if library == "timm":
        return dict(check(timm_subject(module)))
    return dict(check(next(s for s in transformers_subjects() if s.name == key["of"])))


def tables(results: Found) -> str:
    """The number of models that attach, and a table of all models."""
    rows = [run["figures"] for run in results["runs"]]
    good = sum(row["result"] == "ok" for row in rows)
    header = ("model", "layer", "features", "seen", "stages", "result", "reason")
    return page(
        "# Census",
        f"{good} of {len(rows)} attach, train two steps and detach without trace.",
        "Names are compared. Layer: where the regularizer attached; of timm's models what their "
        "configuration declares. Seen: what the first pass shows without that, which must be the "
        'same or refused. Stages: of `layers="stages"`, which must be those of `feature_info`, '
        "or refused by the names that are no modules.",
        markdown_table(header, ([row[name] for name in header] for row in rows)),
    )


STUDY = Study(
    "census",
    quickly(Settings()),
    keys,
    measure,
    tables,
    shows="attaching to every module of timm, and to transformers",
    time="half an hour",
)
