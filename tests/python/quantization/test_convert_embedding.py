"""prepare and convert with embedding tables: weight-only, and left float where the qconfig is for
activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import octavo
from octavo import quantization as tq
from octavo.nn import quantized as nnq


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16, padding_idx=0)
        self.bag = nn.EmbeddingBag(40, 16, mode="mean")
        self.quant = tq.QuantStub()
        self.fc = nn.Linear(16, 4)
        self.dequant = tq.DeQuantStub()

    def forward(self, tokens: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens).mean(1) + self.bag(tags)
        y: torch.Tensor = self.dequant(self.fc(self.quant(x)))
        return y


def converted(embedding_qconfig: Any) -> tuple[Net, Any]:
    net = Net().eval()
    net.qconfig = tq.get_default_qconfig()
    if embedding_qconfig is not None:
        net.tokens.qconfig = net.bag.qconfig = embedding_qconfig
    inputs = torch.randint(0, 50, (20, 7)), torch.randint(0, 40, (20, 5))
    prepared = tq.prepare(net)
    prepared(*inputs)
    return net, tq.convert(prepared)


@pytest.mark.parametrize("four_bits", [False, True])
def test_weight_only_tables(four_bits: bool) -> None:
    qconfig = (
        tq.float_qparams_weight_only_qconfig_4bit
        if four_bits
        else tq.float_qparams_weight_only_qconfig
    )
    net, model = converted(qconfig)
    dtype = octavo.quint4x2 if four_bits else octavo.quint8
    assert type(model.tokens) is nnq.Embedding
    assert type(model.bag) is nnq.EmbeddingBag
    assert model.tokens.dtype is dtype
    assert model.bag.dtype is dtype
    assert model.tokens.padding_idx == 0
    assert model.bag.mode == "mean"
    assert torch.equal(model.tokens(torch.tensor([0])), torch.zeros(1, 16))
    inputs = torch.randint(0, 50, (20, 7)), torch.randint(0, 40, (20, 5))
    error = (model(*inputs) - net(*inputs)).abs().max()
    assert error < (0.5 if four_bits else 0.1)
    with pytest.raises(IndexError, match="'tokens': index 50 "):
        model.tokens(torch.tensor([50]))


def test_tables_stay_float_under_a_qconfig_for_activations() -> None:
    net, model = converted(None)
    assert type(model.tokens) is nn.Embedding
    assert type(model.bag) is nn.EmbeddingBag
    assert type(model.fc) is nnq.Linear
    assert torch.equal(model.tokens.weight, net.tokens.weight)
    for name in ("tokens", "bag"):
        (row,) = [row for row in model.quantization_report if row.name == name]
        assert row.becomes == ""
        assert "float_qparams_weight_only_qconfig" in row.reason


def test_mapping() -> None:
    mapping = tq.get_default_static_quant_module_mappings()
    assert mapping[nn.Embedding] is nnq.Embedding
    assert mapping[nn.EmbeddingBag] is nnq.EmbeddingBag
