"""Every public name of torch's eager and graph quantization exists here, or the page of differences
says why not, and takes torch's positional arguments.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from quantization_support import oracle, quietly

DOCS = (Path(__file__).parents[3] / "docs" / "migration" / "differences.md").read_text()
ABSENT = DOCS[DOCS.index("## Absent names") : DOCS.index("## Names of Octavo's own")]

# The inside of graph mode, other backends and sparsity are other namespaces.
NAMESPACES = (
    "nn.intrinsic",
    "nn.intrinsic.modules",
    "nn.intrinsic.modules.fused",
    "nn.intrinsic.qat",
    "nn.intrinsic.qat.modules",
    "nn.intrinsic.qat.modules.conv_fused",
    "nn.intrinsic.qat.modules.linear_fused",
    "nn.intrinsic.qat.modules.linear_relu",
    "nn.intrinsic.quantized",
    "nn.intrinsic.quantized.dynamic",
    "nn.intrinsic.quantized.dynamic.modules",
    "nn.intrinsic.quantized.dynamic.modules.linear_relu",
    "nn.intrinsic.quantized.modules",
    "nn.intrinsic.quantized.modules.bn_relu",
    "nn.intrinsic.quantized.modules.conv_add",
    "nn.intrinsic.quantized.modules.conv_relu",
    "nn.intrinsic.quantized.modules.linear_relu",
    "nn.qat",
    "nn.qat.dynamic",
    "nn.qat.dynamic.modules",
    "nn.qat.dynamic.modules.linear",
    "nn.qat.modules",
    "nn.qat.modules.conv",
    "nn.qat.modules.embedding_ops",
    "nn.qat.modules.linear",
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
ELSEWHERE = re.compile(
    r"""nn\.sparse | nn\.quantized\.reference | ns\.fx | ns\._numeric_suite_fx
    | quantization\.(experimental | fx | pt2e | quantizer | backend_config | quantize_\w+)""",
    re.VERBOSE,
)
# What these take differs, and the page of differences says how.
OTHER_ARGUMENTS = {
    "nn.quantized.dynamic.modules.rnn.RNNBase",
    "nn.quantized.dynamic.modules.rnn.RNNCellBase",
}
OTHER_METHODS = {"MultiheadAttention.from_float"}  # that of the quantized one only raises


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


def test_no_namespace_is_forgotten() -> None:
    names: set[str] = set()
    for root in ("nn", "ns", "quantization"):
        walk = pkgutil.walk_packages(theirs_of(root).__path__, f"torch.ao.{root}.")
        names |= {found.name.removeprefix("torch.ao.") for found in quietly(list, walk)}
    private = {"quantization._correct_bias", "quantization._equalize"}
    private.add("quantization._learnable_fake_quantize")  # exports nothing
    public = {n for n in names if not ELSEWHERE.match(n)} - private
    assert {n for n in public - set(NAMESPACES) if public_names(n)} == set()


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


@pytest.mark.parametrize("name", NAMESPACES)
def test_methods_exist_or_are_documented(name: str) -> None:
    ours = importlib.import_module(f"octavo.{name}")
    inherited = {*dir(nn.Module), *dir(tuple), *dir(dict), *dir(int)}
    missing, wrong = {}, {}
    for key in public_names(name):
        other, mine = getattr(theirs_of(name), key, None), getattr(ours, key, None)
        if not inspect.isclass(other) or mine is None:
            continue
        methods = [m for m in dir(other) if not m.startswith("_") and m not in inherited]
        absent = [m for m in methods if not hasattr(mine, m)]
        missing[key] = [
            m for m in absent if not documented(m) and not documented(f"observer.{key}.{m}")
        ]
        for method in methods:
            own = getattr(mine, method, None)  # a property: torch's method works on it
            if not inspect.isroutine(own) or f"{key}.{method}" in OTHER_METHODS:
                continue
            expected, got = positional(getattr(other, method)), positional(own)
            if got[: len(expected)] != expected:
                wrong[f"{key}.{method}"] = (expected, got)
    assert {key: found for key, found in missing.items() if found} == {}
    assert wrong == {}


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
