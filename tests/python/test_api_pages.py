"""The pages of docs/api/ name everything that is public, once, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections import Counter
from typing import Any

import pytest

import octavo
from docs_support import DOCS, blocks

# Packages whose modules a user imports from by the path of the package.
PUBLIC = (
    "octavo",
    "octavo.backend",
    "octavo.lowering",
    "octavo.nn.intrinsic",
    "octavo.nn.intrinsic.qat",
    "octavo.nn.intrinsic.quantized",
    "octavo.nn.intrinsic.quantized.dynamic",
    "octavo.nn.qat",
    "octavo.nn.qat.dynamic",
    "octavo.nn.quantizable",
    "octavo.nn.quantized",
    "octavo.nn.quantized.dynamic",
    "octavo.nn.quantized.functional",
    "octavo.ns._numeric_suite",
    "octavo.ops",
    "octavo.quantization",
    "octavo.quantization.backend_config",
    "octavo.quantization.fx.custom_config",
    "octavo.quantization.quantize_fx",
    "octavo.quantization.quantize_pt2e",
    "octavo.quantization.quantizer",
    "octavo.workflow",
)
DATA = "octavo.dtypes"  # some of it: what the names of `octavo` are made of


def documented() -> dict[str, list[str]]:
    """The names that the pages describe, by the module that they are described as part of."""
    found: dict[str, list[str]] = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        for block in blocks(f"docs/api/{page.name}"):
            directive, _, module = block.language.partition(" ")
            if directive == "{api}":
                found.setdefault(module, []).extend(block.text.split())
    return found


DOCUMENTED = documented()


def public(module: str) -> dict[str, Any]:
    """The public names of a module but its submodules and dunders."""
    there = importlib.import_module(module)
    names = {name: getattr(there, name) for name in there.__all__}
    return {
        name: value
        for name, value in names.items()
        if not isinstance(value, types.ModuleType) and not name.startswith("__")
    }


def described_elsewhere(name: str, value: Any, module: str) -> bool:
    """Whether a name is on the page of another module that has the same object by this name."""
    return any(
        name in names and getattr(importlib.import_module(other), name) is value
        for other, names in DOCUMENTED.items()
        if other != module
    )


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_described(module: str) -> None:
    missing = [
        name
        for name, value in public(module).items()
        if name not in DOCUMENTED.get(module, []) and not described_elsewhere(name, value, module)
    ]
    assert missing == []


@pytest.mark.parametrize("module", sorted(DOCUMENTED))
def test_what_is_described_is_public(module: str) -> None:
    assert module in PUBLIC or module == DATA
    names = DOCUMENTED[module]
    assert [name for name in names if name not in importlib.import_module(module).__all__] == []
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_package_is_forgotten() -> None:
    """Every package with public names is in the list, or its names are those of one that is."""
    packages = [octavo.__name__] + [
        found.name
        for found in pkgutil.walk_packages(octavo.__path__, "octavo.")
        if found.ispkg and "._" not in found.name and ".bench" not in found.name
    ]
    known = {id(value) for module in PUBLIC for value in public(module).values()}
    forgotten = []
    for package in packages:
        if package not in PUBLIC and hasattr(importlib.import_module(package), "__all__"):
            forgotten += [
                f"{package}.{name}"
                for name, value in public(package).items()
                if id(value) not in known
            ]
    assert forgotten == []
