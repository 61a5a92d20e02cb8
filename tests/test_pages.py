"""The pages know everything public; that their code runs is checked by ``conftest.py``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import isoreg

ROOT = Path(__file__).parent.parent
REFERENCE = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", isoreg.__all__)
def test_the_reference_holds_every_name_of_the_contents_page(name: str) -> None:
    value = getattr(isoreg, name)
    home = value.__name__ if inspect.ismodule(value) else value.__module__
    directives = re.findall(r"auto(?:class|function|module):: ([\w.]+)", REFERENCE)
    assert {name, home, f"isoreg.{name}"} & set(directives)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_of_a_page_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_few_blocks_are_left_out_and_each_says_so() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    skips = re.findall(r"<!-- skip: next .*-->\s*```python\n(.*)", text)
    assert len(skips) == text.count("<!-- skip") <= 3
    assert all(first.startswith("# not run") for first in skips)
