"""Quantization of a model as a graph: nobody has to edit it, put stubs in, or name what to fuse::

    prepared = prepare_fx(model.eval(), get_default_qconfig_mapping(), (example,))
    for batch in data:
        prepared(batch)
    int8_model = convert_fx(prepared)

Names, arguments and results are those of ``torch.ao.quantization.quantize_fx``. Differences:

* The default ``backend_config`` is :func:`get_octavo_backend_config`. With
  ``get_native_backend_config()`` the graph has the observers that it has in torch.
* ``example_inputs`` are run through the traced model, so that what is no float tensor is known.
* No argument is changed: not the model, and not the prepared model by ``convert_fx``.
* A value that keeps the scale of another (max pooling, reshapes) is not observed again.
* What keeps the scale of its input (pooling, reshapes) stays float between float operations.
* ``x - c``, ``c - x`` and ``x / c`` with a number run in int8 as ``x + c`` and ``x * c`` do, where
  both sides of them do; softmax does as a function too. A softmax of a sum or of a masked tensor
  stays float, and so does that sum: a mask of -1e9 would leave no steps for the other values.
* A layer that is called several times is fused with what follows each of its calls.
* What is converted runs int8 kernels of Octavo: a value is quantized where it enters int8 and
  dequantized where it leaves, and never between.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from octavo.quantization.backend_config import BackendConfig, get_octavo_backend_config
from octavo.quantization.fold import copy_model
from octavo.quantization.fused_calls import check_calls, remove_call_counts
from octavo.quantization.fx.convert import Converter, convert_model
from octavo.quantization.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    as_config,
)
from octavo.quantization.fx.fuse import fuse_graph
from octavo.quantization.fx.graph_module import (
    FusedGraphModule,
    ObservedGraphModule,
    adopt_hooks,
    preserve,
)
from octavo.quantization.fx.inplace import functionalize
from octavo.quantization.fx.origins import note_origins
from octavo.quantization.fx.partial import convert_parts, prepare_parts
from octavo.quantization.fx.prepare import prepare_model
from octavo.quantization.fx.reference import ReferenceConverter
from octavo.quantization.fx.tracer import (
    QuantizationTracer,
    Scope,
    ScopeContextManager,
    TracingError,
    trace,
    trace_through_functionals,
)
from octavo.quantization.qconfig_mapping import QConfigMapping, as_qconfig_mapping
from octavo.quantization.quant_type import QuantType
from octavo.quantization.quantization_mappings import (
    CUSTOM_QUANTIZED,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.quantize import check_float
from octavo.quantization.units import adopt_foreign_modules, disable_nested_tensors

__all__ = [
    "BackendConfig",
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "ObservedGraphModule",
    "PrepareCustomConfig",
    "QConfigMapping",
    "QuantizationTracer",
    "Scope",
    "ScopeContextManager",
    "TracingError",
    "attach_preserved_attrs_to_model",
    "convert_fx",
    "convert_to_reference_fx",
    "fuse_fx",
    "prepare_fx",
    "prepare_qat_fx",
    "prepare_traceable_fx",
]


def attach_preserved_attrs_to_model(
    model: fx.GraphModule | nn.Module, preserved_attrs: Mapping[str, Any]
) -> None:
    """Gives a model attributes, which deep copies of a GraphModule keep too.

    Source: ``torch.ao.quantization.quantize_fx.attach_preserved_attrs_to_model``.
    """
    preserve(model, preserved_attrs)


def _backend(given: Any) -> BackendConfig:
    if given is None:
        return get_octavo_backend_config()
    if isinstance(given, Mapping):
        return BackendConfig.from_dict(given)
    if not isinstance(given, BackendConfig):
        raise TypeError(
            "backend_config must be a BackendConfig of octavo.quantization.backend_config, a dict "
            f"of one or None, got {type(given).__name__}"
        )
    return given


def _mapping(given: Any, caller: str) -> QConfigMapping:
    if isinstance(given, Mapping):
        warnings.warn(
            f"{caller}: a dict as qconfig_mapping is deprecated; use QConfigMapping.from_dict",
            FutureWarning,
            stacklevel=3,
        )
        return QConfigMapping.from_dict(given)
    mapping = as_qconfig_mapping(given)
    if mapping is None:
        raise TypeError(
            f"{caller}: qconfig_mapping must be a QConfigMapping such as "
            f"get_default_qconfig_mapping(), got {type(given).__name__}"
        )
    return mapping


def _copy_of(model: Any, caller: str) -> nn.Module:
    """A copy of a float model that can be traced."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}: model must be an nn.Module, got {type(model).__name__}")
    if isinstance(model, ObservedGraphModule):
        raise ValueError(f"{caller}: the model is prepared already")
    check_float(model, caller)
    check_calls(model)
    copied: nn.Module = copy_model(model)
    remove_call_counts(copied)
    adopt_foreign_modules(copied)
    disable_nested_tensors(copied)
    trace_through_functionals(copied)
    for module in copied.modules():
        vars(module).pop("qconfig", None)
    return copied


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: FuseCustomConfig | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
) -> fx.GraphModule:
    """Fuses what follows each other in the graph of a model in eval mode: batch norms are folded
    into the weights before them, ReLUs become parts of the module before them.

    Args:
        model: a float model.
        fuse_custom_config: attributes of the model to keep.
        backend_config: what to fuse.

    Returns:
        A graph module with copies of the modules. Shapes are not known here: a BatchNorm1d is
        folded as for batches of features (after Linear) and of signals (after Conv1d).

    Raises:
        ValueError: a model in training mode; one that is quantized already.
        TracingError: a model that cannot be traced, with module and line.

    Source: ``torch.ao.quantization.quantize_fx.fuse_fx``.
    """
    if model.training:
        raise ValueError(
            "fuse_fx: the model is in training mode, and batch norms are folded in eval mode only; "
            "call model.eval() first"
        )
    config = as_config(fuse_custom_config, FuseCustomConfig, "fuse_custom_config")
    copied = _copy_of(model, "fuse_fx")
    graph, scopes = trace(copied, (), (), "fuse_fx")
    traced = fx.GraphModule(copied, graph)
    note_origins(graph, traced, scopes)
    functionalize(graph, traced, "fuse_fx")
    fuse_graph(traced, _backend(backend_config), is_qat=False)
    result = FusedGraphModule(traced, graph)
    adopt_hooks(result, copied)
    _keep_attributes(result, model, config.preserved_attributes)
    return result


def _keep_attributes(result: nn.Module, model: nn.Module, names: list[str]) -> None:
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise AttributeError(f"preserved_attributes: the model has no attributes {missing}")
    preserve(result, {name: getattr(model, name) for name in names})


def prepare_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | dict[str, Any],
    example_inputs: tuple[Any, ...],
    prepare_custom_config: PrepareCustomConfig | dict[str, Any] | None = None,
    _equalization_config: QConfigMapping | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
) -> fx.GraphModule:
    """Traces and fuses a model, and puts observers where values will be int8, for calibration.

    Args:
        model: a float model in eval mode; it is not changed.
        qconfig_mapping: how to quantize what; dynamic and weight-only QConfigs too.
        example_inputs: positional inputs of the model. It is run on them once, to know which
            values are float tensors; their numbers do not matter. Those that are None, a bool or a
            str, which control flow may depend on, hold for every call.
        prepare_custom_config: what applies to single modules, see :class:`PrepareCustomConfig`.
        _equalization_config: not supported; see
            :func:`octavo.quantization.input_weight_equalization`.
        backend_config: what is quantized; default :func:`get_octavo_backend_config`.

    Returns:
        A graph module to calibrate and to give to :func:`convert_fx`. It can be copied and pickled.

    Raises:
        TracingError: a model that cannot be traced, with module and line.
        ValueError: a model in training mode, or quantized or prepared already; example inputs that
            it does not run on; an operation in place that a graph cannot express.
        TypeError: arguments of another type.

    Source: ``torch.ao.quantization.quantize_fx.prepare_fx``.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ValueError(
            "prepare_fx: the model is in training mode; call model.eval() first (for "
            "quantization-aware training use prepare_qat_fx)"
        )
    if _equalization_config is not None:
        raise NotImplementedError(
            "prepare_fx: _equalization_config is not supported; call "
            "octavo.quantization.input_weight_equalization(model, ...) before prepare_fx"
        )
    return _prepare(
        model,
        _mapping(qconfig_mapping, "prepare_fx"),
        example_inputs,
        prepare_custom_config,
        backend_config,
        False,
        "prepare_fx",
    )


def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | dict[str, Any],
    example_inputs: tuple[Any, ...],
    prepare_custom_config: PrepareCustomConfig | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
) -> fx.GraphModule:
    """As :func:`prepare_fx`, for a model in training mode that is to be trained on: layers round
    their weights, values are rounded where they will be int8, batch norms stay until
    :func:`convert_fx`.

    Raises: as :func:`prepare_fx`; ValueError for a model in eval mode.

    Source: ``torch.ao.quantization.quantize_fx.prepare_qat_fx``.
    """
    if isinstance(model, nn.Module) and not model.training:
        raise ValueError(
            "prepare_qat_fx: the model is in eval mode; call model.train() first (for quantization "
            "after training use prepare_fx)"
        )
    return _prepare(
        model,
        _mapping(qconfig_mapping, "prepare_qat_fx"),
        example_inputs,
        prepare_custom_config,
        backend_config,
        True,
        "prepare_qat_fx",
    )


def _prepare(
    model: nn.Module,
    mapping: QConfigMapping,
    example_inputs: Any,
    custom: Any,
    backend: Any,
    is_qat: bool,
    caller: str,
) -> fx.GraphModule:
    config = as_config(custom, PrepareCustomConfig, "prepare_custom_config")
    copied = _copy_of(model, caller)
    result = prepare_model(
        copied, mapping, example_inputs, config, _backend(backend), is_qat, caller
    )
    _keep_attributes(result, model, config.preserved_attributes)
    return result


def prepare_traceable_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | dict[str, Any],
    example_inputs: tuple[Any, ...],
    prepare_custom_config: PrepareCustomConfig | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
) -> nn.Module:
    """As :func:`prepare_fx`, for a model that need not be traceable: where the code of a module
    cannot be traced it stays as it is, and the modules in it are prepared one by one, each with
    float inputs and outputs.

    Args: as :func:`prepare_fx`. Of ``prepare_custom_config``, non-traceable names and classes
        count.

    Returns:
        A graph module if all could be traced; otherwise a copy of the model with graph modules in
        it. Both are for :func:`convert_fx`.

    Raises: as :func:`prepare_fx`, but for TracingError.

    Warns about the modules whose code cannot be traced, with the line. Octavo's own.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ValueError(
            "prepare_traceable_fx: the model is in training mode; call model.eval() first"
        )
    mapping = _mapping(qconfig_mapping, "prepare_traceable_fx")
    config = as_config(prepare_custom_config, PrepareCustomConfig, "prepare_custom_config")
    copied = _copy_of(model, "prepare_traceable_fx")
    return prepare_parts(copied, mapping, example_inputs, config, _backend(backend_config))


def convert_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | dict[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
    keep_original_weights: bool = False,
) -> fx.GraphModule:
    """The int8 model of a calibrated one.

    Args:
        graph_module: what :func:`prepare_fx`, :func:`prepare_qat_fx` or
            :func:`prepare_traceable_fx` returned, after calibration or training; it is not changed.
        convert_custom_config: what applies to single modules, see :class:`ConvertCustomConfig`.
        _remove_qconfig: take qconfigs off what stays float.
        qconfig_mapping: not needed, and not supported: the prepared model knows it.
        backend_config: accepted for torch's sake; the prepared model knows it.
        keep_original_weights: not supported.

    Returns:
        A graph module of Octavo's quantized modules, with float inputs and outputs. Its
        ``quantization_report`` says what became of each module and operation, and why.

    Raises:
        TypeError: something that was not prepared.
        RuntimeError: observers that saw nothing; all are named.
        ValueError: NaN or Inf in a weight; modules that are not on the CPU.

    Source: ``torch.ao.quantization.quantize_fx.convert_fx``.
    """
    if qconfig_mapping is not None:
        raise NotImplementedError(
            "convert_fx: qconfig_mapping is not supported; give prepare_fx another mapping"
        )
    if keep_original_weights:
        raise NotImplementedError("convert_fx: keep_original_weights is not supported")
    return _convert(graph_module, convert_custom_config, _remove_qconfig, "convert_fx", Converter)


def convert_to_reference_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | dict[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | dict[str, Any] | None = None,
    backend_config: BackendConfig | dict[str, Any] | None = None,
) -> fx.GraphModule:
    """The reference form of a calibrated model: float operations, ``Quantize`` modules and
    dequantization between them, and float layers whose weights have the values of the int8 ones.

    Args, errors: as :func:`convert_fx`.

    Returns:
        A graph module. Layers have ``weight_scale`` and ``weight_zero_point`` as buffers.

    Source: ``torch.ao.quantization.quantize_fx.convert_to_reference_fx``, whose layers are of
    ``torch.ao.nn.quantized.reference``.
    """
    if qconfig_mapping is not None:
        raise NotImplementedError(
            "convert_to_reference_fx: qconfig_mapping is not supported; give prepare_fx another "
            "mapping"
        )
    return _convert(
        graph_module,
        convert_custom_config,
        _remove_qconfig,
        "convert_to_reference_fx",
        ReferenceConverter,
    )


def _convert(
    model: Any, custom_config: Any, remove_qconfig: bool, caller: str, kind: Any
) -> fx.GraphModule:
    config = as_config(custom_config, ConvertCustomConfig, "convert_custom_config")
    custom = {
        **CUSTOM_QUANTIZED,
        **config.observed_to_quantized_mapping.get(QuantType.STATIC, {}),
    }

    def convert(prepared: ObservedGraphModule) -> fx.GraphModule:
        table = get_default_static_quant_module_mappings()
        return convert_model(prepared, table, custom, remove_qconfig, caller, kind)

    whole = isinstance(model, ObservedGraphModule)
    if not whole and not (
        isinstance(model, nn.Module)
        and any(isinstance(part, ObservedGraphModule) for part in model.modules())
    ):
        raise TypeError(
            f"{caller}: expected what prepare_fx or prepare_qat_fx returned, got "
            f"{type(model).__name__}"
        )
    copied = copy_model(model)
    result: Any = convert(copied) if whole else convert_parts(copied, convert)
    _keep_attributes(result, model, config.preserved_attributes)
    return result  # type: ignore[no-any-return]
