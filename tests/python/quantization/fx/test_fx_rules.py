"""Which QConfig applies to what, what stays float by that, and what is an error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import octavo
import octavo.quantization as tq
from fx_models import batch, calibrated, calls, conv_bn, dequantizations, sqnr, zoo_model
from fx_support import Of, X, close, conv, converted, mapping
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.quantization.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    get_native_backend_config,
    get_octavo_backend_config,
)
from octavo.quantization.fx.operations import QAdd, QMul
from octavo.quantization.quantize_fx import (
    convert_fx,
    convert_to_reference_fx,
    fuse_fx,
    prepare_fx,
    prepare_qat_fx,
    prepare_traceable_fx,
)
from quantization_support import oracle

# Rules.


def test_rules_by_priority() -> None:
    """Global, class, regular expression, name, order: the later wins."""
    model = Of(lambda m, x: m.d(m.c(m.b(m.a(x)))), a=conv(), b=conv(2), c=conv(3), d=conv())
    a = tq.get_default_qconfig()
    rules = tq.QConfigMapping().set_global(a)
    assert len(calls(converted(model, rules), nnq.Conv2d)) == 4
    rules.set_object_type(nn.Conv2d, None)
    with pytest.raises(StopIteration):
        next(iter(calls(converted(model, rules), nnq.Conv2d)))
    rules.set_module_name_regex("[ab]", a)
    assert [n.target for n in calls(converted(model, rules), nnq.Conv2d)] == ["a", "b"]
    rules.set_module_name("b", None).set_module_name("d", a)
    assert [n.target for n in calls(converted(model, rules), nnq.Conv2d)] == ["a", "d"]
    rules.set_module_name_object_type_order("", nn.Conv2d, 0, None)
    rules.set_module_name_object_type_order("", nn.Conv2d, 2, a)
    assert [n.target for n in calls(converted(model, rules), nnq.Conv2d)] == ["c", "d"]


def test_rules_for_functions_and_methods() -> None:
    model = Of(lambda m, x: torch.add(m.a(x), x).mul(m.b(x)) + x, a=conv(), b=conv(2))
    assert [len(calls(converted(model), kind)) for kind in (QAdd, QMul)] == [1, 1]
    left = converted(model, mapping().set_object_type(torch.add, None))
    assert "its qconfig is None" in {r.reason for r in left.quantization_report.left_float}
    left = converted(model, mapping().set_object_type("mul", None))
    assert not calls(left, QMul)
    assert close(model, left)
    again = Of(lambda m, x: torch.add(torch.add(m.a(x), x), m.b(x)), a=conv(), b=conv(2))
    rules = mapping().set_module_name_object_type_order("", torch.add, 1, None)
    both, first = converted(again), converted(again, rules)
    assert (type(both.a), type(both.b)) == (nniq.ConvAdd2d, nniq.ConvAdd2d)
    assert (type(first.a), type(first.b)) == (nniq.ConvAdd2d, nnq.Conv2d)
    assert len(dequantizations(both)) == 1
    assert len(dequantizations(first)) == 2


def test_rules_in_modules_around() -> None:
    """A class of container, and its name, apply to functions in it."""
    block = Of(lambda m, x: torch.mul(m.a(x), x), a=conv())
    model = Of(lambda m, x: m.last(m.block(x)), block=block, last=conv())
    for rules in (
        mapping().set_module_name("block", None),
        mapping().set_module_name_regex("block", None),
    ):
        int8 = converted(model, rules)
        assert not calls(int8, QMul)
        assert [n.target for n in calls(int8, nnq.Conv2d)] == ["last"]
    assert len(calls(converted(model), QMul)) == 1


def test_rules_hold_after_fusion() -> None:
    """torch forgets ``set_object_type(nn.Linear, None)`` where the Linear is fused with a ReLU."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    left = prepare_fx(model, mapping().set_object_type(nn.Linear, None), (torch.randn(2, 4),))
    assert not [n for n in left.graph.nodes if "post_process" in str(n.target)]
    rules = mapping().set_object_type(nni.LinearReLU, None)
    int8 = converted(model, rules, ((2, 4),))
    assert [n.target for n in calls(int8, nnq.Linear)] == ["2"]


def test_torchs_mapping_and_dict() -> None:
    theirs = oracle()
    model = Of(lambda m, x: m.a(x), a=conv())
    rules = theirs.QConfigMapping().set_global(tq.get_default_qconfig())
    assert len(calls(converted(model, rules), nnq.Conv2d)) == 1
    with pytest.warns(FutureWarning, match="dict as qconfig_mapping"):
        prepared = prepare_fx(model, {"": tq.get_default_qconfig()}, batch(X))
    assert len(calls(convert_fx(calibrated(prepared, X)), nnq.Conv2d)) == 1


def test_signed_activations() -> None:
    model, shapes = zoo_model("residual")
    rules = tq.QConfigMapping().set_global(tq.default_per_channel_symmetric_qnnpack_qconfig)
    int8 = converted(model, rules, shapes)
    assert calls(int8, nnq.Quantize)
    assert {int8.get_submodule(n.target).dtype for n in calls(int8, nnq.Quantize)} == {octavo.qint8}
    assert close(model, int8, shapes)
    native = converted(model, rules, shapes, backend_config=get_native_backend_config())
    assert not calls(native, nnq.Quantize)
    assert "activations of" in native.quantization_report.left_float[0].reason


def test_two_dtypes_do_not_meet() -> None:
    """An addition of quint8 and qint8 stays float; the layers do not."""
    model = Of(lambda m, x: m.a(x) * m.b(x), a=conv(), b=conv(2))
    signed = tq.default_per_channel_symmetric_qnnpack_qconfig
    int8 = converted(model, mapping().set_module_name("b", signed))
    assert len(calls(int8, nnq.Conv2d)) == 2
    assert not calls(int8, QMul)
    reasons = {row.name: row.reason for row in int8.quantization_report.left_float}
    assert "would combine" in reasons["mul"]
    assert close(model, int8)


def test_backend_config_limits_what_is_quantized() -> None:
    int8_types = DTypeConfig(octavo.quint8, octavo.quint8, octavo.qint8, torch.float32)
    backend = BackendConfig("mine").set_backend_pattern_config(
        BackendPatternConfig(nn.Linear).add_dtype_config(int8_types)
    )
    model = nn.Sequential(conv_bn(4, 4), nn.Flatten(), nn.Linear(144, 3)).eval()
    int8 = converted(model, backend_config=backend)
    assert len(calls(int8, nnq.Linear)) == 1
    assert not calls(int8, nnq.Conv2d)
    assert len(calls(int8, nn.BatchNorm2d)) == 1  # it has no pattern that fuses
    same = converted(model, backend_config=backend.to_dict())
    assert torch.equal(same(*batch(X)), int8(*batch(X)))


def test_fuser_method_of_a_user() -> None:
    def fuse(is_qat: bool, first: nn.Module, second: nn.Module) -> nn.Module:
        assert not is_qat
        return nni.ConvReLU2d(first, nn.ReLU())

    pattern = BackendPatternConfig((nn.Conv2d, nn.Softplus)).set_fuser_method(fuse)
    backend = get_octavo_backend_config().set_backend_pattern_config(pattern)
    fused = fuse_fx(nn.Sequential(conv(), nn.Softplus()).eval(), backend_config=backend)
    assert [type(m) for m in fused.children()] == [nni.ConvReLU2d]


# Errors.


def test_modes() -> None:
    model = Of(lambda m, x: m.a(x), a=conv())
    for function in (prepare_fx, prepare_traceable_fx):
        with pytest.raises(ValueError, match=r"in training mode; call model\.eval"):
            function(copy.deepcopy(model).train(), mapping(), batch(X))
    with pytest.raises(ValueError, match="in training mode"):
        fuse_fx(copy.deepcopy(model).train())
    with pytest.raises(ValueError, match=r"in eval mode; call model\.train"):
        prepare_qat_fx(model, mapping(), batch(X))


def test_arguments() -> None:
    model = Of(lambda m, x: m.a(x), a=conv())
    prepared = prepare_fx(model, mapping(), batch(X))
    with pytest.raises(TypeError, match="example_inputs must be a tuple"):
        prepare_fx(model, mapping(), batch(X)[0])
    with pytest.raises(ValueError, match=r"does not run on example_inputs \(float32 \[2, 5\]\)"):
        prepare_fx(model, mapping(), (torch.randn(2, 5),))
    with pytest.raises(TypeError, match="must be a QConfigMapping"):
        prepare_fx(model, None, batch(X))
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        prepare_fx(lambda x: x, mapping(), batch(X))
    with pytest.raises(TypeError, match="must be a QConfig or None"):
        prepare_fx(model, tq.QConfigMapping().set_global(3), batch(X))
    with pytest.raises(TypeError, match="backend_config must be"):
        prepare_fx(model, mapping(), batch(X), backend_config=3)
    with pytest.raises(TypeError, match="prepare_custom_config must be"):
        prepare_fx(model, mapping(), batch(X), 3)
    with pytest.raises(ValueError, match="prepared already"):
        prepare_fx(prepared, mapping(), batch(X))
    with pytest.raises(ValueError, match="is quantized already"):
        prepare_fx(convert_fx(calibrated(prepared, X)), mapping(), batch(X))
    for function in (convert_fx, convert_to_reference_fx):
        with pytest.raises(TypeError, match="expected what prepare_fx"):
            function(model)
        with pytest.raises(NotImplementedError, match="qconfig_mapping"):
            function(prepared, qconfig_mapping=mapping())
    with pytest.raises(NotImplementedError, match="keep_original_weights"):
        convert_fx(prepared, keep_original_weights=True)
    with pytest.raises(NotImplementedError, match="input_weight_equalization"):
        prepare_fx(model, mapping(), batch(X), None, tq.QConfigMapping())


def test_nothing_finite_was_seen() -> None:
    model = Of(lambda m, x: m.a(x), a=conv())
    prepared = prepare_fx(model, mapping(), batch(X))
    prepared(torch.full(X[0], torch.nan))
    with pytest.raises(RuntimeError, match=r"never saw finite data.*\n.*output of 'x'"):
        convert_fx(prepared)


def test_weights_that_are_not_finite_are_named() -> None:
    model = Of(lambda m, x: m.a(x), a=conv())
    prepared = calibrated(prepare_fx(model, mapping(), batch(X)), X)
    with torch.no_grad():
        prepared.a.weight[0] = torch.nan
    with pytest.raises(ValueError, match="'weight' of 'a'"):
        convert_fx(prepared)


def test_edited_graph() -> None:
    model = Of(lambda m, x: m.a(x), a=conv())
    prepared = calibrated(prepare_fx(model, mapping(), batch(X)), X)
    last = [n for n in prepared.graph.nodes if "post_process" in str(n.target)][-1]
    last.replace_all_uses_with(last.args[0])
    prepared.graph.erase_node(last)
    prepared.recompile()
    with pytest.raises(RuntimeError, match="'a' has no observer"):
        convert_fx(prepared)


class Optional(nn.Module):
    """Inputs with defaults, which decide what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, y: Any = None, relu: bool = True, factor: float = 2.0) -> Tensor:
        x = self.conv(x) * factor
        x = torch.relu(x) if relu else x
        return x if y is None else x + y


def test_inputs_with_defaults() -> None:
    """What example_inputs leave out has its default."""
    model = Optional().eval()
    int8 = converted(model)
    assert close(model, int8)
    (x,) = batch(X)
    assert torch.equal(int8(x, y=None), int8(x))
    with pytest.raises(AssertionError, match="specialized to have value None"):
        int8(x, x)
    prepared = prepare_fx(model, mapping(), (x, x))
    prepared(x, x)
    assert sqnr(model(x, x), convert_fx(prepared)(x, x)) > 25


def test_stubs_of_eager_mode_are_passed_through() -> None:
    wrapped = tq.QuantWrapper(conv()).eval()
    int8 = converted(wrapped)
    assert isinstance(int8, fx.GraphModule)
    assert len(calls(int8, nnq.Quantize)) == len(dequantizations(int8)) == 1
    assert close(wrapped, int8)
