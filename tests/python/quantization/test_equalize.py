"""Cross-layer equalization keeps what a model computes, and gives torch's weights; bias correction
brings the means of outputs back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octavo import quantization as tq
from octavo.quantization.correct_bias import bias_correction
from octavo.quantization.equalize import cross_layer_equalization, equalize


def uneven(layer: Any, seed: int) -> Any:
    """A layer whose channels have very different ranges."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        factors = torch.logspace(-2, 1, layer.weight.shape[0])
        shape = [-1] + [1] * (layer.weight.dim() - 1)
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=g) * factors.view(shape))
    return layer


PAIRS: list[tuple[Any, Any, tuple[int, ...]]] = [
    (lambda: nn.Linear(6, 8), lambda: nn.Linear(8, 5), (3, 6)),
    (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(8, 6, 3), (2, 3, 8, 8)),
    (lambda: nn.Conv2d(3, 8, 1), lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 3, 8, 8)),
    (lambda: nn.Conv2d(4, 8, 1, groups=2), lambda: nn.Conv2d(8, 8, 3, groups=4), (2, 4, 8, 8)),
    (lambda: nn.ConvTranspose1d(4, 8, 2, groups=2), lambda: nn.Conv1d(8, 3, 2), (2, 4, 8)),
    (lambda: nn.Conv3d(2, 6, 1, bias=False), lambda: nn.ConvTranspose3d(6, 4, 2), (1, 2, 3, 3, 3)),
]


@pytest.mark.parametrize(("first", "second", "shape"), PAIRS)
def test_the_model_computes_the_same_with_even_ranges(
    first: Any, second: Any, shape: tuple[int, ...]
) -> None:
    model = nn.Sequential(uneven(first(), 1), nn.ReLU(), uneven(second(), 2))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    want = model(x)
    got = equalize(model, [["0", "2"]], inplace=False)
    torch.testing.assert_close(got(x), want, rtol=1e-3, atol=1e-3)
    assert not torch.equal(got[0].weight, model[0].weight)
    before, after = copy.deepcopy(got[0].weight), got[0].weight
    cross_layer_equalization(got[0], got[2])
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)


def test_gives_torchs_weights() -> None:
    theirs = pytest.importorskip("torch.ao.quantization._equalize")
    model = nn.Sequential(
        uneven(nn.Conv2d(3, 8, 3), 4), uneven(nn.Conv2d(8, 6, 3), 5), uneven(nn.Conv2d(6, 4, 1), 6)
    )
    pairs = [["0", "1"], ["1", "2"]]
    want = theirs.equalize(copy.deepcopy(model), pairs, 1e-5, inplace=True)
    got = equalize(copy.deepcopy(model), pairs, 1e-5)
    for a, b in zip(got.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_constant_channels_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    equalize(model, [["0", "1"]])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_helps_weights_with_one_scale() -> None:
    torch.manual_seed(7)
    model = nn.Sequential(uneven(nn.Linear(32, 32), 1), nn.ReLU(), nn.Linear(32, 8))
    x = torch.randn(256, 32)
    spec = {nn.Linear: tq.torch_compatible_dynamic_qconfig}

    def error(candidate: nn.Module) -> float:
        return float((tq.quantize_dynamic(candidate, spec)(x) - model(x)).detach().norm())

    assert error(equalize(model, [["0", "2"]], inplace=False)) < 0.8 * error(model)


def test_wrong_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="has 4 outputs and the second 5 inputs"):
        equalize(model, [["0", "2"]])
    with pytest.raises(TypeError, match=r"must be a Linear or a convolution.* got ReLU"):
        equalize(model, [["0", "1"]])
    with pytest.raises(AttributeError, match="3"):
        equalize(model, [["0", "3"]])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.conv = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.plain = nn.Conv2d(8, 8, 1, bias=False)
        self.fc = nn.Linear(8 * 36, 5)
        self.dequant = tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.relu(self.conv(self.quant(x))))
        return self.dequant(self.fc(x.flatten(1)))  # type: ignore[no-any-return]


def test_bias_correction_moves_means_back() -> None:
    torch.manual_seed(8)
    model = tq.fuse_modules(Net().eval(), [["conv", "relu"]])
    model.qconfig = tq.get_default_qconfig()
    data = [torch.rand(16, 3, 8, 8) for _ in range(4)]
    prepared = tq.prepare(model)
    for x in data:
        prepared(x)
    int8: Any = tq.convert(prepared)
    # Weights rounded down instead of to the nearest, as an extreme case of such a shift.
    weight = int8.fc.weight()
    lower = type(weight).from_int_repr(
        weight.int_repr().clamp_min(-127) - 1,
        weight.q_per_channel_scales(),
        weight.q_per_channel_zero_points(),
        axis=0,
    )
    int8.fc.set_weight_bias(lower, int8.fc.bias())
    x = torch.cat(data)

    def shift() -> float:
        return float((int8(x) - model(x)).detach().mean(0).abs().max())

    before, conv_bias = shift(), int8.conv.bias()
    bias_correction(model, int8, data)
    assert shift() < max(0.1 * before, int8.fc.scale)
    assert int8.plain.bias() is None
    assert not torch.equal(int8.conv.bias(), conv_bias)
    with pytest.raises(ValueError, match="no batches"):
        bias_correction(model, int8, [])
