"""Entry points that take and return :class:`octavo.QTensor`, for calls that take microseconds.

Each does what its namesake in :mod:`octavo.ops` does, for plain CPU tensors without gaps in memory,
or returns None without an error: for other tensors, wrong arguments, and while ``torch.jit.trace``
records. The caller then goes the ordinary way, which converts what can be converted and has the
error messages.
"""

from __future__ import annotations

from octavo import _C
from octavo._C import dequantize_direct as dequantize
from octavo._C import quantize_direct as quantize
from octavo.dtypes import per_tensor_affine, qint8, qint32, quint8

__all__ = ["connect", "dequantize", "quantize"]


def connect(qtensor: type) -> None:
    """Tell the extension the class of quantized tensors, so that it can read and make them."""
    _C.connect(qtensor, quint8, qint8, qint32, per_tensor_affine)
