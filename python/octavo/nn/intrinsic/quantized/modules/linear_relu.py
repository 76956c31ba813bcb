"""Quantized Linear + ReLU."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo.dtypes import qint8
from octavo.nn.intrinsic.quantized.modules.linear_function import LinearLeakyReLU, LinearTanh
from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["LinearLeakyReLU", "LinearReLU", "LinearTanh"]  # as torch's module has them


class LinearReLU(Linear):
    """:class:`octavo.nn.quantized.Linear` and ReLU in one: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.LinearReLU``.
    """

    _relu = True

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = qint8
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)

    def _get_name(self) -> str:
        return "QuantizedLinearReLU"

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
            linear, relu = mod[0], mod[1]
            if isinstance(linear, nn.Linear) and isinstance(relu, nn.ReLU):
                return linear
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.LinearReLU, a Linear and a "
            "ReLU"
        )
