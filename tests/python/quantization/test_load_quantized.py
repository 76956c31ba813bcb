"""load_quantized: a quantized checkpoint into the architecture of the float model, without data."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd
from quantization_support import Net, fused_net, images, trained_net


def saved(model: nn.Module) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Any] = torch.load(buffer, weights_only=True)
    return state


def converted(qconfig: Any, fc: bool = True) -> nn.Module:
    model = fused_net()
    model.qconfig = qconfig  # type: ignore[assignment]
    if not fc:
        model.fc.qconfig = None  # type: ignore[assignment, union-attr]
        model.dequant, model.pool = nn.Identity(), nn.Sequential(model.pool, tq.DeQuantStub())
    prepared = tq.prepare(model)
    prepared(images())
    return tq.convert(prepared)


@pytest.mark.parametrize(
    "qconfig",
    [
        tq.get_default_qconfig(),
        tq.get_default_qconfig("qnnpack"),
        tq.default_per_channel_symmetric_qnnpack_qconfig,
    ],
    ids=["default", "per tensor", "signed"],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_static(qconfig: Any, inplace: bool) -> None:
    int8 = converted(qconfig)
    torch.manual_seed(9)
    fresh = tq.fuse_modules(Net().eval(), [list(group) for group in Net.FUSED])
    loaded = tq.load_quantized(fresh, saved(int8), inplace)
    assert (loaded is fresh) == inplace
    assert type(fresh.fc) is (nnq.Linear if inplace else nn.Linear)
    assert torch.equal(loaded(images()), int8(images()))
    assert [type(m) for m in loaded.modules()] == [type(m) for m in int8.modules()]


def test_what_is_float_in_the_checkpoint_stays_float() -> None:
    int8 = converted(tq.get_default_qconfig(), fc=False)
    fresh: Any = tq.fuse_modules(Net().eval(), [list(group) for group in Net.FUSED])
    fresh.dequant, fresh.pool = nn.Identity(), nn.Sequential(fresh.pool, tq.DeQuantStub())
    loaded = tq.load_quantized(fresh, saved(int8))
    assert type(loaded.fc) is nn.Linear
    assert torch.equal(loaded(images()), int8(images()))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, 2)
        self.attention = nn.MultiheadAttention(6, 2)
        self.head = nn.Linear(6, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(self.embed(ids))
        return self.last(self.head(self.attention(x, x, x)[0]))  # type: ignore[no-any-return]


def test_dynamic_layers_and_embeddings() -> None:
    spec = {
        "embed": tq.float_qparams_weight_only_qconfig,
        nn.LSTM: tq.default_dynamic_qconfig,
        nn.Linear: tq.default_dynamic_qconfig,
        "last": tq.float16_dynamic_qconfig,
    }
    int8 = tq.quantize_dynamic(Tagger().eval(), spec)
    ids = torch.randint(0, 20, (5, 3))
    torch.manual_seed(9)
    loaded: Any = tq.load_quantized(Tagger(), saved(int8))
    assert not loaded.training
    assert type(loaded.embed) is nnq.Embedding
    assert type(loaded.last) is nnqd.LinearFloat16
    assert [type(m) for m in loaded.modules()] == [type(m) for m in int8.modules()]
    assert torch.equal(loaded(ids), int8(ids))
    partly = tq.quantize_dynamic(Tagger().eval(), {"lstm", "head"})
    loaded = tq.load_quantized(Tagger(), saved(partly))
    assert type(loaded.embed) is nn.Embedding
    assert type(loaded.last) is nn.Linear
    assert torch.equal(loaded(ids), partly(ids))


def test_settings_of_dynamic_layers_are_given() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    settings = tq.torch_compatible_dynamic_qconfig
    int8 = tq.quantize_dynamic(model, {nn.Linear: settings})
    x = torch.randn(5, 8)
    loaded = tq.load_quantized(model, saved(int8), dynamic_qconfig=settings)
    assert torch.equal(loaded(x), int8(x))
    assert not torch.equal(tq.load_quantized(model, saved(int8))(x), int8(x))


def test_the_model_itself_may_be_replaced() -> None:
    int8 = tq.quantize_dynamic(nn.Linear(8, 4))
    loaded = tq.load_quantized(nn.Linear(8, 4), saved(int8))
    x = torch.randn(5, 8)
    assert torch.equal(loaded(x), int8(x))


def test_errors() -> None:
    int8 = converted(tq.get_default_qconfig())
    with pytest.raises(RuntimeError, match=r"(?s)load_quantized.*'?block\.bn.*Fuse the model"):
        tq.load_quantized(trained_net(), saved(int8))
    with pytest.raises(ValueError, match=r"no quantized modules.*load_state_dict.*load_torch_ao"):
        tq.load_quantized(Net(), Net().state_dict())
