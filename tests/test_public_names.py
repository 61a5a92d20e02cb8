"""What the packages say they hold is there, and what they ask for is what their extras install."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "isoreg",
    *(f"isoreg.{name}" for name in ("datasets", "embedding", "references", "robustness")),
]


def calls_of(name: str) -> Iterator[tuple[str, list[str]]]:
    """Files and arguments of the calls of a function in the package, its own file left out."""
    for path in (ROOT / "isoreg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield str(path.relative_to(ROOT)), [ast.literal_eval(a) for a in node.args]


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return {line.partition(" = ")[0] for line in section.splitlines() if " = [" in line}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_of_a_package_is_there(name: str) -> None:
    package = importlib.import_module(name)
    for public in package.__all__:
        assert hasattr(package, public), public


def test_what_is_asked_for_exists_and_its_extra_is_declared() -> None:
    found = sorted(calls_of("import_extra"))
    assert len(found) > 10
    for file, (module, extra) in found:
        assert extra in extras(), file
        importlib.import_module(module)


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("isoreg.embedding", "sklearn", "embedding"),
        ("isoreg.integrations.lightning", "lightning.pytorch", "lightning"),
        ("isoreg.integrations.transformers", "transformers", "transformers"),
    ],
)
def test_a_room_whose_library_is_missing_names_the_extra_when_it_is_imported(
    package: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=rf"isoreg\[{extra}\]"):
        importlib.import_module(package)
