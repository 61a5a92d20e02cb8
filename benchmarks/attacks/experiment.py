"""Each attack as torchattacks has it and as the report card calls it, beside plain PGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor

from benchmarks.attacks.reference import exact_linear, plain_pgd
from benchmarks.attacks.subjects import SUBJECTS, Subject
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg.robustness import evaluate

# name in the report card: the class of torchattacks and its options, else its defaults
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd-ce": ("PGD", {"steps": 40}),
    "apgd-ce": ("APGD", {"steps": 50, "loss": "ce"}),
    "apgd-t": ("APGDT", {"steps": 50}),
    "fab": ("FAB", {"steps": 50}),
    "square": ("Square", {"n_queries": 1000}),
    "deepfool": ("DeepFool", {}),
    "cw": ("CW", {}),
}
_L2_ALONE = ("deepfool", "cw")


@dataclass(frozen=True)
class Settings:
    """The attacks' own settings stand in the report card."""

    images: int = 100


def run(settings: Settings, *, out: Path) -> Results:
    """Run what is not yet in the file ``out``."""
    results = Results(out, asdict(settings))
    keys = [{"model": name, "norm": norm} for name in SUBJECTS for norm in ("Linf", "L2")]
    todo = [key for key in keys if not results.has(key)]
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo))
        for key in todo:
            progress.update(bar, description=f"{key['model']}, {key['norm']}")
            results.add(key, compare(SUBJECTS[key["model"]](settings.images), key["norm"]))
            progress.advance(bar)
    return results


def compare(subject: Subject, norm: str) -> dict[str, Any]:
    """Share of images that survive plain PGD, every change (if known), and each attack twice."""
    model, x, y, eps = subject.model, subject.images, subject.labels, subject.eps[norm]
    torch.manual_seed(0)
    names = [name for name in THEIRS if norm == "L2" or name not in _L2_ALONE]
    report = evaluate(model, x, y, eps=eps, norm=norm, attacks=names)
    optimum = None
    if subject.linear is not None:
        optimum = _share(exact_linear(subject.linear, x, y, eps=eps, norm=norm))
    return {
        "eps": eps,
        "plain PGD": _share(plain_pgd(model, x, y, eps=eps, norm=norm)),
        "optimum": optimum,
        "ours": {name: report.accuracy[name][eps] for name in names},
        "theirs": {name: as_it_is(name, subject, norm) for name in names},
    }


def as_it_is(name: str, subject: Subject, norm: str) -> float | str:
    """Accuracy under torchattacks' class as a user would call it, or the error that it raises.

    An image counts as fooled if it is misclassified and within the ball.
    """
    kind, options = THEIRS[name]
    eps = subject.eps[norm]
    if kind == "PGD":
        kind = "PGD" if norm == "Linf" else "PGDL2"
        options = {**options, "eps": eps, "alpha": 2.5 * eps / options["steps"]}
    elif name not in _L2_ALONE:
        options = {**options, "eps": eps, "norm": norm}
    make: Callable[..., Any] = getattr(torchattacks, kind)
    torch.manual_seed(0)
    try:
        found = make(subject.model, **options)(subject.images, subject.labels).detach()
        return _share(_survives(subject, found, eps, norm))
    except (IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        return type(error).__name__


def _survives(subject: Subject, found: Tensor, eps: float, norm: str) -> Tensor:
    order = float("inf") if norm == "Linf" else 2
    change = (found - subject.images).flatten(1)
    inside: Tensor = torch.linalg.vector_norm(change, order, dim=1) <= eps * (1 + 1e-4)
    with torch.no_grad():
        right: Tensor = subject.model(found).argmax(1) == subject.labels
    return right | ~inside


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()
