"""load_quantized: int8 checkpoints into float architectures, without data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.nn import quantized as nnq


class Static(nn.Module):
    """Convolutions of every kind, norms, functions and a residual, some of it left float."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(8), nn.Hardswish()
        self.cut, self.drop, self.soft = nn.ReLU6(), nn.Dropout(), nn.Sigmoid()
        self.add = nnq.FloatFunctional()
        self.flat = nn.Flatten()
        self.layer_norm = nn.LayerNorm(8 * 64, elementwise_affine=False)
        self.fc = nn.Linear(8 * 64, 5)
        self.last = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.act(self.norm(self.up(x)))
        x = self.add.add(self.soft(x), self.drop(self.cut(x)))
        return self.last(self.dequant(self.fc(self.layer_norm(self.flat(x)))))


class Dynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.rnn = nn.LSTM(16, 12, 2, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(24, 7)
        self.norm = nn.LayerNorm(7)
        self.conv = nn.Conv1d(7, 9, 1)
        self.fc = nn.Linear(9, 3)

    def forward(self, ids: Tensor) -> Any:
        x = self.words(ids)
        x = self.rnn(self.attention(x, x, x)[0])[0]
        x = self.norm(self.cell(x[:, -1]))
        return self.fc(self.conv(x.unsqueeze(-1)).squeeze(-1))


def fused(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return tq.fuse_modules(Static().eval(), [["conv", "bn", "relu"]])


def converted(qconfig: Any) -> nn.Module:
    model = fused(0)
    model.qconfig = qconfig
    model.last.qconfig = None  # type: ignore[union-attr, assignment]
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3, 4, 4))
    return tq.convert(prepared)


@pytest.mark.parametrize("backend", ["octavo", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_static_models_from_files(backend: str, suffix: str, tmp_path: Path) -> None:
    int8 = converted(tq.get_default_qconfig(backend))
    path = tmp_path / f"int8.{suffix}"
    if suffix == "pt":
        torch.save(int8.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(int8.state_dict(), path)
    loaded = tq.load_quantized(fused(1), path)
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(loaded(x), int8(x))
    kinds = {name: type(m) for name, m in int8.named_modules()}
    assert {name: type(m) for name, m in loaded.named_modules()} == kinds
    assert type(loaded.last) is nn.Linear
    assert not any(m.training for m in loaded.modules())


@pytest.mark.parametrize("activations", [torch.qint8, torch.quint8])
def test_signed_and_unsigned_activations(activations: torch.dtype) -> None:
    observer = tq.MinMaxObserver.with_args(dtype=activations)
    int8 = converted(tq.QConfig(observer, tq.default_per_channel_weight_observer))
    loaded = tq.load_quantized(fused(1), int8.state_dict())
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(loaded(x), int8(x))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("torch_like", [False, True])
def test_dynamic_models(bits: int, torch_like: bool) -> None:
    name = "torch_compatible_dynamic_qconfig" if torch_like else "default_dynamic_qconfig"
    qconfig = getattr(tq, name)
    kinds = (nn.Linear, nn.MultiheadAttention, nn.LSTM, nn.GRUCell, nn.Conv1d)
    rows = "float_qparams_weight_only_qconfig" + ("_4bit" if bits == 4 else "")
    spec = {**dict.fromkeys(kinds, qconfig), nn.Embedding: getattr(tq, rows)}
    int8 = tq.quantize_dynamic(Dynamic(), spec)
    model = Dynamic()
    before = copy.deepcopy(model.state_dict())
    loaded = tq.load_quantized(model, int8.state_dict(), dynamic_qconfig=qconfig)
    ids = torch.randint(30, (5, 6))
    assert torch.equal(loaded(ids), int8(ids))
    assert {n: type(m) for n, m in loaded.named_modules()} == {
        n: type(m) for n, m in int8.named_modules()
    }
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert tq.load_quantized(model, int8.state_dict(), inplace=True) is model


def test_layers_with_float16_weights_among_others() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    spec = {"0": tq.default_dynamic_qconfig, "1": tq.float16_dynamic_qconfig}
    int8 = tq.quantize_dynamic(model, spec)
    loaded = tq.load_quantized(
        nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 4)), int8.state_dict()
    )
    assert [type(m) for m in loaded.modules()] == [type(m) for m in int8.modules()]
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), int8(x))


class Places(nn.Module):
    """Keeps a buffer that no state dict has, as models of the transformers package do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(4.0), persistent=False)
        self.register_buffer("shift", torch.rand(4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x + self.places + self.shift)


def test_buffers_that_state_dicts_do_not_have() -> None:
    int8 = tq.quantize_dynamic(Places(), {nn.Linear})
    loaded = tq.load_quantized(Places(), int8.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(loaded(x), int8(x))
    state = {key: value for key, value in int8.state_dict().items() if key != "shift"}
    with pytest.raises(RuntimeError, match=r"missing \['shift'\]"):
        tq.load_quantized(Places(), state)


def test_the_model_itself() -> None:
    int8 = tq.quantize_dynamic(nn.Linear(8, 4), {nn.Linear})
    loaded = tq.load_quantized(nn.Linear(8, 4), int8.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), int8(x))


def test_mistakes_are_named() -> None:
    int8 = converted(tq.get_default_qconfig())
    state = int8.state_dict()
    with pytest.raises(RuntimeError, match=r"missing \['bn\.bias'.*fuse_modules"):
        tq.load_quantized(Static(), state)
    with pytest.raises(ValueError, match="load it into the float model with load_state_dict"):
        tq.load_quantized(fused(0), fused(1).state_dict())
    with pytest.raises(RuntimeError, match=r"unexpected \['more'\]"):
        tq.load_quantized(fused(0), {**state, "more": torch.zeros(1)})
    wrong = fused(0)
    wrong.fc = nn.Linear(8 * 64, 6)
    with pytest.raises(
        ValueError, match=r"'fc' \(Linear\) takes.*\[6, 512\].*must have the sizes of the one"
    ):
        tq.load_quantized(wrong, state)
    float_net = nn.Sequential(nn.Linear(4, 4)).eval()
    graph = octavo.quantize(float_net, [torch.randn(2, 4)], capture="fx").model
    with pytest.raises(RuntimeError, match=r"'quantize' is of a graph.*octavo\.load"):
        tq.load_quantized(float_net, graph.state_dict())
    theirs = {"0._packed_params._packed_params": (None, None), "0.scale": torch.ones(1)}
    with pytest.raises(ValueError, match="load_torch_ao"):
        tq.load_quantized(fused(0), theirs)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        tq.load_quantized(fused(0), "nowhere.pt")


def test_layers_of_another_size_are_told_by_their_shapes() -> None:
    """And not by what another int8 form of the module would need."""
    state = tq.quantize_dynamic(nn.Sequential(nn.Linear(8, 8))).state_dict()
    with pytest.raises(ValueError, match=r"'weight_int8' must have shape \[4, 4\], got \[8, 8\]"):
        tq.load_quantized(nn.Sequential(nn.Linear(4, 4)), state)


def test_convert_without_data_says_how_to_load() -> None:
    model = fused(0)
    model.qconfig = tq.get_default_qconfig()
    with pytest.raises(RuntimeError, match="load_quantized"):
        tq.convert(tq.prepare(model))
