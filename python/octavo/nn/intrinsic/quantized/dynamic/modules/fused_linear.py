"""Dynamically quantized Linear with an activation behind it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from octavo.dtypes import qint8
from octavo.nn.quantized.dynamic.modules.linear import Linear
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["LinearGELU", "LinearReLU"]


class _FusedLinear(Linear):
    _ACTIVATION: ClassVar[type[nn.Module]]
    _EXPECTED: ClassVar[str]

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
        return f"DynamicQuantized{type(self).__name__}"

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:
            linear, activation = mod[0], mod[1]
            if isinstance(linear, nn.Linear) and isinstance(activation, cls._ACTIVATION):
                return linear
        raise TypeError(f"{source_label(cls, mod)}: expected {cls._EXPECTED}")


class LinearReLU(_FusedLinear):
    """:class:`octavo.nn.quantized.dynamic.Linear` and ReLU in one.

    Source: ``torch.ao.nn.intrinsic.quantized.dynamic.LinearReLU``.
    """

    _relu = True
    _ACTIVATION = nn.ReLU
    _EXPECTED = "octavo.nn.intrinsic.LinearReLU, a Linear and a ReLU"


class LinearGELU(_FusedLinear):
    """:class:`octavo.nn.quantized.dynamic.Linear` and GELU in one; ``from_float`` takes an
    ``nn.Sequential`` of a Linear and a GELU.

    GELU is ``approximate="none"``, in float32 whatever the input's type, with the same bits on
    every CPU: within 3e-7 of the exact value, relative, where it is positive, and within 1e-6 where
    it is negative. torch.ao has no such module.
    """

    _gelu = True
    _ACTIVATION = nn.GELU
    _EXPECTED = "an nn.Sequential of a Linear and a GELU"

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        linear = super()._float_linear(mod)
        approximate = mod[1].approximate  # type: ignore[index]
        if approximate != "none":
            raise TypeError(
                f"{source_label(cls, mod)}: GELU with approximate={approximate!r} cannot be fused, "
                "only 'none' can; quantize the Linear alone"
            )
        return linear
