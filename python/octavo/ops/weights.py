"""Packed weights of linear layers, and what they share with those of convolutions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from octavo import _C
from octavo.dtypes import QDType, qint8
from octavo.ops._common import (
    EIGHT_BIT,
    FLOAT_TYPE,
    OUT_FLOAT,
    OUT_KIND,
    Tensor,
    check_cpu,
    check_storage,
)
from octavo.ops._tracing import PlainForm, record, tracing

FUNCTION_CODE = {"leaky_relu": 0, "tanh": 1}  # FloatFunction of csrc/ops/linear_function.h


def _expand(name: str, values: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """One value for each channel, as a contiguous CPU tensor."""
    values = values.detach().reshape(-1).to("cpu", dtype)
    if values.numel() == 1:
        values = values.expand(channels)
    if values.numel() != channels:
        raise ValueError(
            f"{name}: expected 1 value or one for each of the {channels} output channels, got "
            f"{values.numel()}"
        )
    return values.contiguous()


def _check_weight(weight: Tensor, dims: str, rank: int) -> Tensor:
    if weight.dtype != torch.int8:
        raise TypeError(f"weight: expected an int8 tensor, got {weight.dtype}")
    check_cpu("weight", weight)
    if weight.dim() != rank or weight.numel() == 0:
        raise ValueError(
            f"weight: expected a non-empty {dims} tensor, got shape {tuple(weight.shape)}"
        )
    return weight


def _bias_address(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.data_ptr()


def _out_kind(dtype: QDType) -> int:
    kind = OUT_KIND.get(dtype.name)
    if kind is None:
        raise TypeError(f"out_dtype: expected quint8 or qint8, got {dtype}")
    return kind


class _Weight(PlainForm):
    """Qparams and bias that both kinds of weight keep, as plain tensors.

    ``direct(x, out_scale, out_zero, out_dtype, relu)`` (for convolutions also ``add`` and
    ``clamp``) takes and returns a :class:`octavo.QTensor` and does the same as a call, in a
    fraction of the time; or it returns None, and the call tells why or does it.
    """

    direct: Callable[..., Any]

    def __init__(
        self, channels: int, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.scales = scales.detach().reshape(-1).to("cpu", torch.float32).contiguous()
        self.zero_points = zero_points.detach().reshape(-1).to("cpu", torch.int64).contiguous()
        self.bias = None if bias is None else _expand("bias", bias, channels, torch.float32)
        if bias is not None and bias.numel() != channels:
            raise ValueError(f"bias: expected {channels} values, got {bias.numel()}")
        # The addresses below are read while the extension copies them.
        self._scales = _expand("weight scale", self.scales, channels, torch.float32)
        self._zero_points = _expand("weight zero_point", self.zero_points, channels, torch.int32)

    @abstractmethod
    def unpack(self) -> Tensor:
        """The plain int8 weight."""

    def _make_plain(self) -> Tensor:
        return self.unpack()

    def _arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Weight, scales, zero points and bias as plain tensors: what operators of a graph take."""
        return self.plain(), self.scales, self.zero_points, self.bias


class LinearWeight(_Weight):
    """Weight of a quantized linear layer, packed for the CPU it runs on; immutable and safe to
    share by threads.

    Args:
        weight: int8 (out_features, in_features).
        scales, zero_points: 1-D, of length 1 (per tensor) or out_features (per channel); zero
            points in -128..127.
        bias: float32 (out_features,), or None.

    Raises:
        TypeError: weight is not int8.
        ValueError: shapes, scales that are not positive and finite, zero points out of range, a
            bias that is not finite, more than 65,793 input features.
    """

    def __init__(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        weight = _check_weight(weight, "(out_features, in_features)", 2).contiguous()
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        super().__init__(self.out_features, scales, zero_points, bias)
        self._packed = _C.LinearWeight(
            weight.data_ptr(),
            self.out_features,
            self.in_features,
            self._scales.data_ptr(),
            self._zero_points.data_ptr(),
            _bias_address(self.bias),
        )
        self.direct = self._packed.run_direct
        self.function_direct = self._packed.run_function_direct
        self.dynamic_direct = self._packed.run_dynamic_direct
        del self._scales, self._zero_points

    @property
    def packed_bytes(self) -> int:
        """Memory that the packed weight takes."""
        return self._packed.packed_bytes()

    def unpack(self) -> Tensor:
        """The plain int8 (out_features, in_features) weight."""
        weight = torch.empty((self.out_features, self.in_features), dtype=torch.int8)
        self._packed.unpack(weight.data_ptr())
        return weight

    def _rows(self, x: Tensor) -> Tensor:
        check_storage("input", x, EIGHT_BIT)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"input: expected shape (..., {self.in_features}), got {tuple(x.shape)}"
            )
        return x if x.is_contiguous() else x.contiguous()

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        out_scale: float,
        out_zero: int,
        out_dtype: QDType,
        relu: bool = False,
        function: str | None = None,
        slope: float = 0.0,
    ) -> Tensor:
        """``requantize(x @ weight.T + bias)``, clamped at the zero point from below where ``relu``;
        or, with a function f, ``quantize(f(x @ weight.T + bias))``, f of float32 values.

        Args:
            x: uint8 or int8 (..., in_features).
            out_dtype: quint8 or qint8.
            function: ``leaky_relu`` (x where x > 0, else x * slope) or ``tanh`` (within 4e-7,
                relative, the same bits on every CPU); not together with ``relu``.

        Returns:
            Storage of shape (..., out_features).

        Raises:
            TypeError: dtype of x or out_dtype.
            ValueError: feature count, qparams out of range; another function, a slope that is not
                finite.
        """
        if tracing(x):
            output = (out_scale, out_zero, out_dtype.storage, relu, function, slope)
            return record("linear", x, x_scale, x_zero, *self._arguments(), *output)
        x = self._rows(x)
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=out_dtype.storage)
        if function is not None:
            if function not in FUNCTION_CODE or relu:
                raise ValueError(
                    f"function: expected one of {sorted(FUNCTION_CODE)} without relu, got "
                    f"{function!r} and relu={relu}"
                )
            kind = (FUNCTION_CODE[function], slope, _out_kind(out_dtype) == OUT_KIND[qint8.name])
            self._run_function(x, x_scale, x_zero, *kind, out_scale, out_zero, out)
            return out
        self._run(x, x_scale, x_zero, _out_kind(out_dtype), out_scale, out_zero, relu, out)
        return out

    def dequantized_output(
        self, x: Tensor, x_scale: float, x_zero: int, relu: bool = False
    ) -> Tensor:
        """The same without requantization: float32 (..., out_features)."""
        if tracing(x):
            return record("linear_float", x, x_scale, x_zero, *self._arguments(), relu)
        x = self._rows(x)
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.float32)
        self._run(x, x_scale, x_zero, OUT_FLOAT, 1.0, 0, relu, out)
        return out

    def dynamic(
        self,
        x: Tensor,
        per_tensor: bool = False,
        reduce_range: bool = False,
        relu: bool = False,
        gelu: bool = False,
    ) -> Tensor:
        """``x @ weight.T + bias`` on floats: x is quantized on the way to unsigned integers of 8
        bits (7 with ``reduce_range``), each row with a scale and zero point of its own, or with
        ``per_tensor`` all with one.

        A row (with ``per_tensor``: an x) that holds NaN or infinities gives NaN in all of its
        outputs, and changes no other row's. ``dynamic_direct`` with the same five arguments does
        the same in a fraction of the time, or returns None where it does not take x as it is.

        Args:
            x: float32, bfloat16 or float16 (..., in_features).
            gelu: GELU in its exact form (``approximate="none"``), fused, in float32; the same bits
                on every CPU, as close to the true value as torch.

        Returns:
            (..., out_features) in x's dtype. It carries no gradient.

        Raises:
            TypeError: dtype of x.
            ValueError: feature count.
        """
        if tracing(x):
            how = (per_tensor, reduce_range, relu, gelu)
            return record("linear_dynamic", x, *self._arguments(), *how)
        if x.dtype not in FLOAT_TYPE:
            raise TypeError(f"input: expected a float32, bfloat16 or float16 tensor, got {x.dtype}")
        check_cpu("input", x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"input: expected shape (..., {self.in_features}), got {tuple(x.shape)}"
            )
        x = x.detach().resolve_neg().contiguous()
        k = self.in_features
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        self._packed.run_dynamic(
            x.data_ptr(),
            FLOAT_TYPE[x.dtype],
            x.numel() // k,
            k,
            k,
            per_tensor,
            reduce_range,
            relu,
            gelu,
            out.data_ptr(),
        )
        return out

    def _run(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        kind: int,
        out_scale: float,
        out_zero: int,
        relu: bool,
        out: Tensor,
    ) -> None:
        k = self.in_features
        self._packed.run(
            x.data_ptr(),
            x.numel() // k,
            k,
            k,
            x.dtype == torch.int8,
            x_scale,
            x_zero,
            kind,
            out_scale,
            out_zero,
            relu,
            out.data_ptr(),
        )

    def _run_function(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        function: int,
        slope: float,
        out_signed: bool,
        out_scale: float,
        out_zero: int,
        out: Tensor,
    ) -> None:
        k = self.in_features
        self._packed.run_function(
            x.data_ptr(),
            x.numel() // k,
            k,
            k,
            x.dtype == torch.int8,
            x_scale,
            x_zero,
            function,
            slope,
            out_signed,
            out_scale,
            out_zero,
            out.data_ptr(),
        )
