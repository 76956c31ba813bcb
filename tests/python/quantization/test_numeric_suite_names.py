"""octavo.ns._numeric_suite gives what torch.ao.ns._numeric_suite gives."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import octavo
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.ns import _numeric_suite as ns
from octavo.quantization.numeric_suite import sqnr


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.add = nnq.FloatFunctional()

    def forward(self, x: Any) -> Any:
        x = self.conv(self.quant(x))
        x = self.add.add(x, x).mean((2, 3))
        return self.dequant(self.fc(x))


def models() -> tuple[Net, Any, torch.Tensor]:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    prepared = copy.deepcopy(model)
    prepared.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(prepared)
    prepared(x)
    return model, tq.convert(prepared), x


def test_outputs_at_matching_places() -> None:
    model, int8, x = models()
    found = ns.compare_model_outputs(model, int8, x)
    assert set(found) == {"quant.stats", "conv.stats", "fc.stats", "dequant.stats"}
    conv = found["conv.stats"]
    assert isinstance(conv["quantized"][0], octavo.QTensor)
    assert sqnr(conv["float"][0], conv["quantized"][0]) > 30
    torch.testing.assert_close(conv["float"][0], model.conv(x))


def test_allow_list_and_own_logger() -> None:
    class Shapes(ns.Logger):
        def __init__(self) -> None:
            super().__init__()
            self.stats["tensor_val"] = []

        def forward(self, x: Any) -> Any:
            self.stats["tensor_val"].append(tuple(x.shape))

    model, int8, x = models()
    allowed = {nn.Linear, nnq.Linear}
    found = ns.compare_model_outputs(model, int8, x, logger_cls=Shapes, allow_list=allowed)
    assert found == {"fc.stats": {"float": [(2, 5)], "quantized": [(2, 5)]}}


def test_shadows_get_the_inputs_of_the_int8_modules() -> None:
    model, int8, x = models()
    expected = int8(x)
    found = ns.compare_model_stub(model, int8, {nn.Conv2d, nn.Linear, nnq.FloatFunctional}, x)
    assert set(found) == {"conv.stats", "fc.stats", "add.stats"}
    assert torch.equal(int8(x), expected)
    assert isinstance(int8.fc, ns.Shadow)
    for stats in found.values():
        assert len(stats["float"]) == len(stats["quantized"])
        assert sqnr(stats["float"][0], stats["quantized"][0]) > 30
    quantized_input = int8.quant(x)
    torch.testing.assert_close(
        found["conv.stats"]["float"][0], model.conv(quantized_input.dequantize())
    )


def test_weights() -> None:
    model, int8, _ = models()
    found = ns.compare_weights(model.state_dict(), int8.state_dict())
    assert set(found) == {"conv.weight", "fc.weight"}


def test_prefix() -> None:
    model, int8, x = models()
    ns.prepare_model_outputs(model, int8)
    model(x)
    assert "net.conv.stats" in ns.get_logger_dict(model, "net")
