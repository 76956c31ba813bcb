"""Quantized Linear and LinearReLU against the integer reference and against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import octavo
import reference as ref
from module_observers import observed
from module_support import (
    as_ref,
    assert_equals,
    expected_linear,
    generator,
    output_of,
    random_linear,
    random_q,
    set_random,
    threads,
    weight_arrays,
)
from octavo import QTensor
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from torch_oracle import assert_close_to_torch

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129])


def run(module: Any, x: QTensor) -> QTensor:
    """The output, which is the same with one and two threads."""
    with threads(1):
        y = module(x)
    with threads(2):
        again = module(x)
    assert torch.equal(y.int_repr(), again.int_repr())
    return y


@pytest.mark.kernel
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=SIZES,
    n_in=SIZES,
    n_out=SIZES,
    zero=st.sampled_from([0, 1, 127, 128, 255]),
    signed_in=st.booleans(),
    out=st.sampled_from(["quint8", "qint8"]),
    bias=st.booleans(),
    relu=st.booleans(),
    per_channel=st.booleans(),
    weight_zeros=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_reference(
    isa: str,
    rows: int,
    n_in: int,
    n_out: int,
    zero: int,
    signed_in: bool,
    out: str,
    bias: bool,
    relu: bool,
    per_channel: bool,
    weight_zeros: bool,
    seed: int,
) -> None:
    module = random_linear(
        n_in,
        n_out,
        seed,
        bias,
        relu,
        dtype=out,
        per_channel=per_channel and n_out > 1,
        zeros=weight_zeros,
    )
    dtype, zero = ("qint8", zero - 128) if signed_in else ("quint8", zero)
    x = random_q((rows, n_in), generator(seed + 1), zero=zero, dtype=dtype)
    assert_equals(run(module, x), module, expected_linear(module, x))


@pytest.mark.kernel
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (2, 0, 7), (0, 7), (1, 1, 1, 7)])
@pytest.mark.parametrize("n_out", [5, 0])
def test_leading_dimensions(isa: str, shape: tuple[int, ...], n_out: int) -> None:
    module = random_linear(7, n_out, per_channel=False)
    y = run(module, random_q(shape, generator(1)))
    assert y.shape == (*shape[:-1], n_out)
    assert_equals(y, module, expected_linear(module, random_q(shape, generator(1))))


@pytest.mark.kernel
def test_no_input_features_gives_the_bias(isa: str) -> None:
    module = nnq.Linear(0, 3)
    weight = QTensor.from_int_repr(torch.zeros(3, 0, dtype=torch.int8), 1.0, 0)
    module.set_weight_bias(weight, torch.tensor([1.0, 2.0, 3.0]))
    y = module(random_q((2, 0), generator(0)))
    assert y.int_repr().tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.kernel
def test_strided_inputs(isa: str) -> None:
    module = random_linear(12, 9)
    base = random_q((12, 40), generator(2))
    views = {
        "transposed": QTensor.from_int_repr(base.int_repr().t(), 0.02, 3),
        "row step": QTensor.from_int_repr(
            random_q((40, 12), generator(3)).int_repr()[::3], 0.02, 3
        ),
        "column step": QTensor.from_int_repr(
            random_q((5, 24), generator(4)).int_repr()[:, ::2], 0.02, 3
        ),
        "expanded": QTensor.from_int_repr(
            random_q((1, 12), generator(5)).int_repr().expand(6, 12), 0.02, 3
        ),
        "inner dims": QTensor.from_int_repr(
            random_q((4, 5, 12), generator(6)).int_repr().transpose(0, 1), 0.02, 3
        ),
    }
    for x in views.values():
        assert_equals(run(module, x), module, expected_linear(module, x))


@pytest.mark.kernel
def test_extremes_and_ties_and_both_clamps(isa: str) -> None:
    module = nnq.Linear(64, 4, bias_=False)
    rows = torch.tensor([-128, 127, 1, -1], dtype=torch.int8)[:, None].expand(4, 64).contiguous()
    module.set_weight_bias(QTensor.from_int_repr(rows, 1.0, 0), None)
    module._set_output(2.0, 7, octavo.quint8)
    steps = torch.zeros(6, 64, dtype=torch.uint8)
    steps[1, :] = 255
    steps[2, :1], steps[3, :3], steps[4, :5] = 1, 1, 1  # sums 1, 3, 5: exact halves in the output
    x = QTensor.from_int_repr(steps, 1.0, 0)
    y = run(module, x)
    assert_equals(y, module, expected_linear(module, x))
    assert y.int_repr()[:5, 2].tolist() == [7, 255, 7, 9, 9]  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    assert y.int_repr()[1, 0] == 0


@pytest.mark.kernel
def test_long_sums_are_exact(isa: str) -> None:
    """Every product at its extreme: an accumulator near 2^31, pairs that 16 bits would saturate."""
    k = 65_000
    module = nnq.Linear(k, 2, bias_=False)
    weight = torch.full((2, k), -128, dtype=torch.int8)
    weight[1] = 127
    module.set_weight_bias(QTensor.from_int_repr(weight, 1.0, 0), None)
    module._set_output(2.0**24, 0, octavo.qint8)
    x = QTensor.from_int_repr(torch.full((3, k), 255, dtype=torch.uint8), 1.0, 0)
    assert_equals(run(module, x), module, expected_linear(module, x))
    assert module(x).int_repr()[0].tolist() == [-126, 125]


@pytest.mark.kernel
def test_result_of_a_row_does_not_depend_on_the_batch(isa: str) -> None:
    module = random_linear(70, 90)
    x = random_q((37, 70), generator(8))
    whole = module(x).int_repr()
    for i in range(37):
        row = QTensor.from_int_repr(x.int_repr()[i : i + 1], 0.02, 3)
        assert torch.equal(module(row).int_repr()[0], whole[i])


def test_scale_is_used_as_float32() -> None:
    module = random_linear(3, 2)
    module.scale = 0.1
    assert module.scale == float(np.float32(0.1))
    module.zero_point = 9
    assert module.zero_point == 9
    x = random_q((4, 3), generator(0))
    assert_equals(module(x), module, expected_linear(module, x))


@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8])
@pytest.mark.parametrize("bias", [True, False])
def test_from_float(dtype: Any, bias: bool) -> None:
    torch.manual_seed(0)
    float_module = observed(torch.nn.Linear(20, 30, bias), dtype)
    module = nnq.Linear.from_float(float_module)
    assert (module.in_features, module.out_features) == (20, 30)
    assert (module.scale, module._out_qdtype) == (float(np.float32(0.05)), dtype)
    scales = float_module.weight.detach().abs().amax(1).numpy() / np.float32(127)
    expected = ref.quantize_per_channel(
        float_module.weight.detach().numpy(), scales, np.zeros(30, int), 0, np.int8, lo=-127, hi=127
    )
    np.testing.assert_array_equal(module.weight.int_repr().numpy(), expected)
    assert module.weight.qscheme() == octavo.per_channel_affine
    x = octavo.quantize_per_tensor(torch.randn(11, 20), 0.03, 120, octavo.quint8)
    y = module(x)
    assert y.dtype is dtype
    close = float_module(x.dequantize())
    assert (y.dequantize() - close).abs().max() < 0.05
    assert (module.bias() is None) == (not bias)


def test_from_float_accepts_subclasses_and_half_weights() -> None:
    class Custom(torch.nn.Linear):
        pass

    module = nnq.Linear.from_float(observed(Custom(4, 5).to(torch.bfloat16)))
    assert module.weight.shape == (5, 4)
    assert module.bias().dtype == torch.float32


def test_fused_from_float_clamps_at_zero() -> None:
    torch.manual_seed(0)
    fused = observed(nni.LinearReLU(torch.nn.Linear(6, 8), torch.nn.ReLU()))
    module = nniq.LinearReLU.from_float(fused)
    x = octavo.quantize_per_tensor(torch.randn(50, 6), 0.03, 120, octavo.quint8)
    y = module(x)
    assert y.int_repr().min() == module.zero_point
    assert (y.dequantize() - fused(x.dequantize())).abs().max() < 0.05


def test_weight_and_bias_read_as_attributes_and_as_methods() -> None:
    module = random_linear(4, 3)
    assert torch.equal(module.weight.int_repr(), module.weight().int_repr())
    assert module.weight.dequantize().shape == (3, 4)
    assert torch.equal(module.bias, module.bias())
    assert type(module.bias + 1) is torch.Tensor
    assert type(module.bias()) is torch.Tensor
    without = random_linear(4, 3, bias=False)
    assert without.bias() is None
    assert without.bias.tolist() == [0.0, 0.0, 0.0]
    weight, bias = without._weight_bias()
    assert weight.shape == (3, 4)
    assert bias is None


def test_reading_the_bias_does_not_give_access_to_the_module() -> None:
    module = random_linear(4, 3)
    before = module.bias().tolist()
    module.bias.zero_()
    module.bias().zero_()
    assert module.bias().tolist() == before


def test_set_weight_bias_replaces_both() -> None:
    module = random_linear(8, 6)
    set_random(module, generator(99), per_channel=False)
    x = random_q((5, 8), generator(1))
    assert_equals(module(x), module, expected_linear(module, x))


def test_repr_and_parameters() -> None:
    module = nnq.Linear(3, 4)
    assert repr(module) == (
        "QuantizedLinear(in_features=3, out_features=4, scale=1.0, zero_point=0, "
        "qscheme=torch.per_tensor_affine)"
    )
    assert "torch.per_channel_affine" in repr(random_linear(3, 4))
    assert repr(nniq.LinearReLU(3, 4)).startswith("QuantizedLinearReLU(in_features=3")
    assert list(module.parameters()) == []
    assert list(module.buffers()) == []


@pytest.mark.parametrize("move", [lambda m: m.half(), lambda m: m.double(), lambda m: m.to("meta")])
def test_casts_and_moves_leave_the_module_as_it_is(move: Any) -> None:
    module = random_linear(9, 5)
    x = random_q((4, 9), generator(0))
    before = module(x).int_repr()
    moved = move(module)
    assert torch.equal(moved(x).int_repr(), before)
    assert moved.state_dict()["weight_scale"].dtype == torch.float32


@pytest.mark.kernel
@pytest.mark.parametrize("relu", [False, True])
def test_against_torch(isa: str, relu: bool) -> None:
    """torch's x86 engine computes the same sums; results may differ by one step near ties."""
    module, x = random_linear(64, 48, relu=relu), random_q((33, 64), generator(4), zero=100)
    assert_close_to_torch(module, x, "linear_relu" if relu else "linear")


def test_reference_agrees_with_float_arithmetic() -> None:
    """The reference itself: within half a step of the real-valued layer, or at a clamp."""
    module = random_linear(30, 20)
    x = random_q((40, 30), generator(3))
    real = x.dequantize().double() @ module.weight.dequantize().double().t() + module.bias.double()
    steps = real.numpy() / module.scale + module.zero_point
    out = ref.linear(as_ref(x), *weight_arrays(module), output_of(module))
    assert np.abs(np.clip(steps, 0, 255) - out).max() < 0.5001
