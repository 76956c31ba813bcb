"""Standalone, custom and untraceable modules, quantized inputs and outputs, kept attributes, and
the reference form.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from fx_models import ZOO, batch, calibrated, calls, conv_bn, dequantizations, sqnr, zoo_model
from octavo.nn import quantizable as nnqa
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import dynamic as nnqd
from octavo.quantization.fx.custom_config import ConvertCustomConfig, PrepareCustomConfig
from octavo.quantization.fx.graph_module import (
    ObservedStandaloneGraphModule,
    QuantizedGraphModule,
)
from octavo.quantization.quantize_fx import (
    TracingError,
    attach_preserved_attrs_to_model,
    convert_fx,
    convert_to_reference_fx,
    fuse_fx,
    prepare_fx,
    prepare_traceable_fx,
)

IMAGE = ((2, 3, 8, 8),)
INNER = ((2, 4, 8, 8),)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 4, 1), Inner(), nn.Conv2d(4, 2, 1)
        self.tag = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


@pytest.fixture
def outer() -> nn.Module:
    torch.manual_seed(0)
    return Outer().eval()


def mapping() -> tq.QConfigMapping:
    return tq.get_default_qconfig_mapping()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_standalone(outer: nn.Module, by_class: bool, quantized: bool) -> None:
    inner = PrepareCustomConfig().set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    config = PrepareCustomConfig()
    arguments = (None, batch(INNER), inner if quantized else None, None)
    if by_class:
        config.set_standalone_module_class(Inner, *arguments)
    else:
        config.set_standalone_module_name("inner", *arguments)
    prepared = calibrated(prepare_fx(outer, mapping(), batch(IMAGE), config), IMAGE)
    assert isinstance(prepared.inner, ObservedStandaloneGraphModule)
    int8 = convert_fx(prepared)
    assert sqnr(outer(*batch(IMAGE)), int8(*batch(IMAGE))) > 30
    borders = len(dequantizations(int8)), len(dequantizations(int8.inner))
    assert borders == ((1, 0) if quantized else (2, 1))
    assert "inner.conv" in {row.name for row in int8.quantization_report.swapped}
    again = convert_fx(pickle.loads(pickle.dumps(prepared)))
    assert torch.equal(again(*batch(IMAGE)), int8(*batch(IMAGE)))


def test_standalone_takes_quantized_what_is_float() -> None:
    """What a float operation gives is quantized for a standalone module that wants it so."""
    net = nn.Sequential(nn.Softmax(1), Inner()).eval()
    inner = PrepareCustomConfig().set_input_quantized_indexes([0])
    config = PrepareCustomConfig().set_standalone_module_name("1", None, batch(INNER), inner, None)
    rules = mapping().set_object_type(nn.Softmax, None)
    prepared = calibrated(prepare_fx(net, rules, batch(INNER), config), INNER)
    int8 = convert_fx(prepared)
    assert len(calls(int8, nnq.Quantize)) == 1
    assert sqnr(net(*batch(INNER)), int8(*batch(INNER))) > 25


def test_rules_inside_of_a_standalone_module(outer: nn.Module) -> None:
    config = PrepareCustomConfig().set_standalone_module_name(
        "inner", None, batch(INNER), None, None
    )
    rules = mapping().set_module_name("inner.conv", None)
    prepared = calibrated(prepare_fx(outer, rules, batch(IMAGE), config), IMAGE)
    assert not calls(convert_fx(prepared).inner, nnq.Conv2d)
    rules = mapping().set_module_name("inner", None)
    prepared = calibrated(prepare_fx(outer, rules, batch(IMAGE), config), IMAGE)
    assert not calls(convert_fx(prepared).inner, nnq.Conv2d)


@pytest.mark.parametrize("given", [{"name": ["inner"]}, {"class": [Inner]}])
def test_non_traceable(outer: nn.Module, given: dict[str, Any]) -> None:
    config = {f"non_traceable_module_{key}": value for key, value in given.items()}
    int8 = convert_fx(calibrated(prepare_fx(outer, mapping(), batch(IMAGE), config), IMAGE))
    assert type(int8.inner) is Inner
    assert type(int8.inner.conv) is nn.Conv2d
    assert len(dequantizations(int8)) == 2
    reasons = {row.name: row.reason for row in int8.quantization_report.left_float}
    assert "no int8 form" in reasons["inner"]


def test_quantized_inputs_and_outputs(outer: nn.Module) -> None:
    config = (
        PrepareCustomConfig().set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    )
    int8 = convert_fx(calibrated(prepare_fx(outer, mapping(), batch(IMAGE), config), IMAGE))
    assert not calls(int8, nnq.Quantize)
    assert not dequantizations(int8)
    (x,) = batch(IMAGE)
    y = int8(octavo.quantize_per_tensor(x, 0.03, 128, octavo.quint8))
    assert isinstance(y, octavo.QTensor)
    assert sqnr(outer(x), y.dequantize()) > 25


def test_preserved_attributes(outer: nn.Module) -> None:
    config = {"preserved_attributes": ["tag"]}
    prepared = calibrated(prepare_fx(outer, mapping(), batch(IMAGE), config), IMAGE)
    for model in (prepared, convert_fx(prepared, config), fuse_fx(outer, config)):
        assert model.tag == copy.deepcopy(model).tag == "kept"
        assert pickle.loads(pickle.dumps(model)).tag == "kept"
    assert not hasattr(convert_fx(prepared), "tag")
    attach_preserved_attrs_to_model(prepared, {"more": 3})
    assert copy.deepcopy(prepared).more == 3
    with pytest.raises(AttributeError, match=r"has no attributes \['other'\]"):
        prepare_fx(outer, mapping(), batch(IMAGE), {"preserved_attributes": ["other"]})


class Doubled(nn.Module):
    """A user's class, in float, observed and int8."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    @classmethod
    def from_float(cls, mod: Any) -> Any:
        return ObservedDoubled(mod.linear)


class ObservedDoubled(Doubled):
    pass


class QuantizedDoubled(Doubled):
    @classmethod
    def from_observed(cls, mod: Any) -> Any:
        mod.linear.qconfig = mod.qconfig
        mod.linear.activation_post_process = mod.activation_post_process
        return cls(nnq.Linear.from_float(mod.linear))


def test_custom_module() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), Doubled(nn.Linear(8, 4)), nn.ReLU()).eval()
    config = PrepareCustomConfig().set_float_to_observed_mapping(Doubled, ObservedDoubled)
    shapes = ((5, 6),)
    prepared = calibrated(prepare_fx(net, mapping(), batch(shapes), config), shapes)
    assert type(prepared.get_submodule("1")) is ObservedDoubled
    convert = ConvertCustomConfig().set_observed_to_quantized_mapping(
        ObservedDoubled, QuantizedDoubled
    )
    int8 = convert_fx(prepared, convert)
    assert type(int8.get_submodule("1")) is QuantizedDoubled
    assert len(dequantizations(int8)) == 1
    assert sqnr(net(*batch(shapes)), int8(*batch(shapes))) > 28


def test_lstm_observed_inside() -> None:
    model, shapes = zoo_model("recurrent")
    config = PrepareCustomConfig().set_float_to_observed_mapping(nn.LSTM, nnqa.LSTM)
    prepared = calibrated(prepare_fx(model, mapping(), batch(shapes), config), shapes)
    int8 = convert_fx(prepared)
    assert type(int8.lstm) is nnq.LSTM
    assert len(calls(int8, nnq.Quantize)) == len(dequantizations(int8)) == 1
    assert sqnr(model(*batch(shapes)), int8(*batch(shapes))) > 30


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        y, weights = self.attention(x, x, x)
        return self.b(x + y), weights


@pytest.mark.parametrize("observed", [False, True], ids=["float", "observed"])
def test_attention_inside(observed: bool) -> None:
    """As in torch, ``nn.MultiheadAttention`` is static where the custom config says how."""
    torch.manual_seed(0)
    model, shapes = Attending().eval(), ((2, 5, 8),)
    custom = PrepareCustomConfig()
    if observed:
        custom.set_float_to_observed_mapping(nn.MultiheadAttention, nnqa.MultiheadAttention)
    prepared = prepare_fx(
        model, tq.get_default_qconfig_mapping(), batch(shapes), prepare_custom_config=custom
    )
    int8 = convert_fx(calibrated(prepared, shapes))
    assert type(int8.attention) is (nnq.MultiheadAttention if observed else nn.MultiheadAttention)
    assert len(calls(int8, nnq.Quantize)) == (1 if observed else 2)
    x = batch(shapes, 3)
    assert sqnr(model(*x), int8(*x)) > 30


def test_attention_with_dynamic_weights() -> None:
    torch.manual_seed(0)
    model, shapes = Attending().eval(), ((2, 5, 8),)
    mapping = tq.QConfigMapping().set_global(tq.default_dynamic_qconfig)
    int8 = convert_fx(prepare_fx(model, mapping, batch(shapes)))
    assert type(int8.attention) is nnqd.MultiheadAttention
    x = batch(shapes, 3)
    assert sqnr(model(*x), int8(*x)) > 35


class Branching(nn.Module):
    """Control flow on a tensor, around parts that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.features = conv_bn(3, 4)
        self.head = nn.Linear(4, 4)
        self.tail = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        if x.sum() > 0:
            x = self.head(x)
        return self.act(self.tail(x))


def test_parts_that_can_be_traced() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Branching(), nn.Linear(4, 2)).eval()
    with pytest.raises(TracingError, match="'0' \\(Branching\\) cannot be traced") as caught:
        prepare_fx(model, mapping(), batch(IMAGE))
    assert caught.value.module_path == "0"
    assert "if x.sum() > 0" in caught.value.line
    assert "test_fx_modules.py" in str(caught.value)
    assert "non_traceable_module_name" in str(caught.value)
    with pytest.warns(UserWarning, match="'0' \\(Branching\\).*if x.sum"):
        prepared = prepare_traceable_fx(model, mapping(), batch(IMAGE))
    int8 = convert_fx(calibrated(prepared, IMAGE))
    kinds = {type(m) for m in int8.modules() if not list(m.children())}
    assert {nnq.Linear, nnq.Quantize, nn.ReLU} <= kinds
    assert not kinds & {nn.Linear, nn.Conv2d, nn.BatchNorm2d}
    assert type(int8[0].act) is nn.ReLU
    assert sqnr(model(*batch(IMAGE)), int8(*batch(IMAGE))) > 25
    assert type(model[0].head) is nn.Linear


class Looking(nn.Module):
    """Code that cannot be traced, calls by keyword, and looks into modules."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(
            self,
            x: Tensor,
            scale: Tensor | None = None,
            shift: Tensor | None = None,
            **options: Any,
        ) -> Tensor:
            y = self.b(torch.relu(self.a(x)))
            if scale is not None:
                y = y * scale
            y = F.linear(y, self.c.weight)
            return y if shift is None else y + shift

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other = self.Block(), self.Block()
        self.plain, self.read = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            return x
        x = self.inner(self.plain(x.to(self.read.weight.dtype)), shift=x)
        return self.read(self.other(x, scale=x, exotic=3))


def test_parts_called_by_keyword_and_looked_into() -> None:
    torch.manual_seed(0)
    model = Looking().eval()
    shapes = ((3, 6),)
    with pytest.warns(UserWarning, match=r"'read' \(Linear\): 'weight' is read at "):
        prepared = prepare_traceable_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    int8 = convert_fx(calibrated(prepared, shapes))
    assert type(int8.read) is nn.Linear
    assert isinstance(int8.plain, QuantizedGraphModule)
    assert isinstance(int8.inner, QuantizedGraphModule)  # reads only what is its own
    assert len(calls(int8.inner, (nnq.Linear, nniq.LinearReLU))) == 3
    assert type(int8.other) is Looking.Block  # called with a name that it has no parameter for
    assert isinstance(int8.other.a, QuantizedGraphModule)
    assert type(int8.other.c) is nn.Linear
    x = batch(shapes, 5)
    assert sqnr(model(*x), int8(*x)) > 24


class Flags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(
        self, x: Tensor, mask: Tensor | None, deep: bool, act: str, y: Tensor | None = None
    ) -> Tensor:
        x = self.a(x)
        if mask is not None:
            x = x * mask
        if deep:
            x = self.b(getattr(F, act)(x))
        return x if y is None else x + y


@pytest.mark.parametrize("flags", [(None, True, "gelu"), (None, False, "relu")], ids=str)
def test_inputs_that_control_flow_depends_on(flags: tuple[Any, ...]) -> None:
    """None, bools and strs of the example inputs hold for every call."""
    torch.manual_seed(0)
    model = Flags().eval()
    (x,) = batch(((3, 6),))
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), (x, *flags))
    prepared(x, *flags)
    int8 = convert_fx(prepared)
    assert len(calls(int8, nnq.Linear)) == 1 + flags[1]
    assert sqnr(model(x, *flags), int8(x, *flags)) > 30


def test_what_can_be_traced_whole(outer: nn.Module) -> None:
    prepared = calibrated(prepare_traceable_fx(outer, mapping(), batch(IMAGE)), IMAGE)
    same = calibrated(prepare_fx(outer, mapping(), batch(IMAGE)), IMAGE)
    assert torch.equal(convert_fx(prepared)(*batch(IMAGE)), convert_fx(same)(*batch(IMAGE)))


def round_ties_alike(int8: nn.Module, reference: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Makes the concatenation of `joins` with twice its parts' scale round as the reference form.

    Every odd number of a part is half a step there: int8 rounds it to even, the float form by the
    last bit of the scale, which differs with the number of threads. No other number may differ.
    """
    calls_of_reference: list[tuple[Tensor, octavo.QTensor]] = []
    hook = reference.quantize_3.register_forward_hook(
        lambda _, args, output: calls_of_reference.append((args[0], output))
    )
    reference(*inputs)
    hook.remove()
    ((x, want),) = calls_of_reference
    steps = x / want.q_scale()

    def replace(_: nn.Module, __: Any, got: octavo.QTensor) -> octavo.QTensor:
        assert got.q_scale() == want.q_scale()
        differ = got.int_repr() != want.int_repr()
        assert (((steps - steps.floor()) - 0.5).abs()[differ] < 1e-4).all()
        return want

    int8.cat_0.register_forward_hook(replace)


@pytest.mark.parametrize("name", list(ZOO))
def test_reference_form(name: str) -> None:
    """Float layers with rounded weights between Quantize modules compute nearly the same."""
    model, shapes = zoo_model(name)
    prepared = calibrated(prepare_fx(model, mapping(), batch(shapes)), shapes)
    reference, int8 = convert_to_reference_fx(prepared), convert_fx(prepared)
    with torch.no_grad():
        if name == "joins":
            round_ties_alike(int8, reference, batch(shapes))
        # The int8 form rounds the numbers in sums to steps.
        least = 30 if name == "by_hand" else 38
        assert sqnr(int8(*batch(shapes)), reference(*batch(shapes))) > least
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = [m for m in reference.modules() if isinstance(m, kinds)]
    int8_kinds = (nnq.Linear, nnq.Conv1d, nnq.Conv2d)
    quantized = [m for m in int8.modules() if isinstance(m, int8_kinds)]
    assert layers
    weights = {tuple(q.weight().dequantize().flatten().tolist()) for q in quantized}
    for layer in layers:
        assert tuple(layer.weight.flatten().tolist()) in weights
        assert layer.weight_scale.numel() == layer.weight.shape[0]
    assert not [m for m in reference.modules() if hasattr(m, "calculate_qparams")]
