"""An LSTM of parts that can be observed and quantized one by one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from octavo.nn.quantizable.modules.lstm_cell import LSTMCell, State, check_plain_parameters
from octavo.nn.quantized.modules.functional_modules import FloatFunctional, QFunctional
from octavo.nn.quantized.modules.recurrent_arguments import check_recurrent_arguments
from octavo.nn.quantized.modules.utils import source_label
from octavo.tensor import QTensor

__all__ = ["LSTM", "LSTMCell"]


class _LSTMSingleLayer(nn.Module):
    """One layer in one direction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cell = LSTMCell(*args, **kwargs)

    @classmethod
    def from_params(cls, *args: Any, **kwargs: Any) -> Any:
        cell = LSTMCell.from_params(*args, **kwargs)
        result = cls(1, 1, device="meta")
        result.cell = cell
        return result

    def forward(
        self,
        x: Tensor,
        hidden: State | None = None,
        batch_sizes: Sequence[int] | None = None,
        reverse: bool = False,
    ) -> tuple[Tensor, State]:
        """All steps.

        Args:
            x: ``[T, N, input]``; or with ``batch_sizes`` ``[rows, input]``, the steps one after the
                other, which then have these numbers of rows, never more than the one before.
            hidden: states ``[N, hidden]``; zeros by default.
            reverse: from the last step to the first.

        Returns:
            Outputs, shaped as ``x``, and the final states.
        """
        sizes = [x.shape[1]] * x.shape[0] if batch_sizes is None else batch_sizes
        first = self.cell._initial((sizes[0],), x) if hidden is None else hidden
        order = range(len(sizes))
        gates = self._gates_of_steps(x, batch_sizes)
        outputs: list[Any] = [None] * len(sizes)
        ended: list[State] = []
        hx, cx = (state[: sizes[-1]] if reverse else state for state in first)
        for step in reversed(order) if reverse else order:
            rows, now = hx.shape[0], sizes[step]
            if now < rows:  # some sequences have ended
                ended.append((hx[now:], cx[now:]))
                hx, cx = hx[:now], cx[:now]
            elif now > rows:  # from the end: some begin
                hx, cx = (torch.cat([a, b[rows:now]]) for a, b in zip((hx, cx), first, strict=True))
            hx, cx = self.cell._step(gates[step], hx, cx)
            outputs[step] = hx
        if ended:
            parts = [(hx, cx), *reversed(ended)]
            hx, cx = (torch.cat([part[i] for part in parts]) for i in range(2))
        joined = torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)
        return joined, (hx, cx)

    def _gates_of_steps(self, x: Tensor, batch_sizes: Sequence[int] | None) -> Any:
        """The input's part of the gates, by step.

        Int8 layers give the same for all steps at once as one by one; observers do not, where they
        average over calls.
        """

        def steps_of(whole: Tensor) -> Iterable[Tensor]:
            if batch_sizes is None:
                return whole.unbind(0)
            return torch.split(whole, list(batch_sizes))

        if isinstance(x, QTensor):
            return list(zip(*map(steps_of, self.cell._input_gates(x)), strict=True))
        return [self.cell._input_gates(step) for step in steps_of(x)]


class _LSTMLayer(nn.Module):
    """One layer in one or both directions."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        bias: bool = True,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        split_gates: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()

        def one_way() -> _LSTMSingleLayer:
            return _LSTMSingleLayer(
                input_dim,
                hidden_dim,
                bias,
                device,
                dtype,
                split_gates=split_gates,
                proj_size=proj_size,
            )

        self.bidirectional = bidirectional
        self.layer_fw = one_way()
        if bidirectional:
            self.layer_bw = one_way()
            self.output_cat = FloatFunctional()

    def forward(
        self, x: Tensor, hidden: Sequence[State | None], batch_sizes: Sequence[int] | None
    ) -> tuple[Tensor, list[State]]:
        """Outputs and, for each direction, final states; ``hidden`` has one entry for each too."""
        forward, final = self.layer_fw(x, hidden[0], batch_sizes)
        if not self.bidirectional:
            return forward, [final]
        backward, final_bw = self.layer_bw(x, hidden[1], batch_sizes, reverse=True)
        joined = self.output_cat.cat([forward, backward], forward.dim() - 1)
        return joined, [final, final_bw]

    @classmethod
    def from_float(cls, other: Any, layer_idx: int, split_gates: bool, label: str) -> Any:
        """One layer of a :class:`torch.nn.LSTM`."""
        result = cls(1, 1, True, other.bidirectional, "meta")
        for direction in ("fw", "bw") if other.bidirectional else ("fw",):
            end = f"_l{layer_idx}{'_reverse' if direction == 'bw' else ''}"
            names = [kind + end for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            check_plain_parameters(other, [*names, "weight_hr" + end], label)
            made = _LSTMSingleLayer.from_params(
                *(getattr(other, name, None) for name in names),
                split_gates=split_gates,
                whr=getattr(other, "weight_hr" + end, None),
            )
            setattr(result, f"layer_{direction}", made)
        return result


def _joined_as(source: Any) -> Any:
    """A functional with the observer, or the scale, of another."""
    if isinstance(source, QFunctional):
        return copy.deepcopy(source)
    result = FloatFunctional()
    for name in ("activation_post_process", "qconfig"):
        if hasattr(source, name):
            setattr(result, name, getattr(source, name))
    return result


class LSTM(nn.Module):
    """:class:`torch.nn.LSTM` of :class:`LSTMCell` parts, each of which sees every step, so that it
    can be observed, trained with rounding, and quantized statically.

    Args:
        others: those of ``torch.nn.LSTM``. Dropout acts in training mode only.
        split_gates: see :class:`LSTMCell`.

    Attributes:
        layers: one for each layer, with ``layer_fw.cell`` and, if bidirectional, ``layer_bw.cell``
            and ``output_cat``.
        hidden_cat, cell_cat: what joins the final states of all layers and directions, if there
            are several.

    Shape: that of ``torch.nn.LSTM``, without a batch and as a ``PackedSequence`` too, whose data
        may be a quantized tensor. Quantized inputs go with quantized states.

    Raises:
        ValueError: in the constructor, sizes that are not positive, ``dropout`` outside [0, 1],
            ``proj_size`` not below ``hidden_size``.
        RuntimeError: in ``forward``, wrong shapes.
        TypeError: in the constructor, sizes that are no ints; in ``forward``, float states for a
            quantized input, or the other way round.

    Source: ``torch.ao.nn.quantizable.LSTM``. Differences: both directions, and the final states of
    several layers, are joined by observed functionals; torch joins quantized ones with the scale
    of the first, which clips the others. ``dropout``, ``proj_size``, packed sequences and inputs
    without a batch work.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        split_gates: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        check_recurrent_arguments(
            type(self).__name__, input_size, hidden_size, num_layers, dropout, proj_size, 2
        )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        directions = 2 if bidirectional else 1
        inputs = [input_size] + [(proj_size or hidden_size) * directions] * (num_layers - 1)
        self.layers = nn.ModuleList(
            _LSTMLayer(
                size,
                hidden_size,
                bias,
                bidirectional,
                device,
                dtype,
                split_gates=split_gates,
                proj_size=proj_size,
            )
            for size in inputs
        )
        if directions * num_layers > 1:
            self.hidden_cat, self.cell_cat = FloatFunctional(), FloatFunctional()
        self._finish_parts()

    def _finish_parts(self) -> None:
        """For the quantized form, which replaces them."""

    def _get_name(self) -> str:
        return "QuantizableLSTM"

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def forward(self, x: Any, hidden: Any = None) -> tuple[Any, State]:
        """As ``torch.nn.LSTM``. ``hidden`` may also be a list of one pair of states ``[directions,
        N, hidden]`` for each layer.
        """
        if isinstance(x, PackedSequence):
            sizes = x.batch_sizes.tolist()
            states = self._states(x.data, hidden, sizes[0], x.sorted_indices)
            out, final = self._run(x.data, states, sizes)
            packed = PackedSequence(out, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
            return packed, self._in_order(final, x.unsorted_indices)
        batched = x.dim() == 3
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size or x.shape[0] == 0:
            raise RuntimeError(
                f"{type(self).__name__}: expected a 2-D (unbatched) or 3-D input with "
                f"{self.input_size} features and at least one step, got shape {tuple(x.shape)}"
            )
        time_first = x if batched else x.unsqueeze(1)
        if batched and self.batch_first:
            time_first = x.transpose(0, 1)
        given = hidden
        if not batched and hidden is not None and not isinstance(hidden[0], tuple):
            given = tuple(state.unsqueeze(1) for state in hidden)
        states = self._states(time_first, given, time_first.shape[1], None)
        out, final = self._run(time_first, states, None)
        if not batched:
            return out.squeeze(1), (final[0].squeeze(1), final[1].squeeze(1))
        return (out.transpose(0, 1) if self.batch_first else out), final

    def _run(
        self, x: Tensor, states: Sequence[State | None], batch_sizes: Sequence[int] | None
    ) -> tuple[Tensor, State]:
        """All layers on time-first data; outputs and final states ``[layers * directions, ...]``.

        ``states`` are those of the layers and directions, in this order.
        """
        directions = 2 if self.bidirectional else 1
        final: list[State] = []
        for index, layer in enumerate(self.layers):
            if index and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            own = states[index * directions : (index + 1) * directions]
            x, ends = layer(x, own, batch_sizes)
            final += ends
        hidden, cell = ([pair[i].unsqueeze(0) for pair in final] for i in range(2))
        if len(final) == 1:
            return x, (hidden[0], cell[0])
        return x, (self.hidden_cat.cat(hidden, 0), self.cell_cat.cat(cell, 0))

    def _states(
        self, x: Tensor, hidden: Any, batch: int, order: Tensor | None
    ) -> Sequence[State | None]:
        """Initial states of each layer and direction, of sequences in the given order."""
        directions = 2 if self.bidirectional else 1
        count = self.num_layers * directions
        if hidden is None:
            return [None] * count
        if not isinstance(hidden[0], Tensor):  # one pair for each layer
            hidden = tuple(
                torch.cat([pair[i].reshape(directions, batch, -1) for pair in hidden])
                for i in range(2)
            )
        cell: Any = self.layers[0]
        cell.layer_fw.cell._check_states(x, hidden)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        for name, state, size in zip(("hidden", "cell"), hidden, sizes, strict=True):
            if tuple(state.shape) != (count, batch, size):
                raise RuntimeError(
                    f"{type(self).__name__}: the {name} state must have shape "
                    f"{(count, batch, size)}, got {tuple(state.shape)}"
                )
        hidden = self._in_order(hidden, order)
        return list(zip(hidden[0].unbind(0), hidden[1].unbind(0), strict=True))

    @staticmethod
    def _in_order(states: Any, order: Tensor | None) -> Any:
        if order is None:
            return tuple(states)
        return tuple(state.index_select(1, order) for state in states)

    @staticmethod
    def _arguments_of(mod: Any) -> dict[str, Any]:
        """The arguments of the constructor for a module like a float one."""
        names = "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size"
        return {name: getattr(mod, name) for name in names.split()}

    def _adopted(self) -> None:
        """Adds what torch.ao's LSTM lacks, after one has got this class.

        Its directions and layers are joined with the scale of the first, as torch.ao joins them.
        """
        self.proj_size = 0
        for layer in self.layers:
            layer.__class__ = _LSTMLayer
            for name, part in layer.named_children():
                if name in ("layer_fw", "layer_bw"):
                    part.__class__ = _LSTMSingleLayer
            if self.bidirectional:
                cell: Any = layer.layer_fw.cell  # type: ignore[union-attr]
                layer.output_cat = _joined_as(cell.ogate_cy)
        if len(self.layers) > 1 or self.bidirectional:
            first: Any = self.layers[0].layer_fw.cell  # type: ignore[union-attr]
            self.hidden_cat = _joined_as(first.ogate_cy)
            self.cell_cat = _joined_as(first.fgate_cx_igate_cgate)

    @classmethod
    def from_float(cls, other: nn.Module, qconfig: Any = None, split_gates: bool = False) -> Any:
        """From a :class:`torch.nn.LSTM`, with observers: those of ``prepare``, or in training mode
        the fake-quantize modules of ``prepare_qat``.

        Args:
            other: the float module. Without ``split_gates`` the result has its parameters (the same
                objects).
            qconfig: where ``other`` has none.
            split_gates: see :class:`LSTMCell`.

        Raises:
            TypeError: another kind of module.
            ValueError: no qconfig; parametrized weights.
        """
        # octavo.quantization needs the modules of octavo.nn first.
        from octavo.quantization.quantize import prepare
        from octavo.quantization.quantize_qat import prepare_qat

        label = source_label(cls, other)
        if not isinstance(other, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        if not getattr(other, "qconfig", qconfig):
            raise ValueError(f"{label}: the float module has no qconfig, and none was given")
        with warnings.catch_warnings():  # the float module has warned of its dropout
            warnings.simplefilter("ignore")
            observed = cls(**cls._arguments_of(other), device="meta")
        for index in range(observed.num_layers):
            observed.layers[index] = _LSTMLayer.from_float(other, index, split_gates, label)
        observed.qconfig = getattr(other, "qconfig", qconfig)
        observed.train(other.training)
        ready = (prepare_qat if other.training else prepare)(observed, inplace=True)
        return ready

    @classmethod
    def from_observed(cls, other: nn.Module) -> Any:
        """Raises NotImplementedError: :class:`octavo.nn.quantized.LSTM` has it."""
        raise NotImplementedError(
            f"{cls.__name__}.from_observed: an octavo.nn.quantizable.LSTM is what is "
            "observed; convert(), or octavo.nn.quantized.LSTM.from_observed, makes a "
            "quantized module of it"
        )
