"""Linear layers of Q/DQ graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from lowering_support import Grid, PerTensorWeight, Weight, exported, kinds, lowered_like
from octavo.lowering import lowering_report
from octavo.nn import quantized as nnq

IN = {torch.uint8: Grid(0.02, 120), torch.int8: Grid(0.02, -7, torch.int8)}
OUT = {torch.uint8: Grid(0.11, 131), torch.int8: Grid(0.1, 3, torch.int8)}


def identity(x: Tensor) -> Tensor:
    return x


class Net(nn.Module):
    """x, rounded, times a weight, plus a bias, through a function, rounded to integers."""

    def __init__(
        self,
        weight: Weight,
        x: Grid,
        out: Grid | None,
        function: Callable[[Tensor], Tensor] = identity,
        bias: bool = True,
        form: Callable[..., Tensor] = F.linear,
    ) -> None:
        super().__init__()
        self.weight, self.x, self.out = weight, x, out
        self.function, self.form = function, form
        self.bias = nn.Parameter(torch.randn(weight.ints.shape[0])) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.form(self.x(x), self.weight(), self.bias))
        return y if self.out is None else self.out.q(y)


def _addmm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight.t())


def _mm(x: Tensor, weight: Tensor, bias: None) -> Tensor:
    return torch.mm(x, weight.transpose(0, 1))


def _matmul(x: Tensor, weight: Tensor, bias: None) -> Tensor:
    return torch.matmul(x, weight.permute(1, 0))


WEIGHTS = {
    "per channel": lambda: Weight(24, 33),
    "per tensor": lambda: PerTensorWeight(24, 33),
    "per tensor, scale in a tensor": lambda: Weight(24, 33, axis=None),
    "uint8": lambda: Weight(24, 33, dtype=torch.uint8),
    "asymmetric": lambda: Weight(24, 33, zero_point=11),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("x", IN)
@pytest.mark.parametrize("out", OUT)
def test_static(weight: str, x: torch.dtype, out: torch.dtype) -> None:
    net = Net(WEIGHTS[weight](), IN[x], OUT[out])
    _, lowered = lowered_like(net, torch.randn(5, 33))
    assert kinds(lowered) == ["Quantize", "Linear", "int_repr"]


def test_the_bits_are_those_of_a_module_with_the_same_parameters() -> None:
    net = Net(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8])
    x = torch.randn(40, 33)
    lowered = octavo.lower(exported(net, x))
    module = nnq.Linear(33, 24)
    w = octavo.QTensor.from_int_repr(
        net.weight.ints, net.weight.scales, net.weight.zero_points, axis=0
    )
    assert net.bias is not None
    module.set_weight_bias(w, net.bias.detach())
    module.scale, module.zero_point = 0.11, 131
    q = octavo.quantize_per_tensor(x, 0.02, 120, octavo.quint8)
    assert torch.equal(lowered(x), module(q).int_repr())


@pytest.mark.parametrize(
    ("name", "function", "expected"),
    [
        ("relu", F.relu, ["LinearReLU"]),
        ("relu_", lambda y: y.relu_(), ["LinearReLU"]),
        ("leaky_relu", lambda y: F.leaky_relu(y, 0.2), ["LinearLeakyReLU"]),
        ("tanh", torch.tanh, ["LinearTanh"]),
        ("relu6", F.relu6, ["Linear", "clamp"]),
        ("clamp", lambda y: y.clamp(-1.0, 2.5), ["Linear", "clamp"]),
        ("clamp_max", lambda y: y.clamp(max=0.7), ["Linear", "clamp"]),
        ("dropout", lambda y: F.dropout(y, 0.5, False), None),
        ("gelu", F.gelu, ["FloatLinear", "gelu.default", "Quantize"]),
    ],
)
def test_activation_functions(
    name: str, function: Callable[[Tensor], Tensor], expected: list[str] | None
) -> None:
    out = Grid(0.01, 128) if name == "tanh" else OUT[torch.uint8]
    _, lowered = lowered_like(
        Net(Weight(24, 33), IN[torch.uint8], out, function), torch.randn(9, 33)
    )
    if expected is not None:
        assert kinds(lowered) == ["Quantize", *expected, "int_repr"]


@pytest.mark.parametrize(
    ("form", "bias"), [(_addmm, True), (_mm, False), (_matmul, False), (F.linear, False)]
)
def test_forms(form: Callable[..., Tensor], bias: bool) -> None:
    net = Net(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8], bias=bias, form=form)
    _, lowered = lowered_like(net, torch.randn(5, 33))
    assert kinds(lowered) == ["Quantize", "Linear", "int_repr"]


@pytest.mark.parametrize("function", [identity, F.relu])
def test_float_output(function: Callable[[Tensor], Tensor]) -> None:
    """Nothing quantizes the output: the sums are exact, and dequantized once."""
    net = Net(Weight(24, 33), IN[torch.uint8], None, function)
    _, lowered = lowered_like(net, torch.randn(2, 5, 33))
    assert kinds(lowered) == ["Quantize", "FloatLinear"]


def test_narrow_ranges_are_kept() -> None:
    """7-bit activations, and int8 without -128: results stay within the range of the graph."""
    narrow_in, narrow_out = Grid(0.04, 60, lo=0, hi=127), Grid(0.02, 0, torch.int8, -127, 127)
    x = 3 * torch.randn(50, 33)
    graph, lowered = lowered_like(Net(Weight(24, 33), narrow_in, narrow_out), x)
    assert int(lowered(x).min()) == -127
    assert int(graph(x).min()) == -127
    assert kinds(lowered) == ["Quantize", "clamp", "Linear", "clamp", "int_repr"]


def test_sixteen_bits_stay_float() -> None:
    wide = Grid(0.001, 0, torch.int16)
    net = Net(Weight(24, 33), wide, wide)
    _, lowered = lowered_like(net, torch.randn(5, 33))
    (row,) = lowering_report(lowered).left_float
    assert (row.op, row.becomes) == ("linear", "")
    assert "not quantized" in row.reason


def test_scales_of_inputs_stay_float() -> None:
    """A weight with one scale for each input has no kernel."""
    net = Net(Weight(24, 33, axis=1), IN[torch.uint8], OUT[torch.uint8])
    _, lowered = lowered_like(net, torch.randn(5, 33))
    (row,) = lowering_report(lowered).left_float
    assert "axis 1" in row.reason


def test_a_float_weight_stays_float() -> None:
    class FloatWeight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(33, 4)

        def forward(self, x: Tensor) -> Tensor:
            return OUT[torch.uint8].q(self.fc(IN[torch.uint8](x)))

    _, lowered = lowered_like(FloatWeight(), torch.randn(5, 33))
    (row,) = lowering_report(lowered).left_float
    assert row.reason == "its weight is float"
    assert row.module == "fc"


def test_a_value_that_is_quantized_and_used_as_float() -> None:
    class Both(Net):
        def forward(self, x: Tensor) -> Any:
            y = F.linear(self.x(x), self.weight(), self.bias)
            assert self.out is not None
            return {"int8": self.out.q(y), "float": y + 1.0}

    net = Both(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8])
    _, lowered = lowered_like(net, torch.randn(5, 33))
    assert kinds(lowered)[:2] == ["Quantize", "FloatLinear"]


def test_equal_weights_are_packed_once() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert self.out is not None
            w = self.weight()
            a = self.out.q(F.linear(self.x(x), w, self.bias))
            return a, self.out.q(F.linear(self.x(2 * x), w, self.bias))

    net = Twice(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8])
    _, lowered = lowered_like(net, torch.randn(5, 33))
    layers = [m for m in lowered.modules() if isinstance(m, nnq.Linear)]
    assert len(layers) == 2
    assert layers[0]._packed is layers[1]._packed


def test_what_a_module_refuses_stays_float() -> None:
    net = Net(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8])
    assert net.bias is not None
    with torch.no_grad():
        net.bias[3] = float("nan")
    lowered = octavo.lower(exported(net, torch.randn(5, 33)))
    (row,) = lowering_report(lowered).left_float
    assert row.reason == "bias holds NaN or Inf"


def test_too_many_inputs_for_int32() -> None:
    net = Net(Weight(2, 70_000, scale=1e-4), IN[torch.uint8], OUT[torch.uint8])
    lowered = octavo.lower(exported(net, torch.randn(1, 70_000)))
    (row,) = lowering_report(lowered).left_float
    assert "65,793" in row.reason or "65793" in row.reason


def test_views_between_a_layer_and_its_rounding() -> None:
    """As decomposed graphs have them: the integers are moved."""

    class Decomposed(Net):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.x(x).view(-1, 33)
            y = torch.addmm(self.bias, flat, self.weight().t())  # type: ignore[arg-type]
            y = F.relu(y.view(x.shape[0], -1, 24)).transpose(1, 2)
            assert self.out is not None
            return self.out.q(y)

    net = Decomposed(Weight(24, 33), IN[torch.uint8], OUT[torch.uint8])
    _, lowered = lowered_like(net, torch.randn(2, 5, 33))
    assert kinds(lowered) == [
        "Quantize", "reshape", "LinearReLU", "reshape", "transpose", "int_repr",
    ]  # fmt: skip
    assert not lowering_report(lowered).left_float
