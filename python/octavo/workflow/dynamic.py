"""Which modules a DynamicQuantConfig quantizes, and quantizing them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from octavo.quantization.qconfig import QConfig, float_qparams_weight_only_qconfig
from octavo.quantization.quantization_mappings import get_default_dynamic_quant_module_mappings
from octavo.quantization.quantize_dynamic import explain_dynamic, quantize_dynamic
from octavo.quantization.swap import replaced
from octavo.quantization.units import canonical_type, find_entry, iter_modules
from octavo.workflow.capture import Configs
from octavo.workflow.config import DynamicQuantConfig, QuantConfig

__all__ = ["dynamic_spec", "float_reasons", "qconfig_for", "quantize_named", "quantize_parts"]

_TABLES = (nn.Embedding, nn.EmbeddingBag)


def dynamic_spec(
    model: nn.Module, configs: Configs, config: QuantConfig
) -> dict[str, tuple[DynamicQuantConfig, QConfig]]:
    """The modules that are quantized dynamically, by path, and how.

    These are the modules whose config is dynamic: those that ``quantize_dynamic`` takes by itself
    (Linear, attention and recurrent layers), and others with a dynamic form (convolutions,
    embeddings) where a local rule names them.
    """
    usual = {row.name for row in explain_dynamic(model) if row.becomes}
    table = get_default_dynamic_quant_module_mappings()
    result: dict[str, tuple[DynamicQuantConfig, QConfig]] = {}
    for name, module in iter_modules(model):
        own = configs.get(name)
        if not isinstance(own, DynamicQuantConfig):
            continue
        if name not in usual and (own is config or find_entry(module, table)[0] is None):
            continue
        result[name] = (own, qconfig_for(module, own))
    return result


def qconfig_for(module: nn.Module, config: DynamicQuantConfig) -> QConfig:
    """What a config that quantizes stands for; embedding tables have one of their own."""
    if issubclass(canonical_type(module), _TABLES):
        return float_qparams_weight_only_qconfig
    qconfig = config.qconfig()
    assert qconfig is not None
    return qconfig


def float_reasons(model: nn.Module, configs: Configs) -> dict[str, str]:
    """Why modules stay float that have a dynamic form, by path."""
    table = get_default_dynamic_quant_module_mappings()
    reasons = {}
    for name, module in iter_modules(model):
        if configs.get(name) is None:
            reasons[name] = "the config leaves it float"
        elif find_entry(module, table)[0] is not None:
            reasons[name] = "stays float unless set_local gives it a DynamicQuantConfig"
    return reasons


def quantize_named(
    model: nn.Module, spec: Mapping[str, tuple[DynamicQuantConfig, QConfig]]
) -> nn.Module:
    """A copy of a model with some modules quantized dynamically; the model itself is path ""."""
    return quantize_dynamic(model, {name: qconfig for name, (_, qconfig) in spec.items()})


def quantize_parts(
    model: nn.Module, spec: Mapping[str, tuple[DynamicQuantConfig, QConfig]]
) -> nn.Module:
    """Quantizes modules of a partly quantized model dynamically, in place; returns the model."""
    made = {}
    for name, how in spec.items():
        module = model.get_submodule(name)
        made[id(module)] = quantize_named(module, {"": how})
    return replaced(model, made)
