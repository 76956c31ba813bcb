from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import octavo
import octavo.quantization as tq
from octavo.quantization import histogram_observer
from octavo.quantization.histogram_observer import HistogramObserver
from quantization_support import assert_same_qparams, batches, equal_bits, oracle, quietly

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"reduce_range": True},
    {"dtype": "qint8"},
    {"dtype": "qint8", "reduce_range": True},
    {"dtype": "qint8", "qscheme": torch.per_tensor_symmetric},
    {"qscheme": torch.per_tensor_symmetric},
    {"quant_min": 0, "quant_max": 127},
    {"eps": 2**-12},
    {"bins": 100},
    {"bins": 33},
    {"bins": 1},
)


def pair(**kwargs: Any) -> tuple[HistogramObserver, Any]:
    dtype = kwargs.pop("dtype", "quint8")
    theirs = quietly(oracle().HistogramObserver, dtype=getattr(torch, dtype), **kwargs)
    return HistogramObserver(dtype=getattr(octavo, dtype), **kwargs), theirs


def assert_same(ours: HistogramObserver, theirs: Any) -> None:
    for name in ("histogram", "min_val", "max_val"):
        assert equal_bits(getattr(ours, name), getattr(theirs, name)), name
    assert_same_qparams(ours, theirs)


# Torch's search takes a second where the error never grows.
ENDLESS = ("tiny", "denormal", "huge", "neighbours", "two constants")


@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
def test_counts_and_qparams_equal_torch(kwargs: dict[str, Any]) -> None:
    for name, tensors in batches():
        if name in ENDLESS:
            continue
        ours, theirs = pair(**kwargs)
        for x in tensors:
            assert ours(x) is x
            theirs(x)
        assert_same(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_searches_that_go_on_to_the_end_equal_torch(name: str) -> None:
    ours, theirs = pair()
    for x in dict(batches())[name]:
        ours(x), theirs(x)
    assert_same(ours, theirs)


@example(seed=270, shapes=[1], exponent=0.5)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    exponent=st.floats(0.5, 4.0),
)
def test_any_distribution_gives_torchs_result(
    seed: int, shapes: list[int], exponent: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = pair(bins=256)
    for size in shapes:
        x = torch.randn(size, generator=generator)
        x = x.sign() * x.abs() ** exponent + torch.randn(1, generator=generator)
        ours(x), theirs(x)
    assert_same(ours, theirs)


def test_infinite_values_as_torch() -> None:
    ours, theirs = pair()
    x = torch.randn(500)
    x[3], x[7] = torch.inf, -torch.inf
    ours(x)
    quietly(theirs, x)
    assert_same(ours, theirs)
    assert ours.nonfinite_count == 2


def test_any_memory_layout() -> None:
    x = torch.randn(3, 4, 5, 6)
    reference = HistogramObserver()
    reference(x)
    for same in (x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2), x[None]):
        observer = HistogramObserver()
        observer(same)
        assert torch.equal(observer.histogram, reference.histogram)


@pytest.mark.parametrize("value", [1.0, 1e8, 1e30, -3e38, 1e-45, 0.0])
def test_a_single_value(value: float) -> None:
    observer = HistogramObserver()
    observer(torch.full((7,), value))
    assert observer.histogram.sum() == 7
    expected = tq.MinMaxObserver()
    expected(torch.full((7,), value))
    for a, b in zip(observer.calculate_qparams(), expected.calculate_qparams(), strict=True):
        assert equal_bits(a, b)


def test_the_total_count_is_kept_when_the_interval_grows() -> None:
    observer, total = HistogramObserver(bins=64), 0
    for factor in (1.0, 0.1, 2.0, 50.0, 51.0):
        x = torch.randn(1000) * factor
        observer(x)
        total += x.numel()
        torch.testing.assert_close(observer.histogram.sum(), torch.tensor(float(total)))
    assert bool((observer.histogram >= 0).all())


def test_outliers_are_left_out() -> None:
    x = torch.cat([torch.randn(1_000_000), torch.tensor([20.0])])
    errors = []
    for observer in (HistogramObserver(), tq.MinMaxObserver()):
        observer(x)
        scale, zero_point = (t.item() for t in observer.calculate_qparams())
        rounded = octavo.quantize_per_tensor(x, scale, int(zero_point), octavo.quint8).dequantize()
        errors.append(float(((rounded - x) ** 2).mean()))
    assert errors[0] < errors[1] / 2


def test_wrong_number_of_bins_in_a_state_dict() -> None:
    source = HistogramObserver(bins=10)
    source(torch.randn(30))
    with pytest.raises(RuntimeError, match="size mismatch for histogram"):
        HistogramObserver(bins=20).load_state_dict(source.state_dict())


def test_memory_does_not_grow_with_data_or_range() -> None:
    """However far the interval grows, only arrays of a few times the number of bins are made."""
    observer = HistogramObserver()
    observer(torch.tensor([1.0, 1.0 + 1e-6]))
    sizes = []
    original = torch.linspace  # the middles of the pieces that are moved

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = original(*args, **kwargs)
        sizes.append(result.numel())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "linspace", spy)
        for exponent in range(-5, 30, 3):
            observer(torch.tensor([-(10.0**exponent), 10.0**exponent]))
    assert max(sizes) == 16 * observer.bins + 1


def test_candidates_are_nested_and_end() -> None:
    for counts in (torch.ones(50), torch.zeros(50), torch.eye(50)[3], torch.rand(50)):
        last = (0, 49)
        for first, end in histogram_observer._candidates(counts):
            assert last[0] <= first <= end <= last[1]
            assert (first, end) != last
            last = (first, end)


@pytest.mark.slow
def test_the_search_is_faster_than_torchs() -> None:
    """Summed over the distributions; single ones vary with the machine."""
    ours_total = theirs_total = 0.0
    HistogramObserver()(torch.randn(10))
    for name, tensors in batches():
        if name in ("tiny", "denormal", "huge"):
            continue
        ours, theirs = pair()
        for x in tensors:
            ours(x), theirs(x)
        start = time.perf_counter()
        ours.calculate_qparams()
        middle = time.perf_counter()
        theirs.calculate_qparams()
        ours_total += middle - start
        theirs_total += time.perf_counter() - middle
    assert ours_total < theirs_total / 2


@pytest.mark.parametrize("bins", [7, 2048])
def test_large_tensors_are_counted_as_torch_counts_them(bins: int) -> None:
    """More elements than are counted at once, values at borders of bins and at both ends."""
    for x in (
        torch.randn(150_000),
        torch.randn(3, 50_000).relu().t(),
        torch.linspace(-1, 1, 70_001),
        torch.randint(0, 9, (100_000,)).float(),
        torch.randn(70_000) * 1e30,
    ):
        ours, theirs = pair(bins=bins)
        ours(x), theirs(x)
        assert equal_bits(ours.histogram, theirs.histogram)
        assert float(ours.histogram.sum()) == x.numel()
