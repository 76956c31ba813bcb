"""A small U-Net from float to int8: transposed convolutions fused, prepared and converted."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from octavo import quantization as tq
from octavo.nn import quantized as nnq


class UNet(nn.Module):
    """Two levels down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.grow = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8))
        self.join = nnq.FloatFunctional()
        self.up = nn.ConvTranspose2d(16, 4, 3, padding=1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down(self.quant(x))
        deep = self.grow(self.deep(F.max_pool2d(skip, 2)))
        out: torch.Tensor = self.dequant(self.up(self.join.cat([skip, deep], 1)))
        return out


def test_fuse_prepare_convert() -> None:
    """A small U-Net: batch norms folded, every convolution swapped, close to the float model."""
    torch.manual_seed(0)
    model = UNet()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not the initial ones
            model(torch.randn(4, 3, 16, 16))
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    want = model(x)
    groups = [["down.0", "down.1", "down.2"], ["deep.0", "deep.1", "deep.2"], ["grow.0", "grow.1"]]
    fused = tq.fuse_modules(model, groups)
    assert (fused(x) - want).abs().max() < 1e-4
    fused.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(fused)
    for _ in range(4):
        prepared(torch.randn(2, 3, 16, 16))
    prepared(x)
    converted = tq.convert(prepared)
    assert type(converted.grow[0]) is nnq.ConvTranspose2d
    assert type(converted.up) is nnq.ConvTranspose2d
    assert converted.grow[0].weight.q_per_channel_axis() == 1
    got = converted(x)
    noise = (got - want).pow(2).mean() / want.pow(2).mean()
    assert noise < 1e-3
    state = converted.state_dict()
    with torch.no_grad():
        prepared(3 * x)
    fresh = tq.convert(prepared)
    assert not torch.equal(fresh(x), got)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), got)
