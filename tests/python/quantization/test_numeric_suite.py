"""Layer by layer comparison: known errors come out as such, as a table, JSON and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavo import quantization as tq
from octavo.nn.quantized import FloatFunctional
from octavo.quantization import numeric_suite as ns


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.up = nn.ConvTranspose2d(8, 8, 2)  # its channels' axis cannot be told by its size
        self.fc = nn.Linear(8 * 49, 5)
        self.dequant = tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.relu(self.bn(self.conv(self.quant(x)))))
        return self.dequant(self.fc(x.flatten(1)))  # type: ignore[no-any-return]


def batches(n: int = 3) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 8, 8, generator=g) for _ in range(n)]


def models() -> tuple[Any, Any]:
    torch.manual_seed(1)
    fused = tq.fuse_modules(Net().eval(), [["conv", "bn", "relu"]])
    fused.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(fused)
    for x in batches():
        prepared(x)
    return fused, tq.convert(prepared)


def test_sqnr_and_cosine_are_the_definitions() -> None:
    a = torch.tensor([3.0, 4.0])
    assert ns.sqnr(a, a) == math.inf
    assert ns.sqnr(a, a + torch.tensor([0.3, 0.4])) == pytest.approx(20)
    assert math.isnan(ns.sqnr(torch.zeros(2), a))
    assert ns.cosine_similarity(a, 2 * a) == pytest.approx(1)
    assert ns.cosine_similarity(a, torch.tensor([4.0, -3.0])) == pytest.approx(0)
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        ns.sqnr(a, torch.zeros(3))


def test_weights_side_by_side() -> None:
    fused, int8 = models()
    weights = ns.compare_weights(fused.state_dict(), int8.state_dict())
    assert set(weights) == {"conv.weight", "up.weight", "fc.weight"}
    for name, both in weights.items():
        module = int8.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(both["quantized"], module.weight().dequantize())
        assert ns.sqnr(both["float"], both["quantized"]) > 38
    with pytest.raises(ValueError, match="no quantized weight has a float one"):
        ns.compare_weights({}, int8.state_dict())


def test_outputs_side_by_side() -> None:
    fused, int8 = models()
    x = batches()[0]
    outputs = ns.compare_model_outputs(fused, int8, x)
    assert list(outputs) == ["conv", "up", "fc"]
    assert torch.equal(outputs["fc"]["float"][0], fused(x))
    assert torch.equal(outputs["fc"]["quantized"][0], int8(x))
    only = ns.compare_model_outputs(fused, int8, x, allow_list=[type(int8.fc)])
    assert list(only) == ["fc"]
    assert not fused.fc._forward_hooks
    with pytest.raises(ValueError, match="no quantized module has a float one"):
        ns.compare_model_outputs(nn.Linear(2, 2), int8, x)


class Joined(nn.Module):
    """An addition and a concatenation, as eager mode has them."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.add, self.join = FloatFunctional(), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        x = self.add.add(self.conv(x), x)
        return self.dequant(self.join.cat([x, self.add.add(x, x)], 1))  # type: ignore[no-any-return]


def test_functionals_are_layers_too() -> None:
    torch.manual_seed(2)
    model: Any = Joined().eval()
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    for x in batches():
        prepared(x)
    q: Any = tq.convert(prepared)
    x = batches()[0]
    found = ns.compare_model_outputs(model, q, x)
    assert [len(found["add"][kind]) for kind in ("float", "quantized")] == [2, 2]
    (wanted,), (got,) = found["join"]["float"], found["join"]["quantized"]
    assert torch.equal(wanted, model(x))
    assert torch.equal(got, q(x))
    for row in ns.compare_layers(model, q, batches()):
        assert 20 < row.sqnr < 60
        assert row.range > 0
    # Nothing is left on the models.
    for functional in (model.add, model.join, q.add, q.join):
        assert not {"add", "cat"} & vars(functional).keys()


def test_a_float_model_that_was_not_fused() -> None:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(tq.QuantStub(), *layers, tq.DeQuantStub()).eval()
    fused = tq.fuse_modules(model, ["1", "2", "3"])
    fused.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(fused)
    x = torch.randn(2, 3, 6, 6)
    prepared(x)
    int8 = tq.convert(prepared)
    assert ns.compare_layers(fused, int8, [x])[0].sqnr > 25
    for compare in (lambda: ns.compare_layers(model, int8, [x]), lambda: tq.report(int8, model, x)):
        with pytest.raises(ValueError, match=r"'2' is a BatchNorm2d.*fuse_modules"):
            compare()


def test_the_broken_layer_is_the_worst() -> None:
    fused, int8 = models()
    good = ns.compare_layers(fused, int8, batches())
    assert [row.name for row in good] == ["conv", "up", "fc"]
    assert all(row.sqnr > 25 and row.cosine > 0.99 for row in good)
    int8.up.scale = int8.up.scale * 1.5  # what a wrong calibration would have done
    int8.up.zero_point = 0
    bad = ns.compare_layers(fused, int8, [(x,) for x in batches()])
    assert bad[0] == good[0]
    assert bad[1].sqnr < 15
    assert bad.worst_first()[0].name in ("up", "fc")
    x = torch.cat(batches())
    outputs = ns.compare_model_outputs(fused, int8, x)["up"]
    want, got = outputs["float"][0], outputs["quantized"][0]
    assert bad[1].sqnr == pytest.approx(ns.sqnr(want, got), rel=1e-4)
    assert bad[1].max_error == pytest.approx(float((want - got).abs().max()), rel=1e-4)


def test_table_json_and_picture(tmp_path: Path) -> None:
    fused, int8 = models()
    rows = ns.compare_layers(fused, int8, batches(1))
    table = str(rows).splitlines()
    assert table[0].split()[:2] == ["layer", "type"]
    assert len(table) == 4
    assert [row["name"] for row in json.loads(rows.to_json())] == ["conv", "up", "fc"]
    equal = ns.LayerComparison([ns.LayerReport("a", "b", math.inf, 1.0, 0.0, 1.0)])
    assert json.loads(equal.to_json())[0]["sqnr"] is None
    assert equal._repr_html_().count("<tr>") == 2
    pytest.importorskip("matplotlib")
    hard = ns.LayerReport("broken", "b", math.nan, math.nan, math.inf, 0.0)
    for i, layers in enumerate((rows, equal, ns.LayerComparison([*rows, *equal, hard]))):
        layers.plot(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").read_bytes().startswith(b"\x89PNG")


def test_dynamic_models_and_no_data() -> None:
    torch.manual_seed(2)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    int8 = tq.quantize_dynamic(model)
    rows = ns.compare_layers(model, int8, [torch.randn(2, 5, 16)])
    assert [row.name for row in rows] == ["self_attn", "linear1", "linear2"]
    assert all(row.sqnr > 25 for row in rows)
    with pytest.raises(ValueError, match="data has no batches"):
        ns.compare_layers(model, int8, [])
