"""What OctavoQuantizer annotates: fused patterns, shared qparams, rules; agreement with eager."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import octavo.nn.quantized as nnq
import octavo.quantization as tq
from octavo.quantization.pt2e.observers import (
    DerivedObserverOrFakeQuantize,
    ReusedObserver,
    is_observer,
)
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    ComposableQuantizer,
    EmbeddingQuantizer,
    OctavoQuantizer,
    QuantizationAnnotation,
    Quantizer,
    get_default_octavo_quantization_config,
)
from pt2e_support import (
    assert_is_fake_quantized,
    calibrated,
    count,
    export,
    octavo_quantizer,
    quantized,
)

CONFIG = get_default_octavo_quantization_config()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _quantized_values(model):
    """Names of the tensors that a quantize operator takes, in order."""
    return [
        node.args[0].name
        for node in model.graph.nodes
        if "octavo.quantize_per_tensor" in str(node.target)
    ]


def _qparams(model):
    return [
        node.args[1:3]
        for node in model.graph.nodes
        if "octavo.quantize_per_tensor" in str(node.target)
    ]


class Block(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.rule = forward

    def forward(self, x):
        return self.rule(self, x)


FUSED = {
    "conv": (lambda m, x: m.a(x), ["x", "conv2d"]),
    "relu": (lambda m, x: F.relu(m.a(x)), ["x", "relu"]),
    "relu6": (lambda m, x: F.relu6(m.a(x)), ["x", "relu6"]),
    "hardtanh": (lambda m, x: F.hardtanh(m.a(x), -2, 3), ["x", "hardtanh"]),
    # A clamp away from 0 may leave the range.
    "hardtanh away from 0": (
        lambda m, x: F.hardtanh(m.a(x), 1, 3),
        ["x", "conv2d"],
    ),
    "add": (lambda m, x: m.a(x) + x, ["x", "add"]),
    "add, relu": (lambda m, x: F.relu(x + m.a(x)), ["x", "relu"]),
    # Of two convolutions the first operand goes with the addition, whichever comes first.
    "two convolutions": (lambda m, x: F.relu(m.a(x) + m.b(x)), ["x", "conv2d_1", "relu"]),
    "the later first": (
        lambda m, x: (lambda a, b: F.relu(b + a))(m.a(x), m.b(x)),
        ["x", "conv2d", "relu"],
    ),
    "broadcast": (lambda m, x: m.a(x) + x[:, :, :1, :1], ["x", "conv2d", "slice_1", "add"]),
    "alpha": (lambda m, x: torch.add(m.a(x), x, alpha=2), ["x", "conv2d"]),
    "two readers": (lambda m, x: (lambda y: F.relu(y) + y)(m.a(x)), ["x", "conv2d", "relu", "add"]),
    "product": (lambda m, x: F.relu(m.a(x) * m.b(x)), ["x", "conv2d", "conv2d_1", "relu"]),
    "a value twice": (lambda m, x: (lambda y: y + y)(m.a(x)), ["x", "conv2d", "add"]),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_patterns(name):
    rule, expected = FUSED[name]
    x = torch.randn(2, 4, 6, 6)
    result = assert_is_fake_quantized(calibrated(Block(rule), x), x)
    values = _quantized_values(result)
    if name == "broadcast":  # slices of one dimension each
        values = [v for v in values if not v.startswith("slice_") or v == "slice_1"]
    assert values == expected


def test_linear_relu():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(2, 4, 5)
    result = assert_is_fake_quantized(calibrated(model, x), x)
    assert _quantized_values(result) == ["input_1", "relu", "linear_1"]


SHARING = {
    "max_pool": lambda m, x: F.max_pool2d(m.a(x), 2),
    "avg_pool": lambda m, x: F.avg_pool2d(m.a(x), 2),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(m.a(x), 1),
    "views": lambda m, x: m.a(x).permute(0, 2, 3, 1).flatten(1).reshape(-1, 4, 4).unsqueeze(1),
    "select": lambda m, x: m.a(x)[:, 1:3, ::2, 0],
    "mean": lambda m, x: m.a(x).mean((2, 3)),
    "interpolate": lambda m, x: F.interpolate(m.a(x), scale_factor=2, mode="bilinear"),
    "pad": lambda m, x: F.pad(m.a(x), (1, 1)),
    "clamp": lambda m, x: torch.clamp(F.max_pool2d(m.a(x), 2), -1, 1),
    "dropout": lambda m, x: F.dropout(m.a(x), 0.5, training=False),
    "split": lambda m, x: [part * 1 for part in m.a(x).split(2, 1)],
    "chunk": lambda m, x: tuple(m.a(x).chunk(2, 1)),
}


@pytest.mark.parametrize("name", SHARING)
def test_results_keep_the_qparams(name):
    x = torch.randn(2, 4, 6, 6)
    prepared = calibrated(Block(SHARING[name]), x)
    result = assert_is_fake_quantized(prepared, x)
    pairs = _qparams(result)
    assert len(pairs) >= 3
    assert len(set(pairs[1:])) == 1
    # One observer of x, weight and output each: the marks observe nothing.
    marks = (ReusedObserver, DerivedObserverOrFakeQuantize)
    kinds = [type(module) for module in prepared.children() if is_observer(module)]
    assert sum(kind not in marks for kind in kinds) == 3


NOT_SHARING = {
    "padding with other values": lambda m, x: F.pad(m.a(x), (1, 1), value=50.0),
    "sums that are called pooling": lambda m, x: F.avg_pool2d(m.a(x), 2, divisor_override=1),
    "clamp away from 0": lambda m, x: torch.clamp(F.max_pool2d(m.a(x), 2), 60, 70),
}


@pytest.mark.parametrize("name", NOT_SHARING)
def test_results_outside_of_the_range_do_not_share(name):
    x = torch.randn(2, 4, 6, 6)
    model = Block(NOT_SHARING[name]).eval()
    result = quantized(model, x)
    assert (result(x) - model(x)).abs().max() < 0.2


def test_concatenations_share():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 4, 1) for n in (4, 8, 12))

        def forward(self, x):
            y = F.relu(self.a(x))
            both = torch.cat([x, y], 1)
            three = torch.cat([both, self.b(both)], 1)
            return self.c(three)

    x = torch.randn(2, 4, 5, 5)
    prepared = calibrated(Dense(), x)
    result = assert_is_fake_quantized(prepared, x)
    cats = [node for node in result.graph.nodes if node.target is torch.ops.aten.cat.default]
    for node in cats:
        (user,) = node.users
        assert {part.args[1:3] for part in node.args[0]} == {user.args[1:3]}


def test_concatenations_of_what_cannot_share_have_qparams_of_their_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x) * 3, torch.sigmoid(x)], 1)

    x = torch.randn(2, 4, 5, 5)
    result = assert_is_fake_quantized(calibrated(Net(), x), x)
    (cat,) = (n for n in result.graph.nodes if n.target is torch.ops.aten.cat.default)
    (user,) = cat.users
    qparams = [part.args[1:3] for part in cat.args[0]]
    assert qparams[2] == (1 / 256, 0)
    assert len({*qparams, user.args[1:3]}) == 4


NUMBERS = {
    "x + 0.3": (lambda x: x + 0.3, 1.0),
    "x - 0.3": (lambda x: x - 0.3, 1.0),
    "0.3 - x": (lambda x: 0.3 - x, 1.0),
    "x * 0.25": (lambda x: x * 0.25, 0.25),
    "x * -2": (lambda x: x * -2, 2.0),
    "x / 4": (lambda x: x / 4, 0.25),
    "x + 1000": (lambda x: x + 1000, None),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_operations_with_numbers_derive_their_qparams(name):
    """As ``add_scalar`` and ``mul_scalar`` do: the integers stay, or are mirrored."""
    function, factor = NUMBERS[name]
    x = torch.randn(2, 4, 6, 6)
    prepared = calibrated(Block(lambda m, x: function(m.a(x))), x)
    result = assert_is_fake_quantized(prepared, x)
    (_, before), (_, after) = ((None, pair) for pair in _qparams(result)[-2:])
    if factor is not None:
        assert after[0] == pytest.approx(before[0] * factor)
    want, got = prepared(x), result(x)
    assert (got - want).abs().max() <= 2 * after[0]


def test_operations_with_numbers_between_floats_stay_float():
    x = torch.randn(2, 4, 6, 6)
    result = calibrated(Block(lambda m, x: torch.exp(m.a(x) * 0.5 + 1)), x)
    assert len(_qparams(convert_pt2e(result))) == 2
    result = calibrated(Block(lambda m, x: m.a(x / 2)), x)
    assert _quantized_values(convert_pt2e(result)) == ["div", "conv2d"]


def test_pooling_of_an_input_is_quantized_before():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.conv(F.max_pool2d(x, 2))

    x = torch.randn(2, 4, 6, 6)
    result = assert_is_fake_quantized(calibrated(Net(), x), x)
    assert _quantized_values(result) == ["x", "max_pool2d", "conv2d"]
    assert len(set(_qparams(result)[:2])) == 1


def test_squeeze_and_excite():
    class Excite(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

        def forward(self, x):
            x = F.hardswish(x)
            scale = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))
            return x * torch.sigmoid(scale)[:, :, :1]

    x = torch.randn(2, 4, 6, 6)
    result = assert_is_fake_quantized(calibrated(Excite(), x), x)
    # The sigmoid has its fixed qparams, and the product takes them. (Of x[:, :, :1] some versions
    # of torch make one slice, some one for each dimension.)
    values = _quantized_values(result)
    slices = [value for value in values if value.startswith("slice_")]
    assert slices
    assert values == ["x", "hardswish", "mean", "relu", "conv2d_1", "sigmoid", *slices, "mul"]
    assert _qparams(result)[5:-1] == [(1 / 256, 0)] * (1 + len(slices))


@pytest.mark.parametrize(
    "module",
    [
        nn.Hardswish(),
        nn.ELU(),
        nn.LeakyReLU(0.2),
        nn.PReLU(),
        nn.SiLU(),
        nn.GELU(),
        nn.LayerNorm(6),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.BatchNorm2d(4),
        nn.Sigmoid(),
        nn.Hardsigmoid(),
        nn.Tanh(),
        nn.Softmax(1),
        nn.ConvTranspose2d(4, 3, 2),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
    ids=str,
)
def test_single_operators(module):
    x = torch.randn(2, 4, 6, 6)
    result = assert_is_fake_quantized(calibrated(module, x), x)
    assert count(result, "octavo.quantize_per_tensor") == 2
    error = (result(x) - module(x)).abs().max()
    assert error < 0.1


def test_matrix_products():
    class Net(nn.Module):
        def forward(self, x, y):
            return torch.matmul(x, y.transpose(1, 2))

    inputs = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    result = assert_is_fake_quantized(calibrated(Net(), *inputs), *inputs)
    assert sorted(_quantized_values(result)) == ["matmul", "transpose", "x", "y"]


def test_integers_stay_as_they_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, i):
            return self.linear(self.table(i + i))

    i = torch.randint(0, 4, (5,))
    result = assert_is_fake_quantized(calibrated(Net(), i), i)
    assert _quantized_values(result) == ["embedding", "linear"]


# Rules.


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x)) + 1.0 * x


def _float_layers(quantizer):
    """Paths of the linear layers that are left float."""
    x = torch.randn(3, 4)
    prepared = prepare_pt2e(export(Nested().eval(), x), quantizer)
    layers = [n for n in prepared.graph.nodes if "aten.linear" in str(n.target)]
    names = ("first.0", "first.2", "second")
    return [name for name, node in zip(names, layers, strict=True) if node.args[1].op == "get_attr"]


def test_rules():
    assert _float_layers(OctavoQuantizer().set_global(CONFIG)) == []
    everything = ["first.0", "first.2", "second"]
    for kind in (nn.Linear, F.linear, torch.ops.aten.linear, torch.ops.aten.linear.default):
        quantizer = OctavoQuantizer().set_global(CONFIG)
        assert _float_layers(quantizer.set_object_type(kind, None)) == everything
        assert _float_layers(OctavoQuantizer().set_object_type(kind, CONFIG)) == []
    assert _float_layers(OctavoQuantizer().set_module_name("first", CONFIG)) == ["second"]
    quantizer = OctavoQuantizer().set_module_name("first", CONFIG)
    assert _float_layers(quantizer.set_module_name("first.0", None)) == ["first.0", "second"]
    quantizer = OctavoQuantizer().set_object_type(nn.Linear, None)
    assert _float_layers(quantizer.set_module_name("second", CONFIG)) == ["first.0", "first.2"]
    quantizer = OctavoQuantizer().set_global(CONFIG).set_module_type(nn.Linear, None)
    assert _float_layers(quantizer) == everything
    quantizer = OctavoQuantizer().set_global(CONFIG).set_function_type(F.linear, None)
    assert _float_layers(quantizer) == everything


def test_a_float_relu_is_not_fused():
    quantizer = OctavoQuantizer().set_global(CONFIG).set_object_type(nn.ReLU, None)
    x = torch.randn(3, 4)
    result = quantized(Nested(), x, quantizer=quantizer)
    assert "linear" in _quantized_values(result)


def test_functions_by_any_name():
    x = torch.randn(3, 4)
    for function in (torch.add, operator.add, torch.Tensor.add_):
        quantizer = OctavoQuantizer().set_global(CONFIG).set_object_type(function, None)
        assert "add" not in _quantized_values(quantized(Nested(), x, quantizer=quantizer))
    assert "add" in _quantized_values(quantized(Nested(), x))


def test_refusals():
    with pytest.raises(TypeError, match="must be a QuantizationConfig"):
        OctavoQuantizer().set_global(tq.get_default_qconfig())
    with pytest.raises(TypeError, match="module class, a function or an operator"):
        OctavoQuantizer().set_object_type("linear", CONFIG)
    with pytest.raises(TypeError, match="give it a module's path"):
        OctavoQuantizer().set_module_name(nn.Linear, CONFIG)
    quantizer = OctavoQuantizer().set_module_name("third", CONFIG)
    with pytest.raises(ValueError, match=r"'third'.*it has \['first', 'first.0'"):
        prepare_pt2e(export(Nested().eval(), torch.randn(2, 4)), quantizer)
    with pytest.raises(ValueError, match="has no calibration"):
        get_default_octavo_quantization_config(is_qat=True, is_dynamic=True)


# Composition.


class OnlyProducts(Quantizer):
    def annotate(self, model):
        for node in model.graph.nodes:
            if "aten.mul" in str(node.target):
                node.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)
        return model

    def validate(self, model):
        self.validated = True


def test_composition():
    first = OnlyProducts()
    quantizer = ComposableQuantizer([first, OctavoQuantizer().set_global(CONFIG)])
    model, x = Block(lambda m, x: m.a(x) * m.b(x)), torch.randn(2, 4, 5, 5)
    assert _quantized_values(quantized(model, x)) == ["x", "conv2d", "conv2d_1", "mul"]
    composed = quantized(model, x, quantizer=quantizer)
    assert _quantized_values(composed) == ["x", "conv2d", "conv2d_1"]
    assert first.validated
    with pytest.raises(ValueError, match="at least one"):
        ComposableQuantizer([])


def test_quantizers_may_not_take_back_annotations():
    class Eraser(OnlyProducts):
        def annotate(self, model):
            for node in model.graph.nodes:
                node.meta.pop("quantization_annotation", None)
            return model

    quantizer = ComposableQuantizer([OctavoQuantizer().set_global(CONFIG), Eraser()])
    with pytest.raises(ValueError, match="Eraser has changed the annotation of node"):
        prepare_pt2e(export(Nested().eval(), torch.randn(2, 4)), quantizer)


def test_embedding_tables():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, i):
            return self.linear(self.table(i))

    model, i = Bag(), torch.arange(9)
    alone = quantized(nn.Sequential(model.table), i, quantizer=EmbeddingQuantizer())
    model.table.qconfig = tq.float_qparams_weight_only_qconfig
    eager = nnq.Embedding.from_float(model.table)
    del model.table.qconfig
    assert torch.equal(alone(i), eager(i))
    both = ComposableQuantizer([EmbeddingQuantizer(), OctavoQuantizer().set_global(CONFIG)])
    result = quantized(model, i, quantizer=both)
    assert alone._frozen_param0.dtype == torch.uint8
    assert (result(i) - model(i)).abs().max() < 0.05
    assert count(result, "octavo.dequantize_per_channel") == 2
    assert not any(p.dim() == 2 for p in result.parameters())


# Agreement with eager mode.


class Eager(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.body = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.dequant(self.body(self.quant(x)))


def _eager_quantized(model, batches):
    fused = tq.fuse_modules(model, [["body.1", "body.2", "body.3"], ["body.7", "body.8"]])
    fused.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(fused)
    for batch in batches:
        prepared(batch)
    return tq.convert(prepared)


def test_qparams_and_weights_are_those_of_eager_mode():
    model = Eager()
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16) * 2 + 1)
    model.eval()
    batches = [torch.randn(4, 3, 16, 16) * factor for factor in (1, 2, 0.5)]
    eager = _eager_quantized(model, batches)
    prepared = prepare_pt2e(export(model.body, batches[0]), octavo_quantizer())
    for batch in batches:
        prepared(batch)
    result = convert_pt2e(prepared)

    layers = [eager.body[i] for i in (1, 4, 7, 9)]
    expected = [(float(eager.quant.scale), int(eager.quant.zero_point))]
    expected += [(float(layer.scale), int(layer.zero_point)) for layer in layers]
    assert list(dict.fromkeys(_qparams(result))) == expected
    weights = [getattr(result, f"_frozen_param{i}") for i in range(4)]
    for layer, weight, index in zip(layers, weights, range(4), strict=True):
        assert torch.equal(layer.weight().int_repr(), weight)
        scales = getattr(result, f"_scale_{index}").double()
        assert torch.equal(layer.weight().q_per_channel_scales().double(), scales)
    x = torch.randn(4, 3, 16, 16)
    step = layers[-1].scale
    assert (eager(x) - result(x)).abs().max() <= 1.001 * step
