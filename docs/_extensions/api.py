"""The directive ``api``: the reference of names of one module, from their docstrings.

It writes a table of summaries and, below it, the description of each name::

    ```{api} octavo.backend
    current force
    supported
    ```
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from typing import Any

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from octavo.library._register import registered


def _directive(value: object) -> str | None:
    """The directive of autodoc that describes `value`; None for data."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return "autoexception"
    if inspect.isclass(value):
        return "autoclass"
    return "autofunction" if inspect.isroutine(value) else None


def _docstring_of_data(name: str, value: object) -> list[str]:
    """The docstring below the assignment of `name`, in whichever module of Octavo that is.

    Autodoc looks into the module that a name is documented in alone, and shows what the class of
    the value says where nothing stands there.
    """
    modules = [m for n, m in sorted(sys.modules.items()) if n.partition(".")[0] == "octavo"]
    for module in modules:
        if getattr(module, "__file__", None) and vars(module).get(name) is value:
            if not module.__file__.endswith(".py"):
                continue
            found = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name))
            if found:
                return found
    raise ValueError(f"no docstring stands below the assignment of {name}")


def _summary(doc: list[str]) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join("\n".join(doc).partition("\n\n")[0].split())
    for end in re.finditer(r"[.:;]+ ", paragraph):
        head = paragraph[: end.start()]
        if head.count("``") % 2 == 0:  # no full stop within a formula
            return head
    return paragraph.rstrip(".:;")


class Api(SphinxDirective):
    """Summaries and descriptions of the names in its content, all of one module."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Writes the table and the directives of autodoc, and parses them."""
        module = self.arguments[0]
        owner = importlib.import_module(module)
        table = [".. list-table::", "   :widths: 30 70", ""]
        lines: list[str] = []
        for name in " ".join(self.content).split():
            value = getattr(owner, name)
            directive = _directive(value)
            if directive is None:
                doc = _docstring_of_data(name, value)
                lines += [f".. py:data:: {name}", "", *(f"   {line}" for line in doc), ""]
            else:
                doc = inspect.cleandoc(value.__doc__ or "").splitlines()
                lines += [f".. {directive}:: {name}", *_options(value), ""]
            table += [f"   * - :py:obj:`{name} <{module}.{name}>`", f"     - {_summary(doc)}"]
        text = [f".. currentmodule:: {module}", "", *table, "", *lines]
        # The page is Markdown, in which this is how directives of autodoc are read.
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *text, "```"]))


class Operators(SphinxDirective):
    """The schemas of the operators of ``torch.ops.octavo``, and what their modules say."""

    def run(self) -> list[nodes.Node]:
        """Writes a section for the schemas below the modules' docstrings."""
        library = importlib.import_module("octavo.library")
        text = ["```{eval-rst}"]
        for name in library.__all__:
            text += [f".. automodule:: octavo.library.{name}", ""]
        text += ["```", "", "```text", *sorted(map(_schema, registered())), "```"]
        return self.parse_text_to_nodes("\n".join(text))


def _schema(name: str) -> str:
    return str(getattr(torch.ops.octavo, name).default._schema)


def _options(value: object) -> list[str]:
    return ["   :members:"] if inspect.isclass(value) else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Makes the directive known to Sphinx."""
    app.add_directive("api", Api)
    app.add_directive("operators", Operators)
    return {
        "version": "1",
        "env_version": 2,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
