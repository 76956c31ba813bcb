"""What a backend supports: for each pattern of operations the dtypes, how it is observed, and what
fuses it.

Source: ``torch.ao.quantization.backend_config``, whose names, arguments and dicts these are. A
dtype may be ``octavo.quint8`` or torch's of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from octavo.dtypes import QDType

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "ObservationType",
]

Pattern = Any
DType = Any


class ObservationType(Enum):
    """How the output of a pattern is observed."""

    OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT = 0
    """The output has an observer of its own: convolutions, additions."""
    OUTPUT_SHARE_OBSERVER_WITH_INPUT = 1
    """The output has the scale of the input: pooling, reshapes; all inputs of ``cat`` share one."""
    INPUT_OUTPUT_NOT_OBSERVED = 2
    """Nothing is observed: ``x.size()``."""


@dataclass
class DTypeWithConstraints:
    """A dtype and what else a QConfig has to keep to for a pattern to be quantized.

    ``quant_min_lower_bound`` and ``quant_max_upper_bound`` bound the integers, and
    ``scale_min_lower_bound`` the smallest scale (``eps``) of its observers. ``scale_exact_match``
    and ``zero_point_exact_match`` are those of operations whose output has a fixed scale.
    """

    dtype: DType | None = None
    quant_min_lower_bound: int | float | None = None
    quant_max_upper_bound: int | float | None = None
    scale_min_lower_bound: int | float | None = None
    scale_max_upper_bound: int | float | None = None
    scale_exact_match: float | None = None
    zero_point_exact_match: int | None = None


def _constrained(dtype: DType | DTypeWithConstraints | None) -> DTypeWithConstraints:
    return dtype if isinstance(dtype, DTypeWithConstraints) else DTypeWithConstraints(dtype)


@dataclass
class DTypeConfig:
    """One combination of dtypes that a pattern supports.

    Args:
        input_dtype, output_dtype: of activations; float32 for an output means that the operation
            returns floats.
        weight_dtype, bias_dtype: of parameters.
        is_dynamic: the input is quantized when the model runs.
    """

    input_dtype_with_constraints: DTypeWithConstraints
    output_dtype_with_constraints: DTypeWithConstraints
    weight_dtype_with_constraints: DTypeWithConstraints
    bias_dtype: torch.dtype | None
    is_dynamic: bool | None

    def __init__(
        self,
        input_dtype: DType | DTypeWithConstraints | None = None,
        output_dtype: DType | DTypeWithConstraints | None = None,
        weight_dtype: DType | DTypeWithConstraints | None = None,
        bias_dtype: torch.dtype | None = None,
        is_dynamic: bool | None = None,
    ) -> None:
        self.input_dtype_with_constraints = _constrained(input_dtype)
        self.output_dtype_with_constraints = _constrained(output_dtype)
        self.weight_dtype_with_constraints = _constrained(weight_dtype)
        self.bias_dtype = bias_dtype
        self.is_dynamic = is_dynamic

    @property
    def input_dtype(self) -> DType | None:
        return self.input_dtype_with_constraints.dtype

    @property
    def output_dtype(self) -> DType | None:
        return self.output_dtype_with_constraints.dtype

    @property
    def weight_dtype(self) -> DType | None:
        return self.weight_dtype_with_constraints.dtype

    @classmethod
    def from_dict(cls, dtype_config_dict: Mapping[str, Any]) -> DTypeConfig:
        """From "input_dtype", "output_dtype", "weight_dtype" (dtypes or DTypeWithConstraints),
        "bias_dtype" and "is_dynamic", each of which may be missing.

        Raises:
            ValueError: something else than a dtype.
        """
        for key in ("input_dtype", "output_dtype", "weight_dtype"):
            value = dtype_config_dict.get(key)
            if value is not None and not isinstance(
                value, (torch.dtype, QDType, DTypeWithConstraints)
            ):
                raise ValueError(
                    f"DTypeConfig.from_dict: {key} must be a dtype or DTypeWithConstraints, got "
                    f"{value!r}"
                )
        return cls(*(dtype_config_dict.get(key) for key in _DTYPE_KEYS))

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes; without what is None."""
        constrained = {
            key: getattr(self, f"{key}_with_constraints")
            for key in _DTYPE_KEYS[:3]
            if getattr(self, key) is not None
        }
        rest = {key: getattr(self, key) for key in _DTYPE_KEYS[3:]}
        return constrained | {key: value for key, value in rest.items() if value is not None}


_DTYPE_KEYS = ("input_dtype", "output_dtype", "weight_dtype", "bias_dtype", "is_dynamic")


class BackendConfig:
    """The patterns that a backend supports.

    Args:
        name: of the backend.

    Attributes:
        configs: the BackendPatternConfigs, in the order in which their patterns were first set.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._pattern_to_config: dict[Pattern, BackendPatternConfig] = {}

    def __repr__(self) -> str:
        return f"BackendConfig({self.name!r}, {self.configs})"

    @property
    def configs(self) -> list[BackendPatternConfig]:
        return list(self._pattern_to_config.values())

    def set_name(self, name: str) -> BackendConfig:
        self.name = name
        return self

    def set_backend_pattern_config(self, config: BackendPatternConfig) -> BackendConfig:
        """Adds a pattern, or replaces what was set for it."""
        self._pattern_to_config[config._key()] = config
        return self

    def set_backend_pattern_configs(self, configs: list[BackendPatternConfig]) -> BackendConfig:
        for config in configs:
            self.set_backend_pattern_config(config)
        return self

    def config_of(self, pattern: Pattern) -> BackendPatternConfig | None:
        """What was set for a pattern: a class, a function, the name of a method, or a tuple of
        these in the order of the calls.
        """
        try:
            return self._pattern_to_config.get(("pattern", pattern))
        except TypeError:  # a callable that cannot be hashed
            return None

    @classmethod
    def from_dict(cls, backend_config_dict: Mapping[str, Any]) -> BackendConfig:
        """From "name" and "configs": BackendPatternConfigs or their dicts.

        Raises:
            ValueError: something else in "configs".
        """
        result = cls(backend_config_dict.get("name", ""))
        for config in backend_config_dict.get("configs", []):
            if isinstance(config, Mapping):
                config = BackendPatternConfig.from_dict(config)
            if not isinstance(config, BackendPatternConfig):
                raise ValueError(
                    "BackendConfig.from_dict: 'configs' must hold BackendPatternConfigs or dicts, "
                    f"got {config!r}"
                )
            result.set_backend_pattern_config(config)
        return result

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes."""
        return {"name": self.name, "configs": [config.to_dict() for config in self.configs]}


# Attribute and key in dicts of what a pattern may have besides its dtypes.
_OPTIONAL = {
    "pattern": "pattern",
    "root_module": "root_module",
    "qat_module": "qat_module",
    "reference_quantized_module": "reference_quantized_module_for_root",
    "fused_module": "fused_module",
    "fuser_method": "fuser_method",
    "_root_node_getter": "root_node_getter",
    "_extra_inputs_getter": "extra_inputs_getter",
    "_num_tensor_args_to_observation_type": "num_tensor_args_to_observation_type",
    "_input_type_to_index": "input_type_to_index",
    "_pattern_complex_format": "pattern_complex_format",
}


class BackendPatternConfig:
    """How one pattern is quantized.

    Args:
        pattern: a module class, a function, the name of a method, or a tuple of two or three of
            these that follow each other.
    """

    def __init__(self, pattern: Pattern | None = None) -> None:
        self.pattern: Pattern | None = pattern
        self.observation_type = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
        self.dtype_configs: list[DTypeConfig] = []
        self.root_module: type[nn.Module] | None = None
        self.qat_module: type[nn.Module] | None = None
        self.reference_quantized_module: type[nn.Module] | None = None
        self.fused_module: type[nn.Module] | None = None
        self.fuser_method: Callable[..., Any] | None = None
        self._root_node_getter: Callable[..., Any] | None = None
        self._extra_inputs_getter: Callable[..., Any] | None = None
        self._num_tensor_args_to_observation_type: dict[int, ObservationType] = {}
        self._input_type_to_index: dict[str, int] = {}
        self._pattern_complex_format: Pattern | None = None

    def __repr__(self) -> str:
        said = {
            key: value for key, value in vars(self).items() if value is not None and value != []
        }
        return f"BackendPatternConfig({ ({k: v for k, v in said.items() if v != {}}) })"

    def _key(self) -> Pattern:
        if self._pattern_complex_format is not None:
            return "nested", self._pattern_complex_format
        return "pattern", self.pattern

    def set_pattern(self, pattern: Pattern) -> BackendPatternConfig:
        """Raises ValueError where a nested pattern has been set."""
        if self._pattern_complex_format is not None:
            raise ValueError("set_pattern: the config has a nested pattern already")
        self.pattern = pattern
        return self

    def set_observation_type(self, observation_type: ObservationType) -> BackendPatternConfig:
        self.observation_type = observation_type
        return self

    def add_dtype_config(self, dtype_config: DTypeConfig) -> BackendPatternConfig:
        self.dtype_configs.append(dtype_config)
        return self

    def set_dtype_configs(self, dtype_configs: list[DTypeConfig]) -> BackendPatternConfig:
        self.dtype_configs = dtype_configs
        return self

    def set_root_module(self, root_module: type[nn.Module]) -> BackendPatternConfig:
        """The float module with the weight, for reference modules."""
        self.root_module = root_module
        return self

    def set_qat_module(self, qat_module: type[nn.Module]) -> BackendPatternConfig:
        """What is trained in the place of the pattern."""
        self.qat_module = qat_module
        return self

    def set_reference_quantized_module(
        self, reference_quantized_module: type[nn.Module]
    ) -> BackendPatternConfig:
        """What ``convert_to_reference_fx`` puts in the place of ``root_module``."""
        self.reference_quantized_module = reference_quantized_module
        return self

    def set_fused_module(self, fused_module: type[nn.Module]) -> BackendPatternConfig:
        self.fused_module = fused_module
        return self

    def set_fuser_method(self, fuser_method: Callable[..., Any]) -> BackendPatternConfig:
        """``fuser_method(is_qat, *parts)`` makes the fused module; parts are modules, or functions
        where the pattern has a function.
        """
        self.fuser_method = fuser_method
        return self

    def _set_root_node_getter(self, root_node_getter: Callable[..., Any]) -> BackendPatternConfig:
        self._root_node_getter = root_node_getter
        return self

    def _set_extra_inputs_getter(
        self, extra_inputs_getter: Callable[..., Any]
    ) -> BackendPatternConfig:
        self._extra_inputs_getter = extra_inputs_getter
        return self

    def _set_num_tensor_args_to_observation_type(
        self, num_tensor_args_to_observation_type: dict[int, ObservationType]
    ) -> BackendPatternConfig:
        self._num_tensor_args_to_observation_type = num_tensor_args_to_observation_type
        return self

    def _set_input_type_to_index(self, input_type_to_index: dict[str, int]) -> BackendPatternConfig:
        self._input_type_to_index = input_type_to_index
        return self

    def _set_pattern_complex_format(self, pattern: Pattern) -> BackendPatternConfig:
        """A pattern as nested tuples, each operation before its arguments. Raises ValueError where
        a plain pattern has been set.
        """
        if self.pattern is not None:
            raise ValueError("_set_pattern_complex_format: the config has a pattern already")
        self._pattern_complex_format = pattern
        return self

    @classmethod
    def from_dict(cls, backend_pattern_config_dict: Mapping[str, Any]) -> BackendPatternConfig:
        """From "pattern", "observation_type", "dtype_configs" (DTypeConfigs or their dicts),
        "root_module", "qat_module", "reference_quantized_module_for_root", "fused_module" and
        "fuser_method", each of which may be missing.

        Raises:
            ValueError: something else in "dtype_configs".
        """
        result = cls()
        for attribute, key in _OPTIONAL.items():
            if key in backend_pattern_config_dict:
                setattr(result, attribute, backend_pattern_config_dict[key])
        if "observation_type" in backend_pattern_config_dict:
            result.set_observation_type(backend_pattern_config_dict["observation_type"])
        for config in backend_pattern_config_dict.get("dtype_configs", []):
            if isinstance(config, Mapping):
                config = DTypeConfig.from_dict(config)
            if not isinstance(config, DTypeConfig):
                raise ValueError(
                    "BackendPatternConfig.from_dict: 'dtype_configs' must hold DTypeConfigs or "
                    f"dicts, got {config!r}"
                )
            result.add_dtype_config(config)
        return result

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes; without what is not set."""
        result: dict[str, Any] = {
            "observation_type": self.observation_type,
            "dtype_configs": [config.to_dict() for config in self.dtype_configs],
        }
        for attribute, key in _OPTIONAL.items():
            value = getattr(self, attribute)
            if value is not None and value != {}:
                result[key] = value
        return result
