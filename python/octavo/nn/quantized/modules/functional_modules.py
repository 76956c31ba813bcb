"""Modules that stand for operations such as add, mul and cat, so that these can be observed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from octavo import ops
from octavo._tensor.qparams import check_scale, check_zero_point
from octavo.dtypes import QDType
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.nn.quantized.modules.scalar import product_qparams, sum_qparams
from octavo.nn.quantized.modules.utils import (
    describe,
    is_calibrated,
    output_qparams,
    source_label,
)
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["FXFloatFunctional", "FloatFunctional", "QFunctional"]


def _no_forward(module: nn.Module) -> NoReturn:
    raise RuntimeError(
        f"{type(module).__name__} has no forward; call one of its methods add, add_scalar, "
        "add_relu, mul, mul_scalar, cat, matmul"
    )


class FXFloatFunctional(nn.Module):
    """The operations of :class:`FloatFunctional` in float32 and without observer.

    Source: ``torch.ao.nn.quantized.FXFloatFunctional``.
    """

    def forward(self, x: Any) -> NoReturn:
        _no_forward(self)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        return torch.add(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.mul(x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        return torch.mul(x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        return torch.cat(list(x), dim=dim)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(torch.add(x, y))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)


class FloatFunctional(FXFloatFunctional):
    """Float operations whose results are observed; ``convert`` turns it into :class:`QFunctional`.

    Use one instance for each place in the model, in place of ``torch.add`` and the like.
    ``prepare`` puts the observer into ``activation_post_process``. ``add_scalar`` and
    ``mul_scalar`` are not observed: their output qparams follow from those of the input.

    Source: ``torch.ao.nn.quantized.FloatFunctional``.
    """

    _scalar_operations = False  # whether one was called; then no observed one need have been

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process: nn.Module = nn.Identity()

    def _adopted(self) -> None:
        """Completes torch.ao's functional, after one has got this class: only scalar operations can
        have been called where its observer saw nothing.
        """
        self._scalar_operations = not is_calibrated(self.activation_post_process)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        self._scalar_operations = True
        return super().add_scalar(x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        self._scalar_operations = True
        return super().mul_scalar(x, y)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._observed(super().add(x, y))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._observed(super().mul(x, y))

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        return self._observed(super().cat(x, dim))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return self._observed(super().add_relu(x, y))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._observed(super().matmul(x, y))

    def _observed(self, x: Tensor) -> Tensor:
        return self.activation_post_process(x)  # type: ignore[no-any-return]


class QFunctional(QuantizedOutput):
    """The operations of :class:`FloatFunctional` on quantized tensors.

    Inputs: 8-bit quantized tensors with one scale each, all of one dtype, which is that of the
    result. ``add``, ``add_relu``, ``mul``, ``cat`` and ``matmul`` give results with the module's
    ``scale`` and ``zero_point``; ``add`` and ``mul`` broadcast. ``add_scalar`` and ``mul_scalar``
    derive the result's qparams from the input's, by torch's rules.

    Raises:
        TypeError: an input that is not an 8-bit quantized tensor with one scale; inputs of
            different dtypes, or of another dtype than calibration found; a scalar that is not a
            number.
        ValueError: a scalar that is NaN, Inf, or so small or large that the output scale leaves
            float32; a ``zero_point`` that the inputs' dtype cannot hold; ``matmul`` so long that
            int32 could overflow.
        RuntimeError: shapes that do not fit.

    Source: ``torch.ao.nn.quantized.QFunctional``.
    """

    _without_scale = False  # made from a FloatFunctional of which only scalar operations were used

    def __init__(self) -> None:
        super().__init__()
        self._set_output(1.0, 0, None)

    def _set_output(self, scale: Any, zero_point: Any, qdtype: QDType | None) -> None:
        super()._set_output(scale, zero_point, qdtype)
        self._without_scale = False

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        without_scale = self._without_scale
        super()._load_state_tensors(tensors)
        self._without_scale = without_scale and self._out_qdtype is None

    def _get_name(self) -> str:
        return "QFunctional"

    def extra_repr(self) -> str:
        return f"scale={self._scale}, zero_point={self._zero_point}"

    def forward(self, x: Any) -> NoReturn:
        _no_forward(self)

    def _output_dtype(self, inputs: Sequence[QTensor]) -> QDType:
        """The dtype of inputs and result, checked."""
        if self._without_scale:
            raise RuntimeError(
                f"{self._label()}: calibration met only add_scalar and mul_scalar here, so there "
                "is no output scale for other operations; calibrate with data that reaches them"
            )
        qdtype = inputs[0]._qdtype
        if any(x._qdtype is not qdtype for x in inputs):
            found = ", ".join(str(x._qdtype) for x in inputs)
            raise TypeError(
                f"{self._label()}: inputs must have one dtype, got {found}; quantize them alike"
            )
        if qdtype is not self._out_qdtype:
            if self._out_qdtype is not None:
                raise TypeError(
                    f"{self._label()}: calibrated for {self._out_qdtype}, but the inputs are "
                    f"{qdtype}"
                )
            check_zero_point(self._zero_point, qdtype, f"{self._label()}: zero_point")
        return qdtype

    def _binary(
        self, direct_kernel: Any, kernel: Any, x: QTensor, y: QTensor, relu: bool
    ) -> QTensor:
        if not self._without_scale and not is_dynamo_compiling():
            result: QTensor | None = direct_kernel(
                x, y, self._scale, self._zero_point, self._out_qdtype, relu
            )
            if result is not None:
                return result
        a, b = self._activation(x, "x"), self._activation(y, "y")
        qdtype = self._output_dtype((x, y))
        scale, zero_point = self._scale, self._zero_point
        try:
            out = kernel(
                a, x._scale, x._zero_point, b, y._scale, y._zero_point, scale, zero_point, relu
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, scale, zero_point, qdtype)

    def add(self, x: QTensor, y: QTensor) -> QTensor:
        return self._binary(direct.add, ops.add, x, y, False)

    def add_relu(self, x: QTensor, y: QTensor) -> QTensor:
        return self._binary(direct.add, ops.add, x, y, True)

    def mul(self, x: QTensor, y: QTensor) -> QTensor:
        return self._binary(direct.mul, ops.mul, x, y, False)

    def cat(self, x: Sequence[QTensor], dim: int = 0) -> QTensor:
        if not self._without_scale and not is_dynamo_compiling():
            result: QTensor | None = direct.cat(
                x, dim, self._scale, self._zero_point, self._out_qdtype
            )
            if result is not None:
                return result
        if not isinstance(x, (list, tuple)) or not x:
            raise TypeError(
                f"{self._label()}: cat takes a list or tuple of at least one tensor, got "
                f"{describe(x)}"
            )
        plain = [self._activation(item, f"x[{i}]") for i, item in enumerate(x)]
        qdtype = self._output_dtype(x)
        try:
            qparams = [(item._scale, item._zero_point) for item in x]
            out = ops.cat(plain, qparams, dim, self._scale, self._zero_point)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, self._scale, self._zero_point, qdtype)

    def matmul(self, x: QTensor, y: QTensor) -> QTensor:
        """Product of two activations, as ``torch.matmul`` shapes it.

        The sums are exact: float64 holds every partial sum of products of 9-bit integers, in any
        order. They are requantized like those of Linear, in float32.
        """
        a, b = self._activation(x, "x"), self._activation(y, "y")
        qdtype = self._output_dtype((x, y))
        if a.dim() and a.shape[-1] * 255 * 255 >= 2**31:
            raise ValueError(
                f"{self._label()}: matmul sums {a.shape[-1]} products, more than int32 is sure to "
                "hold"
            )
        try:
            acc = torch.matmul(a.double() - x._zero_point, b.double() - y._zero_point).float()
        except RuntimeError as error:
            raise self._named(error) from error
        one = torch.tensor
        multiplier = one(x._scale) * one(y._scale) / one(self._scale)
        lo, hi = qdtype.qmin, qdtype.qmax
        steps = (acc * multiplier).clamp(lo - self._zero_point, hi - self._zero_point).round()
        return QTensor._wrap(
            (steps + self._zero_point).to(qdtype.storage), self._scale, self._zero_point, qdtype
        )

    def _scalar(self, y: Any) -> float:
        if isinstance(y, Tensor) and not isinstance(y, QTensor) and y.numel() == 1:
            y = y.item()
        if not isinstance(y, (int, float)):
            raise TypeError(f"{self._label()}: y must be a number, got {describe(y)}")
        if not math.isfinite(y):
            raise ValueError(f"{self._label()}: y must be finite, got {y}")
        return float(y)

    def add_scalar(self, x: QTensor, y: float) -> QTensor:
        """``x + y``. Moves the zero point by ``round(y / scale)``; where that leaves the dtype's
        range, the output range is widened to reach from zero to the farthest value, and the values
        are requantized (at exact ties torch's result may be the next step: it adds the zero point
        before it rounds)."""
        q, c = self._activation(x, "x"), self._scalar(y)
        scale, qdtype = x._scale, x._qdtype
        lo, hi = qdtype.qmin, qdtype.qmax
        self._check_finite(c / scale, c)
        out_scale, out_zero, moved = sum_qparams(scale, x._zero_point, qdtype, c)
        if moved == out_zero:
            return QTensor._wrap(q.clone(), scale, moved, qdtype)
        out_scale = self._derived_scale(out_scale)

        def requantized(ints: Tensor) -> Tensor:
            steps = (ints.double() - float(moved)).float() * torch.tensor(scale / out_scale)
            out = steps.clamp(lo - out_zero, hi - out_zero).round() + out_zero
            return out.to(qdtype.storage)

        if q.numel() > 256 and not is_dynamo_compiling():
            every = torch.arange(256, dtype=torch.uint8).view(qdtype.storage)
            table = requantized(every).view(torch.uint8)
            quick: QTensor | None = direct.lookup(x, table, out_scale, out_zero, qdtype)
            if quick is not None:
                return quick
        return QTensor._wrap(requantized(q), out_scale, out_zero, qdtype)

    def mul_scalar(self, x: QTensor, y: float) -> QTensor:
        """``x * y``. Multiplies the scale by ``|y|``; a negative ``y`` mirrors the values in the
        dtype's range; zero gives zeros with scale 1 and zero point 0."""
        q, c = self._activation(x, "x"), self._scalar(y)
        qdtype = x._qdtype
        scale, zero_point = product_qparams(x._scale, x._zero_point, qdtype, c)
        if c == 0.0:
            return QTensor._wrap(torch.zeros_like(q), scale, zero_point, qdtype)
        # lo + hi - q is the complement of the bits, for uint8 and for int8.
        out = q.clone() if c > 0.0 else q.bitwise_not()
        return QTensor._wrap(out, self._derived_scale(scale), zero_point, qdtype)

    def _check_finite(self, steps: float, y: float) -> None:
        if math.isinf(steps):
            raise ValueError(f"{self._label()}: y is too many steps of the input's scale, got {y}")

    def _derived_scale(self, scale: float) -> float:
        return check_scale(scale, f"{self._label()}: the output scale that y leads to")

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> QFunctional:
        """From an observed :class:`FloatFunctional`. Raises as ``Linear.from_float`` does."""
        if not isinstance(mod, FXFloatFunctional) and type(mod).__name__ != "FloatFunctional":
            raise TypeError(f"{source_label(cls, mod)}: expected a FloatFunctional")
        result = cls()
        observer = getattr(mod, "activation_post_process", None)
        scalar_only = getattr(mod, "_scalar_operations", False)
        if scalar_only and not is_calibrated(observer):
            result._without_scale = True
            return result
        result._set_output(*output_qparams(mod, source_label(cls, mod)))
        return result
