"""Ranges, schemes and quantization parameters: the arithmetic that observers and helpers share.

The formulas are torch's, in float32 and in torch's order of operations, so that the results are
equal to the bit. Where torch's own result would not be usable (an interval wider than float32 can
express, qint32 zero points) the docstring says what happens instead.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from octavo.dtypes import (
    QDType,
    as_qdtype,
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    qint32,
    quint4x2,
    quint8,
)
from octavo.quantization.quant_type import QuantType
from octavo.quantization.statistics import float32, on_host

__all__ = [
    "activation_dtype",
    "activation_is_dynamically_quantized",
    "activation_is_statically_quantized",
    "calculate_qmin_qmax",
    "check_min_max_valid",
    "determine_qparams",
    "get_qconfig_dtypes",
    "get_qparam_dict",
    "has_no_children_ignoring_parametrizations",
    "is_per_channel",
    "is_per_tensor",
    "validate_qmin_qmax",
    "weight_dtype",
]

per_channel_affine_float_qparams: Any = getattr(
    torch, "per_channel_affine_float_qparams", "per_channel_affine_float_qparams"
)

PER_TENSOR_SCHEMES = (per_tensor_affine, per_tensor_symmetric)
PER_CHANNEL_SCHEMES = (per_channel_affine, per_channel_symmetric, per_channel_affine_float_qparams)
SYMMETRIC_SCHEMES = (per_tensor_symmetric, per_channel_symmetric)

# Integer types that an observer may be given besides the three quantized ones.
_WIDE_DTYPES = (torch.int16, torch.uint16)

DEFAULT_EPS: float = torch.finfo(torch.float32).eps


def is_per_tensor(qscheme: Any) -> bool:
    """Whether the scheme has one scale for a whole tensor."""
    return qscheme in PER_TENSOR_SCHEMES


def is_per_channel(qscheme: Any) -> bool:
    """Whether the scheme has one scale per slice along an axis."""
    return qscheme in PER_CHANNEL_SCHEMES


def observed_dtype(dtype: Any) -> Any:
    """``dtype`` as an observer keeps it: an :class:`octavo.dtypes.QDType` (quint4x2 too), or
    torch.int16 / torch.uint16.

    Raises:
        TypeError: anything else.
    """
    # The compiler of torch 2.6 cannot compare a QDType with torch's.
    if isinstance(dtype, QDType) or dtype in _WIDE_DTYPES:
        return dtype
    if quint4x2 == dtype:
        return quint4x2
    try:
        return as_qdtype(dtype)
    except TypeError:
        raise TypeError(
            "observer: dtype must be octavo.quint8, octavo.qint8, octavo.qint32 or "
            "octavo.quint4x2 (or torch's quint8, uint8, qint8, int8, qint32, int32, quint4x2, "
            f"int16, uint16), got {dtype!r}"
        ) from None


def storage_dtype(dtype: Any) -> torch.dtype:
    """The plain integer type that stores values of ``dtype``."""
    resolved = observed_dtype(dtype)
    return resolved.storage if isinstance(resolved, QDType) else resolved


def dtype_limits(dtype: Any) -> tuple[int, int, int]:
    """Smallest and largest integer that ``dtype`` holds, and its width in bits."""
    resolved = observed_dtype(dtype)
    if resolved is quint4x2:
        return quint4x2.qmin, quint4x2.qmax, 4
    limits = torch.iinfo(storage_dtype(resolved))
    return limits.min, limits.max, limits.bits


def validate_qmin_qmax(quant_min: int, quant_max: int) -> None:
    """Raises ValueError unless ``quant_min <= 0 <= quant_max`` and ``quant_min < quant_max``."""
    if not quant_min <= 0 <= quant_max or quant_min >= quant_max:
        raise ValueError(
            f"quant_min and quant_max must enclose 0 and differ, got [{quant_min}, {quant_max}]"
        )


def calculate_qmin_qmax(
    quant_min: int | None,
    quant_max: int | None,
    has_customized_qrange: bool,
    dtype: Any,
    reduce_range: bool,
) -> tuple[int, int]:
    """The integer range that an observer maps its interval to.

    Args:
        quant_min, quant_max: the range asked for; read only with ``has_customized_qrange``.
        dtype: what values are stored in.
        reduce_range: use one bit less. Both ends of a custom range are halved and rounded down.

    Raises:
        ValueError: a custom range that ``dtype`` cannot store.

    Source: ``torch.ao.quantization.utils.calculate_qmin_qmax``. qint32 and the 16-bit types have no
    reduced default range, there as here.
    """
    smallest, largest, bits = dtype_limits(dtype)
    if not has_customized_qrange or quant_min is None or quant_max is None:
        if bits != 8 or not reduce_range:
            return smallest, largest
        return smallest // 2, largest // 2
    if quant_min < smallest or quant_max > largest:
        raise ValueError(
            f"quant_min={quant_min} and quant_max={quant_max} do not fit dtype {dtype} "
            f"({smallest}..{largest})"
        )
    return (quant_min // 2, quant_max // 2) if reduce_range else (quant_min, quant_max)


def check_min_max_valid(min_val: Tensor, max_val: Tensor) -> bool:
    """Whether observed extremes can be turned into quantization parameters.

    Returns False, with a warning, where nothing was observed.

    Raises:
        ValueError: NaN, infinite, or a minimum above its maximum.
    """
    empty = min_val.numel() == 0 or max_val.numel() == 0
    if empty or bool(((min_val == torch.inf) & (max_val == -torch.inf)).all()):
        warnings.warn(
            "calculate_qparams was called before the observer saw any data; returning scale 1.0 "
            "and zero point 0",
            stacklevel=4,
        )
        return False
    usable = torch.isfinite(min_val) & torch.isfinite(max_val) & (min_val <= max_val)
    if not bool(usable.all()):
        bad = torch.nonzero(~usable.reshape(-1)).reshape(-1).tolist()
        where = (
            f" in channels {bad[:8]}{' and more' if len(bad) > 8 else ''}"
            if usable.numel() > 1
            else ""
        )
        index = bad[0]
        low, high = min_val.reshape(-1)[index].item(), max_val.reshape(-1)[index].item()
        raise ValueError(
            f"the observed interval [{low}, {high}]{where} is not usable: it must be finite with "
            "min <= max (a channel that saw nothing but NaN and Inf has the interval [inf, -inf])"
        )
    return True


def interval_to_qparams(
    min_val: Tensor,
    max_val: Tensor,
    *,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    qscheme: Any,
    eps: Tensor,
    has_customized_qrange: bool,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of valid intervals, float32 0-D or 1-D.

    Affine: the interval is widened to contain 0; ``scale = max((hi - lo) / (qmax - qmin), eps)``,
    ``zero_point = clamp(qmin - round_half_even(lo / scale))``, int32. Symmetric: ``scale =
    max(max(-lo, hi) / ((qmax - qmin) / 2), eps)``, zero point 0 for signed types, else the middle
    of the range, int64. float_qparams: no widening, float zero point ``-lo / scale``.

    An interval whose width overflows float32 is computed from its halves (torch returns an infinite
    scale). Results are 1-D, with one element for a per-tensor scheme.
    """
    low = torch.minimum(min_val, torch.zeros_like(min_val))
    high = torch.maximum(max_val, torch.zeros_like(max_val))
    steps = float(quant_max - quant_min)
    if qscheme in SYMMETRIC_SCHEMES:
        scale = torch.maximum(torch.maximum(-low, high) / (steps / 2), eps)
        zero_point = torch.full_like(
            scale,
            symmetric_zero_point(quant_min, quant_max, dtype, has_customized_qrange),
            dtype=torch.int64,
        )
    elif qscheme == per_channel_affine_float_qparams:
        scale = _width(min_val, max_val, steps)
        scale = torch.where(scale > eps, scale, torch.ones_like(scale))
        zero_point = -1 * min_val / scale
    else:
        scale = torch.maximum(_width(low, high, steps), eps)
        zero_point = quant_min - torch.round(low / scale).to(torch.int64)
        zero_point = torch.clamp(zero_point, quant_min, quant_max).to(torch.int32)
    return scale.reshape(-1), zero_point.reshape(-1)


def host_qparams(
    low: float,
    high: float,
    *,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    qscheme: Any,
    eps: float,
    has_customized_qrange: bool,
) -> tuple[float, int]:
    """:func:`interval_to_qparams` of one valid interval in plain numbers, with equal results, for
    the per-tensor schemes.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    steps = quant_max - quant_min
    if qscheme in SYMMETRIC_SCHEMES:
        scale = max(float32(max(-low, high) / (steps / 2)), eps)
        return scale, symmetric_zero_point(quant_min, quant_max, dtype, has_customized_qrange)
    scale = float32(float32(high - low) / steps)
    if math.isinf(scale):
        scale = float32(float32(high / steps) - float32(low / steps))
    scale = max(scale, eps)
    zero_point = quant_min - round(float32(low / scale))
    return scale, min(max(zero_point, quant_min), quant_max)


def _width(low: Tensor, high: Tensor, steps: float) -> Tensor:
    scale = (high - low) / steps
    if not on_host(scale) or bool(torch.isinf(scale).any()):
        return torch.where(torch.isinf(scale), high / steps - low / steps, scale)
    return scale


def symmetric_zero_point(
    quant_min: int, quant_max: int, dtype: Any, has_customized_qrange: bool
) -> int:
    """The zero point that symmetric schemes give every interval."""
    if quint4x2 == dtype:
        return 8
    storage = storage_dtype(dtype)
    if storage is torch.uint8:
        return (quant_min + quant_max) // 2 if has_customized_qrange else 128
    return 2**15 if storage is torch.uint16 else 0


def determine_qparams(
    min_val: Tensor,
    max_val: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    eps: Tensor,
    has_customized_qrange: bool,
    qscheme: Any = per_tensor_affine,
) -> tuple[Tensor, Tensor]:
    """Scale (float64, 1-D) and zero point (int64, 1-D) of an interval that some observer found.

    Returns ([1.0], [0]) with a warning where the interval is empty. Source:
    ``torch.ao.quantization.utils.determine_qparams``.

    Raises:
        ValueError: an interval with NaN or Inf, or a minimum above its maximum.
    """
    if not check_min_max_valid(min_val, max_val):
        return torch.tensor([1.0], device=min_val.device), torch.tensor([0], device=min_val.device)
    scale, zero_point = interval_to_qparams(
        min_val,
        max_val,
        quant_min=quant_min,
        quant_max=quant_max,
        dtype=dtype,
        qscheme=qscheme,
        eps=eps.to(min_val.device),
        has_customized_qrange=has_customized_qrange,
    )
    return scale.to(torch.float64), zero_point.to(torch.int64)


def has_no_children_ignoring_parametrizations(module: nn.Module) -> bool:
    """Whether a module is a leaf; the container that ``torch.nn.utils.parametrize`` adds does not
    count.
    """
    if is_parametrized(module):
        return set(module._modules) <= {"parametrizations"}
    return len(module._modules) == 0


def get_qparam_dict(observer_or_fake_quant: Any) -> dict[str, Any]:
    """What an observer decided, by name: qscheme, dtype, scale, zero_point, axis, quant_min,
    quant_max.
    """
    qscheme = getattr(observer_or_fake_quant, "qscheme", None)
    params: dict[str, Any] = {"qscheme": qscheme, "dtype": observer_or_fake_quant.dtype}
    params["scale"], params["zero_point"] = observer_or_fake_quant.calculate_qparams()
    if is_per_channel(qscheme):
        params["axis"] = observer_or_fake_quant.ch_axis
    for bound in ("quant_min", "quant_max"):
        if hasattr(observer_or_fake_quant, bound):
            params[bound] = getattr(observer_or_fake_quant, bound)
    return params


def get_qconfig_dtypes(qconfig: Any) -> tuple[Any, Any, bool]:
    """``(activation dtype, weight dtype, activation is dynamic)`` of a QConfig."""
    activation, weight = qconfig.activation(), qconfig.weight()
    return activation.dtype, weight.dtype, bool(getattr(activation, "is_dynamic", False))


def activation_dtype(qconfig: Any) -> Any:
    """The dtype that a QConfig's activation observer carries."""
    return qconfig.activation().dtype


def weight_dtype(qconfig: Any) -> Any:
    """The dtype that a QConfig's weight observer carries."""
    return qconfig.weight().dtype


def activation_is_dynamically_quantized(qconfig: Any) -> bool:
    """Whether activations get their scale when the model runs."""
    return bool(getattr(qconfig.activation(), "is_dynamic", False))


def activation_is_statically_quantized(qconfig: Any) -> bool:
    """Whether activations get a fixed scale, found by calibration."""
    activation = qconfig.activation()
    if getattr(activation, "is_dynamic", False):
        return False
    try:
        observed_dtype(getattr(activation, "dtype", None))
    except TypeError:
        return False
    return True


# Names that code for torch.ao.quantization.utils uses.

_INT8_ACTIVATIONS = (quint8, qint8)


def _resolved(dtype: Any) -> Any:
    """:func:`observed_dtype`, or None for a dtype that is not quantized."""
    try:
        return observed_dtype(dtype)
    except TypeError:
        return None


def activation_is_int8_quantized(qconfig: Any) -> bool:
    """Whether activations become 8-bit integers."""
    return _resolved(activation_dtype(qconfig)) in _INT8_ACTIVATIONS


def activation_is_int32_quantized(qconfig: Any) -> bool:
    """Whether activations become 32-bit integers."""
    return _resolved(activation_dtype(qconfig)) is qint32


def weight_is_quantized(qconfig: Any) -> bool:
    """Whether weights become integers or float16."""
    dtype = weight_dtype(qconfig)
    return dtype == torch.float16 or _resolved(dtype) is not None


def weight_is_statically_quantized(qconfig: Any) -> bool:
    """Whether weights become 8-bit integers."""
    return _resolved(weight_dtype(qconfig)) in _INT8_ACTIVATIONS


def op_is_int8_dynamically_quantized(qconfig: Any) -> bool:
    """Whether weights are int8, and activations become uint8 when the model runs."""
    activation, weight, is_dynamic = get_qconfig_dtypes(qconfig)
    return is_dynamic and _resolved(activation) is quint8 and _resolved(weight) is qint8


def get_quant_type(qconfig: Any) -> QuantType:
    """What a QConfig quantizes, and when.

    Raises:
        ValueError: neither integers nor float16.
    """
    activation, weight, is_dynamic = get_qconfig_dtypes(qconfig)
    halves = weight == torch.float16
    if not halves and _resolved(weight) is None:
        raise ValueError(f"get_quant_type: no kind of quantization has {activation} and {weight}")
    if is_dynamic:
        return QuantType.DYNAMIC
    if activation == torch.float16 if halves else _resolved(activation) is not None:
        return QuantType.STATIC
    if halves:
        raise ValueError(f"get_quant_type: no kind of quantization has {activation} and {weight}")
    return QuantType.WEIGHT_ONLY


def get_swapped_custom_module_class(
    custom_module: nn.Module,
    custom_module_class_mapping: Mapping[QuantType, Mapping[type, Any]],
    qconfig: Any,
) -> Any:
    """What a mapping by kind of quantization and class has for a module.

    Raises:
        ValueError: nothing.
    """
    classes = custom_module_class_mapping.get(get_quant_type(qconfig), {})
    if type(custom_module) not in classes:
        raise ValueError(
            f"get_swapped_custom_module_class: no class for {type(custom_module)} in {classes}"
        )
    return classes[type(custom_module)]


def get_combined_dict(
    default_dict: Mapping[Any, Any], additional_dict: Mapping[Any, Any]
) -> dict[Any, Any]:
    """Both dicts as one; the entries of the second win."""
    return {**default_dict, **additional_dict}


def getattr_from_fqn(obj: Any, fqn: str) -> Any:
    """The attribute at a dotted path."""
    return functools.reduce(getattr, fqn.split("."), obj)


def to_underlying_dtype(qdtype: Any) -> torch.dtype:
    """The plain dtype that stores a quantized one; plain dtypes of 8 bits and more as they are.

    Raises:
        TypeError: anything else.
    """
    if qdtype in (torch.float8_e5m2, torch.float8_e4m3fn):
        plain: torch.dtype = qdtype
        return plain
    return torch.uint8 if qdtype == quint4x2 else storage_dtype(qdtype)


def get_fqn_to_example_inputs(
    model: nn.Module, example_inputs: tuple[Any, ...]
) -> dict[str, tuple[Any, ...]]:
    """What each module of a model is called with when the model gets ``example_inputs``, by path;
    keyword arguments and defaults in their positions. "" is the model.
    """
    found: dict[str, tuple[Any, ...]] = {}

    def record(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        call.apply_defaults()
        found[name] = (*call.args, *call.kwargs.values())

    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: record(name, module, args, kwargs),
            with_kwargs=True,
        )
        for name, module in model.named_modules()
    ]
    try:
        model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
