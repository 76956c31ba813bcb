"""Functions on quantized tensors, under the names of `torch.ao.nn.quantized.functional`.

Each takes a per-tensor QTensor and returns one with the same scale, zero point and dtype (functions
with arguments `scale` and `zero_point` with those; `sigmoid`, `hardsigmoid` and `softmax` with
1/256 and the lowest integer, `tanh` with 2/256 and the middle); `embedding` and `embedding_bag`
take indices and a table and return floats. The same functions of `torch.nn.functional` accept a
QTensor too; these refuse everything else. Pooling needs quint8 or qint8 and returns channels-last
storage. All raise TypeError for an input that is not a QTensor, is per-channel, or has a dtype that
the function does not take.
"""

from __future__ import annotations

from typing import Any

from octavo._tensor import compute, pooling, unary
from octavo._tensor.dispatch import calling_module
from octavo._tensor.interpolate import interpolate as _interpolate
from octavo._tensor.qparams import check_scale, check_zero_point
from octavo.nn.quantized.conv_functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from octavo.nn.quantized.embedding_functional import embedding, embedding_bag
from octavo.nn.quantized.linear_functional import linear
from octavo.tensor import QTensor

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "avg_pool2d",
    "avg_pool3d",
    "celu",
    "clamp",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "elu",
    "embedding",
    "embedding_bag",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "interpolate",
    "leaky_relu",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "threshold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]


def _quantized(name: str, input: Any) -> QTensor:
    if not isinstance(input, QTensor):
        got = getattr(input, "dtype", type(input).__name__)
        raise TypeError(
            f"{calling_module()}quantized.functional.{name}: input: expected a QTensor, got "
            f"{got}; quantize it first (QuantStub or octavo.quantize_per_tensor)"
        )
    return input


def avg_pool2d(
    input: QTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> QTensor:
    """Average over kh x kw windows of [N, C, H, W] or [C, H, W], as
    `torch.nn.functional.avg_pool2d`.

    The sum of a window is exact; `zero_point + round_half_even(float(sum) * (1 / divisor))` in
    float32.
    """
    return pooling.avg_pool2d(
        _quantized("avg_pool2d", input),
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool3d(
    input: QTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> QTensor:
    """Average over kd x kh x kw windows of [N, C, D, H, W] or [C, D, H, W]; as `avg_pool2d`."""
    return pooling.avg_pool3d(
        _quantized("avg_pool3d", input),
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def adaptive_avg_pool2d(input: QTensor, output_size: Any) -> QTensor:
    """Average [N, C, H, W] or [C, H, W] to `output_size`, as
    `torch.nn.functional.adaptive_avg_pool2d`.

    `output_size` is an int or a pair; None in the pair keeps that size. Rounding as in
    `avg_pool2d`.
    """
    return pooling.adaptive_avg_pool2d(_quantized("adaptive_avg_pool2d", input), output_size)


def adaptive_avg_pool3d(input: QTensor, output_size: Any) -> QTensor:
    """Average [N, C, D, H, W] or [C, D, H, W] to `output_size`; as `adaptive_avg_pool2d`."""
    return pooling.adaptive_avg_pool3d(_quantized("adaptive_avg_pool3d", input), output_size)


def max_pool1d(
    input: QTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> QTensor:
    """Maximum over windows of [N, C, L] or [C, L]; as `max_pool2d`."""
    return pooling.max_pool1d(
        _quantized("max_pool1d", input),
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        return_indices,
    )


def max_pool2d(
    input: QTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> QTensor:
    """Maximum over kh x kw windows of [N, C, H, W] or [C, H, W], as
    `torch.nn.functional.max_pool2d`.

    Raises TypeError for `return_indices=True`, as torch's quantized form does.
    """
    return pooling.max_pool2d(
        _quantized("max_pool2d", input),
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        return_indices,
    )


def relu(input: QTensor, inplace: bool = False) -> QTensor:
    """Clamp at the zero point. Any shape and quantized dtype."""
    return compute.relu(_quantized("relu", input), inplace)


def relu6(input: QTensor, inplace: bool = False) -> QTensor:
    """Clamp to [0, 6], rounded to the grid of `input`. Any shape and quantized dtype."""
    return compute.relu6(_quantized("relu6", input), inplace)


def hardtanh(
    input: QTensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> QTensor:
    """Clamp to [min_val, max_val], rounded to the grid of `input`. Any shape and quantized dtype.

    Raises ValueError if `min_val` is greater than `max_val` or a bound is NaN.
    """
    return compute.hardtanh(_quantized("hardtanh", input), min_val, max_val, inplace)


def clamp(input: QTensor, min_: float, max_: float) -> QTensor:
    """Clamp to ``[min_, max_]``, rounded to the grid of `input`. Any shape and quantized dtype.

    Raises ValueError if a bound is NaN.
    """
    return compute.clamp(_quantized("clamp", input), min_, max_)


def interpolate(
    input: QTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> QTensor:
    """Resize the spatial dimensions of [N, C, ...], as `torch.nn.functional.interpolate`.

    Modes "nearest" and "nearest-exact" copy elements (any quantized dtype); "linear", "bilinear",
    "trilinear" and "area" compute in integers, within one step of torch's quantized result.

    Raises TypeError for other modes, ValueError for sizes that do not fit the input.
    """
    return _interpolate(_quantized("interpolate", input), size, scale_factor, mode, align_corners)


def upsample(
    input: QTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> QTensor:
    """The older name of `interpolate`."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: QTensor, size: Any = None, scale_factor: Any = None) -> QTensor:
    """`interpolate` with mode "nearest"."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: QTensor, size: Any = None, scale_factor: Any = None) -> QTensor:
    """`interpolate` with mode "bilinear" and `align_corners=True`."""
    return interpolate(input, size, scale_factor, "bilinear", True)


def _with_qparams(
    name: str,
    function: str,
    input: Any,
    scale: float,
    zero_point: int,
    *parameters: float,
) -> QTensor:
    q = _quantized(name, input)
    compute.need_per_tensor(name, q, eight_bit=True)
    out_scale = check_scale(scale, f"{name}: scale")
    out_zero = check_zero_point(zero_point, q._qdtype, f"{name}: zero_point")
    return unary.apply_unary(function, q, out_scale, out_zero, q._qdtype, parameters)


def hardswish(input: QTensor, scale: float, zero_point: int) -> QTensor:
    """`x * min(max(x + 3, 0), 6) / 6`; any shape, 8 bits.

    The result, here and in the functions below, is `quantize(f(dequantize(input)))` with f in
    float64: the same on every CPU, and within one step of torch's. ValueError where `scale` or
    `zero_point` is out of range.
    """
    return _with_qparams("hardswish", "hardswish", input, scale, zero_point)


def elu(input: QTensor, scale: float, zero_point: int, alpha: float = 1.0) -> QTensor:
    """`x` where x > 0, else `alpha * (exp(x) - 1)`; any shape, 8 bits."""
    return _with_qparams("elu", "elu", input, scale, zero_point, float(alpha), 1.0, 1.0)


def celu(input: QTensor, scale: float, zero_point: int, alpha: float = 1.0) -> QTensor:
    """`x` where x > 0, else `alpha * (exp(x / alpha) - 1)`; any shape, 8 bits.

    Raises ValueError where `alpha` is 0.
    """
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0")
    return _with_qparams("celu", "celu", input, scale, zero_point, float(alpha))


def leaky_relu(
    input: QTensor,
    negative_slope: float = 0.01,
    inplace: bool = False,
    scale: float | None = None,
    zero_point: int | None = None,
) -> QTensor:
    """`x` where x > 0, else `negative_slope * x`; any shape, 8 bits.

    With the scale and zero point of the input unless both are given; then `inplace` must be False,
    or ValueError is raised.
    """
    if scale is None and zero_point is None:
        return unary.leaky_relu(_quantized("leaky_relu", input), negative_slope, inplace)
    if scale is None or zero_point is None or inplace:
        raise ValueError(
            "leaky_relu: give both scale and zero_point or neither, and not with inplace=True"
        )
    slope = float(negative_slope)
    return _with_qparams("leaky_relu", "leaky_relu", input, scale, zero_point, slope)


def hardsigmoid(input: QTensor, inplace: bool = False) -> QTensor:
    """`min(max(x + 3, 0), 6) / 6` with scale 1/256, or in place with the input's; 8 bits."""
    return unary.hardsigmoid(_quantized("hardsigmoid", input), inplace)


def threshold(input: QTensor, threshold: float, value: float) -> QTensor:
    """`x` where x > threshold, else `value` rounded to the grid of the input; 8 bits."""
    return unary.threshold(_quantized("threshold", input), threshold, value)


def sigmoid(input: QTensor) -> QTensor:
    """`1 / (1 + exp(-x))` with scale 1/256; any shape, 8 bits."""
    return unary.sigmoid(_quantized("sigmoid", input))


def tanh(input: QTensor) -> QTensor:
    """`tanh(x)` with scale 2/256; any shape, 8 bits."""
    return unary.tanh(_quantized("tanh", input))


def silu(input: QTensor, scale: float, zero_point: int) -> QTensor:
    """`x * sigmoid(x)`; any shape, 8 bits."""
    return _with_qparams("silu", "silu", input, scale, zero_point)


def mish(input: QTensor, scale: float, zero_point: int) -> QTensor:
    """`x * tanh(log(1 + exp(x)))`; any shape, 8 bits."""
    return _with_qparams("mish", "mish", input, scale, zero_point)


def gelu(
    input: QTensor,
    approximate: str = "none",
    scale: float | None = None,
    zero_point: int | None = None,
) -> QTensor:
    """GELU, exact or its approximation by tanh; any shape, 8 bits.

    With the scale and zero point of the input unless both are given.
    """
    if scale is None and zero_point is None:
        return unary.gelu(_quantized("gelu", input), approximate)
    if scale is None or zero_point is None:
        raise ValueError("gelu: give both scale and zero_point or neither")
    return _with_qparams("gelu", unary.gelu_name(approximate), input, scale, zero_point)


def softmax(input: QTensor, dim: int) -> QTensor:
    """Softmax along `dim` with scale 1/256; any shape, 8 bits. IndexError where there is no `dim`.

    `octavo.ops.softmax` says how it is rounded.
    """
    return unary.softmax(_quantized("softmax", input), dim)
