"""Convolutions as functions, for :mod:`octavo.nn.quantized.functional`.

A call makes a module, packs the weight and runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from octavo.dtypes import as_qdtype, qint32, quint8
from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d, _ConvNd
from octavo.nn.quantized.modules.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    _ConvTransposeNd,
)
from octavo.nn.quantized.modules.utils import describe, relabel
from octavo.tensor import QTensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _run(
    name: str,
    cls: type[_ConvNd],
    configure: Callable[[Any, Sequence[int]], None],
    tensors: tuple[QTensor, QTensor, Tensor | None],
    output: tuple[float, int, Any],
) -> QTensor:
    """``tensors``: input, weight, bias. ``configure(module, shape)`` sets a module's attributes for
    a weight of this shape. ``output``: scale, zero point, dtype."""
    input, weight, bias = tensors
    scale, zero_point, dtype = output
    dims = cls._RANK + 2
    try:
        if not isinstance(weight, QTensor) or weight.dim() != dims:
            raise TypeError(
                f"weight must be a quantized tensor of {dims} dimensions and dtype octavo.qint8, "
                f"got {describe(weight)}"
            )
        out_dtype = as_qdtype(dtype)
        if out_dtype is qint32:
            raise TypeError(f"dtype must be octavo.quint8 or octavo.qint8, got {dtype}")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        configure(module, weight.shape)
        module._set_output(scale, zero_point, out_dtype)
        module.set_weight_bias(weight, bias)
        return module.forward(input)
    except (TypeError, ValueError, RuntimeError) as error:
        raise relabel(error, f"quantized.functional.{name}") from error


def _conv(cls: type[_ConvNd], description: str) -> Callable[..., QTensor]:
    name = f"conv{cls._RANK}d"

    def conv(
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
        def configure(module: Any, shape: Sequence[int]) -> None:
            outputs, per_group, *kernel = shape
            geometry = (stride, padding, dilation, groups, padding_mode)
            module._configure(per_group * groups, outputs, kernel, *geometry, None, None)

        return _run(name, cls, configure, (input, weight, bias), (scale, zero_point, dtype))

    conv.__name__ = conv.__qualname__ = name
    conv.__doc__ = description
    return conv


conv1d = _conv(
    Conv1d,
    """1-D convolution of ``[N, C, L]`` or ``[C, L]``; otherwise as :func:`conv2d`.

    Source: ``torch.ao.nn.quantized.functional.conv1d``.
    """,
)
conv2d = _conv(
    Conv2d,
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
        TypeError: input or weight that are not quantized as above; arguments of the wrong type.
        ValueError: wrong arguments (those for which torch raises a RuntimeError are that, too); NaN
            or Inf in the bias.
        RuntimeError: an input of another rank or number of channels, or smaller than the kernel.

    Source: ``torch.ao.nn.quantized.functional.conv2d``, which takes padding mode zeros and
    batched quint8 input only, and raises NotImplementedError for anything else.
    """,
)
conv3d = _conv(
    Conv3d,
    """3-D convolution of ``[N, C, D, H, W]`` or ``[C, D, H, W]``; otherwise as :func:`conv2d`.

    Source: ``torch.ao.nn.quantized.functional.conv3d``.
    """,
)


def _conv_transpose(cls: type[_ConvTransposeNd], description: str) -> Callable[..., QTensor]:
    name = f"conv_transpose{cls._RANK}d"

    def conv_transpose(
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
        def configure(module: Any, shape: Sequence[int]) -> None:
            inputs, per_group, *kernel = shape
            geometry = (stride, padding, output_padding, dilation, groups, "zeros")
            module._configure_transposed(inputs, per_group * groups, kernel, *geometry)

        return _run(name, cls, configure, (input, weight, bias), (scale, zero_point, dtype))

    conv_transpose.__name__ = conv_transpose.__qualname__ = name
    conv_transpose.__doc__ = description
    return conv_transpose


conv_transpose1d = _conv_transpose(
    ConvTranspose1d,
    """1-D transposed convolution of ``[N, C, L]`` or ``[C, L]``; otherwise as
    :func:`conv_transpose2d`.
    """,
)
conv_transpose2d = _conv_transpose(
    ConvTranspose2d,
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
        TypeError, ValueError: as :func:`conv2d`.
        RuntimeError: as :class:`octavo.nn.quantized.ConvTranspose2d`.

    ``torch.ao.nn.quantized.functional`` has no such function; the arguments are those of
    ``torch.nn.functional.conv_transpose2d``, then those of the output.
    """,
)
conv_transpose3d = _conv_transpose(
    ConvTranspose3d,
    """3-D transposed convolution of ``[N, C, D, H, W]`` or ``[C, D, H, W]``; otherwise as
    :func:`conv_transpose2d`.
    """,
)
