"""Dynamically quantized Linear + ReLU."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo.dtypes import qint8
from octavo.nn.quantized.dynamic.modules.linear import Linear
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["LinearReLU"]


class LinearReLU(Linear):
    """:class:`octavo.nn.quantized.dynamic.Linear` and ReLU in one.

    Source: ``torch.ao.nn.intrinsic.quantized.dynamic.LinearReLU``.
    """

    _relu = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: Any = qint8,
        **activations: bool,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype, **activations)

    def _get_name(self) -> str:
        return "DynamicQuantizedLinearReLU"

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:
            linear, relu = mod[0], mod[1]
            if isinstance(linear, nn.Linear) and isinstance(relu, nn.ReLU):
                return linear
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.LinearReLU, a Linear and a "
            "ReLU"
        )
