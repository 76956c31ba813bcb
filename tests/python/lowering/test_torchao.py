"""Graphs that torchao's own PT2E flow made."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import octavo
from lowering_support import agree, exported, kinds
from octavo.lowering import lowering_report
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantize_pt2e = pytest.importorskip(
        "torchao.quantization.pt2e.quantize_pt2e", reason="torchao is not installed"
    )
    x86 = pytest.importorskip(
        "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer",
        reason="torchao has no X86InductorQuantizer",
    )

pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    """A residual block of ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.down(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layers = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.layers(self.stem(x))
        return {"logits": self.fc(torch.flatten(self.pool(x), 1))}


class Inverted(nn.Module):
    """An inverted residual block of MobileNetV2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU6(),
            Inverted(8),
            Inverted(8),
            nn.Conv2d(8, 16, 1),
            nn.Hardswish(),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.features(x).mean([2, 3]))
        return y


class Encoder(nn.Module):
    """An encoder layer of a transformer behind an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(tokens)
        y = self.norm1(x)
        q, k, v = self.heads(self.q(y)), self.heads(self.k(y)), self.heads(self.v(y))
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x, x + self.down(F.gelu(self.up(self.norm2(x))))


def randomized(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 0.5 + torch.rand(module.num_features)
    return model.eval()


def x86_quantizer(is_dynamic: bool = False, reduce_range: bool = False) -> Any:
    config = x86.get_default_x86_inductor_quantization_config(
        is_dynamic=is_dynamic, reduce_range=reduce_range
    )
    return x86.X86InductorQuantizer().set_global(config)


def xnnpack_quantizer(is_dynamic: bool = False) -> Any:
    testing = pytest.importorskip(
        "torchao.testing.pt2e._xnnpack_quantizer", reason="torchao has no XNNPACKQuantizer"
    )
    config = testing.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
    return testing.XNNPACKQuantizer().set_global(config)


def converted(model: nn.Module, quantizer: Any, *inputs: Tensor, batch: bool = True) -> GraphModule:
    name = next(iter(model.forward.__annotations__))
    dynamic = {name: {0: torch.export.Dim("batch", min=1, max=64)}} if batch else None
    prepared = quantize_pt2e.prepare_pt2e(exported(model, *inputs, dynamic=dynamic), quantizer)
    prepared(*inputs)
    graph = quantize_pt2e.convert_pt2e(prepared)
    assert isinstance(graph, GraphModule)
    return graph


def tails(graph: GraphModule, lowered: GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """The outputs of a network: layer by layer a step apart, so close at its end."""
    with torch.no_grad():
        expected, got = graph(*inputs), lowered(*inputs)
    for a, b in zip(_values(expected), _values(got), strict=True):
        assert a.shape == b.shape
        noise = (a - b).square().mean() / a.square().mean()
        assert float(noise) < 1e-3, float(noise)


def _values(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result.values() if isinstance(result, dict) else result)


IMAGES = 2 * torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) - 1


def test_resnet_of_x86_inductor() -> None:
    graph = converted(randomized(ResNet()), x86_quantizer(), IMAGES)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (IMAGES,))
    tails(graph, lowered, (torch.randn(7, 3, 64, 64),))
    assert kinds(lowered) == [
        "Quantize", "ConvReLU2d", "MaxPool2d",
        "ConvReLU2d", "ConvAddReLU2d",
        "ConvReLU2d", "Conv2d", "ConvAddReLU2d",
        "ConvReLU2d", "ConvAddReLU2d",
        "adaptive_avg_pool2d", "flatten", "FloatLinear",
    ]  # fmt: skip
    assert not lowering_report(lowered).left_float
    assert isinstance(lowered.get_submodule("layers.0.conv1"), nnq.Conv2d)
    assert "layers.0.conv1.weight_int8" in lowered.state_dict()


@pytest.mark.parametrize("reduce_range", [False, True])
def test_mobilenet_of_x86_inductor(reduce_range: bool) -> None:
    graph = converted(randomized(MobileNet()), x86_quantizer(reduce_range=reduce_range), IMAGES)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (IMAGES,))
    assert kinds(lowered).count("ConvHardtanh2d") == 5
    assert {row.op for row in lowering_report(lowered).left_float} <= {"hardswish", "mean"}


@pytest.mark.parametrize("model", [ResNet, MobileNet])
def test_networks_of_xnnpack(model: type[nn.Module]) -> None:
    """int8 activations, weights in [-127, 127]."""
    graph = converted(randomized(model()), xnnpack_quantizer(), IMAGES)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (IMAGES,))
    left = {row.op for row in lowering_report(lowered).left_float}
    assert left <= {"hardswish", "mean", "adaptive_avg_pool2d"}, str(lowering_report(lowered))
    if model is MobileNet:  # ReLU6 is a step of its own in the graph
        assert kinds(lowered).count("ConvHardtanh2d") == 5


TOKENS = torch.randint(0, 100, (3, 9), generator=torch.Generator().manual_seed(2))


def test_static_encoder_of_x86_inductor() -> None:
    graph = converted(Encoder().eval(), x86_quantizer(), TOKENS)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (TOKENS,))
    found = kinds(lowered)
    assert found.count("FloatLinear") == 6
    layers = {row.module for row in lowering_report(lowered).lowered}
    assert {"q", "k", "v", "out", "up", "down"} <= layers


@pytest.mark.parametrize("make", [x86_quantizer, xnnpack_quantizer])
def test_dynamic_encoder(make: Any) -> None:
    graph = converted(Encoder().eval(), make(is_dynamic=True), TOKENS)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (TOKENS,))
    layers = [module for module in lowered.modules() if isinstance(module, nnqd.Linear)]
    assert len(layers) == 6
    assert all(layer.per_tensor and not layer.reduce_range for layer in layers)
    assert not any("quantize" in name or "qparams" in name for name in kinds(lowered))


def test_weights_that_are_not_folded() -> None:
    """convert_pt2e(fold_quantize=False) leaves float weights, and quantizes them at each call."""
    prepared = quantize_pt2e.prepare_pt2e(exported(randomized(ResNet()), IMAGES), x86_quantizer())
    prepared(IMAGES)
    graph = quantize_pt2e.convert_pt2e(prepared, fold_quantize=False)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (IMAGES,))
    assert not lowering_report(lowered).left_float
    assert not any(
        value.dim() == 4 and value.dtype == torch.float32 for value in lowered.state_dict().values()
    )


def test_embedding_quantizer() -> None:
    module = pytest.importorskip(
        "torchao.quantization.pt2e.quantizer.embedding_quantizer",
        reason="torchao has no EmbeddingQuantizer",
    )
    graph = converted(Encoder().eval(), module.EmbeddingQuantizer(), TOKENS)
    lowered = octavo.lower(graph)
    tails(graph, lowered, (TOKENS,))
    assert isinstance(lowered.get_submodule("embedding"), nnq.Embedding)


def test_qat() -> None:
    """Trained with fake-quantize modules, and batch norms folded afterwards."""
    config = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    quantizer = x86.X86InductorQuantizer().set_global(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.export.export(ResNet().train(), (IMAGES,)).module()
    prepared = quantize_pt2e.prepare_qat_pt2e(graph, quantizer)
    for _ in range(2):
        prepared(IMAGES)["logits"].sum().backward()
    with pytest.raises(ValueError, match="prepared, and not converted"):
        octavo.lower(prepared)
    utilities = pytest.importorskip("torchao.quantization.pt2e", reason="torchao.quantization.pt2e")
    utilities.move_exported_model_to_eval(prepared)
    final = quantize_pt2e.convert_pt2e(prepared)
    lowered = octavo.lower(final)
    tails(final, lowered, (IMAGES,))
    assert kinds(lowered).count("ConvAddReLU2d") == 3


def test_a_decomposed_program_of_a_converted_model() -> None:
    """Core aten: addmm, convolution, views."""
    graph = converted(randomized(ResNet()), xnnpack_quantizer(), IMAGES, batch=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (IMAGES,)).run_decompositions()
    lowered = octavo.lower(program)
    tails(graph, lowered, (IMAGES,))
    found = {row.op for row in lowering_report(lowered).lowered}
    assert {"convolution", "addmm"} <= found, str(lowering_report(lowered))
    assert {row.op for row in lowering_report(lowered).left_float} <= {
        "mean",
        "adaptive_avg_pool2d",
    }


def test_an_exported_program_of_a_converted_model() -> None:
    graph = converted(randomized(ResNet()), x86_quantizer(), IMAGES, batch=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (IMAGES,))
    agree(octavo.lower(graph), octavo.lower(program), (IMAGES,), atol=0.0)
