"""Whether a backend quantizes a pattern as a QConfig asks."""

from __future__ import annotations

from typing import Any

import torch

from octavo.quantization.backend_config import BackendPatternConfig, DTypeConfig
from octavo.quantization.backend_config.backend_config import DTypeWithConstraints
from octavo.quantization.observer import FixedQParamsObserver
from octavo.quantization.quant_type import QuantType
from octavo.quantization.utils import observed_dtype

__all__ = ["quant_type", "unfit"]


def _same(wanted: Any, got: Any) -> bool:
    """Whether two dtypes are the same, be they Octavo's or torch's."""
    if wanted is None or got is None:
        return wanted is got
    try:
        return bool(observed_dtype(wanted) == observed_dtype(got))
    except TypeError:
        return bool(wanted == got)


def quant_type(qconfig: Any) -> QuantType | None:
    """What a QConfig quantizes: activations with calibrated scales (STATIC), activations when the
    model runs (DYNAMIC), or weights only. None for neither.
    """
    activation = qconfig.activation()
    if getattr(activation, "is_dynamic", False):
        return QuantType.DYNAMIC
    dtype = getattr(activation, "dtype", None)
    if _is_quantized(dtype):
        return QuantType.STATIC
    weight = getattr(_made(qconfig.weight), "dtype", None)
    if _is_quantized(weight) and dtype in (None, torch.float32):
        return QuantType.WEIGHT_ONLY
    if dtype is torch.float16:
        return QuantType.STATIC
    return None


def _made(factory: Any) -> Any:
    return None if factory is None else factory()


def _is_quantized(dtype: Any) -> bool:
    try:
        observed_dtype(dtype)
    except TypeError:
        return False
    return dtype is not None


def unfit(config: BackendPatternConfig, qconfig: Any) -> str:
    """Why a pattern is not quantized with a QConfig, or ""."""
    activation, weight = qconfig.activation(), _made(qconfig.weight)
    reasons = [_mismatch(dtypes, activation, weight) for dtypes in config.dtype_configs]
    if not reasons or "" in reasons:
        return ""
    return reasons[0]


def _mismatch(config: DTypeConfig, activation: Any, weight: Any) -> str:
    """Why a QConfig's observers do not have the dtypes of a config, or ""."""
    dynamic = bool(getattr(activation, "is_dynamic", False))
    if dynamic != bool(config.is_dynamic):
        return "the backend quantizes it " + ("statically" if dynamic else "dynamically") + " only"
    dtype = getattr(activation, "dtype", None)
    for wanted in (config.input_dtype, config.output_dtype):
        floats = wanted is torch.float32
        if wanted is not None and not floats and not _same(wanted, dtype):
            return f"the backend has no form of it for activations of {dtype}"
        if floats and not dynamic and _is_quantized(dtype):
            return (
                "the backend quantizes its weight only; octavo.quantize does so where set_local "
                "gives it a DynamicQuantConfig"
            )
    wanted = config.weight_dtype
    if wanted not in (None, torch.float32) and not _same(wanted, getattr(weight, "dtype", None)):
        return f"the backend has no form of it for weights of {getattr(weight, 'dtype', None)}"
    return _breaks(config.output_dtype_with_constraints, activation) or _breaks(
        config.weight_dtype_with_constraints, weight
    )


def _breaks(limits: DTypeWithConstraints, observer: Any) -> str:
    """Which constraint of a backend an observer breaks, or ""."""
    inner = getattr(observer, "activation_post_process", observer)
    low, high = getattr(inner, "quant_min", None), getattr(inner, "quant_max", None)
    if limits.scale_exact_match is not None:
        if not isinstance(inner, FixedQParamsObserver):
            return "the backend has a fixed scale for it, and its qconfig another observer"
        scale, zero_point = float(inner.scale), int(inner.zero_point)
        if (scale, zero_point) != (limits.scale_exact_match, limits.zero_point_exact_match):
            return f"the backend's scale for it is {limits.scale_exact_match}, not {scale}"
        return ""
    lowest, highest = limits.quant_min_lower_bound, limits.quant_max_upper_bound
    if lowest is not None and low is not None and low < lowest:
        return f"the backend's integers for it begin at {lowest}, its qconfig's at {low}"
    if highest is not None and high is not None and high > highest:
        return f"the backend's integers for it end at {highest}, its qconfig's at {high}"
    eps = getattr(inner, "eps", None)
    if limits.scale_min_lower_bound is not None and (
        eps is None or float(eps) < limits.scale_min_lower_bound
    ):
        return f"the backend's scales for it begin at {limits.scale_min_lower_bound}"
    return ""
