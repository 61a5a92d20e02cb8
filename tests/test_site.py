"""The built site: links and anchors lead somewhere, and a real browser shows every page whole.

They look at ``build/site``, which ``make docs`` makes. Without it, or without a browser, they are
skipped with that reason.
"""

from __future__ import annotations

import functools
import html
import inspect
import json
import queue
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag

import pytest

from isoreg.embedding import IsometricEmbedding
from isoreg.integrations.loading import PairwiseCollate

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# pages of people; the rest are tables of results and the listings of code
SHOWN = ("docs/**/*.html", "examples/*.html")

needs_site = pytest.mark.skipif(not SITE.exists(), reason="no build/site: run make docs")


def pages() -> list[Path]:
    return sorted({page for pattern in SHOWN for page in SITE.glob(pattern)})


@needs_site
def test_every_link_of_the_site_leads_to_a_page_and_an_anchor_that_exist() -> None:
    text = {page.resolve(): page.read_text() for page in SITE.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', source)) for page, source in text.items()}
    dead = []
    for page in pages():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text[page.resolve()]):
            target, anchor = urldefrag(html.unescape(link))
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / unquote(target).partition("?")[0]).resolve() if target else page
            there = file.resolve()
            if not there.exists() or (anchor and there in anchors and anchor not in anchors[there]):
                dead.append(f"{page.relative_to(SITE)}: {link}")
    assert not dead


@needs_site
@pytest.mark.parametrize("kind", [IsometricEmbedding, PairwiseCollate])
def test_the_reference_shows_each_argument_of_a_class_as_it_is_written(kind: type) -> None:
    page = (SITE / "docs" / "reference" / "embedding.html").read_text()
    [shown] = re.findall(rf'<dt [^>]*id="[\w.]+\.{kind.__name__}">.*?</dt>', page, re.DOTALL)
    assert all(f">{name}<" in shown for name in inspect.signature(kind).parameters)
    assert "&lt;" not in shown, "the repr of a function"


@needs_site
def test_the_reference_keeps_the_underscore_of_what_a_fit_leaves_behind() -> None:
    page = (SITE / "docs" / "reference" / "embedding.html").read_text()
    fitted = IsometricEmbedding(max_epochs=1, random_state=0).fit([[0.0, 1.0], [2.0, 0.0]])
    names = [name for name in vars(fitted) if re.fullmatch("[a-z].*_", name)]
    assert len(names) > 5
    assert [name for name in names if f"<strong>{name}</strong>" not in page] == []


@needs_site
def test_no_sentence_of_the_reference_is_taken_for_a_type() -> None:
    pages = [*(SITE / "docs" / "reference").glob("*.html")]
    assert len(pages) > 10
    # what stands before a colon in "Returns:" is one to Sphinx, and would be torn off
    assert [page.name for page in pages if "Return type" in page.read_text()] == []


@needs_site
def test_a_browser_shows_no_page_too_wide_no_broken_picture_and_no_split_number(
    tmp_path: Path,
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    found = look(browser, [page.relative_to(SITE).as_posix() for page in pages()], tmp_path)
    assert len(found) == 2 * len(pages())
    wrong = [each for each in found if any(isinstance(v, list) and v for v in each.values())]
    assert not wrong, json.dumps(wrong, indent=1)


def look(browser: str, names: list[str], folder: Path) -> list[dict[str, Any]]:
    """What the probe says of each page, at each width and theme."""
    answers: queue.Queue[list[dict[str, Any]]] = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        """The site, and the probe beside it, so that the probe may look into its pages."""

        def translate_path(self, path: str) -> str:
            probe = Path(__file__).with_name("site_probe.html")
            return str(probe) if path.startswith("/probe") else super().translate_path(path)

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Handler, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listed = quote(json.dumps([f"/{name}" for name in names]))
        address = f"http://127.0.0.1:{server.server_port}/probe#{listed}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
        port = "--remote-debugging-port=0"  # keeps it open until it is told to end
        with subprocess.Popen(
            [browser, *flags, port, address], stderr=subprocess.DEVNULL
        ) as process:
            try:
                return answers.get(timeout=240)
            finally:
                process.terminate()
                server.shutdown()
