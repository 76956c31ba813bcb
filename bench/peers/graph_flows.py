"""Octavo's graph flows, which quantize networks that nobody edited, beside its eager mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import fx, nn

import octavo
from octavo.bench.cases import ModelCase
from octavo.bench.models import Parts
from octavo.bench.peers.base import Peer, Prepared
from octavo.quantization import quantize_fx, quantize_pt2e, quantizer


class _GraphFlow(Peer, ABC):
    """A flow from a float network to a graph on int8 kernels."""

    is_ours = True

    def applies_to(self, kind: str) -> bool:
        return kind == ModelCase.kind

    def prepare_model(self, case: ModelCase) -> Prepared:
        network = case.network(Parts.plain())
        if case.mode == "static":
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = case.input()
        converted = self.converted(network, case)
        return Prepared(lambda: converted(x))

    @abstractmethod
    def converted(self, network: nn.Module, case: ModelCase) -> nn.Module:
        """The quantized network."""


class TorchFx(_GraphFlow):
    """`prepare_fx` and `convert_fx`."""

    name = "octavo_fx"
    order = 10

    def converted(self, network: nn.Module, case: ModelCase) -> nn.Module:
        tq: Any = octavo.quantization
        mapping = tq.get_default_qconfig_mapping()
        if case.mode == "dynamic":
            mapping = tq.QConfigMapping().set_object_type(nn.Linear, tq.default_dynamic_qconfig)
        prepared = quantize_fx.prepare_fx(network, mapping, (case.input(),))
        _calibrate(prepared, case)
        return quantize_fx.convert_fx(prepared)


class TorchExport(_GraphFlow):
    """`prepare_pt2e`, `convert_pt2e` and `octavo.lower`."""

    name = "octavo_export"
    order = 11

    def converted(self, network: nn.Module, case: ModelCase) -> nn.Module:
        config = quantizer.get_default_octavo_quantization_config(is_dynamic=case.mode == "dynamic")
        exported = torch.export.export(network, (case.input(),)).module()
        prepared = quantize_pt2e.prepare_pt2e(
            exported, quantizer.OctavoQuantizer().set_global(config)
        )
        _calibrate(prepared, case)
        return octavo.lower(quantize_pt2e.convert_pt2e(prepared))


def _calibrate(prepared: fx.GraphModule, case: ModelCase) -> None:
    if case.mode == "dynamic":
        return
    for batch in case.calibration():
        prepared(batch)


PEERS = [TorchFx(), TorchExport()]
