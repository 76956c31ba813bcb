"""Dynamically quantized recurrent layers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from octavo import ops
from octavo._elsewhere import elsewhere
from octavo.dtypes import qint8
from octavo.nn.quantized.dynamic.modules.recurrent_base import (
    Part,
    RecurrentWeights,
    check_weight_dtype,
)
from octavo.nn.quantized.modules.recurrent_arguments import check_recurrent_arguments
from octavo.nn.quantized.modules.utils import describe, source_label

__all__ = ["GRU", "LSTM"]


class _Recurrent(RecurrentWeights):
    """LSTM and GRU."""

    _FLOAT_MODULE: ClassVar[type[nn.RNNBase]]
    mode: ClassVar[str]
    _gates: ClassVar[int]

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    dtype: Any
    per_tensor: bool
    reduce_range: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = qint8,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        label = self._label()
        derived = type(self).__init__ is not _Recurrent.__init__  # one more call in between
        check_recurrent_arguments(
            label, input_size, hidden_size, num_layers, dropout, proj_size, 3 if derived else 2
        )
        if proj_size and self.mode != "LSTM":
            raise ValueError(f"{label}: only an LSTM has a projection; proj_size must be 0")
        check_weight_dtype(label, dtype)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first = bool(bias), bool(batch_first)
        self.dropout, self.bidirectional = float(dropout), bool(bidirectional)
        self.proj_size, self.dtype = proj_size, dtype
        self.per_tensor, self.reduce_range = bool(per_tensor), bool(reduce_range)
        self._reset_weights()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _outputs(self) -> int:
        return self.proj_size or self.hidden_size

    def _parts(self) -> dict[str, Part]:
        parts = {}
        rows = self._gates * self.hidden_size
        for layer in range(self.num_layers):
            inputs = self._outputs * self._directions if layer else self.input_size
            for suffix in ("", "_reverse")[: self._directions]:
                end = f"_l{layer}{suffix}"
                for kind, columns in (("ih", inputs), ("hh", self._outputs)):
                    bias = f"bias_{kind}{end}" if self.bias else None
                    parts[f"weight_{kind}{end}"] = Part(rows, columns, bias)
                if self.proj_size:
                    parts[f"weight_hr{end}"] = Part(self.proj_size, self.hidden_size, None)
        return parts

    def _get_name(self) -> str:
        return f"DynamicQuantized{self.mode}"

    def extra_repr(self) -> str:
        defaults: dict[str, Any] = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        changed = [
            f", {name}={getattr(self, name)}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        activations = "tensor" if self.per_tensor else "row"
        return (
            f"{self.input_size}, {self.hidden_size}{''.join(changed)}, "
            f"activations=per_{activations}, bits={7 if self.reduce_range else 8}"
        )

    def flatten_parameters(self) -> None:
        """Does nothing: the weights are packed already. Float modules have it."""

    # Forward.

    @abstractmethod
    def _states(self, hx: Any) -> tuple[Any, ...]:
        """The initial states in ``hx``, given as forward() takes them."""

    def _initial(
        self, hx: Any, x: Tensor, batch: int, unbatched: bool, order: Tensor | None
    ) -> list[Tensor]:
        """New float32 tensors (layers * directions, batch, size) with the initial states."""
        label, count = self._label(), self.num_layers * self._directions
        sizes = [self._outputs, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return [torch.zeros(count, batch, size, device=x.device) for size in sizes]
        result = []
        for index, (state, size) in enumerate(zip(self._states(hx), sizes, strict=True)):
            name = ("h_0", "c_0")[index]
            if not isinstance(state, Tensor):
                raise TypeError(f"{label}: {name} must be a tensor, got {describe(state)}")
            wanted = (count, size) if unbatched else (count, batch, size)
            if tuple(state.shape) != wanted:
                batched = "unbatched" if unbatched else "batched"
                raise RuntimeError(
                    f"{label}: {name} must have shape {wanted} for this {batched} input, got "
                    f"{tuple(state.shape)}"
                )
            if state.dtype != x.dtype or not state.is_cpu:
                raise RuntimeError(
                    f"{label}: {name} must be a CPU tensor of the input's dtype {x.dtype}, got "
                    f"{describe(state)} on {state.device}; convert it with .to(input)"
                )
            plain = state.detach().reshape(count, batch, size)
            if order is not None:
                plain = plain.index_select(1, order)
            result.append(plain.to(torch.float32, copy=True, memory_format=torch.contiguous_format))
        return result

    def _run_layers(
        self, x: Tensor, steps: int, batch_sizes: Tensor | None, states: list[Tensor]
    ) -> Tensor:
        """All layers on rows (rows, input_size), which lie step by step; updates ``states``."""
        outputs, directions = self._outputs, self._directions
        for layer in range(self.num_layers):
            out = torch.empty(x.shape[0], directions * outputs, device=x.device)
            for direction in range(directions):
                end = f"_l{layer}" + ("_reverse" if direction else "")
                index = layer * directions + direction
                ops.recurrent(
                    self.mode,
                    (
                        self._packed["weight_ih" + end],
                        self._packed["weight_hh" + end],
                        self._packed["weight_hr" + end] if self.proj_size else None,
                    ),
                    x,
                    states[0][index],
                    states[1][index] if self.mode == "LSTM" else None,
                    out[:, direction * outputs : (direction + 1) * outputs],
                    steps=steps,
                    batch_sizes=batch_sizes,
                    per_tensor=self.per_tensor,
                    reduce_range=self.reduce_range,
                    reverse=direction == 1,
                )
            x = out.to(x.dtype)
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout)
        return x

    def _forward(self, x: Any, hx: Any) -> tuple[Any, list[Tensor]]:
        """The output and the final states, in the input's form and dtype."""
        packed = isinstance(x, PackedSequence)
        batch_sizes: Any
        batch_sizes, order, restore = (x[1], x[2], x[3]) if packed else (None, None, None)
        data = self._floats(x[0] if packed else x)
        label = self._label()
        if not packed and data.dim() not in (2, 3):
            raise ValueError(
                f"{label}: expected a 2-D (unbatched) or 3-D input, got shape {tuple(data.shape)}"
            )
        if data.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{label}: the last dimension of the input must have input_size = "
                f"{self.input_size} elements, got shape {tuple(data.shape)}"
            )
        unbatched = not packed and data.dim() == 2
        if packed:
            steps = len(batch_sizes)
            batch = int(batch_sizes[0]) if steps else 0
        else:
            data = data.unsqueeze(1) if unbatched else data
            data = data.transpose(0, 1) if self.batch_first and not unbatched else data
            steps, batch = data.shape[0], data.shape[1]
        if steps == 0:
            raise RuntimeError(f"{label}: the sequence must have at least one time step, got none")
        states = self._initial(hx, data, batch, unbatched, order)
        try:
            rows = data.reshape(-1, self.input_size)
            out: Any = self._run_layers(rows, steps, batch_sizes, states)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        finals = [state.to(data.dtype) for state in states]
        if packed:
            if restore is not None:
                finals = [state.index_select(1, restore) for state in finals]
            return PackedSequence(out, batch_sizes, order, restore), finals
        out = out.view(steps, batch, out.shape[-1])
        if unbatched:
            return out.squeeze(1), [state.squeeze(1) for state in finals]
        return (out.transpose(0, 1) if self.batch_first else out), finals

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        use_precomputed_fake_quant: bool = False,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> Any:
        """A dynamically quantized module with the weights of a float one.

        Args:
            mod: the float module of the same name. Observers that its ``qconfig.weight()`` makes
                quantize the weights; without a qconfig, each row (unit of a gate) gets a scale of
                its own, symmetric, of 8 bits.
            use_precomputed_fake_quant: taken for the sake of the other modules; float recurrent
                modules have no weight fake-quantize.
            per_tensor, reduce_range: see the class.

        Raises:
            TypeError: wrong kind of module; a weight observer of another dtype than qint8.
            ValueError: NaN or Inf in a weight or bias.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        arguments: dict[str, Any] = {} if cls.mode != "LSTM" else {"proj_size": mod.proj_size}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout that does nothing: the float module warned
            result = cls(
                mod.input_size,
                mod.hidden_size,
                mod.num_layers,
                mod.bias,
                mod.batch_first,
                mod.dropout,
                mod.bidirectional,
                per_tensor=per_tensor,
                reduce_range=reduce_range,
                **arguments,
            )
        result._take_float(mod, label)
        result.train(mod.training)
        return result


class LSTM(_Recurrent):
    """``torch.nn.LSTM`` with int8 weights; inputs and hidden states are quantized on the way to 8
    bits, each row (a sequence at a time step) with a scale and zero point of its own.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size:
            as ``torch.nn.LSTM`` has them. Dropout acts in training mode only, between layers.
        dtype: of the weights; ``octavo.qint8``.
        per_tensor: one scale for a layer's whole input, and at each step one for the hidden states
            of all sequences, instead of one for each row.
        reduce_range: 7 bits instead of 8. With ``per_tensor``, what torch does.

    Shape: as ``torch.nn.LSTM``: input ``(T, N, input_size)``, ``(N, T, input_size)`` with
    ``batch_first``, ``(T, input_size)`` unbatched, or a ``PackedSequence``, in float32, bfloat16 or
    float16; ``hx`` is ``(h_0, c_0)`` or None for zeros. Returns ``output, (h_n, c_n)`` of the
    input's dtype, without gradients; within a layer, states are float32.

    Numerics, the same bits on every CPU: the gates are ``linear(x, weight_ih, bias_ih) + linear(h,
    weight_hh, bias_hh)``, each what ``octavo.nn.quantized.dynamic.Linear`` computes; ``c = f * c +
    i * g``, ``h = o * tanh(c)`` and, with a projection, ``linear(h, weight_hr)``, in float32 with
    Octavo's own sigmoid (within 1e-7) and tanh (within 4e-7 relative). A sequence's results do not
    depend on the others in the batch; a row with NaN or infinities gives NaN from there on.

    Raises:
        TypeError: in ``forward``, for an input or state that is no float tensor of those dtypes.
        ValueError: in ``forward``, for an input that has not 2 or 3 dimensions; in the constructor,
            for sizes, ``dropout`` and ``proj_size`` out of range, a weight dtype other than qint8.
        RuntimeError: in ``forward``, for a wrong number of features, an empty sequence, states of
            another shape or dtype, a tensor that is not on the CPU.

    Source: ``torch.ao.nn.quantized.dynamic.LSTM``. Differences: torch uses one scale of 7 bits for
    the whole batch; refuses ``bias=False``, ``proj_size`` and unbatched input; its state dict holds
    script objects.
    """

    _FLOAT_MODULE = nn.LSTM
    mode = "LSTM"
    _gates = 4

    def _states(self, hx: Any) -> tuple[Any, ...]:
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise RuntimeError(
                f"{self._label()}: hx must be a pair (h_0, c_0), got {len(hx)} elements"
                if isinstance(hx, (tuple, list))
                else f"{self._label()}: hx must be a pair (h_0, c_0), got {describe(hx)}"
            )
        return tuple(hx)

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        out, (h, c) = self._forward(input, hx)
        return out, (h, c)


class GRU(_Recurrent):
    """``torch.nn.GRU`` with int8 weights; see :class:`LSTM` for arguments (there is no
    ``proj_size``), shapes and errors. ``hx`` is ``h_0``, and the second result ``h_n``.

    Numerics, the same bits on every CPU: ``r`` and ``z`` are the sigmoids of the sums of both
    linear layers' gates, ``n = tanh(n_ih + r * n_hh)``, ``h = (h - n) * z + n``.

    Source: ``torch.ao.nn.quantized.dynamic.GRU``.
    """

    _FLOAT_MODULE = nn.GRU
    mode = "GRU"
    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = qint8,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            dtype,
            per_tensor=per_tensor,
            reduce_range=reduce_range,
        )

    def _states(self, hx: Any) -> tuple[Any, ...]:
        return (hx,)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        out, (h,) = self._forward(input, hx)
        return out, h


RNNBase = _Recurrent
# In torch cells are here; their module imports this one.
__getattr__ = elsewhere(
    __name__,
    "octavo.nn.quantized.dynamic.modules.rnn_cell",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    RNNCellBase="_Cell",
)
