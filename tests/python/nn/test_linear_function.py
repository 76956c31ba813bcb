"""LinearLeakyReLU and LinearTanh: one rounding after the function, the same bits on every ISA."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
import reference as ref
from module_observers import observed
from module_support import (
    as_ref,
    generator,
    output_of,
    random_q,
    set_random,
    threads,
    weight_arrays,
)
from octavo import QTensor
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.intrinsic import quantized as nniq
from torch_oracle import torch_quantized

SHAPES = [(1, 1, 1), (3, 7, 5), (5, 64, 17), (33, 129, 64), (70, 40, 200), (2, 16, 2100)]


def random_leaky(n_in: int, n_out: int, slope: float = 0.2, **kw: Any) -> Any:
    return set_random(nniq.LinearLeakyReLU(n_in, n_out, slope), generator(n_in + n_out), **kw)


def random_tanh(n_in: int, n_out: int, **kw: Any) -> Any:
    module: Any = set_random(nniq.LinearTanh(n_in, n_out), generator(n_in + n_out), **kw)
    signed = module._out_qdtype is octavo.qint8
    module._set_output(1 / 120, 3 if signed else 120, module._out_qdtype)
    return module


def float_results(module: Any, x: QTensor) -> tuple[Any, Any]:
    """What the layer gives before the function, in float32 as promised and in float64."""
    w, scales, zeros, bias = weight_arrays(module)
    weight = w.astype(np.int64) - np.broadcast_to(zeros.astype(np.int64), len(w))[:, None]
    q = as_ref(x)
    acc = q.steps.reshape(-1, w.shape[1]) @ weight.T
    real = acc * (float(np.float32(q.scale)) * scales.astype(np.float64)) + bias
    return ref.float_output(acc, bias, q.scale, scales), real


def both_threads(module: Any, x: QTensor) -> Any:
    with threads(1):
        y = module(x)
    with threads(2):
        again = module(x)
    assert torch.equal(y.int_repr(), again.int_repr())
    assert (y.q_scale(), y.q_zero_point()) == (module.scale, module.zero_point)
    return y.int_repr().numpy()


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_leaky_relu_equals_the_reference(isa: str, shape: tuple[int, int, int], dtype: str) -> None:
    rows, n_in, n_out = shape
    for slope, zeros in ((0.2, False), (-0.5, True), (0.0, False), (1.0, False)):
        module = random_leaky(n_in, n_out, slope, dtype=dtype, zeros=zeros)
        x = random_q((rows, n_in), generator(rows), dtype=dtype, zero=7)
        y, real = float_results(module, x)
        y = np.where(y > 0, y, y * np.float32(slope))
        out = output_of(module)
        want = ref.quantize(y, out.scale, out.zero, out.array.dtype)
        got = both_threads(module, x)
        np.testing.assert_array_equal(got, want)
        real = np.where(real > 0, real, real * slope)
        lo, hi = ref.RANGES[out.array.dtype]
        exact = np.clip(real / out.scale + out.zero, lo, hi)
        assert np.abs(got - exact).max() <= 0.5 + 1e-3


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tanh_is_within_half_a_step(isa: str, shape: tuple[int, int, int], dtype: str) -> None:
    rows, n_in, n_out = shape
    module = random_tanh(n_in, n_out, dtype=dtype)
    x = random_q((rows, n_in), generator(rows), scale=0.004, dtype=dtype, zero=7)
    got = both_threads(module, x)
    _, real = float_results(module, x)
    exact = np.tanh(real) / module.scale + module.zero_point
    assert np.abs(got - exact).max() <= 0.5 + 1e-3
    if octavo.backend.current() != "scalar":
        with octavo.backend.force("scalar"):
            np.testing.assert_array_equal(both_threads(copy.deepcopy(module), x), got)


@pytest.mark.parametrize("make", [random_leaky, random_tanh])
def test_empty_sizes_and_leading_dimensions(make: Any) -> None:
    module = make(6, 4)
    x = random_q((2, 3, 6), generator(0))
    assert torch.equal(module(x).int_repr()[1], module(x[1]).int_repr())
    assert module(x[:0]).shape == (0, 3, 4)
    assert make(6, 0)(x).shape == (2, 3, 0)
    no_input = make(0, 4)
    value = module._ACTIVATION(0.2)(no_input.bias()) if make is random_leaky else None
    value = torch.tanh(no_input.bias()) if value is None else value
    want = octavo.quantize_per_tensor(value, no_input.scale, no_input.zero_point, octavo.quint8)
    got = no_input(random_q((2, 0), generator(0)))
    assert torch.equal(got.int_repr(), want.int_repr().expand(2, 4))


@pytest.mark.parametrize("make", [random_leaky, random_tanh])
def test_state_dict_pickle_and_copy(make: Any) -> None:
    module, x = make(6, 4), random_q((3, 6), generator(0))
    want = module(x).int_repr()
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = nniq.LinearLeakyReLU(6, 4, 0.2) if make is random_leaky else nniq.LinearTanh(6, 4)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for again in (other, copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert torch.equal(again(x).int_repr(), want)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.first, self.bn, self.leaky = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.3)
        self.second, self.leaky2 = nn.Linear(16, 12), nn.LeakyReLU()
        self.third, self.tanh = nn.Linear(12, 5), nn.Tanh()
        self.dequant = tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.leaky(self.bn(self.first(self.quant(x))))
        x = self.leaky2(self.second(x))
        return self.dequant(self.tanh(self.third(x)))  # type: ignore[no-any-return]


GROUPS = [["first", "bn", "leaky"], ["second", "leaky2"], ["third", "tanh"]]


def test_static_workflow_loses_less_than_separate_modules() -> None:
    torch.manual_seed(0)
    model, data = Net().eval(), torch.randn(256, 8)
    fused = tq.fuse_modules(model, GROUPS)
    assert type(fused.second) is nni.LinearLeakyReLU
    assert type(fused.third) is nni.LinearTanh
    torch.testing.assert_close(fused(data), model(data))

    def error(candidate: nn.Module) -> tuple[float, Any]:
        candidate.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
        prepared = tq.prepare(candidate)
        prepared(data)
        int8 = tq.convert(prepared)
        return float((int8(data) - model(data)).detach().norm()), int8

    with_functions, int8 = error(fused)
    kinds = (nniq.LinearLeakyReLU, nniq.LinearLeakyReLU, nniq.LinearTanh)
    assert (type(int8.first), type(int8.second), type(int8.third)) == kinds
    assert (int8.first.negative_slope, int8.second.negative_slope) == (0.3, 0.01)
    assert with_functions < 0.9 * error(tq.fuse_modules(model, [["first", "bn"]]))[0]


def test_trained_forms_convert() -> None:
    torch.manual_seed(1)
    groups = [["first", "bn"], *GROUPS[1:]]
    model = tq.fuse_modules_qat(Net().train(), groups)
    model.qconfig = tq.get_default_qat_qconfig()
    prepared: Any = tq.prepare_qat(model)
    assert type(prepared.second) is nniqat.LinearLeakyReLU
    assert type(prepared.third) is nniqat.LinearTanh
    optimizer, data = torch.optim.SGD(prepared.parameters(), lr=0.1), torch.randn(64, 8)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = ((prepared(data) - 0.5) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    prepared.eval().apply(tq.disable_observer)
    int8: Any = tq.convert(prepared)
    # Layer by layer, from the same input: a step, where float sums are on the edge between two.
    cases = {"second": nniq.LinearLeakyReLU, "third": nniq.LinearTanh}
    for name, kind in cases.items():
        layer = getattr(int8, name)
        assert type(layer) is kind
        x = torch.randn(64, layer.in_features)
        q = octavo.quantize_per_tensor(x, 0.02, 128, octavo.quint8)
        difference = layer(q).dequantize() - getattr(prepared, name)(q.dequantize()).detach()
        steps = (difference / layer.scale).round().abs()
        assert steps.max() <= 1
        assert (steps != 0).float().mean() < 0.01
    with pytest.raises(NotImplementedError, match="LeakyReLU have no fused form for training"):
        tq.fuse_modules_qat(Net().train(), GROUPS)


def test_takes_torchs_modules() -> None:
    if octavo.backend.emulated_features():
        pytest.skip("torch's engines are not run under the AMX instruction emulator")
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no onednn engine")
    with torch_quantized():
        import torch.ao.nn.intrinsic as theirs_nni
        import torch.ao.quantization as ao

        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            torch.manual_seed(2)
            for fused in (
                theirs_nni.LinearLeakyReLU(nn.Linear(16, 32), nn.LeakyReLU(0.1)),
                theirs_nni.LinearTanh(nn.Linear(16, 32), nn.Tanh()),
            ):
                model = nn.Sequential(ao.QuantStub(), fused, ao.DeQuantStub()).eval()
                model.qconfig = ao.get_default_qconfig("onednn")  # type: ignore[assignment]
                prepared, x = ao.prepare(model), torch.randn(64, 16)
                prepared(x)
                theirs = ao.convert(prepared)
                ours: Any = tq.from_torch_ao(theirs)
                assert type(ours[1]) is getattr(nniq, type(fused).__name__)
                steps = (ours(x) - theirs(x)).abs() / ours[1].scale
                assert steps.max() < 1.01
                assert (steps > 0.5).float().mean() < 0.01
                mine: Any = tq.prepare(model)  # torch's float form, adopted
                mine(x)
                assert type(tq.convert(mine)[1]) is type(ours[1])
        finally:
            torch.backends.quantized.engine = before


def test_errors() -> None:
    with pytest.raises(ValueError, match="negative_slope must be finite, got inf"):
        nniq.LinearLeakyReLU(2, 3, float("inf"))
    with pytest.raises(TypeError, match="a Linear and a LeakyReLU"):
        nniq.LinearLeakyReLU.from_float(observed(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="a Linear and a Tanh"):
        nniq.LinearTanh.from_float(observed(nni.LinearReLU(nn.Linear(2, 2), nn.ReLU())))
    module = random_tanh(6, 4)
    with pytest.raises(TypeError, match=r"LinearTanh: input must be a quantized tensor"):
        module(torch.randn(2, 6))
    with pytest.raises(RuntimeError, match="in_features = 6"):
        module(random_q((2, 5), generator(0)))
    packed, x = nnq.Linear(2, 2)._packed, torch.zeros(1, 2, dtype=torch.uint8)
    for arguments in ((False, "sine"), (True, "tanh")):
        with pytest.raises(ValueError, match=r"function: expected one of .* without relu"):
            packed(x, 1.0, 0, 1.0, 0, octavo.quint8, *arguments)
    assert "negative_slope=0.2" in repr(random_leaky(2, 3))
