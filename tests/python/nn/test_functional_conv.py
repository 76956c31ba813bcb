"""octavo.nn.quantized.functional.conv1d, conv2d and conv3d: what the modules compute."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import octavo
from module_support import generator, random_conv, random_q
from octavo.nn import quantized as nnq
from octavo.nn.quantized import functional as qF

SPATIAL = {1: (11,), 2: (7, 6), 3: (5, 4, 6)}
FUNCTIONS: dict[int, Any] = {1: qF.conv1d, 2: qF.conv2d, 3: qF.conv3d}


@pytest.mark.kernel
@pytest.mark.parametrize("rank", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
        {"padding": "same", "padding_mode": "circular"},
    ],
)
def test_equals_the_module(isa: str, rank: int, dtype: str, args: dict[str, Any]) -> None:
    bias = "stride" not in args
    module = random_conv(4, 6, 3, rank=rank, dtype=dtype, bias=bias, **args)
    x = random_q((2, 4, *SPATIAL[rank]), generator(3), zero=77)
    got = FUNCTIONS[rank](
        x,
        module.weight(),
        module.bias(),
        scale=module.scale,
        zero_point=module.zero_point,
        dtype=getattr(octavo, dtype),
        **args,
    )
    want = module(x)
    assert (got.q_scale(), got.q_zero_point(), got.dtype) == (
        want.q_scale(),
        want.q_zero_point(),
        want.dtype,
    )
    assert torch.equal(got.int_repr(), want.int_repr())


@pytest.mark.parametrize("rank", FUNCTIONS)
def test_signature_is_that_of_torch(rank: int) -> None:
    oracle = pytest.importorskip("torch.ao.nn.quantized.functional")
    ours = inspect.signature(FUNCTIONS[rank]).parameters.values()
    theirs = inspect.signature(getattr(oracle, f"conv{rank}d")).parameters.values()
    assert [p.name for p in ours] == [p.name for p in theirs]
    assert [str(p.default) for p in ours if p.name != "dtype"] == [
        str(p.default) for p in theirs if p.name != "dtype"
    ]


def test_messages() -> None:
    x, w = random_q((1, 4, 6, 6), generator(0)), random_conv(4, 6, 3).weight()
    call = qF.conv2d
    with pytest.raises(TypeError, match=r"functional\.conv2d: .*input must be a quantized tensor"):
        call(x.dequantize(), w, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"functional\.conv2d: weight must be a quantized tensor"):
        call(x, w.dequantize(), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"functional\.conv3d: .*of 5 dimensions"):
        qF.conv3d(x, w, None)
    with pytest.raises(TypeError, match=r"functional\.conv2d: .*dtype octavo\.qint8, got"):
        call(x, random_q((6, 4, 3, 3), generator(0)), None)
    with pytest.raises(TypeError, match=r"dtype must be octavo\.quint8 or"):
        call(x, w, None, dtype=octavo.qint32)
    with pytest.raises(ValueError, match=r"functional\.conv2d: .*padding_mode must be one of"):
        call(x, w, None, padding_mode="mirror")
    with pytest.raises(ValueError, match=r"functional\.conv2d: .*divisible by groups"):
        call(x, w, None, groups=4)
    with pytest.raises(ValueError, match=r"scale"):
        call(x, w, None, scale=0.0)
    with pytest.raises(RuntimeError, match=r"functional\.conv2d: .*must have shape \[N, 8, H, W\]"):
        call(x, w, None, groups=2)
    with pytest.raises(RuntimeError, match=r"functional\.conv2d: .*smaller than the kernel"):
        call(random_q((1, 4, 2, 2), generator(0)), w, None)


def test_default_output_is_scale_one() -> None:
    x, module = random_q((1, 4, 6, 6), generator(0)), nnq.Conv2d(4, 3, 1)
    y = qF.conv2d(x, module.weight(), torch.tensor([3.2, -4.0, 300.0]))
    assert y.int_repr()[0, :, 0, 0].tolist() == [3, 0, 255]
