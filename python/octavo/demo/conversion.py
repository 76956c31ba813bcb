"""Float to int8 with the eager static workflow: fuse, prepare, calibrate, convert."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.demo.data import IMAGE_SIZE
from octavo.demo.model import DigitsNet, channels_last, fusable

_CALIBRATION_BATCH = 32


def fuse(model: DigitsNet) -> nn.Module:
    """A float copy with every batch norm folded into its convolution; equal up to rounding."""
    fused: nn.Module = tq.fuse_modules(copy.deepcopy(model).eval(), fusable(model))
    return channels_last(fused)


def quantize(fused: nn.Module, calibration: Tensor) -> nn.Module:
    """The int8 form of a fused model.

    Args:
        fused: what ``fuse`` returned; not changed.
        calibration: float32 [N, 1, 16, 16], the images that activation ranges come from.
    """
    model = copy.deepcopy(fused)
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared: nn.Module = tq.prepare(model)
    with torch.no_grad():
        for images in torch.split(calibration, _CALIBRATION_BATCH):
            prepared(images)
    converted: nn.Module = tq.convert(prepared)
    return converted


def skeleton() -> nn.Module:
    """A converted network with arbitrary weights and ranges, for ``load_state_dict`` to fill."""
    noise = torch.rand(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    return quantize(fuse(DigitsNet().eval()), noise)
