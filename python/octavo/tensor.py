"""QTensor: a tensor of quantized values over plain integer storage.

A QTensor behaves as torch's own quantized tensor does and shares none of its code: the integers are
an ordinary uint8, int8 or int32 tensor. Operations that torch offers for quantized tensors and that
have one exact answer are in the dispatch table (package `_tensor`); every other one raises, so
integers are never taken for values.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from octavo import ops
from octavo._tensor.dispatch import HANDLERS, RECURRENT_LAYERS, refuse
from octavo._tensor.graph import GraphQTensor, QTensorMeta, adopt
from octavo._tensor.qparams import check_channels, check_scale, check_zero_point
from octavo.dtypes import (
    QDType,
    as_qdtype,
    as_qscheme,
    is_per_channel,
    is_symmetric,
    per_channel_affine,
    per_tensor_affine,
    qscheme_name,
)
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling

__all__ = ["QTensor", "dequantize", "quantize_per_channel", "quantize_per_tensor"]

_make_subclass = torch.Tensor._make_subclass


class QTensor(torch.Tensor, metaclass=QTensorMeta):
    """Quantized values: integers with one scale and zero point, or one pair for each index of an
    axis.

    Made by `quantize_per_tensor`, `quantize_per_channel`, `QTensor.from_int_repr` and quantized
    modules; the value of an element is `(integer - zero_point) * scale`.

    Inside Octavo the slots are read directly, which costs no dispatch: `_int` (the plain integer
    tensor), `_qdtype`, `_qscheme` and `_axis`; then `_scale` and `_zero_point` where `_axis` is
    None, else `_scales` (float64) and `_zero_points` (int64), which nobody changes in place.
    """

    __slots__ = (
        "_axis",
        "_int",
        "_qdtype",
        "_qscheme",
        "_scale",
        "_scales",
        "_zero_point",
        "_zero_points",
    )
    _axis: int | None
    _int: torch.Tensor
    _qdtype: QDType
    _qscheme: Any
    _scale: float
    _scales: torch.Tensor
    _zero_point: int
    _zero_points: torch.Tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> QTensor:
        raise TypeError(
            "QTensor is not constructed directly; use octavo.quantize_per_tensor, "
            "octavo.quantize_per_channel or QTensor.from_int_repr"
        )

    @staticmethod
    def _wrap(
        int_tensor: torch.Tensor,
        scale: float,
        zero_point: int,
        qdtype: QDType,
        qscheme: Any = per_tensor_affine,
    ) -> QTensor:
        """A per-tensor QTensor over a plain tensor of `qdtype.storage`. Nothing is checked or
        copied. Integers of a graph that is being recorded get a GraphQTensor."""
        if is_dynamo_compiling() or type(int_tensor) is not torch.Tensor:
            return GraphQTensor(int_tensor, scale, zero_point, qdtype, qscheme)  # type: ignore[return-value]
        q: QTensor = _make_subclass(QTensor, int_tensor)
        q._int = int_tensor
        q._scale = scale
        q._zero_point = zero_point
        q._qdtype = qdtype
        q._qscheme = qscheme
        q._axis = None
        return q

    @staticmethod
    def _wrap_channels(
        int_tensor: torch.Tensor,
        scales: torch.Tensor,
        zero_points: torch.Tensor,
        axis: int,
        qdtype: QDType,
        qscheme: Any = per_channel_affine,
    ) -> QTensor:
        """A per-channel QTensor, as `_wrap` makes them; scales float64, zero points int64."""
        if is_dynamo_compiling() or type(int_tensor) is not torch.Tensor:
            return GraphQTensor(int_tensor, scales, zero_points, qdtype, qscheme, axis)  # type: ignore[return-value]
        q: QTensor = _make_subclass(QTensor, int_tensor)
        q._int = int_tensor
        q._scales = scales
        q._zero_points = zero_points
        q._axis = axis
        q._qdtype = qdtype
        q._qscheme = qscheme
        return q

    def _with_int(self, int_tensor: torch.Tensor) -> QTensor:
        """These quantization parameters over other integers of the same dtype (and axis length)."""
        if int_tensor is self._int:
            return self
        if self._axis is None:
            return QTensor._wrap(
                int_tensor, self._scale, self._zero_point, self._qdtype, self._qscheme
            )
        return QTensor._wrap_channels(
            int_tensor, self._scales, self._zero_points, self._axis, self._qdtype, self._qscheme
        )

    @staticmethod
    def from_int_repr(
        int_tensor: torch.Tensor,
        scale: Any,
        zero_point: Any,
        axis: int | None = None,
        qscheme: Any = None,
    ) -> QTensor:
        """Quantized values over existing integers, which are shared, not copied.

        Args:
            int_tensor: plain uint8 (quint8), int8 (qint8) or int32 (qint32) tensor on the CPU, any
                shape.
            scale, zero_point: one number each, or with `axis` one per channel.
            axis: the channel axis; None for per-tensor parameters.
            qscheme: one of the four schemes or its name; affine by default. A symmetric scheme
                needs zero points of 0 (128 for quint8).

        Raises:
            TypeError: `int_tensor` has another dtype, or a parameter has the wrong type.
            ValueError: a scale, zero point, axis or length that quantize_per_tensor or
                quantize_per_channel would refuse, or a scheme that does not fit.
        """
        if not isinstance(int_tensor, torch.Tensor) or isinstance(int_tensor, QTensor):
            raise TypeError(
                f"int_tensor: expected a plain tensor, got {type(int_tensor).__name__}; a QTensor "
                "gives its integers with int_repr()"
            )
        if int_tensor.dtype not in (torch.uint8, torch.int8, torch.int32):
            raise TypeError(
                "int_tensor: expected torch.uint8, torch.int8 or torch.int32, got "
                f"{int_tensor.dtype}"
            )
        if int_tensor.device.type != "cpu" or int_tensor.layout != torch.strided:
            raise ValueError(
                f"int_tensor: expected a dense CPU tensor, got {int_tensor.layout} on "
                f"{int_tensor.device}"
            )
        qdtype = as_qdtype(int_tensor.dtype)
        if qscheme is None:
            qscheme = per_tensor_affine if axis is None else per_channel_affine
        qscheme = as_qscheme(qscheme)
        if is_per_channel(qscheme) != (axis is not None):
            raise ValueError(f"axis: got {axis} with the scheme {qscheme_name(qscheme)}")
        if axis is None:
            s, z = check_scale(scale), check_zero_point(zero_point, qdtype)
            symmetric = z == (qdtype.qmin + qdtype.qmax + 1) // 2
            q = QTensor._wrap(int_tensor, s, z, qdtype, qscheme)
        else:
            ss, zs, axis = check_channels(scale, zero_point, axis, int_tensor.shape, qdtype)
            symmetric = bool((zs == (qdtype.qmin + qdtype.qmax + 1) // 2).all())
            q = QTensor._wrap_channels(int_tensor, ss, zs, axis, qdtype, qscheme)
        if is_symmetric(qscheme) and not symmetric:
            raise ValueError(
                f"zero_point: {zero_point} does not fit the scheme {qscheme_name(qscheme)}, which "
                f"needs {(qdtype.qmin + qdtype.qmax + 1) // 2} for {qdtype}; use an affine scheme"
            )
        return q

    # Quantization parameters and values

    def int_repr(self) -> torch.Tensor:
        """The stored integers as a plain tensor: a copy, with the same strides where they are
        dense."""
        return self._int.clone()

    def dequantize(self) -> torch.Tensor:
        """The values as a plain float32 tensor of the same shape and memory format."""
        values = None if is_dynamo_compiling() else direct.dequantize(self)
        if values is not None:
            return values
        if self._axis is None:
            return ops.dequantize(self._int, self._scale, self._zero_point)
        return ops.dequantize_per_channel(self._int, self._scales, self._zero_points, self._axis)

    def qscheme(self) -> Any:
        """`octavo.per_tensor_affine` or one of the three other schemes."""
        return self._qscheme

    def q_scale(self) -> float:
        """The scale. Raises RuntimeError for a per-channel tensor."""
        self._need(False, "q_scale", "q_per_channel_scales")
        return self._scale

    def q_zero_point(self) -> int:
        """The zero point. Raises RuntimeError for a per-channel tensor."""
        self._need(False, "q_zero_point", "q_per_channel_zero_points")
        return self._zero_point

    def q_per_channel_scales(self) -> torch.Tensor:
        """The scales, 1-D float64, a copy. Raises RuntimeError for a per-tensor tensor."""
        self._need(True, "q_per_channel_scales", "q_scale")
        return self._scales.clone()

    def q_per_channel_zero_points(self) -> torch.Tensor:
        """The zero points, 1-D int64, a copy. Raises RuntimeError for a per-tensor tensor."""
        self._need(True, "q_per_channel_zero_points", "q_zero_point")
        return self._zero_points.clone()

    def q_per_channel_axis(self) -> int:
        """The channel axis, counted from the front. Raises RuntimeError for a per-tensor tensor."""
        self._need(True, "q_per_channel_axis", "q_scale")
        assert self._axis is not None
        return self._axis

    def _need(self, channels: bool, method: str, other: str) -> None:
        if channels != (self._axis is not None):
            raise RuntimeError(
                f"{method}() of a tensor with the scheme {qscheme_name(self._qscheme)}; use "
                f"{other}()"
            )

    # What torch would answer from the storage, or through the slower dispatch

    @property
    def dtype(self) -> QDType:  # type: ignore[override]
        layer = RECURRENT_LAYERS.get(id(sys._getframe(1).f_code))
        if layer is not None:
            refuse(layer, [self])
        return self._qdtype

    @property
    def is_quantized(self) -> bool:  # type: ignore[override]
        return True

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self._int.shape

    @property
    def ndim(self) -> int:  # type: ignore[override]
        return self._int.dim()

    def size(self, *args: Any, **kwargs: Any) -> Any:
        return self._int.size(*args, **kwargs)

    def dim(self) -> int:
        return self._int.dim()

    def numel(self) -> int:
        return self._int.numel()

    def to(self, *args: Any, **kwargs: Any) -> QTensor:
        """See `octavo._tensor.views.to`. Not left to torch, which knows no `octavo.quint8`."""
        result: QTensor = HANDLERS[torch.Tensor.to](self, *args, **kwargs)
        return result

    def __len__(self) -> int:
        return len(self._int)

    def __iter__(self) -> Iterator[QTensor]:
        if self._int.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return id(self)

    # Copies and files

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        refuse("__array__", [self])

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self._axis is None:
            qparams: tuple[Any, ...] = (self._scale, self._zero_point, None)
        else:
            qparams = (self._scales, self._zero_points, self._axis)
        return _rebuild_qtensor, (self._int, *qparams, qscheme_name(self._qscheme))

    def __copy__(self) -> QTensor:
        return self._with_int(self._int.detach())

    def __deepcopy__(self, memo: dict[int, Any]) -> QTensor:
        if id(self) not in memo:
            memo[id(self)] = self._with_int(copy.deepcopy(self._int, memo))
        result: QTensor = memo[id(self)]
        return result

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        fields = [repr(self.dequantize())[:-1]]
        if "size=" not in fields[0]:
            fields.append(f"size={tuple(self._int.shape)}")
        fields.append(f"dtype={self._qdtype}")
        fields.append(f"quantization_scheme={self._qscheme}")
        if self._axis is None:
            fields += [f"scale={self._scale}", f"zero_point={self._zero_point}"]
        else:
            fields += [f"scale={self._scales}", f"zero_point={self._zero_points}"]
            fields.append(f"axis={self._axis}")
        return _join_fields(fields) + ")"

    # Everything else

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = HANDLERS.get(func)
        if handler is None:
            refuse(func, (args, kwargs))
        if not kwargs:
            return handler(*args)
        if kwargs.get("out") is not None:
            refuse(func, (args, kwargs), "It cannot write into out=; assign its result instead.")
        kwargs.pop("out", None)
        return handler(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Only calls that torch does not offer to __torch_function__ arrive here, such as
        # torch.tensor(q).
        refuse(func, (args, kwargs))


direct.connect(QTensor)
adopt(QTensor)


def _refused_operator(name: str) -> Any:
    """An operator method that refuses by itself: torch would turn the error into NotImplemented."""

    def operator(self: QTensor, *others: Any) -> Any:
        refuse(name, [self, *others])

    operator.__name__ = name
    return operator


_BINARY_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
for _operator in _BINARY_OPERATORS.split():
    for _form in (f"__{_operator}__", f"__r{_operator}__", f"__i{_operator}__"):
        setattr(QTensor, _form, _refused_operator(_form))
for _operator in ("__neg__", "__pos__", "__abs__", "__invert__"):
    setattr(QTensor, _operator, _refused_operator(_operator))


def _join_fields(fields: list[str]) -> str:
    """`fields`, comma-separated, broken before a field that would pass column 80."""
    text = fields[0]
    column = len(text) - text.rfind("\n") - 1
    for field in fields[1:]:
        if column + 2 + len(field) > 79:
            text += ",\n       " + field
            column = 7 + len(field)
        else:
            text += ", " + field
            column += 2 + len(field)
    return text


def _rebuild_qtensor(
    int_tensor: torch.Tensor, scale: Any, zero_point: Any, axis: int | None, qscheme: str
) -> QTensor:
    """What a pickled QTensor calls when it is read."""
    return QTensor.from_int_repr(int_tensor, scale, zero_point, axis, qscheme)


torch.serialization.add_safe_globals([_rebuild_qtensor])


def check_float_input(input: Any, function: str) -> None:
    """Refuse what cannot be quantized.

    Raises:
        TypeError: `input` is not a plain float32 tensor.
        ValueError: it is not a dense tensor on the CPU.
    """
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"{function}: input: expected a tensor, got {type(input).__name__}")
    if isinstance(input, QTensor):
        raise TypeError(
            f"{function}: input: expected torch.float32, got a tensor that is already quantized "
            f"({input._qdtype}); call dequantize() first to quantize it differently"
        )
    if input.dtype != torch.float32:
        raise TypeError(
            f"{function}: input: expected torch.float32, got {input.dtype}; convert it with "
            ".float()"
        )
    if input.device.type != "cpu" or input.layout != torch.strided:
        raise ValueError(
            f"{function}: input: expected a dense CPU tensor, got {input.layout} on "
            f"{input.device}; convert it with .cpu() or .to_dense()"
        )


def quantize_per_tensor(input: Any, scale: Any, zero_point: Any, dtype: Any) -> Any:
    """Quantize float32 values with one scale and zero point.

    `q = clamp(zero_point + round_half_even(x * (1 / scale)))` in float32; infinities saturate and
    NaN becomes the zero point. This is the rounding of `torch.fake_quantize_per_tensor_affine`;
    `torch.quantize_per_tensor`, whose signature this has, adds the zero point before rounding and
    so differs by one at exact ties when the zero point is odd.

    Args:
        input: float32 tensor of any shape and strides, or a list or tuple of them, for which
            `scale` and `zero_point` hold one entry each.
        scale: positive number or one-element tensor.
        zero_point: integer within the range of `dtype`, or one-element tensor.
        dtype: octavo.quint8, octavo.qint8 or octavo.qint32 (or torch's).

    Returns:
        A QTensor of the shape and memory format of `input`; for a list or tuple, a tuple of
        QTensors.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a scale that is not positive and finite in float32 or whose reciprocal is not, a
            zero point out of range, or lists of different lengths.
    """
    quick: Any = None
    if not is_dynamo_compiling():
        quick = direct.quantize(input, scale, zero_point, dtype)
    if quick is not None:
        return quick
    if isinstance(input, (list, tuple)):
        if not len(input) == len(scale) == len(zero_point):
            raise ValueError(
                f"quantize_per_tensor: {len(input)} tensors need as many scales and zero points, "
                f"got {len(scale)} and {len(zero_point)}"
            )
        return tuple(
            quantize_per_tensor(x, s, z, dtype)
            for x, s, z in zip(input, scale, zero_point, strict=True)
        )
    check_float_input(input, "quantize_per_tensor")
    qdtype = as_qdtype(dtype)
    s = check_scale(scale)
    z = check_zero_point(zero_point, qdtype)
    return QTensor._wrap(ops.quantize(input, s, z, qdtype), s, z, qdtype)


def quantize_per_channel(
    input: torch.Tensor, scales: Any, zero_points: Any, axis: int, dtype: Any
) -> QTensor:
    """Quantize float32 values with one scale and zero point for each index of `axis`.

    Rounds as `quantize_per_tensor`. The signature is that of `torch.quantize_per_channel`; a
    negative `axis` counts from the end.

    Args:
        input: float32 tensor of any shape and strides with at least one dimension.
        scales: 1-D tensor (or sequence) of `input.shape[axis]` positive numbers.
        zero_points: 1-D integer tensor (or sequence) of the same length.
        axis: the channel axis.
        dtype: octavo.quint8, octavo.qint8 or octavo.qint32 (or torch's).

    Returns:
        A QTensor of the shape of `input`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: axis out of range, wrong lengths, or a scale or zero point that
            `quantize_per_tensor` would refuse.
    """
    check_float_input(input, "quantize_per_channel")
    qdtype = as_qdtype(dtype)
    ss, zs, axis = check_channels(scales, zero_points, axis, input.shape, qdtype)
    ints = ops.quantize_per_channel(input, ss, zs, axis, qdtype)
    return QTensor._wrap_channels(ints, ss, zs, axis, qdtype)


def dequantize(input: Any) -> Any:
    """The values of a QTensor, or of each QTensor of a list or tuple, as plain float32 tensors.

    A plain floating-point tensor comes back as float32, as with `torch.dequantize`.

    Raises:
        TypeError: `input` is neither; the integers of a plain integer tensor have no scale.
    """
    if isinstance(input, QTensor):
        return input.dequantize()
    if isinstance(input, (list, tuple)):
        return tuple(dequantize(x) for x in input)
    if isinstance(input, torch.Tensor) and input.is_floating_point():
        return input.float()
    got = input.dtype if isinstance(input, torch.Tensor) else type(input).__name__
    raise TypeError(
        f"dequantize: input: expected a QTensor, got {got}; integers become a QTensor with "
        "QTensor.from_int_repr"
    )
