"""QConfigMapping: which QConfig applies to which part of a model.

Names, arguments and results are those of ``torch.ao.quantization.qconfig_mapping``. Here
``prepare`` and ``propagate_qconfig_`` take a mapping too; torch has it for graphs only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from octavo.quantization.fake_quantize import FixedQParamsFakeQuantize, default_weight_fake_quant
from octavo.quantization.observer import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_placeholder_observer,
    default_weight_observer,
)
from octavo.quantization.qconfig import (
    QConfig,
    QConfigAny,
    default_quint8_weight_qconfig,
    default_reuse_input_qconfig,
    default_symmetric_qnnpack_qat_qconfig,
    default_symmetric_qnnpack_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
)

__all__ = ["QConfigMapping", "get_default_qat_qconfig_mapping", "get_default_qconfig_mapping"]

ObjectType = Callable[..., Any] | str

_GLOBAL_DICT_KEY = ""
_OBJECT_TYPE_DICT_KEY = "object_type"
_MODULE_NAME_REGEX_DICT_KEY = "module_name_regex"
_MODULE_NAME_DICT_KEY = "module_name"
_MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY = "module_name_object_type_order"
_LIST_KEYS = (
    _OBJECT_TYPE_DICT_KEY,
    _MODULE_NAME_REGEX_DICT_KEY,
    _MODULE_NAME_DICT_KEY,
    _MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY,
)

# Operations whose results lie in a known interval, as module, function and method.
_RANGE_0_TO_1: tuple[ObjectType, ...] = (
    nn.Hardsigmoid,
    F.hardsigmoid,
    "hardsigmoid",
    "hardsigmoid_",
    nn.Sigmoid,
    torch.sigmoid,
    "sigmoid",
    "sigmoid_",
    nn.Softmax,
)
_RANGE_NEG1_TO_1: tuple[ObjectType, ...] = (nn.Tanh, torch.tanh, "tanh", "tanh_")
_FIXED_QPARAMS_OP_TO_OBSERVER: dict[ObjectType, Any] = {
    **dict.fromkeys(_RANGE_0_TO_1, default_fixed_qparams_range_0to1_observer),
    **dict.fromkeys(_RANGE_NEG1_TO_1, default_fixed_qparams_range_neg1to1_observer),
}
_TRANSPOSED: tuple[ObjectType, ...] = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)


class QConfigMapping:
    """Rules that say which QConfig applies to a module or operation; None leaves it float.

    In order of rising priority: ``set_global``; ``set_object_type``: a class, a function, or the
    name of a method; ``set_module_name_regex``: the first that matches the name from its beginning;
    ``set_module_name``: a module and all in it; ``set_module_name_object_type_order``: the n-th
    object of a type in a module. Each returns the mapping; a later call with the same key replaces
    the earlier one.

    Attributes: ``global_qconfig``, and the ordered dicts ``object_type_qconfigs``,
    ``module_name_regex_qconfigs``, ``module_name_qconfigs`` and
    ``module_name_object_type_order_qconfigs``.

    Source: ``torch.ao.quantization.QConfigMapping``.
    """

    def __init__(self) -> None:
        self.global_qconfig: QConfigAny = None
        self.object_type_qconfigs: OrderedDict[ObjectType, QConfigAny] = OrderedDict()
        self.module_name_regex_qconfigs: OrderedDict[str, QConfigAny] = OrderedDict()
        self.module_name_qconfigs: OrderedDict[str, QConfigAny] = OrderedDict()
        self.module_name_object_type_order_qconfigs: OrderedDict[
            tuple[str, ObjectType, int], QConfigAny
        ] = OrderedDict()

    def set_global(self, global_qconfig: QConfigAny) -> QConfigMapping:
        """What applies where nothing else does."""
        self.global_qconfig = global_qconfig
        return self

    def set_object_type(self, object_type: ObjectType, qconfig: QConfigAny) -> QConfigMapping:
        """What applies to a class of modules, a function, or a method of that name."""
        self.object_type_qconfigs[object_type] = qconfig
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: QConfigAny) -> QConfigMapping:
        """What applies to modules whose name matches; the more specific pattern goes first.

        Raises:
            ValueError: not a regular expression.
        """
        try:
            re.compile(module_name_regex)
        except re.error as error:
            raise ValueError(
                f"set_module_name_regex: {module_name_regex!r} is not a regular expression: {error}"
            ) from None
        self.module_name_regex_qconfigs[module_name_regex] = qconfig
        return self

    def set_module_name(self, module_name: str, qconfig: QConfigAny) -> QConfigMapping:
        """What applies to a module and all in it."""
        self.module_name_qconfigs[module_name] = qconfig
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig: QConfigAny
    ) -> QConfigMapping:
        """What applies to the ``index``-th object of a type directly in a module. Graphs count
        calls, ``prepare`` counts children.
        """
        self.module_name_object_type_order_qconfigs[module_name, object_type, index] = qconfig
        return self

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} (", f" global_qconfig\n  {self.global_qconfig}"]
        for style in _LIST_KEYS:
            qconfigs: Mapping[Any, QConfigAny] = getattr(self, f"{style}_qconfigs")
            lines.append(f" {style}_qconfigs")
            lines += [f"  {key}: {qconfig}" for key, qconfig in qconfigs.items()]
            if not qconfigs:
                lines.append(f"  {qconfigs}")
        return "\n".join([*lines, ")"])

    def to_dict(self) -> dict[str, Any]:
        """The rules as a dict: "" is the global QConfig; "object_type", "module_name_regex",
        "module_name" and "module_name_object_type_order" are lists of tuples, QConfigs last.
        """
        return {
            _GLOBAL_DICT_KEY: self.global_qconfig,
            _OBJECT_TYPE_DICT_KEY: list(self.object_type_qconfigs.items()),
            _MODULE_NAME_REGEX_DICT_KEY: list(self.module_name_regex_qconfigs.items()),
            _MODULE_NAME_DICT_KEY: list(self.module_name_qconfigs.items()),
            _MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY: [
                (*key, qconfig)
                for key, qconfig in self.module_name_object_type_order_qconfigs.items()
            ],
        }

    @classmethod
    def from_dict(cls, qconfig_dict: Mapping[str, Any]) -> QConfigMapping:
        """The mapping of what :meth:`to_dict` returns; every key may be missing.

        Raises:
            ValueError: another key.
        """
        if unknown := set(qconfig_dict) - {_GLOBAL_DICT_KEY, *_LIST_KEYS}:
            raise ValueError(
                f"QConfigMapping.from_dict: unknown keys {sorted(map(str, unknown))}; use '' and "
                f"{', '.join(map(repr, _LIST_KEYS))}"
            )
        mapping = cls().set_global(qconfig_dict.get(_GLOBAL_DICT_KEY))
        for style in _LIST_KEYS:
            add = getattr(mapping, f"set_{style}")
            for rule in qconfig_dict.get(style, ()):
                add(*rule)
        return mapping


def as_qconfig_mapping(rules: Any) -> QConfigMapping | None:
    """The mapping that an argument ``qconfig_dict`` is or, as a dict with lists of tuples, stands
    for; None for a dict from names and classes to QConfigs.
    """
    if isinstance(rules, QConfigMapping):
        return rules
    if isinstance(rules, Mapping):
        if any(
            isinstance(rules.get(key), (list, tuple)) and not hasattr(rules[key], "_fields")
            for key in _LIST_KEYS
        ):
            return QConfigMapping.from_dict(rules)
        return None
    if hasattr(rules, "to_dict") and hasattr(rules, "global_qconfig"):  # torch's
        return QConfigMapping.from_dict(rules.to_dict())
    return None


def _default_mapping(qconfig: QConfig, backend: str, is_qat: bool) -> QConfigMapping:
    weight = default_weight_fake_quant if is_qat else default_weight_observer
    transposed = qconfig
    if backend in ("fbgemm", "x86"):  # their kernels have no per-channel weights there
        transposed = QConfig(activation=qconfig.activation, weight=weight)
    layer_norm = QConfig(activation=qconfig.activation, weight=default_placeholder_observer)
    mapping = QConfigMapping().set_global(qconfig)
    mapping.set_object_type("reshape", default_reuse_input_qconfig)
    for operation in _TRANSPOSED:
        mapping.set_object_type(operation, transposed)
    mapping.set_object_type(F.layer_norm, layer_norm).set_object_type(nn.LayerNorm, layer_norm)
    mapping.set_object_type(nn.PReLU, default_quint8_weight_qconfig)
    for operations, observer in (
        (_RANGE_0_TO_1, default_fixed_qparams_range_0to1_observer),
        (_RANGE_NEG1_TO_1, default_fixed_qparams_range_neg1to1_observer),
    ):
        activation = FixedQParamsFakeQuantize.with_args(observer=observer) if is_qat else observer
        fixed = QConfig(activation=activation, weight=weight)
        for operation in operations:
            mapping.set_object_type(operation, fixed)
    return mapping


def get_default_qconfig_mapping(backend: str = "octavo", version: int = 0) -> QConfigMapping:
    """The settings for quantization after training, with those operations apart whose output has a
    fixed range or whose weight needs another observer.

    Args, errors: as :func:`octavo.quantization.get_default_qconfig`. Source:
    ``torch.ao.quantization.get_default_qconfig_mapping``, which defaults to ``"x86"``.
    """
    return _default_mapping(get_default_qconfig(backend, version), backend, is_qat=False)


def get_default_qat_qconfig_mapping(backend: str = "octavo", version: int = 1) -> QConfigMapping:
    """The settings for quantization-aware training, as :func:`get_default_qconfig_mapping`.

    Args, errors: as :func:`octavo.quantization.get_default_qat_qconfig`. Source:
    ``torch.ao.quantization.get_default_qat_qconfig_mapping``, which defaults to ``"x86"``.
    """
    return _default_mapping(get_default_qat_qconfig(backend, version), backend, is_qat=True)


def _get_symmetric_qnnpack_qconfig_mapping() -> QConfigMapping:
    """``default_symmetric_qnnpack_qconfig`` for all but operations with a fixed range."""
    return _with_default(get_default_qconfig_mapping("qnnpack"), default_symmetric_qnnpack_qconfig)


def _get_symmetric_qnnpack_qat_qconfig_mapping() -> QConfigMapping:
    """``default_symmetric_qnnpack_qat_qconfig`` for all but operations with a fixed range."""
    return _with_default(
        get_default_qat_qconfig_mapping("qnnpack"), default_symmetric_qnnpack_qat_qconfig
    )


def _with_default(mapping: QConfigMapping, qconfig: QConfig) -> QConfigMapping:
    mapping.set_global(qconfig)
    for operation in mapping.object_type_qconfigs:
        if operation not in _FIXED_QPARAMS_OP_TO_OBSERVER:
            mapping.set_object_type(operation, qconfig)
    return mapping
