"""One step of an LSTM, of parts that can be observed and quantized one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import QDType, quint8
from octavo.nn.quantized.modules.functional_modules import FloatFunctional
from octavo.nn.quantized.modules.utils import describe, source_label
from octavo.tensor import QTensor

__all__ = ["GATES", "LSTMCell", "State", "check_plain_parameters"]

State = tuple[Tensor, Tensor]
GATES = ("input", "forget", "cell", "output")


class LSTMCell(nn.Module):
    """:class:`torch.nn.LSTMCell` of Linear layers and functionals, so that each step of the
    computation can have an observer, and after ``convert`` a scale.

    Args:
        input_dim, hidden_dim: sizes of input and state.
        bias: whether both Linear layers of a gate have one.
        device, dtype: of the parameters.
        split_gates: one Linear layer and scale for each gate, instead of one for all four.
        proj_size: as in :class:`torch.nn.LSTM`: the hidden state is projected to this size by a
            further Linear layer, ``hr``; 0 for none. Octavo's own.

    Attributes:
        igates, hgates: Linear layers of the input and of the hidden state, by gate with
            ``split_gates``.
        gates, fgate_cx, igate_cgate, fgate_cx_igate_cgate, ogate_cy: FloatFunctional, for the sums
            and products.
        input_gate, forget_gate, cell_gate, output_gate, cell_tanh: Sigmoid and Tanh.
        initial_hidden_state_qparams, initial_cell_state_qparams: scale and zero point of the zeros
            that a quantized cell starts with, or None in a float one. Unless they are assigned,
            those of the states that the cell computes, which calibration found.

    Shape: input ``[N, input_dim]`` or ``[input_dim]``, states ``[N, hidden_dim]`` or
        ``[hidden_dim]``; all float, or after ``convert`` all quantized.

    Raises:
        TypeError: in ``forward``, states that are float where the input is quantized, or the other
            way round.

    Source: ``torch.ao.nn.quantizable.LSTMCell``. Differences: ``tanh`` of the cell state is a
    module, so that training rounds it; initial states have calibrated parameters, not (1.0, 0);
    ``proj_size`` and inputs without a batch work.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.LSTMCell

    igates: Any
    hgates: Any
    gates: Any
    hr: nn.Module | None

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        split_gates: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.input_size, self.hidden_size, self.proj_size = input_dim, hidden_dim, proj_size
        self.bias, self.split_gates = bias, split_gates
        outputs = hidden_dim if split_gates else 4 * hidden_dim

        def linear(inputs: int) -> nn.Module:
            def one() -> nn.Linear:
                return nn.Linear(inputs, outputs, bias, **made)

            return nn.ModuleDict({gate: one() for gate in GATES}) if split_gates else one()

        self.igates, self.hgates = linear(input_dim), linear(proj_size or hidden_dim)
        if split_gates:
            self.gates = nn.ModuleDict({gate: FloatFunctional() for gate in GATES})
        else:
            self.gates = FloatFunctional()
        self.input_gate, self.forget_gate, self.output_gate = (nn.Sigmoid() for _ in range(3))
        self.cell_gate = nn.Tanh()
        self.fgate_cx, self.igate_cgate = FloatFunctional(), FloatFunctional()
        self.fgate_cx_igate_cgate = FloatFunctional()
        self.cell_tanh = nn.Tanh()
        self.ogate_cy = FloatFunctional()
        self.hr = nn.Linear(hidden_dim, proj_size, bias=False, **made) if proj_size else None
        self._assigned: dict[str, tuple[float, int]] = {}

    def _get_name(self) -> str:
        return "QuantizableLSTMCell"

    def forward(self, x: Tensor, hidden: State | None = None) -> State:
        """The next hidden and cell state."""
        if hidden is None or hidden[0] is None or hidden[1] is None:
            hidden = self._initial(x.shape[:-1], x)
        self._check_states(x, hidden)
        return self._step(self._input_gates(x), *hidden)

    def _input_gates(self, x: Tensor) -> tuple[Tensor, ...]:
        """The input's part of the gates: one tensor for all four, or one for each."""
        if self.split_gates:
            return tuple(self.igates[gate](x) for gate in GATES)
        return (self.igates(x),)

    def _step(self, input_gates: Sequence[Tensor], hx: Tensor, cx: Tensor) -> State:
        if self.split_gates:
            sums: Sequence[Tensor] = [
                self.gates[gate].add(x, self.hgates[gate](hx))
                for gate, x in zip(GATES, input_gates, strict=True)
            ]
        else:
            sums = self.gates.add(input_gates[0], self.hgates(hx)).chunk(4, -1)
        forgotten = self.fgate_cx.mul(self.forget_gate(sums[1]), cx)
        added = self.igate_cgate.mul(self.input_gate(sums[0]), self.cell_gate(sums[2]))
        cy = self.fgate_cx_igate_cgate.add(forgotten, added)
        hy = self.ogate_cy.mul(self.output_gate(sums[3]), self.cell_tanh(cy))
        return (hy if self.hr is None else self.hr(hy)), cy

    def _check_states(self, x: Tensor, states: Sequence[Any]) -> None:
        for name, state in zip(("hidden", "cell"), states, strict=True):
            if isinstance(state, QTensor) == isinstance(x, QTensor):
                continue
            raise TypeError(
                f"{type(self).__name__}: the {name} state is {describe(state)}, but the input is "
                f"{describe(x)}; both must be quantized or both float. Put a QuantStub on the "
                "state, or leave the states out to start from zeros"
            )

    # Initial states

    def initialize_hidden(self, batch_size: int, is_quantized: bool = False) -> State:
        """Zeros ``[batch_size, hidden]``, both states."""
        return self._zeros((batch_size,), is_quantized)

    def _initial(self, leading: Sequence[int], x: Tensor) -> State:
        if isinstance(x, QTensor):
            return self._zeros(leading, True)
        hx, cx = self._zeros(leading, False)
        return hx.to(x), cx.to(x)

    def _zeros(self, leading: Sequence[int], is_quantized: bool) -> State:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        shapes = [(*leading, size) for size in sizes]
        if not is_quantized:
            return torch.zeros(shapes[0]), torch.zeros(shapes[1])
        return self._quantized_zeros(shapes[0], "hidden"), self._quantized_zeros(shapes[1], "cell")

    def _quantized_zeros(self, shape: Sequence[int], state: str) -> QTensor:
        qparams = self._qparams_of(state)
        if qparams is None:
            raise RuntimeError(
                f"{type(self).__name__}: the cell is not quantized, so there are no scales for "
                "quantized states; run prepare(), calibrate and convert() first"
            )
        scale, zero_point = qparams
        qdtype: QDType = self._source_of(state)._out_qdtype or quint8
        ints = torch.full(tuple(shape), zero_point, dtype=qdtype.storage)
        return QTensor._wrap(ints, scale, zero_point, qdtype)

    def _source_of(self, state: str) -> Any:
        """The part that computes a state."""
        if state == "cell":
            return self.fgate_cx_igate_cgate
        return self.ogate_cy if self.hr is None else self.hr

    def _qparams_of(self, state: str) -> tuple[float, int] | None:
        if state in self._assigned:
            return self._assigned[state]
        source = self._source_of(state)
        return (source.scale, source.zero_point) if hasattr(source, "scale") else None

    @property
    def initial_hidden_state_qparams(self) -> tuple[float, int] | None:
        return self._qparams_of("hidden")

    @initial_hidden_state_qparams.setter
    def initial_hidden_state_qparams(self, value: tuple[float, int]) -> None:
        self._assigned["hidden"] = (float(value[0]), int(value[1]))

    @property
    def initial_cell_state_qparams(self) -> tuple[float, int] | None:
        return self._qparams_of("cell")

    @initial_cell_state_qparams.setter
    def initial_cell_state_qparams(self, value: tuple[float, int]) -> None:
        self._assigned["cell"] = (float(value[0]), int(value[1]))

    def _adopted(self) -> None:
        """Adds what torch.ao's cell lacks, after one has got this class."""
        for state in ("hidden", "cell"):
            vars(self).pop(f"initial_{state}_state_qparams", None)
        self._assigned, self.proj_size, self.hr = {}, 0, None
        self.cell_tanh = nn.Tanh()

    # From float

    @classmethod
    def from_params(
        cls,
        wi: Tensor,
        wh: Tensor,
        bi: Tensor | None = None,
        bh: Tensor | None = None,
        split_gates: bool = False,
        whr: Tensor | None = None,
    ) -> Any:
        """A cell with the parameters of a float one.

        Args:
            wi, wh: weights ``[4 * hidden, input]`` and ``[4 * hidden, hidden or proj_size]``.
            bi, bh: biases ``[4 * hidden]``, both or neither.
            split_gates: as in the constructor. The parameters are copies then, else those given.
            whr: weight ``[proj_size, hidden]`` of the projection.

        Raises:
            ValueError: one bias without the other.
        """
        if (bi is None) != (bh is None):
            raise ValueError(f"{cls.__name__}.from_params: give both of bi and bh, or neither")
        proj_size = 0 if whr is None else whr.shape[0]
        cell = cls(
            wi.shape[1],
            wh.shape[0] // 4,
            bi is not None,
            "meta",
            split_gates=split_gates,
            proj_size=proj_size,
        )
        for gates, weight, bias in ((cell.igates, wi, bi), (cell.hgates, wh, bh)):
            if not split_gates:
                _give(gates, weight, bias)
                continue
            biases = (None,) * 4 if bias is None else bias.detach().clone().chunk(4)
            for gate, w, b in zip(GATES, weight.detach().clone().chunk(4), biases, strict=True):
                _give(gates[gate], w, b, weight.requires_grad)
        if whr is not None:
            _give(cell.hr, whr, None)
        return cell

    @classmethod
    def from_float(
        cls, other: nn.Module, use_precomputed_fake_quant: bool = False, split_gates: bool = False
    ) -> Any:
        """A cell with the parameters and the qconfig of a :class:`torch.nn.LSTMCell`, to be given
        to ``prepare`` or ``prepare_qat``.

        Raises:
            TypeError: another kind of module.
            ValueError: no qconfig; parametrized weights.
        """
        label = source_label(cls, other)
        if not isinstance(other, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        if not hasattr(other, "qconfig"):
            raise ValueError(f"{label}: the float module has no qconfig")
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        check_plain_parameters(other, names, label)
        wi, wh, bi, bh = (getattr(other, name) for name in names)
        cell = cls.from_params(wi, wh, bi, bh, split_gates)
        cell.qconfig = other.qconfig
        return cell.train(other.training)


def _give(linear: Any, weight: Tensor, bias: Tensor | None, requires_grad: bool = True) -> None:
    linear.weight = _parameter(weight, requires_grad)
    linear.bias = None if bias is None else _parameter(bias, requires_grad)


def _parameter(tensor: Tensor, requires_grad: bool) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad)


def check_plain_parameters(module: nn.Module, names: Sequence[str], label: str) -> None:
    """Raises ValueError where one of these attributes is computed from other tensors."""
    for name in names:
        value = getattr(module, name, None)
        if value is not None and not isinstance(value, nn.Parameter):
            raise ValueError(
                f"{label}: '{name}' is computed from other tensors (a parametrization, weight norm "
                "or pruning); remove that first, with "
                "torch.nn.utils.parametrize.remove_parametrizations or its like"
            )
