"""Quantized transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from octavo.dtypes import quint8
from octavo.nn.quantized.modules.conv import _ConvNd
from octavo.nn.quantized.modules.conv_transpose_base import ConvTransposeModule
from octavo.nn.quantized.modules.weighted import WeightedQuantizedModule
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTransposeNd(ConvTransposeModule, _ConvNd):
    """Static transposed convolutions of 1, 2 and 3 spatial dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        WeightedQuantizedModule.__init__(self)
        self._configure_transposed(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            padding_mode,
            device,
            dtype,
        )
        self._set_output(1.0, 0, quint8)
        self._reset_weight(bias)

    def forward(self, input: QTensor, output_size: Sequence[int] | None = None) -> QTensor:
        if output_size is None and self._pads_output and not is_dynamo_compiling():
            result: QTensor | None = self._packed.direct(
                input, self._scale, self._zero_point, self._out_qdtype, self._relu
            )
            if result is not None:
                return result
        return self._forward(input, output_size)

    def _forward(self, input: QTensor, output_size: Sequence[int] | None = None) -> QTensor:
        x = self._with_border(self._activation(input))
        output_padding = self._output_padding(x, output_size)
        scale, zero_point, qdtype = self._scale, self._zero_point, self._out_qdtype
        out = self._run(
            x,
            input._scale,
            input._zero_point,
            scale,
            zero_point,
            qdtype,
            self._relu,
            output_padding,
        )
        return QTensor._wrap(out, scale, zero_point, qdtype)


class ConvTranspose1d(_ConvTransposeNd):
    """1-D transposed convolution on quantized tensors: as :class:`ConvTranspose2d`, for
    ``[N, C, L]`` or ``[C, L]``.

    Source: ``torch.ao.nn.quantized.ConvTranspose1d``; the differences are those of
    :class:`ConvTranspose2d`.
    """

    _FLOAT_MODULE = nn.ConvTranspose1d
    _RANK = 1


class ConvTranspose2d(_ConvTransposeNd):
    """2-D transposed convolution on quantized tensors: int8 weights, exact int32 accumulation, and
    no products with inserted zeros.

    Args: those of :class:`torch.nn.ConvTranspose2d`. ``device`` must be the CPU, ``dtype`` is that
    of the weight, ``octavo.qint8``.

    Shape: input ``[N, C, H, W]`` or ``[C, H, W]``, quint8 or qint8, one scale for the whole tensor,
    any strides (channels last is what the kernels read); output ``[N, O, H', W']`` in channels-last
    layout with the module's ``scale`` and ``zero_point``, of the activation observer's dtype
    (quint8 unless from_float found another). N may be 0. ``forward`` takes an ``output_size`` as
    the float module does.

    The weight has the shape of the float one, ``[C, O / groups, kh, kw]``, in ``weight``,
    ``set_weight_bias`` and the state dict. Its scales are one for the whole tensor, or per channel
    one for each element of dimension 1, which the groups share; per-channel observers of the
    weight are set to ``ch_axis`` 1.

    A module that was constructed directly has zero weights; see :meth:`from_float`,
    :meth:`set_weight_bias`, ``load_state_dict``.

    Raises:
        TypeError: arguments of the wrong type; in ``forward``, anything but an 8-bit quantized
            tensor with one scale.
        RuntimeError: in ``forward``, for a wrong rank or number of channels, an empty image,
            padding that cuts off all of the output, or output padding that is smaller than neither
            stride nor dilation.
        ValueError: wrong arguments; in ``forward``, an ``output_size`` that is out of reach; so
            many inputs per output that int32 could overflow.

    Wrong arguments are refused when the module is made, as those of
    :class:`octavo.nn.quantized.Conv2d`.

    Source: ``torch.ao.nn.quantized.ConvTranspose2d``. Differences: weights per channel, qint8 and
    unbatched input and ``output_size`` are accepted; results are exact, where torch's engines are
    wrong for some layers (onednn where the number of channels changes, fbgemm for a kernel of 2x2
    with stride 2).
    """

    _FLOAT_MODULE = nn.ConvTranspose2d
    _RANK = 2


class ConvTranspose3d(_ConvTransposeNd):
    """3-D transposed convolution on quantized tensors: as :class:`ConvTranspose2d`, for
    ``[N, C, D, H, W]`` or ``[C, D, H, W]``.

    Source: ``torch.ao.nn.quantized.ConvTranspose3d``; the differences are those of
    :class:`ConvTranspose2d`.
    """

    _FLOAT_MODULE = nn.ConvTranspose3d
    _RANK = 3
