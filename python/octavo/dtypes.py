"""Quantized dtypes and schemes.

Octavo stores quantized values as plain integers. A `QDType` names how to read them: it plays the
part of `torch.quint8`, `torch.qint8` and `torch.qint32`, compares equal to them where torch has
them, and needs none of them. The schemes are torch's own enumeration, or an equivalent where torch
lacks it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "QDType",
    "as_qdtype",
    "as_qscheme",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "qint8",
    "qint32",
    "quint4x2",
    "quint8",
]


@dataclass(frozen=True, eq=False, repr=False)
class QDType:
    """A quantized dtype: one of the singletons `quint8`, `qint8`, `qint32` and `quint4x2`.

    Attributes:
        name: "quint8", "qint8", "qint32" or "quint4x2".
        storage: the torch dtype of the stored integers.
        qmin, qmax: range of the stored integers.
        signed: whether the stored integers are signed.
    """

    name: str
    storage: torch.dtype
    qmin: int
    qmax: int
    signed: bool

    @property
    def itemsize(self) -> int:
        return self.storage.itemsize

    @property
    def is_signed(self) -> bool:
        return self.signed

    @property
    def is_floating_point(self) -> bool:
        return False

    @property
    def is_complex(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"octavo.{self.name}"

    def __eq__(self, other: object) -> bool:
        return self is other or (other is not None and other is _torch_dtype(self.name))

    def __hash__(self) -> int:
        # Equal objects hash equally, so `octavo.quint8 in {torch.quint8}` holds.
        dtype = _torch_dtype(self.name)
        return hash(("octavo", self.name)) if dtype is None else hash(dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _qdtype_by_name, (self.name,)


def _torch_dtype(name: str) -> torch.dtype | None:
    return getattr(torch, name, None)


quint8 = QDType("quint8", torch.uint8, 0, 255, False)
"""Unsigned 8 bits, 0..255: activations."""

qint8 = QDType("qint8", torch.int8, -128, 127, True)
"""Signed 8 bits, -128..127: weights."""

qint32 = QDType("qint32", torch.int32, -(2**31), 2**31 - 1, True)
"""Signed 32 bits: sums of products."""

quint4x2 = QDType("quint4x2", torch.uint8, 0, 15, False)
"""Two values of 4 bits per byte: the rows of embedding tables. No QTensor has this dtype, so
`as_qdtype` refuses it; observers and embedding modules know it."""

_TENSOR_DTYPES = (quint8, qint8, qint32)
_BY_NAME = {dtype.name: dtype for dtype in (*_TENSOR_DTYPES, quint4x2)}
_BY_TORCH_DTYPE: dict[torch.dtype, QDType] = {d.storage: d for d in _TENSOR_DTYPES}
for _dtype in _TENSOR_DTYPES:
    _theirs = _torch_dtype(_dtype.name)
    if _theirs is not None:
        _BY_TORCH_DTYPE[_theirs] = _dtype


def _qdtype_by_name(name: str) -> QDType:
    """Unpickle a QDType to its singleton."""
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        raise ValueError(f"dtype: {name!r} is none of {', '.join(_BY_NAME)}") from None


def as_qdtype(dtype: Any, argument: str = "dtype") -> QDType:
    """The QDType that `dtype` stands for.

    Args:
        dtype: a QDType, `torch.quint8`, `torch.qint8` or `torch.qint32`, or the storage dtype
            `torch.uint8`, `torch.int8` or `torch.int32`.
        argument: name of the argument, for the error.

    Raises:
        TypeError: `dtype` is none of these.
    """
    if isinstance(dtype, QDType) and dtype is not quint4x2:
        return dtype
    found = _BY_TORCH_DTYPE.get(dtype) if isinstance(dtype, torch.dtype) else None
    if found is None:
        raise TypeError(
            f"{argument}: {dtype!r} is not a quantized dtype; use octavo.quint8, octavo.qint8 or "
            "octavo.qint32"
        )
    return found


class _Scheme(enum.Enum):
    """Stands in for torch's schemes where torch has none."""

    per_tensor_affine = "per_tensor_affine"
    per_tensor_symmetric = "per_tensor_symmetric"
    per_channel_affine = "per_channel_affine"
    per_channel_symmetric = "per_channel_symmetric"

    def __repr__(self) -> str:
        return f"octavo.{self.name}"

    __str__ = __repr__


per_tensor_affine: Any = getattr(torch, "per_tensor_affine", _Scheme.per_tensor_affine)
"""One scale and one zero point for the tensor."""

per_tensor_symmetric: Any = getattr(torch, "per_tensor_symmetric", _Scheme.per_tensor_symmetric)
"""One scale for the tensor; the zero point is in the middle of the range."""

per_channel_affine: Any = getattr(torch, "per_channel_affine", _Scheme.per_channel_affine)
"""A scale and a zero point for each channel."""

per_channel_symmetric: Any = getattr(torch, "per_channel_symmetric", _Scheme.per_channel_symmetric)
"""A scale for each channel; the zero points are in the middle of the range."""

_SCHEMES: dict[str, Any] = {
    "per_tensor_affine": per_tensor_affine,
    "per_tensor_symmetric": per_tensor_symmetric,
    "per_channel_affine": per_channel_affine,
    "per_channel_symmetric": per_channel_symmetric,
}
_SCHEME_NAMES = {scheme: name for name, scheme in _SCHEMES.items()}


def as_qscheme(scheme: Any, argument: str = "qscheme") -> Any:
    """The scheme that `scheme`, one of the four or its name, stands for.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(scheme, str) and scheme in _SCHEMES:
        return _SCHEMES[scheme]
    try:
        known = scheme in _SCHEME_NAMES
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"{argument}: {scheme!r} is not a scheme; use one of {', '.join(_SCHEMES)}")
    return scheme


def qscheme_name(scheme: Any) -> str:
    """Name of one of the four schemes, for pickling and messages."""
    return _SCHEME_NAMES[scheme]


def is_per_channel(scheme: Any) -> bool:
    """Whether the scheme has one scale per channel."""
    return scheme in (per_channel_affine, per_channel_symmetric)


def is_symmetric(scheme: Any) -> bool:
    """Whether the scheme fixes the zero point in the middle of the range."""
    return scheme in (per_tensor_symmetric, per_channel_symmetric)


# The function is all that a pickled QDType names, so this lets torch.load(weights_only=True) read
# one.
torch.serialization.add_safe_globals([_qdtype_by_name])
