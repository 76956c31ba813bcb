"""Quantization-aware training of a small residual network, with Octavo."""

from __future__ import annotations

import copy

import digits
import torch
from octavo_static import FUSED, Net
from torch import nn

import octavo.quantization as tq


def quantize(
    model: nn.Module, data: digits.Digits, backend: str = "x86", epochs: int = 2
) -> nn.Module:
    """The trained model, trained on with rounding, in int8."""
    fused = tq.fuse_modules_qat(copy.deepcopy(model).train(), FUSED)
    fused.qconfig = tq.get_default_qat_qconfig(backend)
    prepared = tq.prepare_qat(fused)
    digits.train(prepared, data, epochs, learning_rate=2e-4)
    return tq.convert(prepared)


def main() -> None:
    torch.manual_seed(0)
    data = digits.load()
    model = digits.train(Net(), data)
    int8 = quantize(model, data)
    print(f"float {digits.accuracy(model, data):.4f}, int8 {digits.accuracy(int8, data):.4f}")


if __name__ == "__main__":
    main()
