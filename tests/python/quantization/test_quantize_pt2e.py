"""Preparing and converting exported graphs with quantizers written by hand, and the default one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octavo.quantization import (
    FixedQParamsObserver,
    MinMaxObserver,
)
from octavo.quantization.pt2e.observers import is_observer
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from pt2e_support import (
    ACT,
    WEIGHT,
    ByHand,
    TwoLayers,
    assert_is_fake_quantized,
    calibrated,
    count,
    export,
    is_aten,
    linear_annotation,
    observer_names,
    octavo_quantizer,
    quantized,
    targets,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_quantizer_by_hand():
    prepared = calibrated(
        TwoLayers(),
        torch.randn(8, 6),
        quantizer=ByHand(lambda n: linear_annotation(n) if is_aten(n, "linear") else None),
    )
    # x, two weights, two outputs; the output of the first is the input of the second.
    assert len(observer_names(prepared)) == 5
    result = assert_is_fake_quantized(prepared, torch.randn(3, 6))
    assert not observer_names(result)
    assert targets(result) == [
        "octavo.quantize_per_tensor.default",
        "octavo.dequantize_per_tensor.default",
        "octavo.dequantize_per_channel.default",
        "aten.linear.default",
        "octavo.quantize_per_tensor.default",
        "octavo.dequantize_per_tensor.default",
        "octavo.dequantize_per_channel.default",
        "aten.linear.default",
        "octavo.quantize_per_tensor.default",
        "octavo.dequantize_per_tensor.default",
    ]
    frozen = {name: value.dtype for name, value in result.named_buffers() if "frozen" in name}
    assert frozen == {"_frozen_param0": torch.int8, "_frozen_param1": torch.int8}
    assert not any(value.is_floating_point() and value.dim() == 2 for value in result.parameters())


def test_without_folding_weights_stay_float():
    prepared = calibrated(TwoLayers(), torch.randn(8, 6))
    folded, unfolded = convert_pt2e(prepared), convert_pt2e(prepared, fold_quantize=False)
    x = torch.randn(4, 6)
    assert torch.equal(folded(x), unfolded(x))
    assert count(unfolded, "octavo.quantize_per_channel") == 2
    assert count(folded, "octavo.quantize_per_channel") == 0


def test_graphs_that_are_given_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, 6, 6)
    graph = export(model, x)
    code, state = graph.code, {k: v.clone() for k, v in graph.state_dict().items()}
    prepared = prepare_pt2e(graph, octavo_quantizer())
    prepared(x)
    before = prepared.code, {k: v.clone() for k, v in prepared.state_dict().items()}
    first, second = convert_pt2e(prepared), convert_pt2e(prepared)
    assert torch.equal(first(x), second(x))
    assert graph.code == code
    assert prepared.code == before[0]
    for module, known in ((graph, state), (prepared, before[1])):
        assert module.state_dict().keys() == known.keys()
        assert all(torch.equal(module.state_dict()[k], v) for k, v in known.items())


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_copies_of_prepared_graphs_convert():
    prepared = calibrated(TwoLayers(), torch.randn(8, 6))
    x = torch.randn(4, 6)
    assert torch.equal(convert_pt2e(copy.deepcopy(prepared))(x), convert_pt2e(prepared)(x))


def test_metadata_of_nodes():
    result = quantized(TwoLayers(), torch.randn(8, 6))
    nodes = {node.name: node for node in result.graph.nodes}
    quantize = [node for name, node in nodes.items() if name.startswith("quantize_per_tensor")]
    assert quantize
    assert [str(n.meta["val"].dtype) for n in quantize] == ["torch.uint8"] * 3
    stacks = [list(n.meta["nn_module_stack"].values())[-1][0] for n in quantize[1:]]
    assert stacks == ["one", "two"]
    assert all("from_node" in node.meta for node in quantize[1:])
    assert all("quantization_annotation" not in node.meta for node in nodes.values())


class Fork(nn.Module):
    """One tensor with three consumers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        y = self.a(x)
        return self.b(y), self.c(y), y


def test_a_tensor_with_several_consumers_has_one_observer():
    prepared = calibrated(Fork(), torch.randn(8, 6))
    assert len(observer_names(prepared)) == 1 + 3 + 3
    result = assert_is_fake_quantized(prepared, torch.randn(3, 6))
    # Each consumer has a dequantize of its own.
    assert count(result, "octavo.quantize_per_tensor") == 4
    for node in result.graph.nodes:
        if "dequantize" in str(node.target):
            assert len(node.users) == 1


def test_edges_share_a_call_without_an_output_observer():
    x = torch.randn(8, 6)
    rule = ByHand(lambda n: linear_annotation(n, output=None) if is_aten(n, "linear") else None)
    prepared = calibrated(Fork(), x, quantizer=rule)
    # x, the output of a as an input of b and c, three weights.
    assert len(observer_names(prepared)) == 1 + 1 + 3
    assert_is_fake_quantized(prepared, x)


def test_consumers_that_do_not_share_have_their_own():
    seven = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 127, torch.per_tensor_affine)

    def rule(node):
        if not is_aten(node, "linear"):
            return None
        spec = seven if "c_weight" in str(node.args) else ACT
        return QuantizationAnnotation({node.args[0]: spec, node.args[1]: WEIGHT}, None)

    prepared = calibrated(Fork(), torch.randn(8, 6), quantizer=ByHand(rule))
    assert len(observer_names(prepared)) == 1 + 2 + 3
    result = assert_is_fake_quantized(prepared, torch.randn(3, 6))
    limits = {n.args[4] for n in result.graph.nodes if "quantize_per_tensor" in str(n.target)}
    assert limits == {127, 255}


def test_implicit_sharing_can_be_refused():
    def rule(node):
        if not is_aten(node, "linear"):
            return None
        return QuantizationAnnotation(
            {node.args[0]: ACT, node.args[1]: WEIGHT}, ACT, allow_implicit_sharing=False
        )

    prepared = calibrated(TwoLayers(), torch.randn(8, 6), quantizer=ByHand(rule))
    assert len(observer_names(prepared)) == 6
    result = assert_is_fake_quantized(prepared, torch.randn(3, 6))
    # The two observers between the layers found the same, so that one pair is left.
    assert count(result, "octavo.quantize_per_tensor") == 3


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        return torch.cat([self.a(x), 3 * self.b(x)], 1)


def test_shared_specs_by_hand():
    def rule(node):
        if is_aten(node, "linear"):
            return linear_annotation(node)
        if is_aten(node, "cat"):
            first, second = node.args[0]
            shared = SharedQuantizationSpec((first, node))
            return QuantizationAnnotation({first: ACT, second: shared}, shared)
        return None

    prepared = calibrated(Joined(), torch.randn(8, 6), quantizer=ByHand(rule))
    modules = [m for m in prepared.children() if is_observer(m)]
    names = {n.name: n for n in prepared.graph.nodes}
    cat = next(n for n in names.values() if is_aten(n, "cat"))
    inputs = [prepared.get_submodule(part.target) for part in cat.args[0]]
    (user,) = cat.users
    assert inputs[0] is inputs[1] is prepared.get_submodule(user.target)
    assert len({id(m) for m in modules}) == 1 + 2 + 2  # x, weights, b's output, the group
    result = assert_is_fake_quantized(prepared, torch.randn(3, 6))
    quantize = [n for n in result.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)]
    assert len({n.args[1] for n in quantize[2:]}) <= 2


def test_derived_and_fixed_specs():
    def scales(observers):
        act, weight = (o.calculate_qparams()[0] for o in observers)
        return act * weight, torch.zeros_like(weight, dtype=torch.int32)

    def rule(node):
        if not is_aten(node, "linear"):
            return None
        x, weight, bias = node.args
        derived = DerivedQuantizationSpec(
            [(x, node), (weight, node)],
            scales,
            torch.int32,
            -(2**31),
            2**31 - 1,
            torch.per_channel_symmetric,
            0,
        )
        fixed = FixedQParamsQuantizationSpec(torch.uint8, 0.25, 128, 0, 255)
        return QuantizationAnnotation({bias: derived, x: ACT, weight: WEIGHT}, fixed)

    model = TwoLayers()
    x = torch.randn(8, 6)
    prepared = calibrated(model, x, quantizer=ByHand(rule))
    result = convert_pt2e(prepared)
    linear = next(n for n in result.graph.nodes if is_aten(n, "linear"))
    activation, weight, bias = linear.args
    stored, scale = (getattr(result, bias.args[i].target) for i in (0, 1))
    assert stored.dtype == torch.int32
    expected = activation.args[1] * getattr(result, weight.args[1].target)
    assert torch.equal(scale, expected)
    assert torch.equal(stored, torch.round(model.one.bias.detach() / expected).int())
    pairs = {n.args[1:3] for n in result.graph.nodes if "octavo.quantize" in str(n.target)}
    assert (0.25, 128) in pairs
    # float16 steps of the output of the fixed range
    assert torch.equal(result(x) * 4, (result(x) * 4).round())


def test_conv_bn_relu_is_one_layer():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1)
    )
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 8, 8) * 2 + 1)
    x = torch.randn(2, 3, 8, 8)
    prepared = calibrated(model, x)
    assert count(prepared, "batch_norm") == 0
    assert torch.allclose(prepared(x), model(x), atol=1e-5)
    assert len(observer_names(prepared)) == 5  # x, two weights, two outputs
    result = assert_is_fake_quantized(prepared, x)
    plain = [t for t in targets(result) if "aten" in t]
    assert plain == ["aten.conv2d.default", "aten.relu.default", "aten.conv2d.default"]
    keys = result.state_dict().keys()
    assert not any("running" in key or "num_batches" in key for key in keys)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (1, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (8, 4)),
    ],
)
def test_batch_norms_are_folded(layer, norm, shape):
    model = nn.Sequential(layer, norm).train()
    with torch.no_grad():
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        model(torch.randn(shape) + 1)
    x = torch.randn(shape)
    prepared = calibrated(model, x)
    assert count(prepared, "batch_norm") == 0
    torch.testing.assert_close(prepared(x), model(x), atol=1e-5, rtol=1e-5)
    assert_is_fake_quantized(prepared, x)


def test_a_convolution_with_other_readers_keeps_its_batch_norm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    x = torch.randn(2, 3, 4, 4)
    prepared = calibrated(Net(), x)
    assert count(prepared, "batch_norm") == 1
    assert_is_fake_quantized(prepared, x)


def test_a_layer_used_twice_is_folded_for_each_use():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.two(self.conv(F.relu(self.one(self.conv(x)))))

    model = Net().train()
    with torch.no_grad():
        model(torch.randn(4, 3, 5, 5) * 3 + 1)
        model.one.weight.uniform_(0.5, 2)
    x = torch.randn(2, 3, 4, 4)
    prepared = calibrated(model, x)
    assert count(prepared, "batch_norm") == 0
    torch.testing.assert_close(prepared(x), model(x), atol=1e-5, rtol=1e-5)
    assert_is_fake_quantized(prepared, x)


class InPlace(nn.Module):
    """An activation that writes to its input, which is read again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.a(x)
        z = F.relu_(y)
        return self.b(z) + y


def test_writes_are_seen_by_later_readers():
    model, x = InPlace().eval(), torch.randn(2, 3, 4, 4)
    prepared = calibrated(model, x)
    assert count(prepared, "relu_") == 0
    assert torch.allclose(prepared(x), model(x), atol=1e-6)
    assert_is_fake_quantized(prepared, x)


def test_buffers_that_are_written_to_stay_so():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return self.linear(x) + self.calls

    result = quantized(Counter(), torch.randn(2, 4))
    start = result.calls.clone()
    result(torch.randn(2, 4))
    assert torch.equal(result.calls, start + 1)


def test_weights_alone_need_no_calibration():
    def rule(node):
        return QuantizationAnnotation({node.args[1]: WEIGHT}) if is_aten(node, "linear") else None

    prepared = prepare_pt2e(export(TwoLayers().eval(), torch.randn(2, 6)), ByHand(rule))
    result = convert_pt2e(prepared)
    assert (
        targets(result)
        == [
            "octavo.dequantize_per_channel.default",
            "aten.linear.default",
        ]
        * 2
    )
    x = torch.randn(3, 6)
    prepared(x)
    assert torch.equal(result(x), convert_pt2e(prepared)(x))


def test_observers_of_a_callback_are_used():
    class Exchange(ByHand):
        def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
            for place in edge_or_node_to_obs_or_fq:
                if isinstance(place, torch.fx.Node) and place.name == "linear_1":
                    fixed = FixedQParamsObserver(0.5, 7)
                    edge_or_node_to_obs_or_fq[place] = fixed

    quantizer = Exchange(lambda n: linear_annotation(n) if is_aten(n, "linear") else None)
    result = quantized(TwoLayers(), torch.randn(8, 6), quantizer=quantizer)
    last = [n for n in result.graph.nodes if "octavo.quantize_per_tensor" in str(n.target)][-1]
    assert last.args[1:3] == (0.5, 7)


def test_keyword_arguments_can_be_annotated():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            return F.linear(x, self.weight)

    graph, x = export(Net().eval(), torch.randn(8, 6)), torch.randn(3, 6)
    for node in graph.graph.nodes:
        if is_aten(node, "linear"):
            node.kwargs = {"weight": node.args[1]}
            node.args = node.args[:1]
    graph.recompile()

    def rule(node):
        if not is_aten(node, "linear"):
            return None
        return QuantizationAnnotation({node.args[0]: ACT, node.kwargs["weight"]: WEIGHT}, ACT)

    prepared = prepare_pt2e(graph, ByHand(rule))
    prepared(x)
    result = assert_is_fake_quantized(prepared, x)
    assert count(result, "octavo.dequantize_per_channel") == 1
