"""How the site is built: ``make docs``.

The source is the root of the repository, so that a page's links to figures and files work in the
repository's own view and on the site alike. Formulas become MathML while building: nothing that a
page needs comes from another server.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.ext.autodoc.preserve_defaults import update_defvalue
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
sys.path.insert(0, str(ROOT))
# the package is imported beside the torch of the environment that holds nothing else
sys.path += map(str, ROOT.glob(".venv-core/lib/python*/site-packages"))

import isoreg  # noqa: E402

project = "isoreg"
author = "The isoreg authors"
release = isoreg.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "examples/*.md",
    "examples/*.ipynb",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "isoreg", "tests", "docs/requirements.txt"]

html_theme = "furo"
html_title = "isoreg"
html_static_path = ["static"]
html_css_files = ["isoreg.css"]
html_extra_path = ["front"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute the notebook; its outputs are committed
nb_merge_streams = True

default_role = "py:obj"
highlight_language = "none"  # code says which language it is
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
strip_signature_backslash = True  # lets underscores at the end of names stand
autodoc_type_aliases = {"NDArray": "NDArray"}
autodoc_mock_imports = ["accelerate", "lightning", "numpy", "scipy", "sklearn", "transformers"]
python_maximum_signature_line_length = 88
add_module_names = False
napoleon_preprocess_types = True
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def visit_formula(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    block = isinstance(node, nodes.math_block)
    try:
        self.body.append(tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        logging.getLogger(__name__).warning("%s", error, location=node)
    raise nodes.SkipNode


def own_signature(
    app: Sphinx, what: str, _name: str, value: object, _options: object, _: str, returned: str
) -> tuple[str, str] | None:
    """Say what a class takes also where a base of it is not installed, which takes anything."""
    begin = vars(value).get("__init__") if what == "class" else None
    if begin is None:
        return None
    update_defvalue(app, begin, bound_method=True)  # defaults as they are written
    _self, *parameters = inspect.signature(begin).parameters.values()
    shown = stringify_signature(inspect.Signature(parameters))
    return shown.replace("<factory>", "..."), returned


def open_notebook(_app: Sphinx, page: str, source: list[str]) -> None:
    """Once the project has an address, let the gallery's notebook be opened at two services."""
    address = re.search(r'^Repository = "https://github.com/([^"]+)"', PROJECT, re.MULTILINE)
    if address and page == "docs/gallery":
        notebook = "examples/quickstart.ipynb"
        colab = f"https://colab.research.google.com/github/{address[1]}/blob/main/{notebook}"
        binder = f"https://mybinder.org/v2/gh/{address[1]}/main?labpath={notebook}"
        source[0] += f"\nThe notebook [in Colab]({colab}), [in Binder]({binder}).\n"


def setup(app: Sphinx) -> None:
    """Name the way formulas are drawn, and where the notebook can be opened."""
    app.connect("source-read", open_notebook)
    app.connect("autodoc-process-signature", own_signature)
    app.add_html_math_renderer("mathml", (visit_formula, None), (visit_formula, None))
