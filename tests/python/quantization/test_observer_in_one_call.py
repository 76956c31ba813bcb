"""Observers whose statistics the kernels take, against the same in torch's operations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import octavo.quantization as tq
from direct_support import ordinary
from octavo import backend
from octavo.ops import direct
from octavo.quantization import minmax_observer
from octavo.quantization.histogram import moved

TENSOR: list[Any] = [tq.MinMaxObserver, tq.MovingAverageMinMaxObserver]
CHANNEL: list[Any] = [tq.PerChannelMinMaxObserver, tq.MovingAveragePerChannelMinMaxObserver]
ALL = [*TENSOR, *CHANNEL, tq.HistogramObserver]


def state(observer: Any) -> list[torch.Tensor]:
    return [*observer.state_dict().values(), torch.tensor(observer.nonfinite_count)]


def both(make: Callable[[], Any], tensors: list[torch.Tensor]) -> None:
    """Shows the tensors to two observers, one of which has no kernels: equal after each."""
    one, other = make(), make()
    for x in tensors:
        assert one(x) is x
        ordinary(lambda x=x: other(x))  # type: ignore[misc]
        for a, b in zip(state(one), state(other), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def takes_kernels(observer: Any, x: torch.Tensor) -> bool:
    axis = getattr(observer, "ch_axis", None)
    return minmax_observer._observed(copy.deepcopy(observer), x, axis)


def steps(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Ranges that grow and shrink, values that are not finite, and a tensor without any other."""
    tensors = [torch.randn(shape) * factor + factor for factor in (1.0, 3.0, 0.1, -20.0, 0.0)]
    tensors[2].view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    return [*tensors, torch.full(shape, torch.nan), torch.randn(shape)]


@pytest.mark.parametrize("isa", backend.supported())
@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("size", [5, 700, 20_011])
def test_statistics_equal_those_in_torchs_operations(cls: Any, size: int, isa: str) -> None:
    with backend.force(isa):
        both(cls, steps((3, size)))


@pytest.mark.parametrize("cls", [*TENSOR, *CHANNEL])
def test_the_kernels_are_taken(cls: Any, reading: str) -> None:
    observer = cls()
    x = torch.randn(4, 6)
    observer(x)
    assert takes_kernels(observer, x)
    assert takes_kernels(observer, x.clone().requires_grad_())
    assert takes_kernels(observer, nn.Parameter(x))
    assert not takes_kernels(observer, x.double())
    assert not takes_kernels(observer, x[:, ::2])
    assert not takes_kernels(observer, torch.empty(4, 0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("cls", CHANNEL)
def test_layouts_and_axes(cls: Any, axis: int, layout: str, reading: str) -> None:
    x = torch.randn(3, 8, 9, 10) * 3
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "permuted":
        x = torch.randn(9, 10, 3, 8).permute(2, 3, 0, 1)
    if layout == "sliced":
        x = torch.randn(3, 8, 9, 20)[..., ::2]
    both(lambda: cls(ch_axis=axis), [x, x * 2, x - 1])


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(cls: Any, dtype: torch.dtype) -> None:
    both(cls, [torch.randn(4, 50).to(dtype) for _ in range(3)])


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=70),
    later=st.lists(st.floats(width=32), min_size=1, max_size=70),
    constant=st.sampled_from([0.01, 0.3, 1, 1.0]),
)
def test_any_values(values: list[float], later: list[float], constant: float) -> None:
    tensors = [torch.tensor(values), torch.tensor(later)]
    for tensor in tensors:  # an interval wider than float32 has numbers for is another test's
        tensor.clamp_(-1e38, 1e38)
    both(tq.MinMaxObserver, tensors)
    both(lambda: tq.MovingAverageMinMaxObserver(averaging_constant=constant), tensors)
    both(lambda: tq.HistogramObserver(bins=64), tensors)


@pytest.mark.parametrize("cls", CHANNEL)
def test_errors_stay(cls: Any) -> None:
    observer = cls(ch_axis=1)
    observer(torch.randn(2, 3))
    with pytest.raises(ValueError, match="observed 3 channels along axis 1 before"):
        observer(torch.randn(2, 4))
    with pytest.raises(ValueError, match="ch_axis=1 needs a tensor with that axis"):
        observer(torch.randn(5))
    with pytest.raises(TypeError, match="observes one float tensor, got list"):
        observer([1.0])


class _Halving(tq.MinMaxObserver):
    def _update(self, low: torch.Tensor, high: torch.Tensor) -> None:
        super()._update(low / 2, high / 2)


def test_a_users_subclass_observes_in_its_own_way() -> None:
    observer = _Halving()
    observer(torch.tensor([-2.0, 4.0]))
    assert (observer.min_val.item(), observer.max_val.item()) == (-1.0, 2.0)


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls", ALL)
def test_dispatch_modes_see_the_operations(cls: Any) -> None:
    one, other, x = cls(), cls(), torch.randn(4, 60)
    for _ in range(2):
        with _Seen() as seen:
            one(x * 2)
        assert seen.operations > 2
        other(x * 2)
    for a, b in zip(state(one), state(other), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [*TENSOR, *CHANNEL])
def test_autograd_learns_that_statistics_were_written(cls: Any) -> None:
    observer, x = cls(), torch.randn(3, 9)
    observer(x)
    scale = torch.ones(1, requires_grad=True)
    product = scale * observer.max_val
    observer(x * 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("cls", ALL)
def test_inference_mode(cls: Any) -> None:
    with torch.inference_mode():
        both(cls, steps((3, 50)))


@pytest.mark.parametrize("cls", ALL)
def test_threads_do_not_matter(cls: Any) -> None:
    x = torch.randn(64, 4001)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            observer = cls()
            observer(x), observer(x * 1.5)
            found.append(state(observer))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bins", [1, 2, 7, 2048, 65536, 70_000])
def test_counts_equal_histc(bins: int, reading: str) -> None:
    """Values at the borders of bins and at both ends, and many that are equal."""
    for x in (
        torch.randn(70_003),
        torch.randn(3, 900).relu().t(),
        torch.linspace(-1, 1, 4001),
        torch.randint(0, 9, (1000,)).float(),
        torch.tensor([3.0, -2.0]),
    ):
        low, high = x.min().item(), x.max().item()
        counts = direct.count_bins(x, bins, low, high)
        if bins > 65536:
            assert counts is None
            continue
        assert counts is not None
        assert torch.equal(counts, torch.histc(x, bins, min=low, max=high))
        assert int(counts.sum()) == x.numel()


def test_counting_stays_within_the_bins(reading: str) -> None:
    """Whatever is asked, even of values that the interval does not hold."""
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -7.0, 9.0, 0.0, 1.0, 3e38])
    counts = direct.count_bins(x, 4, 0.0, 1.0)
    assert counts is not None
    assert counts.tolist() == [4, 0, 0, 4]
    for low, high in ((1.0, 1.0), (2.0, 1.0), (torch.nan, 1.0)):
        assert direct.count_bins(x, 4, low, high) is None
    assert direct.count_bins(x, 0, 0.0, 1.0) is None
    assert direct.count_bins(x.double(), 4, 0.0, 1.0) is None


@given(
    bins=st.sampled_from([1, 2, 9, 300]),
    ends=st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4, unique=True),
    seed=st.integers(0, 100),
)
def test_moved_counts_equal_those_of_torchs_operations(
    bins: int, ends: list[float], seed: int
) -> None:
    low, old_low, old_high, high = sorted(ends)
    counts = torch.rand(bins, generator=torch.Generator().manual_seed(seed)) * 1000
    got = moved(counts, old_low, old_high, low, high)
    expected = ordinary(lambda: moved(counts, old_low, old_high, low, high))
    assert torch.equal(got, expected)


def test_counts_that_cannot_be_moved_in_one_call(reading: str) -> None:
    counts, middles = torch.ones(2), torch.linspace(0, 1, 32)
    assert direct.move_counts(counts, middles, torch.tensor([0.0, 0.5, 1.0])) is not None
    for wrong in (
        (counts, middles, torch.tensor([0.0, 1.0, 0.5])),
        (counts, middles, torch.tensor([0.0, 1.0])),
        (counts, middles[:31], torch.tensor([0.0, 0.5, 1.0])),
        (counts.double(), middles, torch.tensor([0.0, 0.5, 1.0])),
        (counts, middles.reshape(2, 16), torch.tensor([0.0, 0.5, 1.0])),
    ):
        assert direct.move_counts(*wrong) is None
