"""report(): every module with its reason, kernel, size and loss, for float, prepared and int8
models, as text, as rich's tables, as HTML and as JSON."""

from __future__ import annotations

import copy
import io
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import octavo
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from quantization_support import oracle, quietly


class Altered(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(7))  # in no module that is listed
        self.quant = tq.QuantStub()
        self.conv, self.relu = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.plain = nn.Linear(8 * 36, 16)
        self.dequant = tq.DeQuantStub()
        self.off = nn.Linear(16, 16)
        self.off.qconfig = None  # type: ignore[assignment]
        self.altered = Altered(16, 5)
        self.last = nn.Softsign()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(self.quant(x))).flatten(1)
        x = self.dequant(self.plain(x))
        return self.last(self.altered(self.off(x)))  # type: ignore[no-any-return]


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def float_net() -> Any:
    torch.manual_seed(0)
    model = tq.fuse_modules(Net().eval(), ["conv", "relu"])
    model.qconfig = tq.get_default_qconfig()
    model.altered.qconfig = None
    return model


def int8_net() -> tuple[Any, Any]:
    model = float_net()
    prepared = tq.prepare(model)
    prepared(X)
    return model, tq.convert(prepared)


def by_name(report: tq.QuantizationReport) -> dict[str, tq.ModuleReport]:
    return {row.name: row for row in report}


@pytest.mark.kernel
def test_an_int8_model(isa: str) -> None:
    model, int8 = int8_net()
    before = copy.deepcopy(int8.state_dict())
    report = tq.report(int8, model, X)
    rows = by_name(report)
    names = ["quant", "conv", "relu", "plain", "dequant", "off", "altered", "last"]
    assert list(rows) == names
    assert report.isa == octavo.backend.current()
    conv, plain = rows["conv"], rows["plain"]
    assert (conv.type, conv.becomes, conv.reason) == ("ConvReLU2d", "quantized.ConvReLU2d", "")
    for row in (conv, plain):
        assert row.kernel in octavo.backend.kernels(report.isa)
    assert conv.bytes_before == 4 * (8 * 27 + 8)
    # int8 weights; a scale and a zero point for each channel; bias; the output's scale and zero.
    assert conv.bytes_after == 8 * 27 + 8 * (4 + 4 + 4) + 4 + 1
    layers = {row.name: row for row in tq.compare_layers(model, int8, [X])}
    for name in ("conv", "plain"):
        measured = (rows[name].sqnr, rows[name].cosine, rows[name].max_error)
        assert measured == (layers[name].sqnr, layers[name].cosine, layers[name].max_error)
        assert measured[0] is not None
        assert measured[0] > 30
    assert rows["off"].reason == "its qconfig is None"
    assert rows["off"].bytes_before == rows["off"].bytes_after == 4 * (16 * 16 + 16)
    assert rows["off"].sqnr is None
    assert rows["relu"].reason == "works on quantized tensors as it is"
    floats = sum(p.numel() * 4 for p in model.parameters())
    assert report.bytes_before == floats
    state = int8.state_dict().values()
    assert report.bytes_after == sum(t.numel() * t.element_size() for t in state)
    worst = min((rows["conv"], rows["plain"]), key=lambda row: row.sqnr or 0)
    assert report.totals == {
        "modules": 8,
        "swapped": 4,
        "left_float": 4,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "lowest_sqnr": {"name": worst.name, "sqnr": worst.sqnr},
    }
    assert not any(m._forward_hooks for m in (*int8.modules(), *model.modules()))
    for key, value in int8.state_dict().items():
        assert torch.equal(value, before[key])


def test_less_is_known_without_inputs_and_float_model() -> None:
    model, int8 = int8_net()
    report = tq.report(int8)
    assert report.isa == ""
    assert all(row.kernel == "" and row.sqnr is None for row in report)
    assert report.bytes_before == tq.report(int8, model, X).bytes_before
    only_run = tq.report(int8, example_inputs=(X,))
    assert only_run[1].kernel != ""
    assert only_run[1].sqnr is None


def test_a_part_of_a_model_and_modules_made_by_hand() -> None:
    _, int8 = int8_net()
    (row,) = tq.report(int8.plain)
    assert (row.name, row.type, row.becomes) == ("", "Linear", "quantized.Linear")
    int8.off = nnq.Linear(16, 16)  # after the model's own report was made
    row = by_name(tq.report(int8))["off"]
    assert (row.type, row.becomes, row.reason) == ("Linear", "quantized.Linear", "")
    int8.plain = nn.Linear(8 * 36, 16)
    row = by_name(tq.report(int8))["plain"]
    assert (row.becomes, row.reason) == ("", "its qconfig is None")


def test_float_and_prepared_models_say_what_would_happen() -> None:
    model = float_net()
    model.altered.qconfig = model.qconfig
    model.table = nn.Embedding(10, 4)
    model.folded = weight_norm(nn.Linear(2, 2))
    rows = by_name(tq.report(model))
    assert rows["conv"].becomes == "quantized.ConvReLU2d"
    assert rows["conv"].bytes_after is None
    assert rows["off"].reason == "its qconfig is None"
    assert "overrides forward of Linear" in rows["altered"].reason
    assert "float_qparams_weight_only_qconfig" in rows["table"].reason
    assert rows["folded"].becomes == "quantized.Linear"
    assert rows["folded"].reason.endswith("of 'weight' will be folded")
    del model.folded, model.altered.qconfig
    model.altered.qconfig = None
    prepared = tq.prepare(model)
    rows = by_name(tq.report(prepared))
    assert rows["plain"].reason == "convert() refuses it: it never saw data"
    assert rows["dequant"].reason == ""
    assert "would become int8" in str(tq.report(prepared))
    prepared(X)
    report = tq.report(prepared)
    assert all("refuses" not in row.reason for row in report)
    became = tq.report(tq.convert(prepared)).swapped
    assert [row.name for row in report.swapped] == [row.name for row in became]
    prepared = tq.prepare(model)
    prepared(X * math.nan)
    reasons = [row.reason for row in tq.report(prepared)]
    assert any("saw nothing but NaN and Inf in calibration" in reason for reason in reasons)


def test_dynamic_models_and_what_they_would_become() -> None:
    torch.manual_seed(1)
    model: Any = nn.ModuleDict(
        {
            "lstm": nn.LSTM(4, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "bag": nn.EmbeddingBag(10, 8),
            "linear": nn.Linear(8, 3),
            "altered": Altered(8, 3),
        }
    )
    planned = tq.explain_dynamic(model, {nn.Linear, nn.LSTM})
    with pytest.warns(UserWarning, match="altered"):
        int8 = tq.quantize_dynamic(model, {nn.Linear, nn.LSTM})
    assert planned == int8.quantization_report
    assert type(model.linear) is nn.Linear
    report = tq.report(int8)
    assert [(row.name, row.becomes, row.reason) for row in report] == [
        (row.name, row.becomes, row.reason) for row in planned
    ]
    rows = by_name(report)
    assert rows["lstm"].bytes_before == sum(p.numel() * 4 for p in model.lstm.parameters())
    assert rows["attention"].bytes_before == sum(
        p.numel() * 4 for p in model.attention.parameters()
    )
    assert report.bytes_before == sum(p.numel() * 4 for p in model.parameters())
    halves = tq.report(tq.quantize_dynamic(model.linear, dtype=torch.float16))
    assert (halves[0].bytes_before, halves[0].bytes_after) == (4 * 27, 2 * 24 + 4 * 3)
    tables = tq.report(tq.quantize_dynamic(nn.EmbeddingBag(10, 7), dtype=octavo.quint4x2))
    assert (tables[0].bytes_before, tables[0].bytes_after) == (280, 10 * (4 + 8))
    weight_normed = nn.ModuleDict({"a": weight_norm(nn.Linear(2, 2)), "b": nn.Linear(2, 2)})
    first, second = tq.explain_dynamic(weight_normed)
    assert first.reason.endswith("of 'weight' will be folded")
    assert second.reason == ""
    assert first.becomes == second.becomes == "quantized.dynamic.Linear"
    int8 = tq.quantize_dynamic(weight_normed)
    assert tq.report(int8)[0].reason.endswith("of 'weight' was folded")


def test_text_rich_html_and_json() -> None:
    model, int8 = int8_net()
    report = tq.report(int8, model, X)
    lines = str(report).splitlines()
    assert lines[0].split()[:4] == ["module", "type", "becomes", "kernel"]
    assert len(lines) == 1 + len(report) + 3
    assert "times less" in lines[-3]
    assert lines[-1].startswith("lowest SQNR")
    tree = json.loads(report.to_json())
    assert tree == report.to_dict()
    assert [row["name"] for row in tree["modules"]] == [row.name for row in report]
    assert tree["totals"]["lowest_sqnr"]["name"] in ("conv", "plain")
    html = report._repr_html_()
    assert html.count("<tr>") == 1 + len(report)
    assert (
        "<script"
        not in tq.QuantizationReport([tq.ModuleReport("<script>", "a", "b", "c")])._repr_html_()
    )
    rich_console = pytest.importorskip("rich.console")
    stream = io.StringIO()
    rich_console.Console(width=200, file=stream).print(report)
    text = stream.getvalue()
    assert all(row.name in text for row in report)
    assert "lowest SQNR" in text
    assert copy.deepcopy(report).to_dict() == report.to_dict()


def test_errors() -> None:
    with pytest.raises(TypeError, match="Module, got Tensor"):
        tq.report(X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this one has no int8 modules; convert it first"):
        tq.report(float_net(), example_inputs=X)
    _, int8 = int8_net()
    with pytest.raises(ValueError, match="no quantized module has a float one of the same name"):
        tq.report(int8, nn.Linear(2, 2), X)


def test_models_of_training_and_of_torch() -> None:
    model: Any = tq.fuse_modules_qat(Net().train(), ["conv", "relu"])
    model.altered.qconfig = None
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    row = by_name(tq.report(prepared))["conv"]
    assert (row.becomes, row.bytes_before) == ("quantized.ConvReLU2d", 4 * (8 * 27 + 8))
    assert row.reason == "convert() refuses it: it never saw data"
    prepared(X)
    prepared.eval()
    row = by_name(tq.report(tq.convert(prepared), prepared, X))["conv"]
    assert row.sqnr is not None
    assert row.sqnr > 30
    ao = oracle()
    theirs = nn.Sequential(ao.QuantStub(), nn.Linear(8, 4), ao.DeQuantStub()).eval()
    theirs.qconfig = ao.get_default_qconfig("x86")
    observed = quietly(ao.prepare, theirs)
    x = torch.randn(5, 8)
    observed(x)
    int8 = quietly(ao.convert, observed)
    assert by_name(tq.report(int8))["1"].reason == "of torch.ao"
    assert tq.report(int8).bytes_after is None
    row = by_name(tq.report(tq.from_torch_ao(int8), theirs, x))["1"]
    assert (row.type, row.becomes, row.reason) == ("Linear", "quantized.Linear", "")
    assert row.sqnr is not None
