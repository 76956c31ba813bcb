"""Golden cases of layers with packed weights: linear, convolutions, attention, recurrent nets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from golden.source import Source
from octavo import ops, qint8, quint8

Case = tuple[str, list[Tensor]]

_INPUTS = (("uint8", torch.uint8), ("int8", torch.int8))
_X_SCALE = 0.0231


def _linear_weight(source: Source, rows: int, depth: int, zeros: bool) -> ops.LinearWeight:
    zero_points = source.integers(-9, 9, rows) if zeros else torch.zeros(1, dtype=torch.int64)
    weight = source.stored(torch.int8, rows, depth)
    return ops.LinearWeight(
        weight, source.scales(0.011, rows), zero_points, source.floats(3.0, rows)
    )


def linear() -> Iterator[Case]:
    shapes = ((1, 1, 1), (1, 64, 128), (1, 70, 333), (3, 17, 33), (16, 48, 257), (37, 50, 70))
    for kind, dtype in _INPUTS:
        for m, n, k in (*shapes, (5, 130, 1024)):
            for zeros in (False, True):
                name = f"linear {kind} {m}x{n}x{k}{' with zero points' * zeros}"
                source = Source(name)
                weight = _linear_weight(source, n, k, zeros)
                x = source.stored(dtype, m, k)
                at = (x, _X_SCALE, source.zero_point(dtype))
                out = 0.024 * math.sqrt(k)
                yield (
                    name,
                    [
                        weight(*at, out, 131, quint8),
                        weight(*at, out, -7, qint8, relu=True),
                        weight(*at, out, 3, qint8, function="leaky_relu", slope=0.01),
                        weight(*at, 1 / 128, 0, qint8, function="tanh"),
                        weight.dequantized_output(*at),
                        weight.dequantized_output(*at, relu=True),
                    ],
                )


def saturation() -> Iterator[Case]:
    """Sums as large as they get, which 16 bits do not hold."""
    for kind, dtype in _INPUTS:
        for a in (torch.iinfo(dtype).min, torch.iinfo(dtype).max):
            for w in (-128, 127):
                for k in (31, 1024):
                    name = f"linear {kind} of {a} with weights {w}, depth {k}"
                    weight = ops.LinearWeight(
                        torch.full((33, k), w, dtype=torch.int8),
                        torch.ones(1),
                        torch.zeros(1),
                        None,
                    )
                    x = torch.full((7, k), a, dtype=dtype)
                    zero_point = torch.iinfo(dtype).min if a > 0 else torch.iinfo(dtype).max
                    yield (
                        name,
                        [
                            weight.dequantized_output(x, 1.0, zero_point),
                            weight(x, 1.0, zero_point, 1.0, 0, qint8),
                            weight(x, 1.0, zero_point, 30000.0, 100, quint8),
                        ],
                    )


def dynamic() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for m, n, k in ((1, 64, 96), (4, 33, 250), (13, 40, 64)):
            name = f"dynamic linear {str(dtype)[6:]} {m}x{n}x{k}"
            source = Source(name)
            weight = _linear_weight(source, n, k, False)
            x = source.floats(4.0, m, k).to(dtype)
            results = [
                weight.dynamic(x),
                weight.dynamic(x, relu=True),
                weight.dynamic(x, gelu=True),
            ]
            results += [weight.dynamic(x, per_tensor=True), weight.dynamic(x, reduce_range=True)]
            yield name, results


# name, weight shape, input shape, then stride, padding, dilation, groups
_CONVOLUTIONS = (
    ("1x1", (40, 24, 1, 1), (2, 24, 6, 7), 1, 0, 1, 1),
    ("1x1 stride 2", (33, 16, 1, 1), (1, 16, 9, 9), 2, 0, 1, 1),
    ("3x3", (24, 24, 3, 3), (2, 24, 9, 9), 1, 1, 1, 1),
    ("3x3 stride 2", (40, 17, 3, 3), (1, 17, 11, 10), 2, 1, 1, 1),
    ("3x3 dilated", (16, 8, 3, 3), (1, 8, 12, 12), 1, 2, 2, 1),
    ("3x3 of 3 channels", (32, 3, 3, 3), (1, 3, 21, 21), 2, 1, 1, 1),
    ("7x7 of 3 channels", (16, 3, 7, 7), (1, 3, 25, 25), 2, 3, 1, 1),
    ("1-D", (20, 12, 5), (2, 12, 30), 1, 2, 1, 1),
    ("3-D", (12, 8, 3, 3, 3), (1, 8, 5, 6, 7), 1, 1, 1, 1),
    ("depthwise 3x3", (40, 1, 3, 3), (2, 40, 9, 10), 1, 1, 1, 40),
    ("depthwise 3x3, 7 channels", (7, 1, 3, 3), (1, 7, 12, 9), 1, 1, 1, 7),
    ("depthwise 3x3, 130 channels", (130, 1, 3, 3), (1, 130, 5, 8), 1, 1, 1, 130),
    ("depthwise 3x3 stride 2", (72, 1, 3, 3), (1, 72, 11, 11), 2, 1, 1, 72),
    ("depthwise 5x5", (48, 1, 5, 5), (1, 48, 9, 12), 1, 2, 1, 48),
    ("depthwise 5x5 stride 2", (24, 1, 5, 5), (1, 24, 13, 13), 2, 2, 1, 24),
    ("depthwise 7x7", (16, 1, 7, 7), (1, 16, 9, 9), 1, 3, 1, 16),
    ("depthwise 1-D", (20, 1, 5), (1, 20, 40), 1, 2, 1, 20),
    ("depthwise, 2 outputs", (32, 1, 3, 3), (1, 16, 8, 8), 1, 1, 1, 16),
    ("groups of 4", (32, 4, 3, 3), (1, 32, 9, 9), 1, 1, 1, 8),
    ("groups of 8", (64, 8, 3, 3), (1, 64, 7, 7), 1, 1, 1, 8),
    ("groups of 8, stride 2", (32, 8, 3, 3), (1, 32, 10, 10), 2, 1, 1, 4),
    ("groups of 16", (48, 16, 3, 3), (1, 48, 7, 7), 1, 1, 1, 3),
    ("groups of 6", (18, 6, 3, 3), (1, 18, 7, 7), 1, 1, 1, 3),
)


def convolution() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        for title, shape, size, *geometry in _CONVOLUTIONS:
            name = f"convolution {kind} {title}"
            source = Source(name)
            stride, padding, dilation, groups = geometry
            weight = ops.ConvWeight(
                source.stored(torch.int8, *shape),
                source.scales(0.012, shape[0]),
                torch.zeros(1, dtype=torch.int64),
                source.floats(2.0, shape[0]),
                stride,
                padding,
                dilation,
                groups,
            )
            at = (source.stored(dtype, *size), _X_SCALE, source.zero_point(dtype))
            out = 0.025 * math.sqrt(math.prod(shape[1:]))
            plain = weight(*at, out, 120, quint8)
            residual = source.stored(torch.uint8, *plain.shape)
            yield (
                name,
                [
                    plain,
                    weight(*at, out, -3, qint8, relu=True),
                    weight(*at, out, 9, quint8, add=residual, add_scale=0.03, add_zero=111),
                    weight(*at, out, 0, quint8, clamp=(-1.0, 6.0)),
                    weight.dequantized_output(*at),
                    weight.dynamic(source.floats(3.0, *size)),
                ],
            )


_TRANSPOSED = (
    ("2x2 stride 2", (24, 16, 2, 2), (1, 24, 7, 7), 2, 0, 0, 1),
    ("3x3 stride 2", (16, 20, 3, 3), (2, 16, 6, 5), 2, 1, 1, 1),
    ("4x4 stride 2", (17, 9, 4, 4), (1, 17, 6, 6), 2, 1, 0, 1),
    ("depthwise 4x4 stride 2", (24, 1, 4, 4), (1, 24, 8, 8), 2, 1, 0, 24),
    ("groups of 8", (32, 8, 3, 3), (1, 32, 6, 6), 2, 1, 0, 4),
)


def transposed() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        for title, shape, size, *geometry in _TRANSPOSED:
            name = f"transposed convolution {kind} {title}"
            source = Source(name)
            stride, padding, output_padding, groups = geometry
            channels = shape[1] * groups
            weight = ops.ConvTransposeWeight(
                source.stored(torch.int8, *shape),
                source.scales(0.012, channels),
                torch.zeros(1, dtype=torch.int64),
                source.floats(2.0, channels),
                stride,
                padding,
                output_padding,
                groups,
            )
            at = (source.stored(dtype, *size), _X_SCALE, source.zero_point(dtype))
            results = [weight(*at, 0.2, 120, quint8), weight(*at, 0.2, -3, qint8, relu=True)]
            results += [weight.dequantized_output(*at), weight.dynamic(source.floats(3.0, *size))]
            yield name, results


def attention() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        for shape, keys in (((1, 2, 7, 32), 7), ((2, 1, 1, 64), 33), ((1, 3, 20, 24), 50)):
            name = f"attention {kind} {'x'.join(map(str, shape))} with {keys} keys"
            source = Source(name)
            batch, heads, _, size = shape
            queries = source.stored(dtype, *shape)
            rest = [source.stored(dtype, batch, heads, keys, size) for _ in range(2)]
            arguments: list[object] = []
            for tensor, scale in zip((queries, *rest), (0.013, 0.017, 0.021), strict=True):
                arguments += [tensor, scale, source.zero_point(dtype)]
            results = [
                ops.attention(*arguments, 0.011, 128, quint8),  # type: ignore[arg-type]
                ops.attention(*arguments, 0.007, -5, qint8, scale=0.05),  # type: ignore[arg-type]
            ]
            yield name, results


def recurrent() -> Iterator[Case]:
    for mode, gates in (("LSTM", 4), ("GRU", 3), ("RNN_TANH", 1), ("RNN_RELU", 1)):
        for steps, batch, inputs, size in ((3, 1, 40, 24), (2, 5, 33, 50)):
            for per_tensor in (False, True):
                whole = " per tensor" * per_tensor
                name = f"{mode} {steps} steps, {batch}x{inputs} to {size}{whole}"
                source = Source(name)
                ih = _linear_weight(source, gates * size, inputs, False)
                hh = _linear_weight(source, gates * size, size, False)
                x = source.floats(2.0, steps * batch, inputs)
                h = source.floats(1.0, batch, size)
                c = source.floats(1.0, batch, size) if mode == "LSTM" else None
                out = torch.empty((steps * batch, size))
                ops.recurrent(
                    mode, (ih, hh, None), x, h, c, out, steps=steps, per_tensor=per_tensor
                )
                yield name, [out, h, *([] if c is None else [c])]


CASES = (linear, saturation, dynamic, convolution, transposed, attention, recurrent)
