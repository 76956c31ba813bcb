"""Convolutions as functions, for :mod:`octavo.nn.quantized.functional`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavo.dtypes import as_qdtype, qint32, quint8
from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d, _ConvNd
from octavo.nn.quantized.modules.utils import describe, relabel
from octavo.tensor import QTensor

__all__ = ["conv1d", "conv2d", "conv3d"]


def _conv(
    cls: type[_ConvNd],
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None,
    geometry: tuple[Any, Any, Any, int, str],
    scale: float,
    zero_point: int,
    dtype: Any,
) -> QTensor:
    name = cls.__name__.lower()
    rank = cls._RANK
    try:
        if not isinstance(weight, QTensor) or weight.dim() != rank + 2:
            raise TypeError(
                f"weight must be a quantized tensor of {rank + 2} dimensions and dtype "
                f"octavo.qint8, got {describe(weight)}"
            )
        out_dtype = as_qdtype(dtype)
        if out_dtype is qint32:
            raise TypeError(f"dtype must be octavo.quint8 or octavo.qint8, got {dtype}")
        stride, padding, dilation, groups, padding_mode = geometry
        outputs, per_group, *kernel = weight.shape
        conv = cls.__new__(cls)
        nn.Module.__init__(conv)
        conv._configure(
            per_group * groups,
            outputs,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
            None,
            None,
        )
        conv._set_output(scale, zero_point, out_dtype)
        conv.set_weight_bias(weight, bias)
        return conv.forward(input)
    except (TypeError, ValueError, RuntimeError) as error:
        raise relabel(error, f"quantized.functional.{name}") from error


def conv1d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """1-D convolution of ``[N, C, L]`` or ``[C, L]``; otherwise as :func:`conv2d`.

    Source: ``torch.ao.nn.quantized.functional.conv1d``.
    """
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _conv(Conv1d, input, weight, bias, geometry, scale, zero_point, dtype)


def conv2d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """2-D convolution of ``[N, C, H, W]`` or ``[C, H, W]``.

    The weight is packed at each call, which costs about as much as the convolution of a small
    image: a module (:class:`octavo.nn.quantized.Conv2d`) packs it once.

    Args:
        input: quint8 or qint8 with one scale.
        weight: qint8 ``[O, C / groups, kh, kw]``, per tensor or per channel on axis 0.
        bias: float ``[O]``, or None.
        stride, padding, dilation, groups, padding_mode: those of :class:`torch.nn.Conv2d`, string
            paddings and all modes included.
        scale, zero_point, dtype: of the output; quint8 or qint8.

    Returns:
        ``[N, O, H', W']``, channels last.

    Raises:
        TypeError: input or weight that are not quantized as above.
        ValueError: wrong arguments; NaN or Inf in the bias.
        RuntimeError: an input of another rank or number of channels, or smaller than the kernel.

    Source: ``torch.ao.nn.quantized.functional.conv2d``, which takes padding mode zeros and
    batched quint8 input only, and raises NotImplementedError for anything else.
    """
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _conv(Conv2d, input, weight, bias, geometry, scale, zero_point, dtype)


def conv3d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """3-D convolution of ``[N, C, D, H, W]`` or ``[C, D, H, W]``; otherwise as :func:`conv2d`.

    Source: ``torch.ao.nn.quantized.functional.conv3d``.
    """
    geometry = (stride, padding, dilation, groups, padding_mode)
    return _conv(Conv3d, input, weight, bias, geometry, scale, zero_point, dtype)
