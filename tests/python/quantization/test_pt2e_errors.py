"""What the graph flow refuses, and says."""

import pytest
import torch
from torch import nn

from octavo.quantization import MinMaxObserver
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from octavo.quantization.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from pt2e_support import ACT, ByHand, TwoLayers, export, is_aten, octavo_quantizer


@pytest.mark.parametrize("function", [prepare_pt2e, prepare_qat_pt2e])
def test_refusal_of_models_that_are_not_exported(function):
    with pytest.raises(TypeError, match=r"got a Linear; use torch\.export\.export\(model\.eval"):
        function(nn.Linear(3, 3), octavo_quantizer())
    with pytest.raises(TypeError, match=r"got a torch\.fx graph"):
        function(torch.fx.symbolic_trace(nn.Linear(3, 3)), octavo_quantizer())
    program = torch.export.export(nn.Linear(3, 3), (torch.randn(2, 3),))
    with pytest.raises(TypeError, match=r"is an ExportedProgram; give it model\.module\(\)"):
        function(program, octavo_quantizer())


def test_refusals_of_prepare():
    x = torch.randn(2, 6)
    graph = export(TwoLayers().eval(), x)
    with pytest.raises(TypeError, match="must be an instance of a Quantizer"):
        prepare_pt2e(graph, None)
    with pytest.raises(ValueError, match="has observers already"):
        prepare_pt2e(prepare_pt2e(graph, octavo_quantizer()), octavo_quantizer())
    training = export(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"batch_norm.*exported in training mode"):
        prepare_pt2e(training, octavo_quantizer())


def test_refusals_of_annotations():
    graph = export(TwoLayers().eval(), torch.randn(2, 6))

    def prepare(make):
        prepare_pt2e(graph, ByHand(lambda n: make(n) if n.name == "linear_1" else None))

    with pytest.raises(TypeError, match=r"linear_1.*the annotation must be"):
        prepare(lambda n: "quantize this")
    with pytest.raises(ValueError, match="names 'x', which is none of the node's inputs"):
        prepare(lambda n: QuantizationAnnotation({_named(n, "x"): ACT}))
    with pytest.raises(TypeError, match="no QuantizationSpecBase"):
        prepare(lambda n: QuantizationAnnotation({}, torch.uint8))
    with pytest.raises(ValueError, match="which no annotation quantizes"):
        prepare(lambda n: QuantizationAnnotation({}, SharedQuantizationSpec(n.args[0])))
    with pytest.raises(ValueError, match="only share with one another"):
        prepare(lambda n: QuantizationAnnotation({}, SharedQuantizationSpec(n)))
    with pytest.raises(ValueError, match="derived from themselves"):
        prepare(
            lambda n: QuantizationAnnotation(
                {}, DerivedQuantizationSpec([n], lambda o: None, torch.int32)
            )
        )
    with pytest.raises(
        NotImplementedError, match=r"the output of node 'linear_1'.*qscheme must be"
    ):
        prepare(
            lambda n: QuantizationAnnotation(
                {}, QuantizationSpec(torch.uint8, MinMaxObserver, qscheme="affine")
            )
        )


def _named(node, name):
    return next(n for n in node.graph.nodes if n.name == name)


def test_specs_check_their_arguments():
    with pytest.raises(ValueError, match="quant_min 3 must be <= quant_max 1"):
        QuantizationSpec(torch.uint8, MinMaxObserver, 3, 1)
    with pytest.raises(ValueError, match="ch_axis must not be negative"):
        QuantizationSpec(torch.uint8, MinMaxObserver, ch_axis=-1)


def test_nothing_was_observed():
    prepared = prepare_pt2e(export(TwoLayers().eval(), torch.randn(2, 6)), octavo_quantizer())
    with pytest.raises(ValueError, match=r"node 'x'.*nothing was observed.*calibration data"):
        convert_pt2e(prepared)
    prepared(torch.full((2, 6), torch.nan))
    with pytest.raises(ValueError, match="nothing finite was observed there, only 12 NaN or Inf"):
        convert_pt2e(prepared)


def test_the_module_is_named_where_nothing_was_observed():
    def rule(node):
        if not is_aten(node, "linear") or "two_weight" not in str(node.args):
            return None
        return QuantizationAnnotation({}, ACT)

    prepared = prepare_pt2e(export(TwoLayers().eval(), torch.randn(2, 6)), ByHand(rule))
    with pytest.raises(ValueError, match=r"aten\.linear\.default, module 'two'.*nothing was"):
        convert_pt2e(prepared)


def test_refusals_of_convert():
    graph = export(TwoLayers().eval(), torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"has no observers.*set_global"):
        convert_pt2e(graph)
    with pytest.raises(TypeError, match=r"convert_pt2e: model must be a graph from torch\.export"):
        convert_pt2e(TwoLayers())
    with pytest.raises(ValueError, match="fold_quantize must be a bool"):
        convert_pt2e(graph, fold_quantize=1)
