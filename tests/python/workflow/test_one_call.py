"""octavo.quantize: whole models, what it reports, and what wrong input is told."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo import DynamicQuantConfig, StaticQuantConfig
from octavo.demo.model import DigitsNet
from octavo.quantization import QuantStub, compare_layers
from octavo.quantization.quantize_fx import convert_fx, prepare_fx
from workflow_support import (
    Classifier,
    DigitsCNN,
    accuracy,
    calibration,
    digits,
    tokens,
    trained_cnn,
)


@pytest.mark.parametrize("capture", ["fx", "eager", "layers"])
def test_a_network_for_digits(capture: str) -> None:
    model = trained_cnn()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = octavo.quantize(model, calibration(), capture=capture)
    int8, report = result
    assert accuracy(model) > 0.95
    assert accuracy(int8) >= accuracy(model) - 0.01
    assert report.sqnr is not None
    assert report.cosine is not None
    assert report.sqnr > 25
    assert report.cosine > 0.995
    assert (report.mode, report.capture, report.batches) == ("static", capture, 4)
    assert report.fallbacks == []
    became = {row.name: row.becomes for row in report}
    assert became["stem.0"] == "quantized.ConvReLU2d"
    graph = capture == "fx"  # sees the addition, and that each call of relu has a conv before it
    assert became["conv1"] == f"quantized.{'ConvReLU2d' if graph else 'Conv2d'}"
    assert became["conv2"] == f"quantized.{'ConvAddReLU2d' if graph else 'Conv2d'}"
    assert became["head"] == "quantized.Linear"
    reasons = {row.name: row.reason for row in report}
    assert ("fused" if graph else "conv1") in reasons["bn1"]
    assert all(row.becomes or row.reason for row in report)
    operations = {"max_pool2d", "flatten"} if graph else set()
    assert set(became) - operations <= {name for name, _ in model.named_modules()}
    assert {name for name, m in model.named_modules() if not list(m.children())} <= set(became)
    assert all(row.kernel and row.sqnr for row in report if "Conv" in row.becomes)
    assert report.bytes_after is not None
    assert report.bytes_before is not None
    assert 2.5 * report.bytes_after < report.bytes_before
    # The float model is as it was.
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.relu.inplace


def test_joined_layers_stay_in_int8() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Hardswish(),
        nn.Flatten(), nn.Dropout(), nn.Linear(8 * 5 * 5, 4),
    ).eval()  # fmt: skip
    data = [torch.randn(2, 3, 16, 16) for _ in range(2)]
    joined, _ = octavo.quantize(model, data, capture="eager")
    kinds = [type(m).__name__ for m in joined.modules()]
    assert (kinds.count("Quantize"), kinds.count("DeQuantize")) == (1, 1)
    apart, _ = octavo.quantize(model, data, capture="layers")
    kinds = [type(m).__name__ for m in apart.modules()]
    assert (kinds.count("Quantize"), kinds.count("DeQuantize")) == (3, 3)
    # The same as the eager workflow with stubs, to the bit.
    wrapped = tq.QuantWrapper(tq.fuse_modules(model, ["0", "1"])).eval()
    wrapped.qconfig = tq.get_default_qconfig()
    wrapped.dequant.qconfig = wrapped.quant.qconfig = wrapped.qconfig
    prepared = tq.prepare(wrapped)
    for batch in data:
        prepared(batch)
    assert torch.equal(joined(data[0]), tq.convert(prepared)(data[0]))


def test_a_value_that_float_code_uses_too_is_float() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a = self.a(x)
            b = self.b(a)
            return self.c(b), a * 2

    int8, report = octavo.quantize(Net().eval(), [torch.randn(4, 8)], capture="eager")
    assert len(report.swapped) == 3
    assert int8.a.dequant is not None  # code of the model and b take it
    assert int8.b.quant is not None
    assert int8.b.dequant is None  # only c takes it
    assert int8.c.quant is None


def test_a_module_that_is_called_twice() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.shared(self.first(x))
            z: Tensor = self.shared(y.sin())
            return z

    model = Net().eval()
    data = [torch.randn(16, 8) for _ in range(3)]
    int8, report = octavo.quantize(model, data, capture="eager")
    assert report.sqnr is not None
    assert report.sqnr > 25
    assert int8.first.dequant is not None  # the second call of shared is with float values


def test_a_model_with_stubs_of_its_own() -> None:
    model = DigitsNet().eval()
    data = calibration()[:2]
    for batch in data:
        model(batch)
    int8, report = octavo.quantize(model, data)
    assert any("QuantStubs" in note for note in report.notes)
    assert not any(isinstance(m, QuantStub) for m in int8.modules())
    assert sum(row.becomes == "quantized.QFunctional" for row in report) == 3
    assert sum(row.becomes == "quantized.ConvReLU2d" for row in report) == 4


def test_a_transformer_static_and_dynamic() -> None:
    model = Classifier().eval()
    data = tokens()
    static, report = octavo.quantize(model, data)
    assert {row.name for row in report.swapped} >= {"query", "key", "value", "up", "act", "down"}
    assert report.sqnr is not None
    assert report.sqnr > 20
    dynamic, report = octavo.quantize(model, data, mode="dynamic")
    assert {r.name for r in report.swapped} == {"query", "key", "value", "up", "down", "head"}
    assert report.sqnr is not None
    assert report.sqnr > 25
    assert all(row.kernel and row.sqnr for row in report.swapped)
    for int8 in (static, dynamic):
        got, wanted = int8(**data[0])["logits"], model(**data[0])["logits"]
        assert torch.nn.functional.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.99
    assert torch.equal(
        dynamic(**data[0])["logits"], tq.quantize_dynamic(model)(**data[0])["logits"]
    )


def test_dynamic_needs_no_data() -> None:
    int8, report = octavo.quantize(Classifier(), mode="dynamic")
    assert (report.mode, report.sqnr, report.batches) == ("dynamic", None, 0)
    assert "logits" in int8(torch.randint(0, 50, (2, 5)))
    assert not int8.training
    config = DynamicQuantConfig().set_local(nn.Embedding, DynamicQuantConfig())
    config.set_local("head", None)
    _, report = octavo.quantize(Classifier(), config=config)
    became = {row.name: row.becomes for row in report}
    assert became["embed"] == "quantized.Embedding"
    assert became["head"] == ""


def test_auto() -> None:
    _, report = octavo.quantize(trained_cnn(), calibration(), mode="auto")
    assert report.mode == "static"
    assert "3 convolutions" in report.mode_reason
    _, report = octavo.quantize(Classifier(), tokens(), mode="auto")
    assert report.mode == "dynamic"
    assert "mode: dynamic (it has 0 convolutions" in str(report)
    lstm = nn.Sequential(nn.LSTM(4, 4))
    assert octavo.quantize(lstm, mode="auto").report.mode == "dynamic"
    _, report = octavo.quantize(Classifier(), tokens(), StaticQuantConfig(), mode="auto")
    assert report.mode == "static"


def test_forms_of_data() -> None:
    model = nn.Linear(8, 4)
    images, labels = torch.randn(16, 8), torch.arange(16)
    dataset = torch.utils.data.TensorDataset(images, labels)
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=8)
    want, _ = octavo.quantize(model, [images[:8], images[8:]])
    forms: list[tuple[Any, Any]] = [
        (loader, None),
        ([(images[:8],), [images[8:]]], None),
        ([{"input": images[:8]}, {"input": images[8:]}], None),
        ([0, 8], lambda start: images[start : start + 8]),
        (((images[i : i + 8], labels[i : i + 8]) for i in (0, 8)), lambda item: item[0]),
    ]
    for data, transform_fn in forms:
        got, _ = octavo.quantize(model, data, transform_fn=transform_fn)
        assert torch.equal(got(images), want(images))
    _, report = octavo.quantize(model, loader)
    assert any("pairs" in note for note in report.notes)


def test_data_that_can_be_iterated_once() -> None:
    taken: list[int] = []

    def generate() -> Iterator[Tensor]:
        for index in range(1000):
            taken.append(index)
            yield torch.randn(2, 4)

    _, report = octavo.quantize(nn.Linear(4, 4), generate())
    assert len(taken) == 128 == report.batches
    assert any("first 128 batches were kept" in note for note in report.notes)
    _, report = octavo.quantize(nn.Linear(4, 4), generate(), max_batches=3)
    assert report.batches == 3
    _, report = octavo.quantize(nn.Linear(4, 4), [torch.randn(2, 4)] * 9, max_batches=5)
    assert report.batches == 5
    assert report.notes == []


def test_fall_back_where_another_batch_takes_another_path() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.a(x)
            if len(x) > 4:
                y = torch.special.i0(y)
            z: Tensor = self.b(y)
            return z

    data = [torch.randn(4, 8), torch.randn(8, 8)]
    int8, report = octavo.quantize(Net().eval(), data)
    assert report.capture == "layers"
    assert [item.capture for item in report.fallbacks] == ["fx", "export", "eager"]
    assert "cannot be traced" in report.fallbacks[0].reason
    assert "batch 1" in report.fallbacks[1].reason
    assert "i0" in report.fallbacks[2].reason
    assert int8(data[1]).shape == (8, 8)
    with pytest.raises(RuntimeError, match=r"could not be quantized statically:\n  eager: "):
        octavo.quantize(Net().eval(), data, capture="eager")


def test_fall_back_where_a_graph_does_not_do_for_another_batch() -> None:
    """The graph has the mask of the first batch in it."""
    first, second = tokens(2)
    int8, report = octavo.quantize(Classifier(), [first, {"ids": second["ids"]}])
    assert report.capture == "eager"
    assert [item.capture for item in report.fallbacks] == ["fx", "export"]
    assert all("fails on batch 1" in item.reason for item in report.fallbacks)
    assert int8(second["ids"])["logits"].shape == int8(**second)["logits"].shape


def test_the_report_is_for_programs_too() -> None:
    result = octavo.quantize(Classifier(), tokens())
    told = json.loads(result.report.to_json())
    assert told["mode"] == "static"
    assert told["capture"] == "fx"
    assert told["modules"][0]["name"] == "embed"
    text = str(result.report)
    assert "outputs against float: SQNR" in text
    assert "capture: fx, calibrated with 4 batches" in text
    rows = compare_layers(result.reference, result.model, [tuple(tokens()[0].values())])
    assert len(rows) == len([row for row in result.report if row.sqnr is not None])


def test_low_sqnr_is_said() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    with torch.no_grad():
        model[1].weight[0] *= 1e5
        model[1].weight[1:, 0] = 0.0
    data = [torch.randn(32, 8)]
    with pytest.warns(UserWarning, match=r"SQNR of .* dB.*lowest SQNR are '[01]'"):
        octavo.quantize(model, data, min_sqnr=90.0)


class Gives(nn.Module):
    """Adds a number to what a Linear gives, so that outputs can be made NaN."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.linear, self.bad = nn.Linear(4, 4), bad

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y + self.bad


def test_nan_is_found() -> None:
    with pytest.raises(ValueError, match="float model returns NaN for the first batch"):
        octavo.quantize(Gives(math.nan), [torch.randn(2, 4)])
    bad = torch.randn(2, 4)
    bad[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN for batch 1 \(the batch itself holds NaN\)"):
        octavo.quantize(Gives(0.0), [torch.randn(2, 4), bad])


def test_nan_of_the_int8_model_is_found() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            return torch.sqrt(y - y.detach().amin() if self.exact(y, x) else y * math.nan)

        def exact(self, y: Tensor, x: Tensor) -> bool:
            linear: Any = getattr(self.linear, "module", self.linear)
            return type(linear) is nn.Linear

    with pytest.raises(RuntimeError, match="int8 model returns NaN for batch 0"):
        octavo.quantize(Fragile(), [torch.randn(2, 4)], capture="layers")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"calibration_data": []}, ValueError, "calibration_data is empty"),
        ({"calibration_data": iter(())}, ValueError, "calibration_data is empty"),
        ({"calibration_data": None}, ValueError, "needs calibration_data.*mode='dynamic'"),
        ({"calibration_data": torch.ones(2, 1, 16, 16)}, TypeError, "give a list of it"),
        ({"calibration_data": {"x": 1}}, TypeError, "got dict; for a single batch"),
        ({"calibration_data": 5}, TypeError, "got int"),
        ({"calibration_data": ["abc"]}, TypeError, "holds str for batch 0"),
        ({"calibration_data": [{"y": 1}]}, TypeError, r"\['y'\].*does not take"),
        ({"calibration_data": [torch.ones(3)]}, ValueError, "fails on the first batch"),
        ({"transform_fn": 3}, TypeError, "transform_fn must be callable"),
        ({"transform_fn": lambda x: None}, TypeError, "transform_fn returned NoneType"),
        ({"max_batches": 0}, ValueError, "max_batches"),
        ({"mode": "statc"}, ValueError, "did you mean 'static'"),
        ({"mode": "dynamic", "config": StaticQuantConfig()}, ValueError, "does not go with"),
        ({"config": {"act_algo": "kl"}}, TypeError, "got dict"),
        ({"capture": "eagr"}, ValueError, "did you mean 'eager'"),
        ({"model": "resnet"}, TypeError, "model must be a torch.nn.Module"),
        ({"model": DigitsCNN}, TypeError, "got the class DigitsCNN; make a model of it"),
        ({"model": nn.ReLU()}, RuntimeError, "no layer that can be quantized"),
        ({"model": nn.ReLU(), "mode": "dynamic"}, ValueError, "nothing in the model"),
        (
            {"config": StaticQuantConfig().set_local("conv3", None)},
            ValueError,
            "did you mean 'conv2' or 'conv1'",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {"model": DigitsCNN(), "calibration_data": calibration()[:1], **arguments}
    with pytest.raises(kind, match=re.compile(message, re.S)):
        octavo.quantize(**given)


def test_a_result_that_is_taken_for_the_model(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    result: Any = octavo.quantize(nn.Linear(4, 4), [x])
    assert (result[0], result[1]) == (result.model, result.report)
    assert str(result) == str(result.report)
    with pytest.raises(TypeError, match=r"not the model: write `model, report = "):
        result(x)
    with pytest.raises(AttributeError, match=r"'state_dict'.*`model, report = "):
        result.state_dict()
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        result.nothing  # noqa: B018
    with pytest.raises(TypeError, match=r"got QuantizeResult; .* returns \(model, report\)"):
        octavo.save(result, tmp_path / "int8.pt")
    with pytest.raises(TypeError, match=r"got QuantizeResult; .* returns \(model, report\)"):
        octavo.export(result, x)
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert torch.equal(twin.model(x), result.model(x))


def test_a_model_that_is_quantized_already() -> None:
    int8, _ = octavo.quantize(nn.Linear(4, 4), [torch.randn(2, 4)])
    with pytest.raises(ValueError, match="quantized already"):
        octavo.quantize(int8, [torch.randn(2, 4)])


def test_fx_gives_what_prepare_fx_and_convert_fx_give() -> None:
    model, data = trained_cnn(), calibration()[:2]
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), (data[0],))
    with torch.no_grad():
        for batch in data:
            prepared(batch)
    want = convert_fx(prepared)
    got, report = octavo.quantize(model, data)
    assert (report.capture, report.fallbacks) == ("fx", [])
    assert torch.equal(got(digits().test_images), want(digits().test_images))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(got)))
    assert torch.equal(copied(data[0]), got(data[0]))
    assert copied.workflow_report == report
    assert copied.octavo_recipe == got.octavo_recipe


def test_local_rules_in_a_graph() -> None:
    config = StaticQuantConfig().set_local("conv2", None)
    config.set_local("head", StaticQuantConfig(act_dtype="int8", w_granularity="per_tensor"))
    int8, report = octavo.quantize(trained_cnn(), calibration()[:1], config)
    became = {row.name: row.becomes for row in report}
    assert report.capture == "fx"
    assert became["conv2"] == ""
    assert became["conv1"] == "quantized.ConvReLU2d"
    assert int8.head.weight().qscheme() == octavo.per_tensor_affine
    assert int8.conv1.weight().qscheme() == octavo.per_channel_affine


def test_a_model_from_transformers() -> None:
    """It is exported where it cannot be traced, and the report says why."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(0, 60, (2, 12)), "attention_mask": torch.ones(2, 12)}
    for mode in ("static", "dynamic"):
        int8, report = octavo.quantize(model, [batch], mode=mode)
        assert sum("Linear" in row.becomes for row in report) == 14
        assert report.sqnr is not None
        assert report.sqnr > 15
        assert int8(**batch).logits.shape == (2, 2)
