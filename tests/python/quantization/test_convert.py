from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import FloatFunctional
from octavo.quantization.report import RUN_ON_QUANTIZED
from quantization_support import equal_bits, fused_net, images, prepared_net

QCONFIG = tq.default_qconfig


def calibrated(
    *modules: nn.Module, data: Tensor | None = None, qconfig: Any = QCONFIG
) -> nn.Module:
    """A prepared Sequential of a QuantStub, the modules, and a DeQuantStub, that saw data."""
    model = nn.Sequential(tq.QuantStub(), *modules, tq.DeQuantStub()).eval()
    model.qconfig = qconfig
    prepared = tq.prepare(model)
    if data is not None:
        prepared(data)
    return prepared


# Calibration that is missing


def test_every_module_that_never_saw_data_is_named() -> None:
    model = fused_net()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    text = str(prepared)
    for inplace in (False, True):
        with pytest.raises(RuntimeError, match="never saw data") as caught:
            tq.convert(prepared, inplace=inplace)
    named = set(re.findall(r"'([\w.]+)' \(", str(caught.value)))
    assert named == {"quant", "stem", "block.conv", "block.add", "fc"}
    assert "run calibration data through the prepared model" in str(caught.value)
    assert str(prepared) == text
    prepared(images())
    tq.convert(prepared)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self.quant(x))


def test_modules_that_the_model_does_not_call() -> None:
    model = Branches().eval()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match=r"never saw data.*\n  'unused' \(Linear\)$"):
        tq.convert(prepared)
    model.unused.qconfig = None
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3))
    converted = tq.convert(prepared)
    assert type(converted.unused) is nn.Linear
    assert type(converted.used) is nnq.Linear


def test_only_nan_in_calibration_is_named() -> None:
    prepared = calibrated(nn.Linear(3, 2), data=torch.full((4, 3), torch.nan))
    with pytest.raises(RuntimeError, match="saw nothing but NaN and Inf") as caught:
        tq.convert(prepared)
    assert "'0' (QuantStub), 12 values" in str(caught.value)
    assert "'1' (Linear), 8 values" in str(caught.value)


def test_some_nan_in_calibration_is_reported() -> None:
    data = torch.randn(8, 3)
    data[0, 0] = torch.nan
    converted = tq.convert(calibrated(nn.Linear(3, 2), data=data))
    reasons = {row.name: row.reason for row in converted.quantization_report}
    assert reasons["0"] == "1 NaN or Inf values were left out in calibration"
    assert reasons["1"] == "2 NaN or Inf values were left out in calibration"


@pytest.mark.parametrize("parameter", ["weight", "bias"])
@pytest.mark.parametrize("inplace", [False, True])
def test_nan_in_a_weight_is_named(parameter: str, inplace: bool) -> None:
    prepared = calibrated(nn.Linear(3, 2), nn.Linear(2, 2), data=torch.randn(4, 3))
    text = str(prepared)
    with torch.no_grad():
        getattr(prepared[2], parameter).fill_(torch.inf)
    with pytest.raises(ValueError, match=rf"'{parameter}' of '2' \(Linear\) holds \d NaN or Inf"):
        tq.convert(prepared, inplace=inplace)
    assert str(prepared) == text


def test_a_model_that_was_not_prepared() -> None:
    model = fused_net()
    tq.propagate_qconfig_(model, {"": QCONFIG})
    with pytest.raises(RuntimeError, match=r"qconfig but no observer; call prepare\(\)"):
        tq.convert(model)


def test_a_model_without_qconfigs() -> None:
    with pytest.warns(UserWarning, match="no module has both a qconfig and an int8 form"):
        converted = tq.convert(fused_net())
    assert type(converted.fc) is nn.Linear


@pytest.mark.parametrize(
    "activation",
    [
        tq.PlaceholderObserver,
        tq.PlaceholderObserver.with_args(is_dynamic=True),
        tq.RecordingObserver,
        nn.Identity,
    ],
)
def test_qconfigs_without_a_scale(activation: Any) -> None:
    qconfig = tq.QConfig(activation, tq.default_weight_observer)
    prepared = calibrated(nn.Linear(3, 2), data=torch.randn(4, 3), qconfig=qconfig)
    with pytest.raises(RuntimeError, match=r"gives no scale.*\n  '0' \(QuantStub\): \w+\n  '1'"):
        tq.convert(prepared)


def test_per_channel_activations_are_refused() -> None:
    qconfig = tq.QConfig(tq.PerChannelMinMaxObserver, tq.default_weight_observer)
    prepared = calibrated(nn.Linear(3, 2), data=torch.randn(4, 3), qconfig=qconfig)
    with pytest.raises(ValueError, match=r"'0'.*4 scales"):
        tq.convert(prepared)


def test_an_error_halfway_leaves_the_model_as_it_was() -> None:
    class Broken:
        @classmethod
        def from_float(cls, module: nn.Module) -> Any:
            raise ValueError("no luck")

    prepared = calibrated(nn.Linear(3, 2), nn.ReLU6(), data=torch.randn(4, 3))
    text, state = str(prepared), copy.deepcopy(prepared.state_dict())
    mapping = {**tq.get_default_static_quant_module_mappings(), nn.ReLU6: Broken}
    with pytest.raises(ValueError, match=r"convert: '2' \(ReLU6\): no luck"):
        tq.convert(prepared, mapping, inplace=True)
    assert str(prepared) == text
    assert list(prepared.state_dict()) == list(state)
    assert isinstance(tq.convert(prepared, inplace=True)[1], nnq.Linear)


# What is replaced


def test_a_submodule_without_qconfig_stays_float() -> None:
    model = nn.Sequential(
        tq.QuantStub(), nn.Linear(3, 3), tq.DeQuantStub(), nn.Sequential(nn.Linear(3, 2))
    ).eval()
    model.qconfig = QCONFIG
    model[3].qconfig = None
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3))
    converted = tq.convert(prepared)
    assert type(converted[3][0]) is nn.Linear
    assert converted(torch.randn(2, 3)).dtype is torch.float32
    assert not any(hasattr(module, "qconfig") for module in converted.modules())


def test_subclasses() -> None:
    class Derived(nn.Linear):
        pass

    converted = tq.convert(calibrated(Derived(3, 3), data=torch.randn(4, 3)))
    assert type(converted[1]) is nnq.Linear


def test_the_model_itself() -> None:
    for model, kind in (
        (nn.Linear(3, 2), nnq.Linear),
        (nni.LinearReLU(nn.Linear(3, 2), nn.ReLU()), nniq.LinearReLU),
    ):
        model.qconfig = QCONFIG
        prepared = tq.prepare(model.eval())
        x = torch.randn(4, 3)
        prepared(x)
        with pytest.raises(ValueError, match=r"the model itself is a .* without inplace"):
            tq.convert(prepared, inplace=True)
        converted = tq.convert(prepared)
        assert type(converted) is kind
        q = octavo.quantize_per_tensor(x, 0.05, 128, octavo.quint8)
        torch.testing.assert_close(converted(q).dequantize(), model(x), atol=0.1, rtol=0.1)


def test_tied_modules_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant = tq.QuantStub()
            self.a = nn.Linear(3, 3)
            self.b = self.a
            self.inner = nn.Sequential(self.a)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.b(self.a(self.quant(x))))

    model = Twice().eval()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    prepared(torch.randn(4, 3))
    converted = tq.convert(prepared)
    assert type(converted.a) is nnq.Linear
    assert converted.a is converted.b is converted.inner[0]
    assert converted.a._qualified_name == "a"
    copied = copy.deepcopy(converted)
    assert copied.a is copied.b
    assert equal_bits(copied(torch.ones(1, 3)).int_repr(), converted(torch.ones(1, 3)).int_repr())


def test_tied_weights_of_different_modules() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    converted = tq.convert(calibrated(first, second, data=torch.randn(4, 3)))
    assert torch.equal(converted[1].weight().int_repr(), converted[2].weight().int_repr())


def test_own_mapping_and_modules_with_children() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    class Int8Wrapper(Wrapper):
        @classmethod
        def from_float(cls, module: Wrapper) -> Int8Wrapper:
            return cls(module.inner)

    prepared = calibrated(Wrapper(nn.Linear(3, 2)), data=torch.randn(4, 3))
    mapping = {**tq.get_default_static_quant_module_mappings(), Wrapper: Int8Wrapper}
    converted = tq.convert(prepared, mapping)
    assert type(converted[1]) is Int8Wrapper
    assert type(converted[1].inner) is nnq.Linear
    assert converted[1].inner._qualified_name == "1.inner"
    only_linear = tq.convert(prepared, {nn.Linear: nnq.Linear})
    assert type(only_linear[0]) is tq.QuantStub


def test_remove_qconfig_false_keeps_what_stays_float() -> None:
    prepared = calibrated(nn.Linear(3, 2), nn.ReLU6(), data=torch.randn(4, 3))
    converted = tq.convert(prepared, {nn.Linear: nnq.Linear}, remove_qconfig=False)
    assert converted[2].qconfig is QCONFIG
    assert hasattr(converted[2], "activation_post_process")
    removed = tq.convert(prepared, {nn.Linear: nnq.Linear})
    assert not hasattr(removed[2], "activation_post_process")
    assert not removed[2]._forward_hooks


def test_from_float_options() -> None:
    seen = []

    class Target(nn.Module):
        @classmethod
        def from_float(cls, module: nn.Module, use_precomputed_fake_quant: bool = False) -> Target:
            seen.append(use_precomputed_fake_quant)
            return cls()

    prepared = calibrated(nn.Linear(3, 2), data=torch.randn(4, 3))
    tq.convert(prepared, {nn.Linear: Target}, use_precomputed_fake_quant=True)
    assert seen == [True]
    with pytest.raises(NotImplementedError, match="reference"):
        tq.convert(prepared, is_reference=True)


def test_swap_module() -> None:
    prepared = calibrated(nn.Linear(3, 2), nn.Tanh(), data=torch.randn(4, 3))
    mapping = tq.get_default_static_quant_module_mappings()
    assert type(tq.swap_module(prepared[1], mapping)) is nnq.Linear
    assert tq.swap_module(prepared[2], mapping) is prepared[2]
    plain = nn.Linear(3, 2)
    assert tq.swap_module(plain, mapping) is plain


# Functionals


class Scalars(nn.Module):
    def __init__(self, add: bool) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.functional = FloatFunctional()
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        x = self.functional.mul_scalar(self.functional.add_scalar(self.quant(x), 1.0), 0.5)
        return self.dequant(self.functional.add(x, x) if self.add else x)


def test_functionals_that_are_used_with_scalars_only() -> None:
    model = Scalars(add=False).eval()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    x = torch.rand(50)
    prepared(x)
    converted = tq.convert(prepared)
    torch.testing.assert_close(converted(x), (x + 1) * 0.5, atol=0.02, rtol=0)
    converted.add = True
    with pytest.raises(RuntimeError, match=r"QFunctional 'functional': calibration met only"):
        converted(x)


def test_functionals_stay_float_without_qconfig() -> None:
    model = Scalars(add=True).eval()
    model.qconfig = QCONFIG
    model.functional.qconfig = None
    prepared = tq.prepare(model)
    prepared(torch.rand(5))
    converted = tq.convert(prepared)
    assert type(converted.functional) is FloatFunctional
    assert type(converted.functional.activation_post_process) is nn.Identity


# Hooks


def test_hooks_go_on_working_and_handles_too() -> None:
    model = fused_net()
    model.qconfig = QCONFIG
    seen: list[Any] = []
    handles = [
        model.fc.register_forward_hook(lambda module, args, out: seen.append(type(module))),
        model.fc.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
        ),
        model.register_forward_hook(lambda module, args, out: seen.append("model")),
    ]
    prepared = tq.prepare(model, inplace=True)
    prepared(images())
    converted = tq.convert(prepared, inplace=True)
    seen.clear()
    converted(images())
    assert seen == [{}, nnq.Linear, "model"]
    for handle in handles:
        handle.remove()
    converted(images())
    assert len(seen) == 3
    assert len(converted.stem._forward_hooks) == 0


def test_hooks_on_parts_of_a_fused_module() -> None:
    model = nn.Sequential(nni.LinearReLU(nn.Linear(3, 2), nn.ReLU()))
    model[0][0].register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match=r"'1\.0' becomes one module.*\['0'\] are gone"):
        tq.convert(calibrated(model, data=torch.randn(4, 3)))


# The report


def test_the_report() -> None:
    prepared = prepared_net()
    prepared.pool.qconfig = None
    converted = tq.convert(prepared)
    report = converted.quantization_report
    becomes = {row.name: row.becomes for row in report}
    assert becomes["stem"] == "quantized.ConvReLU2d"
    assert becomes["block.add"] == "quantized.QFunctional"
    assert becomes["pool"] == ""
    assert {row.name for row in report.swapped} | {row.name for row in report.left_float} == {
        name for name, module in prepared.named_modules() if name in becomes
    }
    assert tq.explain(converted) is report
    assert tq.explain(prepared) == report
    assert copy.deepcopy(report) == report
    lines = str(report).splitlines()
    assert lines[0].split() == ["module", "type", "becomes"]
    assert any(line.split()[:3] == ["fc", "Linear", "quantized.Linear"] for line in lines)


def test_explain_says_why_modules_stay_float() -> None:
    class Altered(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input

    model = nn.ModuleDict(
        {
            "swapped": nn.Linear(2, 2),
            "off": nn.Linear(2, 2),
            "altered": Altered(2, 2),
            "unknown": nn.Softsign(),
            "either": nn.ReLU(),
            "attention": nn.MultiheadAttention(2, 1),
            "done": nnq.Linear(2, 2),
            "container": nn.Sequential(),
        }
    )
    model["off"].qconfig = None
    report = tq.explain(model, {"": QCONFIG})
    reasons = {row.name: row.reason for row in report}
    assert [row.name for row in report.swapped] == ["swapped", "attention"]
    assert reasons["off"] == "its qconfig is None"
    assert "overrides forward of Linear" in reasons["altered"]
    assert reasons["unknown"] == "Softsign has no int8 module; it takes and gives float tensors"
    assert reasons["either"] == "works on quantized tensors as it is"
    assert reasons["done"] == "is quantized already"
    assert "container" not in reasons
    assert not hasattr(model["swapped"], "qconfig")
    assert len(tq.explain(model).swapped) == 0


def test_what_is_said_to_work_on_quantized_tensors_does() -> None:
    arguments: dict[type, tuple[Any, ...]] = {
        nn.MaxPool1d: (2,),
        nn.MaxPool2d: (2,),
        nn.MaxPool3d: (2,),
        nn.AvgPool1d: (2,),
        nn.AvgPool2d: (2,),
        nn.AvgPool3d: (2,),
        nn.AdaptiveAvgPool1d: (1,),
        nn.AdaptiveAvgPool2d: (1,),
        nn.AdaptiveAvgPool3d: (1,),
        nn.AdaptiveMaxPool1d: (1,),
        nn.AdaptiveMaxPool2d: (1,),
        nn.AdaptiveMaxPool3d: (1,),
        nn.Upsample: (None, 2.0),
        nn.UpsamplingNearest2d: (None, 2.0),
        nn.UpsamplingBilinear2d: (None, 2.0),
        nn.Unflatten: (1, (2, 2)),
        nn.ZeroPad2d: (1,),
        nn.PixelShuffle: (2,),
        nn.PixelUnshuffle: (2,),
        nn.ChannelShuffle: (2,),
        nn.Softmax: (1,),
        nn.Threshold: (0.11, 0.5),
    }
    q = octavo.quantize_per_tensor(torch.randn(2, 4, 8, 8), 0.05, 100, octavo.quint8)
    for cls in RUN_ON_QUANTIZED:
        x = {"1": q[0], "3": q.unsqueeze(2)}.get(cls.__name__[-2], q)
        x = torch.cat([x, x], 2) if cls in (nn.MaxPool3d, nn.AvgPool3d) else x
        out = cls(*arguments.get(cls, ())).eval()(x)
        assert isinstance(out, octavo.QTensor), cls
        expected = cls(*arguments.get(cls, ())).eval()(x.dequantize())
        torch.testing.assert_close(out.dequantize(), expected, atol=0.026, rtol=0)
