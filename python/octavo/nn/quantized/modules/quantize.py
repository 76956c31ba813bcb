"""The borders between float and quantized tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.dtypes import QDType, as_qdtype
from octavo.nn.quantized.modules.base import QuantizedModule, QuantizedOutput
from octavo.nn.quantized.modules.utils import describe, output_qparams, source_label
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["DeQuantize", "Quantize"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Quantize(QuantizedOutput):
    """Quantizes a float32, bfloat16 or float16 tensor of any shape with one scale and zero point;
    what QuantStub becomes.

    Args:
        scale: finite and > 0.
        zero_point: in the range of ``dtype``.
        dtype: ``octavo.quint8``, ``qint8`` or ``qint32`` (or torch's dtypes of these names).
        factory_kwargs: accepted for compatibility; ``device`` must be the CPU.

    ``scale`` and ``zero_point`` read as tensors of shape [1], as in torch, and can be assigned.

    Raises:
        TypeError: in ``forward``, for anything but a tensor of those dtypes.
        ValueError: scale or zero point out of range.

    Source: ``torch.ao.nn.quantized.Quantize``, which takes float32 only.
    """

    _scalar_shape = (1,)

    def __init__(
        self, scale: Any, zero_point: Any, dtype: Any, factory_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        device = (factory_kwargs or {}).get("device")
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(f"Quantize: quantized modules run on the CPU, got device {device}")
        self._set_output(scale, zero_point, as_qdtype(dtype))

    @property
    def dtype(self) -> QDType:
        assert self._out_qdtype is not None
        return self._out_qdtype

    @property
    def scale(self) -> Tensor:
        return torch.tensor([self._scale], dtype=torch.float32)

    @scale.setter
    def scale(self, value: Any) -> None:
        self._set_output(value, self._zero_point, self._out_qdtype)

    @property
    def zero_point(self) -> Tensor:
        return torch.tensor([self._zero_point], dtype=torch.int64)

    @zero_point.setter
    def zero_point(self, value: Any) -> None:
        self._set_output(self._scale, value, self._out_qdtype)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, zero_point={self.zero_point}, dtype={self.dtype}"

    def forward(self, X: Tensor) -> QTensor:
        if is_dynamo_compiling():
            return self._forward(X)
        result: Any = direct.quantize(X, self._scale, self._zero_point, self._out_qdtype)
        return self._forward(X) if result is None else result

    def _forward(self, X: Tensor) -> QTensor:
        """`forward` for what cannot be quantized directly."""
        if isinstance(X, QTensor):
            raise TypeError(
                f"{self._label()}: the input is quantized already, got {describe(X)}; remove this "
                "QuantStub"
            )
        if not isinstance(X, Tensor) or X.dtype not in _FLOATS:
            raise TypeError(
                f"{self._label()}: the input must be a float32, bfloat16 or float16 tensor, got "
                f"{describe(X)}; call .float() first"
            )
        scale, zero_point, qdtype = self._scale, self._zero_point, self.dtype
        x = X if X.dtype == torch.float32 else X.float()
        return QTensor._wrap(ops.quantize(x, scale, zero_point, qdtype), scale, zero_point, qdtype)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Quantize:
        """From a calibrated QuantStub: one with ``activation_post_process``. Raises as
        ``Linear.from_float`` does.
        """
        return cls(*output_qparams(mod, source_label(cls, mod)))


class DeQuantize(QuantizedModule):
    """Turns a quantized tensor into a float one; what DeQuantStub becomes. A float tensor passes as
    it is.

    Args:
        dtype: of the result: float32, bfloat16 or float16.

    Raises:
        TypeError: in ``forward``, for plain integer tensors and other types.
        ValueError: another ``dtype``.

    Source: ``torch.ao.nn.quantized.DeQuantize``, whose results are float32.
    """

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if dtype not in _FLOATS:
            raise ValueError(
                f"DeQuantize: dtype must be torch.float32, bfloat16 or float16, got {dtype}"
            )
        self.dtype = dtype

    def extra_repr(self) -> str:
        return "" if self.dtype is torch.float32 else f"dtype={self.dtype}"

    def forward(self, Xq: Tensor) -> Tensor:
        values: Tensor | None = None if is_dynamo_compiling() else direct.dequantize(Xq)
        if values is not None:
            return values if self.dtype is torch.float32 else values.to(self.dtype)
        if isinstance(Xq, QTensor):
            values = Xq.dequantize()
            return values if self.dtype is torch.float32 else values.to(self.dtype)
        if isinstance(Xq, Tensor) and Xq.is_floating_point():
            return Xq
        raise TypeError(
            f"{self._label()}: the input must be a quantized or a float tensor, got {describe(Xq)}"
        )

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> DeQuantize:
        """With the dtype of what last left the DeQuantStub ``mod``; float32 where nothing did, or
        another dtype.
        """
        dtype = getattr(mod, "_last_dtype", torch.float32)
        return cls(dtype=dtype if dtype in _FLOATS else torch.float32)
