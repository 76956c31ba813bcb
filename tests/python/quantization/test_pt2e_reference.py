"""The reference representation: integers, with the bits of the kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import octavo.quantization as tq
from octavo.nn import intrinsic as nni
from octavo.nn.quantized import FloatFunctional
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from pt2e_support import calibrated, export, octavo_quantizer, targets


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Eager(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.quant, self.body, self.dequant = tq.QuantStub(), body, tq.DeQuantStub()

    def forward(self, x):
        return self.dequant(self.body(self.quant(x)))


class Addition(nn.Module):
    """A residual block whose additions eager mode and graphs both quantize on their own."""

    def __init__(self, relu, product=False):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.op, self.relu, self.product = FloatFunctional(), relu, product

    def forward(self, x):
        a, b = self.one(x), self.two(x)
        if self.product:
            return self.op.mul(a, b)
        return self.op.add_relu(a, b) if self.relu else self.op.add(a, b)


BODIES = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False)), (7, 6)),
    "linear relu": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), (3, 7, 6)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, 2, 1, groups=2), nn.ReLU()), (2, 4, 11)),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
            nn.Flatten(),
            nn.Linear(96, 3),
        ),
        (2, 3, 8, 8),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU()), (1, 2, 4, 4, 4)),
    "same": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), (2, 3, 5, 5)),
    "add": (lambda: Addition(False), (9, 6)),
    "add relu": (lambda: Addition(True), (9, 6)),
    "mul": (lambda: Addition(False, True), (9, 6)),
}


@pytest.mark.parametrize("name", BODIES)
def test_bits_are_those_of_eager_mode(name):
    make, shape = BODIES[name]
    body, x = make().eval(), torch.randn(shape)
    eager = Eager(body).eval()
    names = [n for n, m in eager.named_modules() if isinstance(m, nn.ReLU)]
    if names:
        index = [int(n.rpartition(".")[2]) for n in names]
        eager = tq.fuse_modules(eager, [[f"body.{i - 1}", f"body.{i}"] for i in index])
    eager.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(eager)
    graph = prepare_pt2e(export(body, x), octavo_quantizer())
    for factor in (1, 2, 0.5):
        prepared(x * factor)
        graph(x * factor)
    expected = tq.convert(prepared)
    result = convert_pt2e(graph, use_reference_representation=True)
    assert not any("octavo" in target for target in targets(result))
    for factor in (1, 3):
        assert torch.equal(result(x * factor), expected(x * factor))
    for node in result.graph.nodes:
        if any(f"aten.{kind}" in str(node.target) for kind in ("linear", "conv")):
            dilated = "conv" in str(node.target) and node.args[5:6] == ([2, 2],)
            kind = torch.float64 if dilated else torch.int32
            assert [part.meta["val"].dtype for part in (*node.args[:2], node)] == [kind] * 3


class Block(nn.Module):
    """A convolution, an addition and a ReLU: one layer in both modes."""

    def __init__(self, relu):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        kind = nni.ConvAddReLU2d if relu else nni.ConvAdd2d
        parts = [nn.Conv2d(6, 6, 3, padding=1), torch.add]
        self.fused = kind(*parts, nn.ReLU()) if relu else kind(*parts)

    def forward(self, x):
        y = self.stem(x)
        return self.fused(y, y)


class PlainBlock(nn.Module):
    def __init__(self, block, relu):
        super().__init__()
        self.stem, self.conv, self.relu = block.stem, block.fused[0], relu

    def forward(self, x):
        y = self.stem(x)
        z = self.conv(y) + y
        return F.relu(z) if self.relu else z


@pytest.mark.parametrize("relu", [False, True])
def test_bits_of_a_fused_addition(relu):
    block, x = Block(relu).eval(), torch.randn(2, 3, 6, 6)
    eager = Eager(block)
    eager.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(eager.eval())
    graph = prepare_pt2e(export(PlainBlock(block, relu).eval(), x), octavo_quantizer())
    for factor in (1, 2, 0.5):
        prepared(x * factor)
        graph(x * factor)
    result = convert_pt2e(graph, use_reference_representation=True)
    assert torch.equal(result(x), tq.convert(prepared)(x))


@pytest.mark.parametrize("dynamic", [False, True])
def test_numbers_are_near_those_of_floats(dynamic):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(16, 8)

        def forward(self, x):
            y = F.relu6(self.conv(x)).permute(0, 2, 3, 1).flatten(2).reshape(x.shape[0], -1, 16)
            return torch.sigmoid(self.linear(y)) * 2.0 + F.gelu(self.linear(y))

    x = torch.randn(2, 3, 6, 6)
    graph = calibrated(Net(), x, quantizer=octavo_quantizer(is_dynamic=dynamic))
    plain = convert_pt2e(graph)
    integer = convert_pt2e(graph, use_reference_representation=True)
    assert (plain(x) - integer(x)).abs().max() <= (1e-5 if dynamic else 0.1)
    assert any(t == "aten.linear.default" for t in targets(integer))
    assert not any("octavo.dequantize" in target for target in targets(integer))


def test_dynamic_bits_are_those_of_eager_mode():
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(4, 3, 6)
    graph = prepare_pt2e(export(model, x), octavo_quantizer(is_dynamic=True))
    result = convert_pt2e(graph, use_reference_representation=True)
    eager = tq.quantize_dynamic(model)
    assert torch.equal(result(x), eager(x))


def test_a_weight_with_one_scale():
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(3, 2, 1)), torch.randn(4, 3, 6)
    graph = calibrated(model, x, quantizer=octavo_quantizer(is_per_channel=False))
    plain, integer = convert_pt2e(graph), convert_pt2e(graph, use_reference_representation=True)
    steps = [n.args[1] for n in plain.graph.nodes if "quantize_per_tensor" in str(n.target)]
    assert (plain(x) - integer(x)).abs().max() <= 1.001 * steps[-1]
    assert not any("octavo" in target for target in targets(integer))


def test_values_that_are_not_finite():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    integer = convert_pt2e(calibrated(model, x), use_reference_representation=True)
    plain = convert_pt2e(calibrated(model, x))
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -torch.inf
    torch.testing.assert_close(integer(x), plain(x), atol=0.02, rtol=0)


def test_refusals():
    graph = calibrated(nn.Linear(3, 2), torch.randn(4, 3))
    with pytest.raises(ValueError, match="leave fold_quantize True"):
        convert_pt2e(graph, use_reference_representation=True, fold_quantize=False)
    with pytest.raises(ValueError, match="use_reference_representation must be a bool"):
        convert_pt2e(graph, "yes")
