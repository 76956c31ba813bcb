"""Fused convolutions of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd as FloatConv

from octavo.nn import intrinsic as nni
from octavo.nn import qat as nnqat
from octavo.nn.intrinsic.qat.modules.batch_norm import (
    WithBatchNorm,
    freeze_bn_stats,
    update_bn_stats,
)
from octavo.nn.qat.modules.base import QATModule
from octavo.nn.qat.modules.conv import conv_arguments

__all__ = [
    "ConvBn1d",
    "ConvBn2d",
    "ConvBn3d",
    "ConvBnHardtanh1d",
    "ConvBnHardtanh2d",
    "ConvBnHardtanh3d",
    "ConvBnReLU1d",
    "ConvBnReLU2d",
    "ConvBnReLU3d",
    "ConvHardtanh1d",
    "ConvHardtanh2d",
    "ConvHardtanh3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "freeze_bn_stats",
    "update_bn_stats",
]


class _ConvBnNd(WithBatchNorm, FloatConv):
    """Convolutions and batch norms with fake-quantized weights."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        freeze_bn: bool = False,
        qconfig: Any = None,
        *,
        device: Any = None,
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
            bool(bias),
            padding_mode,
            device,
        )
        self._set_qconfig(qconfig)
        self._set_batch_norm(out_channels, eps, momentum, freeze_bn, device)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        return conv_arguments(layer)

    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def forward(self, input: Tensor) -> Tensor:
        return self._normalized(input)


class _WithReLU(QATModule):
    """What the forms with a ReLU share."""

    _FUSED: ClassVar[Any]  # the float form without a batch norm

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))

    def to_float(self) -> Any:
        return self._FUSED(self._float_layer(), nn.ReLU()).train(self.training)


class _WithHardtanh(QATModule):
    """What the forms with a Hardtanh or ReLU6 share."""

    _FUSED: ClassVar[Any]  # the float form without a batch norm

    def __init__(
        self, *args: Any, min_val: float = -1.0, max_val: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.min_val, self.max_val = min_val, max_val

    @classmethod
    def _options_of(cls, mod: Any) -> dict[str, Any]:
        limits = {"min_val": mod[-1].min_val, "max_val": mod[-1].max_val}
        return {**super()._options_of(mod), **limits}

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(super().forward(input), self.min_val, self.max_val)

    def to_float(self) -> Any:
        clamp = nn.Hardtanh(self.min_val, self.max_val)
        return self._FUSED(self._float_layer(), clamp).train(self.training)


class ConvBn1d(_ConvBnNd, nn.Conv1d):
    """Conv1d and BatchNorm1d with a fake-quantized weight; as :class:`ConvBn2d`.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBn1d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBn1d
    _LAYER = nn.Conv1d
    _BN = nn.BatchNorm1d


class ConvBn2d(_ConvBnNd, nn.Conv2d):
    """Conv2d and BatchNorm2d with a fake-quantized weight, see
    :mod:`octavo.nn.intrinsic.qat.modules.batch_norm`.

    Args:
        others: those of ``torch.nn.Conv2d``, without a bias by default; ``eps`` and ``momentum``
            of the batch norm.
        freeze_bn: see :meth:`freeze_bn_stats`.
        qconfig: its ``weight()`` makes ``weight_fake_quant``.

    Shape: input ``[N, C, H, W]``, output ``[N, O, H', W']``, float.

    Raises:
        ValueError: a qconfig that is none; in ``forward``, an input that is not 4-D.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBn2d``. Differences: gamma may be 0.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBn2d
    _LAYER = nn.Conv2d
    _BN = nn.BatchNorm2d


class ConvBn3d(_ConvBnNd, nn.Conv3d):
    """Conv3d and BatchNorm3d with a fake-quantized weight; as :class:`ConvBn2d`.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBn3d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBn3d
    _LAYER = nn.Conv3d
    _BN = nn.BatchNorm3d


class ConvBnReLU1d(_WithReLU, ConvBn1d):
    """:class:`ConvBn1d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBnReLU1d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnReLU1d
    _FUSED = nni.ConvReLU1d


class ConvBnReLU2d(_WithReLU, ConvBn2d):
    """:class:`ConvBn2d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBnReLU2d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnReLU2d
    _FUSED = nni.ConvReLU2d


class ConvBnReLU3d(_WithReLU, ConvBn3d):
    """:class:`ConvBn3d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvBnReLU3d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnReLU3d
    _FUSED = nni.ConvReLU3d


class ConvReLU1d(_WithReLU, nnqat.Conv1d):
    """:class:`octavo.nn.qat.Conv1d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvReLU1d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvReLU1d
    _FUSED = nni.ConvReLU1d


class ConvReLU2d(_WithReLU, nnqat.Conv2d):
    """:class:`octavo.nn.qat.Conv2d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvReLU2d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvReLU2d
    _FUSED = nni.ConvReLU2d


class ConvReLU3d(_WithReLU, nnqat.Conv3d):
    """:class:`octavo.nn.qat.Conv3d`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.ConvReLU3d``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvReLU3d
    _FUSED = nni.ConvReLU3d


class ConvHardtanh1d(_WithHardtanh, nnqat.Conv1d):
    """:class:`octavo.nn.qat.Conv1d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvHardtanh1d
    _FUSED = nni.ConvHardtanh1d


class ConvHardtanh2d(_WithHardtanh, nnqat.Conv2d):
    """:class:`octavo.nn.qat.Conv2d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvHardtanh2d
    _FUSED = nni.ConvHardtanh2d


class ConvHardtanh3d(_WithHardtanh, nnqat.Conv3d):
    """:class:`octavo.nn.qat.Conv3d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvHardtanh3d
    _FUSED = nni.ConvHardtanh3d


class ConvBnHardtanh1d(_WithHardtanh, ConvBn1d):
    """:class:`ConvBn1d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnHardtanh1d
    _FUSED = nni.ConvHardtanh1d


class ConvBnHardtanh2d(_WithHardtanh, ConvBn2d):
    """:class:`ConvBn2d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnHardtanh2d
    _FUSED = nni.ConvHardtanh2d


class ConvBnHardtanh3d(_WithHardtanh, ConvBn3d):
    """:class:`ConvBn3d`, then Hardtanh or ReLU6. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.ConvBnHardtanh3d
    _FUSED = nni.ConvHardtanh3d
