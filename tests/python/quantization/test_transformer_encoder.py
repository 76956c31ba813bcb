"""nn.TransformerEncoder, which in eval mode looks into its layers instead of calling them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2).eval()


def batch() -> tuple[Tensor, Tensor]:
    """Three sentences, two of them padded."""
    mask = torch.zeros(3, 10, dtype=torch.bool)
    mask[1, 7:] = mask[2, 4:] = True
    return torch.randn(3, 10, 64), mask


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "spec", [{nn.Linear}, {nn.MultiheadAttention}, {"layers.1"}, {"layers.1.linear2"}]
)
def test_dynamic_with_a_padding_mask(spec: set[object], grad: bool) -> None:
    model = encoder()
    int8 = tq.quantize_dynamic(model, spec)
    x, mask = batch()
    with torch.set_grad_enabled(grad):
        want, got = (each(x, src_key_padding_mask=mask)[~mask] for each in (model, int8))
    error = (got - want).norm() / want.norm()
    assert 1e-5 < error < 0.02
    assert model.use_nested_tensor  # the float model stays as it was


@torch.no_grad()
def test_calibration_sees_every_layer() -> None:
    model = encoder()
    model.qconfig = None  # type: ignore[assignment]
    for layer in model.layers:
        layer.linear1.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    x, mask = batch()
    prepared(x, src_key_padding_mask=mask)
    for layer in prepared.layers:
        assert layer.linear1.activation_post_process.is_calibrated
