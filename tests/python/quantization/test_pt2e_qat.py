"""Quantization-aware training of exported graphs, modes, dynamic quantization."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import octavo.quantization as tq
from octavo.quantization.quantize_pt2e import (
    allow_exported_model_train_eval,
    convert_pt2e,
    model_is_exported,
    move_exported_model_to_eval,
    move_exported_model_to_train,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from octavo.quantization.quantizer import (
    DerivedQuantizationSpec,
    OctavoQuantizer,
    QuantizationAnnotation,
    get_default_octavo_quantization_config,
)
from pt2e_support import (
    count,
    export,
    octavo_quantizer,
    quantized,
    targets,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=bias),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3),
            nn.BatchNorm2d(4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.body(x)


def _batches(steps=4):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(6, 3, 8, 8, generator=generator) * 2 + 0.5 for _ in range(steps)]


def _train(model, batches, rate=0.05):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    losses = []
    for x in batches:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _prepared(model, x):
    return prepare_qat_pt2e(export(model, x), octavo_quantizer(is_qat=True))


def _eager(model):
    names = [["body.0", "body.1", "body.2"], ["body.3", "body.4"], ["body.7", "body.8"]]
    eager = nn.Sequential(tq.QuantStub(), copy.deepcopy(model), tq.DeQuantStub()).train()
    fused = tq.fuse_modules_qat(eager, [[f"1.{name}" for name in part] for part in names])
    fused.qconfig = tq.get_default_qat_qconfig()
    return tq.prepare_qat(fused)


@pytest.mark.parametrize("bias", [False, True])
def test_training_is_that_of_eager_mode(bias):
    model, batches = Net(bias).train(), _batches()
    eager = _eager(model)
    graph = _prepared(copy.deepcopy(model), batches[0])
    # The graphs differ in the order of float operations at most.
    assert _train(graph, batches) == pytest.approx(_train(eager, batches), rel=1e-4)
    convolution = next(m for m in eager.modules() if hasattr(m, "bn"))
    torch.testing.assert_close(
        graph.body.get_submodule("1").running_var, convolution.bn.running_var
    )


def test_the_result_is_that_of_eager_mode_without_steps():
    """Training with a rate of 0 leaves the weights alone: qparams are then equal to the bit."""
    model, batches = Net().train(), _batches(3)
    eager, graph = _eager(model), _prepared(copy.deepcopy(model), batches[0])
    _train(eager, batches, 0.0)
    _train(graph, batches, 0.0)
    ours, theirs = convert_pt2e(graph), tq.convert(eager.eval())
    layers = [m for m in theirs.modules() if callable(getattr(m, "weight", None))]
    assert len(layers) == 4
    for index, layer in enumerate(layers):
        assert torch.equal(getattr(ours, f"_frozen_param{index}"), layer.weight().int_repr())
    pairs = [n.args[1:3] for n in ours.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)]
    first = theirs[0]
    assert pairs[0] == (float(first.scale), int(first.zero_point))
    assert ours(batches[0]).shape == (6, 3)
    step = float(layers[-1].scale)
    assert (ours(batches[0]) - theirs(batches[0])).abs().max() <= 1.001 * step


@pytest.mark.parametrize("bias", [False, True])
def test_the_converted_graph_is_what_was_trained(bias):
    model, batches = Net(bias).train(), _batches(1) * 6
    graph = _prepared(model, batches[0])
    losses = _train(graph, batches)
    assert losses[-1] < losses[0]
    graph.eval()
    for module in graph.modules():  # rounds as it was trained to
        tq.disable_observer(module)
    with torch.no_grad():
        trained = graph(batches[0])
    result = convert_pt2e(graph)
    assert count(result, "batch_norm") == 0
    assert [t for t in targets(result) if "aten" in t] == [
        "aten.conv2d.default",
        "aten.relu.default",
        "aten.conv2d.default",
        "aten.max_pool2d.default",
        "aten.flatten.using_ints",
        "aten.linear.default",
        "aten.relu.default",
        "aten.linear.default",
    ]
    last = [n for n in result.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)][-1]
    assert (result(batches[0]) - trained).abs().max() <= 1.001 * last.args[1]
    assert not any("running" in key for key in result.state_dict())


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (5, 4, 9)),
        ((nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6)), (5, 4, 3, 3)),
        ((nn.Linear(4, 6), nn.BatchNorm1d(6)), (9, 4)),
        ((nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), nn.ReLU()), (3, 2, 4, 4, 4)),
    ],
)
def test_layers_with_a_batch_norm(layers, shape):
    model = nn.Sequential(*layers).train()
    x = torch.randn(shape)
    graph = _prepared(model, x)
    _train(graph, [x, x * 1.1, x * 0.9])
    graph.eval()
    for module in graph.modules():
        tq.disable_observer(module)
    result = convert_pt2e(graph)
    assert count(result, "batch_norm") == 0
    last = [n for n in result.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)][-1]
    assert (result(x) - graph(x)).abs().max() <= 1.001 * last.args[1]


def test_a_gamma_of_zero_trains():
    model = Net().train()
    with torch.no_grad():
        model.body[1].weight[2] = 0
        model.body[1].bias[2] = 0.5  # or the ReLU would stop the gradient
    x = _batches(1)[0]
    graph = _prepared(model, x)
    _train(graph, [x, x])
    assert all(torch.isfinite(p).all() for p in graph.parameters())
    assert graph.body.get_submodule("1").weight[2] != 0
    assert torch.isfinite(convert_pt2e(graph)(x)).all()


def test_a_batch_norm_between_other_readers_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    x = torch.randn(4, 3, 5, 5)
    graph = _prepared(Two().train(), x)
    graph(x)
    assert count(graph, "sqrt") == 0
    assert count(convert_pt2e(graph), "batch_norm") == 1


def test_a_derived_bias_is_folded_too():
    """A quantizer that rounds biases: its spec follows the weight's."""

    class WithBias(OctavoQuantizer):
        def annotate(self, model):
            super().annotate(model)
            for node in model.graph.nodes:
                if "aten.conv2d" in str(node.target):
                    x, weight, bias = node.args[:3]
                    derived = DerivedQuantizationSpec(
                        [(x, node), (weight, node)],
                        lambda parts: (
                            parts[0].calculate_qparams()[0] * parts[1].calculate_qparams()[0],
                            torch.zeros(6, dtype=torch.int32),
                        ),
                        torch.int32,
                        qscheme=torch.per_channel_symmetric,
                        ch_axis=0,
                    )
                    known = node.meta["quantization_annotation"]
                    assert isinstance(known, QuantizationAnnotation)
                    known.input_qspec_map[bias] = derived
            return model

    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).train()
    quantizer = WithBias().set_global(get_default_octavo_quantization_config(is_qat=True))
    x = torch.randn(4, 3, 6, 6)
    graph = prepare_qat_pt2e(export(model, x), quantizer)
    _train(graph, [x, x])
    graph.eval()
    for module in graph.modules():
        tq.disable_observer(module)
    result = convert_pt2e(graph)
    layer = next(n for n in result.graph.nodes if "aten.conv2d" in str(n.target))
    stored = [getattr(result, part.args[0].target) for part in layer.args[1:3]]
    assert [t.dtype for t in stored] == [torch.int8, torch.int32]
    weight, bias = layer.args[1:3]
    scales = [getattr(result, part.args[1].target) for part in (weight, bias)]
    assert torch.equal(scales[1], layer.args[0].args[1] * scales[0])
    last = [n for n in result.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)][-1]
    assert (result(x) - graph(x)).abs().max() <= 1.001 * last.args[1]


# Modes.


class Modes(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(x))


def test_modes_of_exported_graphs():
    model, x = Modes().train(), torch.randn(16, 4)
    graph = export(model, x)
    assert model_is_exported(graph)
    assert not model_is_exported(model)
    assert (graph(x) == 0).any()
    state = copy.deepcopy(graph.state_dict())
    assert move_exported_model_to_eval(graph) is graph
    graph(x)
    assert torch.equal(graph.norm.running_mean, state["norm.running_mean"])
    assert torch.equal(graph(x), copy.deepcopy(model).eval()(x))
    move_exported_model_to_train(graph)
    assert (graph(x) == 0).any()
    assert not torch.equal(graph.norm.running_mean, state["norm.running_mean"])
    allow_exported_model_train_eval(graph)
    graph.eval()
    assert not (graph(x) == 0).any()
    assert not graph.training
    graph.train()
    assert (graph(x) == 0).any()


def test_modes_of_prepared_and_converted_graphs():
    class WithLayer(Modes):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(super().forward(x))

    x = torch.randn(16, 4)
    graph = _prepared(WithLayer().train(), x)
    graph(x)
    assert not torch.equal(graph(x), graph(x))
    graph.eval()
    for module in graph.modules():
        tq.disable_observer(module)
    assert torch.equal(graph(x), graph(x))
    result = convert_pt2e(graph)
    assert torch.equal(result(x), result(x))
    result.train()
    assert not torch.equal(result(x), result(x))


def test_a_graph_in_training_mode_moves_to_eval_for_prepare():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    x = torch.randn(4, 3, 5, 5)
    graph = move_exported_model_to_eval(export(model, x))
    prepared = prepare_pt2e(graph, octavo_quantizer())
    assert count(prepared, "batch_norm") == 0
    torch.testing.assert_close(prepared(x), model.eval()(x))


# Dynamic.


def _dynamic(model, x, **kwargs):
    return convert_pt2e(
        prepare_pt2e(export(model.eval(), x), octavo_quantizer(is_dynamic=True, **kwargs))
    )


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_linear_is_that_of_eager_mode(reduce_range):
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    x = torch.randn(5, 3, 16) * torch.logspace(-2, 2, 5).reshape(5, 1, 1)
    graph = _dynamic(model, x, reduce_range=reduce_range)
    config = tq.default_dynamic_qconfig
    if reduce_range:
        observer = tq.PlaceholderObserver.with_args(
            dtype=torch.uint8, is_dynamic=True, reduce_range=True
        )
        config = tq.QConfig(observer, config.weight)
    eager = tq.quantize_dynamic(model, {nn.Linear: config})
    assert targets(graph).count("octavo.choose_qparams_per_token.default") == 2
    for index in (0, 2):
        weight = eager[index].weight().int_repr()
        assert torch.equal(getattr(graph, f"_frozen_param{index // 2}"), weight)
    torch.testing.assert_close(graph(x), eager(x), rtol=1e-5, atol=1e-6)
    # Rows do not depend on one another.
    assert torch.equal(graph(x)[1:3], graph(x[1:3]))


def test_dynamic_quantization_leaves_the_rest_float():
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Linear(6, 6), nn.Sigmoid())
    graph = _dynamic(model, torch.randn(2, 4, 6))
    assert targets(graph) == [
        "aten.conv1d.default",
        "octavo.choose_qparams_per_token.default",
        "<built-in function getitem>",
        "<built-in function getitem>",
        "octavo.quantize_per_token.default",
        "octavo.dequantize_per_token.default",
        "octavo.dequantize_per_channel.default",
        "aten.linear.default",
        "aten.sigmoid.default",
    ]


def test_a_shared_input_is_quantized_once():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.q(x) @ self.k(x).transpose(1, 2)

    graph = _dynamic(Attention(), torch.randn(2, 3, 8))
    assert count(graph, "choose_qparams") == 1
    assert count(graph, "dequantize_per_token") == 2


@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_observers_of_whole_tensors(symmetric):
    from octavo.quantization.quantizer import QuantizationConfig, QuantizationSpec

    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    weight = get_default_octavo_quantization_config().weight
    observer = tq.MovingAverageMinMaxObserver.with_args(averaging_constant=1)
    act = QuantizationSpec(torch.int8, observer, -127, 127, scheme, is_dynamic=True)
    quantizer = OctavoQuantizer().set_global(QuantizationConfig(act, None, weight))
    model, x = nn.Linear(6, 4), torch.randn(3, 6)
    graph = quantized(model, x, quantizer=quantizer)
    name = "choose_qparams_symmetric" if symmetric else "choose_qparams"
    assert targets(graph)[0] == f"octavo.{name}.tensor"
    assert (graph(x) - model(x)).abs().max() < 0.05


def test_dynamic_shapes_of_batch_and_sequence():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return x + self.b(F.gelu(self.a(x)))

    model = Encoder().eval()
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2)
    graph = export(model, torch.randn(3, 5, 8), dynamic=({0: batch, 1: length},))
    for kwargs in ({}, {"is_dynamic": True}):
        prepared = prepare_pt2e(graph, octavo_quantizer(**kwargs))
        prepared(torch.randn(4, 7, 8))
        result = convert_pt2e(prepared)
        for shape in ((1, 3, 8), (6, 2, 8)):
            x = torch.randn(shape).clamp(-3, 3)
            assert (result(x) - model(x)).abs().max() < 0.2
        again = torch.export.export(
            result, (torch.randn(3, 5, 8),), dynamic_shapes=({0: batch, 1: length},)
        )
        assert torch.equal(again.module()(x), result(x))
