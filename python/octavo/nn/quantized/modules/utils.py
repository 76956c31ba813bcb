"""Helpers of the quantized modules: messages, output qparams, quantizing a float weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo import ops
from octavo._elsewhere import elsewhere
from octavo._errors import ArgumentError
from octavo.dtypes import (
    QDType,
    as_qdtype,
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    qint32,
)
from octavo.tensor import QTensor

__all__ = [
    "describe",
    "dynamic_activations",
    "dynamic_weight_observer",
    "is_calibrated",
    "observed_float",
    "output_qparams",
    "quantize_weight",
    "relabel",
    "source_label",
]

_PER_TENSOR = (per_tensor_affine, per_tensor_symmetric)
_PER_CHANNEL = (per_channel_affine, per_channel_symmetric)


def describe(value: object) -> str:
    """What an error message calls an argument: its dtype and shape where it is a tensor, else its
    type.
    """
    if isinstance(value, QTensor):
        shape = tuple(value._int.shape)
        return f"a quantized tensor ({value._qdtype}, {value._qscheme}, shape {shape})"
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a plain {dtype} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"


def relabel(error: Exception, label: str) -> Exception:
    """An error of the same kind with the module's name in front of its message."""
    known = (TypeError, ArgumentError, ValueError, IndexError, RuntimeError)
    kind = next((k for k in known if isinstance(error, k)), RuntimeError)
    return kind(f"{label}: {error}")


def source_label(cls: type, mod: object) -> str:
    """How ``from_float`` names the module that it could not convert."""
    name = getattr(mod, "_qualified_name", "")
    return f"{cls.__name__}.from_float({type(mod).__name__}{f' {name!r}' if name else ''})"


def observed_float(mod: Any) -> Any:
    """The float module that ``from_float`` quantizes: ``mod``, or what a module of
    quantization-aware training stands for, with batch norms folded and its fake-quantize modules.
    """
    made = getattr(mod, "_observed_float", None)
    return mod if made is None else made()


def output_qparams(mod: nn.Module, label: str) -> tuple[float, int, QDType]:
    """Output scale, zero point and dtype of an observed module, from its
    ``activation_post_process``.

    Raises:
        ValueError: no activation observer, or one with more than one scale.
        TypeError: the observer's dtype is not quint8 or qint8.
    """
    observer: Any = getattr(mod, "activation_post_process", None)
    if not hasattr(observer, "calculate_qparams"):
        raise ValueError(
            f"{label}: the module has no activation observer; run prepare() and calibrate it first"
        )
    try:
        qdtype = as_qdtype(observer.dtype)
    except TypeError:
        qdtype = qint32
    if qdtype is qint32:
        raise TypeError(
            f"{label}: the activation observer's dtype must be quint8 or qint8, got "
            f"{observer.dtype}"
        )
    scale, zero_point = observer.calculate_qparams()
    if scale.numel() != 1:
        raise ValueError(
            f"{label}: the activation observer gives {scale.numel()} scales; activations have one "
            "for the whole tensor"
        )
    return float(scale), int(zero_point), qdtype


def is_calibrated(observer: Any) -> bool:
    """Whether an observer or fake-quantize, Octavo's or torch.ao's, has seen finite values; True
    where it cannot be told.
    """
    inner = getattr(observer, "activation_post_process", observer)
    calibrated = getattr(inner, "is_calibrated", None)
    if calibrated is None:  # an observer that is not Octavo's
        low = getattr(inner, "min_val", None)
        return not isinstance(low, Tensor) or (low.numel() > 0 and bool(torch.isfinite(low).all()))
    return bool(calibrated)


def dynamic_weight_observer(mod: nn.Module, part: nn.Module) -> tuple[Any, bool]:
    """What quantizes the weight of a dynamically quantized module, and whether it is a
    fake-quantize that has seen the weight.

    ``part`` is what holds the weight: ``mod`` itself, or the first part of a fused one. Its
    ``weight_fake_quant``, or ``weight()`` of the qconfig; without a qconfig, one symmetric scale of
    8 bits for each output channel.
    """
    # octavo.quantization needs the modules of octavo.nn first.
    from octavo.quantization.observer import default_per_channel_weight_observer

    observer: Any = getattr(part, "weight_fake_quant", None)
    if observer is not None:
        return observer, True
    qconfig: Any = getattr(mod, "qconfig", None) or getattr(part, "qconfig", None)
    factory = default_per_channel_weight_observer if qconfig is None else qconfig.weight
    weight: Tensor = part.weight  # type: ignore[assignment]
    return factory().to(weight.device), False


def dynamic_activations(
    mod: nn.Module, part: nn.Module, per_tensor: bool | None, reduce_range: bool | None
) -> dict[str, bool]:
    """How a dynamically quantized module made from ``mod`` quantizes its inputs, as arguments of
    its constructor.

    What is None comes from ``activation()`` of the qconfig of ``mod``, or of ``part``, which holds
    the weight: attributes ``per_tensor`` and ``reduce_range`` of such an observer count, and both
    are False where it has none. A fake-quantize was trained with: per tensor, on its own levels.
    """
    qconfig: Any = getattr(mod, "qconfig", None) or getattr(part, "qconfig", None)
    observer: Any = None
    if qconfig is not None and (per_tensor is None or reduce_range is None):
        observer = qconfig.activation()
    if hasattr(observer, "fake_quant_enabled"):
        levels = observer.quant_max - observer.quant_min + 1
        per_tensor = True if per_tensor is None else per_tensor
        reduce_range = levels <= 128 if reduce_range is None else reduce_range
    given = {"per_tensor": per_tensor, "reduce_range": reduce_range}
    return {
        name: bool(getattr(observer, name, False) if value is None else value)
        for name, value in given.items()
    }


def quantize_weight(weight: Tensor, observer: Any, axis: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Quantizes a float weight to int8 with the qparams of an observer that has seen it.

    Args:
        weight: float tensor.
        observer: an observer or fake-quantize of dtype qint8: ``qscheme``, ``calculate_qparams()``,
            and for per-channel schemes ``ch_axis``, which must be ``axis``. Its ``quant_min`` and
            ``quant_max`` bound the result.
        axis: of the output channels.

    Returns:
        int8 weight of the same shape, float32 scales and int32 zero points, 1-D with one element or
        one per channel.

    Raises:
        TypeError: the observer gives no scale, or its dtype is not qint8.
        ValueError: NaN or Inf in the weight; a scheme other than per tensor or per channel on
            ``axis``.

    Source: ``torch.ao.nn.quantized.modules.utils._quantize_weight``.
    """
    if not hasattr(observer, "calculate_qparams"):
        raise TypeError(
            f"{type(observer).__name__} is no weight observer: it gives no scale; set the "
            "qconfig's weight to one, such as default_per_channel_weight_observer"
        )
    if as_qdtype(observer.dtype) is not qint8:
        raise TypeError(f"the weight observer's dtype must be qint8, got {observer.dtype}")
    if weight.device.type == "meta":
        raise ValueError(
            "the weight is on the meta device and holds no numbers; load a checkpoint first"
        )
    plain = weight.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(plain).all()):
        bad = int((~torch.isfinite(plain)).sum())
        raise ValueError(
            f"the float weight holds {bad} NaN or Inf among {plain.numel()} values; cannot "
            "quantize it"
        )
    scales, zero_points = observer.calculate_qparams()
    scales = scales.detach().to("cpu", torch.float32).reshape(-1).contiguous()
    zero_points = zero_points.detach().to("cpu", torch.int32).reshape(-1).contiguous()
    inner = getattr(observer, "activation_post_process", observer)
    lo, hi = getattr(inner, "quant_min", None), getattr(inner, "quant_max", None)
    if inner.qscheme in _PER_TENSOR and scales.numel() == 1:
        quantized = ops.quantize(plain, float(scales), int(zero_points), qint8, lo, hi)
    elif inner.qscheme in _PER_CHANNEL and inner.ch_axis in (axis, axis - plain.dim()):
        quantized = ops.quantize_per_channel(plain, scales, zero_points, axis, qint8, lo, hi)
    else:
        raise ValueError(
            f"the weight observer must be per tensor, or per channel on axis {axis}; got "
            f"{inner.qscheme} with ch_axis "
            f"{getattr(inner, 'ch_axis', None)} and {scales.numel()} scales"
        )
    return quantized, scales, zero_points


# In torch this class is here; its module imports this one.
__getattr__ = elsewhere(__name__, "octavo.nn.quantized.modules.weighted", "WeightedQuantizedModule")
