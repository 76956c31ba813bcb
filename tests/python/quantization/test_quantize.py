"""The workflow from float to int8 as a whole, and its parity with torch.ao."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from quantization_support import (
    Net,
    assert_same_qparams,
    equal_bits,
    fused_net,
    images,
    oracle,
    prepared_net,
    quietly,
    trained_net,
)

GROUPS = [list(group) for group in Net.FUSED]


def test_every_kind_of_module_is_replaced() -> None:
    converted = tq.convert(prepared_net())
    kinds = {
        "quant": nnq.Quantize,
        "stem": nniq.ConvReLU2d,
        "block.conv": nniq.ConvReLU2d,
        "block.add": nnq.QFunctional,
        "relu6": nnq.ReLU6,
        "fc": nnq.Linear,
        "dequant": nnq.DeQuantize,
    }
    for name, kind in kinds.items():
        module = converted.get_submodule(name)
        assert type(module) is kind
        assert module._qualified_name == name
        assert not module.training
    leftovers = [
        name
        for name, module in converted.named_modules()
        if isinstance(module, tq.ObserverBase) or hasattr(module, "qconfig")
    ]
    assert not leftovers


@pytest.mark.parametrize("backend", ["octavo", "x86", "fbgemm", "onednn", "qnnpack"])
def test_int8_is_close_to_float(backend: str) -> None:
    model = trained_net()
    fused = tq.fuse_modules(model, GROUPS)
    fused.qconfig = tq.get_default_qconfig(backend)
    prepared = tq.prepare(fused)
    assert torch.equal(prepared(images()), fused(images()))
    converted = tq.convert(prepared)
    expected = model(images())
    error = (converted(images()) - expected).abs().max()
    assert error < 0.05 * expected.abs().max()


def test_bits_do_not_depend_on_the_kernels(isa: str) -> None:
    converted = tq.convert(prepared_net())
    found = converted(images(seed=2))
    with octavo.backend.force("scalar"):
        assert equal_bits(converted(images(seed=2)), found)


def test_not_inplace_leaves_the_originals() -> None:
    model = fused_net()
    model.qconfig = tq.get_default_qconfig()
    text, state = str(model), copy.deepcopy(model.state_dict())
    prepared = tq.prepare(model)
    assert str(model) == text
    assert not hasattr(model.fc, "qconfig")
    prepared(images())
    prepared_text = str(prepared)
    converted = tq.convert(prepared)
    assert str(prepared) == prepared_text
    assert torch.equal(prepared(images()), model(images()))
    again = tq.convert(prepared)
    assert equal_bits(converted(images()), again(images()))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_inplace() -> None:
    model = fused_net()
    model.qconfig = tq.get_default_qconfig()
    reference = copy.deepcopy(model)
    assert tq.prepare(model, inplace=True) is model
    model(images())
    assert tq.convert(model, inplace=True) is model
    reference = tq.prepare(reference)
    reference(images())
    assert equal_bits(model(images()), tq.convert(reference)(images()))


def test_one_call() -> None:
    def calibrate(model: nn.Module, data: Tensor, times: int) -> None:
        assert not model.training
        for _ in range(times):
            model(data)

    model = fused_net().train()
    model.qconfig = tq.get_default_qconfig()
    converted = tq.quantize(model, calibrate, (images(), 2))
    assert model.training
    assert isinstance(converted.fc, nnq.Linear)
    assert tq.quantize(model, calibrate, (images(), 2), inplace=True) is model
    assert equal_bits(converted(images()), model(images()))


def test_default_eval_fn() -> None:
    model = fused_net()
    model.qconfig = tq.get_default_qconfig()
    data = [(images(seed=seed), seed) for seed in range(3)]
    assert isinstance(tq.quantize(model, tq.default_eval_fn, [data]).fc, nnq.Linear)


# Copies and files


def test_prepared_models_can_be_copied_and_pickled() -> None:
    prepared = prepared_net()
    buffer = io.BytesIO()
    torch.save(prepared, buffer)
    buffer.seek(0)
    expected = tq.convert(prepared)(images())
    for other in (
        copy.deepcopy(prepared),
        pickle.loads(pickle.dumps(prepared)),
        torch.load(buffer, weights_only=False),
    ):
        assert equal_bits(tq.convert(other)(images()), expected)
        other(images() * 10)  # its observers are its own
        assert not torch.equal(tq.convert(other)(images()), expected)
        assert equal_bits(tq.convert(prepared)(images()), expected)


def test_converted_models_can_be_copied_and_pickled() -> None:
    converted = tq.convert(prepared_net())
    expected = converted(images())
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert equal_bits(other(images()), expected)


def test_a_state_dict_loads_into_a_freshly_converted_model() -> None:
    converted = tq.convert(prepared_net())
    buffer = io.BytesIO()
    torch.save(converted.state_dict(), buffer)
    buffer.seek(0)
    model = tq.fuse_modules(Net().eval(), GROUPS)
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(images(seed=9))
    fresh = tq.convert(prepared)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert equal_bits(fresh(images()), converted(images()))


def test_a_prepared_state_dict_restores_calibration() -> None:
    prepared = prepared_net()
    model = fused_net()
    model.qconfig = tq.get_default_qconfig()
    other = tq.prepare(model)
    other.load_state_dict(prepared.state_dict())
    assert equal_bits(tq.convert(other)(images()), tq.convert(prepared)(images()))


# Empty batches


def test_empty_batches() -> None:
    model = fused_net()
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(images(0))
    with pytest.raises(RuntimeError, match="never saw data"):
        tq.convert(prepared)
    prepared(images())
    prepared(images(0))
    converted = tq.convert(prepared)
    assert converted(images(0)).shape == (0, 5)


# Parity with torch.ao


def torch_net() -> nn.Module:
    """The same network, with the modules of torch.ao instead of ours."""
    tao = oracle()
    functional = torch.ao.nn.quantized.FloatFunctional
    return quietly(trained_net, parts=tao, functional=functional)


def torch_qconfig(name: str) -> Any:
    tao = oracle()
    if name in ("x86", "fbgemm", "onednn", "qnnpack"):
        return quietly(tao.get_default_qconfig, name)
    return getattr(tao, name)


def our_qconfig(name: str) -> Any:
    known = ("x86", "fbgemm", "onednn", "qnnpack")
    return tq.get_default_qconfig(name) if name in known else getattr(tq, name)


def observers(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if name.endswith("activation_post_process") and hasattr(module, "calculate_qparams")
    }


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "x86",
        "fbgemm",
        "onednn",
        "qnnpack",
        "default_qconfig",
        "default_per_channel_qconfig",
        "default_symmetric_qnnpack_qconfig",
        "default_per_channel_symmetric_qnnpack_qconfig",
    ],
)
def test_calibration_finds_torchs_qparams(name: str, fused: bool) -> None:
    ours, theirs = trained_net(), torch_net()
    if fused:
        ours = tq.fuse_modules(ours, GROUPS)
        theirs = quietly(oracle().fuse_modules, theirs, GROUPS)
    else:  # torch has an int8 batch norm of its own
        ours.block.bn.qconfig = theirs.block.bn.qconfig = None
    ours.qconfig, theirs.qconfig = our_qconfig(name), torch_qconfig(name)
    ours, theirs = tq.prepare(ours), quietly(oracle().prepare, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for seed in range(3):
        x = images(seed=seed) * (seed + 1)
        assert equal_bits(ours(x), theirs(x))
    expected = observers(theirs)
    assert observers(ours).keys() == expected.keys()
    for path, observer in observers(ours).items():
        assert_same_qparams(observer, expected[path])
    for path, module in ours.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            mine, other = module.qconfig.weight(), theirs.get_submodule(path).qconfig.weight()
            mine(module.weight), quietly(other, module.weight)
            assert_same_qparams(mine, other)


@pytest.mark.parametrize("name", ["x86", "default_qconfig"])
def test_int8_outputs_are_within_a_step_of_torchs(name: str) -> None:
    """Weights and qparams are equal; torch adds its zero point before rounding."""
    ours, theirs = fused_net(), quietly(oracle().fuse_modules, torch_net(), GROUPS)
    ours.qconfig, theirs.qconfig = our_qconfig(name), torch_qconfig(name)
    ours, theirs = tq.prepare(ours), quietly(oracle().prepare, theirs)
    ours(images()), theirs(images())
    ours, theirs = tq.convert(ours), quietly(oracle().convert, theirs)
    assert float(ours.fc.scale) == theirs.fc.scale
    for name in ("fc", "stem", "block.conv"):
        mine, other = ours.get_submodule(name), theirs.get_submodule(name)
        assert torch.equal(mine.weight().int_repr(), quietly(other.weight).int_repr())
    difference = (ours(images()) - quietly(theirs, images())).abs().max()
    assert difference <= 3 * ours.fc.scale


def test_models_written_with_torch_ao_modules() -> None:
    model = torch_net()
    model = quietly(oracle().fuse_modules, model, GROUPS)
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    assert type(prepared.quant) is tq.QuantStub
    assert type(prepared.stem) is nni.ConvReLU2d
    assert type(model.stem) is not nni.ConvReLU2d
    prepared(images())
    converted = tq.convert(prepared)
    assert equal_bits(converted(images()), tq.convert(prepared_net())(images()))


@pytest.mark.parametrize("fused", [False, True])
def test_models_that_torch_ao_prepared_and_calibrated(fused: bool) -> None:
    ours, theirs = trained_net(), torch_net()
    if fused:
        ours, theirs = fused_net(), quietly(oracle().fuse_modules, theirs, GROUPS)
    else:
        ours.block.bn = theirs.block.bn = nn.Identity()
    ours.qconfig, theirs.qconfig = our_qconfig("x86"), torch_qconfig("x86")
    ours, theirs = tq.prepare(ours), quietly(oracle().prepare, theirs)
    with pytest.raises(RuntimeError, match=r"never saw data.*\n  'quant' \(QuantStub\)\n  'stem'"):
        tq.convert(theirs)
    ours(images()), theirs(images())
    assert equal_bits(tq.convert(theirs)(images()), tq.convert(ours)(images()))


def test_fused_modules_are_observed_once_per_call() -> None:
    """A documented difference: torch's observer sees each output of a fused module twice."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    model = tq.fuse_modules(model, ["0", "1"])
    activation = tq.MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)
    model.qconfig = tq.QConfig(activation, tq.default_weight_observer)
    prepared = tq.prepare(model)
    for value in (1.0, 3.0):
        prepared(torch.tensor([[value, 0.0]]))
    assert float(prepared[0].activation_post_process.max_val) == 2.0
