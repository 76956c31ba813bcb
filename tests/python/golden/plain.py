"""Golden cases of operators without weights: element-wise, normalization, images, embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden.source import Source
from octavo import ops, qint8, qint32, quint4x2, quint8

Case = tuple[str, list[Tensor]]

_INPUTS = (("uint8", torch.uint8), ("int8", torch.int8))
# Vectors, their tails, and less than one.
_LENGTHS = (1, 7, 16, 63, 200)


def quantize() -> Iterator[Case]:
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 1e-40])
    for length in _LENGTHS:
        name = f"quantize {length}"
        source = Source(name)
        x = source.floats(7.0, length)
        halves = (source.integers(-300, 300, length).to(torch.float32) + 0.5) * 0.25
        results = []
        for values in (x, halves, special):
            results.append(ops.quantize(values, 0.25, 77, quint8))
            results.append(ops.quantize(values, 0.0173, -3, qint8))
            results.append(ops.quantize(values, 0.0173, 0, qint8, -127, 127))
            results.append(ops.quantize(values, 0.0011, 5, qint32))
        yield name, results
    for axis in (0, 1, 2):
        name = f"quantize per channel, axis {axis}"
        source = Source(name)
        x = source.floats(5.0, 5, 19, 9)
        channels = x.shape[axis]
        scales, zeros = source.scales(0.05, channels), source.integers(100, 150, channels)
        q = ops.quantize_per_channel(x, scales, zeros, axis, quint8)
        yield name, [q, ops.dequantize_per_channel(q, scales, zeros, axis)]


def elementwise() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        octavo_dtype = quint8 if dtype == torch.uint8 else qint8
        for length in _LENGTHS:
            name = f"element-wise {kind} {length}"
            source = Source(name)
            a, b = source.stored(dtype, length), source.stored(dtype, length)
            both = (a, 0.031, source.zero_point(dtype), b, 0.017, source.zero_point(dtype))
            results = [ops.dequantize(a, 0.0171, both[2])]
            for relu in (False, True):
                results.append(ops.add(*both, 0.043, both[2], relu))
                results.append(ops.mul(*both, 0.051, both[5], relu))
            results.append(ops.requantize(a, 0.031, both[2], 0.043, 100, quint8))
            results.append(ops.requantize(a, 0.031, both[2], 0.011, -3, qint8, -100, 90))
            results.append(ops.clamp(a, both[2] - 11, both[2] + 15))
            results.append(ops.cat([a, b], [(0.031, both[2]), (0.017, both[5])], 0, 0.03, 7))
            yield name, results
        name = f"functions {kind}"
        source = Source(name)
        x, zero = source.stored(dtype, 300), source.zero_point(dtype)
        plain = ("gelu", "gelu_tanh", "hardsigmoid", "hardswish", "mish", "sigmoid", "silu", "tanh")
        parameters: list[tuple[str, tuple[float, ...]]] = [(function, ()) for function in plain]
        parameters += [("celu", (1.5,)), ("elu", (0.7, 1.1, 0.9)), ("leaky_relu", (0.1,))]
        results = [
            ops.unary(function, x, 0.041, zero, 0.0223, zero, octavo_dtype, values)
            for function, values in parameters
        ]
        yield name, results


def normalize() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        for rows, columns in ((1, 1), (3, 17), (5, 64), (2, 515)):
            name = f"layer norm and softmax {kind} {rows}x{columns}"
            source = Source(name)
            at = (source.stored(dtype, rows, columns), 0.029, source.zero_point(dtype))
            weight, bias = source.floats(2.0, columns), source.floats(1.0, columns)
            results = [
                ops.layer_norm(*at, [columns], weight, bias, 1e-5, 0.031, 128, quint8),
                ops.layer_norm(*at, [columns], None, None, 1e-3, 0.021, -4, qint8),
                ops.softmax(*at, -1, 1 / 256, 0, quint8),
                ops.softmax(*at, 0, 0.0051, -128, qint8),
            ]
            yield name, results
        for layout in (torch.contiguous_format, torch.channels_last):
            order = "NHWC" if layout == torch.channels_last else "NCHW"
            name = f"channels {kind} {order}"
            source = Source(name)
            q = source.stored(dtype, 2, 24, 5, 7).to(memory_format=layout)
            at = (q, 0.027, source.zero_point(dtype))
            factor, offset = source.floats(2.0, 24), source.floats(1.0, 24)
            slope = source.floats(0.5, 24)
            out = (0.033, 117, quint8)
            results = [
                ops.channel_affine(*at, factor.double(), offset.double(), *out),
                ops.channel_affine(*at, factor.double(), offset.double(), *out, relu=True),
                ops.prelu(*at, slope, *out),
                ops.prelu(*at, slope[:1], *out),
                ops.group_norm(*at, 4, factor, offset, 1e-5, *out),
                ops.group_norm(*at, 24, None, None, 1e-5, 0.02, -9, qint8),
            ]
            yield name, results


def images() -> Iterator[Case]:
    for kind, dtype in _INPUTS:
        for channels in (3, 16, 70):
            name = f"pooling {kind} {channels} channels"
            source = Source(name)
            q, zero = source.stored(dtype, 2, channels, 11, 9), source.zero_point(dtype)
            results = [
                ops.max_pool2d(q, 2),
                ops.max_pool2d(q, 3, 2, 1),
                ops.max_pool2d(q, 3, 1, 1, 2, ceil_mode=True),
                ops.avg_pool2d(q, zero, 2),
                ops.avg_pool2d(q, zero, 3, 2, 1, count_include_pad=False),
                ops.avg_pool2d(q, zero, (11, 9)),
                ops.adaptive_avg_pool2d(q, zero, 1),
                ops.adaptive_avg_pool2d(q, zero, (4, 5)),
                ops.adaptive_max_pool2d(q, (3, 2)),
            ]
            yield name, results
            name = f"interpolation {kind} {channels} channels"
            results = [
                ops.upsample_nearest(q, (22, 18)),
                ops.upsample_nearest(q, (7, 13), exact=True),
                ops.upsample_linear(q, zero, (22, 18)),
                ops.upsample_linear(q, zero, (17, 5), align_corners=True),
            ]
            yield name, results
        name = f"pooling {kind} 1-D and 3-D"
        source = Source(name)
        line, volume = source.stored(dtype, 2, 20, 33), source.stored(dtype, 1, 18, 4, 6, 5)
        zero = source.zero_point(dtype)
        results = [ops.max_pool1d(line, 3, 2), ops.avg_pool1d(line, zero, 4, 3, 1)]
        results += [ops.max_pool3d(volume, 2, 1), ops.avg_pool3d(volume, zero, 2, 1, 1)]
        results += [ops.upsample_linear(line, zero, (50,))]
        yield name, results


def embedding() -> Iterator[Case]:
    for dtype in (quint8, quint4x2):
        for columns in (1, 16, 37, 128):
            name = f"embedding {dtype.name} {columns} columns"
            source = Source(name)
            storage = source.integers(0, dtype.qmax, 30, columns).to(torch.uint8)
            if dtype is quint4x2:
                low, high = storage[:, ::2], storage[:, 1::2]
                padded = torch.zeros_like(low)
                padded[:, : high.shape[1]] = high
                storage = low | (padded << 4)
            scales, zeros = source.scales(0.02, 30), source.floats(128.0, 30)
            table = ops.EmbeddingWeight(storage, scales, zeros, columns, dtype)
            indices = source.integers(0, 29, 41)
            offsets = torch.tensor([0, 1, 1, 9, 27])
            factors = source.floats(2.0, 41)
            results = [ops.embedding(table, indices)]
            for mode in ("sum", "mean", "max"):
                results.append(ops.embedding_bag(table, indices, offsets, mode))
            results.append(ops.embedding_bag(table, indices, offsets, "sum", factors))
            yield name, results


CASES = (quantize, elementwise, normalize, images, embedding)
