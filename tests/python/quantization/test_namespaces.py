"""Every public name of torch's eager and graph quantization exists here, or the page of differences
says why not, and takes torch's positional arguments.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from quantization_support import oracle, quietly

DOCS = (Path(__file__).parents[3] / "docs" / "differences.md").read_text()
ABSENT = DOCS[DOCS.index("## Absent names") : DOCS.index("## Names of Octavo's own")]

# The inside of graph mode, other backends and sparsity are other namespaces.
NAMESPACES = (
    "nn.intrinsic",
    "nn.intrinsic.modules",
    "nn.intrinsic.qat",
    "nn.intrinsic.qat.modules",
    "nn.intrinsic.qat.modules.conv_fused",
    "nn.intrinsic.quantized",
    "nn.intrinsic.quantized.dynamic",
    "nn.intrinsic.quantized.dynamic.modules.linear_relu",
    "nn.intrinsic.quantized.modules",
    "nn.qat",
    "nn.qat.dynamic",
    "nn.qat.dynamic.modules",
    "nn.qat.modules",
    "nn.quantizable",
    "nn.quantizable.modules",
    "nn.quantizable.modules.activation",
    "nn.quantizable.modules.rnn",
    "nn.quantized",
    "nn.quantized.dynamic",
    "nn.quantized.dynamic.modules",
    "nn.quantized.dynamic.modules.conv",
    "nn.quantized.dynamic.modules.linear",
    "nn.quantized.dynamic.modules.rnn",
    "nn.quantized.functional",
    "nn.quantized.modules",
    "nn.quantized.modules.activation",
    "nn.quantized.modules.batchnorm",
    "nn.quantized.modules.conv",
    "nn.quantized.modules.dropout",
    "nn.quantized.modules.embedding_ops",
    "nn.quantized.modules.functional_modules",
    "nn.quantized.modules.linear",
    "nn.quantized.modules.normalization",
    "nn.quantized.modules.rnn",
    "nn.quantized.modules.utils",
    "ns._numeric_suite",
    "quantization",
    "quantization.backend_config",
    "quantization.backend_config.backend_config",
    "quantization.backend_config.fbgemm",
    "quantization.backend_config.onednn",
    "quantization.backend_config.qnnpack",
    "quantization.fake_quantize",
    "quantization.fuse_modules",
    "quantization.fx.custom_config",
    "quantization.fuser_method_mappings",
    "quantization.observer",
    "quantization.qconfig",
    "quantization.qconfig_mapping",
    "quantization.quant_type",
    "quantization.quantization_mappings",
    "quantization.quantize",
    "quantization.quantize_fx",
    "quantization.stubs",
    "quantization.utils",
)
# What these take differs, and the page of differences says how.
OTHER_ARGUMENTS = {
    "nn.quantized.dynamic.modules.rnn.RNNBase",
    "nn.quantized.dynamic.modules.rnn.RNNCellBase",
}


def theirs_of(name: str) -> Any:
    oracle()
    return quietly(importlib.import_module, f"torch.ao.{name}")


def public_names(name: str) -> list[str]:
    module = theirs_of(name)
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    home = "torch.ao." + name
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", "").startswith(home)
    ]


def documented(name: str) -> bool:
    return re.search(rf"`{re.escape(name)}`", ABSENT) is not None


@pytest.mark.parametrize("name", NAMESPACES)
def test_each_name_exists_or_is_documented(name: str) -> None:
    names = public_names(name)
    assert names
    ours = importlib.import_module(f"octavo.{name}")
    missing = [n for n in names if not hasattr(ours, n)]
    assert [n for n in missing if not documented(n)] == []


def test_what_is_called_absent_is() -> None:
    absent = re.findall(r"^\| (.*?) \|", ABSENT, re.MULTILINE)
    names = {n for row in absent[2:] for n in re.findall(r"`([A-Za-z_]\w*)`", row)}
    assert "script_qconfig" in names
    ours = importlib.import_module("octavo.quantization")
    assert [n for n in names if hasattr(ours, n)] == []


def positional(thing: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    target = thing.__init__ if isinstance(thing, type) else thing
    return [p.name for p in inspect.signature(target).parameters.values() if p.kind in kinds]


@pytest.mark.parametrize("name", [n for n in NAMESPACES if n != "quantization"])
def test_arguments_begin_with_torchs(name: str) -> None:
    ours = importlib.import_module(f"octavo.{name}")
    wrong = {}
    for key in public_names(name):
        other, mine = getattr(theirs_of(name), key), getattr(ours, key, None)
        path = f"{name}.{key}"
        callable_ = inspect.isfunction(other) or (inspect.isclass(other) and callable(other))
        if mine is None or not callable_ or path in OTHER_ARGUMENTS:
            continue
        if inspect.isclass(other) and issubclass(other, (tuple, int)):
            continue
        if inspect.isclass(other) and "*args" in str(inspect.signature(other.__init__)):
            continue
        expected, got = positional(other), positional(mine)
        if got[: len(expected)] != expected:
            wrong[key] = (expected, got)
    assert wrong == {}
