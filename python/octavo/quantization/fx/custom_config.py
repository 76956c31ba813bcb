"""PrepareCustomConfig, ConvertCustomConfig and FuseCustomConfig: what applies to single modules of
a model that is quantized as a graph.

Source: ``torch.ao.quantization.fx.custom_config``, whose names, arguments and dicts these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from octavo.quantization.backend_config.backend_config import BackendConfig
from octavo.quantization.qconfig_mapping import QConfigMapping, as_qconfig_mapping
from octavo.quantization.quant_type import QuantType

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "StandaloneModuleConfigEntry",
]

_QUANT_TYPES = {kind.name.lower(): kind for kind in QuantType}


@dataclass
class StandaloneModuleConfigEntry:
    """How a standalone module is prepared; what is None comes from the model it is in."""

    qconfig_mapping: QConfigMapping | None
    example_inputs: tuple[Any, ...]
    prepare_custom_config: PrepareCustomConfig | None
    backend_config: BackendConfig | None

    @property
    def quantized_inputs(self) -> list[int]:
        """Which arguments the module takes as quantized tensors."""
        config = self.prepare_custom_config
        return [] if config is None else config.input_quantized_indexes

    @property
    def quantized_outputs(self) -> list[int]:
        """Which results the module gives as quantized tensors."""
        config = self.prepare_custom_config
        return [] if config is None else config.output_quantized_indexes


def _shown(config: Any) -> str:
    said = {key: value for key, value in vars(config).items() if len(value) > 0}
    return f"{type(config).__name__}({said})"


def _quant_type(name: str, caller: str) -> QuantType:
    if name not in _QUANT_TYPES:
        raise ValueError(
            f"{caller}: a kind of quantization is one of {list(_QUANT_TYPES)}, got {name!r}"
        )
    return _QUANT_TYPES[name]


class PrepareCustomConfig:
    """What applies to single modules in :func:`octavo.quantization.quantize_fx.prepare_fx`.

    Each method sets one thing and returns the config.
    """

    def __init__(self) -> None:
        self.standalone_module_names: dict[str, StandaloneModuleConfigEntry] = {}
        self.standalone_module_classes: dict[type, StandaloneModuleConfigEntry] = {}
        self.float_to_observed_mapping: dict[QuantType, dict[type, type]] = {}
        self.non_traceable_module_names: list[str] = []
        self.non_traceable_module_classes: list[type] = []
        self.input_quantized_indexes: list[int] = []
        self.output_quantized_indexes: list[int] = []
        self.preserved_attributes: list[str] = []

    def __repr__(self) -> str:
        return _shown(self)

    def set_standalone_module_name(
        self,
        module_name: str,
        qconfig_mapping: QConfigMapping | None,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | None,
        backend_config: BackendConfig | None,
    ) -> PrepareCustomConfig:
        """A module, by its path, that becomes a graph of its own. What is None is as in the model
        around it; without a config of its own it takes and gives float tensors.
        """
        self.standalone_module_names[module_name] = StandaloneModuleConfigEntry(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        return self

    def set_standalone_module_class(
        self,
        module_class: type,
        qconfig_mapping: QConfigMapping | None,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | None,
        backend_config: BackendConfig | None,
    ) -> PrepareCustomConfig:
        """As :meth:`set_standalone_module_name`, for all modules of a class."""
        self.standalone_module_classes[module_class] = StandaloneModuleConfigEntry(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        return self

    def set_float_to_observed_mapping(
        self,
        float_class: type,
        observed_class: type,
        quant_type: QuantType = QuantType.STATIC,
    ) -> PrepareCustomConfig:
        """A class that is replaced as a whole: ``observed_class.from_float(module)`` observes it.

        Raises:
            ValueError: another kind than static quantization.
        """
        if quant_type != QuantType.STATIC:
            raise ValueError(
                "set_float_to_observed_mapping: quant_type must be QuantType.STATIC, got "
                f"{quant_type!r}"
            )
        self.float_to_observed_mapping.setdefault(quant_type, {})[float_class] = observed_class
        return self

    def set_non_traceable_module_names(self, module_names: list[str]) -> PrepareCustomConfig:
        """Paths of modules that are called as they are, instead of being traced."""
        self.non_traceable_module_names = module_names
        return self

    def set_non_traceable_module_classes(self, module_classes: list[type]) -> PrepareCustomConfig:
        """Classes of modules that are called as they are, instead of being traced."""
        self.non_traceable_module_classes = module_classes
        return self

    def set_input_quantized_indexes(self, indexes: list[int]) -> PrepareCustomConfig:
        """Which inputs the int8 model takes as quantized tensors."""
        self.input_quantized_indexes = indexes
        return self

    def set_output_quantized_indexes(self, indexes: list[int]) -> PrepareCustomConfig:
        """Which outputs the int8 model gives as quantized tensors."""
        self.output_quantized_indexes = indexes
        return self

    def set_preserved_attributes(self, attributes: list[str]) -> PrepareCustomConfig:
        """Attributes of the model that its graph has too, though ``forward`` does not use them."""
        self.preserved_attributes = attributes
        return self

    @classmethod
    def from_dict(cls, prepare_custom_config_dict: Mapping[str, Any]) -> PrepareCustomConfig:
        """From "standalone_module_name" and "standalone_module_class" (lists of tuples: name or
        class, qconfig_mapping, example_inputs, prepare_custom_config, backend_config),
        "float_to_observed_custom_module_class" (``{"static": {Float: Observed}}``),
        "non_traceable_module_name", "non_traceable_module_class", "input_quantized_idxs",
        "output_quantized_idxs" and "preserved_attributes", each of which may be missing.

        Raises:
            ValueError: an unknown key; something else in one of them.
        """
        given = dict(prepare_custom_config_dict)
        result = cls()
        for kind in ("name", "class"):
            key = f"standalone_module_{kind}"
            for what, *settings in given.pop(key, ()):
                getattr(result, f"set_{key}")(what, *_standalone(key, *settings))
        for name, classes in given.pop("float_to_observed_custom_module_class", {}).items():
            kind_of = _quant_type(name, "PrepareCustomConfig.from_dict")
            for float_class, observed in classes.items():
                result.set_float_to_observed_mapping(float_class, observed, kind_of)
        for key, attribute in _LISTS.items():
            setattr(result, attribute, given.pop(key, []))
        _no_other(given, "PrepareCustomConfig")
        return result

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes; without what is empty."""
        result: dict[str, Any] = {
            "standalone_module_name": _entries(self.standalone_module_names),
            "standalone_module_class": _entries(self.standalone_module_classes),
            "float_to_observed_custom_module_class": _by_name(self.float_to_observed_mapping),
        }
        for key, attribute in _LISTS.items():
            result[key] = getattr(self, attribute)
        return {key: value for key, value in result.items() if value}


_LISTS = {
    "non_traceable_module_name": "non_traceable_module_names",
    "non_traceable_module_class": "non_traceable_module_classes",
    "input_quantized_idxs": "input_quantized_indexes",
    "output_quantized_idxs": "output_quantized_indexes",
    "preserved_attributes": "preserved_attributes",
}


def _no_other(rest: Mapping[str, Any], owner: str) -> None:
    if rest:
        raise ValueError(f"{owner}.from_dict: unknown keys {sorted(map(str, rest))}")


def _standalone(
    key: str, mapping: Any, example_inputs: Any, custom: Any, backend: Any
) -> tuple[Any, ...]:
    """The settings of a standalone module, made from dicts where they are such."""
    qconfigs = None if mapping is None else as_qconfig_mapping(mapping)
    if isinstance(mapping, Mapping) and qconfigs is None:
        qconfigs = QConfigMapping.from_dict(mapping)
    if isinstance(custom, Mapping):
        custom = PrepareCustomConfig.from_dict(custom)
    if isinstance(backend, Mapping):
        backend = BackendConfig.from_dict(backend)
    for value, cls in (
        (qconfigs if mapping is None else qconfigs or mapping, QConfigMapping),
        (custom, PrepareCustomConfig),
        (backend, BackendConfig),
    ):
        if value is not None and not isinstance(value, cls):
            raise ValueError(
                f"PrepareCustomConfig.from_dict: '{key}' must have a {cls.__name__}, a dict of one "
                f"or None, got {value!r}"
            )
    return qconfigs, example_inputs, custom, backend


def _entries(settings: Mapping[Any, StandaloneModuleConfigEntry]) -> list[tuple[Any, ...]]:
    return [
        (
            key,
            entry.qconfig_mapping.to_dict() if entry.qconfig_mapping else None,
            entry.example_inputs,
            entry.prepare_custom_config.to_dict() if entry.prepare_custom_config else None,
            entry.backend_config,
        )
        for key, entry in settings.items()
    ]


def _by_name(mapping: Mapping[QuantType, Any]) -> dict[str, Any]:
    return {kind.name.lower(): classes for kind, classes in mapping.items()}


class ConvertCustomConfig:
    """What applies to single modules in :func:`octavo.quantization.quantize_fx.convert_fx`."""

    def __init__(self) -> None:
        self.observed_to_quantized_mapping: dict[QuantType, dict[type, type]] = {}
        self.preserved_attributes: list[str] = []

    def __repr__(self) -> str:
        return _shown(self)

    def set_observed_to_quantized_mapping(
        self,
        observed_class: type,
        quantized_class: type,
        quant_type: QuantType = QuantType.STATIC,
    ) -> ConvertCustomConfig:
        """``quantized_class.from_observed(module)`` makes the int8 module of an observed one."""
        self.observed_to_quantized_mapping.setdefault(quant_type, {})[observed_class] = (
            quantized_class
        )
        return self

    def set_preserved_attributes(self, attributes: list[str]) -> ConvertCustomConfig:
        """Attributes of the prepared model that the int8 one has too."""
        self.preserved_attributes = attributes
        return self

    @classmethod
    def from_dict(cls, convert_custom_config_dict: Mapping[str, Any]) -> ConvertCustomConfig:
        """From "observed_to_quantized_custom_module_class" (``{"static": {Observed: Quantized}}``)
        and "preserved_attributes".

        Raises:
            ValueError: an unknown key or kind of quantization.
        """
        given = dict(convert_custom_config_dict)
        result = cls()
        for name, classes in given.pop("observed_to_quantized_custom_module_class", {}).items():
            kind = _quant_type(name, "ConvertCustomConfig.from_dict")
            for observed, quantized in classes.items():
                result.set_observed_to_quantized_mapping(observed, quantized, kind)
        result.set_preserved_attributes(given.pop("preserved_attributes", []))
        _no_other(given, "ConvertCustomConfig")
        return result

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes; without what is empty."""
        result = {
            "observed_to_quantized_custom_module_class": _by_name(
                self.observed_to_quantized_mapping
            ),
            "preserved_attributes": self.preserved_attributes,
        }
        return {key: value for key, value in result.items() if value}


class FuseCustomConfig:
    """What applies in :func:`octavo.quantization.quantize_fx.fuse_fx`."""

    def __init__(self) -> None:
        self.preserved_attributes: list[str] = []

    def __repr__(self) -> str:
        return _shown(self)

    def set_preserved_attributes(self, attributes: list[str]) -> FuseCustomConfig:
        """Attributes of the model that its graph has too."""
        self.preserved_attributes = attributes
        return self

    @classmethod
    def from_dict(cls, fuse_custom_config_dict: Mapping[str, Any]) -> FuseCustomConfig:
        """From "preserved_attributes". Raises ValueError for another key."""
        given = dict(fuse_custom_config_dict)
        result = cls().set_preserved_attributes(given.pop("preserved_attributes", []))
        _no_other(given, "FuseCustomConfig")
        return result

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes; without what is empty."""
        if not self.preserved_attributes:
            return {}
        return {"preserved_attributes": self.preserved_attributes}


def as_config(given: Any, cls: Any, argument: str) -> Any:
    """A custom config from what a user gave: one, the dict of one, torch.ao's, or None."""
    if given is None:
        return cls()
    if isinstance(given, cls):
        return given
    if not isinstance(given, Mapping) and hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, Mapping) or isinstance(given, nn.Module):
        raise TypeError(
            f"{argument} must be a {cls.__name__}, a dict of one or None, got {given!r}"
        )
    return cls.from_dict(given)
