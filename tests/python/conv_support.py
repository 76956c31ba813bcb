"""Shapes, layouts and arguments of convolutions that property-based tests draw."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from module_support import generator, random_q, threads
from octavo import QTensor

RANKS = (1, 2, 3)
SPATIAL = {1: (11,), 2: (7, 6), 3: (5, 4, 6)}
LAYOUTS = ("contiguous", "channels last", "steps", "slice of channels")


def is_channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same values, (N, C, ...), in another memory layout."""
    if layout == "channels last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "steps":
        return values.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "slice of channels":
        wide = torch.cat([values, values], 1).movedim(1, -1).contiguous().movedim(-1, 1)
        return wide[:, : values.shape[1]]
    return values.contiguous()


def relaid(x: QTensor, layout: str) -> QTensor:
    """The same values in another memory layout."""
    return QTensor.from_int_repr(laid_out(x.int_repr(), layout), x.q_scale(), x.q_zero_point())


def run(module: Any, *inputs: Any) -> QTensor:
    """The output, which is the same with one, two and three threads."""
    with threads(1):
        y: QTensor = module(*inputs)
    for count in (2, 3):
        with threads(count):
            again = module(*inputs)
        assert torch.equal(y.int_repr(), again.int_repr())
    return y


def run_dynamic(module: Any, x: Tensor) -> Tensor:
    """The output, which is the same with one and three threads and whichever way the call takes."""
    with threads(1):
        y: Tensor = module(x)
    with threads(3):
        again = module(x)
    slow = module._forward(x)
    assert torch.equal(y, again)
    assert torch.equal(y, slow)
    assert y.stride() == slow.stride()
    assert is_channels_last(y)
    return y


def check_batches(module: Any, x: QTensor) -> None:
    """A batch of no image gives none, and an image without a batch what it gives in one."""
    y = run(module, x)
    none = run(module, random_q((0, *x.shape[1:]), generator(0)))
    assert none.shape == (0, *y.shape[1:])
    assert none.q_scale() == module.scale
    for batched in (x, relaid(x, "channels last")):
        single = QTensor.from_int_repr(batched.int_repr()[0], x.q_scale(), x.q_zero_point())
        alone = run(module, single)
        assert alone.shape == y.shape[1:]
        assert torch.equal(alone.int_repr(), y.int_repr()[0])


def float_shape(module: torch.nn.Module, x: torch.Tensor) -> torch.Size:
    """The shape of what a float convolution gives, without running it: torch 2.13's reads and
    writes memory not its own for some layers (a Conv3d of kernel (3, 1, 1), stride (1, 2, 3),
    padding (3, 3, 2), dilation (1, 2, 3) and 2 groups on a (1, 10, 3, 3, 1) channels-last image
    ends the process)."""
    y: torch.Tensor = copy.deepcopy(module).to("meta")(x.float().to("meta"))
    return y.shape


def check_attributes(ours: Any, theirs: Any) -> None:
    """Two convolutions were made with the same arguments."""
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "transposed",
        "output_padding",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name


@st.composite
def conv_cases(draw: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Arguments of a convolution and the shape of an input that it takes."""
    rank = draw(st.sampled_from(RANKS))
    most = {1: 9, 2: 5, 3: 3}[rank]

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16, 17]))
    per_in = draw(st.sampled_from([1, 2, 3, 5, 16, 33])) if groups <= 3 else 1
    per_out = draw(st.sampled_from([1, 2, 5, 17, 40] if groups <= 3 else [1, 1, 2]))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    kernel, stride, dilation = each(1, most), each(1, 4), each(1, 3)
    padding: Any = each(0, 3)
    if draw(st.integers(0, 4)) == 0:
        padding = draw(st.sampled_from(["same", "valid"]))
        stride = stride if padding == "valid" else (1,) * rank
    # What the padding adds in total, and what of it may not be larger than the image.
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = {"same": [s - s // 2 for s in spans], "valid": [0] * rank}
    side = sides[padding] if isinstance(padding, str) else list(padding)
    total = spans if padding == "same" else [2 * s for s in side]
    extra = {"zeros": 0, "replicate": 0, "circular": 0, "reflect": 1}[mode]
    least = [
        max(1, span + 1 - added, s + extra if mode in ("reflect", "circular") else 1)
        for span, added, s in zip(spans, total, side, strict=True)
    ]
    more = st.just(0) | st.integers(0, {1: 20, 2: 6, 3: 3}[rank])
    size = tuple(low + draw(more) for low in least)
    args = {
        "c_in": groups * per_in,
        "c_out": groups * per_out,
        "kernel": kernel,
        "rank": rank,
        "groups": groups,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "padding_mode": mode,
        "bias": draw(st.booleans()),
        "relu": draw(st.booleans()),
        "per_channel": draw(st.booleans()) and groups * per_out > 1,
        "zeros": draw(st.booleans()),
    }
    return args, (draw(st.integers(0, 3)), groups * per_in, *size)


@st.composite
def conv_transpose_cases(draw: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Arguments of a transposed convolution and the shape of an input that it takes."""
    rank = draw(st.sampled_from(RANKS))
    most = {1: 9, 2: 5, 3: 3}[rank]

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 17]))
    per_in = draw(st.sampled_from([1, 2, 3, 5, 16, 33])) if groups <= 3 else 1
    per_out = draw(st.sampled_from([1, 2, 5, 17, 40] if groups <= 3 else [1, 2]))
    kernel, stride, dilation, padding = each(1, most), each(1, 4), each(1, 3), each(0, 3)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    size = []
    for k, s, d, p, e in zip(kernel, stride, dilation, padding, extra, strict=True):
        # The smallest image whose output the padding does not cut off whole.
        least = max(1, -(-(2 * p - d * (k - 1) - e) // s) + 1)
        size.append(least + draw(st.just(0) | st.integers(0, {1: 16, 2: 5, 3: 2}[rank])))
    args = {
        "c_in": groups * per_in,
        "c_out": groups * per_out,
        "kernel": kernel,
        "rank": rank,
        "groups": groups,
        "stride": stride,
        "padding": padding,
        "output_padding": extra,
        "dilation": dilation,
        "bias": draw(st.booleans()),
        "per_channel": draw(st.booleans()) and per_out > 1,
        "zeros": draw(st.booleans()),
    }
    return args, (draw(st.integers(0, 3)), groups * per_in, *size)
