"""Quantized activation functions by look-up in a table of 256 results.

All take quantized tensors of any shape, 8 bits and one scale, and give the module's ``scale`` and
``zero_point``. The result is ``quantize(f(dequantize(x)))``, f in float64: the same on every CPU.
``forward`` raises TypeError for anything but an 8-bit quantized tensor with one scale, and
ValueError where the dtype of the input, which the output takes on in modules that were constructed
directly, cannot hold ``zero_point``.

State dict: ``scale`` float32 [], ``zero_point`` in the dtype of the output's storage (int64 where
it is that of the input).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from octavo import ops
from octavo._tensor.unary import gelu_name, unary_direct
from octavo.dtypes import QDType
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.nn.quantized.modules.utils import output_qparams, source_label
from octavo.ops import direct
from octavo.ops._tracing import tracing
from octavo.tensor import QTensor

__all__ = [
    "ELU",
    "GELU",
    "Hardsigmoid",
    "Hardswish",
    "LeakyReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]


class _Activation(QuantizedOutput, ABC):
    """What follows is the same for all activation functions with output parameters."""

    _FLOAT_MODULE: ClassVar[type[nn.Module]]

    @abstractmethod
    def _compute(self, x: Tensor, input: QTensor, qdtype: QDType) -> Tensor:
        """The integers of the output, from those of the input."""

    def _direct(self, input: QTensor, qdtype: QDType) -> QTensor | None:
        """The result, or None as in :mod:`octavo.ops.direct`."""
        return None

    def _options(self) -> str:
        return ""

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def extra_repr(self) -> str:
        return f"{self._options()}scale={self._scale}, zero_point={self._zero_point}"

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        qdtype = self._out_qdtype or input._qdtype
        try:
            quick = self._direct(input, qdtype)
            if quick is not None:
                return quick
            out = self._compute(x, input, qdtype)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, self._scale, self._zero_point, qdtype)

    @classmethod
    def _of(cls, mod: Any, scale: float, zero_point: int) -> Any:
        """A module with the options of the float one."""
        return cls(scale, zero_point)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """From a calibrated float module: one with ``activation_post_process``.

        Raises:
            TypeError: another kind of module, or an observer of another dtype than quint8 or qint8.
            ValueError: no activation observer.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        scale, zero_point, qdtype = output_qparams(mod, label)
        result = cls._of(mod, scale, zero_point)
        result._set_output(scale, zero_point, qdtype)
        return result


class _Unary(_Activation):
    _function: ClassVar[str]

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self._set_output(scale, zero_point, None)

    def _name_and_parameters(self) -> tuple[str, tuple[float, ...]]:
        return self._function, ()

    def _direct(self, input: QTensor, qdtype: QDType) -> QTensor | None:
        name, parameters = self._name_and_parameters()
        return unary_direct(name, input, self._scale, self._zero_point, qdtype, parameters)

    def _compute(self, x: Tensor, input: QTensor, qdtype: QDType) -> Tensor:
        name, parameters = self._name_and_parameters()
        return ops.unary(
            name,
            x,
            input._scale,
            input._zero_point,
            self._scale,
            self._zero_point,
            qdtype,
            parameters,
        )


def _number(label: str, what: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{label}: {what} must be finite, got {value}")
    return number


class Hardswish(_Unary):
    """``x * min(max(x + 3, 0), 6) / 6``.

    Args:
        scale, zero_point: of the output.
        device, dtype: accepted for compatibility.

    Source: ``torch.ao.nn.quantized.Hardswish``.
    """

    _function = "hardswish"
    _FLOAT_MODULE = nn.Hardswish

    def __init__(
        self, scale: float, zero_point: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(scale, zero_point)


class ELU(_Unary):
    """``x`` where x > 0, else ``alpha * (exp(x) - 1)``.

    Args:
        scale, zero_point: of the output.
        alpha: finite.

    Source: ``torch.ao.nn.quantized.ELU``, which keeps scale and zero point out of its state dict.
    """

    _FLOAT_MODULE = nn.ELU

    def __init__(self, scale: float, zero_point: int, alpha: float = 1.0) -> None:
        super().__init__(scale, zero_point)
        self.alpha = _number(self._label(), "alpha", alpha)

    def _options(self) -> str:
        return f"alpha={self.alpha}, "

    def _name_and_parameters(self) -> tuple[str, tuple[float, ...]]:
        return "elu", (self.alpha, 1.0, 1.0)

    @classmethod
    def _of(cls, mod: Any, scale: float, zero_point: int) -> ELU:
        return cls(scale, zero_point, mod.alpha)


class LeakyReLU(_Unary):
    """``x`` where x > 0, else ``negative_slope * x``.

    Args:
        scale, zero_point: of the output.
        negative_slope: finite.
        inplace: accepted for compatibility; the output has parameters of its own.
        device, dtype: accepted for compatibility.

    Source: ``torch.ao.nn.quantized.LeakyReLU``.
    """

    _FLOAT_MODULE = nn.LeakyReLU

    def __init__(
        self,
        scale: float,
        zero_point: int,
        negative_slope: float = 1e-2,
        inplace: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(scale, zero_point)
        self.negative_slope = _number(self._label(), "negative_slope", negative_slope)
        self.inplace = inplace

    def _options(self) -> str:
        return f"negative_slope={self.negative_slope}, "

    def _name_and_parameters(self) -> tuple[str, tuple[float, ...]]:
        return "leaky_relu", (self.negative_slope,)

    @classmethod
    def _of(cls, mod: Any, scale: float, zero_point: int) -> LeakyReLU:
        return cls(scale, zero_point, mod.negative_slope, mod.inplace)


class _OutputNames(_Activation):
    """Reads the output parameters under the names that torch gives them here."""

    @property
    def output_scale(self) -> float:
        return self._scale

    @property
    def output_zero_point(self) -> int:
        return self._zero_point


class Sigmoid(_Unary, _OutputNames):
    """``1 / (1 + exp(-x))``.

    Args:
        output_scale, output_zero_point: of the output; 1/256 and the lowest integer use all 8 bits.

    Source: ``torch.ao.nn.quantized.Sigmoid``, which keeps them out of its state dict.
    """

    _function = "sigmoid"
    _FLOAT_MODULE = nn.Sigmoid

    def __init__(self, output_scale: float, output_zero_point: int) -> None:
        super().__init__(output_scale, output_zero_point)


class Tanh(_Unary):
    """``tanh(x)``; ``scale`` and ``zero_point`` are those of the output. Octavo's own."""

    _function = "tanh"
    _FLOAT_MODULE = nn.Tanh


class Hardsigmoid(_Unary):
    """``min(max(x + 3, 0), 6) / 6``; ``scale`` and ``zero_point`` are those of the output. Octavo's
    own.
    """

    _function = "hardsigmoid"
    _FLOAT_MODULE = nn.Hardsigmoid


class SiLU(_Unary):
    """``x * sigmoid(x)``; ``scale`` and ``zero_point`` are those of the output. Octavo's own."""

    _function = "silu"
    _FLOAT_MODULE = nn.SiLU


class GELU(_Unary):
    """GELU, exact or its approximation by tanh. Octavo's own.

    Args:
        scale, zero_point: of the output.
        approximate: "none" or "tanh".
    """

    _FLOAT_MODULE = nn.GELU

    def __init__(self, scale: float, zero_point: int, approximate: str = "none") -> None:
        super().__init__(scale, zero_point)
        self.approximate = approximate
        self._name = gelu_name(approximate)

    def _options(self) -> str:
        return f"approximate={self.approximate!r}, "

    def _name_and_parameters(self) -> tuple[str, tuple[float, ...]]:
        return self._name, ()

    @classmethod
    def _of(cls, mod: Any, scale: float, zero_point: int) -> GELU:
        return cls(scale, zero_point, mod.approximate)


class Softmax(_Activation):
    """Softmax along ``dim``; :func:`octavo.ops.softmax` says how it is rounded.

    Args:
        dim: which dimension; it must be given.
        scale, zero_point: of the output; 1/256 and the lowest integer use all 8 bits.

    Raises, besides: ValueError in ``forward`` where ``dim`` is None, IndexError where the input
    lacks it.

    Source: ``torch.ao.nn.quantized.Softmax``, which keeps scale and zero point out of its state
    dict.
    """

    _FLOAT_MODULE = nn.Softmax

    def __init__(self, dim: int | None = None, scale: float = 1.0, zero_point: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self._set_output(scale, zero_point, None)

    def _options(self) -> str:
        return f"dim={self.dim}, "

    def _direct(self, input: QTensor, qdtype: QDType) -> QTensor | None:
        if tracing(input._int):
            return None
        table = ops.softmax_table(input._scale)
        scale, zero_point = self._scale, self._zero_point
        quick: QTensor | None = direct.softmax(input, self.dim, table, scale, zero_point, qdtype)
        return quick

    def _compute(self, x: Tensor, input: QTensor, qdtype: QDType) -> Tensor:
        if self.dim is None:
            raise ValueError("dim must be given")
        return ops.softmax(
            x,
            input._scale,
            input._zero_point,
            self.dim,
            self._scale,
            self._zero_point,
            qdtype,
        )

    @classmethod
    def _of(cls, mod: Any, scale: float, zero_point: int) -> Softmax:
        return cls(mod.dim, scale, zero_point)
