"""Percentile and MSE observers, against brute force over the data itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq
from octavo.quantization.histogram import count, count_on_device, moved, moved_on_device
from quantization_support import batches

SYMMETRIC = {"dtype": octavo.qint8, "qscheme": octavo.per_tensor_symmetric}


def error_of(observer: Any, x: torch.Tensor) -> float:
    """Mean squared error of quantizing with what the observer found."""
    scale, zero_point = (t.item() for t in observer.calculate_qparams())
    low, high = observer.quant_min, observer.quant_max
    out = torch.fake_quantize_per_tensor_affine(x, scale, int(zero_point), low, high)
    return float(((out - x).double() ** 2).mean())


@pytest.mark.parametrize("percentile", [100.0, 99.9, 90.0, 50.0])
@pytest.mark.parametrize("kwargs", [{}, SYMMETRIC], ids=["affine", "symmetric"])
def test_the_share_lies_within_the_interval(percentile: float, kwargs: dict[str, Any]) -> None:
    x = torch.randn(100_000).exp() - 1.5
    observer = tq.PercentileObserver(percentile, **kwargs)
    for part in x.split(30_000):
        observer(part)
    low, high = observer._interval()
    inside = float(((x >= low) & (x <= high)).double().mean()) * 100
    assert percentile - 0.02 <= inside
    width = float(observer.max_val - observer.min_val) / observer.bins
    if kwargs:
        limit = torch.quantile(x.abs(), percentile / 100)
        assert abs(float(torch.maximum(-low, high)) - float(limit)) <= 2.1 * width
    else:
        share = (1 - percentile / 100) / 2
        assert abs(float(low) - float(torch.quantile(x, share))) <= 1.1 * width
        assert abs(float(high) - float(torch.quantile(x, 1 - share))) <= 1.1 * width


def test_everything_is_minimum_and_maximum() -> None:
    for _, tensors in batches():
        for kwargs in ({}, SYMMETRIC):
            ours, expected = tq.PercentileObserver(100, **kwargs), tq.MinMaxObserver(**kwargs)
            for x in tensors:
                ours(x), expected(x)
            for a, b in zip(ours.calculate_qparams(), expected.calculate_qparams(), strict=True):
                torch.testing.assert_close(a, b)


def test_one_outlier_does_not_cost_the_others() -> None:
    x = torch.cat([torch.randn(50_000), torch.tensor([1e4])])
    for observer in (tq.PercentileObserver(99.99, bins=2**16), tq.PercentileObserver(99.99)):
        observer(x)
        scale, _ = observer.calculate_qparams()
        width = float(observer.max_val - observer.min_val) / observer.bins
        assert float(scale) * 255 <= 10 + 2 * width


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_percentiles_out_of_range(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile must be above 0 and at most 100"):
        tq.PercentileObserver(percentile)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        SYMMETRIC,
        {"quant_min": 0, "quant_max": 15},
        {"dtype": octavo.qint8, "qscheme": octavo.per_tensor_symmetric, "reduce_range": True},
    ],
    ids=str,
)
def test_least_mean_squared_error(kwargs: dict[str, Any]) -> None:
    """Not above minimum and maximum, the histogram search, or a scan over the data itself."""
    for name, tensors in batches():
        if name in ("tiny", "denormal", "huge"):  # the search by torch's rule takes long
            continue
        ours, others = tq.MSEObserver(**kwargs), (tq.MinMaxObserver(**kwargs),)
        if name not in ("neighbours", "two constants"):
            others += (tq.HistogramObserver(**kwargs),)
        for x in tensors:
            ours(x)
            for other in others:
                other(x)
        everything = torch.cat([x.reshape(-1) for x in tensors])
        found = error_of(ours, everything)
        floor = 1e-12 + 1e-7 * float(everything.square().mean())
        for other in others:
            assert found <= 1.05 * error_of(other, everything) + floor, name
        scan = tq.MinMaxObserver(**kwargs)
        for factor in torch.linspace(0.04, 1, 25):
            scan.min_val.copy_(everything.min() * factor)
            scan.max_val.copy_(everything.max() * factor)
            assert found <= 1.05 * error_of(scan, everything) + floor, (name, float(factor))


def test_they_calibrate_models() -> None:
    x = torch.randn(200, 6)
    for factory in (tq.PercentileObserver.with_args(percentile=99.9), tq.MSEObserver):
        model = nn.Sequential(tq.QuantStub(), nn.Linear(6, 5), tq.DeQuantStub()).eval()
        model.qconfig = tq.QConfig(factory, tq.default_per_channel_weight_observer)
        prepared = tq.prepare(model)
        expected = prepared(x)
        out = tq.convert(prepared)(x)
        assert float((out - expected).detach().abs().mean()) < 0.05


def test_state_dicts_are_those_of_a_histogram() -> None:
    source, target = tq.HistogramObserver(), tq.MSEObserver()
    source(torch.randn(100))
    target.load_state_dict(source.state_dict())
    assert target.is_calibrated


# Counting without reading numbers back


def test_counts_on_a_device_are_the_same_but_at_borders() -> None:
    for name, tensors in batches():
        x = tensors[-1].reshape(-1)
        low, high = x.min(), x.max()
        exact = count(x, 64, low.item(), high.item())
        other = count_on_device(x, 64, low, high)
        assert int(other.sum()) == x.numel(), name
        if name not in ("tiny", "denormal", "huge"):
            assert float((exact.cumsum(0) - other.cumsum(0)).abs().max()) <= 0.02 * x.numel() + 1, (
                name
            )
    spoiled = torch.tensor([0.0, torch.nan, 1.0, torch.inf])
    assert int(count_on_device(spoiled, 4, torch.tensor(0.0), torch.tensor(1.0)).sum()) == 2


def test_moving_on_a_device_is_the_same_but_at_borders() -> None:
    counts = torch.rand(64)
    for old, new in (
        ((-1.0, 2.0), (-1.5, 9.0)),
        ((0.0, 1.0), (0.0, 1.0)),
        ((3.0, 3.0), (0.0, 4.0)),
    ):
        arguments = [torch.tensor(v) for v in (*old, *new)]
        expected = counts if old == new else moved(counts, *old, *new)
        other = moved_on_device(counts, *arguments)
        torch.testing.assert_close(other.sum(), counts.sum())
        assert float((expected.cumsum(0) - other.cumsum(0)).abs().max()) < 1.0
    fresh = [torch.tensor(v) for v in (torch.inf, -torch.inf, 0.0, 1.0)]
    assert float(moved_on_device(torch.zeros(64), *fresh).abs().sum()) == 0
