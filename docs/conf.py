"""Configuration of the documentation; build it with `nox -s docs`."""

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

sys.path.insert(0, str(Path(__file__).parent))
import paper_pages
import reference_pages

reference_pages.write_pages(Path(__file__).parent / "reference")
paper_pages.write_pages(Path(__file__).parent / "reproductions")

project = "diffplan"
author = "The diffplan developers"
copyright = "2026, The diffplan developers"
release = importlib.metadata.version("diffplan")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/README.rst"]
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py",  # all are run
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # which differ from build to build
}
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_math_renderer = "mathml"
html_title = "diffplan"

# Docstrings put code between single backticks.
default_role = "code"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
}
autodoc_preserve_defaults = True
autodoc_mock_imports = ["tensordict", "torchrl"]  # see `nox -s tests_adapters`
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # else a dataclass's fields are described twice


def write_formula(writer: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw without a network."""
    writer.body.append(tex2mathml(node.astext(), isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def name_types(*given: Any) -> None:
    """Shorten types of attributes to `Tensor`: their stars are no emphasis.

    The text beside them tells shapes in words.
    """
    lines = given[-1]
    for index, line in enumerate(lines):
        if line.startswith(":vartype "):
            lines[index] = re.sub(r"\w+\[Tensor, (['\"]).*?\1\]", "Tensor", line)


def setup(app: Any) -> None:
    """Tell Sphinx of what is defined here."""
    # After napoleon, which writes these lines.
    app.connect("autodoc-process-docstring", name_types, priority=600)
    both = (write_formula, None)
    app.add_html_math_renderer("mathml", inline_renderers=both, block_renderers=both)
