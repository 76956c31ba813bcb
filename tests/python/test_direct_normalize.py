"""Direct entry points of look-up tables, normalizations and softmax: the same results as the
ordinary way, and nothing where they do not apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import octavo
from direct_support import ordinary, same
from module_support import generator, random_q
from octavo import QTensor, ops
from octavo.nn import quantized as nnq
from octavo.ops import direct

EIGHT_BIT = ["quint8", "qint8"]
CHANNELS = 12


def with_int(q: QTensor, ints: Tensor) -> QTensor:
    return QTensor._wrap(ints, q._scale, q._zero_point, q._qdtype)


def parameters(size: int = CHANNELS) -> tuple[Tensor, Tensor]:
    g = generator(size)
    return torch.rand(size, generator=g) + 0.5, torch.randn(size, generator=g)


def batch_norm() -> Any:
    module = nnq.BatchNorm2d(CHANNELS)
    module.weight, module.bias = parameters()
    module.running_mean, module.running_var = parameters()[::-1]
    module.running_var = module.running_var.abs()
    module.scale, module.zero_point = 0.04, 100
    return module


def prelu(slopes: int) -> Any:
    module = nnq.PReLU(0.04, 100, slopes)
    module.set_weight(torch.linspace(-0.5, 0.5, slopes))
    return module


MODULES: dict[str, Any] = {
    "layer norm": lambda: nnq.LayerNorm(7, *parameters(7), 0.04, 100),
    "layer norm of two": lambda: nnq.LayerNorm((6, 7), None, None, 0.04, 100),
    "group norm": lambda: nnq.GroupNorm(3, CHANNELS, *parameters(), 0.04, 100),
    "instance norm": lambda: nnq.InstanceNorm2d(CHANNELS, *parameters(), 0.04, 100),
    "tracked instance norm": lambda: nnq.InstanceNorm2d(
        CHANNELS, *parameters(), 0.04, 100, track_running_stats=True
    ),
    "batch norm": batch_norm,
    "one slope": lambda: prelu(1),
    "slopes": lambda: prelu(CHANNELS),
    "sigmoid": lambda: nnq.Sigmoid(1 / 256, 0),
    "leaky": lambda: nnq.LeakyReLU(0.04, 100, 0.2),
    "gelu": lambda: nnq.GELU(0.04, 100, "tanh"),
    "softmax": lambda: nnq.Softmax(-1, 1 / 256, 0),
    "softmax, last": lambda: nnq.Softmax(3, 1 / 256, 0),
}


def layouts(dtype: str) -> dict[str, QTensor]:
    q = random_q((2, CHANNELS, 6, 7), generator(4), dtype=dtype)
    last = q._int.contiguous(memory_format=torch.channels_last)
    return {
        "planes": q,
        "channels last": with_int(q, last),
        "one image": with_int(q, last[:1]),
        "crop": with_int(q, torch.cat([q._int] * 2, 3)[..., :7]),
        "empty": with_int(q, q._int[:0]),
    }


@pytest.mark.kernel
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_modules(reading: str, name: str, dtype: str) -> None:
    module = MODULES[name]()
    for x in layouts(dtype).values():
        same(module(x), ordinary(lambda x=x: module(x)))


@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_functions(reading: str, dtype: str) -> None:
    for x in layouts(dtype).values():
        for call in (torch.sigmoid, torch.tanh, lambda x: torch.softmax(x, -1)):
            same(call(x), ordinary(lambda x=x, call=call: call(x)))


def test_they_are_taken(reading: str) -> None:
    x = layouts("quint8")["channels last"]
    planes = with_int(x, x._int.contiguous())
    out = (0.04, 100, octavo.qint8)
    weight, bias = parameters()
    constants = torch.stack((weight, bias)).double()
    table = ops.unary_table("tanh", (), x._scale, x._zero_point, False, *out[:2], True)
    results = [
        direct.lookup(x, table, *out),
        direct.channel_affine(x, constants.data_ptr(), CHANNELS, False, *out),
        direct.prelu(x, weight, *out),
        direct.group_norm(x, 3, weight, None, 1e-5, *out),
        direct.layer_norm(planes, (6, 7), None, None, 1e-5, *out),
        direct.softmax(planes, -1, ops.softmax_table(x._scale), *out),
    ]
    for result, source in zip(results, [x, x, x, x, planes, planes], strict=True):
        assert result._int.dtype == torch.int8
        assert result._int.stride() == source._int.stride()


def test_wrong_arguments_are_left_to_the_ordinary_way(reading: str) -> None:
    x = layouts("quint8")["planes"]
    out = (0.04, 100, octavo.quint8)
    weight, bias = parameters()
    table, softmax = torch.zeros(256, dtype=torch.uint8), ops.softmax_table(x._scale)
    refused = [
        direct.lookup(x, table[:255], *out),
        direct.lookup(x, table.int(), *out),
        direct.lookup(x._int, table, *out),
        direct.lookup(x, table, 0.04, 100, octavo.qint32),
        direct.lookup(x, table, 0.04, 100),
        direct.channel_affine(x, 0, CHANNELS, False, *out),
        direct.channel_affine(x, table.data_ptr(), CHANNELS + 1, False, *out),
        direct.prelu(x, weight[:5], *out),
        direct.prelu(x, None, *out),
        direct.group_norm(x, 5, weight, bias, 1e-5, *out),
        direct.group_norm(x, 0, weight, bias, 1e-5, *out),
        direct.group_norm(x, 3, weight.double(), bias, 1e-5, *out),
        direct.group_norm(x, 3, weight, bias[1:], 1e-5, *out),
        direct.group_norm(x, 3, weight, bias, 1, *out),
        direct.layer_norm(x, (7, 6), None, None, 1e-5, *out),
        direct.layer_norm(x, (), None, None, 1e-5, *out),
        direct.layer_norm(x, [7], None, None, 1e-5, *out),
        direct.layer_norm(x, (3, 2, 12, 6, 7), None, None, 1e-5, *out),
        direct.layer_norm(x, (7,), weight, None, 1e-5, *out),
        direct.softmax(x, 1, softmax, *out),
        direct.softmax(x, None, softmax, *out),
        direct.softmax(x, -1, softmax[:256], *out),
        direct.softmax(x, -1, softmax, -0.04, 100, octavo.quint8),
    ]
    assert refused == [None] * len(refused)
