"""Dynamically quantized Linear and LinearReLU: against a float64 model of the definition, across
instruction sets and threads, and against torch's own."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import octavo
from module_support import generator, threads
from octavo import _C, backend
from octavo.nn import intrinsic as nni
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.quantized import dynamic as nnqd
from reference import dynamic_qparams
from torch_oracle import torch_quantized

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129])
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def linear(n_in: int, n_out: int, seed: int = 0, bias: bool = True) -> nn.Linear:
    module = nn.Linear(n_in, n_out, bias)
    g = generator(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return module


def qparams(x: Tensor, qmax: int, per_tensor: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row of x, by the definition."""
    ranges = zip(x.amin(-1).tolist(), x.amax(-1).tolist(), strict=True)
    scales, zeros = zip(
        *(dynamic_qparams(lo, hi, qmax, per_tensor) for lo, hi in ranges), strict=True
    )
    return torch.tensor(scales), torch.tensor(zeros, dtype=torch.float64)


def expected(module: Any, x: Tensor) -> Tensor:
    """What the module should give, its integers exact and its floats rounded once an operation."""
    rows = x.float().reshape(-1, x.shape[-1])
    qmax = 127 if module.reduce_range else 255
    scale, zero = qparams(
        rows.reshape(1, -1) if module.per_tensor else rows, qmax, module.per_tensor
    )
    q = (rows * (1 / scale)[:, None]).round() + zero[:, None]
    q = q.clamp(0, qmax).double() - zero.double()[:, None]
    weight = module.weight()
    acc = q @ weight.int_repr().double().T
    w_scale = module._packed.scales
    y = acc.float() * scale[:, None] * w_scale
    if module.bias() is not None:
        y = y + module.bias()
    if module._relu:
        y = y.relu()
    return y.to(x.dtype).reshape(*x.shape[:-1], -1)


def run(module: Any, x: Tensor) -> Tensor:
    """The output, which is the same with one and two threads and whichever way the call takes."""
    with threads(1):
        y = module(x)
    with threads(2):
        again = module(x)
    slow = module._forward(x)
    assert torch.equal(y, again)
    assert torch.equal(y, slow)
    return y


@pytest.mark.kernel
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=SIZES,
    n_in=SIZES,
    n_out=SIZES,
    dtype=st.sampled_from(FLOATS),
    bias=st.booleans(),
    relu=st.booleans(),
    per_tensor=st.booleans(),
    reduce_range=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(
    isa: str,
    rows: int,
    n_in: int,
    n_out: int,
    dtype: torch.dtype,
    bias: bool,
    relu: bool,
    per_tensor: bool,
    reduce_range: bool,
    seed: int,
) -> None:
    float_module = linear(n_in, n_out, seed, bias)
    options = {"per_tensor": per_tensor, "reduce_range": reduce_range}
    module: Any
    if relu:
        pair = nni.LinearReLU(float_module, nn.ReLU())
        module = nniqd.LinearReLU.from_float(pair, **options)
    else:
        module = nnqd.Linear.from_float(float_module, **options)
    g = generator(seed)
    x = (torch.randn(rows, n_in, generator=g) * torch.rand(rows, 1, generator=g) * 10).to(dtype)
    y = run(module, x)
    assert y.dtype == dtype
    assert y.shape == (rows, n_out)
    assert torch.equal(y, expected(module, x))
    assert backend.last_kernel().endswith(f"__{isa}")


def test_every_isa_gives_the_same_bits() -> None:
    module = nnqd.Linear.from_float(linear(300, 70))
    x = torch.randn(37, 300, generator=generator(1))
    results = []
    for isa in backend.supported():
        with backend.force(isa):
            results.append(module(x))
    assert all(torch.equal(results[0], y) for y in results)


@pytest.mark.kernel
def test_a_row_does_not_depend_on_the_others(isa: str) -> None:
    module = nnqd.Linear.from_float(linear(64, 50))
    x = torch.randn(40, 64, generator=generator(2))
    x[7] *= 1e4
    whole = module(x)
    for r in (0, 7, 39):
        assert torch.equal(module(x[r : r + 1]), whole[r : r + 1])
        assert torch.equal(module(x[r]), whole[r])


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_gelu_in_the_epilogue(isa: str, dtype: torch.dtype) -> None:
    float_module = linear(40, 37)
    fused = nniqd.LinearGELU.from_float(nn.Sequential(float_module, nn.GELU()))
    plain = nnqd.Linear.from_float(float_module)
    x = (torch.randn(29, 40, generator=generator(4)) * 6).to(dtype)
    x[3, 5] = float("nan")
    y = run(fused, x.nan_to_num())
    before = plain.float()(x.nan_to_num().float()).double()
    exact = nn.functional.gelu(before)
    rounding = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    assert ((y.double() - exact).abs() <= 1e-6 + (3e-7 + rounding) * exact.abs()).all()
    assert before.min() < -5
    assert before.max() > 5
    assert torch.equal(fused(x)[3].isnan(), torch.ones(37, dtype=torch.bool))
    assert torch.equal(fused(x)[:3], y[:3])
    assert backend.last_kernel().endswith(f"__{isa}")


def test_gelu_is_the_same_on_every_isa() -> None:
    pair = nn.Sequential(linear(64, 50), nn.GELU())
    module = nniqd.LinearGELU.from_float(pair)
    x = torch.randn(100, 64, generator=generator(5)) * 10
    results = []
    for isa in backend.supported():
        with backend.force(isa):
            results.append(module(x))
    assert all(torch.equal(results[0], y) for y in results)
    assert repr(module).startswith("DynamicQuantizedLinearGELU(in_features=64")


def test_only_exact_gelu_is_fused() -> None:
    pair = nn.Sequential(linear(4, 4), nn.GELU(approximate="tanh"))
    with pytest.raises(TypeError, match=r"approximate='tanh' cannot be fused"):
        nniqd.LinearGELU.from_float(pair)
    with pytest.raises(TypeError, match=r"expected an nn\.Sequential of a Linear and a GELU"):
        nniqd.LinearGELU.from_float(linear(4, 4))


@pytest.mark.kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_that_are_not_finite_are_nan_and_harm_no_other(
    isa: str, bad: float, dtype: torch.dtype
) -> None:
    module = nnqd.Linear.from_float(linear(33, 20))
    x = torch.randn(5, 33, generator=generator(3)).to(dtype)
    clean = module(x)
    x[2, 17] = bad
    y = module(x)
    assert bool(y[2].isnan().all())
    keep = [0, 1, 3, 4]
    assert torch.equal(y[keep], clean[keep])
    per_tensor = nnqd.Linear.from_float(linear(33, 20), per_tensor=True)
    assert bool(per_tensor(x).isnan().all())


@pytest.mark.kernel
def test_agrees_with_torch(isa: str) -> None:
    """Per tensor and with 7 bits this is torch's arithmetic; an output may differ by the step that
    a tie in the quantization of x makes."""
    float_module = linear(128, 48)
    with torch_quantized() as t:
        if "fbgemm" not in t.backends.quantized.supported_engines:
            pytest.skip("this torch has no fbgemm engine")
        t.backends.quantized.engine = "fbgemm"
        scales = float_module.weight.detach().abs().amax(1) / 127.5
        zeros = torch.zeros(48, dtype=torch.int64)
        q = t.quantize_per_channel(float_module.weight.detach(), scales, zeros, 0, t.qint8)
        packed = t.ops.quantized.linear_prepack(q, float_module.bias.detach())
        ours = nnqd.Linear(128, 48, per_tensor=True, reduce_range=True)
        ours.set_weight_bias(
            octavo.QTensor.from_int_repr(q.int_repr(), scales, zeros, axis=0),
            float_module.bias.detach(),
        )
        for seed, size in enumerate((1e-4, 0.1, 1.0, 50.0)):
            x = torch.randn(30, 128, generator=generator(seed)) * size
            theirs = t.ops.quantized.linear_dynamic(x, packed, True)
            step = (x.max() - x.min()).clamp(min=6.1e-5 * 127) / 127 * scales.max() * 128
            assert float((ours(x) - theirs).abs().max()) <= float(step) * 1.01


@pytest.mark.kernel
def test_is_close_to_float(isa: str) -> None:
    float_module = linear(256, 100)
    x = torch.randn(64, 256, generator=generator(4))
    y, want = nnqd.Linear.from_float(float_module)(x), float_module(x).detach()
    assert float((y - want).norm() / want.norm()) < 0.01


@pytest.mark.kernel
def test_shapes_and_strides(isa: str) -> None:
    module = nnqd.Linear.from_float(linear(6, 4))
    x = torch.randn(3, 5, 8, 6, generator=generator(5))
    y = module(x)
    assert y.shape == (3, 5, 8, 4)
    assert torch.equal(module(x.transpose(0, 2)), y.transpose(0, 2))
    assert torch.equal(module(x[:, ::2, 1:7:3]), y[:, ::2, 1:7:3])
    assert torch.equal(module(x[1, 2, 3]), y[1, 2, 3])
    assert module(x[:0]).shape == (0, 5, 8, 4)
    assert torch.equal(module(x[0, 0, :1].expand(8, 6)), y[0, 0, :1].expand(8, 4))


@pytest.mark.parametrize("access", ["none", "attributes", "exchange"])
def test_every_way_in_gives_the_same(access: str) -> None:
    before = _C.tensor_access()
    module = nnqd.Linear.from_float(linear(20, 10))
    x = torch.randn(4, 20, generator=generator(6))
    want = module(x)
    if not _C.set_tensor_access(access):
        pytest.skip("this torch has no __dlpack_c_exchange_api__")
    try:
        for dtype in FLOATS:
            assert torch.equal(module(x.to(dtype)), module._forward(x.to(dtype)))
        assert torch.equal(module(x), want)
    finally:
        _C.set_tensor_access(before)


def test_gradients_stop_here() -> None:
    x = torch.randn(2, 20, requires_grad=True)
    assert not nnqd.Linear.from_float(linear(20, 10))(x).requires_grad


def test_state_dict_pickle_and_copies() -> None:
    module = nnqd.Linear.from_float(linear(20, 10), reduce_range=True)
    x = torch.randn(4, 20, generator=generator(7))
    want = module(x)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert set(state) == {"weight_int8", "weight_scale", "weight_zero_point", "bias"}
    other = nnqd.Linear(20, 10, reduce_range=True)
    other.load_state_dict(state)
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), want)
        assert same.reduce_range
        assert not same.per_tensor


def test_empty_layers() -> None:
    x = torch.randn(3, 0)
    no_inputs = nnqd.Linear(0, 4)
    assert torch.equal(no_inputs(x), torch.zeros(3, 4))
    assert nnqd.Linear(5, 0)(torch.randn(3, 5)).shape == (3, 0)


def test_errors_say_what_to_do() -> None:
    module = nnqd.Linear.from_float(linear(20, 10))
    module._qualified_name = "encoder.0"
    with pytest.raises(TypeError, match=r"encoder\.0.*Dequantize it first"):
        module(octavo.quantize_per_tensor(torch.randn(2, 20), 0.1, 0, octavo.quint8))
    with pytest.raises(TypeError, match=r"encoder\.0.*float32, bfloat16 or float16.*float\(\)"):
        module(torch.zeros(2, 20, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*in_features = 20.*\(2, 21\)"):
        module(torch.zeros(2, 21))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*in_features = 20.*\(2, 21\)"):
        module(torch.zeros(2, 21, device="meta"))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Linear"):
        nnqd.Linear.from_float(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="qint8"):
        nnqd.Linear(3, 4, dtype=octavo.quint8)
    broken = linear(20, 10)
    with torch.no_grad():
        broken.weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        nnqd.Linear.from_float(broken)
