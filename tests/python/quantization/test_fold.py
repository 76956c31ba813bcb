"""Weights that are computed from others (weight norm, spectral norm, pruning, parametrizations), in
every workflow: the int8 layer has the weight that the float layer computes with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd


class Skew(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() - x.triu().mT


def weight_norm(module: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(module)


CHANGES: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "weight_norm": (
        torch.nn.utils.parametrizations.weight_norm,
        "parametrization WeightNorm of 'weight'",
    ),
    "spectral_norm": (
        torch.nn.utils.parametrizations.spectral_norm,
        "parametrization SpectralNorm of 'weight'",
    ),
    "own": (
        lambda module: torch.nn.utils.parametrize.register_parametrization(
            module, "weight", Skew()
        ),
        "parametrization Skew of 'weight'",
    ),
    "weight_norm by hook": (weight_norm, "weight_norm of 'weight'"),
    "spectral_norm by hook": (torch.nn.utils.spectral_norm, "spectral_norm of 'weight'"),
    "pruning": (
        lambda module: torch.nn.utils.prune.l1_unstructured(module, "weight", 0.5),
        "pruning of 'weight'",
    ),
}
every_change = pytest.mark.parametrize("change", CHANGES)


def changed_model(change: str, fused: bool = False) -> nn.Sequential:
    """A model in eval mode after a forward, when hooks have left a weight with a history on it."""
    layer: nn.Module = nn.Linear(6, 6)
    CHANGES[change][0](layer)
    if fused:
        layer = nni.LinearReLU(layer, nn.ReLU())
    model = nn.Sequential(tq.QuantStub(), nn.Sequential(layer), tq.DeQuantStub()).eval()
    model(torch.randn(2, 6))
    return model


def plain_twin(model: nn.Sequential) -> nn.Sequential:
    """The same model with an ordinary weight."""
    layer: Any = model[1][0]
    inner = layer[0] if isinstance(layer, nni.LinearReLU) else layer
    plain = nn.Linear(6, 6)
    with torch.no_grad():
        plain.weight.copy_(inner.weight)
        plain.bias.copy_(inner.bias)
    new = nni.LinearReLU(plain, nn.ReLU()) if inner is not layer else plain
    return nn.Sequential(tq.QuantStub(), nn.Sequential(new), tq.DeQuantStub()).eval()


def static(model: nn.Module) -> nn.Module:
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare(model)
    prepared(torch.linspace(-2, 2, 60).reshape(10, 6))
    return tq.convert(prepared)


@every_change
@pytest.mark.parametrize("fused", [False, True])
def test_static(change: str, fused: bool) -> None:
    model = changed_model(change, fused)
    x = torch.randn(5, 6)
    before = model(x).detach()
    twin, int8 = static(plain_twin(model)), static(model)
    assert isinstance(int8[1][0], nnq.Linear)  # type: ignore[index]
    assert torch.equal(int8(x), twin(x))
    reasons = {row.name: row.reason for row in int8.quantization_report}  # type: ignore[union-attr]
    assert reasons["1.0"] == f"{CHANGES[change][1]} was folded"
    assert torch.equal(model(x), before)  # the given model still has what it had
    assert not any(key.endswith(".weight") for key in model.state_dict())


@every_change
def test_dynamic(change: str) -> None:
    model = changed_model(change)
    x = torch.randn(5, 6)
    int8 = tq.quantize_dynamic(model, {nn.Linear})
    assert isinstance(int8[1][0], nnqd.Linear)  # type: ignore[index]
    assert torch.equal(int8(x), tq.quantize_dynamic(plain_twin(model), {nn.Linear})(x))
    reasons = {row.name: row.reason for row in int8.quantization_report}  # type: ignore[union-attr]
    assert reasons["1.0"] == f"{CHANGES[change][1]} was folded"


@every_change
def test_training(change: str) -> None:
    model = changed_model(change)
    twin = plain_twin(model)
    for each in (model, twin):
        each.train()
        each.qconfig = tq.get_default_qat_qconfig()  # type: ignore[assignment]
    with pytest.warns(
        UserWarning, match=rf"(?s)plain parameters now.*'1\.0'.*{CHANGES[change][1]}"
    ):
        prepared = tq.prepare_qat(model)
    reference = tq.prepare_qat(twin)
    x = torch.randn(20, 6)
    for each in (prepared, reference):
        each(x).square().sum().backward()
    ours, theirs = (dict(each.named_parameters()) for each in (prepared, reference))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name].grad, theirs[name].grad)  # type: ignore[arg-type]
    assert torch.equal(tq.convert(prepared.eval())(x), tq.convert(reference.eval())(x))


@every_change
@pytest.mark.parametrize("training", [False, True])
def test_fusing(change: str, training: bool) -> None:
    conv, bn = nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)
    nn.init.uniform_(bn.weight, 0.5, 2.0)
    if change == "own":
        conv = nn.Conv2d(6, 6, (3, 3))
    CHANGES[change][0](conv)
    model = nn.Sequential(conv, bn).eval()
    x = torch.randn(2, 6, 8, 8)
    want = model(x).detach()
    fuse = tq.fuse_modules_qat if training else tq.fuse_modules
    fused = fuse(model, [["0", "1"]])
    torch.testing.assert_close(fused(x), want, rtol=1e-5, atol=1e-5)
    parts = [name for name, _ in fused.named_parameters() if "weight" in name]
    assert parts == (["0.0.weight", "0.1.weight"] if training else ["0.weight"])


def test_after_prepare() -> None:
    """Computed weights that come in between prepare and convert."""
    model = plain_twin(changed_model("weight_norm"))
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare(model)
    prepared(torch.randn(10, 6))
    expected = tq.convert(prepared)
    torch.nn.utils.parametrizations.weight_norm(prepared[1][0])  # type: ignore[index]
    x = torch.randn(3, 6)
    assert torch.equal(tq.convert(prepared)(x), expected(x))


def test_in_place_leaves_ordinary_parameters() -> None:
    model = changed_model("weight_norm")
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    assert tq.prepare(model, inplace=True) is model
    layer = model[1][0]
    assert type(layer) is nn.Linear
    assert isinstance(layer.weight, nn.Parameter)
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}


@pytest.mark.parametrize("change", ["weight_norm", "weight_norm by hook", "pruning", "own"])
@pytest.mark.parametrize("trained", [False, True])
def test_frozen_weights_stay_frozen(change: str, trained: bool) -> None:
    model = changed_model(change)
    for parameter in model.parameters():
        parameter.requires_grad_(trained)
    model.train().qconfig = tq.get_default_qat_qconfig()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="plain parameters now"):
        prepared = tq.prepare_qat(model)
    assert prepared.get_submodule("1.0").weight.requires_grad is trained


def test_what_stays_float_is_not_folded() -> None:
    model = changed_model("weight_norm")
    model[1][0].qconfig = None
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare(model)
    assert torch.nn.utils.parametrize.is_parametrized(prepared[1][0])  # type: ignore[index]


def test_a_tensor_shared_with_a_float_layer_stays_as_it_is() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    for layer in (first, second):
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", Skew())
    model = nn.Sequential(first, second).eval()
    x = torch.randn(3, 6)
    want = second(x).detach()
    tq.quantize_dynamic(model, {"0"}, inplace=True)
    assert torch.equal(model[1](x), want)


def test_models_that_hold_tensors_with_a_history() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.fc(x)
            return self.last

    model = Caching()
    x = torch.randn(2, 6)
    model(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    int8 = tq.quantize_dynamic(model)
    assert torch.equal(int8.last, model.last)
    assert not int8.last.requires_grad
