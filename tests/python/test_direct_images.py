"""Direct entry points of pooling, upsampling, clamps, sums and concatenation: the same results as
the ordinary way, and nothing where they do not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from direct_support import ordinary, same
from module_support import generator, random_q
from octavo import QTensor
from octavo.nn import quantized as nnq
from octavo.ops import direct

SIZES = {1: (9,), 2: (6, 7), 3: (4, 6, 5)}
EIGHT_BIT = ["quint8", "qint8"]


def with_int(q: QTensor, ints: Tensor) -> QTensor:
    return QTensor._wrap(ints, q._scale, q._zero_point, q._qdtype, octavo.per_tensor_symmetric)


def images(rank: int, channels: int = 5, dtype: str = "quint8") -> dict[str, QTensor]:
    """The layouts that direct entry points of images read."""
    q = random_q((2, channels, *SIZES[rank]), generator(rank), dtype=dtype)
    planes = with_int(q, q._int.contiguous())
    last = with_int(q, q._int.movedim(1, -1).contiguous().movedim(-1, 1))
    wide = torch.cat([q._int] * 3, 1).movedim(1, -1).contiguous().movedim(-1, 1)
    return {
        "planes": planes,
        "channels last": last,
        "slice of channels": with_int(q, wide[:, 2 : 2 + channels]),
        "crop": with_int(q, last._int[..., 1:]),
        "one image": with_int(q, last._int[:1]),
        "no batch": with_int(q, last._int[0]),
        "planes without batch": with_int(q, planes._int[0]),
    }


def function(name: str, rank: int) -> Any:
    return getattr(F, f"{name}{rank}d")


def check(call: Callable[[QTensor], Any], x: QTensor, taken: Any) -> None:
    """The three ways agree: as a user calls it, direct, ordinary."""
    assert taken is not None
    want = ordinary(lambda: call(x))
    same(taken, want)
    same(call(x), want)
    assert taken._qscheme == octavo.per_tensor_symmetric


@pytest.mark.kernel
@pytest.mark.parametrize("rank", SIZES)
@pytest.mark.parametrize("dtype", EIGHT_BIT)
@pytest.mark.parametrize("channels", [1, 5])
def test_pooling(reading: str, rank: int, dtype: str, channels: int) -> None:
    each = tuple(range(2, rank + 2))
    for x in images(rank, channels, dtype).values():
        for window in (
            (2, None, 0, 1, False),
            ((3,) * rank, 2, 1, 1, True),
            ([3], [], (1,), 1, False),
            (each, torch.Size((1,) * rank), 1, 1, False),
            (2, 1, 1, [2] * rank, True),
        ):
            taken = direct.max_pool(x, rank, *window)
            check(lambda x, w=window: function("max_pool", rank)(x, *w), x, taken)
        for window in ((2, None, 0, False, True), (3, [2] * rank, 1, True, False)):
            taken = direct.avg_pool(x, rank, *window, None)
            check(lambda x, w=window: function("avg_pool", rank)(x, *w), x, taken)
        if rank > 1:
            divided = (2, None, 1, False, True, -3)
            taken = direct.avg_pool(x, rank, *divided)
            check(lambda x, w=divided: function("avg_pool", rank)(x, *w), x, taken)
        for size in (1, 3, [2] * rank, (None,) * (rank - 1) + (2,)):
            for kind in ("avg", "max"):
                taken = getattr(direct, f"adaptive_{kind}_pool")(x, rank, size)
                name = f"adaptive_{kind}_pool"
                check(lambda x, n=name, s=size: function(n, rank)(x, s), x, taken)


@pytest.mark.kernel
@pytest.mark.parametrize("rank", SIZES)
def test_mean_of_images(reading: str, rank: int) -> None:
    for layout, x in images(rank).items():
        if "batch" in layout:
            continue
        for dims in (list(range(2, rank + 2)), tuple(range(-1, -rank - 1, -1))):
            for keep in (False, True):
                taken = direct.spatial_mean(x, dims, keep)
                check(lambda x, d=dims, k=keep: x.mean(d, k), x, taken)
        for dims in ((), (1,), (2,) * rank, tuple(range(1, rank + 1)), 2, None, [2.0] * rank):
            if (rank, dims) != (1, (2,)):
                assert direct.spatial_mean(x, dims, False) is None


@pytest.mark.kernel
@pytest.mark.parametrize("rank", SIZES)
@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_upsampling(reading: str, rank: int, dtype: str) -> None:
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
    for layout, x in images(rank, dtype=dtype).items():
        if "batch" in layout:
            continue
        for size, factor, recompute in (
            (5, None, None),
            ((3, 8, 7)[:rank], None, False),
            (None, 2, None),
            (None, 2.0, None),
            (None, 1.7, True),
            (None, (0.6, 2, 1.31)[:rank], False),
            (None, [1.0] * rank, None),
        ):
            for exact, mode in ((False, "nearest"), (True, "nearest-exact")):
                taken = direct.upsample_nearest(x, exact, size, factor, recompute)
                args = {"size": size, "scale_factor": factor, "recompute_scale_factor": recompute}
                check(lambda x, m=mode, a=args: F.interpolate(x, **a, mode=m), x, taken)
            for corners in (False, True):
                taken = direct.upsample_linear(x, corners, size, factor, recompute)
                args["align_corners"] = corners
                check(lambda x, a=args: F.interpolate(x, **a, mode=linear), x, taken)


@pytest.mark.kernel
@pytest.mark.parametrize("rank", SIZES)
@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_clamps_sums_and_products(reading: str, rank: int, dtype: str) -> None:
    module = nnq.QFunctional()
    module.scale, module.zero_point = 0.25, 90
    kept = images(rank, dtype=dtype)
    for layout in ("planes", "channels last", "one image"):
        x = kept[layout]
        check(F.relu, x, direct.clamp(x, x._zero_point, 1000))
        same(F.relu6(x), ordinary(lambda x=x: F.relu6(x)))
        same(nnq.ReLU6()(x), ordinary(lambda x=x: nnq.ReLU6()(x)))
        y = QTensor._wrap(x._int.flip(0), 0.31, 7, x._qdtype)
        y = QTensor._wrap(torch.empty_like(x._int).copy_(y._int), 0.31, 7, x._qdtype)
        for name in ("add", "mul", "add_relu"):
            call = getattr(module, name)
            want = ordinary(lambda call=call, x=x, y=y: call(x, y))
            kernel = getattr(direct, name.removesuffix("_relu"))
            same(kernel(x, y, 0.25, 90, x._qdtype, name == "add_relu"), want)
            same(kernel(x, y, 0.25, 90, None, name == "add_relu"), want)
            same(call(x, y), want)
    x, y = kept["planes"], kept["channels last"]
    for other in (y, with_int(x, x._int[:1]), kept["crop"], x.dequantize(), 3):
        assert direct.add(x, other, 0.25, 90, None, False) is None
    same(module.add(x, y), ordinary(lambda: module.add(x, y)))
    one = with_int(x, x._int[:1])
    same(module.mul(x, one), ordinary(lambda: module.mul(x, one)))
    wrong_kind = octavo.qint8 if dtype == "quint8" else octavo.quint8
    assert direct.add(x, x, 0.25, 90, wrong_kind, False) is None
    assert direct.add(x, x, 0.25, 256, None, False) is None
    assert direct.add(x, x, 1e-45, 0, None, False) is None
    assert direct.clamp(x, 9, 8) is None
    assert direct.clamp(kept["slice of channels"], 0, 8) is None


@pytest.mark.kernel
@pytest.mark.parametrize("rank", SIZES)
@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_cat(reading: str, rank: int, dtype: str) -> None:
    module = nnq.QFunctional()
    module.scale, module.zero_point = 0.25, 90
    a, b = images(rank, dtype=dtype), images(rank, 3, dtype)
    for layout in ("planes", "channels last", "slice of channels", "one image"):
        x, y = a[layout], b[layout]
        y = QTensor._wrap(y._int, 0.31, 7, y._qdtype)
        for parts in ([x, y], (y, x, y), [x]):
            want = ordinary(lambda p=parts: module.cat(p, 1))
            same(direct.cat(parts, 1, 0.25, 90, None), want)
            same(direct.cat(parts, -1 - rank, 0.25, 90, x._qdtype), want)
            same(module.cat(parts, 1), want)
            first = parts[0]
            want = ordinary(lambda p=parts: torch.cat(p, 1))
            same(torch.cat(parts, 1), want)
            assert (want._scale, want._zero_point) == (first._scale, first._zero_point)
    for dim in range(rank + 2):
        parts = [a["planes"]] * 3
        want = ordinary(lambda p=parts, d=dim: module.cat(p, d))
        same(module.cat(parts, dim), want)
        taken = direct.cat(parts, dim, 0.25, 90, None)
        same(taken, want)
    x, y = a["planes"], a["channels last"]
    for parts in ([x, y], [x, x._int], [x, with_int(x, x._int[..., 1:])], [], [x] * 17, x, "xx"):
        assert direct.cat(parts, 1, 0.25, 90, None) is None
    for dim in (rank + 2, -rank - 3, 1.0, None, 2**40):
        assert direct.cat([x, x], dim, 0.25, 90, None) is None
    same(module.cat([x] * 17, 1), ordinary(lambda: module.cat([x] * 17, 1)))


def test_single_pixels_join_as_they_lie(reading: str) -> None:
    parts = [random_q((2, c, 1, 1), generator(c)) for c in (3, 4)]
    same(torch.cat(parts, 1), ordinary(lambda: torch.cat(parts, 1)))
    parts = [random_q((2, 1, 5, 6), generator(c)) for c in (3, 4)]
    same(torch.cat(parts, 1), ordinary(lambda: torch.cat(parts, 1)))


def every_call(x: Any) -> list[Any]:
    return [
        direct.max_pool(x, 2, 2, None, 0, 1, False),
        direct.avg_pool(x, 2, 2, None, 0, False, True, None),
        direct.adaptive_max_pool(x, 2, 1),
        direct.adaptive_avg_pool(x, 2, 1),
        direct.spatial_mean(x, (2, 3), False),
        direct.upsample_nearest(x, False, 3, None, None),
        direct.upsample_linear(x, False, 3, None, None),
        direct.clamp(x, 3, 9),
        direct.add(x, x, 0.1, 3, None, False),
        direct.mul(x, x, 0.1, 3, None, False),
        direct.cat([x, x], 1, 0.1, 3, None),
    ]


def test_what_is_taken() -> None:
    assert None not in every_call(random_q((1, 4, 4, 4), generator(0)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1, 4, 4, 4),
        lambda: torch.zeros(1, 4, 4, 4, dtype=torch.uint8),
        lambda: None,
        lambda: random_q((0, 4, 4, 4), generator(0)),
        lambda: random_q((), generator(0)),
        lambda: with_int(random_q((1,), generator(0)), torch.zeros(2, 4, 8, 8).byte()[..., ::2]),
        lambda: octavo.quantize_per_tensor(torch.ones(1, 4, 4, 4), 0.1, 0, octavo.qint32),
        lambda: octavo.quantize_per_channel(
            torch.ones(1, 4, 4, 4), torch.ones(4), torch.zeros(4).long(), 1, octavo.quint8
        ),
    ],
)
def test_inputs_that_are_not_taken(reading: str, make: Any) -> None:
    assert all(result is None for result in every_call(make()))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_tracing_is_not_taken(reading: str) -> None:
    x = random_q((1, 4, 4, 4), generator(0))
    results: list[Any] = []

    def traced(plain: Tensor) -> Tensor:
        results.extend(every_call(x))
        return plain + 1

    torch.jit.trace(traced, torch.zeros(1), check_trace=False)
    assert len(results) == 11
    assert all(result is None for result in results)


def test_windows_that_are_not_taken(reading: str) -> None:
    x = random_q((1, 4, 6, 6), generator(0))
    for window in (
        (0, None, 0, 1, False),
        (2, 0, 0, 1, False),
        (2, None, 2, 1, False),
        (2, None, -1, 1, False),
        (2, None, 0, 0, False),
        (7, None, 0, 1, False),
        ((2, 2, 2), None, 0, 1, False),
        (2.0, None, 0, 1, False),
        ("2", None, 0, 1, False),
        (True, None, 0, 1, False),
        (2**31, None, 0, 1, False),
        (2, None, 0, 2**31 - 1, False),
        (2, None, 0, 1, 1),
    ):
        assert direct.max_pool(x, 2, *window) is None, window
        if window[3] == 1:
            assert direct.avg_pool(x, 2, *window[:3], window[4], True, None) is None, window
    assert direct.max_pool(x, 1, 2, None, 0, 1, False) is None
    assert direct.max_pool(x, 3, 2, None, 0, 1, False) is not None  # (C, D, H, W)
    assert direct.max_pool(x, 4, 2, None, 0, 1, False) is None
    assert direct.max_pool(x, 2, 2) is None
    for divisor in (0, 1.0, 2**31):
        assert direct.avg_pool(x, 2, 2, None, 0, False, True, divisor) is None
    for size in (0, -1, (1, 2, 3), (2,), None, 2.0, "1"):
        assert direct.adaptive_avg_pool(x, 2, size) is None
        assert direct.adaptive_max_pool(x, 2, size) is None
    for size, factor, recompute in (
        (None, None, None),
        (3, 2, None),
        (3, None, True),
        (0, None, None),
        ((3,), None, None),
        ((3, 3, 3), None, None),
        (None, (2.0,), None),
        (None, 0.0, None),
        (None, -2.0, None),
        (None, float("nan"), None),
        (None, float("inf"), None),
        (None, 1e300, None),
        (None, 0.1, None),
        (None, 2.0, 1),
        (None, "2", None),
    ):
        assert direct.upsample_nearest(x, False, size, factor, recompute) is None
        assert direct.upsample_linear(x, False, size, factor, recompute) is None


def test_results_keep_their_memory(reading: str) -> None:
    x = random_q((2, 4, 6, 6), generator(0))
    want = ordinary(lambda: nn.MaxPool2d(2)(x))
    view = nn.MaxPool2d(2)(x)[1:]
    for _ in range(50):
        nn.MaxPool2d(2)(random_q((2, 4, 6, 6), generator(1)))
    assert torch.equal(view._int, want._int[1:])
