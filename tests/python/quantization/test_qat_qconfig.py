"""QConfigs and mappings for training, and the rules of a mapping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq
from octavo.quantization import qconfig_mapping
from octavo.quantization.units import resolve_qconfigs
from quantization_support import oracle, quietly

BACKENDS = ("x86", "fbgemm", "onednn", "qnnpack")


def assert_same(ours: Any, theirs: Any) -> None:
    """Both constructors make modules of the same name with the same settings."""
    if theirs is None or isinstance(theirs, type):
        assert getattr(ours, "__name__", None) == getattr(theirs, "__name__", None)
        return
    mine, other = ours(), quietly(theirs)
    assert type(mine).__name__ == type(other).__name__
    for name in ("dtype", "qscheme", "quant_min", "quant_max", "ch_axis", "is_dynamic"):
        assert getattr(mine, name, None) == getattr(other, name, None), name
    inner, other_inner = (getattr(m, "activation_post_process", None) for m in (mine, other))
    assert type(inner).__name__ == type(other_inner).__name__


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [0, 1])
def test_qat_backends_have_torchs_settings(backend: str, version: int) -> None:
    ours = tq.get_default_qat_qconfig(backend, version)
    theirs = quietly(oracle().get_default_qat_qconfig, backend, version)
    assert_same(ours.activation, theirs.activation)
    assert_same(ours.weight, theirs.weight)


def test_the_qat_default_uses_all_eight_bits_and_weights_per_channel() -> None:
    qconfig = tq.get_default_qat_qconfig()
    assert tq.qconfig_equals(qconfig, tq.get_default_qat_qconfig("octavo", 1))
    activation, weight = qconfig.activation(), qconfig.weight()
    assert (activation.dtype, activation.quant_min, activation.quant_max) == (octavo.quint8, 0, 255)
    assert (weight.qscheme, weight.ch_axis) == (octavo.per_channel_symmetric, 0)
    with pytest.raises(ValueError, match=r"_qat_qconfig: backend must be one of.*'neon'"):
        tq.get_default_qat_qconfig("neon")
    with pytest.raises(ValueError, match="version must be 0 or 1, got 2"):
        tq.get_default_qat_qconfig(version=2)


@pytest.mark.parametrize("is_qat", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_default_mappings_equal_torchs(backend: str, is_qat: bool) -> None:
    name = "get_default_qat_qconfig_mapping" if is_qat else "get_default_qconfig_mapping"
    ours, theirs = getattr(tq, name)(backend), quietly(getattr(oracle(), name), backend)
    assert list(ours.object_type_qconfigs) == list(theirs.object_type_qconfigs)
    for key, other in theirs.object_type_qconfigs.items():
        mine = ours.object_type_qconfigs[key]
        assert_same(mine.activation, other.activation)
        assert_same(mine.weight, other.weight)
    assert_same(ours.global_qconfig.activation, theirs.global_qconfig.activation)


@pytest.mark.parametrize("is_qat", [False, True])
def test_symmetric_qnnpack_mappings_equal_torchs(is_qat: bool) -> None:
    name = f"_get_symmetric_qnnpack_{'qat_' if is_qat else ''}qconfig_mapping"
    theirs = quietly(getattr(oracle().qconfig_mapping, name))
    ours = getattr(qconfig_mapping, name)()
    for key, other in theirs.object_type_qconfigs.items():
        assert_same(ours.object_type_qconfigs[key].activation, other.activation)
        assert_same(ours.object_type_qconfigs[key].weight, other.weight)


def test_the_default_mapping_keeps_transposed_convolutions_per_channel() -> None:
    mapping = tq.get_default_qconfig_mapping()
    weight = mapping.object_type_qconfigs[nn.ConvTranspose2d].weight()
    assert weight.qscheme == octavo.per_channel_symmetric
    per_tensor = tq.get_default_qconfig_mapping("x86").object_type_qconfigs[nn.ConvTranspose2d]
    assert per_tensor.weight().qscheme == octavo.per_tensor_symmetric


def test_dicts_of_mappings() -> None:
    with pytest.warns(FutureWarning, match="use get_default_qconfig_mapping"):
        rules = tq.get_default_qconfig_dict()
    assert set(rules) == set(tq.QConfigMapping().to_dict())
    with pytest.warns(FutureWarning, match="use get_default_qat_qconfig_mapping"):
        tq.get_default_qat_qconfig_dict("x86")
    mapping = tq.QConfigMapping.from_dict(rules)
    assert repr(mapping).startswith("QConfigMapping (\n global_qconfig\n  QConfig(")
    again = mapping.to_dict()
    assert again == rules
    with pytest.raises(ValueError, match="unknown keys \\['module'\\]"):
        tq.QConfigMapping.from_dict({"module": []})
    with pytest.raises(ValueError, match="not a regular expression"):
        tq.QConfigMapping().set_module_name_regex("(", None)


A, B, C, D = (
    tq.QConfig(tq.MinMaxObserver.with_args(eps=2.0**-k), tq.default_weight_observer)
    for k in range(4)
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
        self.deep = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))


def found(rules: Any, model: nn.Module | None = None) -> dict[str, Any]:
    model = Model() if model is None else model
    qconfigs = resolve_qconfigs(model, rules)
    return {name: qconfigs[id(module)] for name, module in model.named_modules()}


def test_rules_in_order_of_priority() -> None:
    mapping = tq.QConfigMapping().set_global(A)
    assert set(found(mapping).values()) == {A}
    mapping.set_object_type(nn.Linear, B)
    assert found(mapping)["body.2"] is B
    assert found(mapping)["body.3"] is A
    mapping.set_module_name_regex(r"body\.[01]", C).set_module_name_regex(r"body\..*", D)
    result = found(mapping)
    assert [result[f"body.{i}"] for i in range(4)] == [C, C, D, D]
    assert result["first"] is B
    mapping.set_module_name("body", A).set_module_name("body.2", None)
    result = found(mapping)
    assert [result[f"body.{i}"] for i in range(4)] == [A, A, None, A]
    mapping.set_module_name_object_type_order("body", nn.Linear, 1, D)
    assert found(mapping)["body.2"] is D
    assert found(mapping)["body.0"] is A


def test_names_reach_into_modules_and_none_leaves_float() -> None:
    mapping = tq.QConfigMapping().set_global(A).set_module_name("deep", None)
    result = found(mapping)
    assert result["deep"] is result["deep.0.0"] is None
    assert result["first"] is A
    mapping.set_module_name("deep.0.0", B)
    assert found(mapping)["deep.0.0"] is B
    assert found(mapping)["deep.0"] is None


def test_types_reach_into_modules() -> None:
    class Block(nn.Sequential):
        pass

    model = Model()
    model.deep = Block(nn.Linear(2, 2), nn.ReLU())
    result = found(tq.QConfigMapping().set_global(A).set_object_type(Block, None), model)
    assert result["deep.0"] is result["deep.1"] is None
    assert result["body.0"] is A


def test_an_attribute_of_the_module_comes_first() -> None:
    model = Model()
    model.deep.qconfig = C
    mapping = tq.QConfigMapping().set_global(A).set_module_name("deep", B)
    assert found(mapping, model)["deep"] is C
    assert found(mapping, model)["deep.0.0"] is C


def test_prepare_takes_mappings_their_dicts_and_plain_dicts() -> None:
    mapping = tq.QConfigMapping().set_global(A).set_module_name("body", None)
    forms: tuple[Any, ...] = (
        mapping,
        mapping.to_dict(),
        {"": A, "module_name": [("body", None)]},
        {"": A, "body": None},
        quietly(lambda: oracle().QConfigMapping().set_global(A).set_module_name("body", None)),
    )
    for rules in forms:
        prepared = tq.prepare(Model().eval(), qconfig_dict=rules)
        observed = {
            n.rpartition(".")[0] for n, m in prepared.named_modules() if "post_process" in n
        }
        assert observed == {"first", "deep.0.0"}
    with pytest.warns(UserWarning, match=r"no modules named \['tail'\]"):
        tq.prepare(Model().eval(), qconfig_dict=mapping.set_module_name("tail", A))


def test_a_whole_model_by_mapping() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(4, 4), nn.ReLU(), tq.DeQuantStub()).eval()
    prepared = tq.prepare(model, qconfig_dict=tq.get_default_qconfig_mapping())
    x = torch.randn(64, 4)
    expected = prepared(x)
    out = tq.convert(prepared)(x)
    torch.testing.assert_close(out, expected, atol=0.1, rtol=0)


def test_qconfig_dynamic_warns() -> None:
    with pytest.warns(FutureWarning, match="use QConfig"):
        old = tq.QConfigDynamic(weight=tq.default_weight_observer)
    assert old.activation is nn.Identity
    with (
        pytest.warns(FutureWarning, match="use QConfig"),
        pytest.raises(ValueError, match="observer class"),
    ):
        tq.QConfigDynamic(weight=tq.MinMaxObserver())
