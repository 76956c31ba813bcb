"""Wrong numbers that int8 inference is known for elsewhere, one test for each, against exact 64-bit
integers. Links are to where each was reported.

PT: https://github.com/pytorch/pytorch, ORT: https://github.com/microsoft/onnxruntime
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
import reference as ref
from module_support import generator
from octavo import QTensor, ops
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import dynamic as nnqd

f32 = np.float32


def linear_sums(x: Tensor, zero: int, w: Tensor, w_zeros: Tensor | None = None) -> Tensor:
    """The layer's sums as int64: with all scales 1 its float output is they, below 2^24."""
    zeros = torch.zeros(1, dtype=torch.int32) if w_zeros is None else w_zeros
    packed = ops.LinearWeight(w, torch.ones(1 if w_zeros is None else len(w)), zeros, None)
    return packed.dequantized_output(x, 1.0, zero).long()


def conv_sums(x: Tensor, zero: int, w: Tensor, **geometry: Any) -> Tensor:
    packed = ops.ConvWeight(w, torch.ones(1), torch.zeros(1, dtype=torch.int32), None, **geometry)
    return packed.dequantized_output(x, 1.0, zero).long()


def integer_conv(x: Tensor, zero: int, w: Tensor, **geometry: Any) -> Any:
    rank = w.dim() - 2
    dims = {
        key: (geometry.get(key, missing),) * rank
        for key, missing in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    return ref.conv_accumulator(
        x.numpy().astype(np.int64) - zero,
        w.numpy().astype(np.int64),
        groups=geometry.get("groups", 1),
        **dims,
    )


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("weight", [127, -128, -127, -81, 81])
def test_pairs_of_products_do_not_saturate(isa: str, dtype: torch.dtype, weight: int) -> None:
    """vpmaddubsw sums two products in 16 bits: 2 * 255 * 127 and 2 * 210 * -81 do not fit.

    https://github.com/pytorch/FBGEMM/issues/125, ORT/issues/16105, PT/issues/17458
    """
    info = torch.iinfo(dtype)
    for k in (2, 3, 4, 64, 257):
        rows = [torch.full((k,), v, dtype=dtype) for v in (info.max, info.min, info.max - 45)]
        mixed = torch.where(torch.arange(k) % 4 < 2, info.max, info.min).to(dtype)
        x = torch.stack([*rows, mixed])
        w = torch.full((5, k), weight, dtype=torch.int8)
        w[1, ::2] = -weight if weight > -128 else 127
        want = x.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T
        np.testing.assert_array_equal(linear_sums(x, 0, w).numpy(), want)
    image = torch.full((1, 16, 7, 6), info.max, dtype=dtype)
    image[:, 3::4] = info.min
    for groups in (1, 4, 16):
        w = torch.full((16, 16 // groups, 3, 3), weight, dtype=torch.int8)
        got = conv_sums(image, 0, w, padding=1, groups=groups)
        want = integer_conv(image, 0, w, padding=1, groups=groups)
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.kernel
def test_reduced_ranges_change_levels_and_nothing_else(isa: str) -> None:
    """reduce_range halves a range that the user gave too, costs no warning at run time, and is
    obeyed by every kernel; without it all 256 levels are exact.

    https://github.com/MiscellaneousStuff/openai-whisper-cpu/issues/9, PT/pull/84329, PT/pull/103653
    """
    for given, reduced in (
        ((0, 255), (0, 127)),
        ((-128, 127), (-64, 63)),
        ((-127, 127), (-64, 63)),
    ):
        observer = tq.MinMaxObserver(
            dtype=octavo.quint8 if given[0] == 0 else octavo.qint8,
            quant_min=given[0],
            quant_max=given[1],
            reduce_range=True,
        )
        assert (observer.quant_min, observer.quant_max) == reduced
        observer(torch.tensor([-1.0, 3.0]))
        scale, zero = observer.calculate_qparams()
        assert float(scale) == f32(4.0) / f32(127)
        assert reduced[0] <= int(zero) <= reduced[1]
    weight = QTensor.from_int_repr(torch.tensor([[1]], dtype=torch.int8), 1.0, 0)
    for reduced_range, top in ((False, 255), (True, 127)):
        module = nnqd.Linear(1, 1, bias_=False, per_tensor=True, reduce_range=reduced_range)
        module.set_weight_bias(weight, None)
        x = torch.arange(0.0, 256.0).reshape(-1, 1)
        levels = np.rint(x.numpy() * (f32(1) / f32(255 / top))).astype(np.int64)
        want = levels.astype(f32) * f32(255 / top)
        np.testing.assert_array_equal(module(x).numpy(), want)
        assert len(np.unique(module(x).numpy())) == top + 1


@pytest.mark.kernel
def test_the_bias_is_not_rounded_to_the_grid_of_the_sums(isa: str) -> None:
    """A bias of half a step of the sums counts as half a step; others quantize it to int32 first.

    PT/issues/44939; https://github.com/apache/tvm/pull/3900, ORT/issues/32132
    """
    bias = torch.tensor([0.5, -0.5, 0.25, 1e-3])
    w = QTensor.from_int_repr(torch.ones(4, 1, dtype=torch.int8), 1.0, 0)
    x = QTensor.from_int_repr(torch.arange(20, dtype=torch.uint8).reshape(-1, 1), 1.0, 0)
    linear = nnq.Linear(1, 4)
    linear.set_weight_bias(w, bias)
    linear._set_output(0.25, 3, octavo.quint8)
    want = np.clip(4 * np.arange(20)[:, None] + np.array([2, -2, 1, 0]) + 3, 0, 255)
    np.testing.assert_array_equal(linear(x).int_repr().numpy(), want)
    conv = nnq.Conv2d(1, 4, 1)
    conv.set_weight_bias(QTensor.from_int_repr(w.int_repr().view(4, 1, 1, 1), 1.0, 0), bias)
    conv._set_output(0.25, 3, octavo.quint8)
    image = QTensor.from_int_repr(x.int_repr().view(20, 1, 1, 1), 1.0, 0)
    np.testing.assert_array_equal(conv(image).int_repr().numpy()[:, :, 0, 0], want)


@pytest.mark.kernel
def test_sums_of_products_are_rounded_twice(isa: str) -> None:
    """No compiler fuses a multiplication and an addition of the epilogue where the CPU could.

    https://github.com/Tencent/ncnn/issues/3224
    """
    x = torch.arange(256, dtype=torch.uint8).repeat_interleave(256)
    residual = torch.arange(256, dtype=torch.uint8).repeat(256)
    # Scales for which the last bit decides a level, found by search.
    fused_differs = 0
    for seed in range(6):
        scales = np.random.default_rng(seed).uniform(0.011, 0.39, 3).astype(f32)
        x_scale, residual_scale, out_scale = (float(s) for s in scales)
        m, k = f32(x_scale) / f32(out_scale), f32(residual_scale) / f32(out_scale)
        sums = f32(x.numpy().astype(np.int64) - 77)
        steps = f32(residual.numpy().astype(np.int64) - 101)
        want = np.rint(sums * m + steps * k)
        exact = np.float64(sums * m) + np.float64(steps) * np.float64(k)
        fused_differs += int((np.rint(exact.astype(f32)) != want).sum())
        conv = nniq.ConvAdd2d(1, 1, 1, bias=False)
        conv.set_weight_bias(
            QTensor.from_int_repr(torch.ones(1, 1, 1, 1, dtype=torch.int8), 1.0, 0), None
        )
        conv._set_output(out_scale, 128, octavo.quint8)
        shape = (256, 1, 16, 16)
        y = conv(
            QTensor.from_int_repr(x.view(shape), x_scale, 77),
            QTensor.from_int_repr(residual.view(shape), residual_scale, 101),
        )
        levels = np.clip(want + 128, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(y.int_repr().numpy().reshape(-1), levels)
    assert fused_differs > 0


@pytest.mark.kernel
@pytest.mark.parametrize("zero", [0, 7, 128])
def test_one_rounding_for_observers_fake_quantize_and_kernels(isa: str, zero: int) -> None:
    """Half to even, times the float32 reciprocal, the zero point added afterwards.

    PT/issues/49779, PT/pull/49808, https://github.com/pytorch/ao/pull/229,
    https://github.com/tenstorrent/tt-metal/issues/51304
    """
    ties = torch.arange(-200, 200) * 0.5
    got = octavo.quantize_per_tensor(ties, 1.0, zero, octavo.quint8).int_repr()
    want = torch.tensor([round(v) for v in ties.tolist()]) + zero  # Python's goes to even
    assert torch.equal(got.long(), want.clamp(0, 255))
    # Values where dividing and multiplying by the reciprocal give different levels.
    scale = f32(0.0137)
    half = (np.arange(-90, 90) + 0.5).astype(f32) * scale
    near = np.concatenate([half, *(np.nextafter(half, f32(s) * np.inf) for s in (-1, 1))])
    near = near.astype(f32)
    times = np.rint(near * (f32(1) / scale))
    assert (times != np.rint(near / scale)).any()
    x = torch.from_numpy(near)
    q = octavo.quantize_per_tensor(x, float(scale), zero, octavo.quint8)
    np.testing.assert_array_equal(q.int_repr().numpy(), np.clip(times + zero, 0, 255))
    fake = tq.FakeQuantize(tq.MinMaxObserver, 0, 255).apply(tq.disable_observer)
    fake.scale.fill_(float(scale))
    fake.zero_point.fill_(zero)
    assert torch.equal(fake(x), q.dequantize())


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
def test_zero_is_the_zero_point(isa: str, dtype: str) -> None:
    """ReLU clamps at the zero point of its output, and padding is the zero point of the input.

    https://github.com/pytorch/executorch/pull/18462
    """
    storage, zero = (torch.uint8, 100) if dtype == "quint8" else (torch.int8, -20)
    values = torch.randint(*((0, 256) if dtype == "quint8" else (-128, 128)), (2, 4, 5, 6))
    x = QTensor.from_int_repr(values.to(storage), 1.0, zero)
    relu = nn.functional.relu(x).int_repr()
    assert torch.equal(relu.long(), values.clamp(min=zero))
    w = torch.randint(-128, 128, (8, 4, 3, 3), dtype=torch.int8)
    got = conv_sums(x.int_repr(), zero, w, padding=1)
    np.testing.assert_array_equal(got.numpy(), integer_conv(x.int_repr(), zero, w, padding=1))
    conv = nniq.ConvReLU2d(4, 8, 3, padding=1, bias=False)
    conv.set_weight_bias(QTensor.from_int_repr(w, 1.0, 0), None)
    conv._set_output(512.0, zero, getattr(octavo, dtype))
    lo, hi = torch.iinfo(storage).min, torch.iinfo(storage).max
    want = np.rint(integer_conv(x.int_repr(), zero, w, padding=1) / 512) + zero
    np.testing.assert_array_equal(conv(x).int_repr().numpy(), np.clip(want, max(lo, zero), hi))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
def test_results_outside_of_the_range_are_clamped_not_wrapped(isa: str, dtype: str) -> None:
    """Off by 255 is what a wrapped result looks like. PT/issues/144770"""
    storage = getattr(octavo, dtype).storage
    lo, hi = torch.iinfo(storage).min, torch.iinfo(storage).max
    w = torch.tensor([[127], [-128], [1], [-1]], dtype=torch.int8)
    module = nnq.Linear(1, 4)
    top = float(2**31)
    x = QTensor.from_int_repr(torch.arange(256, dtype=torch.uint8).reshape(-1, 1), 1.0, 0)
    for scale, bias in ((1.0, 0.0), (0.5, 0.0), (1.0, 0.5), (1e-6, 0.0), (1.0, top), (1e-9, -top)):
        module.set_weight_bias(QTensor.from_int_repr(w, 1.0, 0), torch.full((4,), bias))
        module._set_output(scale, 3, getattr(octavo, dtype))
        exact = np.arange(256)[:, None] * w.numpy().astype(np.int64).T + np.float64(bias)
        want = np.clip(np.rint(exact / module.scale) + 3, lo, hi)
        np.testing.assert_array_equal(module(x).int_repr().numpy(), want)


@pytest.mark.kernel
@pytest.mark.parametrize("zero", [-128, -3, 0, 127])
def test_signed_activations(isa: str, zero: int) -> None:
    """int8 activations are taken by every layer, exactly. PT/issues/141854"""
    x = torch.randint(-128, 128, (9, 70), dtype=torch.int8, generator=generator(1))
    x[0], x[1] = -128, 127
    w = torch.randint(-128, 128, (19, 70), dtype=torch.int8, generator=generator(2))
    want = (x.numpy().astype(np.int64) - zero) @ w.numpy().astype(np.int64).T
    np.testing.assert_array_equal(linear_sums(x, zero, w).numpy(), want)
    image = torch.randint(-128, 128, (2, 6, 8, 7), dtype=torch.int8, generator=generator(3))
    for groups in (1, 6):
        w = torch.randint(-128, 128, (6, 6 // groups, 3, 3), dtype=torch.int8)
        got = conv_sums(image, zero, w, padding=1, groups=groups)
        want = integer_conv(image, zero, w, padding=1, groups=groups)
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_weights_with_a_zero_point_for_each_channel(isa: str, dtype: torch.dtype) -> None:
    """ORT/issues/8890, ORT/issues/28447"""
    info = torch.iinfo(dtype)
    x = torch.randint(info.min, info.max + 1, (7, 65), generator=generator(1)).to(dtype)
    x[0], x[1] = info.min, info.max
    w = torch.randint(-128, 128, (33, 65), dtype=torch.int8, generator=generator(2))
    zeros = torch.randint(-128, 128, (33,), dtype=torch.int32, generator=generator(3))
    zeros[:2] = torch.tensor([-128, 127])
    want = (x.numpy().astype(np.int64) - 90) @ (
        w.numpy().astype(np.int64) - zeros.numpy()[:, None]
    ).T
    np.testing.assert_array_equal(linear_sums(x, 90, w, zeros).numpy(), want)
    image = torch.randint(info.min, info.max + 1, (2, 5, 7, 6), generator=generator(4)).to(dtype)
    kernel = torch.randint(-128, 128, (33, 5, 3, 3), dtype=torch.int8, generator=generator(5))
    packed = ops.ConvWeight(kernel, torch.ones(33), zeros, None, padding=1)
    want = ref.conv_sums(
        ref.Q(image.numpy(), 1.0, 90), kernel.numpy(), zeros.numpy(), padding=(1, 1)
    )
    got = packed.dequantized_output(image, 1.0, 90).long()
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["linear", "conv", "lstm", "gru"])
def test_dynamic_results_do_not_depend_on_the_neighbours(isa: str, kind: str) -> None:
    """With one scale for the batch, a row a hundred times larger takes the others' levels away.

    PT/issues/27949, https://github.com/pytorch/executorch/issues/22431
    """
    torch.manual_seed(0)
    model, x, dim = {
        "linear": (nn.Linear(32, 16), torch.randn(6, 32), 0),
        "conv": (nn.Conv2d(4, 8, 3), torch.randn(6, 4, 9, 9), 0),
        "lstm": (nn.LSTM(12, 8), torch.randn(5, 6, 12), 1),
        "gru": (nn.GRU(12, 8), torch.randn(5, 6, 12), 1),
    }[kind]
    int8 = tq.quantize_dynamic(model, {type(model)})

    def run(batch: Tensor) -> Tensor:
        y = int8(batch)
        return y[0] if isinstance(y, tuple) else y

    expected = run(x)
    x.select(dim, 5).mul_(100)
    assert not torch.equal(run(x).select(dim, 5), expected.select(dim, 5))
    for i in range(5):
        alone = x.narrow(dim, i, 1)
        assert torch.equal(run(alone), expected.narrow(dim, i, 1))
        assert torch.equal(run(x).narrow(dim, i, 1), expected.narrow(dim, i, 1))
