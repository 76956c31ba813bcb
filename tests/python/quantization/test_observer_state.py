"""Observers as objects: state dicts, copies, factories, defaults, and those without statistics."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq
from octavo.quantization import observer as observers
from octavo.quantization.utils import per_channel_affine_float_qparams
from quantization_support import assert_same_qparams, equal_bits, oracle

PER_TENSOR = (tq.MinMaxObserver, tq.MovingAverageMinMaxObserver)
PER_CHANNEL = (tq.PerChannelMinMaxObserver, tq.MovingAveragePerChannelMinMaxObserver)


# State dicts, copies, pickles


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_state_dicts_go_both_ways_with_torch(cls: Any) -> None:
    x = torch.randn(5, 20)
    ours, theirs = cls(), getattr(oracle(), cls.__name__)()
    ours(x), theirs(x * 2)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_same_qparams(ours, theirs)
    ours(x * 3)
    theirs.load_state_dict(ours.state_dict())
    assert_same_qparams(ours, theirs)


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_state_dicts_without_metadata_and_of_old_versions(cls: Any) -> None:
    observer = cls()
    observer(torch.randn(5, 20))
    plain = dict(observer.state_dict())
    loaded = cls()
    loaded.load_state_dict(plain)
    for a, b in zip(loaded.calculate_qparams(), observer.calculate_qparams(), strict=True):
        assert equal_bits(a, b)
    del plain["eps"]
    if cls in PER_CHANNEL:
        plain["min_vals"], plain["max_vals"] = plain.pop("min_val"), plain.pop("max_val")
    older = cls()
    older.load_state_dict(plain)
    for a, b in zip(older.calculate_qparams(), observer.calculate_qparams(), strict=True):
        assert equal_bits(a, b)


def test_old_histogram_files_with_empty_extremes() -> None:
    observer = tq.HistogramObserver()
    state = dict(observer.state_dict())
    state["min_val"] = state["max_val"] = torch.tensor([])
    observer.load_state_dict(state)
    assert not observer.is_calibrated
    assert observer.min_val.shape == ()


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_copies_and_pickles(cls: Any) -> None:
    observer = cls(dtype=octavo.qint8)
    observer(torch.randn(4, 9))
    for other in (copy.deepcopy(observer), pickle.loads(pickle.dumps(observer))):
        assert other.dtype is octavo.qint8
        for a, b in zip(other.calculate_qparams(), observer.calculate_qparams(), strict=True):
            assert equal_bits(a, b)
        other(torch.randn(4, 9) * 100)
        assert not torch.equal(other.min_val, observer.min_val)


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_reset(cls: Any) -> None:
    used, fresh = cls(), cls()
    used(torch.tensor([[1.0, torch.nan, 100.0]]))
    used.reset_min_max_vals()
    assert not used.is_calibrated
    assert used.nonfinite_count == 0
    x = torch.randn(3, 5)
    used(x), fresh(x)
    for a, b in zip(used.calculate_qparams(), fresh.calculate_qparams(), strict=True):
        assert equal_bits(a, b)


def test_observer_state_of_a_model() -> None:
    def prepared(data: torch.Tensor | None = None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(tq.QuantStub(), nn.Linear(3, 3), tq.DeQuantStub()).eval()
        model.qconfig = tq.default_qconfig
        model = tq.prepare(model)
        if data is not None:
            model(data)
        return model

    source, target = prepared(torch.randn(4, 3)), prepared()
    state = tq.get_observer_state_dict(source)
    assert set(state) == {
        f"{name}.activation_post_process.{key}"
        for name in "01"
        for key in ("eps", "min_val", "max_val")
    }
    tq.load_observer_state_dict(target, state)
    x = torch.randn(2, 3)
    assert torch.equal(tq.convert(source)(x), tq.convert(target)(x))
    missing = {key: value for key, value in state.items() if not key.startswith("0")}
    with pytest.raises(RuntimeError, match=r"missing keys.*0\.activation_post_process.eps"):
        tq.load_observer_state_dict(target, missing)
    with pytest.raises(RuntimeError, match=r"unexpected keys.*9\.activation_post_process.eps"):
        tq.load_observer_state_dict(
            target, {**state, "9.activation_post_process.eps": torch.ones(1)}
        )


# Factories


def test_with_args_makes_new_instances() -> None:
    factory = tq.MinMaxObserver.with_args(dtype=octavo.qint8).with_args(eps=0.5)
    a, b = factory(), factory()
    assert a is not b
    assert a.dtype is octavo.qint8
    assert float(a.eps) == 0.5
    assert factory(dtype=octavo.quint8).dtype is octavo.quint8
    assert isinstance(factory.p, functools.partial)
    assert factory.p.func is tq.MinMaxObserver
    assert factory.p.keywords == {"dtype": octavo.qint8, "eps": 0.5}
    assert "MinMaxObserver" in repr(factory)


def test_with_callable_args_are_called_at_construction() -> None:
    calls = []

    def make_eps() -> float:
        calls.append(1)
        return 0.25 * len(calls)

    factory = tq.MinMaxObserver.with_callable_args(eps=make_eps).with_args(dtype=octavo.qint8)
    assert not calls
    assert float(factory().eps) == 0.25
    assert float(factory().eps) == 0.5
    assert float(factory(eps=3.0).eps) == 3.0
    assert float(factory.with_args(eps=7.0)().eps) == 7.0
    assert len(calls) == 2


def test_factories_pickle_and_copy() -> None:
    factory = tq.default_per_channel_weight_observer
    for other in (pickle.loads(pickle.dumps(factory)), copy.deepcopy(factory)):
        assert other().qscheme == torch.per_channel_symmetric
        assert other().dtype is octavo.qint8


def test_user_written_observers() -> None:
    class Halved(tq.ObserverBase):
        def __init__(self, factor: float = 0.5, dtype: Any = octavo.quint8) -> None:
            super().__init__(dtype=dtype)
            self.factor = factor
            self.top = 0.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.top = max(self.top, float(x.abs().max()))
            return x

        def calculate_qparams(self, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([self.top * self.factor / 127]), torch.tensor([128])

    model = nn.Sequential(tq.QuantStub(), tq.DeQuantStub())
    model.qconfig = tq.QConfig(Halved.with_args(factor=1.0), tq.default_weight_observer)
    prepared = tq.prepare(model)
    prepared(torch.tensor([-2.0, 1.0]))
    out = tq.convert(prepared)(torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(out, torch.tensor([2.0, 2.0]))
    with pytest.raises(TypeError, match="abstract"):
        tq.ObserverBase(octavo.quint8)  # type: ignore[abstract]


def test_silent_observers() -> None:
    x = torch.randn(3)
    for cls in (tq.PlaceholderObserver, tq.NoopObserver, tq.ReuseInputObserver):
        assert cls()(x) is x
        with pytest.raises(RuntimeError, match=f"{cls.__name__} has no scale and zero point"):
            cls().calculate_qparams()
    assert tq.PlaceholderObserver().dtype is torch.float32
    assert tq.PlaceholderObserver(dtype=torch.quint8).dtype is octavo.quint8
    assert tq.PlaceholderObserver(compute_dtype=torch.quint8).is_dynamic
    assert tq.NoopObserver().dtype is torch.float16
    recorder = tq.RecordingObserver()
    recorder(x)
    x.zero_()
    assert bool(recorder.get_tensor_value()[0].any())


def test_fixed_qparams() -> None:
    ours = tq.default_fixed_qparams_range_neg1to1_observer()
    theirs = oracle().default_fixed_qparams_range_neg1to1_observer()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert_same_qparams(ours, theirs)
    assert_same_qparams(
        tq.default_affine_fixed_qparams_observer(), oracle().default_affine_fixed_qparams_observer()
    )


def test_defaults_equal_torchs() -> None:
    """Every default observer has the settings of torch's of the same name."""
    for name in observers.__all__:
        if not name.startswith("default_") and "range" not in name:
            continue
        ours, theirs = getattr(observers, name), getattr(oracle(), name)
        if isinstance(theirs, type):
            assert ours.__name__ == theirs.__name__
            continue
        mine, other = ours(), theirs()
        assert type(mine).__name__ == type(other).__name__
        assert mine.dtype == other.dtype
        for attribute in ("qscheme", "quant_min", "quant_max", "ch_axis", "averaging_constant"):
            assert getattr(mine, attribute, None) == getattr(other, attribute, None), name
        if hasattr(other, "eps"):
            assert torch.equal(torch.as_tensor(mine.eps), torch.as_tensor(other.eps))


def test_four_bits() -> None:
    x = torch.randn(5, 20)
    ours = tq.default_float_qparams_observer_4bit()
    theirs = oracle().default_float_qparams_observer_4bit()
    assert (ours.dtype, ours.quant_min, ours.quant_max) == (octavo.quint4x2, 0, 15)
    ours(x), theirs(x)
    assert_same_qparams(ours, theirs)
    assert pickle.loads(pickle.dumps(ours)).dtype is octavo.quint4x2
    with pytest.raises(ValueError, match=r"do not fit dtype octavo.quint4x2 \(0..15\)"):
        tq.PerChannelMinMaxObserver(dtype=octavo.quint4x2, quant_min=0, quant_max=16)
    with pytest.raises(TypeError, match="not a quantized dtype"):
        octavo.quantize_per_tensor(x, 1.0, 0, octavo.quint4x2)


def test_float_qparams_scheme() -> None:
    observer = tq.default_float_qparams_observer()
    assert observer.qscheme == per_channel_affine_float_qparams
    observer(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    scale, zero_point = observer.calculate_qparams()
    torch.testing.assert_close(scale, torch.tensor([2 / 255, 1.0]))
    torch.testing.assert_close(zero_point, torch.tensor([-127.5, -2.0]))
