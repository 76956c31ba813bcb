"""Convolutions of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as FloatConv

from octavo.nn.qat.modules.base import QATModule

__all__ = ["Conv1d", "Conv2d", "Conv3d", "conv_arguments"]

_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


def conv_arguments(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in _ARGUMENTS} | {"bias": layer.bias is not None}


class _ConvNd(QATModule, FloatConv):
    """Convolutions with a fake-quantized weight."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        qconfig: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        self._LAYER.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self._set_qconfig(qconfig)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        return conv_arguments(layer)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight_fake_quant(self.weight), self.bias)


class Conv1d(_ConvNd, nn.Conv1d):
    """:class:`torch.nn.Conv1d` with a fake-quantized weight; as :class:`Conv2d`.

    Source: ``torch.ao.nn.qat.Conv1d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.Conv1d
    _LAYER = nn.Conv1d


class Conv2d(_ConvNd, nn.Conv2d):
    """:class:`torch.nn.Conv2d` with a fake-quantized weight.

    Args: those of ``torch.nn.Conv2d``, and
        qconfig: its ``weight()`` makes ``weight_fake_quant``.

    Shape: that of ``torch.nn.Conv2d``.

    Raises:
        ValueError: a qconfig that is none.

    Source: ``torch.ao.nn.qat.Conv2d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.Conv2d
    _LAYER = nn.Conv2d


class Conv3d(_ConvNd, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a fake-quantized weight; as :class:`Conv2d`.

    Source: ``torch.ao.nn.qat.Conv3d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.Conv3d
    _LAYER = nn.Conv3d
