"""Whole graphs: memory that is written in place, several users and outputs, dynamic shapes, copies
and files, errors."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Tracer

import octavo
from lowering_support import Grid, Weight, agree, exported, kinds, lowered_like
from octavo.lowering import LoweringReport, lowering_report

A, B = Grid(0.02, 120), Grid(0.05, 100)


class Function(nn.Module):
    """A function of x with the layers fc and conv."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.fc, self.conv = Weight(8, 8), Weight(3, 3, 3, 3)
        self.register_buffer("table", torch.randn(8))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


# Memory that is written in place


def _write_and_read(m: Any, x: Tensor) -> Any:
    """The addition changes y, and the quantizer reads what it left."""
    y = A(x)
    z = F.linear(y, m.fc())
    y.add_(1.0)
    return B.q(z), A.q(y), y


def _write_a_view(m: Any, x: Tensor) -> Any:
    y = A(x)
    y[:, :2].mul_(0.0)
    return B.q(F.linear(y, m.fc())), y


def _write_the_input(m: Any, x: Tensor) -> Any:
    z = A.q(x)
    w = x.clone()
    w.add_(1.0)
    return z, B.q(F.relu_(w))


def _write_and_alias(m: Any, x: Tensor) -> Any:
    """relu_ writes what the view shares."""
    y = F.linear(A(x), m.fc())
    view = y.view(-1)
    y.relu_()
    return B.q(view), B.q(y)


def _two_in_place(m: Any, x: Tensor) -> Any:
    y = F.linear(A(x), m.fc())
    return B.q(y.add_(A(x)).relu_())


def _set_item(m: Any, x: Tensor) -> Any:
    y = A(x)
    y[:, 1] = 0.5
    return B.q(F.linear(y, m.fc())), A.q(y)


def _relu_in_place_of_a_shared_value(m: Any, x: Tensor) -> Any:
    """Two readers of one tensor, one of which writes its own copy."""
    q = A.q(x)
    first, second = A.dq(q), A.dq(q)
    first.neg_()
    return first, second + 1.0, B.q(F.linear(A.dq(q), m.fc()))


@pytest.mark.parametrize(
    "function",
    [
        _write_and_read,
        _write_a_view,
        _write_the_input,
        _write_and_alias,
        _two_in_place,
        _set_item,
        _relu_in_place_of_a_shared_value,
    ],
)
def test_in_place(function: Callable[[Any, Tensor], Any]) -> None:
    _, lowered = lowered_like(Function(function), torch.randn(5, 8))
    x = torch.randn(5, 8)
    before = x.clone()
    lowered(x)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_buffer_that_the_graph_writes_is_no_constant() -> None:
    def function(m: Any, x: Tensor) -> Any:
        m.count.add_(1.0)
        return B.q(F.linear(A(x), m.fc(), m.table)), x * m.count

    net = Function(function)
    graph = exported(net, torch.randn(5, 8))
    lowered = octavo.lower(copy.deepcopy(graph))
    x = torch.randn(5, 8)
    for _ in range(3):
        agree(graph, lowered, (x,))


# Users and outputs


def test_outputs_in_dicts_and_tuples() -> None:
    def function(m: Any, x: Tensor) -> Any:
        q = A.q(x)
        y = A.dq(q)
        return {"ints": q, "floats": (y, [y.view(-1), B(y)]), "again": y, "input": x}

    _, lowered = lowered_like(Function(function), torch.randn(5, 8))
    x = torch.randn(5, 8)
    assert lowered(x)["floats"][0].shape == (5, 8)
    assert lowered(x)["input"] is x
    assert kinds(lowered).count("Quantize") == 1


def test_many_readers_of_one_quantized_value() -> None:
    """One Quantize and one DeQuantize, whatever reads it."""

    def function(m: Any, x: Tensor) -> Any:
        q = A.q(x)
        layers = [B.q(F.linear(A.dq(q), m.fc())) for _ in range(3)]
        return layers, torch.sin(A.dq(q)), torch.cos(A.dq(q)), F.relu(A.dq(q)).exp()

    _, lowered = lowered_like(Function(function), torch.randn(5, 8))
    assert kinds(lowered).count("Quantize") == 1
    assert kinds(lowered).count("DeQuantize") == 2  # of the value and of its relu


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_integers_as_inputs(dtype: torch.dtype) -> None:
    """Who calls the graph has quantized them already."""
    grid = Grid(0.03, 5, dtype)

    def function(m: Any, x: Tensor) -> Any:
        return B.q(F.linear(grid.dq(x), m.fc())), grid.dq(x) + 1.0

    x = torch.randint(0, 100, (5, 8), dtype=dtype)
    _, lowered = lowered_like(Function(function), x)
    assert kinds(lowered)[:2] == ["OfIntegers", "Linear"]
    assert torch.equal(pickle.loads(pickle.dumps(lowered))(x)[0], lowered(x)[0])


def test_integers_that_are_read_on_another_grid() -> None:
    def function(m: Any, x: Tensor) -> Any:
        q = A.q(x)
        return B.q(F.linear(Grid(0.07, 50).dq(q), m.fc())), B.q(F.linear(A.dq(q), m.fc()))

    _, lowered = lowered_like(Function(function), torch.randn(5, 8))
    assert kinds(lowered).count("Linear") == 2


def test_a_value_rounded_to_two_grids() -> None:
    def function(m: Any, x: Tensor) -> Any:
        y = F.linear(A(x), m.fc(), m.table)
        return B.q(y), A.q(y)

    _, lowered = lowered_like(Function(function), torch.randn(5, 8))
    assert kinds(lowered)[:2] == ["Quantize", "FloatLinear"]
    assert sorted(kinds(lowered)[2:]) == ["Quantize", "Quantize", "int_repr", "int_repr"]


def test_sizes_of_quantized_values() -> None:
    """The batch varies, and views ask for it."""

    def function(m: Any, x: Tensor) -> Any:
        y = B(F.relu(F.conv2d(A(x), m.conv(), padding=1)))
        z = B(F.linear(B(y.reshape(y.shape[0], -1, 8)), m.fc()))
        return z.view(z.shape[0] * 3, -1, x.shape[-1]), x.shape[0]

    batch = torch.export.Dim("batch", min=1, max=64)

    class First(Function):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)[0]

    net = First(function)
    graph, lowered = lowered_like(
        net, torch.randn(2, 3, 8, 8), dynamic={"x": {0: batch}}, atol=0.06
    )
    agree(graph, lowered, (torch.randn(7, 3, 8, 8),), atol=0.06)
    assert kinds(lowered).count("DeQuantize") == 1


def test_inputs_of_another_shape_are_refused() -> None:
    lowered = octavo.lower(
        exported(Function(lambda m, x: B(F.linear(A(x), m.fc()))), torch.randn(5, 8))
    )
    with pytest.raises(ValueError, match=r"input 'x' must have shape \[5, 8\], got \[6, 8\]"):
        lowered(torch.randn(6, 8))


def test_wrong_inputs_name_the_layer() -> None:
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Function(lambda m, x: B(F.linear(A(x), m.fc())))

        def forward(self, x: Tensor) -> Any:
            return self.inner(x)

    lowered = octavo.lower(exported(Layer(), torch.randn(5, 8), dynamic=batch))
    name = next(name for name, m in lowered.named_modules() if type(m).__name__ == "Linear")
    assert name == "inner.linear"
    with pytest.raises(TypeError, match=r"Linear 'inner'.*must be a quantized tensor"):
        next(m for m in lowered.modules() if type(m).__name__ == "Linear")(torch.randn(3, 8))


# Dynamic quantization and embeddings


class Dynamic(nn.Module):
    """A layer that quantizes x by the range that it has."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor] = lambda y: y,
        dtype: torch.dtype = torch.uint8,
        lo: int = 0,
        hi: int = 255,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.function, self.range, self.symmetric = function, (lo, hi, dtype), symmetric
        self.fc, self.bias = Weight(8, 33), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        lo, hi, dtype = self.range
        operators = torch.ops.quantized_decomposed
        choose = operators.choose_qparams_symmetric if self.symmetric else operators.choose_qparams
        scale, zero_point = choose.tensor(x, lo, hi, 1e-5, dtype)
        q = operators.quantize_per_tensor.tensor(x, scale, zero_point, lo, hi, dtype)
        x = operators.dequantize_per_tensor.tensor(q, scale, zero_point, lo, hi, dtype)
        return self.function(F.linear(x, self.fc(), self.bias))


@pytest.mark.parametrize(
    ("name", "function"),
    [("Linear", lambda y: y), ("LinearReLU", F.relu), ("LinearGELU", F.gelu)],
)
@pytest.mark.parametrize("grid", [(torch.uint8, 0, 255), (torch.int8, -128, 127)])
def test_dynamic(name: str, function: Callable[[Tensor], Tensor], grid: Any) -> None:
    _, lowered = lowered_like(Dynamic(function, *grid), torch.randn(2, 5, 33), atol=1e-2)
    assert kinds(lowered) == [name]
    layer = next(m for m in lowered.modules() if type(m).__name__ == name)
    assert (layer.per_tensor, layer.reduce_range) == (True, False)


class DynamicConv(Dynamic):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        self.fc = Weight(8, 4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        operators = torch.ops.quantized_decomposed
        scale, zero_point = operators.choose_qparams.tensor(x, 0, 255, 1e-5, torch.uint8)
        q = operators.quantize_per_tensor.tensor(x, scale, zero_point, 0, 255, torch.uint8)
        x = operators.dequantize_per_tensor.tensor(q, scale, zero_point, 0, 255, torch.uint8)
        return self.function(F.conv2d(x, self.fc(), self.bias, padding=1))


@pytest.mark.parametrize(("name", "function"), [("Conv2d", lambda y: y), ("ConvReLU2d", F.relu)])
def test_dynamic_convolution(name: str, function: Callable[[Tensor], Tensor]) -> None:
    _, lowered = lowered_like(DynamicConv(function), torch.randn(2, 4, 7, 6), atol=1e-2)
    assert kinds(lowered) == [name]


class PerToken(Dynamic):
    def forward(self, x: Tensor) -> Tensor:
        operators, grid = torch.ops.quantized_decomposed, (-128, 127, torch.int8)
        scales, zero_points = operators.choose_qparams_per_token_asymmetric(x, torch.int8)
        q = operators.quantize_per_token(x, scales, zero_points, *grid)
        x = operators.dequantize_per_token(q, scales, zero_points, *grid, torch.float32)
        return F.linear(x, self.fc(), self.bias)


def test_dynamic_per_token() -> None:
    """Each row with a scale of its own: a row that is a hundred times larger changes no other."""
    x = torch.randn(2, 5, 33)
    graph = exported(PerToken(), x)
    lowered = octavo.lower(graph)
    assert kinds(lowered) == ["Linear"]
    x[0, 0] *= 100
    with torch.no_grad():
        assert torch.allclose(graph(x)[0, 0], lowered(x)[0, 0], rtol=1e-2, atol=1.0)
        assert torch.allclose(graph(x)[:, 1:], lowered(x)[:, 1:], rtol=1e-3, atol=1e-2)
    layer = next(m for m in lowered.modules() if type(m).__name__ == "Linear")
    assert not layer.per_tensor


def test_dynamic_of_seven_bits() -> None:
    _, lowered = lowered_like(
        Dynamic(lambda y: y, torch.uint8, 0, 127), torch.randn(5, 33), atol=1e-2
    )
    layer = next(m for m in lowered.modules() if type(m).__name__ == "Linear")
    assert layer.reduce_range


def test_symmetric_dynamic_stays_float() -> None:
    _, lowered = lowered_like(
        Dynamic(lambda y: y, torch.int8, -127, 127, symmetric=True), torch.randn(5, 33)
    )
    (row,) = lowering_report(lowered).left_float
    assert "symmetrically" in row.reason


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("axis", [0, None])
def test_embedding(dtype: torch.dtype, axis: int | None) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Weight(50, 16, dtype=dtype, axis=axis)

        def forward(self, tokens: Tensor) -> Tensor:
            return F.embedding(tokens, self.weight())

    _, lowered = lowered_like(Table(), torch.randint(0, 50, (3, 7)), atol=1e-6)
    assert kinds(lowered) == ["Embedding"]


# torch.fx's own graphs


def test_a_graph_of_symbolic_trace() -> None:
    """Functions and methods in the place of aten's operators."""

    def function(m: Any, x: Tensor) -> Any:
        y = B(F.relu(F.conv2d(A(x), m.conv(), padding=1)))
        y = B(F.relu(torch.conv2d(y, m.conv(), padding=1) + y))
        y = B(F.max_pool2d(y, 2)).flatten(2).view(-1, 3, 8)
        return B.q(F.linear(B(y), m.fc(), m.table).relu())

    net = Function(function).eval()
    tracer = Tracer()
    tracer.proxy_buffer_attributes = True  # else it computes the weights
    graph = GraphModule(net, tracer.trace(net))
    lowered = octavo.lower(graph)
    x = torch.randn(2, 3, 8, 8)
    agree(graph, lowered, (x,))
    assert kinds(lowered) == [
        "Quantize", "ConvReLU2d", "ConvAddReLU2d", "MaxPool2d", "flatten", "reshape", "LinearReLU",
        "int_repr",
    ]  # fmt: skip


def test_modules_that_write_their_inputs() -> None:
    """torch.fx calls modules as they are; what they do to their inputs nobody knows."""

    class Modules(Function):
        def __init__(self) -> None:
            super().__init__(lambda m, x: None)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Any:
            q = A.q(x)
            first, second = A.dq(q), A.dq(q)
            y = self.relu(first)
            return y, first, second + 1.0, B.q(F.linear(A.dq(q), self.fc()))

    tracer = Tracer()
    tracer.proxy_buffer_attributes = True
    net = Modules().eval()
    graph = GraphModule(net, tracer.trace(net))
    lowered = octavo.lower(graph)
    agree(graph, lowered, (torch.randn(5, 8),))
    assert "Linear" in kinds(lowered)
    assert not any("quantize" in name for name in kinds(lowered))


# Copies, files, state


def _network() -> tuple[GraphModule, Tensor]:
    def function(m: Any, x: Tensor) -> Any:
        y = B(F.relu6(F.conv2d(A(x), m.conv(), padding=1)))
        y = B(F.hardswish(y))
        y = B(torch.exp(-y))
        return {"out": F.linear(B(y), m.fc(), m.table)}

    x = torch.randn(2, 3, 8, 8)
    return octavo.lower(exported(Function(function), x)), x


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_deepcopy() -> None:
    lowered, x = _network()
    twin = copy.deepcopy(lowered)
    assert torch.equal(twin(x)["out"], lowered(x)["out"])
    assert lowering_report(twin) == lowering_report(lowered)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_pickle_and_save() -> None:
    lowered, x = _network()
    twin = pickle.loads(pickle.dumps(lowered))
    assert torch.equal(twin(x)["out"], lowered(x)["out"])
    assert lowering_report(twin) == lowering_report(lowered)
    file = io.BytesIO()
    torch.save(lowered, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert torch.equal(other(x)["out"], lowered(x)["out"])
    with pytest.raises(ValueError, match="must have shape"):
        other(x[:1])


def test_state_dict() -> None:
    lowered, x = _network()
    expected = lowered(x)["out"]
    file = io.BytesIO()
    torch.save(lowered.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    other, _ = _network()
    assert not torch.equal(other(x)["out"], expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x)["out"], expected)


def test_the_graph_given_is_not_changed() -> None:
    graph = exported(Function(lambda m, x: B(F.linear(A(x), m.fc()))), torch.randn(5, 8))
    code, state = graph.code, {key: value.clone() for key, value in graph.state_dict().items()}
    octavo.lower(graph)
    assert graph.code == code
    assert all(torch.equal(value, state[key]) for key, value in graph.state_dict().items())


def test_every_isa_and_thread_count_gives_the_same_bits() -> None:
    lowered, x = _network()
    expected, threads = lowered(x)["out"], torch.get_num_threads()
    for name in octavo.backend.supported():
        with octavo.backend.force(name):
            assert torch.equal(lowered(x)["out"], expected)
    try:
        torch.set_num_threads(1)
        assert torch.equal(lowered(x)["out"], expected)
    finally:
        torch.set_num_threads(threads)


# The report, errors


def test_the_report_prints() -> None:
    lowered, _ = _network()
    rows = lowering_report(lowered)
    assert isinstance(rows, LoweringReport)
    text = str(rows)
    assert "ConvHardtanh2d" in text
    assert f"{len(rows.lowered)} of {len(rows)} operators run on int8 kernels" in text
    assert rows._repr_html_().startswith("<table>")
    with pytest.raises(ValueError, match="no lowering report"):
        lowering_report(nn.Linear(1, 1))


def test_no_graph() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.fx\.GraphModule.*got Linear"):
        octavo.lower(nn.Linear(3, 3))


def test_a_graph_that_is_not_quantized() -> None:
    with pytest.raises(ValueError, match="run prepare_pt2e, calibrate, and run convert_pt2e first"):
        octavo.lower(exported(nn.Linear(3, 3), torch.randn(2, 3)))


def test_a_graph_that_is_prepared_only() -> None:
    observer = octavo.quantization.MinMaxObserver()
    graph = Graph()
    graph.output(graph.call_module("observer", (graph.placeholder("x"),)))
    with pytest.raises(ValueError, match=r"'observer'.*prepared, and not converted"):
        octavo.lower(GraphModule({"observer": observer}, graph))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("batch_norm", lambda m, x: F.batch_norm(x, m.mean, m.var, training=True)),
        ("dropout", lambda m, x: F.dropout(x, 0.5, training=True)),
    ],
)
def test_training_mode(name: str, function: Callable[[Any, Tensor], Tensor]) -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("var", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return B(function(self, A(x)))

    with pytest.raises(ValueError, match=f"{name}.*training mode"):
        octavo.lower(exported(Training(), torch.randn(5, 8)))
