from __future__ import annotations

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq


def test_stubs_are_identities_until_convert() -> None:
    x = torch.randn(3)
    for stub in (tq.QuantStub(), tq.DeQuantStub()):
        assert stub(x) is x
        assert not hasattr(stub, "qconfig")
    assert tq.QuantStub(tq.default_qconfig).qconfig is tq.default_qconfig


def test_wrapper() -> None:
    inner = nn.Linear(4, 2).eval()
    inner.qconfig = tq.get_default_qconfig()
    wrapper = tq.QuantWrapper(inner)
    assert not wrapper.training
    assert wrapper.quant.qconfig is wrapper.dequant.qconfig is inner.qconfig
    assert list(wrapper.state_dict()) == ["module.weight", "module.bias"]
    x = torch.randn(8, 4)
    prepared = tq.prepare(wrapper)
    assert torch.equal(prepared(x), inner(x))
    converted = tq.convert(prepared)
    assert isinstance(converted.module, octavo.nn.quantized.Linear)
    torch.testing.assert_close(converted(x), inner(x), atol=0.05, rtol=0.05)


def test_wrapper_keeps_the_mode_and_needs_no_qconfig() -> None:
    wrapper = tq.QuantWrapper(nn.Linear(4, 2))
    assert wrapper.training
    assert not hasattr(wrapper.quant, "qconfig")


def test_dequant_stub_is_never_observed() -> None:
    model = nn.Sequential(tq.QuantStub(), tq.DeQuantStub())
    model.qconfig = tq.default_qconfig
    prepared = tq.prepare(model)
    assert hasattr(prepared[0], "activation_post_process")
    assert not hasattr(prepared[1], "activation_post_process")


def test_a_stub_with_a_qconfig_in_a_model_without() -> None:
    model = nn.Sequential(tq.QuantStub(tq.default_qconfig), nn.Flatten(), tq.DeQuantStub())
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3))
    converted = tq.convert(prepared)
    assert isinstance(converted[0], octavo.nn.quantized.Quantize)
    assert isinstance(converted[2], tq.DeQuantStub)
    assert isinstance(converted(torch.randn(4, 3)), octavo.QTensor)


@pytest.mark.parametrize("parallel", [False, True])
def test_add_quant_dequant(parallel: bool) -> None:
    shared = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": shared, "b": shared if parallel else nn.Linear(3, 3)})
    for layer in model.values():
        layer.qconfig = tq.default_qconfig
    model["c"] = nn.ReLU()
    result = tq.add_quant_dequant(model)
    assert result is model
    assert isinstance(model["a"], tq.QuantWrapper)
    assert (model["a"] is model["b"]) == parallel
    assert type(model["c"]) is nn.ReLU
    leaf = nn.Linear(3, 3)
    leaf.qconfig = tq.default_qconfig
    wrapper = tq.add_quant_dequant(leaf)
    assert isinstance(wrapper, tq.QuantWrapper)
    assert wrapper.module is leaf
