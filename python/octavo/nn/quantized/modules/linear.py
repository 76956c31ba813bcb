"""Quantized fully connected layer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.dtypes import QDType, as_qdtype, qint8, quint8
from octavo.nn.quantized.modules.linear_base import EmptyLinearWeight, LinearModule
from octavo.nn.quantized.modules.utils import observed_float, source_label
from octavo.nn.quantized.modules.weighted import WeightedQuantizedModule
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["Linear"]


class _EmptyWeight(EmptyLinearWeight):
    """Without inputs, the output is the bias: that of a layer with one input, which is zero."""

    def __init__(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(weight, scales, zero_points, bias)
        one_input = torch.zeros((len(weight), 1), dtype=torch.int8)
        self._bias_only = (
            ops.LinearWeight(one_input, scales, zero_points, bias) if len(weight) else None
        )

    def direct(self, *args: Any) -> None:
        return None

    function_direct = direct

    def __call__(self, x: Tensor, x_scale: float, x_zero: int, *output: Any) -> Tensor:
        if self._bias_only is None:
            qdtype: QDType = output[2]
            return torch.empty((*x.shape[:-1], 0), dtype=qdtype.storage)
        return self._bias_only(x.new_zeros((*x.shape[:-1], 1)), x_scale, 0, *output)


class Linear(LinearModule, WeightedQuantizedModule):
    """``y = x W^T + b`` on quantized tensors: int8 weights, exact int32 accumulation.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias_: whether there is a float32 bias.
        dtype: of the weight; ``octavo.qint8``.

    Shape: input ``[*, in_features]``, quint8 or qint8, one scale for the whole tensor; output ``[*,
    out_features]`` with the module's ``scale`` and ``zero_point``, of the activation observer's
    dtype (quint8 unless from_float found another). Any leading dimensions, any of them may be 0,
    any strides.

    A module that was constructed directly has zero weights; see :meth:`from_float`,
    :meth:`set_weight_bias`, ``load_state_dict``.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.
        RuntimeError: in ``forward``, for a wrong number of features.
        ValueError: sizes < 0; a weight dtype other than qint8; in_features so large that int32
            could overflow.

    Source: ``torch.ao.nn.quantized.Linear``. Differences: ``weight`` and ``bias`` can be read as
    attributes too; subclasses of ``nn.Linear`` are accepted by ``from_float``; qint8 inputs and 1-D
    inputs are accepted.
    """

    _FLOAT_MODULE: ClassVar[type[nn.Module]] = nn.Linear
    _EMPTY_WEIGHT = _EmptyWeight

    def __init__(
        self, in_features: int, out_features: int, bias_: bool = True, dtype: Any = qint8
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
                f"{self._label()}: the weight's dtype must be octavo.qint8, got {dtype}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self._set_output(1.0, 0, quint8)
        self._reset_weight(bias_)

    def _get_name(self) -> str:
        return "QuantizedLinear"

    def extra_repr(self) -> str:
        per_channel = self._packed.scales.numel() > 1
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"scale={self._scale}, "
            f"zero_point={self._zero_point}, "
            f"qscheme=torch.per_{'channel' if per_channel else 'tensor'}_affine"
        )

    def forward(self, input: QTensor) -> QTensor:
        if is_dynamo_compiling():
            return self._forward(input)
        result: QTensor | None = self._packed.direct(
            input, self._scale, self._zero_point, self._out_qdtype, self._relu
        )
        return self._forward(input) if result is None else result

    def _forward(self, input: QTensor) -> QTensor:
        """`forward` for what the packed weight does not take directly."""
        x = self._activation(input)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(
                f"{self._label()}: the last dimension of the input must have in_features = "
                f"{self.in_features} elements, "
                f"got shape {tuple(x.shape)}"
            )
        scale, zero_point, qdtype = self._scale, self._zero_point, self._out_qdtype
        out = self._run(x, input._scale, input._zero_point, scale, zero_point, qdtype, self._relu)
        return QTensor._wrap(out, scale, zero_point, qdtype)

    @classmethod
    def _float_linear(cls, mod: nn.Module) -> nn.Linear:
        """The nn.Linear in the float module; TypeError where it is of another kind."""
        if not isinstance(mod, nn.Linear):
            raise TypeError(f"{source_label(cls, mod)}: expected a torch.nn.Linear")
        return mod

    @classmethod
    def _like(cls, mod: Any, linear: Any, bias: bool) -> Linear:
        """A module of the sizes of ``linear`` with the options of ``mod``, which it is a part of,
        or is.
        """
        return cls(linear.in_features, linear.out_features, bias)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Linear:
        """A quantized module with the weights and the observed output range of a float one.

        Args:
            mod: prepared and calibrated: it has ``qconfig`` and ``activation_post_process``. Or the
                form of such a module in quantization-aware training.
            use_precomputed_fake_quant: take a weight fake-quantize's qparams as they are, without
                showing it the weight again.

        Raises:
            TypeError: wrong kind of module; observers of dtypes that are not 8-bit (qint8 for
                weights).
            ValueError: no qconfig or observer; NaN or Inf in weight or bias.
        """
        label = source_label(cls, mod)
        mod = observed_float(mod)
        linear = cls._float_linear(mod)
        result = cls._like(mod, linear, linear.bias is not None)
        result._take_float(linear, mod, label, use_precomputed_fake_quant)
        return result
