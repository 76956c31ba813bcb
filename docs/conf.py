"""How Sphinx builds this documentation: ``sphinx-build -W --keep-going -b html docs OUT``."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Octavo"
author = "The Octavo contributors"
version = release = installed_version("octavo")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api",
    "measured",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Octavo {version}"

# Markdown. Headings have anchors, so that `page.md#a-heading` is a link, and is checked.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings: list[str] = []

# The reference comes from docstrings, which name things as `name`: a link where it is one.
default_role = "py:obj"
autodoc_inherit_docstrings = False  # torch documents `forward`, at length
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes are fields of their class: `type` is no link to one of them
add_module_names = False
toc_object_entries = False

# Commands are copied without prompts and without their output.
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
