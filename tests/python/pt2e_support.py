"""Exported graphs, and what quantized ones must compute."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter

from octavo.quantization import HistogramObserver, PerChannelMinMaxObserver
from octavo.quantization.pt2e.observers import ReusedObserver, is_observer
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    get_default_octavo_quantization_config,
)


def export(model: nn.Module, *inputs: Any, dynamic: Any = None) -> GraphModule:
    """The graph of a model, in the mode that the model is in, with a dynamic batch where it can."""
    if dynamic is None:
        dynamic = tuple({0: torch.export.Dim.AUTO} if x.dim() else None for x in inputs)
    torch._dynamo.reset()  # which traces for torch 2.6, and counts the graphs of a forward method
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, inputs, dynamic_shapes=dynamic)
        return program.module()


def octavo_quantizer(**kwargs: Any) -> OctavoQuantizer:
    return OctavoQuantizer().set_global(get_default_octavo_quantization_config(**kwargs))


def calibrated(model: nn.Module, *inputs: Tensor, quantizer: Any = None) -> GraphModule:
    """A model prepared with the default settings, calibrated with three batches."""
    prepared = prepare_pt2e(export(model.eval(), *inputs), quantizer or octavo_quantizer())
    with torch.no_grad():
        for factor in (1.0, 0.5, 1.5):
            prepared(*(scaled(x, factor) for x in inputs))
    return prepared


def scaled(x: Tensor, factor: float) -> Tensor:
    return x * factor if x.is_floating_point() else x


def quantized(model: nn.Module, *inputs: Tensor, quantizer: Any = None) -> GraphModule:
    return convert_pt2e(calibrated(model, *inputs, quantizer=quantizer))


def targets(model: GraphModule, ending: str = "") -> list[str]:
    """The operators that a graph calls, in order, such as "octavo.quantize_per_tensor.default"."""
    return [
        str(node.target)
        for node in model.graph.nodes
        if node.op == "call_function" and str(node.target).endswith(ending)
    ]


def count(model: GraphModule, text: str) -> int:
    return sum(text in target for target in targets(model))


class FakeQuantized(Interpreter):
    """Runs a prepared graph with each observer replaced by torch's fake-quantize of its qparams."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.module.get_submodule(target)
        if not is_observer(module):
            return super().call_module(target, args, kwargs)
        observer = module.observer if isinstance(module, ReusedObserver) else module
        scale, zero_point = observer.calculate_qparams()
        limits = (observer.quant_min, observer.quant_max)
        if scale.numel() > 1 or getattr(observer, "ch_axis", -1) not in (-1, None):
            return torch.fake_quantize_per_channel_affine(
                args[0], scale.float(), zero_point.int(), observer.ch_axis, *limits
            )
        return torch.fake_quantize_per_tensor_affine(
            args[0], float(scale), int(zero_point), *limits
        )


def assert_is_fake_quantized(prepared: GraphModule, *inputs: Tensor) -> GraphModule:
    """Converts, and compares with the prepared graph in which observers round; returns it."""
    result = convert_pt2e(prepared)
    with torch.no_grad():
        got = result(*inputs)
        expected = run_fake_quantized(prepared, *inputs)
    flat_got, flat_expected = (torch.utils._pytree.tree_leaves(x) for x in (got, expected))
    assert len(flat_got) == len(flat_expected)
    for one, other in zip(flat_got, flat_expected, strict=True):
        assert torch.equal(one, other)
    return result


def run_fake_quantized(prepared: GraphModule, *inputs: Tensor) -> Any:
    interpreter = FakeQuantized(prepared)
    return interpreter.run(*inputs)


ACT = QuantizationSpec(torch.uint8, HistogramObserver, 0, 255, torch.per_tensor_affine)
WEIGHT = QuantizationSpec(
    torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0
)


class ByHand(Quantizer):
    """Annotates with a function of a node and its name."""

    def __init__(self, rule):
        self.rule = rule

    def annotate(self, model):
        for node in model.graph.nodes:
            annotation = self.rule(node)
            if annotation is not None:
                node.meta["quantization_annotation"] = annotation
        return model

    def validate(self, model):
        pass


def linear_annotation(node, output=ACT, **extra):
    x, weight = node.args[:2]
    return QuantizationAnnotation({x: ACT, weight: WEIGHT, **extra}, output, _annotated=True)


def is_aten(node, name):
    return node.op == "call_function" and f"aten.{name}." in f"{node.target}"


def observer_names(model):
    return [name for name, module in model.named_children() if is_observer(module)]


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.two(self.one(x))
