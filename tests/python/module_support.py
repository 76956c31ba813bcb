"""Random quantized modules and inputs for the module tests, and what NumPy says of outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import octavo
import reference as ref
from octavo import QTensor
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq

DTYPES = {"quint8": (torch.uint8, 0, 255), "qint8": (torch.int8, -128, 127)}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_q(
    shape: tuple[int, ...],
    g: torch.Generator,
    scale: float = 0.02,
    zero: int = 3,
    dtype: str = "quint8",
) -> QTensor:
    """Uniform over the whole range of the dtype, with runs of both extremes."""
    storage, lo, hi = DTYPES[dtype]
    values = torch.randint(lo, hi + 1, shape, generator=g)
    pick = torch.rand(shape, generator=g)
    values = torch.where(pick < 0.1, lo, torch.where(pick > 0.9, hi, values))
    return QTensor.from_int_repr(values.to(storage), scale, zero)


def random_weight(
    shape: tuple[int, ...],
    g: torch.Generator,
    per_channel: bool = True,
    zeros: bool = False,
    axis: int = 0,
) -> QTensor:
    """All of int8, -128 included; with ``zeros`` the weight has zero points. ``axis`` is that of
    the output channels.
    """
    values = random_q(shape, g, dtype="qint8").int_repr()
    count = shape[axis] if per_channel else 1
    scales = torch.rand(count, generator=g) * 0.01 + 1e-4
    zero_points = torch.zeros(count, dtype=torch.int64)
    if zeros:
        zero_points = torch.randint(-128, 128, (count,), generator=g)
    if per_channel:
        return QTensor.from_int_repr(values, scales, zero_points, axis=axis)
    return QTensor.from_int_repr(values, scales, zero_points)


def set_random(module: Any, g: torch.Generator, dtype: str = "quint8", **weight: Any) -> Any:
    """Random weights, bias and output qparams; outputs use the range and reach both ends."""
    shape = module._weight_shape()
    w = random_weight(shape, g, axis=module._weight_axis, **weight)
    has_bias = module.bias() is not None
    bias = torch.randn(module._outputs(), generator=g) if has_bias else None
    module.set_weight_bias(w, bias)
    _, lo, hi = DTYPES[dtype]
    depth = max(int(np.prod(shape[1:])), 1)
    scale = 0.02 * 0.005 * 100 * 75 * depth**0.5 / 60
    module._set_output(scale, (lo + hi) // 2 + 5, getattr(octavo, dtype))
    return module


def random_linear(
    n_in: int, n_out: int, seed: int = 0, bias: bool = True, relu: bool = False, **kw: Any
) -> nnq.Linear:
    cls = nniq.LinearReLU if relu else nnq.Linear
    return set_random(cls(n_in, n_out, bias), generator(seed), **kw)


def random_conv(
    c_in: int,
    c_out: int,
    kernel: Any,
    seed: int = 0,
    cls: Any = None,
    relu: bool = False,
    dtype: str = "quint8",
    per_channel: bool = True,
    zeros: bool = False,
    rank: int = 2,
    **args: Any,
) -> Any:
    cls = cls or (getattr(nniq, f"ConvReLU{rank}d") if relu else getattr(nnq, f"Conv{rank}d"))
    module = cls(c_in, c_out, kernel, **args)
    return set_random(module, generator(seed), dtype, per_channel=per_channel, zeros=zeros)


def as_ref(x: QTensor) -> ref.Q:
    return ref.Q(x.int_repr().numpy(), x.q_scale(), x.q_zero_point())


def output_of(module: Any) -> ref.Q:
    """Qparams and dtype of the module's output, as the reference functions take them."""
    storage = np.uint8 if module._out_qdtype is octavo.quint8 else np.int8
    return ref.Q(np.empty(0, storage), module.scale, module.zero_point)


def weight_arrays(module: Any) -> tuple[Any, Any, Any, Any]:
    """int8 weight, scales, zero points and bias (or None) as arrays."""
    state = module.state_dict()
    bias = state["bias"].numpy() if "bias" in state else None
    keys = ("weight_int8", "weight_scale", "weight_zero_point")
    return (*(state[key].numpy() for key in keys), bias)


def expected_linear(module: Any, x: QTensor) -> Any:
    w = weight_arrays(module)
    return ref.linear(as_ref(x), *w, output_of(module), relu=module._relu)


# How NumPy calls the padding modes.
NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def padded_for(module: Any, values: Any, zero: int) -> Any:
    """Batched values with the convolution's padding laid around them, whatever its kind."""
    if module.padding == "valid":
        return values
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        widths = [(total // 2, total - total // 2) for total in totals]
    else:
        widths = [(p, p) for p in module.padding]
    widths = [(0, 0), (0, 0), *widths]
    if module.padding_mode == "zeros":
        return np.pad(values, widths, constant_values=zero)
    return np.pad(values, widths, mode=NUMPY_MODES[module.padding_mode])


def expected_conv(module: Any, x: QTensor, residual: QTensor | None = None) -> Any:
    """For batched input."""
    q = as_ref(x)
    return ref.conv(
        ref.Q(padded_for(module, q.array, q.zero), q.scale, q.zero),
        *weight_arrays(module),
        output_of(module),
        module.stride,
        None,
        module.dilation,
        module.groups,
        module._relu,
        None if residual is None else as_ref(residual),
    )


def expected_conv_transpose(
    module: Any, x: QTensor, output_padding: tuple[int, ...] | None = None
) -> Any:
    """For batched input."""
    return ref.conv_transpose(
        as_ref(x),
        *weight_arrays(module),
        output_of(module),
        module.stride,
        module.padding,
        module.output_padding if output_padding is None else output_padding,
        module.dilation,
        module.groups,
        module._relu,
    )


def assert_equals(y: QTensor, module: Any, expected: Any) -> None:
    """``y`` is the module's output with exactly the expected integers."""
    assert isinstance(y, QTensor)
    assert y.dtype == module._out_qdtype
    assert (y.q_scale(), y.q_zero_point()) == (module.scale, module.zero_point)
    np.testing.assert_array_equal(y.int_repr().numpy(), expected)
