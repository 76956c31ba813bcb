"""Dynamically quantized transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from octavo.nn.quantized.dynamic.modules.conv import _ConvNd
from octavo.nn.quantized.modules.conv_transpose_base import ConvTransposeModule
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.ops._tracing import is_dynamo_compiling

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTransposeNd(ConvTransposeModule, _ConvNd):
    """Dynamic transposed convolutions of 1, 2 and 3 spatial dimensions."""

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
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        PackedWeightModule.__init__(self)
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
        self.per_tensor = bool(per_tensor)
        self.reduce_range = bool(reduce_range)
        self._reset_weight(bias)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if output_size is None and self._pads_output and not is_dynamo_compiling():
            result: Tensor | None = self._packed.dynamic_direct(
                x, self.per_tensor, self.reduce_range, self._relu
            )
            if result is not None:
                return result
        return self._forward(x, output_size)

    def _forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        image = self._with_border(self._floats(x))
        return self._run_dynamic(image, self._output_padding(image, output_size))


class ConvTranspose1d(_ConvTransposeNd):
    """1-D transposed convolution of float tensors: as :class:`ConvTranspose2d`, for ``[N, C, L]``
    or ``[C, L]``.

    Source: ``torch.ao.nn.quantized.dynamic.ConvTranspose1d``; the differences are those of
    :class:`ConvTranspose2d`.
    """

    _FLOAT_MODULE = nn.ConvTranspose1d
    _RANK = 1


class ConvTranspose2d(_ConvTransposeNd):
    """2-D transposed convolution of float tensors: int8 weights; activations are quantized on the
    way to 8 bits, each image with a scale of its own, as in
    :class:`octavo.nn.quantized.dynamic.Conv2d`.

    Args: those of :class:`torch.nn.ConvTranspose2d`; ``device``, ``dtype``, ``per_tensor`` and
        ``reduce_range`` as there.

    Shape, memory, accuracy and what it raises in ``forward``: as there; ``forward`` takes an
    ``output_size`` as the float module does. Weights as in
    :class:`octavo.nn.quantized.ConvTranspose2d`; ``from_float`` without a qconfig quantizes them
    per channel.

    Source: ``torch.ao.nn.quantized.dynamic.ConvTranspose2d``. Differences: those of
    :class:`octavo.nn.quantized.dynamic.Conv2d`, and weights per channel.
    """

    _FLOAT_MODULE = nn.ConvTranspose2d
    _RANK = 2


class ConvTranspose3d(_ConvTransposeNd):
    """3-D transposed convolution of float tensors: as :class:`ConvTranspose2d`, for
    ``[N, C, D, H, W]`` or ``[C, D, H, W]``.

    Source: ``torch.ao.nn.quantized.dynamic.ConvTranspose3d``; the differences are those of
    :class:`ConvTranspose2d`.
    """

    _FLOAT_MODULE = nn.ConvTranspose3d
    _RANK = 3
