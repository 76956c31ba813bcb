"""The custom configs and their dicts, which are torch's."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from torch import nn

import octavo.quantization as tq
from octavo.quantization.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
    as_config,
)
from octavo.quantization.quant_type import QuantType
from quantization_support import oracle, quietly

PREPARE = {
    "standalone_module_name": [("a", {"": None}, (1,), {"preserved_attributes": ["z"]}, None)],
    "standalone_module_class": [(nn.Linear, None, (2,), None, None)],
    "float_to_observed_custom_module_class": {"static": {nn.Linear: nn.Conv2d}},
    "non_traceable_module_name": ["b"],
    "non_traceable_module_class": [nn.GRU],
    "input_quantized_idxs": [0],
    "output_quantized_idxs": [1],
    "preserved_attributes": ["c"],
}
CONVERT = {
    "observed_to_quantized_custom_module_class": {"static": {nn.Linear: nn.Conv2d}},
    "preserved_attributes": ["c"],
}
FUSE = {"preserved_attributes": ["c"]}
CASES = [(PrepareCustomConfig, PREPARE), (ConvertCustomConfig, CONVERT), (FuseCustomConfig, FUSE)]


@pytest.mark.parametrize(("cls", "given"), CASES)
def test_dicts_are_torchs(cls: Any, given: dict[str, Any]) -> None:
    config = cls.from_dict(given)
    oracle()
    theirs = quietly(importlib.import_module, "torch.ao.quantization.fx.custom_config")
    other = getattr(theirs, cls.__name__).from_dict(given)
    assert set(vars(config)) == set(vars(other))
    mine, known = config.to_dict(), other.to_dict()
    assert set(mine) == set(known) == set(given)
    assert cls.from_dict(mine).to_dict() == mine
    for key in set(given) - {"standalone_module_name"}:
        assert mine[key] == known[key] == given[key]
    assert cls().to_dict() == {}
    assert "c" in repr(config)
    assert as_config(other, cls, "argument").to_dict() == mine
    assert as_config(None, cls, "argument").to_dict() == {}
    assert as_config(config, cls, "argument") is config


def test_setters() -> None:
    mapping, inner = tq.QConfigMapping(), PrepareCustomConfig()
    config = (
        PrepareCustomConfig()
        .set_standalone_module_name("a", mapping, (1,), inner, None)
        .set_standalone_module_class(nn.ReLU, None, (2,), None, None)
        .set_float_to_observed_mapping(nn.Linear, nn.Conv2d)
        .set_non_traceable_module_names(["b"])
        .set_non_traceable_module_classes([nn.GRU])
        .set_input_quantized_indexes([0])
        .set_output_quantized_indexes([1])
        .set_preserved_attributes(["c"])
    )
    assert config.standalone_module_names["a"] == StandaloneModuleConfigEntry(
        mapping, (1,), inner, None
    )
    assert config.float_to_observed_mapping == {QuantType.STATIC: {nn.Linear: nn.Conv2d}}
    assert set(config.to_dict()) == set(PREPARE)
    converted = ConvertCustomConfig().set_observed_to_quantized_mapping(nn.Linear, nn.Conv2d)
    assert converted.observed_to_quantized_mapping == {QuantType.STATIC: {nn.Linear: nn.Conv2d}}


@pytest.mark.parametrize(("cls", "given"), CASES)
def test_errors(cls: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown keys \['preserved'\]"):
        cls.from_dict({"preserved": []})
    with pytest.raises(TypeError, match=f"argument must be a {cls.__name__}"):
        as_config([], cls, "argument")


def test_values_of_other_types() -> None:
    with pytest.raises(ValueError, match="one of"):
        PrepareCustomConfig.from_dict({"float_to_observed_custom_module_class": {"eager": {1: 2}}})
    with pytest.raises(ValueError, match="quant_type must be QuantType"):
        PrepareCustomConfig().set_float_to_observed_mapping(nn.ReLU, nn.ReLU, QuantType.DYNAMIC)
    for index in (1, 3, 4):
        entry: list[Any] = ["a", None, (), None, None]
        entry[index] = 5
        with pytest.raises(ValueError, match="'standalone_module_name' must have a"):
            PrepareCustomConfig.from_dict({"standalone_module_name": [tuple(entry)]})
