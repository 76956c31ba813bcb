"""Networks of many shapes through the graph flow: numbers, no observer left, no pair in vain."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octavo.quantization.pt2e.observers import is_observer
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from pt2e_support import (
    calibrated,
    count,
    export,
    octavo_quantizer,
    run_fake_quantized,
)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.down = nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu(self.two(self.one(x)) + self.down(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseConcat(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x.mean((2, 3))


class InvertedResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.dw = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project = nn.Conv2d(12, 3, 1)
        self.down, self.up = nn.Linear(12, 4), nn.Linear(4, 12)

    def forward(self, x):
        y = F.relu6(self.dw(F.hardswish(self.expand(x))))
        gate = F.hardsigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return self.project(y * gate[:, :, None, None]) + x


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.c = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = F.relu(self.a(x))
        deep = F.relu(self.b(F.max_pool2d(skip, 2)))
        return torch.sigmoid(self.c(torch.cat([self.up(deep), skip], 1)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, x, y):
        a, b = self.left(x), self.right(y)
        return {"sum": a + b, "parts": (a, [b, a * b]), "same": x}


class Shared(nn.Module):
    """One module called twice, and one functional used again and again."""

    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x):
        x = self.act(self.layer(x))
        x = self.act(self.layer(x) + x)
        return self.layer(self.act(x * x))


class Encoder(nn.Module):
    """A layer of BERT."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(30, width)
        self.places = nn.Parameter(torch.randn(1, 6, width) * 0.1)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.pool = nn.Linear(width, width)

    def _split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, tokens, mask):
        x = self.norms[0](self.words(tokens) + self.places)
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / 2.0 + mask
        mixed = torch.matmul(scores.softmax(-1), v).transpose(1, 2).flatten(2)
        x = self.norms[1](x + F.dropout(self.o(mixed), 0.1, self.training))
        x = self.norms[2](x + self.narrow(F.gelu(self.wide(x))))
        return x, torch.tanh(self.pool(x[:, 0]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Splitting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        one, two = self.a(x).chunk(2, 1)
        y = torch.cat([self.b(one), two], 1).view(x.shape[0], 2, 4, *x.shape[2:])
        return y.transpose(1, 2).flatten(1, 2)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(4, 6), nn.Linear(5, 2)
        self.rnn = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


def _image():
    return torch.randn(2, 3, 8, 8)


def _mask():
    hidden = torch.arange(6) >= torch.tensor([[6], [4]])
    return torch.zeros(2, 1, 1, 6).masked_fill(hidden[:, None, None], torch.finfo().min)


ZOO = {
    "residual": (Residual, (_image,)),
    "dense concat": (DenseConcat, (_image,)),
    "inverted residual": (InvertedResidual, (_image,)),
    "u-net": (UNet, (_image,)),
    "two inputs": (TwoInputs, (lambda: torch.randn(3, 6), lambda: torch.randn(3, 5))),
    "shared modules": (Shared, (lambda: torch.randn(3, 6),)),
    "encoder": (Encoder, (lambda: torch.randint(0, 30, (2, 6)), _mask)),
    "attention": (Attention, (lambda: torch.randn(2, 5, 8),)),
    "splitting": (Splitting, (lambda: torch.randn(2, 4, 5, 5),)),
    "recurrent": (Sequence, (lambda: torch.randn(2, 7, 4),)),
}


def _leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def _is_dequantize(node):
    return "octavo.dequantize" in str(node.target)


def _sqnr(expected, got):
    noise = (expected - got).square().sum()
    return 10 * torch.log10(expected.square().sum() / noise.clamp(min=1e-20))


WITHOUT_LINEAR = ("dense concat", "u-net", "splitting")
CASES = [
    *((name, False) for name in ZOO),
    *((name, True) for name in ZOO if name not in WITHOUT_LINEAR),
]


@pytest.mark.parametrize(("name", "dynamic"), CASES)
def test_network(name, dynamic):
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    inputs = tuple(make_input() for make_input in inputs)
    model = make().train()
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        with torch.no_grad():
            model(*inputs)
    model.eval()
    prepared = calibrated(model, *inputs, quantizer=octavo_quantizer(is_dynamic=dynamic))
    result = convert_pt2e(prepared)
    with torch.no_grad():
        expected, got = model(*inputs), result(*inputs)
    assert torch.utils._pytree.tree_structure(expected) == torch.utils._pytree.tree_structure(got)
    for one, other in zip(_leaves(expected), _leaves(got), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert _sqnr(one, other) > 15
    if not dynamic:
        fake = run_fake_quantized(prepared, *inputs)
        assert all(map(torch.equal, _leaves(got), _leaves(fake)))
    _check_form(result, prepared)


def _check_form(result, prepared):
    assert not any(is_observer(module) for module in result.modules())
    assert count(result, "batch_norm") == 0
    for node in result.graph.nodes:
        if not _is_dequantize(node):
            continue
        (user,) = node.users
        if "octavo.quantize_per_tensor.default" in str(user.target):
            assert user.args[1:] != node.args[1:]
    # Observers: one for each value, none behind another one.
    modules = dict(prepared.named_modules(remove_duplicate=False))
    seen = set()
    for node in prepared.graph.nodes:
        if node.op == "call_module" and is_observer(modules[node.target]):
            key = node.args[0], id(modules[node.target])
            assert key not in seen
            seen.add(key)


@pytest.mark.parametrize("name", ["residual", "inverted residual", "encoder", "shared modules"])
def test_layers_have_integer_weights_and_inputs(name):
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    inputs = tuple(make_input() for make_input in inputs)
    result = convert_pt2e(calibrated(make(), *inputs))
    layers = [
        node
        for node in result.graph.nodes
        if any(f"aten.{kind}." in str(node.target) for kind in ("conv2d", "linear"))
    ]
    assert layers
    for node in layers:
        assert all(_is_dequantize(part) for part in node.args[:2])
        assert getattr(result, node.args[1].args[0].target).dtype == torch.int8
    floats = [p for p in result.parameters() if p.dim() >= 2]
    assert sum(p.numel() for p in floats) <= (30 * 16 if name == "encoder" else 0)


@pytest.mark.parametrize("name", ["residual", "inverted residual", "u-net", "splitting"])
def test_any_batch(name):
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    x = inputs[0]()
    prepared = calibrated(make(), x)
    result = convert_pt2e(prepared)
    more = torch.randn(5, *x.shape[1:])
    assert torch.allclose(result(more)[1:3], result(more[1:3]), atol=1e-6)


def test_a_saved_program_computes_the_same(tmp_path):
    torch.manual_seed(0)
    x = _image()
    result = convert_pt2e(calibrated(Residual(), x))
    program = torch.export.export(result, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    more = torch.randn(4, 3, 8, 8)
    assert torch.equal(loaded(more), result(more))
    stored = {v.dtype for v in loaded.state_dict().values() if v.dim() == 4}
    assert stored == {torch.int8}


def test_state_dicts():
    torch.manual_seed(0)
    x = _image()
    first = convert_pt2e(calibrated(Residual(), x))
    state = first.state_dict()
    torch.manual_seed(0)
    x = _image()
    second = convert_pt2e(calibrated(Residual(), x))
    for value in second.state_dict().values():
        value.zero_()
    second.load_state_dict(state)
    assert torch.equal(first(x), second(x))
    prepared = calibrated(Residual(), x)
    fresh = prepare_pt2e(export(Residual().eval(), x), octavo_quantizer())
    fresh.load_state_dict(prepared.state_dict())
    assert torch.equal(convert_pt2e(fresh)(x), convert_pt2e(prepared)(x))


@pytest.mark.parametrize("dynamic", [False, True])
def test_graphs_compile_whole(dynamic):
    torch.manual_seed(0)
    make, inputs = ZOO["inverted residual"]
    x = inputs[0]()
    result = convert_pt2e(calibrated(make(), x, quantizer=octavo_quantizer(is_dynamic=dynamic)))
    torch.compiler.reset()
    compiled = torch.compile(result, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), result(x))
