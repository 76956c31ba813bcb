from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq
from quantization_support import oracle, quietly

ATTRIBUTES = ("qscheme", "quant_min", "quant_max", "ch_axis", "is_dynamic", "custom_op")


def assert_same_observer(ours: Any, theirs: Any) -> None:
    assert type(ours).__name__ == type(theirs).__name__
    assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
    for name in ATTRIBUTES:
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    if isinstance(getattr(theirs, "eps", None), torch.Tensor):
        assert torch.equal(ours.eps, theirs.eps)


def assert_same_qconfig(ours: Any, theirs: Any) -> None:
    quietly(assert_same_observer, ours.activation(), quietly(theirs.activation))
    quietly(assert_same_observer, ours.weight(), quietly(theirs.weight))


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "onednn", "qnnpack"])
def test_backends_of_torch_have_torchs_settings(backend: str) -> None:
    theirs = quietly(oracle().get_default_qconfig, backend)
    assert_same_qconfig(tq.get_default_qconfig(backend), theirs)


OURS_ALONE = ("default_dynamic_qconfig", "torch_compatible_dynamic_qconfig")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, value in vars(tq).items()
        if isinstance(value, tq.QConfig) and name not in OURS_ALONE
    ],
)
def test_named_qconfigs_equal_torchs(name: str) -> None:
    assert_same_qconfig(getattr(tq, name), getattr(oracle().qconfig, name))


def test_dynamic_defaults_quantize_rows_and_channels() -> None:
    """The deliberate difference from torch, and the way back."""
    ours, compatible = tq.default_dynamic_qconfig, tq.torch_compatible_dynamic_qconfig
    assert_same_qconfig(ours, oracle().per_channel_dynamic_qconfig)
    assert_same_qconfig(compatible, oracle().default_dynamic_qconfig)
    for qconfig, one_scale in ((ours, False), (compatible, True)):
        activation = qconfig.activation()
        assert activation.is_dynamic
        assert (activation.per_tensor, activation.reduce_range) == (one_scale, one_scale)


def test_the_default_uses_all_eight_bits_and_weights_per_channel() -> None:
    qconfig = tq.get_default_qconfig()
    assert tq.qconfig_equals(qconfig, tq.get_default_qconfig("octavo"))
    activation, weight = qconfig.activation(), qconfig.weight()
    assert isinstance(activation, tq.HistogramObserver)
    assert (activation.dtype, activation.quant_min, activation.quant_max) == (octavo.quint8, 0, 255)
    assert weight.qscheme == octavo.per_channel_symmetric
    assert (weight.dtype, weight.quant_min, weight.quant_max) == (octavo.qint8, -128, 127)


def test_unknown_backend_and_version() -> None:
    with pytest.raises(ValueError, match=r"backend must be one of .*'octavo'.*got 'avx'"):
        tq.get_default_qconfig("avx")
    with pytest.raises(ValueError, match="version must be 0, got 1"):
        tq.get_default_qconfig("x86", version=1)


def test_instances_are_refused() -> None:
    for arguments in (
        {"activation": tq.MinMaxObserver(), "weight": tq.default_weight_observer},
        {"activation": tq.default_observer, "weight": tq.MinMaxObserver()},
    ):
        with pytest.raises(ValueError, match=r"observer class.*MinMaxObserver\.with_args"):
            tq.QConfig(**arguments)


def test_it_is_a_named_tuple() -> None:
    qconfig = tq.default_qconfig
    activation, weight = qconfig
    assert qconfig._fields == ("activation", "weight")
    assert (qconfig.activation, qconfig.weight) == (activation, weight)
    assert "QConfig(activation=" in repr(qconfig)
    for other in (pickle.loads(pickle.dumps(qconfig)), copy.deepcopy(qconfig)):
        assert isinstance(other, tq.QConfig)
        assert tq.qconfig_equals(other, qconfig)


def test_qconfig_equals() -> None:
    a = tq.QConfig(tq.MinMaxObserver.with_args(dtype=octavo.qint8), tq.default_weight_observer)
    b = tq.QConfig(tq.MinMaxObserver.with_args(dtype=octavo.qint8), tq.default_weight_observer)
    c = tq.QConfig(tq.MinMaxObserver.with_args(dtype=octavo.quint8), tq.default_weight_observer)
    d = tq.QConfig(tq.MinMaxObserver, tq.default_weight_observer)
    assert tq.qconfig_equals(a, b)
    assert not tq.qconfig_equals(a, c)
    assert not tq.qconfig_equals(a, d)
    assert tq.qconfig_equals(d, d)
    assert tq.qconfig_equals(None, None)
    assert not tq.qconfig_equals(a, None)


def test_something_else_as_qconfig_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].qconfig = "int8"
    with pytest.raises(TypeError, match=r"module '0': qconfig must be a QConfig or None.*'int8'"):
        tq.prepare(model)
