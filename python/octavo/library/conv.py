"""Operators of convolutions and transposed convolutions of 1, 2 and 3 spatial dimensions.

``weight`` is int8 in the layout of the float module's; its rank is that of the convolution.
``weight_scales`` float32 and ``weight_zero_points`` int64 are [1] or have one element for each
output channel (transposed: of a group, or of all). Results are channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.library._layout import new_channels_last
from octavo.library._packed import packed
from octavo.library._quick import integers, quantized
from octavo.library._register import operator
from octavo.ops.conv_weights import ConvWeight
from octavo.ops.transposed import ConvTransposeWeight

__all__: list[str] = []

Ints = Sequence[int]

_WEIGHT = "Tensor weight, Tensor weight_scales, Tensor weight_zero_points, Tensor? bias"
_CONV = f"{_WEIGHT}, int[] stride, int[] padding, int[] padding_end, int[] dilation, int groups"
_TRANSPOSE = (
    f"{_WEIGHT}, int[] stride, int[] padding, int[] dilation, int groups, int[] output_padding"
)
_QUANTIZED = "Tensor x, float x_scale, int x_zero_point"


def _conv_weight(
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
) -> ConvWeight:
    geometry = (tuple(stride), tuple(padding), tuple(dilation), groups, tuple(padding_end))
    result: ConvWeight = packed(ops.ConvWeight, (weight, scales, zeros, bias), *geometry)
    return result


def _conv_output(
    x: Tensor,
    weight: Tensor,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    rank = weight.dim() - 2
    torch._check(x.shape[-1 - rank] == weight.shape[1] * groups)  # type: ignore[no-untyped-call]
    sizes = [
        (
            x.shape[i - rank]
            + padding[i]
            + padding_end[i]
            - dilation[i] * (weight.shape[2 + i] - 1)
            - 1
        )
        // stride[i]
        + 1
        for i in range(rank)
    ]
    return _images(x, rank, weight.shape[0], sizes, dtype)


def _images(
    x: Tensor, rank: int, channels: int, sizes: Sequence[int], dtype: torch.dtype
) -> Tensor:
    batch = x.shape[0] if x.dim() == rank + 2 else 1
    out = new_channels_last(x, batch, channels, sizes, dtype)
    return out if x.dim() == rank + 2 else out.squeeze(0)


def _limits(clamp: Sequence[float] | None) -> tuple[float, float] | None:
    return None if clamp is None else (clamp[0], clamp[1])


def _conv(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
    add: Tensor | None = None,
    add_scale: float = 1.0,
    add_zero: int = 0,
) -> Tensor:
    run = _conv_weight(weight, scales, zeros, bias, stride, padding, padding_end, dilation, groups)
    output = (scale, zero_point, as_qdtype(dtype), relu)
    extra = None if add is None else quantized(add, add_scale, add_zero)
    if add is None or extra is not None:
        quick = run.direct(quantized(x, x_scale, x_zero), *output, extra, _limits(clamp))
        if quick is not None:
            return integers(quick)
    return run(x, x_scale, x_zero, *output, add, add_scale, add_zero, _limits(clamp))


def _fake_conv(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
    add: Tensor | None = None,
    add_scale: float = 1.0,
    add_zero: int = 0,
) -> Tensor:
    return _conv_output(x, weight, stride, padding, padding_end, dilation, groups, dtype)


operator(
    f"conv({_QUANTIZED}, {_CONV}, float scale, int zero_point, ScalarType dtype, bool relu=False, "
    "float[]? clamp=None, Tensor? add=None, float add_scale=1.0, int add_zero_point=0) -> Tensor",
    _conv,
    _fake_conv,
)


def _conv_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
) -> Tensor:
    run = _conv_weight(weight, scales, zeros, bias, stride, padding, padding_end, dilation, groups)
    return run.dequantized_output(x, x_scale, x_zero, relu, _limits(clamp))


def _fake_conv_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
) -> Tensor:
    return _conv_output(x, weight, stride, padding, padding_end, dilation, groups, torch.float32)


operator(
    f"conv_float({_QUANTIZED}, {_CONV}, bool relu=False, float[]? clamp=None) -> Tensor",
    _conv_float,
    _fake_conv_float,
)


def _conv_dynamic(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    run = _conv_weight(weight, scales, zeros, bias, stride, padding, padding_end, dilation, groups)
    quick: Tensor | None = run.dynamic_direct(x, per_tensor, reduce_range, relu)
    return run.dynamic(x, per_tensor, reduce_range, relu) if quick is None else quick


def _fake_conv_dynamic(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    return _conv_output(x, weight, stride, padding, padding_end, dilation, groups, x.dtype)


operator(
    f"conv_dynamic(Tensor x, {_CONV}, bool per_tensor=False, bool reduce_range=False, "
    "bool relu=False) -> Tensor",
    _conv_dynamic,
    _fake_conv_dynamic,
)


def _transpose_weight(
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> ConvTransposeWeight:
    # The output padding is an argument of the call.
    none = (0,) * len(stride)
    geometry = (tuple(stride), tuple(padding), none, groups, tuple(dilation))
    tensors = (weight, scales, zeros, bias)
    result: ConvTransposeWeight = packed(ops.ConvTransposeWeight, tensors, *geometry)
    return result


def _transpose_output(
    x: Tensor,
    weight: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    dtype: torch.dtype,
) -> Tensor:
    rank = weight.dim() - 2
    torch._check(x.shape[-1 - rank] == weight.shape[0])  # type: ignore[no-untyped-call]
    sizes = [
        (x.shape[i - rank] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in range(rank)
    ]
    return _images(x, rank, weight.shape[1] * groups, sizes, dtype)


def _conv_transpose(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    run = _transpose_weight(weight, scales, zeros, bias, stride, padding, dilation, groups)
    return run(x, x_scale, x_zero, scale, zero_point, as_qdtype(dtype), relu, output_padding)


def _fake_conv_transpose(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    return _transpose_output(x, weight, stride, padding, dilation, groups, output_padding, dtype)


operator(
    f"conv_transpose({_QUANTIZED}, {_TRANSPOSE}, float scale, int zero_point, ScalarType dtype, "
    "bool relu=False) -> Tensor",
    _conv_transpose,
    _fake_conv_transpose,
)


def _conv_transpose_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    relu: bool = False,
) -> Tensor:
    run = _transpose_weight(weight, scales, zeros, bias, stride, padding, dilation, groups)
    return run.dequantized_output(x, x_scale, x_zero, relu, output_padding)


def _fake_conv_transpose_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    relu: bool = False,
) -> Tensor:
    return _transpose_output(
        x, weight, stride, padding, dilation, groups, output_padding, torch.float32
    )


operator(
    f"conv_transpose_float({_QUANTIZED}, {_TRANSPOSE}, bool relu=False) -> Tensor",
    _conv_transpose_float,
    _fake_conv_transpose_float,
)


def _conv_transpose_dynamic(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    run = _transpose_weight(weight, scales, zeros, bias, stride, padding, dilation, groups)
    return run.dynamic(x, per_tensor, reduce_range, relu, output_padding)


def _fake_conv_transpose_dynamic(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    return _transpose_output(x, weight, stride, padding, dilation, groups, output_padding, x.dtype)


operator(
    f"conv_transpose_dynamic(Tensor x, {_TRANSPOSE}, bool per_tensor=False, "
    "bool reduce_range=False, bool relu=False) -> Tensor",
    _conv_transpose_dynamic,
    _fake_conv_transpose_dynamic,
)
