"""Transposed convolutions as functions, for :mod:`octavo.nn.quantized.functional`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavo.dtypes import as_qdtype, qint32, quint8
from octavo.nn.quantized.modules.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    _ConvTransposeNd,
)
from octavo.nn.quantized.modules.utils import describe, relabel
from octavo.tensor import QTensor

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _conv_transpose(
    cls: type[_ConvTransposeNd],
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None,
    geometry: tuple[Any, Any, Any, int, Any],
    scale: float,
    zero_point: int,
    dtype: Any,
) -> QTensor:
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
        stride, padding, output_padding, groups, dilation = geometry
        inputs, per_group, *kernel = weight.shape
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._configure_transposed(
            inputs,
            per_group * groups,
            kernel,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            "zeros",
        )
        module._set_output(scale, zero_point, out_dtype)
        module.set_weight_bias(weight, bias)
        return module.forward(input)
    except (TypeError, ValueError, RuntimeError) as error:
        raise relabel(error, f"quantized.functional.conv_transpose{rank}d") from error


def conv_transpose1d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """1-D transposed convolution of ``[N, C, L]`` or ``[C, L]``; otherwise as
    :func:`conv_transpose2d`.
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(ConvTranspose1d, input, weight, bias, geometry, scale, zero_point, dtype)


def conv_transpose2d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """2-D transposed convolution of ``[N, C, H, W]`` or ``[C, H, W]``.

    The weight is packed at each call: a module (:class:`octavo.nn.quantized.ConvTranspose2d`) packs
    it once.

    Args:
        input: quint8 or qint8 with one scale.
        weight: qint8 ``[C, O / groups, kh, kw]``, per tensor or per channel on axis 1.
        bias: float ``[O]``, or None.
        stride, padding, output_padding, groups, dilation: those of
            :func:`torch.nn.functional.conv_transpose2d`.
        scale, zero_point, dtype: of the output; quint8 or qint8.

    Returns:
        ``[N, O, H', W']``, channels last.

    Raises:
        TypeError: input or weight that are not quantized as above.
        ValueError: wrong arguments; NaN or Inf in the bias.
        RuntimeError: as :class:`octavo.nn.quantized.ConvTranspose2d`.

    ``torch.ao.nn.quantized.functional`` has no such function; the arguments are those of
    ``torch.nn.functional.conv_transpose2d``, then those of the output.
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(ConvTranspose2d, input, weight, bias, geometry, scale, zero_point, dtype)


def conv_transpose3d(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    scale: float = 1.0,
    zero_point: int = 0,
    dtype: Any = quint8,
) -> QTensor:
    """3-D transposed convolution of ``[N, C, D, H, W]`` or ``[C, D, H, W]``; otherwise as
    :func:`conv_transpose2d`.
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(ConvTranspose3d, input, weight, bias, geometry, scale, zero_point, dtype)
