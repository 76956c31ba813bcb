"""Functions of a graph as modules: in a prepared model they carry the QConfig, in an int8 model the
scale.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.dtypes import QDType
from octavo.nn.quantized import QFunctional, ScaledDotProductAttention
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.nn.quantized.modules.scalar import rounded
from octavo.nn.quantized.modules.utils import output_qparams, source_label
from octavo.tensor import QTensor

__all__ = [
    "FloatOperation",
    "QAdd",
    "QAddScalar",
    "QAttention",
    "QCat",
    "QConstant",
    "QDivScalar",
    "QMatMul",
    "QMul",
    "QMulScalar",
    "QSubScalar",
    "dequantize_all",
]


class FloatOperation(nn.Module):
    """A call of a function or method on float tensors.

    Args:
        kind: "add", "mul", "matmul", "attention", "cat", "add_scalar", "sub_scalar", "mul_scalar",
            "div_scalar" for what becomes a module, or "call" for what is called on quantized
            tensors as on floats.
        target: the function, or the name of the method.
        relu: whether ReLU follows.

    ``forward`` takes the arguments of the call.
    """

    def __init__(self, kind: str, target: Any, relu: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.target = target
        self.relu = relu
        self.many = False  # whether it gives a tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.target, str):
            result = getattr(args[0], self.target)(*args[1:], **kwargs)
        else:
            result = self.target(*args, **kwargs)
        return torch.relu(result) if self.relu else result

    def extra_repr(self) -> str:
        name = self.target if isinstance(self.target, str) else self.target.__name__
        return f"{name}{', relu' if self.relu else ''}"

    def __getstate__(self) -> dict[str, Any]:
        # Built-in functions of torch._C are pickled by the name of a module that cannot be
        # imported; those of torch and torch.nn.functional are found by name.
        state = self.__dict__.copy()
        if not isinstance(self.target, str):
            state["target"] = _where(self.target)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        target = state["target"]
        if isinstance(target, tuple):
            state = {**state, "target": getattr(_HOMES[target[0]], target[1])}
        super().__setstate__(state)  # type: ignore[no-untyped-call]


_HOMES: dict[str, Any] = {
    "torch": torch,
    "torch.nn.functional": torch.nn.functional,
    "operator": operator,
}


def _where(function: Any) -> Any:
    """Home and name of a function in one of the homes, or the function."""
    for home, module in _HOMES.items():
        name = getattr(function, "__name__", "")
        if getattr(module, name, None) is function:
            return home, name
    return function


class _Operation(QFunctional):
    """An operation of :class:`octavo.nn.quantized.QFunctional` as a module."""

    _relu = False

    def _get_name(self) -> str:
        return type(self).__name__

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """From an observed :class:`FloatOperation`. Raises as ``Linear.from_float`` does."""
        result = cls()
        result._relu = bool(getattr(mod, "relu", False))
        result._set_output(*output_qparams(mod, source_label(cls, mod)))
        return result

    def extra_repr(self) -> str:
        return super().extra_repr() + (", relu" if self._relu else "")


class QAdd(_Operation):
    """``x + y``, with or without ReLU; raises as ``QFunctional.add``."""

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        return self.add_relu(x, y) if self._relu else self.add(x, y)


class QMul(_Operation):
    """``x * y``, with or without ReLU; raises as ``QFunctional.mul``."""

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        product = self.mul(x, y)
        return torch.relu(product) if self._relu else product  # type: ignore[return-value]


class QMatMul(_Operation):
    """``x @ y``; raises as ``QFunctional.matmul``."""

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        return self.matmul(x, y)


class QAttention(ScaledDotProductAttention):
    """``F.scaled_dot_product_attention`` without mask and dropout, called as that is; raises as
    ``ScaledDotProductAttention``.
    """

    def _get_name(self) -> str:
        return type(self).__name__

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """From an observed :class:`FloatOperation`. Raises as ``Linear.from_float`` does."""
        return cls(*output_qparams(mod, source_label(cls, mod))[:2])

    def forward(
        self,
        query: QTensor,
        key: QTensor,
        value: QTensor,
        attn_mask: None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> QTensor:
        return self._attend(query, key, value, scale)


class QCat(_Operation):
    """``torch.cat`` of tensors with different scales; raises as ``QFunctional.cat``."""

    def forward(self, tensors: Any, dim: int = 0) -> QTensor:  # type: ignore[override]
        return self.cat(tensors, dim)


class _ScalarOperation(_Operation):
    """The result's scale follows from the input's. It is rounded to float32, as scales are that
    graphs hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self._without_scale = True

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        return cls()

    def _derived_scale(self, scale: float) -> float:
        return rounded(super()._derived_scale(scale))

    def _state_tensors(self) -> dict[str, Tensor]:
        return {}

    def _state_keys(self) -> tuple[str, ...]:
        return ()

    def extra_repr(self) -> str:
        return ""


class QAddScalar(_ScalarOperation):
    """``x + y`` with a number on either side; raises as ``QFunctional.add_scalar``."""

    def forward(self, x: Any, y: Any) -> QTensor:  # type: ignore[override]
        return self.add_scalar(x, y) if isinstance(x, QTensor) else self.add_scalar(y, x)


class QMulScalar(_ScalarOperation):
    """``x * y`` with a number on either side; raises as ``QFunctional.mul_scalar``."""

    def forward(self, x: Any, y: Any) -> QTensor:  # type: ignore[override]
        return self.mul_scalar(x, y) if isinstance(x, QTensor) else self.mul_scalar(y, x)


class QSubScalar(_ScalarOperation):
    """``x - y`` with a number on either side; raises as ``QFunctional.add_scalar``."""

    def forward(self, x: Any, y: Any) -> QTensor:  # type: ignore[override]
        if isinstance(x, QTensor):
            return self.add_scalar(x, -self._scalar(y))
        return self.add_scalar(self.mul_scalar(y, -1.0), x)


class QDivScalar(_ScalarOperation):
    """``x / y`` by a number, as the product with ``1 / y``; raises as ``QFunctional.mul_scalar``,
    and ValueError for a division by zero.
    """

    def forward(self, x: QTensor, y: float) -> QTensor:  # type: ignore[override]
        divisor = self._scalar(y)
        if divisor == 0.0:
            raise ValueError(f"{self._label()}: division by zero has no quantized result")
        return self.mul_scalar(x, 1.0 / divisor)


class QConstant(QuantizedOutput):
    """A constant of the model, quantized once.

    Args:
        value: float32, of any shape.
        scale, zero_point, dtype: as :class:`octavo.nn.quantized.Quantize` has them.

    Attributes:
        values: the integers, a buffer.

    ``forward`` takes nothing and gives the quantized tensor. Raises TypeError and ValueError for
    qparams as ``Quantize``.
    """

    values: Tensor

    def __init__(self, value: Tensor, scale: float, zero_point: int, dtype: QDType) -> None:
        super().__init__()
        self._set_output(scale, zero_point, dtype)
        ints = ops.quantize(value.detach(), self._scale, self._zero_point, dtype)
        self.register_buffer("values", ints)

    def extra_repr(self) -> str:
        shape = tuple(self.values.shape)
        return f"{shape}, scale={self._scale}, zero_point={self._zero_point}"

    def forward(self) -> QTensor:
        qdtype = self._out_qdtype
        assert qdtype is not None
        return QTensor._wrap(self.values, self._scale, self._zero_point, qdtype)


def dequantize_all(value: Any) -> Any:
    """The values of all quantized tensors in nested tuples and lists."""
    if isinstance(value, QTensor):
        return value.dequantize()
    if isinstance(value, (tuple, list)):
        return type(value)(dequantize_all(part) for part in value)
    return value


QUANTIZED: dict[str, Any] = {
    "add": QAdd,
    "mul": QMul,
    "matmul": QMatMul,
    "attention": QAttention,
    "cat": QCat,
    "add_scalar": QAddScalar,
    "sub_scalar": QSubScalar,
    "mul_scalar": QMulScalar,
    "div_scalar": QDivScalar,
}
