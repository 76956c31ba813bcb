"""docs/support.md says what the code does: which modules each workflow quantizes, which run on
quantized tensors, which functions graph modes quantize, and which levels and versions there are.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq
from docs_support import ROOT, text_of
from octavo.quantization.backend_config import get_octavo_backend_config
from octavo.quantization.quantization_mappings import CUSTOM_OBSERVED

PAGE = text_of("docs/support.md")


def part(name: str) -> str:
    """What stands between two comments of the page."""
    found = re.search(rf"<!-- {name}: begin -->(.*?)<!-- {name}: end -->", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def names(text: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", text)


def modules() -> dict[str, list[str]]:
    """What the table of modules says: the classes of each workflow."""
    said: dict[str, list[str]] = {"static": [], "dynamic": [], "training": []}
    for row in part("modules").strip().splitlines()[2:]:
        first, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        for column, cell in zip(said, cells, strict=True):
            assert cell in ("yes", "")
            said[column] += names(first) if cell else []
    return said


def test_modules() -> None:
    hidden = nn.modules.linear.NonDynamicallyQuantizableLinear  # a part of attention
    fixed = set(tq.DEFAULT_MODULE_TO_ACT_POST_PROCESS)  # in tables of their own
    there = {
        "static": {*tq.get_default_static_quant_module_mappings(), *CUSTOM_OBSERVED, *fixed},
        "dynamic": set(tq.get_default_dynamic_quant_module_mappings()),
        "training": set(tq.get_default_qat_module_mappings()),
    }
    for workflow, classes in there.items():
        of_torch = {c.__name__ for c in classes if c.__module__.startswith("torch.nn")}
        assert sorted(modules()[workflow]) == sorted(of_torch - {hidden.__name__}), workflow


ARGUMENTS = {
    "MaxPool": (2,),
    "AvgPool": (2,),
    "AdaptiveAvgPool": (1,),
    "AdaptiveMaxPool": (1,),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "ChannelShuffle": (2,),
    "ZeroPad": (1,),
    "Upsample": (None, 2),
}


@pytest.mark.parametrize("name", names(part("as they are")))
def test_modules_on_quantized_tensors(name: str) -> None:
    rank = int(name[-2]) if name.endswith("d") and name[-2].isdigit() else 2
    kind = re.sub(r"\dd$", "", name)
    x = octavo.quantize_per_tensor(torch.rand(1, 4, *(8,) * rank), 0.1, 3, octavo.quint8)
    y = getattr(nn, name)(*ARGUMENTS.get(kind, ()))(x)
    assert isinstance(y, octavo.QTensor)


def test_functions() -> None:
    known = set()
    for config in get_octavo_backend_config().configs:
        known |= {config.pattern if isinstance(config.pattern, str) else _name(config.pattern)}
    assert [name for name in names(part("functions")) if name not in known] == []


def _name(pattern: object) -> str:
    return str(getattr(pattern, "__name__", ""))


def test_levels() -> None:
    section = PAGE.partition("## Processors")[2].partition("## Systems")[0]
    said = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    folders = {path.parent.name for path in (ROOT / "csrc" / "isa").glob("*/isa.cmake")}
    assert said == folders
    assert set(octavo.backend.built()) <= said


def test_versions() -> None:
    pyproject = text_of("pyproject.toml")
    first, last = re.search(r"CPython \| 3\.(\d+) to 3\.(\d+)", PAGE).groups()  # type: ignore[union-attr]
    assert f'requires-python = ">=3.{first}"' in pyproject
    built = re.findall(r"cp3(\d+)-\*", pyproject)
    assert built == [str(minor) for minor in range(int(first), int(last) + 1)]
    torch_version = re.search(r"torch \| ([\d.]+) and newer", PAGE)[1]  # type: ignore[index]
    assert f'"torch>={torch_version}"' in pyproject
