"""QConfig: how to observe the activations and the weight of a module.

``get_default_qconfig()`` defaults to the backend ``"octavo"``: activations use all 8 bits and
weights have one scale per output channel. Octavo's kernels accumulate exactly on every CPU, so the
7-bit activations that torch's ``"x86"`` and ``"fbgemm"`` settings use against saturation would only
lose precision. Those names give torch's settings.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from octavo.dtypes import qint8, quint8
from octavo.quantization.fake_quantize import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_embedding_fake_quant_4bit,
    default_fake_quant,
    default_fused_act_fake_quant,
    default_fused_per_channel_wt_fake_quant,
    default_fused_wt_fake_quant,
    default_per_channel_weight_fake_quant,
    default_weight_fake_quant,
    fused_per_channel_wt_fake_quant_range_neg_127_to_127,
    fused_wt_fake_quant_range_neg_127_to_127,
)
from octavo.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    NoopObserver,
    PlaceholderObserver,
    ReuseInputObserver,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_weight_observer,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from octavo.quantization.observer_base import _PartialWrapper

__all__ = [
    "QConfig",
    "QConfigAny",
    "QConfigDynamic",
    "default_activation_only_qconfig",
    "default_debug_qconfig",
    "default_dynamic_qat_qconfig",
    "default_dynamic_qconfig",
    "default_embedding_qat_qconfig",
    "default_embedding_qat_qconfig_4bit",
    "default_per_channel_qconfig",
    "default_per_channel_symmetric_qnnpack_qat_qconfig",
    "default_per_channel_symmetric_qnnpack_qconfig",
    "default_qat_qconfig",
    "default_qat_qconfig_v2",
    "default_qconfig",
    "default_quint8_weight_qconfig",
    "default_reuse_input_qconfig",
    "default_symmetric_qnnpack_qat_qconfig",
    "default_symmetric_qnnpack_qconfig",
    "default_weight_only_qconfig",
    "float16_dynamic_qconfig",
    "float16_static_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "get_default_qat_qconfig",
    "get_default_qat_qconfig_dict",
    "get_default_qconfig",
    "get_default_qconfig_dict",
    "per_channel_dynamic_qconfig",
    "qconfig_equals",
    "torch_compatible_dynamic_qconfig",
]


class _QConfigFields(NamedTuple):
    activation: Any
    weight: Any


class QConfig(_QConfigFields):
    """Constructors of the observers for a module's output and for its weight.

    Args:
        activation: called without arguments for each module: an observer class, or what its
            ``with_args`` returns.
        weight: the same for the weight; None for modules without one.

    Raises:
        ValueError: an observer instance instead of a class; instances would be shared between
            modules.

    Source: ``torch.ao.quantization.QConfig``.
    """

    __slots__ = ()

    def __new__(cls, activation: Any, weight: Any) -> QConfig:
        for field, value in (("activation", activation), ("weight", weight)):
            if isinstance(value, nn.Module):
                raise ValueError(
                    f"QConfig: {field} must be an observer class, got an instance of "
                    f"{type(value).__name__}; use {type(value).__name__}.with_args(...) to set "
                    "arguments"
                )
        return super().__new__(cls, activation, weight)

    def __deepcopy__(self, memo: Any) -> QConfig:
        return self  # it never changes, so copies of a model share it


QConfigAny: TypeAlias = QConfig | None
"""A QConfig, or None for a module that stays float."""


class QConfigDynamic(_QConfigFields):
    """A QConfig under an older name, from when dynamic quantization had one of its own.

    Args:
        activation, weight: as :class:`QConfig`; default: ``nn.Identity``.

    Warns with a FutureWarning. Source: ``torch.ao.quantization.QConfigDynamic``.
    """

    __slots__ = ()

    def __new__(cls, activation: Any = nn.Identity, weight: Any = nn.Identity) -> QConfigDynamic:
        warnings.warn("QConfigDynamic is deprecated; use QConfig", FutureWarning, stacklevel=2)
        QConfig(activation, weight)  # the same checks
        return super().__new__(cls, activation, weight)


default_qconfig = QConfig(activation=default_observer, weight=default_weight_observer)
"""For debugging: minimum and maximum, 0..127, weights per tensor."""

default_debug_qconfig = QConfig(activation=default_debug_observer, weight=default_weight_observer)
"""Records activations instead of quantizing them."""

default_per_channel_qconfig = QConfig(
    activation=default_observer, weight=default_per_channel_weight_observer
)
"""As ``default_qconfig`` with weights per channel."""

default_dynamic_qconfig = QConfig(
    activation=default_dynamic_quant_observer, weight=default_per_channel_weight_observer
)
"""Linear and recurrent layers: activations get 8 bits and a scale per row when the model runs,
weights one scale per output channel. Rows do not disturb each other, and results do not depend on
the batch. torch's own settings are ``torch_compatible_dynamic_qconfig``."""

per_channel_dynamic_qconfig = QConfig(
    activation=default_dynamic_quant_observer, weight=default_per_channel_weight_observer
)
"""The same as ``default_dynamic_qconfig`` (in torch that one has weights per tensor)."""

torch_compatible_dynamic_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(
        dtype=quint8,
        quant_min=0,
        quant_max=255,
        is_dynamic=True,
        per_tensor=True,
        reduce_range=True,
    ),
    weight=default_weight_observer,
)
"""What torch's ``default_dynamic_qconfig`` amounts to: one scale of 7 bits for the whole input,
weights per tensor."""

float16_dynamic_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(dtype=torch.float16, is_dynamic=True),
    weight=PlaceholderObserver.with_args(dtype=torch.float16),
)
"""Weights in float16, computation in float."""

float16_static_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(dtype=torch.float16),
    weight=PlaceholderObserver.with_args(dtype=torch.float16),
)
"""Marks a module for float16."""

float_qparams_weight_only_qconfig = QConfig(
    activation=default_placeholder_observer, weight=default_float_qparams_observer
)
"""Embedding tables: rows with float scale and zero point."""

float_qparams_weight_only_qconfig_4bit = QConfig(
    activation=default_placeholder_observer, weight=default_float_qparams_observer_4bit
)
"""Embedding tables of 4 bits: rows with float scale and zero point."""

default_reuse_input_qconfig = QConfig(activation=default_reuse_input_observer, weight=NoopObserver)
"""For operations such as reshape, whose output is quantized like their input."""

default_quint8_weight_qconfig = QConfig(activation=HistogramObserver, weight=MinMaxObserver)
"""Weights in quint8, affine."""

default_symmetric_qnnpack_qconfig = QConfig(
    activation=HistogramObserver.with_args(dtype=qint8, reduce_range=False, eps=2**-12),
    weight=weight_observer_range_neg_127_to_127,
)
"""Signed activations, weights in -127..127 per tensor."""

default_per_channel_symmetric_qnnpack_qconfig = QConfig(
    activation=HistogramObserver.with_args(dtype=qint8, reduce_range=False, eps=2**-12),
    weight=per_channel_weight_observer_range_neg_127_to_127,
)
"""Signed activations, weights in -127..127 per channel."""

default_qat_qconfig = QConfig(activation=default_fake_quant, weight=default_weight_fake_quant)
"""Training: activations in 0..127, weights per tensor."""

default_qat_qconfig_v2 = QConfig(
    activation=default_fused_act_fake_quant, weight=default_fused_wt_fake_quant
)
"""Training: activations in 0..255, weights per tensor, fused modules."""

default_dynamic_qat_qconfig = QConfig(
    activation=default_dynamic_fake_quant, weight=default_weight_fake_quant
)
"""Training for dynamic quantization."""

default_weight_only_qconfig = QConfig(activation=nn.Identity, weight=default_weight_fake_quant)
"""Training with quantized weights and float activations."""

default_activation_only_qconfig = QConfig(activation=default_fake_quant, weight=nn.Identity)
"""Training with quantized activations and float weights."""

default_embedding_qat_qconfig = QConfig(
    activation=NoopObserver.with_args(dtype=torch.float32), weight=default_embedding_fake_quant
)
"""Training of embedding tables."""

default_embedding_qat_qconfig_4bit = QConfig(
    activation=NoopObserver.with_args(dtype=torch.float32), weight=default_embedding_fake_quant_4bit
)
"""Training of embedding tables of 4 bits."""

_SIGNED_FAKE_QUANT = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    reduce_range=False,
    eps=2**-12,
)

default_symmetric_qnnpack_qat_qconfig = QConfig(
    activation=_SIGNED_FAKE_QUANT, weight=fused_wt_fake_quant_range_neg_127_to_127
)
"""Training: signed activations, weights in -127..127 per tensor."""

default_per_channel_symmetric_qnnpack_qat_qconfig = QConfig(
    activation=_SIGNED_FAKE_QUANT, weight=fused_per_channel_wt_fake_quant_range_neg_127_to_127
)
"""Training: signed activations, weights in -127..127 per channel."""

_default_fp32_placeholder_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(dtype=torch.float32),
    weight=PlaceholderObserver.with_args(dtype=torch.float32),
)

_default_quint8_placeholder_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(dtype=quint8), weight=None
)

_DEFAULTS: dict[str, QConfig] = {
    backend: QConfig(
        activation=HistogramObserver.with_args(reduce_range=reduce_range), weight=weight
    )
    for backend, reduce_range, weight in (
        ("octavo", False, default_per_channel_weight_observer),
        ("x86", True, default_per_channel_weight_observer),
        ("fbgemm", True, default_per_channel_weight_observer),
        ("onednn", False, default_per_channel_weight_observer),
        ("qnnpack", False, default_weight_observer),
    )
}


def get_default_qconfig(backend: str = "octavo", version: int = 0) -> QConfig:
    """The settings for post-training static quantization.

    Args:
        backend: ``"octavo"``: histogram observers over all of 0..255, weights qint8 per channel.
            ``"x86"`` and ``"fbgemm"``: activations in 0..127, weights per channel. ``"onednn"``: as
            ``"octavo"``. ``"qnnpack"``: 0..255, weights per tensor. Models of every backend run on
            Octavo's kernels.
        version: 0.

    Raises:
        ValueError: another backend or version.

    Source: ``torch.ao.quantization.get_default_qconfig``, which defaults to ``"x86"`` and raises
    AssertionError.
    """
    _check_backend("get_default_qconfig", backend)
    if version != 0:
        raise ValueError(f"get_default_qconfig: version must be 0, got {version!r}")
    return _DEFAULTS[backend]


def _check_backend(caller: str, backend: str) -> None:
    if backend not in _DEFAULTS:
        raise ValueError(f"{caller}: backend must be one of {list(_DEFAULTS)}, got {backend!r}")


def get_default_qat_qconfig(backend: str = "octavo", version: int = 1) -> QConfig:
    """The settings for quantization-aware training.

    Args:
        backend: as :func:`get_default_qconfig`: ``"octavo"`` and ``"onednn"`` train with
            activations in 0..255 and weights per channel, ``"x86"`` and ``"fbgemm"`` with 0..127,
            ``"qnnpack"`` with weights per tensor. Activations have moving averages of minimum and
            maximum.
        version: 1: fused modules; 0: the plain ones. Their results are the same.

    Raises:
        ValueError: another backend or version.

    Source: ``torch.ao.quantization.get_default_qat_qconfig``, which defaults to ``"x86"`` and
    raises AssertionError.
    """
    _check_backend("get_default_qat_qconfig", backend)
    if version not in (0, 1):
        raise ValueError(f"get_default_qat_qconfig: version must be 0 or 1, got {version!r}")
    weight: Any
    if backend == "qnnpack":
        weight = default_fused_wt_fake_quant if version else default_weight_fake_quant
    elif version:
        weight = default_fused_per_channel_wt_fake_quant
    else:
        weight = default_per_channel_weight_fake_quant
    kind = FusedMovingAvgObsFakeQuantize if version else FakeQuantize
    activation = kind.with_args(
        observer=MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        reduce_range=backend in ("x86", "fbgemm"),
    )
    return QConfig(activation=activation, weight=weight)


def get_default_qconfig_dict(backend: str = "octavo", version: int = 0) -> dict[str, Any]:
    """``get_default_qconfig_mapping(backend, version).to_dict()``. Warns with a FutureWarning.

    Source: ``torch.ao.quantization.get_default_qconfig_dict``.
    """
    from octavo.quantization import qconfig_mapping

    _warn_of_dict("get_default_qconfig")
    return qconfig_mapping.get_default_qconfig_mapping(backend, version).to_dict()


def get_default_qat_qconfig_dict(backend: str = "octavo", version: int = 1) -> dict[str, Any]:
    """``get_default_qat_qconfig_mapping(backend, version).to_dict()``. Warns with a FutureWarning.

    Source: ``torch.ao.quantization.get_default_qat_qconfig_dict``.
    """
    from octavo.quantization import qconfig_mapping

    _warn_of_dict("get_default_qat_qconfig")
    return qconfig_mapping.get_default_qat_qconfig_mapping(backend, version).to_dict()


def _warn_of_dict(name: str) -> None:
    message = f"{name}_dict is deprecated; use {name}_mapping"
    warnings.warn(message, FutureWarning, stacklevel=3)


def qconfig_equals(q1: QConfigAny, q2: QConfigAny) -> bool:
    """Whether two QConfigs construct the same observers with the same arguments; None equals None
    only.
    """
    if q1 is None or q2 is None:
        return q1 is q2
    return _constructors_equal(q1.activation, q2.activation) and _constructors_equal(
        q1.weight, q2.weight
    )


def _constructors_equal(a: Any, b: Any) -> bool:
    if isinstance(a, _PartialWrapper) and isinstance(b, _PartialWrapper):
        return _constructors_equal(a.p, b.p) and a.callable_args == b.callable_args
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return (
            _constructors_equal(a.func, b.func)
            and a.args == b.args
            and a.keywords.keys() == b.keywords.keys()
            and all(_constructors_equal(a.keywords[name], b.keywords[name]) for name in a.keywords)
        )
    return bool(a == b)


def check_qconfig(qconfig: Any, name: str) -> None:
    """Raises TypeError, naming the module, unless ``qconfig`` is a QConfig or None."""
    if qconfig is None:
        return
    activation = getattr(qconfig, "activation", None)
    if not callable(activation) or not hasattr(qconfig, "weight"):
        raise TypeError(
            f"module {name!r}: qconfig must be a QConfig or None, got {qconfig!r}; "
            "for example octavo.quantization.get_default_qconfig()"
        )


def activation_is_memoryless(observer: object) -> bool:
    """Whether an activation observer forgets all but the last tensor: a moving average with
    constant 1.

    Such an observer stands for quantizing a module's input when the model runs.
    """
    inner = getattr(observer, "activation_post_process", observer)
    return bool(getattr(inner, "averaging_constant", None) == 1)


def _activation_is_memoryless(qconfig: QConfig) -> bool:
    """:func:`activation_is_memoryless` of the observer that a QConfig constructs."""
    return activation_is_memoryless(qconfig.activation())


def _is_reuse_input_qconfig(qconfig: QConfigAny) -> bool:
    """Whether a QConfig says that the output is quantized like the input."""
    return qconfig is not None and isinstance(qconfig.activation(), ReuseInputObserver)
