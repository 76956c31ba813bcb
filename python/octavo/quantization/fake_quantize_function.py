"""Rounding a float tensor to the levels of a quantized one and back, with gradients.

``y = (clamp(zero_point + rne(x * (1 / scale)), quant_min, quant_max) - zero_point) * scale`` in
float32, rne = round half to even: the rule by which Octavo quantizes, and that of
``torch.fake_quantize_per_tensor_affine``. The gradient passes where the rounded value lies within
the range and is 0 elsewhere. NaN stays NaN on the CPU, so that training which diverges shows it
(torch gives the smallest level).

Modules round float32 tensors by kernels (:mod:`octavo.quantization.fake_quantize_step`). What these
leave comes here. On the CPU torch rounds one value at a time, so that each step is one of torch's
vectorized operations, in place. Other devices, and small tensors, take torch's own function.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from octavo.quantization.statistics import float32

__all__ = ["fake_quantize_per_channel", "fake_quantize_per_tensor", "learnable_fake_quantize"]

_SMALL = 4096  # elements up to which torch's own function costs less than several calls


def fake_quantize_per_tensor(
    x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int
) -> Tensor:
    """Fake-quantizes a CPU tensor of any shape and float dtype, with one scale and zero point."""
    if _is_small(x):
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max)
    inverse = float32(1.0 / scale)
    low, high = quant_min - zero_point, quant_max - zero_point
    return _apply(x, inverse, scale, low, high)


def fake_quantize_per_channel(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
) -> Tensor:
    """Fake-quantizes a CPU tensor with a scale and zero point for each slice along an axis.

    ``symmetric``: all zero points are equal.
    """
    if _is_small(x):
        result: Tensor = torch.fake_quantize_per_channel_affine(
            x, scale, zero_point, axis % x.dim(), quant_min, quant_max
        )
        return result
    shape = [1] * x.dim()
    shape[axis] = -1
    scale = scale.reshape(shape)
    low: Any
    high: Any
    if symmetric:
        offset = int(zero_point.reshape(-1)[0])
        low, high = quant_min - offset, quant_max - offset
    else:
        offsets = zero_point.reshape(shape).to(torch.float32)
        low, high = quant_min - offsets, quant_max - offsets
    return _apply(x, scale.reciprocal(), scale, low, high)


def _is_small(x: Tensor) -> bool:
    """Whether torch's own function is faster. It does not keep NaN."""
    if x.numel() > _SMALL or x.dtype is not torch.float32:
        return False
    return not math.isnan(x.detach().sum().item())


def _apply(x: Tensor, inverse: Any, scale: Any, low: Any, high: Any) -> Tensor:
    plain = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if torch.is_grad_enabled() and plain.requires_grad:
        result: Tensor = _FakeQuantize.apply(plain, inverse, scale, low, high)  # type: ignore[no-untyped-call]
    else:
        result = (plain * inverse).round_().clamp_(low, high).mul_(scale)
    return result.to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    """Rounding with the straight-through gradient; keeps one byte per value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inverse: Any, scale: Any, low: Any, high: Any) -> Tensor:
        rounded = (x * inverse).round_()
        result: Tensor = rounded.clamp(low, high)
        ctx.save_for_backward(torch.eq(rounded, result))
        return result.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def learnable_fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int | None,
    quant_min: int,
    quant_max: int,
    grad_factor: float,
) -> Tensor:
    """Fake-quantizes with gradients for scale and zero point too (learned step size).

    Args:
        x: float tensor.
        scale, zero_point: float [1], or [channels] along ``axis``. The zero point is rounded.
        grad_factor: multiplies the gradients of scale and zero point.

    Within the range the gradient of the scale is ``rounded - x / scale``, beyond it the level of
    that end less the zero point; the gradient of the zero point is ``-scale`` beyond the range and
    0 within.

    Source: Esser et al., Learned Step Size Quantization (ICLR 2020), and
    ``torch._fake_quantize_learnable_per_tensor_affine``, whose results these are.
    """
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    result: Tensor = _LearnableFakeQuantize.apply(  # type: ignore[no-untyped-call]
        x, scale.reshape(shape), zero_point.reshape(shape), quant_min, quant_max, grad_factor
    )
    return result


class _LearnableFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        quant_min: int,
        quant_max: int,
        grad_factor: float,
    ) -> Tensor:
        offset = zero_point.round().clamp(quant_min, quant_max)
        low, high = quant_min - offset, quant_max - offset
        result = (x * scale.reciprocal()).round_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(x, scale, low, high)
        ctx.grad_factor = grad_factor
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        grad = gradients[0]
        x, scale, low, high = ctx.saved_tensors
        exact = x * scale.reciprocal()
        rounded = exact.round()
        below, above = rounded < low, rounded > high
        outside = below | above
        grad_x = torch.where(outside, 0, grad)
        slope = torch.where(below, low, torch.where(above, high, rounded - exact))
        grad_scale = (grad * slope).sum_to_size(scale.shape) * ctx.grad_factor
        grad_zero_point = (grad * outside * -scale).sum_to_size(scale.shape) * ctx.grad_factor
        return grad_x, grad_scale, grad_zero_point, None, None, None
