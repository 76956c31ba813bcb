"""What the configs of modules say, for graphs of torch.export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from octavo.dtypes import (
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from octavo.quantization.observer import PerChannelMinMaxObserver, PlaceholderObserver
from octavo.quantization.pt2e.graph import module_stack
from octavo.quantization.quantizer import OctavoQuantizer, QuantizationConfig, QuantizationSpec
from octavo.workflow.config import OBSERVERS, DynamicQuantConfig, QuantConfig, StaticQuantConfig

__all__ = ["ModuleQuantizer", "graph_config"]

_AGAIN = re.compile(r"@\d+")
"""What torch.export appends to the path of a module that is called again."""


class ModuleQuantizer(OctavoQuantizer):
    """Quantizes each operator as the config of the innermost module that it comes from says.

    Args:
        configs: by the modules' paths, "" for the model.
    """

    def __init__(self, configs: Mapping[str, QuantConfig | None]) -> None:
        super().__init__()
        made: dict[int, QuantizationConfig | None] = {}
        for config in configs.values():
            if id(config) not in made:
                made[id(config)] = None if config is None else graph_config(config)
        self._modules = {name: made[id(config)] for name, config in configs.items()}

    def config_of(self, node: Node) -> QuantizationConfig | None:
        for path, _ in reversed(module_stack(node)):
            path = _AGAIN.sub("", path)
            if path in self._modules:
                return self._modules[path]
        return self._modules[""]


def graph_config(config: QuantConfig) -> QuantizationConfig | None:
    """A config as specs of tensors; None where it leaves modules float."""
    qconfig = config.qconfig()  # raises where a setting has several values
    if qconfig is None:
        return None
    weight = _weight(config.settings)
    if isinstance(config, DynamicQuantConfig):
        observer: Any = PlaceholderObserver.with_args(
            reduce_range=config.reduce_range, per_tensor=config.act_granularity == "per_tensor"
        )
        act = QuantizationSpec(torch.uint8, observer, 0, 255, per_tensor_affine, is_dynamic=True)
        return QuantizationConfig(act, None, weight)
    assert isinstance(config, StaticQuantConfig)
    act = _activation(config)
    return QuantizationConfig(act, act, weight)


def _activation(config: StaticQuantConfig) -> QuantizationSpec:
    """The range stays open in the spec: observers that are given one have other zero points."""
    extra = {"percentile": config.percentile} if config.act_algo == "percentile" else {}
    observer: Any = OBSERVERS[config.act_algo].with_args(reduce_range=config.reduce_range, **extra)
    dtype = torch.uint8 if config.act_dtype == "uint8" else torch.int8
    scheme = per_tensor_symmetric if config.act_sym else per_tensor_affine
    return QuantizationSpec(dtype, observer, qscheme=scheme)


def _weight(settings: Mapping[str, Any]) -> QuantizationSpec:
    symmetric = settings["w_sym"]
    if settings["w_granularity"] == "per_channel":
        scheme = per_channel_symmetric if symmetric else per_channel_affine
        return QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -128, 127, scheme, 0)
    scheme = per_tensor_symmetric if symmetric else per_tensor_affine
    return QuantizationSpec(torch.int8, OBSERVERS[settings["w_algo"]], -128, 127, scheme)
