"""What DESIGN promises of the package as a whole: layering, a light import, documented names."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import isoreg

ROOT = Path(__file__).parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "_compiled": set(),
    "_random": set(),
    "_devices": {"errors"},
    "_pairs.precision": set(),
    "_tables": {"errors", "_pairs.precision"},
    "distances": {"errors", "_tables", "_pairs.precision"},
    "masks": {"errors", "_pairs.precision"},
    "_pairs.options": {"errors"},
    "_pairs.plan": {"_tables", "_pairs.options", "_pairs.precision", "distances", "masks"},
    "_pairs.dense": {"errors", "_pairs.options", "_pairs.plan", "distances", "masks"},
    "_pairs.backends": {"_pairs.plan", "_pairs.precision", "distances", "masks"},
    "_pairs.engine": {"errors", "_pairs.plan", "_pairs.precision", "_pairs.backends"},
    "_pairs.node": {
        "_compiled",
        "errors",
        "distances",
        "masks",
        "_pairs.options",
        "_pairs.plan",
        "_pairs.dense",
        "_pairs.engine",
    },
    "_ranks.exchange": {"errors"},
    "memory": {"errors", "masks", "_pairs.precision"},
    "_ranks.penalty": {
        "errors",
        "masks",
        "memory",
        "_pairs.dense",
        "_pairs.node",
        "_pairs.options",
        "_pairs.plan",
        "_pairs.precision",
        "_ranks.exchange",
    },
    "penalty": {
        "errors",
        "_tables",
        "_compiled",
        "distances",
        "masks",
        "memory",
        "_pairs.dense",
        "_pairs.node",
        "_pairs.options",
        "_pairs.plan",
        "_ranks.exchange",
        "_ranks.penalty",
    },
    "_attach.layers": {"errors"},
    "_attach.pooling": {"errors"},
    "_attach.samples": {"errors"},
    "_graph": set(),
    "_attach.record": {"errors", "_attach.samples"},
    "_attach.classifier": {"errors", "_compiled", "_graph", "_attach.layers", "_attach.pooling"},
    "_attach.reference": {"errors", "masks", "_attach.layers", "_attach.pooling", "_attach.record"},
    "_attach.hook": {"errors"},
    "_attach.recorder": {
        "errors",
        "_compiled",
        "_attach.classifier",
        "_attach.hook",
        "_attach.layers",
        "_attach.places",
        "_attach.pooling",
        "_attach.reader",
        "_attach.record",
        "_attach.reference",
        "_attach.samples",
        "_attach.seeking",
        "_attach.states",
        "_attach.trial",
    },
    "_attach.places": {"errors", "_attach.classifier", "_attach.layers"},
    "_attach.reader": {
        "errors",
        "_compiled",
        "_attach.layers",
        "_attach.pooling",
        "_attach.record",
    },
    "_attach.seeking": {"errors", "_attach.classifier", "_attach.hook"},
    "_attach.states": {"_attach.classifier", "_attach.record"},
    "_attach.trial": {"_compiled", "_random", "_attach.pooling"},
    "_attach.watching": {"errors", "_attach.recorder"},
    "_attach.balance": {"errors"},
    "report": {"diagnostics"},
    "_attach.monitor": {"_attach.balance", "diagnostics", "distances", "masks", "report"},
    "_attach.checks": {
        "errors",
        "_graph",
        "_tables",
        "distances",
        "_attach.balance",
        "masks",
        "_attach.record",
    },
    "_attach.given": {
        "errors",
        "_attach.checks",
        "_attach.layers",
        "_attach.record",
        "_attach.reference",
        "_attach.samples",
    },
    "regularizer": {
        "errors",
        "distances",
        "masks",
        "_pairs.options",
        "_ranks.exchange",
        "memory",
        "penalty",
        "report",
        "_attach.balance",
        "_attach.checks",
        "_attach.classifier",
        "_attach.given",
        "_attach.layers",
        "_attach.monitor",
        "_attach.pooling",
        "_attach.record",
        "_attach.recorder",
        "_attach.reference",
        "_attach.watching",
    },
    "head": {
        "errors",
        "_pairs.precision",
        "distances",
        "_attach.checks",
        "_attach.classifier",
        "_attach.layers",
        "_attach.pooling",
        "_attach.recorder",
        "_attach.watching",
    },
    "integrations": {
        "errors",
        "_compiled",
        "_tables",
        "distances",
        "regularizer",
        "_attach.layers",
        "_attach.pooling",
        "_attach.reference",
        "_attach.samples",
    },
    "lil": {"_tables", "errors", "masks", "penalty"},
    "diagnostics": {"errors", "_tables", "distances", "masks", "_pairs.options", "_pairs.plan"},
    "references": {"errors", "_attach.reference", "_pairs.precision", "_tables", "distances"},
    "robustness": {"errors", "_compiled", "_graph", "_random"},
    "plots": {"errors", "distances", "diagnostics", "report", "robustness"},
    "datasets": {"errors", "masks"},
    "embedding": {
        "errors",
        "_attach.reference",
        "_devices",
        "_tables",
        "_pairs.dense",
        "_pairs.precision",
        "distances",
        "masks",
        "penalty",
        "diagnostics",
        "plots",
    },
}
TOP = {name: is_package for _, name, is_package in pkgutil.iter_modules(isoreg.__path__)}
del TOP["__main__"]  # it is run, and may import all
ROOMS = [name for name, is_package in TOP.items() if name.startswith("_") and is_package]
MODULES = [
    *(name for name in TOP if name not in ROOMS),
    *(
        f"{room}.{name}"
        for room in ROOMS
        for _, name, _ in pkgutil.iter_modules([str(Path(isoreg.__path__[0]) / room)])
    ),
]


def imports_of(path: Path) -> set[str]:
    """Modules of isoreg that a file imports, at its top or inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".")[1:] for name in found if name.startswith("isoreg.")]
    names = {".".join(part[: 2 if part[0] in ROOMS else 1]) for part in parts}
    return names & set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_imports_only_what_stands_below_it(name: str) -> None:
    package = ROOT.joinpath("isoreg", *name.split("."))
    files = list(package.glob("*.py")) or [package.with_suffix(".py")]
    assert set().union(*map(imports_of, files)) <= MAY_IMPORT[name] | {name}


def test_the_allowed_imports_hold_no_circle() -> None:
    order = list(MAY_IMPORT)
    rest = set(order)
    while rest:
        free = {name for name in rest if not MAY_IMPORT[name] & rest}
        assert free, f"a circle among {rest}"
        rest -= free


def test_importing_isoreg_loads_torch_and_no_other_installed_package() -> None:
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import isoreg\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"isoreg"}


def documented() -> list[tuple[str, object]]:
    """Public functions and classes, from every module of the package."""
    names = []
    for name in MODULES:
        if name.partition(".")[0] in ROOMS:
            continue
        module = importlib.import_module(f"isoreg.{name}")
        names += [(f"{name}.{key}", value) for key, value in public_members(module)]
    return names


def public_members(module: ModuleType) -> list[tuple[str, object]]:
    return [
        (key, value)
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
    ]


@pytest.mark.parametrize("name", [name for name in isoreg.__all__ if name not in MODULES])
def test_every_name_of_the_contents_page_has_a_docstring(name: str) -> None:
    assert len(inspect.getdoc(getattr(isoreg, name)) or "") > 40


NEEDS_DATA = {"datasets.mnist"}
EXAMPLES = [
    *(getattr(isoreg, name) for name in isoreg.__all__ if name not in MODULES),
    *isoreg.distances.METRICS.values(),
    *(
        value
        for module in (
            isoreg.distances,
            isoreg.masks,
            isoreg.diagnostics,
            isoreg.datasets,
            isoreg.references,
            isoreg.plots,
        )
        for name, value in public_members(module)
        if f"{module.__name__.partition('.')[2]}.{name}" not in NEEDS_DATA
    ),
]


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: value.__qualname__)
def test_every_public_name_has_an_example_that_runs(value: object) -> None:
    assert doctest.DocTestParser().get_examples(value.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "value"), [pair for pair in documented() if inspect.isfunction(pair[1])]
)
def test_public_functions_name_every_argument_in_their_docstring(name: str, value: object) -> None:
    text = inspect.getdoc(value) or ""
    for argument in inspect.signature(value).parameters:  # type: ignore[arg-type]
        assert f"{argument}: " in text, f"{name} does not document {argument}"
