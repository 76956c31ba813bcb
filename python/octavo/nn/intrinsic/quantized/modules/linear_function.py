"""Quantized Linear with an activation function that is no clamp: LeakyReLU, Tanh.

The function is taken of the layer's float32 results, which are rounded to 8 bits once. There is no
8-bit tensor in between, whose scale would have to span the function's argument.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from octavo.dtypes import qint8
from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.utils import source_label
from octavo.ops._tracing import is_dynamo_compiling
from octavo.ops.weights import FUNCTION_CODE
from octavo.tensor import QTensor

__all__ = ["LinearLeakyReLU", "LinearTanh"]


class _WithFunction(Linear):
    _FUNCTION: ClassVar[str]
    _ACTIVATION: ClassVar[type[nn.Module]]

    def _parameter(self) -> float:
        """The function's, where it has one."""
        return 0.0

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def forward(self, input: QTensor) -> QTensor:
        if is_dynamo_compiling():
            return self._forward(input)
        result: QTensor | None = self._packed.function_direct(
            input,
            self._scale,
            self._zero_point,
            self._out_qdtype,
            False,
            FUNCTION_CODE[self._FUNCTION],
            self._parameter(),
        )
        return self._forward(input) if result is None else result

    def _run(self, x: Tensor, *args: Any) -> Tensor:
        return super()._run(x, *args, self._FUNCTION, self._parameter())

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
            linear, function = mod[0], mod[1]
            if isinstance(linear, nn.Linear) and isinstance(function, cls._ACTIVATION):
                return linear
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.{cls.__name__}, a Linear and "
            f"a {cls._ACTIVATION.__name__}"
        )


class LinearLeakyReLU(_WithFunction):
    """:class:`octavo.nn.quantized.Linear` and LeakyReLU in one: ``y`` where y > 0, else
    ``negative_slope * y``, of float32 values, rounded to 8 bits once.

    Args:
        others: those of Linear.
        negative_slope: finite.

    Raises, besides what Linear raises: ValueError where ``negative_slope`` is not finite.

    Source: ``torch.ao.nn.intrinsic.quantized.LinearLeakyReLU``, which runs on one engine only.
    """

    _FUNCTION = "leaky_relu"
    _ACTIVATION = nn.LeakyReLU

    def __init__(
        self,
        in_features: int,
        out_features: int,
        negative_slope: float,
        bias: bool = True,
        dtype: Any = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.negative_slope = float(negative_slope)
        if not math.isfinite(self.negative_slope):
            raise ValueError(
                f"{self._label()}: negative_slope must be finite, got {negative_slope}"
            )

    def _parameter(self) -> float:
        return self.negative_slope

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, negative_slope={self.negative_slope}"

    @classmethod
    def _like(cls, mod: Any, linear: Any, bias: bool) -> Linear:
        slope = mod.negative_slope if hasattr(mod, "negative_slope") else mod[1].negative_slope
        return cls(linear.in_features, linear.out_features, slope, bias)


class LinearTanh(_WithFunction):
    """:class:`octavo.nn.quantized.Linear` and Tanh in one: tanh of float32 values (within 4e-7,
    relative, and the same bits on every CPU), rounded to 8 bits once.

    Source: ``torch.ao.nn.intrinsic.quantized.LinearTanh``, which runs on one engine only.
    """

    _FUNCTION = "tanh"
    _ACTIVATION = nn.Tanh

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = qint8
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
