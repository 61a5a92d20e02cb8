"""Run the Python blocks of the pages: those of one page share their names, as a reader would."""

from __future__ import annotations

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

collect_ignore = ["docs/conf.py"]  # runs beside Sphinx, in an environment of its own
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"], excludes=["build/*"]
).pytest()
