"""Quantized convolution + Hardtanh or ReLU6."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d, _ConvNd
from octavo.nn.quantized.modules.utils import source_label
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["ConvHardtanh1d", "ConvHardtanh2d", "ConvHardtanh3d"]


class _WithHardtanh(_ConvNd):
    """What quantized convolutions with a fused clamp share."""

    def __init__(
        self, *args: Any, min_val: float = -1.0, max_val: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.min_val, self.max_val = float(min_val), float(max_val)
        if not self.min_val <= self.max_val:
            raise ValueError(
                f"{self._label()}: min_val must not exceed max_val, got {min_val} and {max_val}"
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, min_val={self.min_val}, max_val={self.max_val}"

    def forward(self, input: QTensor) -> QTensor:
        clamp = (self.min_val, self.max_val)
        scale, zero_point, qdtype = self._scale, self._zero_point, self._out_qdtype
        if self._border is None and not is_dynamo_compiling():
            result: QTensor | None = self._packed.direct(
                input, scale, zero_point, qdtype, False, None, clamp
            )
            if result is not None:
                return result
        x = self._with_border(self._activation(input))
        qparams = (input._scale, input._zero_point, scale, zero_point, qdtype)
        out = self._run(x, *qparams, False, None, 1.0, 0, clamp)
        return QTensor._wrap(out, scale, zero_point, qdtype)

    @classmethod
    def _float_conv(cls, mod: nn.Module) -> nn.Module:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
            conv, clamp = mod[0], mod[1]
            if isinstance(conv, cls._FLOAT_MODULE) and isinstance(clamp, nn.Hardtanh):
                return conv
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.{cls.__name__}, a "
            f"{cls._FLOAT_MODULE.__name__} and a Hardtanh or ReLU6"
        )

    @classmethod
    def _options_of(cls, mod: Any) -> dict[str, Any]:
        return {"min_val": mod[1].min_val, "max_val": mod[1].max_val}


class ConvHardtanh1d(_WithHardtanh, Conv1d):
    """:class:`ConvHardtanh2d` of 1-D tensors."""


class ConvHardtanh2d(_WithHardtanh, Conv2d):
    """:class:`octavo.nn.quantized.Conv2d` and Hardtanh (ReLU6 is one) in one.

    Args:
        others: those of Conv2d.
        min_val, max_val: real bounds of the output; those of :class:`torch.nn.Hardtanh`.

    The bounds are rounded to the output's grid: the result is that of
    :func:`octavo.nn.quantized.functional.hardtanh` after the convolution.

    Raises, besides what Conv2d raises: ValueError where min_val exceeds max_val or one is NaN.

    ``torch.ao`` has no such form: there ReLU6 is a step of its own, after an output whose scale has
    to reach beyond 6.
    """


class ConvHardtanh3d(_WithHardtanh, Conv3d):
    """:class:`ConvHardtanh2d` of 3-D tensors."""
