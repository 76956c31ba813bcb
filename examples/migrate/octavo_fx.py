"""Static quantization of a model that nobody edited for it, traced by FX, with Octavo."""

from __future__ import annotations

import digits
import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.quantization.quantize_fx import convert_fx, prepare_fx


class Net(nn.Module):
    """A convolution, a residual block and a linear layer, written as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.branch_bn = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(256, 64)
        self.classify = nn.Linear(64, digits.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(images)))
        x = torch.relu(self.branch_bn(self.branch(x)) + x)
        x = torch.relu(self.hidden(self.pool(x).flatten(1)))
        return self.classify(x)


def quantize(model: nn.Module, data: digits.Digits, backend: str = "x86") -> nn.Module:
    """The trained model in int8, with scales from some training images."""
    settings = tq.get_default_qconfig_mapping(backend)
    prepared = prepare_fx(model, settings, example_inputs=(data.calibration[0],))
    for images in data.calibration:
        prepared(images)
    return convert_fx(prepared)


def main() -> None:
    torch.manual_seed(0)
    data = digits.load()
    model = digits.train(Net(), data)
    int8 = quantize(model, data)
    print(f"float {digits.accuracy(model, data):.4f}, int8 {digits.accuracy(int8, data):.4f}")


if __name__ == "__main__":
    main()
