"""Compare each attack, from torchattacks and as the report card calls it, with plain PGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.ascent import ascent, cross_entropy, margin
from benchmarks.library.attack_subjects import SUBJECTS, Subject
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import Column, lookup, page, table
from isoreg.robustness import evaluate

# By name in the report card: the class of torchattacks, and options that replace its defaults.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd-ce": ("PGD", {"steps": 40}),
    "apgd-ce": ("APGD", {"steps": 50, "loss": "ce"}),
    "apgd-t": ("APGDT", {"steps": 50}),
    "fab": ("FAB", {"steps": 50}),
    "square": ("Square", {"n_queries": 1000}),
    "deepfool": ("DeepFool", {}),
    "cw": ("CW", {}),
}
_L2_ONLY = ("deepfool", "cw")


@dataclass(frozen=True)
class Settings:
    """The number of images; the report card holds the settings of the attacks themselves."""

    images: int = 100


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Each model, once in each norm."""
    del lab
    for name in SUBJECTS:
        for norm in ("Linf", "L2"):
            yield {"model": name, "norm": norm}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Shares of images that survive plain PGD, the optimal attack (if known) and each attack.

    Each attack runs twice: as the report card calls it ("ours"), and by torchattacks ("theirs").
    """
    subject, norm = SUBJECTS[key["model"]](lab.settings.images), key["norm"]
    model, x, y, eps = subject.model, subject.images, subject.labels, subject.eps[norm]
    torch.manual_seed(0)
    names = [name for name in THEIRS if norm == "L2" or name not in _L2_ONLY]
    report = evaluate(model, x, y, eps=eps, norm=norm, attacks=names)
    linear = subject.linear
    return {
        "eps": eps,
        "plain PGD": _share(plain_pgd(model, x, y, eps=eps, norm=norm)),
        "optimum": _share(exact_linear(linear, x, y, eps=eps, norm=norm)) if linear else None,
        "ours": {name: report.accuracy[name][eps] for name in names},
        "theirs": {name: as_it_is(name, subject, norm) for name in names},
    }


def as_it_is(name: str, subject: Subject, norm: str) -> float | str:
    """Accuracy under torchattacks' class as a user would call it, or the error that it raises.

    An image counts as fooled if it is misclassified and within the ball.
    """
    import torchattacks

    kind, options = THEIRS[name]
    eps = subject.eps[norm]
    if kind == "PGD":
        kind = "PGD" if norm == "Linf" else "PGDL2"
        options = {**options, "eps": eps, "alpha": 2.5 * eps / options["steps"]}
    elif name not in _L2_ONLY:
        options = {**options, "eps": eps, "norm": norm}
    make: Callable[..., Any] = getattr(torchattacks, kind)
    torch.manual_seed(0)
    try:
        adversarial = make(subject.model, **options)(subject.images, subject.labels).detach()
        return _share(_survives(subject, adversarial, eps, norm))
    except (IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        return type(error).__name__


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str) -> Tensor:
    """Mask of images that survive ascent on cross-entropy and on the margin, from two starts."""
    survive: Tensor = model(x).argmax(1) == y
    size = 1.0 if norm == "Linf" else float(x[:1].numel()) ** 0.5
    for loss in (cross_entropy, margin):
        for start in (x, x + eps * (2 * torch.rand_like(x) - 1) / size):
            how: dict[str, Any] = {"eps": eps, "step": 2.5 * eps / 100, "steps": 100, "norm": norm}
            points = ascent(loss(model, y), x, start=start, **how)
            for at in points:
                survive = survive & (model(at).argmax(1) == y)
    return survive


def exact_linear(linear: nn.Linear, x: Tensor, y: Tensor, *, eps: float, norm: str) -> Tensor:
    """Mask of images that a linear model classifies correctly after every change in the ball.

    The margin to each other class must exceed eps times the dual norm of the weights' difference.
    This is exact because the pixels are so far from 0 and 1 that clipping plays no role.
    """
    weight = linear.weight.detach()
    dual = (weight[y][:, None] - weight[None]).norm(p=1 if norm == "Linf" else 2, dim=2)
    logits = linear(x.flatten(1)).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    is_label = F.one_hot(y, logits.shape[1]).bool()
    survives: Tensor = ((gaps > eps * dual) | is_label).all(1)
    return survives


def _survives(subject: Subject, adversarial: Tensor, eps: float, norm: str) -> Tensor:
    order = float("inf") if norm == "Linf" else 2
    change = (adversarial - subject.images).flatten(1)
    inside: Tensor = torch.linalg.vector_norm(change, order, dim=1) <= eps * (1 + 1e-4)
    with torch.no_grad():
        right: Tensor = subject.model(adversarial).argmax(1) == subject.labels
    return right | ~inside


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def tables(results: Found) -> str:
    """A table with one row per model and norm, and one column per attack."""
    names = dict.fromkeys(name for run in results["runs"] for name in run["figures"]["ours"])
    columns = [Column(name, _theirs_and_ours(name)) for name in names]
    columns += [Column(name, _percent_of(name)) for name in ("plain PGD", "optimum")]
    rows = {
        f"{run['key']['model']}, {run['key']['norm']} {run['figures']['eps']:.2g}": [run["figures"]]
        for run in results["runs"]
    }
    return page(
        "# Attacks against plain PGD and known optima",
        f"Share in % of {results['settings']['images']} images that survive, all of them "
        "classified rightly when clean. Before the slash the class of torchattacks as a user "
        "would call it (the same number of steps; DeepFool and CW with their defaults), an "
        "image being fooled if it is misclassified within the ball, or the error that it "
        "raises; after the slash what `isoreg.robustness.evaluate` calls (its PGD is its own). "
        "Plain PGD: 100 steps on cross-entropy and on the margin, from two starts each, worst "
        "case. Optimum: the exact worst case of a linear model.",
        table("model", rows, columns),
    )


def _theirs_and_ours(name: str) -> Callable[[Figures], str | None]:
    theirs, ours = _percent_of(f"theirs/{name}"), _percent_of(f"ours/{name}")
    return lambda figures: f"{theirs(figures)} / {ours(figures)}" if ours(figures) else None


def _percent_of(path: str) -> Callable[[Figures], str | None]:
    def text(figures: Figures) -> str | None:
        value = lookup(figures, path)
        return value if isinstance(value, str | None) else f"{100 * value:.0f}"

    return text


STUDY = Study(
    "attacks",
    quickly(Settings(), images=5),
    keys,
    measure,
    tables,
    shows="the attacks against plain PGD and known optima",
    time="5 minutes",
)
