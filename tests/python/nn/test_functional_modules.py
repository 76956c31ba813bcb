"""FloatFunctional and QFunctional: against the integer reference, and torch as oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octavo
import reference as ref
from module_observers import Observer
from module_support import as_ref, generator, random_q, threads
from octavo import QTensor
from octavo.nn import quantized as nnq
from torch_oracle import torch_quantized

DTYPES = ["quint8", "qint8"]


def functional(scale: float, zero_point: int, dtype: str | None = None) -> nnq.QFunctional:
    module = nnq.QFunctional()
    module._set_output(scale, zero_point, getattr(octavo, dtype) if dtype else None)
    return module


def pair(shape: Any, other: Any, dtype: str, seed: int = 0) -> tuple[QTensor, QTensor]:
    x = random_q(shape, generator(seed), scale=0.03, zero=7, dtype=dtype)
    y = random_q(other, generator(seed + 1), scale=0.011, zero=101, dtype=dtype)
    return x, y


def check(y: QTensor, module: nnq.QFunctional, expected: Any, dtype: str) -> None:
    assert y.dtype == getattr(octavo, dtype)
    assert (y.q_scale(), y.q_zero_point()) == (module.scale, module.zero_point)
    np.testing.assert_array_equal(y.int_repr().numpy(), expected)


BINARY: dict[str, Callable[..., Any]] = {
    "add": ref.add,
    "add_relu": lambda a, b, out: ref.add(a, b, out, relu=True),
    "mul": ref.mul,
}


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((3, 70, 5), (3, 70, 5)),
        ((1,), (1,)),
        ((), ()),
        ((0, 4), (0, 4)),
        ((4, 1, 5), (3, 1)),
        ((2, 6, 7, 3), (6, 1, 1)),
        ((200, 33), (1, 33)),
    ],
)
def test_binary_operations(isa: str, name: str, dtype: str, shape: Any, other: Any) -> None:
    x, y = pair(shape, other, dtype)
    module = functional(0.02, 40)
    empty = ref.Q(np.empty(0, np.uint8 if dtype == "quint8" else np.int8), module.scale, 40)
    expected = BINARY[name](as_ref(x), as_ref(y), empty)
    for count in (1, 2):
        with threads(count):
            check(getattr(module, name)(x, y), module, expected, dtype)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_layouts_do_not_change_results(isa: str, name: str, dtype: str) -> None:
    x, y = pair((2, 5, 6, 7), (2, 5, 6, 7), dtype)
    module = functional(0.02, 40)
    expected = getattr(module, name)(x, y).int_repr()
    last = x.int_repr().contiguous(memory_format=torch.channels_last)
    strided = y.int_repr().repeat_interleave(3, dim=3)[..., ::3]
    again = getattr(module, name)(
        QTensor.from_int_repr(last, 0.03, 7), QTensor.from_int_repr(strided, 0.011, 101)
    )
    assert torch.equal(again.int_repr(), expected)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat(isa: str, dtype: str, dim: int) -> None:
    x, y = pair((4, 4, 4), (4, 4, 4), dtype)
    module = functional(0.02, 40)
    same = QTensor.from_int_repr(x.int_repr(), module.scale, 40)
    empty = ref.Q(np.empty(0, np.uint8 if dtype == "quint8" else np.int8), module.scale, 40)
    expected = ref.cat([as_ref(x), as_ref(y), as_ref(same)], dim, empty)
    check(module.cat([x, y, same], dim), module, expected, dtype)
    check(module.cat((x,), dim=dim), module, ref.cat([as_ref(x)], dim, empty), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "other"), [((5, 9), (9, 4)), ((2, 3, 5, 9), (9, 4)), ((9,), (9,)), ((2, 0), (0, 3))]
)
def test_matmul_is_exact(dtype: str, shape: Any, other: Any) -> None:
    x, y = pair(shape, other, dtype)
    module = functional(0.07, 40)
    empty = ref.Q(np.empty(0, np.uint8 if dtype == "quint8" else np.int8), module.scale, 40)
    check(module.matmul(x, y), module, ref.matmul(as_ref(x), as_ref(y), empty), dtype)


SCALARS = [0.0, 0.5, -0.5, 5.0, -5.0, 0.013, 100.0, -100.0, 1e-4, -1e-4, 2.3, -2.3, 1, -1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["add_scalar", "mul_scalar"])
@pytest.mark.parametrize("y", SCALARS)
def test_scalar_operations_follow_torch(dtype: str, name: str, y: float) -> None:
    x = random_q((500,), generator(0), scale=0.02, zero=100, dtype=dtype)
    ours = getattr(nnq.QFunctional(), name)(x, y)
    with torch_quantized():
        theirs = getattr(torch.ops.quantized, name)(
            torch._make_per_tensor_quantized_tensor(x.int_repr(), 0.02, 100), y
        )
        scale, zero_point, values = theirs.q_scale(), theirs.q_zero_point(), theirs.int_repr()
    assert ours.q_scale() == pytest.approx(scale, rel=1e-15)
    assert ours.q_zero_point() == zero_point
    different = ours.int_repr() != values
    assert (ours.int_repr().int() - values.int()).abs().max() <= 1
    # torch adds the zero point before it rounds, so exact ties may go the other way.
    exact = (x.int_repr().double() - 100 + round(y / 0.02)) * (0.02 / scale)
    assert ((exact[different] % 1) - 0.5).abs().max() < 1e-4 if different.any() else True


@given(
    y=st.floats(-1e4, 1e4, allow_nan=False),
    scale=st.floats(1e-3, 10.0),
    zero=st.integers(0, 255),
    signed=st.booleans(),
)
def test_scalar_operations_are_right(y: float, scale: float, zero: int, signed: bool) -> None:
    """Half a step of the output away from the real result, plus the rounding of y to a step."""
    dtype, zero = ("qint8", zero - 128) if signed else ("quint8", zero)
    x = random_q((64,), generator(0), scale=scale, zero=zero, dtype=dtype)
    real = (x.int_repr().double() - zero) * scale
    total = nnq.QFunctional().add_scalar(x, y)
    found = (total.int_repr().double() - total.q_zero_point()) * total.q_scale()
    assert (found - (real + y)).abs().max() <= scale / 2 + total.q_scale() * 0.501
    if 0 < abs(y) < 1e-20:
        return  # the output scale may leave float32
    product = nnq.QFunctional().mul_scalar(x, y)
    found = (product.int_repr().double() - product.q_zero_point()) * product.q_scale()
    assert (found - real * y).abs().max() <= 1e-9 * max(1.0, float((real * y).abs().max()))


def test_scalar_operations_do_not_alias_their_input() -> None:
    x = random_q((4,), generator(0))
    before = x.int_repr()
    for name in ("add_scalar", "mul_scalar"):
        getattr(nnq.QFunctional(), name)(x, 0.02)._int.zero_()
    assert torch.equal(x.int_repr(), before)


def test_float_functional_is_observed() -> None:
    seen: list[str] = []

    class Recorder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append("observed")
            return x

    module = nnq.FloatFunctional()
    module.activation_post_process = Recorder()
    a, b = torch.randn(3, 3), torch.randn(3, 3)
    assert torch.equal(module.add(a, b), a + b)
    assert torch.equal(module.mul(a, b), a * b)
    assert torch.equal(module.add_relu(a, b), torch.relu(a + b))
    assert torch.equal(module.cat([a, b], dim=1), torch.cat([a, b], 1))
    assert torch.equal(module.matmul(a, b), a @ b)
    assert len(seen) == 5
    assert torch.equal(module.add_scalar(a, 2.0), a + 2.0)
    assert torch.equal(module.mul_scalar(a, 2.0), a * 2.0)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "cls", [nnq.FloatFunctional, nnq.FXFloatFunctional, nnq.QFunctional], ids=lambda c: c.__name__
)
def test_no_forward(cls: Any) -> None:
    with pytest.raises(RuntimeError, match=r"has no forward; call one of its methods add"):
        cls()(torch.ones(1))


@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8])
def test_from_float_takes_qparams_and_dtype(dtype: Any) -> None:
    module = nnq.FloatFunctional()
    module.activation_post_process = Observer(0.5, 3, dtype)
    converted = nnq.QFunctional.from_float(module)
    assert (converted.scale, converted.zero_point) == (0.5, 3)
    x = random_q((4,), generator(0), dtype=dtype.name)
    assert converted.add(x, x).dtype is dtype
    other = random_q((4,), generator(0), dtype="qint8" if dtype is octavo.quint8 else "quint8")
    with pytest.raises(TypeError, match=r"calibrated for octavo\.q.*inputs are octavo\.q"):
        converted.add(other, other)


def test_repr() -> None:
    assert repr(functional(0.5, 3)) == "QFunctional(scale=0.5, zero_point=3)"


def q(dtype: str = "quint8", shape: Any = (2, 3)) -> QTensor:
    return random_q(shape, generator(0), dtype=dtype)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.add(torch.ones(2, 3), q()), TypeError, "x must be a quantized tensor"),
        (lambda m: m.add(q(), torch.ones(2, 3)), TypeError, "y must be .* plain float32 tensor"),
        (lambda m: m.mul(q(), 2.0), TypeError, r"y must be .* got float 2\.0"),
        (lambda m: m.add(q(), q("qint8")), TypeError, "inputs must have one dtype"),
        (lambda m: m.cat([q(), q("qint8")]), TypeError, "inputs must have one dtype"),
        (lambda m: m.cat([]), TypeError, "cat takes a list or tuple of at least one"),
        (lambda m: m.cat(q()), TypeError, "cat takes a list or tuple"),
        (lambda m: m.cat([q(), torch.ones(2)]), TypeError, r"x\[1\] must be a quantized tensor"),
        (lambda m: m.cat([q(), q()], dim=5), IndexError, "dim 5 is out of range"),
        (lambda m: m.cat([q(), q(shape=(2, 4))], dim=0), RuntimeError, "skip"),
        (lambda m: m.add(q(), q(shape=(2, 4))), RuntimeError, "skip"),
        (lambda m: m.matmul(q(), q()), RuntimeError, "skip"),
        (lambda m: m.add_scalar(q(), "1"), TypeError, "y must be a number, got str '1'"),
        (lambda m: m.mul_scalar(q(), q()), TypeError, "y must be a number, got a quantized"),
        (lambda m: m.add_scalar(q(), float("nan")), ValueError, "y must be finite"),
        (lambda m: m.mul_scalar(q(), float("inf")), ValueError, "y must be finite"),
        (lambda m: m.mul_scalar(q(), 1e-44), ValueError, "output scale that y leads to"),
        (lambda m: m.add_scalar(q(), 1e300), ValueError, "output scale that y leads to"),
        (lambda m: m.add_scalar(q(), 1.7e308), ValueError, "y is too many steps"),
        (lambda m: m.mul_scalar(q(), 1e300), ValueError, "output scale that y leads to"),
        (lambda m: m.add_scalar(torch.ones(3), 1.0), TypeError, "QuantStub"),
    ],
)
def test_bad_arguments(call: Any, error: Any, message: str) -> None:
    module = functional(0.5, 3)
    module._qualified_name = "block.skip"
    with pytest.raises(error, match=message) as info:
        call(module)
    assert "QFunctional 'block.skip': " in str(info.value)


def test_zero_point_that_the_inputs_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"zero_point: -3 is outside \[0, 255\]"):
        functional(0.5, -3).add(q(), q())
    functional(0.5, -3).add(q("qint8"), q("qint8"))
