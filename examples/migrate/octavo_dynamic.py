"""Dynamic quantization of a recurrent network that reads digits row by row, with Octavo."""

from __future__ import annotations

import digits
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq


class Net(nn.Module):
    """An LSTM over the 8 rows of an image, and two linear layers on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 128, batch_first=True)
        self.hidden = nn.Linear(128, 128)
        self.relu = nn.ReLU()
        self.classify = nn.Linear(128, digits.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.lstm(images.squeeze(1))
        return self.classify(self.relu(self.hidden(outputs[:, -1])))


def quantize(model: nn.Module) -> nn.Module:
    """The model with int8 weights; it needs no data."""
    return tq.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=octavo.qint8)


def main() -> None:
    torch.manual_seed(0)
    data = digits.load()
    model = digits.train(Net(), data)
    int8 = quantize(model)
    print(f"float {digits.accuracy(model, data):.4f}, int8 {digits.accuracy(int8, data):.4f}")


if __name__ == "__main__":
    main()
