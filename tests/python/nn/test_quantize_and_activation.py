"""Quantize, DeQuantize, ReLU6 and MaxPool2d."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import octavo
import reference as ref
from module_observers import Observer
from module_support import as_ref, generator, random_q
from octavo import QTensor
from octavo.nn import quantized as nnq


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("dtype", "zero"), [("quint8", 0), ("quint8", 255), ("qint8", -128), ("qint8", 5)]
)
def test_quantize_and_back(isa: str, dtype: str, zero: int) -> None:
    module = nnq.Quantize(0.05, zero, getattr(octavo, dtype))
    x = torch.randn(3, 5, 17, generator=generator(0)) * 4
    x.view(-1)[:5] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.025, -0.075])
    y = module(x)
    storage = np.uint8 if dtype == "quint8" else np.int8
    expected = ref.quantize(x.numpy(), 0.05, zero, storage)
    np.testing.assert_array_equal(y.int_repr().numpy(), expected)
    back = nnq.DeQuantize()(y)
    np.testing.assert_array_equal(back.numpy(), ref.dequantize(as_ref(y)))
    assert type(back) is torch.Tensor


def test_quantize_reads_as_in_torch() -> None:
    module = nnq.Quantize(0.1, 3, octavo.quint8)
    assert torch.equal(module.scale, torch.tensor([0.1]))
    assert torch.equal(module.zero_point, torch.tensor([3]))
    assert module.dtype is octavo.quint8
    assert repr(module) == (
        "Quantize(scale=tensor([0.1000]), zero_point=tensor([3]), dtype=octavo.quint8)"
    )
    module.scale = torch.tensor([0.5])
    module.zero_point = torch.tensor([9])
    assert (float(module.scale), int(module.zero_point)) == (0.5, 9)
    module.half()
    assert module.scale.dtype == torch.float32


def test_quantize_to_int32() -> None:
    y = nnq.Quantize(0.5, 0, octavo.qint32)(torch.tensor([1.0, -700.0]))
    assert y.int_repr().tolist() == [2, -1400]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_quantize_of_few_or_no_elements(shape: tuple[int, ...]) -> None:
    y = nnq.Quantize(0.5, 7, octavo.quint8)(torch.zeros(shape))
    assert y.shape == shape
    assert nnq.DeQuantize()(y).shape == shape


def test_quantize_from_float() -> None:
    stub = torch.nn.Identity()
    stub.activation_post_process = Observer(0.25, -3, octavo.qint8)
    module = nnq.Quantize.from_float(stub)
    assert module.dtype is octavo.qint8
    assert module(torch.tensor([1.0])).int_repr().tolist() == [1]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2).double(), "must be a float32, .* got a plain float64 tensor"),
        (torch.ones(2).int(), "must be a float32, .* got a plain int32 tensor"),
        (random_q((2,), generator(0)), "quantized already"),
        (1.0, "must be a float32, bfloat16 or float16 tensor, got float"),
    ],
)
def test_quantize_refuses(x: Any, message: str) -> None:
    module = nnq.Quantize(0.5, 7, octavo.quint8)
    module._qualified_name = "quant"
    with pytest.raises(TypeError, match=message) as info:
        module(x)
    assert str(info.value).startswith("Quantize 'quant': ")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shorter_floats_in_and_out(dtype: torch.dtype) -> None:
    x = torch.randn(3, 70).to(dtype)
    module = nnq.Quantize(0.05, 100, octavo.quint8)
    assert torch.equal(module(x).int_repr(), module(x.float()).int_repr())
    back = nnq.DeQuantize(dtype=dtype)
    assert torch.equal(back(module(x)), module(x).dequantize().to(dtype))
    assert repr(back) == f"DeQuantize(dtype={dtype})"
    with pytest.raises(ValueError, match=r"dtype must be .*got torch\.int8"):
        nnq.DeQuantize(dtype=torch.int8)


def test_dequantize_passes_floats_and_refuses_integers() -> None:
    x = torch.randn(3)
    assert nnq.DeQuantize()(x) is x
    with pytest.raises(TypeError, match=r"DeQuantize: the input must be .* got a plain uint8"):
        nnq.DeQuantize()(torch.ones(2).byte())
    with pytest.raises(TypeError, match="got list"):
        nnq.DeQuantize()([1])
    assert isinstance(nnq.DeQuantize.from_float(torch.nn.Identity()), nnq.DeQuantize)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("scale", "zero", "dtype"),
    [(0.05, 10, "quint8"), (0.01, 0, "quint8"), (0.05, -100, "qint8"), (1.0, 255, "quint8")],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_relu6(isa: str, scale: float, zero: int, dtype: str, inplace: bool) -> None:
    x = random_q((3, 70), generator(0), scale=scale, zero=zero, dtype=dtype)
    before = x.int_repr()
    six = int(np.clip(zero + np.rint(6 / np.float32(scale)), *ref.RANGES[before.numpy().dtype]))
    y = nnq.ReLU6(inplace)(x)
    assert torch.equal(y.int_repr(), before.clamp(zero, six))
    assert (y is x) == inplace
    assert inplace or torch.equal(x.int_repr(), before)
    assert (y.q_scale(), y.q_zero_point(), y.dtype) == (scale, zero, getattr(octavo, dtype))


def test_relu6_from_float_and_repr() -> None:
    module = nnq.ReLU6.from_float(torch.nn.ReLU6(inplace=True))
    assert module.inplace
    assert repr(module) == "QuantizedReLU6(inplace=True)"


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize(
    "args",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 2, "dilation": 2, "ceil_mode": True},
    ],
)
def test_max_pool(isa: str, dtype: str, args: dict[str, Any]) -> None:
    x = random_q((2, 19, 9, 10), generator(0), dtype=dtype)
    y = nnq.MaxPool2d(**args)(x)
    as_pair = {
        k: v if isinstance(v, tuple) else (v, v) for k, v in args.items() if k != "ceil_mode"
    }
    kernel = as_pair["kernel_size"]
    expected = ref.max_pool2d(
        x.int_repr().numpy(),
        kernel,
        as_pair.get("stride", kernel),
        as_pair.get("padding", (0, 0)),
        as_pair.get("dilation", (1, 1)),
        args.get("ceil_mode", False),
    )
    np.testing.assert_array_equal(y.int_repr().numpy(), expected)
    floats = torch.nn.MaxPool2d(**args)(x.int_repr().float())
    assert torch.equal(y.int_repr().float(), floats)
    single = QTensor.from_int_repr(x.int_repr()[0], 0.02, 3)
    assert torch.equal(nnq.MaxPool2d(**args)(single).int_repr(), y.int_repr()[0])


def test_max_pool_from_float_and_repr() -> None:
    module = nnq.MaxPool2d.from_float(torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    assert repr(module) == (
        "QuantizedMaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True)"
    )
    assert nnq.MaxPool2d(2)(random_q((0, 3, 4, 4), generator(0))).shape == (0, 3, 2, 2)
