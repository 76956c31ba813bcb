"""What QTensor does not support raises, says so and says what to write instead."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import octavo
from tensor_support import per_channel, per_tensor

IMAGE = (2, 4, 4, 4)

FLOAT_MODULES = {
    "Linear": nn.Linear(4, 4),
    "Conv2d": nn.Conv2d(4, 4, 1),
    "ConvTranspose2d": nn.ConvTranspose2d(4, 4, 1),
    "BatchNorm2d": nn.BatchNorm2d(4).eval(),
    "LayerNorm": nn.LayerNorm(4),
    "GroupNorm": nn.GroupNorm(2, 4),
    "InstanceNorm2d": nn.InstanceNorm2d(4),
    "LogSoftmax": nn.LogSoftmax(1),
    "SiLU": nn.SiLU(),
    "ELU": nn.ELU(),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(),
    "PReLU": nn.PReLU(),
    "Embedding": nn.Embedding(4, 4),
}


@pytest.mark.parametrize("module", FLOAT_MODULES.values(), ids=list(FLOAT_MODULES))
def test_float_modules_are_named(module: nn.Module) -> None:
    q = per_tensor(shape=IMAGE)
    name = type(module).__name__
    with pytest.raises(TypeError, match=rf"^{name}: .*\(octavo\.quint8, .*DeQuantStub"):
        module(q)
    model = nn.Sequential(nn.Identity(), nn.Sequential(module))
    with pytest.raises(TypeError, match=rf"^{name} '1\.0': .*\(octavo\.quint8, .*DeQuantStub"):
        model(q)


def test_other_modules() -> None:
    q = per_tensor(shape=(3, 2, 4))
    with pytest.raises(TypeError, match=r"^MultiheadAttention: .*quantized tensor"):
        nn.MultiheadAttention(4, 2)(q, q, q)
    with pytest.raises(ValueError, match=r"octavo\.quint8"):
        nn.LSTM(4, 4)(q, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(TypeError, match=r"^Dropout: .*call model\.eval\(\)"):
        nn.Dropout()(q)


def test_module_method_is_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.head(x + x)

    with pytest.raises(TypeError, match=r"^Net: __add__\(\).*FloatFunctional\(\)\.add"):
        Net()(per_tensor())


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"]


@pytest.mark.parametrize("name", BINARY)
def test_operators(name: str) -> None:
    op: Callable[[Any, Any], Any] = getattr(operator, name)
    in_place = getattr(operator, "i" + name.strip("_"))
    q = per_tensor(shape=(3, 3))
    others = [q, per_channel(), torch.ones(3, 3), 2]
    for a, b in [*((q, other) for other in others), *((other, q) for other in others)]:
        for form in (op, in_place):
            with pytest.raises(TypeError, match=r"does not support a quantized tensor \(octavo"):
                form(a, b)


def test_advice() -> None:
    q = per_tensor(shape=(3, 3))
    for call in (lambda: q + q, lambda: torch.add(q, q), lambda: q.add(1), lambda: 1 + q):
        with pytest.raises(
            TypeError, match=r"FloatFunctional\(\)\.add \(add_scalar for a number\)"
        ):
            call()
    for call in (lambda: q * q, lambda: torch.mul(q, q), lambda: q.mul_(2), lambda: 2 * q):
        with pytest.raises(
            TypeError, match=r"FloatFunctional\(\)\.mul \(mul_scalar for a number\)"
        ):
            call()
    with pytest.raises(
        TypeError, match=r"sum\(\) .*\(octavo\.quint8, shape \[3, 3\]\).*dequantize"
    ):
        q.sum()
    assert not hasattr(q, "__array_interface__")


OTHERS: dict[str, Callable[[Any], Any]] = {
    "neg": lambda q: -q,
    "abs": abs,
    "invert": lambda q: ~q,
    "sum": torch.sum,
    "std": torch.std,
    "norm": torch.norm,
    "cumsum": lambda q: q.cumsum(0),
    "exp": torch.exp,
    "round": torch.round,
    "where": lambda q: torch.where(q.int_repr() > 3, q, q),
    "matmul": lambda q: torch.matmul(q, q),
    "linear": lambda q: F.linear(torch.ones(3, 3), q),
    "einsum": lambda q: torch.einsum("ij,jk->ik", q, q),
    "allclose": lambda q: torch.allclose(q, q),
    "zeros_like": torch.zeros_like,
    "empty_like": torch.empty_like,
    "new_zeros": lambda q: q.new_zeros(3),
    "torch.tensor": torch.tensor,
    "aten": lambda q: torch.ops.aten.add.Tensor(q, q),
    "as_strided": lambda q: q.as_strided((2,), (1,)),
    "resize_": lambda q: q.resize_(2),
    "transpose_": lambda q: q.t_(),
    "unsqueeze_": lambda q: q.unsqueeze_(0),
    "set_": lambda q: q.set_(torch.ones(1, dtype=torch.uint8)),
    "numpy": lambda q: q.numpy(),
    "numpy.asarray": np.asarray,
    "numpy.array": lambda q: np.array(q, dtype=np.float32, copy=True),
    "numpy.add": lambda q: np.add(q, np.ones(3)),
    "numpy operand": lambda q: np.ones((3, 3)) * q,
    "dlpack": lambda q: q.__dlpack__(),
    "storage": lambda q: q.storage(),
    "requires_grad_": lambda q: q.requires_grad_(),
    "backward": lambda q: q.backward(),
    "cuda": lambda q: q.cuda(),
    "pin_memory": lambda q: q.pin_memory(),
    "out": lambda q: torch.clamp(q, 0, 1, out=q),
    "cat out": lambda q: torch.cat([q, q], out=torch.empty(6, 3)),
    "index by": lambda q: torch.arange(300)[q],
    "assign by": lambda q: operator.setitem(torch.arange(300), q, 0),
    "max of two": lambda q: torch.max(q, q),
    "clamp tensor": lambda q: torch.clamp(q, torch.zeros(3), torch.ones(3)),
    "mean dtype": lambda q: q.mean(dtype=torch.float32),
    "bicubic": lambda q: F.interpolate(q.view(1, 1, 3, 3), scale_factor=2, mode="bicubic"),
    "antialias": lambda q: F.interpolate(
        q.view(1, 1, 3, 3), scale_factor=2, mode="bilinear", antialias=True
    ),
    "cross_entropy": lambda q: F.cross_entropy(q, torch.zeros(3).long()),
    "quantize again": lambda q: octavo.quantize_per_channel(q, [1.0] * 3, [0] * 3, 0, "quint8"),
}


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("call", OTHERS.values(), ids=list(OTHERS))
def test_denied(call: Callable[[Any], Any]) -> None:
    q = per_tensor(shape=(3, 3))
    before = q.int_repr()
    with pytest.raises(TypeError, match="quantized"):
        call(q)
    assert q.shape == (3, 3)
    assert torch.equal(q.int_repr(), before)


def test_attributes_are_refused_as_attributes() -> None:
    q = per_tensor()
    for name in ("imag", "__cuda_array_interface__"):
        assert not hasattr(q, name)
    with pytest.raises(AttributeError, match="attribute 'data' does not support"):
        q.data = torch.ones(3)


def test_per_channel_computation_is_refused() -> None:
    q = per_channel()
    for call in (
        torch.relu,
        F.relu6,
        F.hardtanh,
        lambda q: q.relu_(),
        lambda q: q.clamp(0, 1),
        lambda q: q.mean(),
        lambda q: q.max(),
        lambda q: q.argmax(),
        lambda q: F.max_pool2d(q, 2),
        lambda q: F.avg_pool2d(q, 2),
        lambda q: F.adaptive_avg_pool2d(q, 1),
        lambda q: F.pad(q, (1, 1)),
        lambda q: F.interpolate(q, scale_factor=2),
        lambda q: F.interpolate(q, scale_factor=2, mode="linear"),
        lambda q: q.masked_fill(q == 0, 1.0),
    ):
        with pytest.raises(TypeError, match=r"scale per channel; dequantize\(\) first"):
            call(q)


def test_pooling_needs_eight_bits() -> None:
    q = per_tensor(octavo.qint32, IMAGE)
    for call in (
        lambda: F.max_pool2d(q, 2),
        lambda: F.avg_pool2d(q, 2),
        lambda: F.adaptive_avg_pool2d(q, 1),
        lambda: F.adaptive_max_pool2d(q, 1),
        lambda: F.interpolate(q, scale_factor=2, mode="bilinear"),
        lambda: F.interpolate(q, scale_factor=2, mode="area"),
    ):
        with pytest.raises(TypeError, match="needs 8-bit storage"):
            call()
    x = per_tensor(shape=IMAGE)
    for indices in (
        lambda: F.max_pool2d(x, 2, return_indices=True),
        lambda: F.adaptive_max_pool2d(x, 2, return_indices=True),
        lambda: torch.nn.AdaptiveMaxPool2d(2, return_indices=True)(x),
        lambda: torch.adaptive_max_pool1d(x[0], 2),
    ):
        with pytest.raises(TypeError, match=r"max_pool[12]d\(\).*return_indices is not available"):
            indices()


class WithBuffers(nn.Module):
    """A user's module that keeps a scale or a zero point as a tensor."""

    def __init__(self, scale: Any, zero_point: Any) -> None:
        super().__init__()
        for name, value in {"scale": scale, "zero_point": zero_point}.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q: Any = octavo.quantize_per_tensor(x, self.scale, self.zero_point, octavo.quint8)
        return q.dequantize()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("scale", "zero_point", "message"),
    [
        (torch.tensor(0.1), 3, r"scale: .*\(\), and not in buffers"),
        (0.1, torch.tensor(3), r"zero_point: .*\(\), and not in buffers"),
    ],
)
def test_buffers_in_an_export(scale: Any, zero_point: Any, message: str) -> None:
    x = torch.rand(2, 4)
    model, numbers = WithBuffers(scale, zero_point), WithBuffers(float(scale), int(zero_point))
    with pytest.raises(TypeError, match=message):
        torch.export.export(model, (x,), strict=False)
    exported = torch.export.export(numbers, (x,), strict=False).module()
    assert torch.equal(exported(x), model(x))
