"""The directive ``api``: the reference of a list of names of one module, from their docstrings.

It writes a table of summaries and, below it, the description of each name::

    ```{api} octavo.backend
    current
    force
    ```
"""

from __future__ import annotations

import importlib
import inspect
import types
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def _directive(value: object) -> str:
    """The directive of autodoc that describes `value`."""
    if isinstance(value, types.ModuleType):
        return "automodule"
    if isinstance(value, type) and issubclass(value, BaseException):
        return "autoexception"
    if inspect.isclass(value):
        return "autoclass"
    if inspect.isroutine(value):
        return "autofunction"
    return "autodata"


class Api(SphinxDirective):
    """Summaries and descriptions of the names in its content, which are of the module it is given."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Writes the directives of autosummary and autodoc, and parses them."""
        module = self.arguments[0]
        names = [line.strip() for line in self.content if line.strip()]
        lines = [f".. currentmodule:: {module}", "", ".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in names]
        owner = importlib.import_module(module)
        for name in names:
            lines += ["", f".. {_directive(getattr(owner, name))}:: {name}"]
            lines += ["   :members:"] if inspect.isclass(getattr(owner, name)) else []
        # The page is Markdown, in which this is how directives of autodoc are read.
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Makes the directive known to Sphinx."""
    app.add_directive("api", Api)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
