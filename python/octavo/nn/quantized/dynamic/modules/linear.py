"""Dynamically quantized fully connected layer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import as_qdtype, qint8
from octavo.nn.quantized.dynamic.modules.linear_float16 import LinearFloat16
from octavo.nn.quantized.modules.linear_base import EmptyLinearWeight, LinearModule
from octavo.nn.quantized.modules.upstream import upstream_of
from octavo.nn.quantized.modules.utils import (
    describe,
    dynamic_activations,
    dynamic_weight_observer,
    source_label,
)
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["Linear"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class _EmptyWeight(EmptyLinearWeight):
    """The output is the bias."""

    def dynamic_direct(self, *args: Any) -> None:
        return None

    def dynamic(
        self, x: Tensor, per_tensor: bool, reduce_range: bool, relu: bool, gelu: bool
    ) -> Tensor:
        out = x.new_zeros((*x.shape[:-1], self._shape[0]))
        if self.bias is not None:
            out += self.bias
        out = nn.functional.gelu(out) if gelu else out
        return out.relu() if relu else out


def is_transposed_linear_class(cls: type) -> bool:
    """Whether a class is the ``Conv1D`` of Hugging Face transformers: a Linear (GPT-2's) whose
    weight is ``[in, out]``.
    """
    return any(
        base.__name__ == "Conv1D" and base.__module__.startswith("transformers.")
        for base in cls.__mro__
    )


def _linear_of_transposed(mod: Any) -> nn.Linear:
    inputs, outputs = mod.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(mod.weight.detach().T, requires_grad=False)
    linear.bias = nn.Parameter(mod.bias.detach(), requires_grad=False)
    return linear


class Linear(LinearModule, PackedWeightModule):
    """``y = x W^T + b`` on float tensors: int8 weights; activations are quantized on the way to 8
    bits, each row (token) with a scale and zero point of its own; exact int32 accumulation.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias_: whether there is a float32 bias.
        dtype: of the weight; ``octavo.qint8``.
        per_tensor: one scale for the whole input instead of one for each row.
        reduce_range: 7 bits instead of 8. With ``per_tensor``, what torch does.

    Shape: input ``[*, in_features]``, float32, bfloat16 or float16; output ``[*, out_features]`` of
    the same dtype, without a gradient. Any leading dimensions, any of them may be 0, any strides.

    A row's result does not depend on the other rows of the batch. A row with NaN or infinities in
    it gives NaN; with ``per_tensor``, the whole output does.

    Raises:
        TypeError: in ``forward``, for anything but a float tensor of those dtypes.
        RuntimeError: in ``forward``, for a wrong number of features or a tensor that is not on the
            CPU.
        ValueError: sizes < 0; a weight dtype other than qint8; in_features so large that int32
            could overflow.

    Source: ``torch.ao.nn.quantized.dynamic.Linear``. Differences: torch uses one scale of 7 bits
    for the whole batch, so that an outlier in one row costs all others their accuracy; NaN comes
    out as numbers there; ``weight`` and ``bias`` can be read as attributes too.
    """

    _FLOAT_MODULE: ClassVar[type[nn.Module]] = nn.Linear
    _EMPTY_WEIGHT = _EmptyWeight
    _relu = False
    _gelu = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_: bool = True,
        dtype: Any = qint8,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0:
            raise ValueError(
                f"{self._label()}: sizes must be >= 0, got {in_features} and {out_features}"
            )
        try:
            weight_dtype = as_qdtype(dtype)
        except TypeError:
            weight_dtype = None
        if weight_dtype is not qint8:
            raise ValueError(
                f"{self._label()}: the weight's dtype must be octavo.qint8, got {dtype}; with "
                "float16 weights this is a LinearFloat16"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.per_tensor = bool(per_tensor)
        self.reduce_range = bool(reduce_range)
        self._reset_weight(bias_)

    def _get_name(self) -> str:
        return "DynamicQuantizedLinear"

    def extra_repr(self) -> str:
        per_channel = self._packed.scales.numel() > 1
        activations = "tensor" if self.per_tensor else "row"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"qscheme=torch.per_{'channel' if per_channel else 'tensor'}_affine, "
            f"activations=per_{activations}, bits={7 if self.reduce_range else 8}"
        )

    def forward(self, x: Tensor) -> Tensor:
        if is_dynamo_compiling():
            return self._forward(x)
        result: Tensor | None = self._packed.dynamic_direct(
            x, self.per_tensor, self.reduce_range, self._relu, self._gelu
        )
        return self._forward(x) if result is None else result

    def _forward(self, x: Tensor) -> Tensor:
        """`forward` for what the packed weight does not take directly."""
        if isinstance(x, QTensor) or not isinstance(x, Tensor) or x.dtype not in _FLOATS:
            cure = (
                "Dequantize it first: this module takes floats and quantizes them itself."
                if isinstance(x, QTensor)
                else "Convert it with .float()."
            )
            raise TypeError(
                f"{self._label()}: input must be a float32, bfloat16 or float16 tensor, got "
                f"{describe(x)}{upstream_of(self)}. {cure}"
            )
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(
                f"{self._label()}: the last dimension of the input must have in_features = "
                f"{self.in_features} elements, got shape {tuple(x.shape)}"
            )
        try:
            out: Tensor = self._packed.dynamic(
                x, self.per_tensor, self.reduce_range, self._relu, self._gelu
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return out

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        """The nn.Linear in the float module; TypeError where it is of another kind."""
        if is_transposed_linear_class(type(mod)):
            return _linear_of_transposed(mod)
        if not isinstance(mod, nn.Linear):
            raise TypeError(f"{source_label(cls, mod)}: expected a torch.nn.Linear")
        return mod

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        use_precomputed_fake_quant: bool = False,
        *,
        per_tensor: bool | None = None,
        reduce_range: bool | None = None,
    ) -> Linear | LinearFloat16:
        """A dynamically quantized module with the weights of a float one.

        Args:
            mod: a ``torch.nn.Linear``, or the ``Conv1D`` of Hugging Face transformers. Its
                ``weight_fake_quant`` or ``qconfig.weight()`` quantizes the weight; where it has
                neither, each output channel gets a scale of its own, symmetric, of 8 bits.
                An observer of dtype float16 gives a :class:`LinearFloat16`.
            use_precomputed_fake_quant: take a weight fake-quantize's qparams as they are, without
                showing it the weight again.
            per_tensor, reduce_range: see :class:`Linear`; None is what ``qconfig.activation()``
                says, or False without one.

        Raises:
            TypeError: wrong kind of module; a weight observer of another dtype than qint8.
            ValueError: NaN or Inf in weight or bias.
        """
        label = source_label(cls, mod)
        linear = cls._float_linear(mod)
        observer, seen = dynamic_weight_observer(mod, linear)
        if cls is Linear and getattr(observer, "dtype", None) == torch.float16:
            return LinearFloat16.from_float(linear)
        result = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            **dynamic_activations(mod, linear, per_tensor, reduce_range),
        )
        result._take_weight(linear, observer, label, seen and use_precomputed_fake_quant)
        return result

    def _take_part(self, mod: nn.Module, weight: Tensor, bias: Tensor | None, label: str) -> None:
        """Takes a weight matrix of a float module that has several, quantized as its qconfig
        says."""
        part = nn.Linear(self.in_features, self.out_features, device="meta")
        part.weight = nn.Parameter(weight.detach(), requires_grad=False)
        values = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        part.register_parameter("bias", values)
        observer, _ = dynamic_weight_observer(mod, part)
        self._take_weight(part, observer, label)
