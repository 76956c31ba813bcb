"""Models out of the ordinary in each workflow: dynamic, static and quantization-aware training.
Weights that are computed from others: quantization/test_fold.py.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.nn import qat as nnqat
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd

NAN = float("nan")
WORKFLOWS = ("dynamic", "static", "training")
every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS)


def wrapped(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(tq.QuantStub(), *modules, tq.DeQuantStub()).eval()


def prepared(workflow: str, model: nn.Module) -> nn.Module:
    if workflow == "static":
        model.eval().qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
        return tq.prepare(model)
    model.train().qconfig = tq.get_default_qat_qconfig()  # type: ignore[assignment]
    return tq.prepare_qat(model)


def quantized(workflow: str, model: nn.Module, *data: Tensor) -> Any:
    """The int8 model, calibrated or trained for a step on each batch."""
    if workflow == "dynamic":
        return tq.quantize_dynamic(model)
    ready = prepared(workflow, model)
    for batch in data:
        out = ready(batch)
        if workflow == "training" and out.numel() and out.requires_grad:
            out.float().square().mean().backward()
    return tq.convert(ready.eval())


# Uncalibrated


@pytest.mark.parametrize("workflow", ["static", "training"])
def test_uncalibrated_models_are_refused_by_the_names_of_their_modules(workflow: str) -> None:
    ready = prepared(workflow, wrapped(nn.Linear(4, 3), nn.Sequential(nn.Conv1d(3, 2, 1))))
    with pytest.raises(RuntimeError, match=r"never saw data") as info:
        tq.convert(ready.eval())
    for name in ("'0' (QuantStub)", "'1' (Linear)", "'2.0' (Conv1d)"):
        assert name in str(info.value)
    assert "run calibration data through the prepared model" in str(info.value)


def test_dynamic_models_need_no_data() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    torch.testing.assert_close(quantized("dynamic", model)(x), model(x), rtol=0, atol=0.03)


# Empty


@every_workflow
def test_models_without_anything_to_quantize(workflow: str) -> None:
    model = nn.Sequential(nn.Softsign())
    x = torch.randn(3)
    with pytest.warns(UserWarning, match="nothing was replaced"):
        int8 = quantized(workflow, model, x)
    assert torch.equal(int8(x), model(x))
    with pytest.warns(UserWarning, match="nothing was replaced"):
        int8 = quantized(workflow, nn.Sequential(), x)
    assert torch.equal(int8(x), x)


@every_workflow
def test_empty_batches_in_between_change_nothing(workflow: str) -> None:
    torch.manual_seed(0)
    model = wrapped(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x, empty = torch.randn(6, 4), torch.randn(0, 4)
    expected = quantized(workflow, copy.deepcopy(model), x)
    int8 = quantized(workflow, copy.deepcopy(model), empty, x, empty)
    assert torch.equal(int8(x), expected(x))
    assert int8(empty).shape == (0, 2)


@pytest.mark.parametrize("workflow", ["static", "training"])
def test_nothing_but_empty_batches_is_no_calibration(workflow: str) -> None:
    with pytest.raises(RuntimeError, match=r"never saw data.*\n.*'0' \(QuantStub\)"):
        quantized(workflow, wrapped(nn.Linear(4, 3)), torch.randn(0, 4))


# NaN


@every_workflow
def test_nan_in_the_data(workflow: str) -> None:
    """A row that holds NaN gives NaN where floats come in, and zeros where they were quantized
    before; other rows do not notice. Calibration leaves it out, and the report counts it.
    """
    torch.manual_seed(0)
    model = wrapped(nn.Linear(4, 3))
    x = torch.randn(6, 4)
    soiled = x.clone()
    soiled[2, 1] = NAN
    if workflow == "training":
        ready = prepared(workflow, model)
        ready(soiled)
        assert torch.isfinite(ready[1].activation_post_process.scale).all()
        int8: Any = tq.convert(ready.eval())
    else:
        int8 = quantized(workflow, model, soiled)
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(int8(soiled)[rest], int8(x)[rest])
    if workflow == "dynamic":
        assert int8(soiled)[2].isnan().all()
    else:
        x[2, 1] = 0
        assert torch.equal(int8(soiled), int8(x))
        reasons = {row.name: row.reason for row in int8.quantization_report}
        assert reasons["0"] == "1 NaN or Inf values were left out in calibration"


@every_workflow
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_nan_in_a_parameter_is_named(workflow: str, parameter: str) -> None:
    model = wrapped(nn.Linear(4, 3), nn.Linear(3, 3))
    x = torch.randn(6, 4)
    ready = model if workflow == "dynamic" else prepared(workflow, model)
    ready(x)
    ready.eval().get_submodule("2").get_parameter(parameter).data.view(-1)[0] = NAN
    convert = tq.quantize_dynamic if workflow == "dynamic" else tq.convert
    with pytest.raises(ValueError, match=rf"'{parameter}' of '2' \(\w+\) holds 1 NaN or Inf"):
        convert(ready)


# Mixed dtypes


@every_workflow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_shorter_floats(workflow: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = wrapped(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)).to(dtype)
    x = torch.randn(40, 32).to(dtype)
    want = model(x).detach().float()
    int8 = quantized(workflow, model, x)
    y = int8(x)
    assert y.dtype is dtype
    assert torch.nn.functional.cosine_similarity(y.float(), want, 1).min() > 0.98


@every_workflow
def test_models_with_layers_of_different_dtypes(workflow: str) -> None:
    """A float32 layer inside of a bfloat16 model, as for numerical safety."""

    class Cast(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: Tensor) -> Tensor:
            return x.to(self.dtype)

    torch.manual_seed(0)
    model = nn.Sequential(
        wrapped(nn.Linear(32, 16)).bfloat16(),
        Cast(torch.float32),
        wrapped(nn.Linear(16, 8)),
        Cast(torch.bfloat16),
        nn.Softsign(),
    )
    x = torch.randn(40, 32).bfloat16()
    want = model(x).detach()
    int8 = quantized(workflow, model, x)
    y = int8(x)
    assert y.dtype is torch.bfloat16
    assert nn.functional.cosine_similarity(y.float(), want.float(), 1).min() > 0.98


# Tied weights


def tied(bias: bool) -> nn.Sequential:
    """Two layers with one weight (and bias), and a third with an equal one of its own."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8, bias=bias) for _ in range(3)]
    layers[1].weight = layers[0].weight
    layers[2].load_state_dict(layers[0].state_dict())
    if bias:
        layers[1].bias = layers[0].bias
    return wrapped(*layers)


def packed_weights(model: nn.Module) -> list[Any]:
    kinds = (nnq.Linear, nnqd.Linear)
    return [m._packed for m in model.modules() if isinstance(m, kinds)]


@every_workflow
@pytest.mark.parametrize("bias", [False, True])
def test_tied_weights_are_held_once(workflow: str, bias: bool) -> None:
    """Also in copies, pickles and models that a state dict was loaded into."""
    data = torch.randn(20, 8)
    int8 = quantized(workflow, tied(bias), data)
    first, second, _ = packed_weights(int8)
    assert first is second
    buffer = io.BytesIO()
    torch.save(int8.state_dict(), buffer)
    buffer.seek(0)
    other = quantized(workflow, wrapped(*(nn.Linear(8, 8, bias=bias) for _ in range(3))), data)
    assert packed_weights(other)[0] is not packed_weights(other)[1]
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for model in (copy.deepcopy(int8), pickle.loads(pickle.dumps(int8)), other):
        assert packed_weights(model)[0] is packed_weights(model)[1] is first
        assert torch.equal(model(data), int8(data))


def test_tied_weights_stay_tied_in_training() -> None:
    ready: Any = prepared("training", tied(True))
    assert type(ready[1]) is nnqat.Linear
    assert ready[1].weight is ready[2].weight
    assert ready[1].bias is ready[2].bias
    assert ready[1].weight is not ready[3].weight
    optimizer = torch.optim.SGD(ready.parameters(), lr=0.1)
    ready(torch.randn(20, 8)).square().mean().backward()
    optimizer.step()
    assert ready[1].weight is ready[2].weight
    assert not torch.equal(ready[1].weight, ready[3].weight)
    first, second, third = packed_weights(tq.convert(ready.eval()))
    assert first is second
    assert first is not third


def test_layers_that_differ_share_nothing() -> None:
    """Same integers, but another scale, bias or geometry."""
    weight = octavo.QTensor.from_int_repr(torch.ones(4, 4, dtype=torch.int8), 0.5, 0)
    layers = [nnqd.Linear(4, 4) for _ in range(4)]
    layers[0].set_weight_bias(weight, None)
    layers[1].set_weight_bias(weight, torch.ones(4))
    layers[2].set_weight_bias(
        octavo.QTensor.from_int_repr(torch.ones(4, 4, dtype=torch.int8), 0.25, 0), None
    )
    layers[3].set_weight_bias(
        octavo.QTensor.from_int_repr(torch.full((4, 4), 2, dtype=torch.int8), 0.5, 0), None
    )
    x = torch.full((1, 4), 2.0)
    assert [layer(x)[0, 0].item() for layer in layers] == [4.0, 5.0, 2.0, 8.0]
    kernel = octavo.QTensor.from_int_repr(torch.ones(1, 1, 3, 3, dtype=torch.int8), 1.0, 0)
    image = torch.ones(1, 1, 4, 4)
    geometries: list[Any] = [
        {},
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"padding": 2, "dilation": 2},
    ]
    convs = [nnqd.Conv2d(1, 1, 3, bias=False, **geometry) for geometry in geometries]
    for conv in convs:
        conv.set_weight_bias(kernel, None)
    assert [round(conv(image).sum().item()) for conv in convs] == [36, 100, 25, 64]
