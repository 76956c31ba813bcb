"""Quantize and dequantize as operators: numerics, layouts, registration, refusals."""

import importlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo
from octavo.ops import LinearWeight

oct_ops = torch.ops.octavo

LIMITS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}


def _expected(x, scale, zero_point, lo, hi, dtype):
    """The normative formula, in double precision where float32 is not needed."""
    inverse = torch.tensor(1.0) / torch.tensor(scale, dtype=torch.float32)
    rounded = torch.round(x.float() * inverse).double()
    rounded = torch.where(rounded.isnan(), 0.0, rounded)
    return (rounded + zero_point).clamp(lo, hi).to(dtype)


def _layouts():
    x = torch.randn(2, 6, 5, 4) * 3
    return {
        "contiguous": x,
        "channels_last": x.to(memory_format=torch.channels_last),
        "permuted": x.permute(2, 0, 3, 1),
        "gaps": x[:, ::2, 1:],
        "expanded": x[:, :1].expand(2, 6, 5, 4),
        "empty": x[:0],
        "scalar": x[0, 0, 0, 0],
    }


@pytest.mark.parametrize("layout", _layouts())
@pytest.mark.parametrize("dtype", LIMITS)
def test_per_tensor_is_the_formula_and_keeps_the_layout(layout, dtype):
    torch.manual_seed(0)
    x = _layouts()[layout]
    lo, hi = LIMITS[dtype]
    scale, zero_point = 0.0372, max(lo, 0) + 3
    args = (scale, zero_point, lo, hi, dtype)
    q = oct_ops.quantize_per_tensor(x, *args)
    assert torch.equal(q, _expected(x, scale, zero_point, lo, hi, dtype))
    assert q.stride() == torch.empty_like(x).stride()
    back = oct_ops.dequantize_per_tensor(q, *args)
    assert back.dtype == torch.float32
    assert torch.equal(back, (q.long() - zero_point).float() * torch.tensor(scale))
    pair = (torch.tensor([scale]), torch.tensor([zero_point]))
    assert torch.equal(oct_ops.quantize_per_tensor.tensor(x, *pair, lo, hi, dtype), q)
    assert torch.equal(oct_ops.dequantize_per_tensor.tensor(q, *pair, lo, hi, dtype), back)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40),
    scale=st.floats(min_value=2.0**-30, max_value=2.0**30, width=32),
    zero_point=st.integers(0, 255),
    lo=st.integers(0, 100),
    width=st.integers(0, 155),
)
def test_kernels_and_torch_arithmetic_agree(values, scale, zero_point, lo, width):
    x = torch.tensor(values, dtype=torch.float32)
    hi = lo + width
    by_kernel = oct_ops.quantize_per_tensor(x, scale, zero_point, lo, hi, torch.uint8)
    pair = torch.tensor([scale]), torch.tensor([zero_point])
    by_torch = oct_ops.quantize_per_tensor.tensor(x, *pair, lo, hi, torch.uint8)
    assert torch.equal(by_kernel, by_torch)


def test_ties_and_values_that_are_not_finite():
    x = torch.tensor([0.5, 1.5, -0.5, torch.nan, torch.inf, -torch.inf])
    q = oct_ops.quantize_per_tensor(x, 1.0, 3, 0, 255, torch.uint8)
    assert q.tolist() == [3, 5, 3, 3, 255, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(dtype):
    x = torch.randn(64).to(dtype)
    q = oct_ops.quantize_per_tensor(x, 0.013, 7, 0, 255, torch.uint8)
    assert torch.equal(q, oct_ops.quantize_per_tensor(x.float(), 0.013, 7, 0, 255, torch.uint8))
    back = oct_ops.dequantize_per_tensor(q, 0.013, 7, 0, 255, torch.uint8, out_dtype=dtype)
    assert back.dtype == dtype
    assert torch.equal(
        back, oct_ops.dequantize_per_tensor(q, 0.013, 7, 0, 255, torch.uint8).to(dtype)
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", LIMITS)
def test_per_channel_is_per_tensor_of_each_channel(axis, dtype):
    torch.manual_seed(1)
    x = torch.randn(4, 3, 5)
    lo, hi = LIMITS[dtype]
    count = x.shape[axis]
    scales = torch.rand(count) * 0.05 + 0.001
    points = torch.arange(count) + max(lo, 0)
    q = oct_ops.quantize_per_channel(x, scales, points, axis, lo, hi, dtype)
    back = oct_ops.dequantize_per_channel(q, scales, points, axis, lo, hi, dtype)
    for i in range(count):
        args = (scales[i].item(), int(points[i]), lo, hi, dtype)
        part = oct_ops.quantize_per_tensor(x.select(axis, i), *args)
        assert torch.equal(q.select(axis, i), part)
        assert torch.equal(back.select(axis, i), oct_ops.dequantize_per_tensor(part, *args))


def test_per_channel_without_zero_points():
    q = torch.randint(-128, 128, (3, 4), dtype=torch.int8)
    scales = torch.rand(3)
    args = (0, -128, 127, torch.int8)
    zeros = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(
        oct_ops.dequantize_per_channel(q, scales, None, *args),
        oct_ops.dequantize_per_channel(q, scales, zeros, *args),
    )


def _rows():
    torch.manual_seed(2)
    rows = torch.randn(12, 7) * torch.logspace(-6, 6, 12).unsqueeze(1)
    rows[3] = 0
    rows[4].abs_()
    rows[5].abs_().neg_()
    rows[6] = 1e-42  # a scale without reciprocal
    rows[7, 2] = torch.nan
    rows[8, 1] = torch.inf
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_per_token_is_what_dynamic_modules_compute(dtype):
    """An identity weight shows the rows as the kernel quantizes them."""
    x = _rows().to(dtype)
    weight = LinearWeight(torch.eye(7, dtype=torch.int8), torch.ones(7), torch.zeros(7), None)
    pair = oct_ops.choose_qparams_per_token(x, 0, 255, 0.0, torch.uint8)
    assert pair[0].shape == (12, 1)
    q = oct_ops.quantize_per_token(x, *pair, 0, 255, torch.uint8)
    back = oct_ops.dequantize_per_token(q, *pair, 0, 255, torch.uint8)
    assert torch.equal(back.isnan().any(1).nonzero().flatten(), torch.tensor([7, 8]))
    torch.testing.assert_close(back, weight.dynamic(x.float()), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("row", range(12))
def test_whole_tensors_are_what_dynamic_modules_compute(row):
    x = _rows()[row : row + 1]
    smallest = 6.1e-5  # below it FBGEMM, and with it torch, widens the interval
    weight = LinearWeight(torch.eye(7, dtype=torch.int8), torch.ones(7), torch.zeros(7), None)
    scale, point = oct_ops.choose_qparams(x, 0, 255, smallest, torch.uint8)
    q = oct_ops.quantize_per_tensor.tensor(x, scale, point, 0, 255, torch.uint8)
    back = oct_ops.dequantize_per_tensor.tensor(q, scale, point, 0, 255, torch.uint8)
    torch.testing.assert_close(
        back, weight.dynamic(x, per_tensor=True), rtol=0, atol=0, equal_nan=True
    )


def test_symmetric_qparams():
    x = torch.tensor([[-2.0, 1.0], [0.5, 1.5]])
    scale, point = oct_ops.choose_qparams_symmetric(x, -127, 127, 1e-6, torch.int8)
    assert (scale.item(), point.item()) == (torch.tensor(2.0 / 127).item(), 0)
    scale, point = oct_ops.choose_qparams_symmetric(x, 0, 255, 1e-6, torch.uint8)
    assert (scale.item(), point.item()) == (torch.tensor(2.0 / 127.5).item(), 128)
    assert oct_ops.choose_qparams_symmetric(x * 0, -127, 127, 0.25, torch.int8)[0].item() == 0.25


def _calls():
    torch.manual_seed(3)
    x = torch.randn(3, 4, 5)
    q = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    one = torch.tensor([0.1]), torch.tensor([4])
    many = torch.rand(4) + 0.1, torch.arange(4)
    rows = torch.rand(3, 4, 1) + 0.1, torch.ones(3, 4, 1, dtype=torch.int64)
    end = (0, 255, torch.uint8)
    half = {"out_dtype": torch.float16}
    return [
        ("quantize_per_tensor.default", (x, 0.1, 4, *end), {}),
        ("quantize_per_tensor.default", (x.permute(2, 0, 1), 0.1, 4, *end), {}),
        ("quantize_per_tensor.tensor", (x[:, ::2], *one, *end), {}),
        ("quantize_per_channel.default", (x.transpose(0, 2), *many, 1, *end), {}),
        ("quantize_per_token.default", (x, *rows, *end), {}),
        ("dequantize_per_tensor.default", (q, 0.1, 4, *end), {}),
        ("dequantize_per_tensor.default", (q.permute(2, 0, 1), 0.1, 4, *end), half),
        ("dequantize_per_tensor.tensor", (q, *one, *end), half),
        ("dequantize_per_channel.default", (q.transpose(0, 2), *many, 1, *end), {}),
        ("dequantize_per_channel.default", (q, many[0], None, 1, *end), half),
        ("dequantize_per_token.default", (q, *rows, *end), half),
        ("choose_qparams.tensor", (x, 0, 255, 1e-6, torch.uint8), {}),
        ("choose_qparams_symmetric.tensor", (x, -127, 127, 1e-6, torch.int8), {}),
        ("choose_qparams_per_token.default", (x, 0, 255, 0.0, torch.uint8), {}),
    ]


@pytest.mark.parametrize("index", range(len(_calls())))
def test_registration(index):
    name, args, kwargs = _calls()[index]
    packet, overload = name.split(".")
    operator = getattr(getattr(oct_ops, packet), overload)
    result = torch.library.opcheck(operator, args, kwargs)
    assert set(result.values()) == {"SUCCESS"}


def test_results_have_no_gradient():
    for name, args, kwargs in _calls():
        packet, overload = name.split(".")
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        for arg in args:
            if isinstance(arg, torch.Tensor) and arg.is_floating_point():
                arg.requires_grad_()
        results = getattr(getattr(oct_ops, packet), overload)(*args, **kwargs)
        for result in results if isinstance(results, tuple) else (results,):
            assert not result.requires_grad


def test_the_module_can_be_loaded_again():
    importlib.reload(importlib.import_module("octavo.library.decomposed"))
    assert oct_ops.quantize_per_tensor(torch.ones(1), 1.0, 2, 0, 255, torch.uint8).item() == 3


def test_graphs_with_a_dynamic_batch():
    class Net(torch.nn.Module):
        def forward(self, x):
            pair = oct_ops.choose_qparams_per_token(x, 0, 255, 0.0, torch.uint8)
            x = oct_ops.quantize_per_token(x, *pair, 0, 255, torch.uint8)
            x = oct_ops.dequantize_per_token(x, *pair, 0, 255, torch.uint8)
            x = oct_ops.quantize_per_tensor(x, 0.1, 4, 0, 255, torch.uint8)
            return oct_ops.dequantize_per_tensor(x, 0.1, 4, 0, 255, torch.uint8)

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Net(), (torch.randn(3, 8),), dynamic_shapes=({0: batch},))
    x = torch.randn(9, 8)
    assert torch.equal(program.module()(x), Net()(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: oct_ops.quantize_per_tensor(x.double(), 0.1, 0, 0, 255, torch.uint8), TypeError,
         "quantize_per_tensor: input must be float32"),
        (lambda x: oct_ops.quantize_per_tensor(x, 0.0, 0, 0, 255, torch.uint8), ValueError,
         "scale must be finite and > 0, got 0.0"),
        (lambda x: oct_ops.quantize_per_tensor(x, 0.1, 0, -1, 255, torch.uint8), ValueError,
         "quant_min=-1 and quant_max=255 are no range of torch.uint8"),
        (lambda x: oct_ops.quantize_per_tensor(x, 0.1, 300, 0, 255, torch.uint8), ValueError,
         "zero_point: quint8 needs 0..255, got 300"),
        (lambda x: oct_ops.quantize_per_tensor(x, 0.1, 0, 0, 255, torch.float32), TypeError,
         "dtype must be an integer type"),
        (lambda x: oct_ops.dequantize_per_tensor(x, 0.1, 0, 0, 255, torch.uint8), TypeError,
         "input must have dtype torch.uint8"),
        (lambda x: oct_ops.quantize_per_channel(x, torch.ones(3), torch.zeros(3), 0, 0, 255,
                                                torch.uint8), ValueError,
         "dimension 0 has 2 channels"),
        (lambda x: oct_ops.quantize_per_channel(x, torch.ones(2), torch.zeros(2), 2, 0, 255,
                                                torch.uint8), ValueError,
         "axis 2 is out of range for 2 dimensions"),
        (lambda x: oct_ops.quantize_per_token(x, torch.ones(2), torch.zeros(2), 0, 255,
                                              torch.uint8), ValueError,
         "must have the input's shape with 1"),
        (lambda x: oct_ops.quantize_per_tensor.tensor(x, torch.ones(2), torch.zeros(2), 0, 255,
                                               torch.uint8), ValueError,
         "must have one element"),
        (lambda x: oct_ops.choose_qparams_per_token(x[:, :0], 0, 255, 0.0, torch.uint8),
         ValueError, "must have values in its last dimension"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        call(torch.randn(2, 4))


def test_equals_the_functions_of_the_package():
    x = torch.randn(5, 6)
    q = octavo.quantize_per_tensor(x, 0.07, 9, octavo.quint8)
    assert torch.equal(q.int_repr(), oct_ops.quantize_per_tensor(x, 0.07, 9, 0, 255, torch.uint8))


def test_float_zero_points_are_those_of_embedding_tables():
    torch.manual_seed(4)
    rows = torch.randn(5, 8)
    scales = (rows.amax(1) - rows.amin(1)) / 255
    points = -rows.amin(1) / scales
    table = octavo.ops.EmbeddingWeight.from_float(rows, scales, points, octavo.quint8)
    args = (scales, points, 0, 0, 255, torch.uint8)
    q = oct_ops.quantize_per_channel(rows, *args)
    assert torch.equal(q, table.storage)
    expected = octavo.ops.embedding(table, torch.arange(5))
    assert torch.equal(oct_ops.dequantize_per_channel(q, *args), expected)
    assert set(
        torch.library.opcheck(oct_ops.quantize_per_channel.default, (rows, *args)).values()
    ) == {"SUCCESS"}


REGISTERED = """
import gc, weakref
import torch.jit._builtins as builtins
register, found = builtins._register_builtin, []
def recorded(function, name):
    found.append((name, weakref.ref(function)))
    return register(function, name)
builtins._register_builtin = recorded
import octavo
gc.collect()
names = {name for name, _ in found}
assert "octavo::quantize_per_tensor" in names, names
dead = [name for name, function in found if function() is None]
assert not dead, dead
"""


def test_no_function_dies_that_torchscript_knows_by_its_address():
    """Whatever came to lie there, TorchScript would take for an operator, in any model."""
    subprocess.run([sys.executable, "-c", REGISTERED], check=True, timeout=300)
