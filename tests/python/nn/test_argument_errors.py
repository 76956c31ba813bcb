"""Wrong arguments of convolutions and pooling: the kinds of errors that torch's float modules
raise, with messages of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
from octavo import QTensor
from octavo._errors import ArgumentError
from octavo.nn import quantized as nnq

SPATIAL = {1: (11,), 2: (7, 6), 3: (5, 4, 6)}
RANKS = tuple(SPATIAL)

# A name, arguments by keyword, the input's shape for a rank (None: one that fits), and words of
# our message.
Case = tuple[str, dict[str, Any], Callable[[tuple[int, ...]], tuple[int, ...]] | None, str]


def too_long(rank: int) -> tuple[int, ...]:
    return (1,) * (rank + 1)


def wrong_numbers(rank: int, argument: str, low: int) -> list[Case]:
    """What no argument of numbers may be."""
    must = f"{argument} must be an int >= {low}"
    return [
        (f"{argument} below", {argument: low - 1}, None, f"{must} .*got {low - 1}"),
        (f"{argument} long", {argument: too_long(rank)}, None, rf"{must} or {rank} of .*\(1, 1"),
        (f"{argument} empty", {argument: ()}, None, rf"{must} .*got \(\)"),
        (f"{argument} float", {argument: 1.5}, None, rf"{must} .*got 1\.5"),
        (f"{argument} None", {argument: None}, None, f"{must} .*got None"),
        (f"{argument} text", {argument: "2"}, None, f"{argument}.* must be .*got '2'"),
    ]


def images(shape_of_ours: str) -> list[Case]:
    return [
        ("channels", {}, lambda s: (2, 5, *s), r"\[N, 4, .*got \(2, 5"),
        ("unbatched channels", {}, lambda s: (5, *s), r"\[N, 4, .*got \(5"),
        ("no channels", {}, lambda s: (2, 0, *s), r"\[N, 4, .*got \(2, 0"),
        ("no batch, other channels", {}, lambda s: (0, 5, *s), r"\[N, 4, .*got \(0, 5"),
        ("more dimensions", {}, lambda s: (1, 2, 4, *s), r"\[N, 4, .*got \(1, 2, 4"),
        ("one dimension", {}, lambda s: (4,), r"\[N, 4, .*got \(4,\)"),
        ("no dimension", {}, lambda s: (), r"\[N, 4, .*got \(\)"),
        ("no pixels", {}, lambda s: (2, 4, *s[:-1], 0), shape_of_ours),
    ]


def conv_cases(rank: int) -> list[Case]:
    cases = [
        ("groups in", {"groups": 3}, None, "divisible by groups, got 4, 6 and 3"),
        ("groups out", {"groups": 4}, None, "divisible by groups, got 4, 6 and 4"),
        ("groups zero", {"groups": 0}, None, "groups must be >= 1, got 4, 6, 0"),
        ("groups negative", {"groups": -2}, None, "groups must be >= 1, got 4, 6, -2"),
        ("groups text", {"groups": "2"}, None, "groups must be an int, got '2'"),
        ("in_channels negative", {"in_channels": -1}, None, "in_channels, .* >= 1, got -1"),
        ("in_channels float", {"in_channels": 4.0}, None, r"in_channels must be an int, got 4\.0"),
        ("out_channels negative", {"out_channels": -1}, None, "out_channels .* >= 1, got 4, -1"),
        ("out_channels float", {"out_channels": 6.0}, None, "out_channels must be an int"),
        ("mode", {"padding_mode": "mirror"}, None, "padding_mode.* must be .*got 'mirror'"),
        ("dtype", {"dtype": torch.int32}, None, r"must be octavo\.qint8, got torch\.int32"),
        *wrong_numbers(rank, "kernel_size", 1)[1:],
        ("kernel_size negative", {"kernel_size": -1}, None, "kernel_size must be an int >= 1"),
        *wrong_numbers(rank, "stride", 1),
        *wrong_numbers(rank, "padding", 0),
        *wrong_numbers(rank, "dilation", 1),
    ]
    return cases


def plain_conv_cases(rank: int) -> list[Case]:
    big = 12

    def small(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, 4, *(1,) * len(shape))

    return [
        *conv_cases(rank),
        *images("smaller than the kernel"),
        ("padding word", {"padding": "full"}, None, "'same' or 'valid', got 'full'"),
        ("same", {"padding": "same", "stride": 2}, None, "padding='same' needs stride 1, got"),
        ("small image", {}, small, "smaller than the kernel"),
        ("small image, no batch", {}, lambda s: (0, *small(s)[1:]), "smaller than the kernel"),
        ("dilated", {"dilation": big}, None, "smaller than the kernel"),
        ("reflect", {"padding": big, "padding_mode": "reflect"}, None, "'reflect' is too large"),
        ("circular", {"padding": big, "padding_mode": "circular"}, None, "'circular' is too large"),
        (
            "replicate",
            {"padding": 1, "padding_mode": "replicate"},
            lambda s: (2, 4, *s[:-1], 0),
            "'replicate' is too large",
        ),
    ]


def transposed_cases(rank: int) -> list[Case]:
    return [
        *conv_cases(rank),
        *images("the image is empty"),
        *wrong_numbers(rank, "output_padding", 0),
        ("output_padding large", {"output_padding": 2, "stride": 2}, None, "smaller than either"),
        (
            "output_padding larger",
            {"output_padding": 3, "stride": 2, "dilation": 3},
            None,
            "smaller than either",
        ),
        ("padding word", {"padding": "same"}, None, "must be numbers, got 'same'"),
        ("mode reflect", {"padding_mode": "reflect"}, None, "must be 'zeros', got 'reflect'"),
        ("padding cuts", {"padding": 9}, None, "padding cuts off all of the output"),
    ]


def fails(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def zeros(shape: tuple[int, ...], dtype: Any = octavo.quint8) -> QTensor:
    return QTensor.from_int_repr(torch.zeros(shape, dtype=dtype.storage), 0.1, 0)


def compare(theirs: Callable[[], Any], ours: Callable[[], Any], name: str, words: str) -> None:
    """Torch fails, and we fail so that who catches torch's error catches ours."""
    expected, got = fails(theirs), fails(ours)
    assert expected is not None, "torch takes this"
    kind = next(k for k in (TypeError, ValueError, RuntimeError) if isinstance(expected, k))
    assert isinstance(got, kind), f"{got!r}, where torch raises {expected!r}"
    if kind is TypeError and str(got) == str(expected):
        return  # torch reads the arguments of some functions before it asks us
    with pytest.raises(kind, match=rf"^{name}: .*{words}"):
        raise got


def parameters(cases: Callable[[int], list[Case]]) -> Any:
    return pytest.mark.parametrize(
        ("rank", "arguments", "shape", "words"),
        [
            pytest.param(rank, *rest, id=f"{rank}d {name}")
            for rank in RANKS
            for name, *rest in cases(rank)
        ],
    )


def check_conv(kind: str, rank: int, arguments: Any, shape: Any, words: str) -> None:
    name = f"{kind}{rank}d"
    given = {"in_channels": 4, "out_channels": 6, "kernel_size": 2, **arguments}
    size = (2, 4, *SPATIAL[rank]) if shape is None else shape(SPATIAL[rank])
    compare(
        lambda: getattr(nn, name)(**given)(torch.zeros(size)),
        lambda: getattr(nnq, name)(**given)(zeros(size)),
        name,
        words,
    )


@parameters(plain_conv_cases)
def test_conv(rank: int, arguments: Any, shape: Any, words: str) -> None:
    check_conv("Conv", rank, arguments, shape, words)


@parameters(transposed_cases)
def test_conv_transpose(rank: int, arguments: Any, shape: Any, words: str) -> None:
    check_conv("ConvTranspose", rank, arguments, shape, words)


def wrong_windows(rank: int, argument: str, low: int) -> list[Case]:
    below = "padding must be between 0 and half" if argument == "padding" else "must be at least 1"
    return [
        (f"{argument} below", {argument: low - 1}, None, f"{below}.*{low - 1}"),
        (f"{argument} far below", {argument: -3}, None, f"{below}.*-3"),
        (f"{argument} long", {argument: too_long(rank)}, None, rf"{argument}: expected .*\(1, 1"),
        (f"{argument} float", {argument: 1.5}, None, rf"{argument}: expected integers, got 1\.5"),
        (f"{argument} text", {argument: "2"}, None, f"{argument}: expected integers, got '2'"),
    ]


def shapes_of_pools(zero_channels: bool) -> list[Case]:
    expected = r"expected a \(N, C, "
    return [
        ("more dimensions", {}, lambda s: (1, 2, 2, 4, *s), expected + r".*got shape \(1, 2, 2"),
        ("no pixels", {}, lambda s: (2, 4, *s[:-1], 0), "must be at least 1, got shape"),
        *(
            [
                ("no channels", {}, lambda s: (2, 0, *s), r"must be at least 1, got shape \(2, 0"),
            ]
            if zero_channels
            else []
        ),
    ]


def pool_cases(rank: int) -> list[Case]:
    return [
        *wrong_windows(rank, "kernel_size", 1),
        *wrong_windows(rank, "stride", 1),
        *wrong_windows(rank, "padding", 0),
        *shapes_of_pools(True),
        ("kernel_size empty", {"kernel_size": ()}, None, r"kernel_size: expected .*got \(\)"),
        ("kernel_size None", {"kernel_size": None}, None, "kernel_size: expected integers"),
        ("padding large", {"padding": 2}, None, r"half the kernel, got padding=\(2"),
        ("small image", {"kernel_size": 12}, None, r"is too small for kernel_size=\(12"),
        ("ceil_mode", {"ceil_mode": "x"}, None, "ceil_mode: expected True or False, got 'x'"),
    ]


def max_pool_cases(rank: int) -> list[Case]:
    return [
        *pool_cases(rank),
        *wrong_windows(rank, "dilation", 1),
        ("kernel_size flag", {"kernel_size": True}, None, "kernel_size: expected integers, got T"),
        ("dilated", {"dilation": 12}, None, r"too small for .*dilation=\(12"),
    ]


def avg_pool_cases(rank: int) -> list[Case]:
    more: list[Case] = [
        ("divisor zero", {"divisor_override": 0}, None, "divisor_override must not be 0"),
        ("divisor", {"divisor_override": 1.5}, None, "divisor_override: expected integers"),
    ]
    flag = {"count_include_pad": "x"}
    return [
        *pool_cases(rank),
        ("count_include_pad", flag, None, "count_include_pad: expected True or False, got 'x'"),
        *(more if rank > 1 else []),
    ]


def adaptive_cases(rank: int) -> list[Case]:
    expected = "output_size: expected"
    one = [("size short", {"output_size": (1,)}, None, rf"{expected} .*got \(1,\)")]
    return [
        ("size negative", {"output_size": -1}, None, "output_size must not be negative, got"),
        ("size float", {"output_size": 1.5}, None, rf"{expected} integers, got 1\.5"),
        ("size text", {"output_size": "2"}, None, f"{expected} integers, got '2'"),
        ("size empty", {"output_size": ()}, None, rf"{expected} .*got \(\)"),
        ("size long", {"output_size": too_long(rank)}, None, rf"{expected} .*got \(1, 1"),
        *(one if rank > 1 else []),
        *shapes_of_pools(False),
    ]


def check_pool(
    kind: str, name: str, rank: int, first: dict[str, Any], arguments: Any, shape: Any, words: str
) -> None:
    given = {**first, **arguments}
    size = (2, 4, *SPATIAL[rank]) if shape is None else shape(SPATIAL[rank])

    def module() -> nn.Module:
        made: nn.Module = getattr(nn, f"{kind}{rank}d")(**given)
        return made

    compare(
        lambda: module()(torch.zeros(size)),
        lambda: module()(zeros(size)),
        f"{name}{rank}d",
        words,
    )


@parameters(max_pool_cases)
def test_max_pool(rank: int, arguments: Any, shape: Any, words: str) -> None:
    check_pool("MaxPool", "max_pool", rank, {"kernel_size": 2}, arguments, shape, words)
    if rank != 2 or shape is not None:  # the module has words of its own for the rank
        return
    given = {"kernel_size": 2, **arguments}
    x = torch.zeros(2, 4, *SPATIAL[2])
    compare(
        lambda: nn.MaxPool2d(**given)(x),
        lambda: nnq.MaxPool2d(**given)(zeros(tuple(x.shape))),
        "MaxPool2d: max_pool2d",
        words,
    )


@parameters(avg_pool_cases)
def test_avg_pool(rank: int, arguments: Any, shape: Any, words: str) -> None:
    check_pool("AvgPool", "avg_pool", rank, {"kernel_size": 2}, arguments, shape, words)


@parameters(adaptive_cases)
def test_adaptive_pool(rank: int, arguments: Any, shape: Any, words: str) -> None:
    for kind in ("Avg", "Max"):
        name = f"adaptive_{kind.lower()}_pool"
        check_pool(f"Adaptive{kind}Pool", name, rank, {"output_size": 2}, arguments, shape, words)


@pytest.mark.parametrize("rank", RANKS)
def test_empty_batches_are_no_errors(rank: int) -> None:
    for name in ("Conv", "ConvTranspose"):
        theirs, ours = getattr(nn, f"{name}{rank}d"), getattr(nnq, f"{name}{rank}d")
        x = torch.zeros(0, 4, *SPATIAL[rank])
        assert ours(4, 6, 2)(zeros(tuple(x.shape))).shape == theirs(4, 6, 2)(x).shape
    pools: list[nn.Module] = [
        getattr(nn, f"{kind}Pool{rank}d")(2) for kind in ("Max", "Avg", "AdaptiveAvg")
    ]
    for pool in pools:
        x = torch.zeros(0, 4, *SPATIAL[rank])
        assert pool(zeros(tuple(x.shape))).shape == pool(x).shape


@pytest.mark.parametrize("rank", RANKS)
def test_inputs_of_another_dtype_or_without_numbers(rank: int) -> None:
    """A float module raises RuntimeError for weights of another dtype; we raise TypeError, as for
    every input that is no activation, and name what it takes."""
    shape = (2, 4, *SPATIAL[rank])
    wrong: list[Tensor] = [
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.int32),
        octavo.quantize_per_tensor(torch.zeros(shape), 0.1, 0, octavo.qint32),
    ]
    for name in ("Conv", "ConvTranspose"):
        module = getattr(nnq, f"{name}{rank}d")(4, 6, 2)
        for x in wrong:
            with pytest.raises(TypeError, match=rf"^{name}{rank}d: input must be a quantized"):
                module(x)
        meta = QTensor._wrap(
            torch.zeros(shape, dtype=torch.uint8, device="meta"), 0.1, 0, octavo.quint8
        )
        result = module(meta)  # no numbers, but the sizes
        assert (
            result.shape
            == module(octavo.quantize_per_tensor(wrong[0], 0.1, 0, octavo.quint8)).shape
        )
        assert result.device.type == "meta"


def test_argument_errors_are_of_both_kinds() -> None:
    for kind in (ValueError, RuntimeError, ArgumentError):
        with pytest.raises(kind, match="stride must be an int >= 1 or 2 of them, got 0"):
            nnq.Conv2d(4, 6, 2, stride=0)
