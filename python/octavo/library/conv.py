"""Operators of convolutions and transposed convolutions of 1, 2 and 3 spatial dimensions.

``weight`` is int8 in the layout of the float module's; its rank is that of the convolution.
``weight_scales`` float32 and ``weight_zero_points`` int64 are [1] or have one element for each
output channel (transposed: of a group, or of all). Results are channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from octavo.dtypes import QDType
from octavo.library._layout import new_channels_last
from octavo.library._packed import Packed
from octavo.library._quick import integers, quantized
from octavo.library._register import operator
from octavo.ops.conv_weights import ConvWeight
from octavo.ops.shared import shared_weight
from octavo.ops.transposed import ConvTransposeWeight

__all__ = ["WEIGHT"]

Ints = Sequence[int]

_TENSORS = "Tensor weight, Tensor weight_scales, Tensor weight_zero_points, Tensor? bias"
_QUANTIZED = "Tensor x, float x_scale, int x_zero_point"
_OUTPUT = "float scale, int zero_point, ScalarType dtype, bool relu=False"
_DYNAMIC = "bool per_tensor=False, bool reduce_range=False, bool relu=False"


def _pack(
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
    return shared_weight(ConvWeight, weight, scales, zeros, bias, *geometry)


WEIGHT = Packed(
    f"{_TENSORS}, int[] stride, int[] padding, int[] padding_end, int[] dilation, int groups", _pack
)


def _images(
    x: Tensor,
    weight: Tensor,
    stride: Ints,
    padding: Ints,
    padding_end: Ints,
    dilation: Ints,
    groups: int,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The output of a convolution; by default in x's dtype."""
    rank = weight.dim() - 2
    torch._check(x.shape[-1 - rank] == weight.shape[1] * groups)  # type: ignore[no-untyped-call]
    sizes = []
    for i in range(rank):
        padded = x.shape[i - rank] + padding[i] + padding_end[i]
        sizes.append((padded - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1)
    return _channels_last(x, rank, weight.shape[0], sizes, dtype)


def _channels_last(
    x: Tensor, rank: int, channels: int, sizes: Sequence[int], dtype: torch.dtype | None
) -> Tensor:
    batch = x.shape[0] if x.dim() == rank + 2 else 1
    out = new_channels_last(x, batch, channels, sizes, x.dtype if dtype is None else dtype)
    return out if x.dim() == rank + 2 else out.squeeze(0)


def _limits(clamp: Sequence[float] | None) -> tuple[float, float] | None:
    return None if clamp is None else (clamp[0], clamp[1])


def _conv(
    weight: ConvWeight,
    x: Tensor,
    x_scale: float,
    x_zero: int,
    scale: float,
    zero_point: int,
    dtype: QDType,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
    add: Tensor | None = None,
    add_scale: float = 1.0,
    add_zero: int = 0,
) -> Tensor:
    extra = None if add is None else quantized(add, add_scale, add_zero)
    limits = _limits(clamp)
    if add is None or extra is not None:
        q = quantized(x, x_scale, x_zero)
        quick = weight.direct(q, scale, zero_point, dtype, relu, extra, limits)
        if quick is not None:
            return integers(quick)
    output = (scale, zero_point, dtype, relu)
    return weight(x, x_scale, x_zero, *output, add, add_scale, add_zero, limits)


operator(
    f"conv({_QUANTIZED}, {WEIGHT.schema}, {_OUTPUT}, float[]? clamp=None, Tensor? add=None, "
    "float add_scale=1.0, int add_zero_point=0) -> Tensor",
    _conv,
    _images,
    packed=WEIGHT,
)


def _conv_float(
    weight: ConvWeight,
    x: Tensor,
    x_scale: float,
    x_zero: int,
    relu: bool = False,
    clamp: Sequence[float] | None = None,
) -> Tensor:
    return weight.dequantized_output(x, x_scale, x_zero, relu, _limits(clamp))


operator(
    f"conv_float({_QUANTIZED}, {WEIGHT.schema}, bool relu=False, float[]? clamp=None) -> Tensor",
    _conv_float,
    partial(_images, dtype=torch.float32),
    packed=WEIGHT,
)


def _conv_dynamic(
    weight: ConvWeight,
    x: Tensor,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    quick: Tensor | None = weight.dynamic_direct(x, per_tensor, reduce_range, relu)
    return weight.dynamic(x, per_tensor, reduce_range, relu) if quick is None else quick


operator(
    f"conv_dynamic(Tensor x, {WEIGHT.schema}, {_DYNAMIC}) -> Tensor",
    _conv_dynamic,
    _images,
    packed=WEIGHT,
)


def _pack_transposed(
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
    return shared_weight(ConvTransposeWeight, weight, scales, zeros, bias, *geometry)


_TRANSPOSED = Packed(
    f"{_TENSORS}, int[] stride, int[] padding, int[] dilation, int groups", _pack_transposed
)
_TRANSPOSE = f"{_TRANSPOSED.schema}, int[] output_padding"


def _transposed_images(
    x: Tensor,
    weight: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_padding: Ints,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The output of a transposed convolution; by default in x's dtype."""
    rank = weight.dim() - 2
    torch._check(x.shape[-1 - rank] == weight.shape[0])  # type: ignore[no-untyped-call]
    sizes = []
    for i in range(rank):
        spread = (x.shape[i - rank] - 1) * stride[i] - 2 * padding[i]
        sizes.append(spread + dilation[i] * (weight.shape[2 + i] - 1) + output_padding[i] + 1)
    return _channels_last(x, rank, weight.shape[1] * groups, sizes, dtype)


def _conv_transpose(
    weight: ConvTransposeWeight,
    x: Tensor,
    x_scale: float,
    x_zero: int,
    output_padding: Ints,
    scale: float,
    zero_point: int,
    dtype: QDType,
    relu: bool = False,
) -> Tensor:
    return weight(x, x_scale, x_zero, scale, zero_point, dtype, relu, output_padding)


operator(
    f"conv_transpose({_QUANTIZED}, {_TRANSPOSE}, {_OUTPUT}) -> Tensor",
    _conv_transpose,
    _transposed_images,
    packed=_TRANSPOSED,
)


def _conv_transpose_float(
    weight: ConvTransposeWeight,
    x: Tensor,
    x_scale: float,
    x_zero: int,
    output_padding: Ints,
    relu: bool = False,
) -> Tensor:
    return weight.dequantized_output(x, x_scale, x_zero, relu, output_padding)


operator(
    f"conv_transpose_float({_QUANTIZED}, {_TRANSPOSE}, bool relu=False) -> Tensor",
    _conv_transpose_float,
    partial(_transposed_images, dtype=torch.float32),
    packed=_TRANSPOSED,
)


def _conv_transpose_dynamic(
    weight: ConvTransposeWeight,
    x: Tensor,
    output_padding: Ints,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
) -> Tensor:
    return weight.dynamic(x, per_tensor, reduce_range, relu, output_padding)


operator(
    f"conv_transpose_dynamic(Tensor x, {_TRANSPOSE}, {_DYNAMIC}) -> Tensor",
    _conv_transpose_dynamic,
    _transposed_images,
    packed=_TRANSPOSED,
)
