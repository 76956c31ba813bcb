from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.quantized import FloatFunctional
from quantization_support import Net, images, oracle, prepared_net, quietly, trained_net

QCONFIG = tq.default_qconfig
OTHER = tq.default_per_channel_qconfig


def observed(model: nn.Module) -> set[str]:
    suffix = ".activation_post_process"
    return {
        name.removesuffix(suffix)
        for name, module in model.named_modules()
        if name.endswith(suffix) and isinstance(module, tq.ObserverBase)
    }


def small(**qconfigs: Any) -> nn.Sequential:
    """Three linear layers in two levels. ``_1_0=q`` sets the qconfig of the module "1.0"."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).eval()
    for path, qconfig in qconfigs.items():
        model.get_submodule(path.strip("_").replace("_", ".")).qconfig = qconfig
    return model


# Which modules are observed


def test_where_observers_go() -> None:
    model = trained_net()
    model.qconfig = QCONFIG
    leaves = {"quant", "stem", "block.conv", "block.add", "relu6", "fc"}
    assert observed(tq.prepare(model)) == leaves | {"block.bn"}
    assert observed(prepared_net()) == leaves
    fused = prepared_net().stem
    assert isinstance(fused, nni.ConvReLU2d)
    assert not hasattr(fused[0], "activation_post_process")


def test_the_same_modules_are_observed_as_in_torch() -> None:
    tao = oracle()
    model = quietly(trained_net, parts=tao, functional=torch.ao.nn.quantized.FloatFunctional)
    model.qconfig = quietly(tao.get_default_qconfig)
    theirs = quietly(tao.prepare, model)
    expected = {
        name for name, _ in theirs.named_modules() if name.endswith("activation_post_process")
    }
    model = trained_net()
    model.qconfig = QCONFIG
    assert {f"{name}.activation_post_process" for name in observed(tq.prepare(model))} == expected


def test_fused_forms_without_int8_module_are_not_looked_into() -> None:
    class LinearSoftsign(nni._FusedModule):
        pass

    fused = LinearSoftsign(nn.Linear(2, 2), nn.Softsign())
    model = nn.Sequential(fused, nn.Linear(2, 2)).eval()
    model.qconfig = QCONFIG
    assert observed(tq.prepare(model)) == {"1"}


def test_nothing_inside_of_multihead_attention_that_stays_float() -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4)).eval()
    model.qconfig = QCONFIG
    stays = {"float_to_observed_custom_module_class": {}}
    assert observed(tq.prepare(model, prepare_custom_config_dict=stays)) == {"1"}
    model[0].qconfig = None
    assert observed(tq.prepare(model)) == {"1"}


def test_a_leaf_as_the_model() -> None:
    for model in (nn.Linear(2, 2), nni.LinearReLU(nn.Linear(2, 2), nn.ReLU()), FloatFunctional()):
        model.qconfig = QCONFIG
        prepared = tq.prepare(model.eval())
        assert isinstance(prepared.activation_post_process, tq.MinMaxObserver)
        assert not isinstance(getattr(model, "activation_post_process", None), tq.MinMaxObserver)


def test_allow_list_and_non_leaf_list() -> None:
    class Container(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model = nn.Sequential(Container(), nn.Linear(2, 2), nn.Tanh()).eval()
    model.qconfig = QCONFIG
    assert observed(tq.prepare(model)) == {"0.inner", "1"}
    assert observed(tq.prepare(model, allow_list=[nn.Tanh])) == {"2"}
    assert observed(tq.prepare(model, observer_non_leaf_module_list=[Container])) == {"0", "1"}


def test_dynamic_activations_are_observed_at_the_input() -> None:
    activation = tq.MovingAverageMinMaxObserver.with_args(averaging_constant=1, is_dynamic=True)
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    model.qconfig = tq.QConfig(activation, tq.default_weight_observer)
    prepared = tq.prepare(model)
    prepared(torch.tensor([[7.0, -5.0]]))
    observer = prepared[0].activation_post_process
    assert (float(observer.min_val), float(observer.max_val)) == (-5.0, 7.0)


def test_tied_modules_are_observed_once() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, shared)}).eval()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    assert prepared["a"] is prepared["b"][0] is prepared["b"][1]
    assert len(prepared["a"]._forward_hooks) == 1


def test_the_observer_runs_before_other_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    model.qconfig = QCONFIG
    model[0].register_forward_hook(lambda module, args, out: out * 1000)
    prepared = tq.prepare(model)
    assert prepared(torch.ones(1, 2)).abs().max() > 50
    assert float(prepared[0].activation_post_process.max_val) < 5


# Which qconfig applies


def effective(model: nn.Module) -> dict[str, Any]:
    return {
        name: module.qconfig for name, module in model.named_modules() if type(module) is nn.Linear
    }


def test_own_attribute_then_name_then_class_then_parent() -> None:
    qconfigs = {"": QCONFIG, nn.Linear: OTHER, "1": None, "1.1": QCONFIG}
    model = small(_0=tq.default_debug_qconfig)
    tq.propagate_qconfig_(model, qconfigs)
    assert effective(model) == {"0": tq.default_debug_qconfig, "1.0": OTHER, "1.1": QCONFIG}
    model = small(_1=None)
    tq.propagate_qconfig_(model, {"": QCONFIG})
    assert effective(model) == {"0": QCONFIG, "1.0": None, "1.1": None}
    model = small(_1=None, _1_1=OTHER)
    model.qconfig = QCONFIG
    assert observed(tq.prepare(model)) == {"0", "1.1"}


def test_propagation_equals_torchs() -> None:
    for qconfigs in (
        {"": QCONFIG},
        {nn.Linear: OTHER},
        {"1": QCONFIG, "1.0": None},
        {nn.Sequential: QCONFIG, "0": OTHER},
    ):
        ours, theirs = small(_1_1=None), small(_1_1=None)
        tq.propagate_qconfig_(ours, qconfigs)
        quietly(oracle().propagate_qconfig_, theirs, qconfigs)
        for mine, other in zip(effective(ours).values(), effective(theirs).values(), strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                assert type(mine.weight()) is type(other.weight())


def test_the_assigned_object_stays() -> None:
    model = small()
    model.qconfig = QCONFIG
    assert tq.prepare(model)[1][0].qconfig is QCONFIG


def test_prepare_takes_a_dict() -> None:
    model = small()
    assert observed(tq.prepare(model, qconfig_dict={nn.Linear: QCONFIG, "1.0": None})) == {
        "0",
        "1.1",
    }
    assert not hasattr(model[0], "qconfig")


class Derived(nn.Linear):
    """Computes what nn.Linear does."""


def test_classes_in_a_dict_cover_subclasses_and_fused_modules() -> None:
    model = nn.Sequential(
        Derived(2, 2), nni.LinearReLU(nn.Linear(2, 2), nn.ReLU()), nn.Conv2d(2, 2, 1)
    ).eval()
    assert observed(tq.prepare(model, qconfig_dict={nn.Linear: QCONFIG})) == {"0", "1"}
    by_class = {"": QCONFIG, nn.Linear: None}
    assert observed(tq.prepare(model, qconfig_dict=by_class)) == {"2"}
    own = {"": QCONFIG, nn.Linear: None, Derived: QCONFIG, nni.LinearReLU: QCONFIG}
    assert observed(tq.prepare(model, qconfig_dict=own)) == {"0", "1", "2"}


def test_unknown_names_are_reported() -> None:
    for call in (tq.propagate_qconfig_, lambda m, d: tq.prepare(m, qconfig_dict=d), tq.explain):
        with pytest.warns(UserWarning, match=r"no modules named \['1\.7', 'fc'\]"):
            call(small(), {"": QCONFIG, "fc": None, "1.7": None})


def test_nothing_has_a_qconfig() -> None:
    with pytest.warns(UserWarning, match="no module has a qconfig"):
        prepared = tq.prepare(small())
    assert not observed(prepared)


def test_children_that_are_left_out() -> None:
    model = small()
    config = {"non_traceable_module_name": ["0"], "non_traceable_module_class": [nn.Sequential]}
    tq.propagate_qconfig_(model, {"": QCONFIG}, config)
    assert model.qconfig is QCONFIG
    assert not hasattr(model[0], "qconfig")
    assert not hasattr(model[1][0], "qconfig")


# Subclasses


class Altered(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def test_subclasses_are_observed_unless_they_override_forward() -> None:
    model = nn.Sequential(Derived(2, 2), Altered(2, 2)).eval()
    model.qconfig = QCONFIG
    with pytest.warns(
        UserWarning, match=r"'1' \(Altered\) stays float: Altered overrides forward of Linear"
    ):
        prepared = tq.prepare(model)
    assert observed(prepared) == {"0"}
    model[0].forward = lambda x: x
    model[1].qconfig = None
    with pytest.warns(UserWarning, match=r"'0' \(Derived\) stays float"):
        tq.prepare(model)


# Refusals


@pytest.mark.parametrize("training", [False, True])
def test_fused_batch_norm_in_training_form(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model = tq.fuse_modules_qat(model, ["0", "1", "2"]).train(training)
    model.qconfig = QCONFIG
    with pytest.raises(
        ValueError, match=r"'0' \(ConvBnReLU2d\).*model\.eval\(\) and fuse_modules\(\)"
    ):
        tq.prepare(model)
    model[0].qconfig = None
    if training:
        with pytest.warns(UserWarning, match=r"in training mode; '0\.1' \(BatchNorm2d\) would"):
            tq.prepare(model)
    else:
        tq.prepare(model)


def test_modules_in_training_form_are_named() -> None:
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.RReLU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers)
    model.qconfig = QCONFIG
    with pytest.warns(UserWarning, match="in training mode") as caught:
        prepared = tq.prepare(model)
    assert [str(warning.message) for warning in caught] == [
        "prepare: the model is in training mode; '1' (BatchNorm1d), '2' (Dropout), '3' (RReLU) and "
        "1 more would compute in training form, so calibration would see values that the int8 "
        "model never has; call model.eval() first (for quantization-aware training use prepare_qat)"
    ]
    assert caught[0].filename == __file__
    assert "0" in observed(prepared)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.GRU(4, 4),
        nn.InstanceNorm1d(4),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()).eval(),
    ],
)
def test_what_computes_the_same_in_training_mode_does_not_warn(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    model.qconfig = QCONFIG
    assert model.training
    tq.prepare(model)


def test_training_and_dynamic_quantization_take_training_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    tq.quantize_dynamic(model, {nn.Linear})
    model.qconfig = tq.get_default_qat_qconfig()
    tq.prepare_qat(model)


def test_quantized_and_prepared_models_are_refused() -> None:
    prepared = prepared_net()
    with pytest.raises(ValueError, match="'quant' has an observer already"):
        tq.prepare(prepared)
    converted = tq.convert(prepared)
    converted.qconfig = QCONFIG
    with pytest.raises(ValueError, match=r"'quant' \(Quantize\) is quantized already"):
        tq.prepare(converted)


def test_torchs_quantized_modules_are_refused() -> None:
    oracle()
    model = nn.Sequential(torch.ao.nn.quantized.ReLU6())
    model.qconfig = QCONFIG
    with pytest.raises(ValueError, match=r"'0' \(ReLU6\) is quantized already"):
        tq.prepare(model)


def test_quantized_input_to_a_prepared_model_names_the_module() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU6()).eval()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    q = octavo.quantize_per_tensor(torch.randn(2, 3), 0.1, 0, octavo.quint8)
    with pytest.raises(TypeError, match="MinMaxObserver of '1': observes one float tensor"):
        prepared(q)


# Custom modules


class Floaty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Observed(nn.Module):
    @classmethod
    def from_float(cls, module: Floaty) -> Observed:
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Int8(nn.Module):
    @classmethod
    def from_observed(cls, module: Observed) -> Int8:
        result = cls()
        result.top = float(module.activation_post_process.max_val)
        return result

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("inplace", [False, True])
def test_custom_modules(inplace: bool) -> None:
    model = nn.Sequential(Floaty(), nn.ModuleDict({"a": Floaty()})["a"]).eval()
    model.qconfig = QCONFIG
    config = {"float_to_observed_custom_module_class": {Floaty: Observed}}
    prepared = tq.prepare(model, inplace, prepare_custom_config_dict=config)
    assert [type(module) for module in prepared] == [Observed, Observed]
    prepared(torch.ones(3))
    config = {"observed_to_quantized_custom_module_class": {Observed: Int8}}
    converted = tq.convert(prepared, inplace=inplace, convert_custom_config_dict=config)
    assert [module.top for module in converted] == [2.0, 4.0]
    assert converted[1]._qualified_name == "1"


def test_custom_config_defaults() -> None:
    assert set(tq.get_default_custom_config_dict()) == set(
        quietly(oracle().get_default_custom_config_dict)
    )
    theirs = quietly(oracle().no_observer_set)
    assert {cls.__name__ for cls in tq.no_observer_set()} == {cls.__name__ for cls in theirs}


def test_static_mapping_is_a_subset_of_torchs() -> None:
    def spelled(mapping: dict[Any, Any]) -> dict[str, str]:
        return {key.__name__: value.__name__ for key, value in mapping.items()}

    ours = spelled(tq.get_default_static_quant_module_mappings())
    for rank in (1, 2, 3):  # Octavo's own
        assert ours.pop(f"ConvHardtanh{rank}d") == f"ConvHardtanh{rank}d"
        assert ours.pop(f"ConvBnHardtanh{rank}d") == f"ConvHardtanh{rank}d"
    for name in ("BatchNorm1d", "GELU", "SiLU"):  # likewise
        assert ours.pop(name) == name
    theirs = spelled(quietly(oracle().get_default_static_quant_module_mappings))
    assert ours.items() <= theirs.items()
    assert tq.get_static_quant_module_class(nn.Linear) is nnq.Linear
    assert tq.get_static_quant_module_class(nn.Linear, {nn.Linear: Int8}) is Int8
    with pytest.raises(ValueError, match=r"Tanh.* has no int8 class; known: .*'Linear'"):
        tq.get_static_quant_module_class(nn.Tanh)
    with pytest.raises(NotImplementedError):
        tq.get_static_quant_module_class(nn.Linear, is_reference=True)
    mapping = tq.get_default_static_quant_module_mappings()
    mapping.clear()
    assert tq.get_default_static_quant_module_mappings()


def test_net_is_what_the_tests_think(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prepared network computes the float result, and observers see what modules return."""
    model = trained_net()
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    assert torch.equal(prepared(images()), model(images()))
    assert isinstance(prepared, Net)
    low = prepared.fc.activation_post_process.min_val
    assert torch.equal(low, model(images()).min())


def test_a_prepared_copy_that_nobody_took() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(4, 4), tq.DeQuantStub()).eval()
    model.qconfig = tq.get_default_qconfig()
    tq.prepare(model)
    with pytest.warns(UserWarning, match=r"convert\(\) takes what prepare\(\) returned"):
        tq.convert(model)


def test_pairs_of_input_and_label_are_named() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(4, 4), tq.DeQuantStub()).eval()
    model.qconfig = tq.get_default_qconfig()
    with pytest.raises(TypeError, match=r"of '0': .* got tuple; .*with the input alone"):
        tq.prepare(model)((torch.randn(2, 4), torch.ones(2)))
