"""Linear with float16 weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn.quantized.modules.base import QuantizedModule, expect
from octavo.nn.quantized.modules.upstream import upstream_of
from octavo.nn.quantized.modules.utils import describe, relabel, source_label
from octavo.tensor import QTensor

__all__ = ["LinearFloat16"]

_BLOCK = 1 << 18  # weights that are float32 at a time: 1 MiB


class LinearFloat16(QuantizedModule):
    """``y = x W^T + b`` with weights rounded to float16, computed in float32.

    It halves the memory of a float32 layer at nearly its accuracy. It does not save time:
    :class:`octavo.nn.quantized.dynamic.Linear` does.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether there is a float32 bias.

    Attributes:
        weight: float16 ``[out_features, in_features]``.
        bias: float32 ``[out_features]``, or None.

    Shape: input ``[*, in_features]`` of any float dtype, output ``[*, out_features]`` of the same.

    Raises:
        TypeError: in ``forward``, for anything but a float tensor.
        RuntimeError: in ``forward``, for a wrong number of features.

    Source: ``torch.ao.nn.quantized.dynamic.Linear`` with ``dtype=torch.float16``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0:
            raise ValueError(
                f"{self._label()}: sizes must be >= 0, got {in_features} and {out_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.weight = torch.zeros(out_features, in_features, dtype=torch.float16)
        self.bias = torch.zeros(out_features) if bias else None

    def _get_name(self) -> str:
        return "DynamicQuantizedLinearFloat16"

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, QTensor) or not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(
                f"{self._label()}: input must be a float tensor, got "
                f"{describe(x)}{upstream_of(self)}"
            )
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(
                f"{self._label()}: the last dimension of the input must have in_features = "
                f"{self.in_features} elements, got shape {tuple(x.shape)}"
            )
        plain = x.detach().float()
        out = torch.empty(*x.shape[:-1], self.out_features)
        step = max(1, _BLOCK // max(1, self.in_features))
        for begin in range(0, self.out_features, step):
            rows = slice(begin, begin + step)
            bias = None if self.bias is None else self.bias[rows]
            out[..., rows] = F.linear(plain, self.weight[rows].float(), bias)
        return out.to(x.dtype)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> LinearFloat16:
        """A module with the weights of a ``torch.nn.Linear``.

        Raises:
            TypeError: wrong kind of module.
            ValueError: weights that float16 cannot hold, or NaN or Inf in the bias.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, nn.Linear):
            raise TypeError(f"{label}: expected a torch.nn.Linear")
        result = cls(mod.in_features, mod.out_features, mod.bias is not None)
        bias = None if mod.bias is None else mod.bias.detach().to("cpu", torch.float32, copy=True)
        try:
            result._take(mod.weight.detach().to("cpu", torch.float16, copy=True), bias)
        except ValueError as error:
            raise relabel(error, label) from error
        return result

    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise ValueError(
                f"{bad} weights are NaN, Inf or larger than float16 can hold (65504); use int8 "
                "weights, or leave the layer float"
            )
        if bias is not None and not bool(torch.isfinite(bias).all()):
            raise ValueError("bias holds NaN or Inf")
        self.weight, self.bias = weight, bias

    def _state_tensors(self) -> dict[str, Tensor]:
        state = {"weight_float16": self.weight.clone()}
        if self.bias is not None:
            state["bias"] = self.bias.clone()
        return state

    def _state_keys(self) -> tuple[str, ...]:
        return ("weight_float16",) if self.bias is None else ("weight_float16", "bias")

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        weight, bias = tensors["weight_float16"], tensors.get("bias")
        expect("weight_float16", weight, (torch.float16,), tuple(self.weight.shape))
        if bias is not None:
            expect("bias", bias, (torch.float32,), (self.out_features,))
            bias = bias.to("cpu", copy=True)
        self._take(weight.to("cpu", copy=True), bias)
