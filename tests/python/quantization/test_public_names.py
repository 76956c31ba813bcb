"""Every name that torch.ao.quantization exports in these modules exists, under the same path."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import octavo.quantization as tq
from quantization_support import oracle

MODULES = ("observer", "fake_quantize", "qconfig", "qconfig_mapping", "quantization_mappings")
DOCS = Path(__file__).parents[3] / "docs" / "migration" / "differences.md"


def missing(name: str) -> list[str]:
    theirs: Any = getattr(oracle(), name)
    ours = importlib.import_module(f"octavo.quantization.{name}")
    at_package_level = [n for n in theirs.__all__ if hasattr(oracle(), n)]
    return [n for n in theirs.__all__ if not hasattr(ours, n)] + [
        n for n in at_package_level if not hasattr(tq, n)
    ]


@pytest.mark.parametrize("name", MODULES)
def test_torchs_names_exist_or_their_absence_is_documented(name: str) -> None:
    text = DOCS.read_text()
    assert [n for n in missing(name) if f"`{n}`" not in text] == []


@pytest.mark.parametrize("name", MODULES)
def test_exported_names_are_public_in_the_package(name: str) -> None:
    module = importlib.import_module(f"octavo.quantization.{name}")
    assert sorted(module.__all__) == list(module.__all__)
    for exported in module.__all__:
        assert getattr(tq, exported) is getattr(module, exported)
        assert exported in tq.__all__


@pytest.mark.parametrize("name", MODULES)
def test_arguments_have_torchs_names_and_order(name: str) -> None:
    """The positional arguments of our classes and functions begin with those of torch's."""
    theirs: Any = getattr(oracle(), name)
    ours = importlib.import_module(f"octavo.quantization.{name}")
    for exported in (n for n in theirs.__all__ if hasattr(ours, n)):
        mine, other = getattr(ours, exported), getattr(theirs, exported)
        if not inspect.isfunction(other) and not inspect.isclass(other):
            continue
        if inspect.isclass(other) and "Enum" in type(other).__name__:
            continue
        expected = _positional(other)
        assert _positional(mine)[: len(expected)] == expected, exported


def _positional(thing: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    target = thing
    if isinstance(thing, type):
        target = thing.__new__ if issubclass(thing, tuple) else thing.__init__
    return [p.name for p in inspect.signature(target).parameters.values() if p.kind in kinds]


@pytest.mark.parametrize("name", ["nn.qat", "nn.qat.dynamic", "nn.intrinsic.qat"])
def test_torchs_training_modules_exist_with_its_arguments(name: str) -> None:
    oracle()
    theirs = importlib.import_module(f"torch.ao.{name}.modules")
    ours = importlib.import_module(f"octavo.{name}")
    for exported in theirs.__all__:
        mine, other = getattr(ours, exported), getattr(theirs, exported)
        assert exported in ours.__all__
        expected = _positional(other)
        assert _positional(mine)[: len(expected)] == expected, exported


@pytest.mark.parametrize("name", ["prepare_qat", "quantize_qat", "quantize_dynamic"])
def test_functions_are_where_torch_has_them(name: str) -> None:
    module = importlib.import_module("octavo.quantization.quantize")
    assert getattr(module, name) is getattr(tq, name)
    expected = _positional(getattr(oracle(), name))
    assert _positional(getattr(tq, name))[: len(expected)] == expected
