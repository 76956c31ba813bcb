"""Crashes, hangs and lost state that int8 inference is known for elsewhere, one test for each.
Links are to where each was reported. More on threads and forks: nn/test_threads_and_fork.py; on
copies and files: nn/test_every_module_is_saved.py.

PT: https://github.com/pytorch/pytorch, ORT: https://github.com/microsoft/onnxruntime
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
import reference as ref
from module_support import generator, random_conv, random_linear, random_q
from octavo import QTensor, ops
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.quantized import dynamic as nnqd

f32 = np.float32
NAN, INF = float("nan"), float("inf")


def static(model: nn.Module, data: Tensor, qconfig: Any = None) -> nn.Module:
    """QuantStub, model, DeQuantStub: calibrated on data and converted."""
    whole = nn.Sequential(tq.QuantStub(), model, tq.DeQuantStub()).eval()
    whole.qconfig = tq.get_default_qconfig() if qconfig is None else qconfig  # type: ignore[assignment]
    prepared = tq.prepare(whole)
    prepared(data)
    return tq.convert(prepared)


def test_a_channel_of_zeros_gives_its_bias_and_disturbs_no_other() -> None:
    """https://github.com/ml-explore/mlx/pull/1028, https://github.com/neuralmagic/sparseml/pull/1872"""
    for layer, x in (
        (nn.Linear(8, 3), torch.randn(6, 8)),
        (nn.Conv2d(8, 3, 3), torch.randn(2, 8, 5, 5)),
        (nn.ConvTranspose2d(8, 3, 2), torch.randn(2, 8, 5, 5)),
    ):
        with torch.no_grad():
            layer.weight.select(int(isinstance(layer, nn.ConvTranspose2d)), 1).zero_()
        int8 = static(layer, x)
        module: Any = int8[1]
        assert torch.isfinite(module._packed.scales).all()
        y = module(int8[0](x)).int_repr()
        bias = f32(layer.bias[1].item())
        level = ref.quantize(np.array([bias], f32), module.scale, module.zero_point, np.uint8)
        assert set(y.select(1, 1).reshape(-1).tolist()) == set(level.tolist())
        torch.testing.assert_close(int8(x), layer(x), rtol=0, atol=0.05)
        dynamic = tq.quantize_dynamic(layer, {type(layer)})
        assert (dynamic(x).select(1, 1) == bias).all()
        torch.testing.assert_close(dynamic(x), layer(x), rtol=0, atol=0.05)


def test_constant_inputs_and_outputs() -> None:
    """All scales at their smallest: their products would underflow in fixed point."""
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    int8 = static(layer, torch.zeros(2, 4))
    assert torch.equal(int8(torch.zeros(2, 4)), torch.zeros(2, 3))
    assert torch.equal(int8(torch.full((2, 4), 1e30)), torch.zeros(2, 3))
    dynamic = tq.quantize_dynamic(layer)
    assert torch.equal(dynamic(torch.zeros(2, 4)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "observer",
    [
        tq.MinMaxObserver,
        tq.MovingAverageMinMaxObserver,
        tq.PerChannelMinMaxObserver,
        tq.MovingAveragePerChannelMinMaxObserver,
        tq.HistogramObserver,
        tq.PercentileObserver,
        tq.MSEObserver,
    ],
)
def test_values_that_are_not_finite_leave_no_trace_but_their_count(observer: Any) -> None:
    """Padded tokens are NaN in some models. ORT/pull/23749"""
    data = torch.randn(3, 4, 50, generator=generator(1))
    clean, soiled = (observer(**({"bins": 64} if "bins" in dir(observer()) else {})) for _ in "ab")
    for batch in data:
        clean(batch)
        soiled(torch.cat([batch, torch.tensor([NAN, INF, -INF]).expand(4, 3)], 1))
    for ours, want in zip(soiled.calculate_qparams(), clean.calculate_qparams(), strict=True):
        assert torch.equal(ours, want)
    assert soiled.nonfinite_count == 3 * 4 * 3


def test_histograms_take_memory_for_their_bins_alone() -> None:
    """Intervals that differ by forty orders of magnitude need no finer bins in between.

    PT/pull/122659, PT/pull/123309, PT/pull/29768, ORT/issues/10503, ORT/issues/21979
    """
    observer = tq.HistogramObserver()
    x = torch.rand(1000, generator=generator(1))
    observer(x)
    tracemalloc.start()
    total = len(x)
    for exponent in (-37, -20, -3, 0, 7, 20, 37):
        observer(x * 10.0**exponent)
        observer(1 + x[:10] * 1e-7)  # a range of one part in ten million
        total += len(x) + 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert int(observer.histogram.double().sum().round()) == total
    assert observer.histogram.shape == (2048,)
    assert peak < 10_000_000
    scale, zero = observer.calculate_qparams()
    assert torch.isfinite(scale).all()
    assert 0 <= int(zero) <= 255


def test_empty_batches_and_layers_without_outputs() -> None:
    """PT/pull/40588, PT/pull/40587, PT/issues/165829"""
    q = random_q((0, 6), generator(0))
    assert random_linear(6, 5)(q).shape == (0, 5)
    assert random_conv(6, 5, 3)(random_q((0, 6, 4, 4), generator(0))).shape == (0, 5, 2, 2)
    with pytest.warns(UserWarning, match="zero-element"):
        no_outputs = nn.Linear(6, 0)
    for layer, x, shape in (
        (nn.Linear(6, 5), torch.randn(0, 6), (0, 5)),
        (nn.Linear(6, 5), torch.randn(3, 0, 6), (3, 0, 5)),
        (no_outputs, torch.randn(3, 6), (3, 0)),
        (nn.Conv2d(3, 4, 3), torch.randn(0, 3, 5, 5), (0, 4, 3, 3)),
    ):
        dynamic = tq.quantize_dynamic(layer, {type(layer)})
        assert dynamic(x).shape == shape
    for cls in (nn.LSTM, nn.GRU):
        y, _ = tq.quantize_dynamic(cls(6, 5), {cls})(torch.randn(4, 0, 6))
        assert y.shape == (4, 0, 5)
    none = nnq.Linear(6, 0)
    assert none(random_q((3, 6), generator(0))).shape == (3, 0)
    int8 = static(nn.Linear(6, 5), torch.randn(9, 6))
    x = torch.randn(3, 6)
    before = int8(x)
    assert int8(x[:0]).shape == (0, 5)
    assert torch.equal(int8(x), before)


@pytest.mark.kernel
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_larger_than_the_image(isa: str, kernel: int, stride: int) -> None:
    """A depthwise 5x5 kernel on an image one pixel wide corrupted memory. PT/issues/41406"""
    for channels, groups in ((19, 19), (8, 2), (8, 1)):
        w = torch.randint(
            -128, 128, (channels, channels // groups, kernel, kernel), dtype=torch.int8
        )
        packed = ops.ConvWeight(
            w,
            torch.ones(1),
            torch.zeros(1, dtype=torch.int32),
            None,
            stride,
            kernel // 2,
            1,
            groups,
        )
        for height, width in ((1, 1), (9, 1), (1, 9), (2, 2), (3, 1)):
            x = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
            want = ref.conv_accumulator(
                x.numpy().astype(np.int64) - 131,
                w.numpy().astype(np.int64),
                (stride, stride),
                (kernel // 2,) * 2,
                (1, 1),
                groups,
            )
            got = packed.dequantized_output(x, 1.0, 131).long()
            np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.kernel
def test_modules_are_packed_before_their_first_call_and_shared_by_threads(isa: str) -> None:
    """Packing at the first call is a race. PT/issues/58055, PT/pull/84602, PT/pull/183512"""
    x = torch.randint(0, 256, (64, 96), dtype=torch.uint8, generator=generator(1))
    w = torch.randint(-128, 128, (80, 96), dtype=torch.int8, generator=generator(2))
    want = (x.numpy().astype(np.int64) - 9) @ w.numpy().astype(np.int64).T
    packed = ops.LinearWeight(w, torch.ones(1), torch.zeros(1, dtype=torch.int32), None)
    size = packed.packed_bytes
    assert size >= w.numel()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: packed.dequantized_output(x, 1.0, 9), range(24)))
    for result in results:
        np.testing.assert_array_equal(result.long().numpy(), want)
    assert packed.packed_bytes == size


FORK = """
import multiprocessing as mp
import torch
from torch import nn
from octavo.quantization import quantize_dynamic

torch.manual_seed(0)
torch.set_num_threads(2)
MODEL = quantize_dynamic(nn.Sequential(nn.Linear(256, 256), nn.LSTM(256, 64)))
X = torch.randn(64, 4, 256)

def run(_):
    return MODEL(X)[0].double().sum().item()

if __name__ == "__main__":
    torch.randn(400, 400) @ torch.randn(400, 400)
    expected = run(0)
    with mp.get_context("fork").Pool(2) as pool:
        results = pool.map_async(run, range(4)).get(60)
    print(results == [expected] * 4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_a_pool_of_forked_workers_after_threads_have_run() -> None:
    """PT/issues/163052"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr


def test_pickled_convolutions_stay_modules() -> None:
    """What nn.Module keeps goes along: hooks, children, mode. PT/issues/28328, PT/issues/51216"""
    module = random_conv(6, 5, 3)
    module.eval()
    module.register_buffer("extra", torch.ones(2))
    module.add_module("child", nn.ReLU())
    x = random_q((2, 6, 5, 5), generator(1))
    want = module(x).int_repr()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert not other.training
        assert torch.equal(other.extra, module.extra)
        assert dict(other.named_children()).keys() == {"child"}
        seen: list[Any] = []
        other.register_forward_hook(lambda m, args, out, seen=seen: seen.append(out))
        assert torch.equal(other(x).int_repr(), want)
        assert len(seen) == 1
        assert other.state_dict().keys() == module.state_dict().keys()
    assert not module._forward_hooks


def _without_metadata(module: nn.Module, file_version: Any = None) -> dict[str, Tensor]:
    """A state dict as files of old versions, or of other programs, have it."""
    state = module.state_dict()
    if file_version == "empty":
        state._metadata = {}  # type: ignore[attr-defined]
        return state
    return dict(state)


@pytest.mark.parametrize("kind", ["plain", "empty"])
def test_state_dicts_that_do_not_say_their_version(kind: str) -> None:
    """PT/issues/41684, PT/issues/125564"""
    torch.manual_seed(0)
    x = torch.randn(8, 6)

    def calibrated(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(tq.QuantStub(), nn.Linear(6, 5), nn.ReLU6(), tq.DeQuantStub()).eval()
        model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
        prepared = tq.prepare(model)
        prepared(x * (seed + 1))
        return prepared

    source, target = calibrated(0), calibrated(1)
    want = tq.convert(source)(x)
    target.load_state_dict(_without_metadata(source, kind))
    assert torch.equal(tq.convert(target)(x), want)
    int8 = tq.convert(calibrated(2))
    int8.load_state_dict(_without_metadata(tq.convert(source), kind))
    assert torch.equal(int8(x), want)
    models = [tq.quantize_dynamic(nn.LSTM(6, 5)) for _ in range(2)]
    models[1].load_state_dict(_without_metadata(models[0], kind))
    assert torch.equal(models[1](x)[0], models[0](x)[0])
    layers = []
    for _ in range(2):
        layers.append(nniqat.ConvBn1d(6, 5, 3, qconfig=tq.get_default_qat_qconfig()))
        layers[-1](torch.randn(2, 6, 9))
    layers[1].load_state_dict(_without_metadata(layers[0], kind))
    image = torch.randn(2, 6, 9)
    assert torch.equal(layers[1].eval()(image), layers[0].eval()(image))


def test_gammas_of_zero_train_and_convert() -> None:
    """Dividing by gamma gave NaN. PT/pull/85744, PT/issues/79862"""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    with torch.no_grad():
        model[1].weight[:2] = torch.tensor([0.0, -0.5])
        model[1].bias[0] = 0.25
    fused = tq.fuse_modules_qat(model, [["0", "1", "2"]])
    whole = nn.Sequential(tq.QuantStub(), fused, tq.DeQuantStub())
    whole.qconfig = tq.get_default_qat_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare_qat(whole)
    x = torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        y = prepared(x)
        y.square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in prepared.parameters())
        optimizer.step()
    with torch.no_grad():
        prepared[1][0].bn.weight[0] = 0  # type: ignore[index]
        prepared[1][0].bn.bias[0] = 0.25  # type: ignore[index]
    prepared.eval()
    int8 = tq.convert(prepared)
    step = int8[1][0].scale  # type: ignore[index]
    assert (int8(x)[:, 0] - 0.25).abs().max() <= step / 2
    assert (int8(x) - prepared(x)).abs().max() <= 1.01 * step


def test_fusing_says_which_of_its_two_forms_is_meant() -> None:
    """fuse_modules folds batch norms and needs eval mode; fuse_modules_qat keeps them for training.
    Both compute what the model did. PT/issues/121470
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model(torch.randn(8, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(ValueError, match=r"model\.eval\(\) first, or fuse_modules_qat"):
        tq.fuse_modules(model.train(), [["0", "1", "2"]])
    names = [["0", "1", "2"]]
    trained = tq.fuse_modules_qat(copy.deepcopy(model).train(), names)
    folded = tq.fuse_modules(model.eval(), names)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in trained.modules())
    assert trained.training
    assert not folded.training
    want = model(x)
    torch.testing.assert_close(folded(x), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trained.eval()(x), want, rtol=1e-5, atol=1e-5)


def test_one_module_quantized_and_unquantized_tensors_in_turn() -> None:
    """A refused call leaves nothing behind that the next one would meet."""
    module = random_linear(6, 5)
    x = random_q((3, 6), generator(1))
    want = module(x).int_repr()
    for wrong in (torch.randn(3, 6), x[:, :5], None):
        with pytest.raises((TypeError, RuntimeError)):
            module(wrong)
        assert torch.equal(module(x).int_repr(), want)
    with octavo.backend.force("scalar"):
        assert torch.equal(module(x).int_repr(), want)
    dynamic = nnqd.Linear(6, 5)
    with pytest.raises(TypeError):
        dynamic(QTensor.from_int_repr(torch.zeros(3, 6, dtype=torch.uint8), 1.0, 0))
    assert torch.equal(dynamic(torch.randn(3, 6)), torch.zeros(3, 5))
