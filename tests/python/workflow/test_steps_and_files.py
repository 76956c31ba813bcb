"""octavo.prepare and convert, save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo import DynamicQuantConfig, StaticQuantConfig
from octavo.demo.model import DigitsNet
from workflow_support import Classifier, DigitsCNN, calibration, digits, tokens, trained_cnn


def test_in_steps_as_in_one_call() -> None:
    model, data = trained_cnn(), calibration()[:2]
    config = StaticQuantConfig(act_algo="minmax")
    prepared = octavo.prepare(model, config, data[0])
    x = digits().test_images[:32]
    assert torch.allclose(prepared(x), model(x), atol=1e-4)
    prepared = octavo.prepare(model, config, (data[0],))
    with torch.no_grad():
        for batch in data:
            prepared(batch)
    int8 = octavo.convert(prepared)
    want, report = octavo.quantize(model, data, config)
    assert torch.equal(int8(x), want(x))
    own: Any = int8.workflow_report
    assert [row.becomes for row in own] == [row.becomes for row in report]
    assert own.capture == report.capture
    assert "modules are int8" in str(own)


def test_dynamic_in_steps() -> None:
    model, batch = Classifier(), tokens(1)[0]
    config = DynamicQuantConfig().set_local("head", None)
    int8 = octavo.convert(octavo.prepare(model, config, example_inputs=batch))
    wanted = octavo.quantize(model, config=config).model
    assert torch.equal(int8(**batch)["logits"], wanted(**batch)["logits"])
    assert type(int8.head) is nn.Linear
    again = octavo.convert(model, config)
    assert torch.equal(again(**batch)["logits"], wanted(**batch)["logits"])
    assert not isinstance(model.up, type(int8.up))


def test_wrong_steps() -> None:
    linear = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="needs example_inputs"):
        octavo.prepare(linear, StaticQuantConfig())
    with pytest.raises(ValueError, match="fails on example_inputs"):
        octavo.prepare(linear, StaticQuantConfig(), torch.ones(2, 5))
    with pytest.raises(TypeError, match="qconfigs of torch are for"):
        octavo.prepare(linear, tq.get_default_qconfig(), torch.ones(2, 4))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no layer that can be quantized"):
        octavo.prepare(nn.ReLU(), StaticQuantConfig(), torch.ones(2))
    with pytest.raises(TypeError, match=r"expected what octavo\.prepare\(\) returned"):
        octavo.convert(linear)
    prepared = octavo.prepare(linear, StaticQuantConfig(), torch.ones(2, 4))
    with pytest.raises(RuntimeError, match=r"never saw (finite )?data"):
        octavo.convert(prepared)


class Mixed(nn.Module):
    """Layers of many kinds: float, static and dynamic ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 8, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU6())
        self.up = nn.ConvTranspose1d(8, 16, 2)
        self.bn = nn.BatchNorm1d(16)
        self.drop = nn.Dropout()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.act = nn.GELU()
        self.hidden = nn.Linear(16, 16)
        self.swish = nn.Hardswish()
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.drop(self.up(self.conv(x))).transpose(1, 2))
        y = self.bn(y.transpose(1, 2)).transpose(1, 2)
        y = self.norm(self.swish(self.hidden(self.act(y))) + 0.5)
        z: Tensor = self.head(y[:, -1])
        return z


def mixed_config(**settings: Any) -> StaticQuantConfig:
    config = StaticQuantConfig(**settings)
    config.set_local("lstm", DynamicQuantConfig())
    config.set_local("head", DynamicQuantConfig(act_granularity="per_tensor", reduce_range=True))
    return config


SUFFIXES = [".pt", ".safetensors"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("capture", ["fx", "eager", "layers"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"act_dtype": "int8", "w_granularity": "per_tensor"}, {"w_sym": False}],
    ids=["default", "int8", "asymmetric"],
)
def test_save_and_load(tmp_path: Path, suffix: str, capture: str, settings: Any) -> None:
    data = [torch.randn(3, 4, 12) for _ in range(2)]
    model = Mixed().eval()
    int8, report = octavo.quantize(model, data, mixed_config(**settings), capture=capture)
    assert len(report.swapped) >= 5
    path = tmp_path / f"model{suffix}"
    octavo.save(int8, path)
    torch.manual_seed(9)
    fresh = Mixed()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    loaded = octavo.load(path, fresh)
    assert torch.equal(loaded(data[0]), int8(data[0]))
    assert not loaded.training
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())
    octavo.save(loaded, path)  # and once more
    assert torch.equal(octavo.load(path, Mixed())(data[1]), int8(data[1]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_and_load_whole_models(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    images = calibration()[0]
    config = DynamicQuantConfig(act_granularity="per_tensor")
    config.set_local([nn.Embedding, "up"], DynamicQuantConfig())
    batch = tokens(1)[0]
    for result, fresh, call in (
        (octavo.quantize(trained_cnn(), [images]), DigitsCNN(), {"x": images}),
        (octavo.quantize(DigitsNet().eval(), [images]), DigitsNet(), {"x": images}),
        (octavo.quantize(Classifier(), config=config), Classifier(), batch),
        (octavo.quantize(Classifier(), [batch]), Classifier(), batch),
    ):
        octavo.save(result.model, path)
        got, want = octavo.load(path, fresh)(**call), result.model(**call)
        if isinstance(want, dict):
            got, want = got["logits"], want["logits"]
        assert torch.equal(got, want)


def test_files_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    octavo.save(octavo.quantize(nn.Linear(4, 4), [torch.randn(2, 4)]).model, path)
    held = torch.load(path, weights_only=True)
    assert held["format"] == "octavo"
    assert all(type(value) is Tensor for value in held["state_dict"].values())


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    data = [torch.randn(2, 4)]
    int8, _ = octavo.quantize(nn.Sequential(nn.Linear(4, 4)), data, capture="eager")
    with pytest.raises(ValueError, match=r"save state_dict\(\) and use"):
        octavo.save(nn.Linear(4, 4), path)
    torch.save(int8.state_dict(), path)
    with pytest.raises(ValueError, match="load_quantized"):
        octavo.load(path, nn.Linear(4, 4))
    octavo.save(int8, path)
    with pytest.raises(ValueError, match="float_model lacks"):
        octavo.load(path, nn.Conv1d(4, 4, 1))
    with pytest.raises((RuntimeError, ValueError), match=r"0\.module"):
        octavo.load(path, nn.Sequential(nn.Linear(5, 4)))
    with pytest.raises(TypeError, match="float_model must be"):
        octavo.load(path, {"a": 1})  # type: ignore[arg-type]
    octavo.save(octavo.quantize(nn.Sequential(nn.Linear(4, 4)), data).model, path)
    for other in (nn.Conv1d(4, 4, 1), nn.Linear(5, 4)):
        with pytest.raises(ValueError, match=r"not what model\.pt was made of"):
            octavo.load(path, other)
    held = torch.load(path, weights_only=True)
    torch.save({**held, "version": 99}, path)
    with pytest.raises(ValueError, match="version 99"):
        octavo.load(path, nn.Sequential(nn.Linear(4, 4)))
