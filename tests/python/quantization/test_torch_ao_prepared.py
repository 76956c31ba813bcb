"""Live models that torch.ao prepared, with its observers inside, converted by Octavo."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from quantization_support import oracle, quietly

needs_torch_engines = pytest.mark.skipif(
    bool(octavo.backend.emulated_features()),
    reason="torch's engines are not run under the AMX instruction emulator",
)


class Net(nn.Module):
    """Written for torch.ao."""

    def __init__(self) -> None:
        super().__init__()
        taq = oracle()
        self.quant, self.dequant = taq.QuantStub(), taq.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.conv3, self.relu3 = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.add, self.scaled = (torch.ao.nn.quantized.FloatFunctional() for _ in range(2))
        self.sigmoid = nn.Sigmoid()
        self.fc, self.relu4 = nn.Linear(8, 6), nn.ReLU()
        self.fc2, self.bn4 = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        y = self.bn2(self.conv2(x))
        x = self.add.add(self.relu3(self.conv3(y)), y)
        x = self.scaled.mul_scalar(self.sigmoid(x), 0.5).mean((2, 3))
        x = self.bn4(self.fc2(self.relu4(self.fc(x))))
        return self.dequant(self.last(x))


GROUPS = [["conv", "bn", "relu"], ["conv2", "bn2"], ["conv3", "relu3"], ["fc", "relu4"]]
GROUPS.append(["fc2", "bn4"])
X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def prepared_by_torch(qat: bool, backend: str) -> Any:
    taq = oracle()
    torch.manual_seed(0)
    model: Any = Net().train(qat)
    model = (taq.fuse_modules_qat if qat else taq.fuse_modules)(model, GROUPS)
    if qat:
        model.qconfig = quietly(taq.get_default_qat_qconfig, backend)
        model = quietly(taq.prepare_qat, model)
    else:
        model.qconfig = quietly(taq.get_default_qconfig, backend)
        model = quietly(taq.prepare, model)
    for _ in range(20):
        quietly(model, X)
    return model.eval().apply(taq.disable_observer)


BECOMES = {
    "quant": nnq.Quantize,
    "conv": nniq.ConvReLU2d,
    "conv2": nnq.Conv2d,
    "conv3": nniq.ConvReLU2d,
    "add": nnq.QFunctional,
    "scaled": nnq.QFunctional,
    "fc": nniq.LinearReLU,
    "fc2": nnq.Linear,
    "last": nnq.Linear,
    "dequant": nnq.DeQuantize,
}


@pytest.mark.parametrize("backend", ["x86", "qnnpack"])
@pytest.mark.parametrize("qat", [False, True])
def test_scales_and_weights_are_those_of_torchs_convert(qat: bool, backend: str) -> None:
    prepared = prepared_by_torch(qat, backend)
    before = {name: type(module) for name, module in prepared.named_modules()}
    ours: Any = tq.convert(prepared)
    assert {name: type(module) for name, module in prepared.named_modules()} == before
    theirs: Any = quietly(oracle().convert, copy.deepcopy(prepared))
    for name, cls in BECOMES.items():
        mine, other = ours.get_submodule(name), theirs.get_submodule(name)
        assert type(mine) is cls, name
        if hasattr(other, "scale") and name != "scaled":
            assert float(mine.scale) == pytest.approx(float(other.scale), rel=1e-7), name
            assert int(mine.zero_point) == int(other.zero_point), name
        if hasattr(other, "weight") and callable(other.weight):
            assert torch.equal(mine.weight().int_repr(), other.weight().int_repr()), name
    assert not any(type(module).__module__.startswith("torch.ao") for module in ours.modules())


@needs_torch_engines
@pytest.mark.parametrize("qat", [False, True])
def test_outputs_are_torchs(qat: bool) -> None:
    prepared = prepared_by_torch(qat, "x86")  # 7 bits: torch's engines do not saturate
    ours: Any = tq.convert(prepared)
    theirs = quietly(oracle().convert, prepared)
    step = float(theirs.last.scale)
    assert (ours(X) - quietly(theirs, X)).abs().max() <= 1.001 * step


def test_inplace() -> None:
    prepared = prepared_by_torch(True, "qnnpack")
    expected = tq.convert(prepared)(X)
    assert tq.convert(prepared, inplace=True) is prepared
    assert torch.equal(prepared(X), expected)


def test_a_functional_that_only_scaled_says_so() -> None:
    ours: Any = tq.convert(prepared_by_torch(False, "qnnpack"))
    q = ours.quant(X)
    with pytest.raises(RuntimeError, match="only add_scalar and mul_scalar"):
        ours.scaled.add(q, q)


class Recurrent(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant = oracle().QuantStub(), oracle().DeQuantStub()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        q = self.quant(x)
        attends = type(self.part).__name__ == "MultiheadAttention"  # torch's, torch.ao's or ours
        out = self.part(q, q, q) if attends else self.part(q)
        return self.dequant(out[0])


PARTS = {
    "lstm": lambda: nn.LSTM(12, 16),
    "deep lstm": lambda: nn.LSTM(12, 16, 2, bidirectional=True),
    "attention": lambda: nn.MultiheadAttention(12, 2),
    "attention with bias_k": lambda: nn.MultiheadAttention(12, 2, add_bias_kv=True),
}


@needs_torch_engines
@pytest.mark.parametrize(
    ("part", "qat"),
    # torch.ao cannot train attention with rounded weights.
    [(part, qat) for part in PARTS for qat in (False, True) if not (qat and "attention" in part)],
)
def test_modules_of_parts(part: str, qat: bool) -> None:
    taq = oracle()
    torch.manual_seed(2)
    model: Any = Recurrent(PARTS[part]()).train(qat)
    if qat:
        model.qconfig = quietly(taq.get_default_qat_qconfig, "x86")
        prepared = quietly(taq.prepare_qat, model)
    else:
        model.qconfig = quietly(taq.get_default_qconfig, "x86")
        prepared = quietly(taq.prepare, model)
    x = torch.randn(7, 5, 12)
    for _ in range(5):
        quietly(prepared, x)
    prepared.eval().apply(taq.disable_observer)
    ours: Any = tq.convert(prepared)
    wanted = nnq.MultiheadAttention if "attention" in part else nnq.LSTM
    assert type(ours.part) is wanted
    assert type(ours.part).__module__.startswith("octavo.")
    theirs = quietly(oracle().convert, prepared)
    taken: Any = quietly(tq.from_torch_ao, theirs)
    assert type(taken.part) is wanted
    if part == "attention with bias_k":  # torch rounds it, ours does not
        want = prepared(x)
        error = (ours(x) - want).square().mean()
        assert error < 10**-2.5 * want.square().mean()  # 25 dB: 7 bits at each step
        return
    expected = quietly(theirs, x)
    # Softmax in float differs in its last bits; nothing else does.
    steps = float(taken.part.out_proj.scale) * 1.001 if "attention" in part else 0.0
    for got in (ours(x), taken(x)):
        assert (got - expected).abs().max() <= steps


def test_a_prepared_model_is_for_convert() -> None:
    with pytest.raises(ValueError, match=r"prepared to octavo\.quantization\.convert"):
        tq.from_torch_ao(prepared_by_torch(False, "x86"))
