"""Dynamically quantized recurrent cells."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.dtypes import qint8
from octavo.nn.quantized.dynamic.modules.recurrent_base import (
    Part,
    RecurrentWeights,
    check_weight_dtype,
)
from octavo.nn.quantized.modules.recurrent_arguments import check_sizes
from octavo.nn.quantized.modules.utils import describe, source_label

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _Cell(RecurrentWeights):
    """One step of a recurrent layer."""

    _FLOAT_MODULE: ClassVar[type[nn.RNNCellBase]]
    _gates: ClassVar[int]

    input_size: int
    hidden_size: int
    bias: bool
    weight_dtype: Any
    per_tensor: bool
    reduce_range: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dtype: Any = qint8,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        label = self._label()
        check_sizes(label, input_size=input_size, hidden_size=hidden_size)
        check_weight_dtype(label, dtype)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bool(bias)
        self.weight_dtype = dtype
        self.per_tensor, self.reduce_range = bool(per_tensor), bool(reduce_range)
        self._reset_weights()

    def _mode(self) -> str:
        return type(self)._FLOAT_MODULE.__name__.removesuffix("Cell")

    def _parts(self) -> dict[str, Part]:
        rows = self._gates * self.hidden_size
        sizes = {"ih": self.input_size, "hh": self.hidden_size}
        return {
            f"weight_{kind}": Part(rows, size, f"bias_{kind}" if self.bias else None)
            for kind, size in sizes.items()
        }

    def _get_name(self) -> str:
        return f"DynamicQuantized{type(self).__name__}"

    def extra_repr(self) -> str:
        activations = "tensor" if self.per_tensor else "row"
        return (
            f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}, "
            f"activations=per_{activations}, bits={7 if self.reduce_range else 8}"
        )

    def _state(self, state: Any, name: str, x: Tensor) -> Tensor:
        """A new float32 tensor with an initial state of x's form."""
        label = self._label()
        if not isinstance(state, Tensor):
            raise TypeError(f"{label}: {name} must be a tensor, got {describe(state)}")
        if state.dim() not in (1, 2):
            raise ValueError(
                f"{label}: {name} must have 1 or 2 dimensions, got shape {tuple(state.shape)}"
            )
        wanted = (*x.shape[:-1], self.hidden_size)
        if tuple(state.shape) != wanted:
            raise RuntimeError(
                f"{label}: {name} must have shape {wanted} for this input, got {tuple(state.shape)}"
            )
        if state.dtype != x.dtype or not state.is_cpu:
            raise RuntimeError(
                f"{label}: {name} must be a CPU tensor of the input's dtype {x.dtype}, got "
                f"{describe(state)} on {state.device}; convert it with .to(input)"
            )
        plain = state.detach().reshape(-1, self.hidden_size)
        return plain.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def _step(self, x: Any, states: tuple[Any, ...] | None, count: int) -> list[Tensor]:
        """The new states (the first is the output), in the input's form and dtype."""
        data = self._floats(x)
        label = self._label()
        if data.dim() not in (1, 2):
            raise ValueError(
                f"{label}: expected a 1-D (unbatched) or 2-D input, got shape {tuple(data.shape)}"
            )
        if data.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{label}: the last dimension of the input must have input_size = "
                f"{self.input_size} elements, got shape {tuple(data.shape)}"
            )
        rows = data.reshape(-1, self.input_size)
        if states is None:
            size = (rows.shape[0], self.hidden_size)
            new = [torch.zeros(size, device=rows.device) for _ in range(count)]
        else:
            names = ("hx[0]", "hx[1]") if count == 2 else ("hx",)
            new = [self._state(s, n, data) for s, n in zip(states, names, strict=True)]
        try:
            ops.recurrent(
                self._mode(),
                (self._packed["weight_ih"], self._packed["weight_hh"], None),
                rows,
                new[0],
                new[1] if count == 2 else None,
                None,
                steps=1,
                per_tensor=self.per_tensor,
                reduce_range=self.reduce_range,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        shape = (*data.shape[:-1], self.hidden_size)
        return [state.to(data.dtype).view(shape) for state in new]

    @classmethod
    def _arguments(cls, mod: Any) -> dict[str, Any]:
        return {}

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        use_precomputed_fake_quant: bool = False,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> Any:
        """A dynamically quantized module with the weights of a float one; arguments and errors as
        those of :meth:`octavo.nn.quantized.dynamic.LSTM.from_float`."""
        label = source_label(cls, mod)
        if not isinstance(mod, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        result = cls(
            mod.input_size,
            mod.hidden_size,
            mod.bias,
            per_tensor=per_tensor,
            reduce_range=reduce_range,
            **cls._arguments(mod),
        )
        result._take_float(mod, label)
        result.train(mod.training)
        return result


class LSTMCell(_Cell):
    """``torch.nn.LSTMCell`` with int8 weights: one step of
    :class:`octavo.nn.quantized.dynamic.LSTM`, which see for arguments, numerics and errors.

    Shape: input ``(N, input_size)`` or ``(input_size,)``, float32, bfloat16 or float16; ``hx`` is
    ``(h_0, c_0)`` of ``(N, hidden_size)`` or ``(hidden_size,)``, or None for zeros. Returns
    ``(h, c)`` of the input's dtype.

    Source: ``torch.ao.nn.quantized.dynamic.LSTMCell``.
    """

    _FLOAT_MODULE = nn.LSTMCell
    _gates = 4

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"{self._label()}: hx must be a pair (h_0, c_0), got {describe(hx)}")
        h, c = self._step(input, hx, 2)
        return h, c


class GRUCell(_Cell):
    """``torch.nn.GRUCell`` with int8 weights: one step of
    :class:`octavo.nn.quantized.dynamic.GRU`. Input and ``hx`` as :class:`LSTMCell`, with one state;
    returns the new one.

    Source: ``torch.ao.nn.quantized.dynamic.GRUCell``.
    """

    _FLOAT_MODULE = nn.GRUCell
    _gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,), 1)[0]


class RNNCell(_Cell):
    """``torch.nn.RNNCell`` with int8 weights: ``nonlinearity(linear(x, weight_ih, bias_ih) +
    linear(h, weight_hh, bias_hh))``. Input and ``hx`` as :class:`GRUCell`.

    Args:
        nonlinearity: ``"tanh"`` or ``"relu"``; ValueError for others.

    Source: ``torch.ao.nn.quantized.dynamic.RNNCell``.
    """

    _FLOAT_MODULE = nn.RNNCell
    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: Any = qint8,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            bias,
            dtype,
            per_tensor=per_tensor,
            reduce_range=reduce_range,
        )
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"{self._label()}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity

    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"

    @classmethod
    def _arguments(cls, mod: Any) -> dict[str, Any]:
        return {"nonlinearity": mod.nonlinearity}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, nonlinearity={self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,), 1)[0]
