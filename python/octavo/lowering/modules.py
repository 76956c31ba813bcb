"""Modules that only lowered graphs have: operations of two tensors as modules, layers with float
output, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import QDType
from octavo.nn.quantized.modules.base import QuantizedModule, QuantizedOutput, expect
from octavo.nn.quantized.modules.conv_base import ConvModule
from octavo.nn.quantized.modules.conv_transpose_base import ConvTransposeModule
from octavo.nn.quantized.modules.functional_modules import QFunctional
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.ops.shared import shared_weight
from octavo.tensor import QTensor

__all__ = [
    "Add",
    "AddReLU",
    "Cat",
    "FloatConv1d",
    "FloatConv2d",
    "FloatConv3d",
    "FloatConvTranspose1d",
    "FloatConvTranspose2d",
    "FloatConvTranspose3d",
    "FloatLinear",
    "LookupTable",
    "Mul",
    "OfIntegers",
    "Slice",
]


class Add(QFunctional):
    """:meth:`octavo.nn.quantized.QFunctional.add` as the forward of a module."""

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        return self.add(x, y)


class AddReLU(Add):
    """:meth:`octavo.nn.quantized.QFunctional.add_relu` as the forward of a module."""

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        return self.add_relu(x, y)


class Mul(Add):
    """:meth:`octavo.nn.quantized.QFunctional.mul` as the forward of a module."""

    def forward(self, x: QTensor, y: QTensor) -> QTensor:  # type: ignore[override]
        return self.mul(x, y)


class Cat(QFunctional):
    """:meth:`octavo.nn.quantized.QFunctional.cat` as the forward of a module.

    Args:
        dim: along which.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def _get_name(self) -> str:
        return "QuantizedCat"

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {super().extra_repr()}"

    def forward(self, x: Sequence[QTensor]) -> QTensor:  # type: ignore[override]
        return self.cat(x, self.dim)


class FloatLinear(PackedWeightModule):
    """:class:`octavo.nn.quantized.Linear` whose output is float32: the sums are exact integers, and
    nothing is rounded to 8 bits.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether there is a bias.
        relu: whether negative results become zero.

    Shape: input ``[*, in_features]`` quint8 or qint8 with one scale; output float32
    ``[*, out_features]``.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.
        ValueError: in ``forward``, for a wrong number of features.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, relu: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self._relu = in_features, out_features, relu
        self._reset_weight(bias)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    def _pack(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Any:
        return shared_weight(ops.LinearWeight, weight, scales, zero_points, bias)

    def _get_name(self) -> str:
        return "QuantizedFloatLinear"

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, relu={self._relu}"

    def forward(self, input: QTensor) -> Tensor:
        x = self._activation(input)
        try:
            return self._packed.dequantized_output(  # type: ignore[no-any-return]
                x, input._scale, input._zero_point, self._relu
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error


class _FloatConvNd(ConvModule):
    """Convolutions of 1, 2 and 3 spatial dimensions, quantized in, float out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        clamp: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self._configure(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            "zeros",
            None,
            None,
        )
        self.clamp = clamp
        self._reset_weight(bias)

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def extra_repr(self) -> str:
        return self._repr_of_geometry(f"clamp={self.clamp}")

    def forward(self, input: QTensor) -> Tensor:
        x = self._with_border(self._activation(input))
        relu = self.clamp == (0.0, float("inf"))
        clamp = None if relu else self.clamp
        try:
            return self._packed.dequantized_output(  # type: ignore[no-any-return]
                x, input._scale, input._zero_point, relu, clamp
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error


class FloatConv1d(_FloatConvNd):
    """:class:`FloatConv2d` of ``[N, C, L]`` or ``[C, L]``."""

    _RANK = 1


class FloatConv2d(_FloatConvNd):
    """:class:`octavo.nn.quantized.Conv2d` whose output is float32: the sums are exact integers, and
    nothing is rounded to 8 bits.

    Args: those of Conv2d (zero padding only), and
        clamp: bounds of the output; None for none. (0, inf) is ReLU.

    Shape: input ``[N, C, H, W]`` or ``[C, H, W]``, quint8 or qint8 with one scale; output float32
    in channels-last layout.

    Raises, in ``forward``: TypeError for anything but an 8-bit quantized tensor with one scale;
    RuntimeError for a wrong rank or number of channels, or a kernel larger than the padded input.
    """

    _RANK = 2


class FloatConv3d(_FloatConvNd):
    """:class:`FloatConv2d` of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    _RANK = 3


class _FloatConvTransposeNd(ConvTransposeModule):
    """Transposed convolutions, quantized in, float out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
    ) -> None:
        super().__init__()
        self._configure_transposed(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            "zeros",
        )
        self._reset_weight(bias)

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def extra_repr(self) -> str:
        return self._repr_of_geometry(f"output_padding={self.output_padding}")

    def forward(self, input: QTensor) -> Tensor:
        x = self._with_border(self._activation(input))
        try:
            return self._packed.dequantized_output(  # type: ignore[no-any-return]
                x, input._scale, input._zero_point, False, self._output_padding(x, None)
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error


class FloatConvTranspose1d(_FloatConvTransposeNd):
    """:class:`FloatConvTranspose2d` of ``[N, C, L]`` or ``[C, L]``."""

    _RANK = 1


class FloatConvTranspose2d(_FloatConvTransposeNd):
    """:class:`octavo.nn.quantized.ConvTranspose2d` whose output is float32: the sums are exact
    integers, and nothing is rounded to 8 bits. Arguments, shapes and errors are that module's.
    """

    _RANK = 2


class FloatConvTranspose3d(_FloatConvTransposeNd):
    """:class:`FloatConvTranspose2d` of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    _RANK = 3


class LookupTable(QuantizedOutput):
    """An elementwise function of an 8-bit tensor with known qparams, as its 256 results.

    Args:
        table: uint8 [256]: the byte of the result for each byte of the input.
        in_scale, in_zero_point: of the input.
        scale, zero_point, qdtype: of the output.

    Shape: quint8 or qint8 of any shape; the output has its shape and memory format.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.
        ValueError: in ``forward``, where its scale or zero point is not the table's.
    """

    def __init__(
        self,
        table: Tensor,
        in_scale: float,
        in_zero_point: int,
        scale: float,
        zero_point: int,
        qdtype: QDType,
    ) -> None:
        super().__init__()
        self._set_output(scale, zero_point, qdtype)
        expect("table", table, (torch.uint8,), (256,))
        self._table = table.detach().clone()
        self._in = (in_scale, in_zero_point)

    def _get_name(self) -> str:
        return "QuantizedLookupTable"

    def extra_repr(self) -> str:
        return f"scale={self._scale}, zero_point={self._zero_point}"

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        if (input._scale, input._zero_point) != self._in:
            raise ValueError(
                f"{self._label()}: the table is for scale {self._in[0]} and zero point "
                f"{self._in[1]}, got {input._scale} and {input._zero_point}"
            )
        qdtype = self._out_qdtype or input._qdtype
        quick: QTensor | None = (
            None
            if is_dynamo_compiling()
            else direct.lookup(input, self._table, self._scale, self._zero_point, qdtype)
        )
        if quick is not None:
            return quick
        found = self._table[x.contiguous().view(torch.uint8).to(torch.int64)]
        return QTensor._wrap(found.view(qdtype.storage), self._scale, self._zero_point, qdtype)

    def _state_tensors(self) -> dict[str, Tensor]:
        scale, zero_point = self._in
        return {
            "table": self._table.clone(),
            "in_scale": torch.tensor(scale, dtype=torch.float32),
            "in_zero_point": torch.tensor(zero_point, dtype=torch.int64),
            **super()._state_tensors(),
        }

    def _state_keys(self) -> tuple[str, ...]:
        return ("table", "in_scale", "in_zero_point", *super()._state_keys())

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        expect("table", tensors["table"], (torch.uint8,), (256,))
        expect("in_scale", tensors["in_scale"], (torch.float32,), ())
        expect("in_zero_point", tensors["in_zero_point"], (torch.int64,), ())
        super()._load_state_tensors(tensors)
        self._table = tensors["table"].detach().cpu().clone()
        self._in = (float(tensors["in_scale"]), int(tensors["in_zero_point"]))


class OfIntegers(QuantizedModule):
    """The quantized tensor that plain integers stand for: :meth:`octavo.QTensor.from_int_repr`.

    Args:
        scale, zero_point: of the result.

    Raises, in ``forward``: TypeError for anything but a plain uint8 or int8 tensor.
    """

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def extra_repr(self) -> str:
        return f"scale={self.scale}, zero_point={self.zero_point}"

    def forward(self, ints: Tensor) -> QTensor:
        return QTensor.from_int_repr(ints, self.scale, self.zero_point)


class Slice(QuantizedModule):
    """``aten.slice`` of a quantized tensor: elements ``start``, ``start + step``, ... before
    ``end`` of one dimension, with Python's rules for negative and large numbers.

    Args:
        dim: the dimension.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def forward(
        self, q: QTensor, start: int | None = None, end: int | None = None, step: int = 1
    ) -> Any:
        whole = slice(None)
        return q[(whole,) * (self.dim % q.dim()) + (slice(start, end, step),)]
