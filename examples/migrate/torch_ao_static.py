"""Static quantization of a small residual network, module by module, with torch.ao."""

from __future__ import annotations

import digits
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional


class Net(nn.Module):
    """A convolution, a residual block and a linear layer, written for eager quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.branch = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.branch_bn = nn.BatchNorm2d(16)
        self.add = FloatFunctional()
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(256, 64)
        self.hidden_relu = nn.ReLU()
        self.classify = nn.Linear(64, digits.CLASSES)
        self.dequant = tq.DeQuantStub()

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(self.quant(images))))
        x = self.add.add_relu(self.branch_bn(self.branch(x)), x)
        x = self.hidden_relu(self.hidden(self.pool(x).flatten(1)))
        return self.dequant(self.classify(x))


FUSED = [["conv", "bn", "relu"], ["branch", "branch_bn"], ["hidden", "hidden_relu"]]


def quantize(model: nn.Module, data: digits.Digits, backend: str = "x86") -> nn.Module:
    """The trained model in int8, with scales from some training images."""
    fused = tq.fuse_modules(model, FUSED)
    fused.qconfig = tq.get_default_qconfig(backend)
    prepared = tq.prepare(fused)
    for images in data.calibration:
        prepared(images)
    return tq.convert(prepared)


def main() -> None:
    torch.manual_seed(0)
    data = digits.load()
    model = digits.train(Net(), data)
    int8 = quantize(model, data)
    print(f"float {digits.accuracy(model, data):.4f}, int8 {digits.accuracy(int8, data):.4f}")


if __name__ == "__main__":
    main()
