"""torchao's graph flow as an oracle: its quantizers, annotating for Octavo, give equal qparams.

torchao is no requirement; these tests are skipped without it.
"""

import functools
import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import octavo.quantization as tq
from octavo.quantization import quantizer as ours
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from pt2e_support import export

KEY = "quantization_annotation"


@functools.cache
def _torchao(name=""):
    pytest.importorskip("torchao")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"torchao.{name}")


def _quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def _translated(value):
    """A spec or annotation of torchao in Octavo's classes."""
    if isinstance(value, dict):
        return {key: _translated(item) for key, item in value.items()}
    kind = type(value).__name__
    if kind == "QuantizationSpec":
        factory = value.observer_or_fake_quant_ctr
        partial = getattr(factory, "p", functools.partial(factory))
        mine = getattr(tq, partial.func.__name__)
        factory = functools.partial(mine, **partial.keywords)
        return ours.QuantizationSpec(
            value.dtype,
            factory,
            value.quant_min,
            value.quant_max,
            value.qscheme,
            value.ch_axis,
            value.is_dynamic,
        )
    if kind == "SharedQuantizationSpec":
        return ours.SharedQuantizationSpec(value.edge_or_node)
    if kind == "DerivedQuantizationSpec":
        fields = {k: getattr(value, k) for k in ours.DerivedQuantizationSpec.__dataclass_fields__}
        return ours.DerivedQuantizationSpec(**fields)
    assert value is None, value
    return None


class Translated(ours.Quantizer):
    """Annotates as a quantizer of torchao does."""

    def __init__(self, quantizer):
        self.quantizer = quantizer

    def transform_for_annotation(self, model):
        return _quietly(self.quantizer.transform_for_annotation, model)

    def annotate(self, model):
        _quietly(self.quantizer.annotate, model)
        for node in model.graph.nodes:
            known = node.meta.get(KEY)
            if known is not None:
                node.meta[KEY] = ours.QuantizationAnnotation(
                    _translated(known.input_qspec_map),
                    _translated(known.output_qspec),
                    known.allow_implicit_sharing,
                    known._annotated,
                )
        return model

    def validate(self, model):
        pass


def _xnnpack():
    module = _torchao("testing.pt2e._xnnpack_quantizer")
    config = module.get_symmetric_quantization_config(is_per_channel=True)
    return module.XNNPACKQuantizer().set_global(config)


def _x86():
    module = _torchao("quantization.pt2e.quantizer.x86_inductor_quantizer")
    config = module.get_default_x86_inductor_quantization_config()
    return module.X86InductorQuantizer().set_global(config)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.max_pool2d(self.a(x), 2)
        x = F.relu(self.c(self.b(x) + x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(torch.cat([F.relu(self.a(x)), self.b(x)], 1))


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


CASES = {
    "convolutions": (Convolutions, (4, 3, 8, 8)),
    "joined": (Joined, (4, 3, 6, 6)),
    "perceptron": (Perceptron, (4, 6)),
}


def _found(model, namespace):
    """The qparams with which each float value is quantized, and the integer weights."""
    pairs = {}
    for node in model.graph.nodes:
        if f"{namespace}.quantize_per_tensor" in str(node.target):
            pairs.setdefault(node.args[0].name, set()).add(node.args[1:])
    weights = {n: v for n, v in model.named_buffers() if n.startswith("_frozen_param")}
    return pairs, weights


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [_xnnpack, _x86], ids=["xnnpack", "x86"])
@pytest.mark.parametrize("name", CASES)
def test_equal_qparams(make, name):
    flow = _torchao("quantization.pt2e.quantize_pt2e")
    torch.manual_seed(0)
    kind, shape = CASES[name]
    model, x = kind().eval(), torch.randn(shape)
    theirs = flow.prepare_pt2e(export(model, x), make())
    mine = prepare_pt2e(export(model, x), Translated(make()))
    for factor in (1, 2, 0.5):
        theirs(x * factor)
        mine(x * factor)
    theirs, mine = flow.convert_pt2e(theirs), convert_pt2e(mine)
    expected, got = _found(theirs, "quantized_decomposed"), _found(mine, "octavo")
    assert expected[0]
    assert got[0] == expected[0]
    assert len(expected[1]) >= 2
    assert got[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        assert torch.equal(got[1][key], value)
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_form_of_graphs():
    """The same operators in the same order, but for the namespace and what is said of conv-bn."""
    flow = _torchao("quantization.pt2e.quantize_pt2e")
    torch.manual_seed(0)
    model, x = Perceptron().eval(), torch.randn(4, 6)
    theirs = flow.prepare_pt2e(export(model, x), _xnnpack())
    mine = prepare_pt2e(export(model, x), Translated(_xnnpack()))
    theirs(x)
    mine(x)
    calls = [
        [
            (n.target._schema.name.split("::")[1], [type(a).__name__ for a in n.args])
            for n in model.graph.nodes
            if n.op == "call_function"
        ]
        for model in (flow.convert_pt2e(theirs), convert_pt2e(mine))
    ]
    assert sorted(map(str, calls[0])) == sorted(map(str, calls[1]))


@pytest.mark.filterwarnings("ignore")
def test_annotations_of_other_classes_are_refused():
    torch.manual_seed(0)
    model, x = Perceptron().eval(), torch.randn(4, 6)
    with pytest.raises(TypeError, match="belongs to that library's prepare_pt2e"):
        prepare_pt2e(export(model, x), _xnnpack())
