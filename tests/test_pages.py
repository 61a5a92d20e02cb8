"""The pages know everything public; that their code runs is checked by ``conftest.py``."""

from __future__ import annotations

import importlib
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
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("name", isoreg.__all__)
def test_the_reference_holds_every_name_of_the_contents_page(name: str) -> None:
    value = getattr(isoreg, name)
    home = value.__name__ if inspect.ismodule(value) else value.__module__
    directives = re.findall(r"auto(?:class|function|module):: ([\w.]+)", REFERENCE)
    assert {name, home, f"isoreg.{name}"} & set(directives)


def test_the_reference_names_what_users_call_and_no_room_of_the_inside() -> None:
    assert not re.findall(r"::.*isoreg\._\w+", REFERENCE)
    assert not re.findall(r"automodule:: ([\w.]+)\n   :members:\n", REFERENCE), "members by name"
    named = re.findall(r"automodule:: ([\w.]+)\n   :members: (.*)", REFERENCE)
    assert len(named) > 5
    for module, members in named:
        for name in members.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
            assert not re.match("check|resolve|as_", name), f"{name} is a helper"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_picture_and_anchor_of_a_page_exists(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)  # no code
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if not target.startswith("http"):
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not anchor or anchor in anchors_of(file), f"{target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_stands_below_its_heading_and_has_as_many_cells(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heading, *below = [re.split(r"(?<!\\)\|", row.strip()) for row in rows.splitlines()]
        assert below, heading
        assert all(re.fullmatch(" *:?-+:? *", cell) for cell in below[0][1:-1]), heading
        assert not [row for row in below if len(row) != len(heading)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_begins_with_whom_it_is_for(page: Path) -> None:
    if page.is_relative_to(ROOT / "docs") and "reference" not in page.parts:
        first = page.read_text().split("\n\n")[1]
        assert re.match(r"For (everybody|readers) w", first), first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_mark_leaves_no_space_in_front_of_a_comma(page: Path) -> None:
    assert not re.findall(r"\s<!-- figure: [^>]*-->[,.;:)]", page.read_text())


def test_pages_of_how_stay_short_and_so_do_all_of_them() -> None:
    lengths = {page: words(page) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    how = {page: n for page, n in lengths.items() if page.parent == ROOT / "docs"}
    assert not {page.name: n for page, n in how.items() if n > 900}
    assert sum(lengths.values()) <= 15_100
    assert words(ROOT / "README.md") <= 700


def words(page: Path) -> int:
    """What is read: without marks, code and the bars of tables."""
    unread = r"<!--.*?-->|^```.*?^```|[|]"
    return len(re.sub(unread, " ", page.read_text(), flags=re.DOTALL | re.MULTILINE).split())
