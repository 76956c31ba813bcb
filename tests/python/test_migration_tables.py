"""docs/migration: the tables have every public name, and every name in them exists."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import octavo.quantization as tq
from quantization_support import oracle, quietly

PAGES = Path(__file__).parents[2] / "docs" / "migration"
# Insides of torch's graph mode, and what is no quantization: the page says so as a whole.
WHOLE = re.compile(
    r"pruning|ns\.fx|quantization\.fx(?!\.(custom_config|graph_module|tracer)$)"
    r"|quantization\.backend_config\.(utils|_)|quantization\._|nn\.quantized\.reference\.modules"
)
ABSENT = "\N{EN DASH}"  # in the second column
Row = tuple[str, str, str]


def tables(page: str) -> dict[str, list[Row]]:
    """Heading -> rows of three columns, of those sections whose heading is a module."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^### ", (PAGES / page).read_text(), flags=re.MULTILINE)[1:]:
        heading = section.split("\n", 1)[0].strip("`")
        rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (.*?) ?\|$", section, re.MULTILINE)
        if rows and re.fullmatch(r"[\w.]+", heading):
            found[heading] = rows
    return found


def resolve(path: str) -> Any:
    """What a dotted path names: a module, or an attribute of one.

    Raises:
        AttributeError: nothing has that name.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = quietly(importlib.import_module, ".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return thing
    raise AttributeError(path)


@cache
def public_names() -> dict[str, frozenset[str]]:
    """Module of torch.ao, without that prefix -> what it exports or, without a list, defines."""
    oracle()
    modules = {"nn", "quantization"}
    for root in ("nn", "ns", "quantization", "pruning"):
        package = quietly(importlib.import_module, f"torch.ao.{root}")
        walk = pkgutil.walk_packages(package.__path__, f"torch.ao.{root}.", lambda name: None)
        modules |= {m.name.removeprefix("torch.ao.") for m in quietly(list, walk)}
    found = {}
    for name in sorted(m for m in modules if not WHOLE.match(m)):
        module = quietly(importlib.import_module, f"torch.ao.{name}")
        listed = getattr(module, "__all__", None)
        if listed is None:
            home = f"torch.ao.{name}"
            listed = [
                key
                for key, value in vars(module).items()
                if not key.startswith("_")
                and str(getattr(value, "__module__", "")).startswith(home)
            ]
        found[name] = frozenset(listed)
    return found


def related(one: str, other: str) -> bool:
    """Whether a module is the other one, or inside of it, or the other way round."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_no_public_name_is_missing() -> None:
    listed = {heading: {row[0] for row in rows} for heading, rows in tables("torch_ao.md").items()}
    missing = [
        f"{module}.{name}"
        for module, names in public_names().items()
        for name in names
        if not any(
            name in rows and related(f"torch.ao.{module}", heading)
            for heading, rows in listed.items()
        )
    ]
    assert len(public_names()["quantization"]) > 100
    assert missing == []


def test_each_name_of_torch_exists() -> None:
    oracle()
    found = tables("torch_ao.md")
    assert len(found) > 30
    wrong = [
        f"{heading}.{name}"
        for heading, rows in found.items()
        for name, _, _ in rows
        if not hasattr(resolve(heading), name)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", ["torch_ao.md", "torchao.md", "neural_compressor.md"])
def test_each_name_of_octavo_exists(page: str) -> None:
    """Those in tables and those in the text."""
    names = set(re.findall(r"`(octavo\.[\w.]*\w)", (PAGES / page).read_text()))
    assert names
    for name in names:
        resolve(name)


def test_what_is_called_absent_is_absent_and_says_why() -> None:
    for heading, rows in tables("torch_ao.md").items():
        ours = heading.replace("torch.ao.", "octavo.").replace("torch", "octavo")
        for name, cell, remark in rows:
            if cell == ABSENT:
                assert remark, f"{heading}.{name}"
                with pytest.raises(AttributeError):
                    resolve(f"{ours}.{name}")
            else:
                assert re.fullmatch(r"`octavo\.[\w.]+`", cell), f"{heading}.{name}: {cell}"
                assert cell.strip("`").rsplit(".", 1)[1] == name


def test_what_torch_exports_at_the_top_is_exported_at_the_top() -> None:
    for heading, rows in tables("torch_ao.md").items():
        if not heading.startswith("torch.ao.quantization"):
            continue
        for name, cell, _ in rows:
            if cell != ABSENT and name in public_names()["quantization"]:
                assert hasattr(tq, name), name


def test_octavos_own_names_are_listed() -> None:
    """What ``octavo.quantization`` exports stands in the tables, as torch's name or as its own."""
    text = (PAGES / "torch_ao.md").read_text()
    assert [n for n in tq.__all__ if f"| `octavo.quantization.{n}` |" not in text] == []


@pytest.mark.parametrize(
    ("heading", "module"),
    [
        ("torchao.quantization.pt2e.quantize_pt2e", "torchao.quantization.pt2e.quantize_pt2e"),
        ("torchao.quantization.pt2e", "torchao.quantization.pt2e"),
        ("torchao.quantization.pt2e.quantizer", "torchao.quantization.pt2e.quantizer"),
        ("torchao.quantization", "torchao.quantization"),
    ],
)
def test_torchaos_names_are_those_of_the_table(heading: str, module: str) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    names = set(quietly(importlib.import_module, module).__all__)
    assert {row[0] for row in tables("torchao.md")[heading]} == names
