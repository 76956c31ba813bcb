"""BackendConfig and its parts; the patterns of torch's engines."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization.backend_config as bc
from octavo.nn import intrinsic as nni
from quantization_support import oracle, quietly


def name_of(pattern: Any) -> str:
    if isinstance(pattern, tuple):
        return f"({', '.join(map(name_of, pattern))})"
    if isinstance(pattern, str):
        return repr(pattern)
    home = pattern.__module__ or ""
    for ours in ("octavo.nn", "torch.ao.nn"):
        if home.startswith(ours):
            kind = ".".join(p for p in home.removeprefix(ours).split(".") if p != "modules")
            return f"{'qat' if 'qat' in kind else kind.split('.')[1]}:{pattern.__name__}"
    return f"{home}.{pattern.__name__}"


def dtypes_of(config: Any) -> set[str]:
    def text(dtype: Any) -> str:
        return str(dtype).rpartition(".")[2]

    return {
        " ".join(
            [
                text(d.input_dtype),
                text(d.output_dtype),
                str(d.is_dynamic),
                str(d.input_dtype_with_constraints.scale_exact_match),
                str(d.input_dtype_with_constraints.scale_min_lower_bound),
                str(d.weight_dtype_with_constraints.quant_min_lower_bound),
            ]
        )
        for d in config.dtype_configs
    }


@pytest.mark.parametrize("name", ["native", "fbgemm", "qnnpack", "onednn"])
def test_patterns_are_torchs(name: str) -> None:
    oracle()
    quietly(importlib.import_module, "torch.ao.quantization.quantize_fx")
    theirs = quietly(importlib.import_module, "torch.ao.quantization.backend_config")
    function = f"get_{name}_backend_config"
    ours, other = getattr(bc, function)(), getattr(theirs, function)()
    assert ours.name == other.name

    def listed(config: Any) -> dict[str, Any]:
        return {name_of(c.pattern): c for c in config.configs if c.pattern is not None}

    mine, known = listed(ours), listed(other)
    assert sorted(mine) == sorted(known)
    for key, config in known.items():
        assert mine[key].observation_type.name == config.observation_type.name, key
        assert dtypes_of(mine[key]) == dtypes_of(config), key
        numbers = mine[key]._num_tensor_args_to_observation_type
        assert list(numbers) == list(config._num_tensor_args_to_observation_type), key
        assert (mine[key].fuser_method is None) == (config.fuser_method is None), key


def test_octavo_has_what_the_others_have() -> None:
    ours = {c._key() for c in bc.get_octavo_backend_config().configs}
    for make in (bc.get_native_backend_config, bc.get_onednn_backend_config):
        assert {c._key() for c in make().configs} <= ours


@pytest.mark.parametrize("make", [bc.get_octavo_backend_config, bc.get_qnnpack_backend_config])
def test_dicts(make: Any) -> None:
    config = make()
    again = bc.BackendConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert len(again.configs) == len(config.configs) > 180
    assert bc.get_native_backend_config_dict() == bc.get_native_backend_config().to_dict()


def test_dtype_config() -> None:
    limits = bc.DTypeWithConstraints(octavo.quint8, quant_min_lower_bound=0)
    config = bc.DTypeConfig(limits, torch.quint8, octavo.qint8, torch.float32, False)
    assert (config.input_dtype, config.weight_dtype) == (octavo.quint8, octavo.qint8)
    assert config.input_dtype_with_constraints is limits
    assert bc.DTypeConfig.from_dict(config.to_dict()) == config
    assert bc.DTypeConfig().to_dict() == {}
    with pytest.raises(ValueError, match="input_dtype must be a dtype"):
        bc.DTypeConfig.from_dict({"input_dtype": "uint8"})


def test_pattern_config() -> None:
    config = (
        bc.BackendPatternConfig((nn.Conv2d, nn.ReLU))
        .set_observation_type(bc.ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT)
        .add_dtype_config(bc.DTypeConfig(octavo.quint8))
        .set_root_module(nn.Conv2d)
        .set_fused_module(nni.ConvReLU2d)
    )
    assert bc.BackendPatternConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert "ConvReLU2d" in repr(config)
    backend = bc.BackendConfig("mine").set_backend_pattern_config(config)
    assert backend.config_of((nn.Conv2d, nn.ReLU)) is config
    replaced = bc.BackendPatternConfig((nn.Conv2d, nn.ReLU))
    assert backend.set_backend_pattern_configs([replaced]).configs == [replaced]
    with pytest.raises(ValueError, match="nested pattern"):
        bc.BackendPatternConfig()._set_pattern_complex_format((nn.ReLU, nn.Conv2d)).set_pattern(
            nn.ReLU
        )
    with pytest.raises(ValueError, match="has a pattern already"):
        config._set_pattern_complex_format((nn.ReLU, nn.Conv2d))
    with pytest.raises(ValueError, match="'dtype_configs' must hold"):
        bc.BackendPatternConfig.from_dict({"dtype_configs": [3]})
    with pytest.raises(ValueError, match="'configs' must hold"):
        bc.BackendConfig.from_dict({"configs": [3]})
