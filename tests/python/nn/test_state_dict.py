"""State dicts, files, pickles and copies of quantized modules: plain tensors, and the same bits."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import octavo
from module_support import generator, random_conv, random_linear, random_q, set_random
from octavo import QTensor
from octavo import quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq


class Net(torch.nn.Module):
    """One of each kind of quantized module, on inputs [N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = nnq.Quantize(0.02, 120, octavo.quint8)
        self.conv = nniq.ConvReLU2d(3, 8, 3, padding=1)
        self.depthwise = nnq.Conv2d(8, 8, 3, padding="same", groups=8, bias=False)
        self.residual = nniq.ConvAddReLU2d(8, 8, 1)
        self.add = nnq.QFunctional()
        self.act = nnq.ReLU6()
        self.pool = nnq.MaxPool2d(2)
        self.fc = nniq.LinearReLU(128, 10)
        self.out = nnq.Linear(10, 4, bias_=False)
        self.dequant = nnq.DeQuantize()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.quant(x))
        z = self.residual(self.depthwise(y), y)
        z = self.pool(self.act(self.add.add(z, y)))
        return self.dequant(self.out(self.fc(z.flatten(1))))


def filled(seed: int = 0, dtype: str = "quint8") -> Net:
    net = Net()
    for i, module in enumerate(net.modules()):
        if hasattr(module, "set_weight_bias"):
            set_random(module, generator(seed + i), dtype, per_channel=bool(i % 2))
    net.quant = nnq.Quantize(0.02, 5, getattr(octavo, dtype))
    net.add._set_output(0.9, 100, getattr(octavo, dtype))
    return net


def images() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=generator(5))


@pytest.fixture(params=["quint8", "qint8"])
def net(request: pytest.FixtureRequest) -> Net:
    return filled(dtype=request.param)


def assert_same(a: Net, b: Net) -> None:
    x = images()
    assert torch.equal(a(x), b(x))
    for (name, ours), theirs in zip(a.named_modules(), b.modules(), strict=True):
        for key in ("_scale", "_zero_point", "_out_qdtype"):
            assert getattr(ours, key, None) == getattr(theirs, key, None), (name, key)


def test_state_dict_holds_plain_tensors_only(net: Net) -> None:
    state = net.state_dict()
    assert {type(v) for v in state.values()} == {torch.Tensor}
    assert not any(v.requires_grad for v in state.values())
    found = {k: (v.dtype, tuple(v.shape)) for k, v in state.items() if k.startswith("conv.")}
    channels = net.conv._packed.scales.numel()
    assert found == {
        "conv.weight_int8": (torch.int8, (8, 3, 3, 3)),
        "conv.weight_scale": (torch.float32, (channels,)),
        "conv.weight_zero_point": (torch.int32, (channels,)),
        "conv.bias": (torch.float32, (8,)),
        "conv.scale": (torch.float32, ()),
        "conv.zero_point": (net.conv._out_qdtype.storage, ()),
    }
    assert "depthwise.bias" not in state
    assert {k for k in state if k.startswith("quant.")} == {"quant.scale", "quant.zero_point"}
    assert state["quant.scale"].shape == (1,)
    assert not any(k.startswith(("act", "pool", "dequant")) for k in state)


def test_load_into_a_fresh_module(net: Net) -> None:
    fresh = Net()
    result = fresh.load_state_dict(net.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert_same(net, fresh)


def test_load_into_a_freshly_converted_model() -> None:
    """Calibrated on other data, so that every scale differs until the load."""

    class Float(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding="same")
            self.skip = nnq.FloatFunctional()
            self.fc = torch.nn.Linear(8 * 8 * 8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(self.quant(x))
            return self.dequant(self.fc(self.skip.add_relu(y, y).flatten(1)))

    def converted(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        model = Float().eval()
        model.qconfig = tq.get_default_qconfig()
        prepared = tq.prepare(model)
        prepared(images() * (seed + 1))
        return tq.convert(prepared)

    trained, fresh = converted(0), converted(1)
    assert not torch.equal(trained(images()), fresh(images()))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(images()), fresh(images()))


def test_torch_save_with_weights_only(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(net.state_dict(), path)
    fresh = Net()
    fresh.load_state_dict(torch.load(path, weights_only=True))
    assert_same(net, fresh)


def test_safetensors(net: Net, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(net.state_dict(), path)
    fresh = Net()
    fresh.load_state_dict(safetensors.load_file(path))
    assert_same(net, fresh)


def test_plain_dict_without_metadata(net: Net) -> None:
    fresh = Net()
    fresh.load_state_dict(dict(net.state_dict()))
    assert_same(net, fresh)


def test_pickle_and_torch_save_of_the_module(net: Net) -> None:
    assert_same(net, pickle.loads(pickle.dumps(net)))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert_same(net, torch.load(buffer, weights_only=False))


def test_deepcopy_is_independent(net: Net) -> None:
    copied = copy.deepcopy(net)
    assert_same(net, copied)
    expected = net(images())
    copied.fc.set_weight_bias(filled(seed=50).fc.weight, None)
    copied.fc.scale = 17.0
    assert torch.equal(net(images()), expected)
    assert copied.fc.bias() is None


def test_shallow_copy() -> None:
    module = random_linear(6, 5)
    x = random_q((3, 6), generator(0))
    assert torch.equal(copy.copy(module)(x).int_repr(), module(x).int_repr())


def test_name_survives_copies() -> None:
    module = random_linear(6, 5)
    module._qualified_name = "head.fc"
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(TypeError, match=r"Linear 'head\.fc'"):
            other(torch.ones(1, 6))


def test_weight_and_bias_pickle_and_copy_as_ordinary_tensors() -> None:
    module = random_linear(6, 5)
    weight = pickle.loads(pickle.dumps(module.weight))
    assert type(weight) is QTensor
    assert torch.equal(weight.int_repr(), module.weight.int_repr())
    bias = pickle.loads(pickle.dumps(module.bias))
    assert type(bias) is torch.Tensor
    assert torch.equal(bias, module.bias())
    assert type(copy.deepcopy(module.bias)) is torch.Tensor
    buffer = io.BytesIO()
    torch.save({"w": module.weight, "b": module.bias}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert torch.equal(loaded["w"].int_repr(), module.weight.int_repr())


def test_state_does_not_alias_the_module() -> None:
    module = random_linear(6, 5)
    x = random_q((3, 6), generator(0))
    before = module(x).int_repr()
    state = module.state_dict()
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(module(x).int_repr(), before)
    assert module.state_dict()["bias"].abs().sum() > 0
    source = random_linear(6, 5, seed=1).state_dict()
    module.load_state_dict(source)
    after = module(x).int_repr()
    for tensor in source.values():
        tensor.zero_()
    assert torch.equal(module(x).int_repr(), after)
    assert module.bias().abs().sum() > 0


def test_scales_assigned_by_the_user_survive() -> None:
    module = random_linear(6, 5)
    module.scale, module.zero_point = 0.1, 77
    fresh = nnq.Linear(6, 5)
    fresh.load_state_dict(module.state_dict())
    assert (fresh.scale, fresh.zero_point) == (module.scale, module.zero_point)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_wide_zero_points_keep_the_output_dtype(dtype: torch.dtype) -> None:
    module = random_linear(6, 5, dtype="qint8")
    state = module.state_dict()
    state["zero_point"] = torch.tensor([-3], dtype=dtype)
    state["weight_zero_point"] = state["weight_zero_point"].to(dtype)
    module.load_state_dict(state)
    assert module._out_qdtype is octavo.qint8
    assert module.zero_point == -3


def test_hooks_may_rename_keys() -> None:
    module = random_linear(6, 5)
    old = {f"old_{k}": v for k, v in module.state_dict().items()}

    def rename(mod: Any, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in list(state):
            state[key.removeprefix("old_")] = state.pop(key)

    fresh = nnq.Linear(6, 5)
    fresh.register_load_state_dict_pre_hook(rename)
    fresh.load_state_dict(old)
    assert torch.equal(fresh.weight.int_repr(), module.weight.int_repr())


@pytest.mark.parametrize("make", [lambda: random_linear(61, 53), lambda: random_conv(16, 53, 3)])
def test_a_module_keeps_no_plain_copy_of_its_weight(make: Any) -> None:
    module = make()
    size = module.weight.numel()
    gc.collect()
    plain = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() == size]
    assert plain == []


# Bad checkpoints


def corrupted(key: str, value: Any) -> Any:
    def change(state: dict[str, Any]) -> None:
        if value is None:
            del state[key]
        else:
            state[key] = value(state[key])

    return change


def fill(x: float) -> Any:
    return lambda t: torch.full_like(t, x)


BAD = {
    "no weight": (corrupted("weight_int8", None), 'Missing key.*weight_int8"'),
    "no weight_scale": (corrupted("weight_scale", None), 'Missing key.*weight_scale"'),
    "no zero_point": (corrupted("zero_point", None), r"without \['zero_point'\]"),
    "no bias": (corrupted("bias", None), 'Missing key.*bias"'),
    "weight shape": (
        corrupted("weight_int8", lambda t: t[:, :-1]),
        r"'weight_int8' must have shape \[5, 6\], got \[5, 5\]",
    ),
    "weight dtype": (
        corrupted("weight_int8", lambda t: t.to(torch.uint8)),
        r"'weight_int8' must be torch\.int8, got torch\.uint8",
    ),
    "weight float": (
        corrupted("weight_int8", lambda t: t.float()),
        r"'weight_int8' must be torch\.int8",
    ),
    "weight quantized": (
        corrupted("weight_int8", lambda t: QTensor.from_int_repr(t, 1.0, 0)),
        "'weight_int8' must be a plain tensor, got a quantized tensor",
    ),
    "weight meta": (corrupted("weight_int8", lambda t: t.to("meta")), "meta device"),
    "not a tensor": (corrupted("scale", float), "'scale' must be a plain tensor, got float"),
    "scales shape": (
        corrupted("weight_scale", lambda t: t[:3]),
        r"'weight_scale' must have shape \[1\] or \[5\], got \[3\]",
    ),
    "scales cast": (
        corrupted("weight_scale", lambda t: t.half()),
        r"'weight_scale' must be torch\.float32, got torch\.float16",
    ),
    "scales zero": (corrupted("weight_scale", fill(0.0)), "'weight_scale' must be finite and > 0"),
    "scales negative": (corrupted("weight_scale", fill(-1.0)), "'weight_scale' must be finite"),
    "scales nan": (corrupted("weight_scale", fill(float("nan"))), "'weight_scale' must be finite"),
    "scales inf": (corrupted("weight_scale", fill(float("inf"))), "'weight_scale' must be finite"),
    "zeros length": (
        corrupted("weight_zero_point", lambda t: t[:1]),
        r"'weight_zero_point' must have shape \[5\], got \[1\]",
    ),
    "zeros float": (
        corrupted("weight_zero_point", lambda t: t.float()),
        r"'weight_zero_point' must be .*int32.*got torch\.float32",
    ),
    "zeros range": (corrupted("weight_zero_point", fill(128)), r"must be in \[-128, 127\]"),
    "bias shape": (
        corrupted("bias", lambda t: t[:-1]),
        r"'bias' must have shape \[5\], got \[4\]",
    ),
    "bias dtype": (corrupted("bias", lambda t: t.double()), r"'bias' must be torch\.float32"),
    "bias nan": (corrupted("bias", fill(float("nan"))), "bias holds NaN or Inf"),
    "scale zero": (corrupted("scale", fill(0.0)), "'scale': must be finite and positive"),
    "scale nan": (corrupted("scale", fill(float("nan"))), "'scale': must be finite and positive"),
    "scale cast": (corrupted("scale", lambda t: t.half()), r"'scale' must be torch\.float32"),
    "scale shape": (corrupted("scale", lambda t: t.expand(5)), "'scale' must have shape"),
    "zero_point range": (
        corrupted("zero_point", lambda t: torch.tensor(256)),
        r"'zero_point': 256 is outside \[0, 255\]",
    ),
    "zero_point float": (corrupted("zero_point", lambda t: t.float()), "'zero_point' must be"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("strict", [True, False])
def test_bad_checkpoint_is_named_and_changes_nothing(case: str, strict: bool) -> None:
    change, message = BAD[case]
    model = torch.nn.Sequential(random_linear(6, 5))
    x = random_q((3, 6), generator(0))
    before = model(x)
    state = random_linear(6, 5, seed=9).state_dict()
    change(state)
    if not strict and "Missing" in message:
        message = r"without \[.*weight|without \['bias'\]"
    with pytest.raises(RuntimeError, match=message) as info:
        model.load_state_dict({f"0.{k}": v for k, v in state.items()}, strict=strict)
    if "Missing" not in message:
        assert "Linear '0': " in str(info.value)
    after = model(x)
    assert torch.equal(after.int_repr(), before.int_repr())
    assert (after.q_scale(), after.q_zero_point()) == (before.q_scale(), before.q_zero_point())


def test_unexpected_keys() -> None:
    module = random_linear(6, 5, bias=False)
    state = random_linear(6, 5).state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"bias"'):
        module.load_state_dict(state)
    result = nnq.Linear(6, 5).load_state_dict({**state, "extra": torch.ones(1)}, strict=False)
    assert result.unexpected_keys == ["extra"]


def test_empty_checkpoint_with_strict_off_changes_nothing() -> None:
    module = random_linear(6, 5)
    before = module.weight.int_repr()
    result = module.load_state_dict({}, strict=False)
    assert set(result.missing_keys) == set(module.state_dict())
    assert torch.equal(module.weight.int_repr(), before)


def test_float_checkpoint_into_quantized_module() -> None:
    float_state = torch.nn.Sequential(torch.nn.Linear(6, 5)).state_dict()
    model = torch.nn.Sequential(random_linear(6, 5))
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"Linear '0'.*float one.*calibrate and convert"):
            model.load_state_dict(float_state, strict=strict)


def test_quantized_checkpoint_into_float_module() -> None:
    state = random_linear(6, 5).state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight_scale"'):
        torch.nn.Linear(6, 5).load_state_dict(state)


def test_bad_qfunctional_and_quantize_states() -> None:
    for module in (nnq.QFunctional(), nnq.Quantize(0.1, 3, octavo.quint8)):
        state = module.state_dict()
        state["scale"] = torch.full_like(state["scale"], -1.0)
        with pytest.raises(RuntimeError, match="'scale': must be finite and positive"):
            module.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r'Missing key.*"zero_point"'):
            module.load_state_dict({"scale": torch.ones(module._scalar_shape)})


def test_scalar_only_functional_still_refuses_add_after_loading() -> None:
    module = nnq.FloatFunctional()
    module.add_scalar(torch.ones(1), 1.0)

    class Unseen(torch.nn.Module):
        is_calibrated = False

    module.activation_post_process = Unseen()
    converted = nnq.QFunctional.from_float(module)
    x = random_q((3,), generator(0))
    for _ in range(2):
        converted.mul_scalar(x, 2.0)
        with pytest.raises(RuntimeError):
            converted.add(x, x)
        converted.load_state_dict(converted.state_dict())


def test_float_module_takes_no_integers_for_weights() -> None:
    """Not even with strict=False, which loads whatever names match."""
    module = torch.nn.Linear(6, 5)
    before = module.weight.detach().clone()
    result = module.load_state_dict(random_linear(6, 5).state_dict(), strict=False)
    assert torch.equal(module.weight, before)
    assert "weight" in result.missing_keys
    assert "weight_int8" in result.unexpected_keys
