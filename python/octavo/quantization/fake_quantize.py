"""Fake-quantize: modules that show a float model in training what quantization will do to it.

Names, arguments, defaults and results are those of ``torch.ao.quantization.fake_quantize``.
Differences:

* NaN and ±Inf are left out of the statistics, as with all observers here; NaN passes through.
* Symmetric fused modules train with the scale that ``calculate_qparams`` and ``convert`` give.
  torch's fused operation uses another, up to 0.4 % apart (0.8 % with 7 bits).
* Default weight fake-quants forget the weight of the step before, as torch documents. torch's
  average with a constant of 0.01, so that weights which grow are clipped.
* Wrong arguments raise TypeError or ValueError where torch raises AssertionError.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from octavo.dtypes import (
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    quint4x2,
    quint8,
)
from octavo.ops._tracing import is_dynamo_compiling
from octavo.quantization._learnable_fake_quantize import LearnableFakeQuantize
from octavo.quantization.fake_quantize_base import (
    FakeQuantizeBase,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
)
from octavo.quantization.fake_quantize_function import (
    fake_quantize_per_channel,
    fake_quantize_per_tensor,
)
from octavo.quantization.fake_quantize_step import fused_step, graph_step, observes_extremes
from octavo.quantization.minmax_observer import MinMaxObserver
from octavo.quantization.observer import (
    FixedQParamsObserver,
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    _SilentObserver,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)
from octavo.quantization.statistics import on_host, process_group
from octavo.quantization.utils import (
    SYMMETRIC_SCHEMES,
    is_per_channel,
    is_per_tensor,
    per_channel_affine_float_qparams,
)

__all__ = [
    "FakeQuantize",
    "FakeQuantizeBase",
    "FixedQParamsFakeQuantize",
    "FusedMovingAvgObsFakeQuantize",
    "LearnableFakeQuantize",
    "default_affine_fixed_qparams_fake_quant",
    "default_dynamic_fake_quant",
    "default_embedding_fake_quant",
    "default_embedding_fake_quant_4bit",
    "default_fake_quant",
    "default_fixed_qparams_range_0to1_fake_quant",
    "default_fixed_qparams_range_neg1to1_fake_quant",
    "default_fused_act_fake_quant",
    "default_fused_per_channel_wt_fake_quant",
    "default_fused_wt_fake_quant",
    "default_histogram_fake_quant",
    "default_per_channel_weight_fake_quant",
    "default_symmetric_fixed_qparams_fake_quant",
    "default_weight_fake_quant",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "fused_per_channel_wt_fake_quant_range_neg_127_to_127",
    "fused_wt_fake_quant_range_neg_127_to_127",
]


class FakeQuantize(FakeQuantizeBase):
    """Observes a tensor, then rounds it to the levels that the observer gives it.

    Args:
        observer: an observer class, or what its ``with_args`` returns.
        quant_min, quant_max, observer_kwargs: arguments for the observer.
        is_dynamic: a stand-in for quantizing when the model runs; handed to the observer if True.

    Forward takes a float tensor and returns one of the same shape, dtype and memory format: what
    :mod:`octavo.quantization.fake_quantize_function` says. The gradient passes where the value lies
    within the range of levels.

    Attributes: ``activation_post_process`` is the observer; ``dtype``, ``qscheme``, ``ch_axis``,
    ``quant_min``, ``quant_max`` are the observer's. Buffers: those of :class:`FakeQuantizeBase`,
    ``scale`` float32 and ``zero_point`` int32 (float32 for float_qparams), [1] or [channels], which
    take the size of a state dict that is loaded. State dicts have torch's keys, and each loads the
    other's.

    Raises:
        ValueError, TypeError: as the observer.

    Source: ``torch.ao.quantization.fake_quantize.FakeQuantize``.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if quant_min is not None or quant_max is not None:
            observer_kwargs.update(quant_min=quant_min, quant_max=quant_max)
        if is_dynamic:
            observer_kwargs["is_dynamic"] = True
        inner = observer(**observer_kwargs)
        if isinstance(inner, _SilentObserver) or not hasattr(inner, "quant_min"):
            raise TypeError(
                f"{type(self).__name__}: {type(inner).__name__} has no scale and zero point; use "
                "an observer with statistics, such as MovingAverageMinMaxObserver"
            )
        if not is_per_channel(inner.qscheme) and not is_per_tensor(inner.qscheme):
            raise ValueError(f"{type(self).__name__}: unknown qscheme {inner.qscheme!r}")
        self.activation_post_process = inner
        self.quant_min: int = inner.quant_min
        self.quant_max: int = inner.quant_max
        self.is_dynamic = bool(getattr(inner, "is_dynamic", False))
        self.dtype = inner.dtype
        self.qscheme = inner.qscheme
        self.ch_axis: int = getattr(inner, "ch_axis", -1)
        self.is_per_channel = is_per_channel(inner.qscheme)
        kind = torch.float if inner.qscheme == per_channel_affine_float_qparams else torch.int
        self.register_buffer("scale", torch.tensor([1.0]))
        self.register_buffer("zero_point", torch.tensor([0], dtype=kind))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale and zero point of the observer."""
        result: tuple[Tensor, Tensor] = self.activation_post_process.calculate_qparams()
        return result

    def forward(self, X: Tensor) -> Tensor:
        """Observes ``X`` and fake-quantizes it, each where enabled."""
        if is_dynamo_compiling():
            recorded = graph_step(self, X)
            if recorded is not None:
                return recorded
        observes, rounds = self._is_on("observer_enabled"), self._is_on("fake_quant_enabled")
        if observes and observes_extremes(self.activation_post_process):
            stepped = fused_step(self, X, True, rounds)
            if stepped is not None:
                return stepped
        known = self._observe(X) if observes else None
        if X.numel() == 0 or not rounds:
            return X
        if known is not None:
            return fake_quantize_per_tensor(X, *known, self.quant_min, self.quant_max)
        return self._round(X)

    def _observe(self, x: Tensor) -> tuple[float, int] | None:
        """Shows a tensor to the observer and takes over the scale and zero point that follow;
        returns them where they are known without reading a tensor.
        """
        self.activation_post_process(x.detach())
        if x.numel() or process_group() is not None:
            return self._take_qparams()
        return None

    def _take_qparams(self) -> tuple[float, int] | None:
        """Takes over the observer's scale and zero point, and returns them as :meth:`_observe`."""
        observer = self.activation_post_process
        if isinstance(observer, MinMaxObserver) and on_host(observer.min_val):
            scale, zero_point = observer.host_qparams()
            self.scale.fill_(scale)
            self.zero_point.fill_(zero_point)
            return scale, zero_point
        if isinstance(observer, (MinMaxObserver, PerChannelMinMaxObserver)):
            new_scale, new_zero_point = observer.step_qparams()
        else:
            new_scale, new_zero_point = self.calculate_qparams()
        if self.scale.shape != new_scale.shape:
            self.scale.resize_(new_scale.shape)
            self.zero_point.resize_(new_zero_point.shape)
        self.scale.copy_(new_scale)
        self.zero_point.copy_(new_zero_point)
        return None

    def _round(self, x: Tensor) -> Tensor:
        rounded = fused_step(self, x, False, True)
        if rounded is not None:
            return rounded
        host = on_host(x) and self.zero_point.dtype is not torch.float32
        scale, zero_point = self.scale.detach(), self.zero_point
        if not self.is_per_channel:
            if host:
                return fake_quantize_per_tensor(
                    x, scale.item(), int(zero_point.item()), self.quant_min, self.quant_max
                )
            return torch.fake_quantize_per_tensor_affine(
                x, scale, zero_point, self.quant_min, self.quant_max
            )
        if host:
            symmetric = self.qscheme in SYMMETRIC_SCHEMES
            return fake_quantize_per_channel(
                x, scale, zero_point, self.ch_axis, self.quant_min, self.quant_max, symmetric
            )
        axis = self.ch_axis % x.dim()
        return torch.fake_quantize_per_channel_affine(
            x, scale, zero_point, axis, self.quant_min, self.quant_max
        )

    def extra_repr(self) -> str:
        return (
            f"fake_quant_enabled={self._is_on('fake_quant_enabled')}, "
            f"observer_enabled={self._is_on('observer_enabled')}, quant_min={self.quant_min}, "
            f"quant_max={self.quant_max}, dtype={self.dtype}, qscheme={self.qscheme}, "
            f"ch_axis={self.ch_axis}, scale={self.scale}, zero_point={self.zero_point}"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("scale", "zero_point"):
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and loaded.dim() <= 1:
                getattr(self, name).resize_(loaded.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FixedQParamsFakeQuantize(FakeQuantize):
    """Rounds a tensor to levels that are known beforehand.

    Args:
        observer: FixedQParamsObserver with arguments, such as
            ``default_fixed_qparams_range_0to1_observer``.

    Raises:
        TypeError: another observer.

    Source: ``torch.ao.quantization.fake_quantize.FixedQParamsFakeQuantize``.
    """

    def __init__(self, observer: Any) -> None:
        super().__init__(observer=observer)
        inner = self.activation_post_process
        if not isinstance(inner, FixedQParamsObserver):
            raise TypeError(
                "FixedQParamsFakeQuantize: the observer must be a FixedQParamsObserver, got "
                f"{type(inner).__name__}; use FakeQuantize for that one"
            )
        # Copies: some file formats refuse a state dict whose tensors share memory.
        self.scale, self.zero_point = inner.scale.clone(), inner.zero_point.clone()

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The fixed scale and zero point."""
        return self.scale, self.zero_point

    def _observe(self, x: Tensor) -> tuple[float, int] | None:
        """There is nothing to find out."""
        return None


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """:class:`FakeQuantize` with a moving average of minimum and maximum.

    Args:
        observer: MovingAverageMinMaxObserver or MovingAveragePerChannelMinMaxObserver, or what
            their ``with_args`` returns.
        quant_min, quant_max, observer_kwargs: arguments for the observer.

    On other devices than the CPU, affine schemes take torch's fused operation
    (``torch.fused_moving_avg_obs_fake_quant``), outside of a DistributedDataParallel forward. There
    NaN and Inf do enter the statistics, and the observer's ``eps`` does not.

    Raises:
        TypeError: another observer.

    Source: ``torch.ao.quantization.fake_quantize.FusedMovingAvgObsFakeQuantize``.
    """

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int = 0,
        quant_max: int = 255,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__(observer, quant_min, quant_max, **observer_kwargs)
        inner = self.activation_post_process
        kinds = (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
        if not isinstance(inner, kinds):
            raise TypeError(
                "FusedMovingAvgObsFakeQuantize: the observer must be a MovingAverageMinMaxObserver "
                f"or MovingAveragePerChannelMinMaxObserver, got {type(inner).__name__}; use "
                "FakeQuantize for that one"
            )
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.long))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.long))
        self.is_symmetric_quant = inner.qscheme in SYMMETRIC_SCHEMES

    def forward(self, X: Tensor) -> Tensor:
        """Observes ``X`` and fake-quantizes it, each where enabled."""
        kernels = on_host(X) or (is_dynamo_compiling() and X.is_cpu)
        if kernels or self.is_symmetric_quant or process_group() is not None:
            return super().forward(X)
        return super().forward(X) if self.zero_point.dtype is torch.float32 else self._fused(X)

    def _fused(self, x: Tensor) -> Tensor:
        inner = self.activation_post_process
        return torch.fused_moving_avg_obs_fake_quant(
            x,
            self.observer_enabled,
            self.fake_quant_enabled,
            inner.min_val,
            inner.max_val,
            self.scale,
            self.zero_point,
            inner.averaging_constant,
            self.quant_min,
            self.quant_max,
            self.ch_axis,
            self.is_per_channel,
            self.is_symmetric_quant,
        )


default_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=0,
    quant_max=255,
    dtype=quint8,
    qscheme=per_tensor_affine,
    reduce_range=True,
)
"""Activations: moving average, quint8, 0..127."""

default_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    qscheme=per_tensor_symmetric,
    reduce_range=False,
    averaging_constant=1.0,
)
"""Weights: qint8, symmetric, one scale, of the weight as it is."""

default_dynamic_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=0,
    quant_max=255,
    is_dynamic=True,
    dtype=quint8,
    averaging_constant=1,
)
"""Activations that are quantized when the model runs."""

default_fixed_qparams_range_neg1to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_neg1to1_observer
)
"""Activations known to lie in [-1, 1), such as tanh."""

default_fixed_qparams_range_0to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_0to1_observer
)
"""Activations known to lie in [0, 1), such as sigmoid."""

default_symmetric_fixed_qparams_fake_quant = default_fixed_qparams_range_neg1to1_fake_quant
"""An older name of ``default_fixed_qparams_range_neg1to1_fake_quant``."""

default_affine_fixed_qparams_fake_quant = default_fixed_qparams_range_0to1_fake_quant
"""An older name of ``default_fixed_qparams_range_0to1_fake_quant``."""

default_per_channel_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    qscheme=per_channel_symmetric,
    reduce_range=False,
    ch_axis=0,
    averaging_constant=1.0,
)
"""Weights: qint8, symmetric, one scale per output channel, of the weight as it is."""

default_embedding_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    qscheme=per_channel_affine_float_qparams,
    dtype=quint8,
    quant_min=0,
    quant_max=255,
    ch_axis=0,
    averaging_constant=1,
)
"""Embedding tables: quint8, float scale and zero point per row."""

default_embedding_fake_quant_4bit = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    qscheme=per_channel_affine_float_qparams,
    ch_axis=0,
    dtype=quint4x2,
    averaging_constant=1,
)
"""Embedding tables of 4 bits: float scale and zero point per row."""

default_histogram_fake_quant = FakeQuantize.with_args(
    observer=HistogramObserver,
    quant_min=0,
    quant_max=255,
    dtype=quint8,
    qscheme=per_tensor_affine,
    reduce_range=True,
)
"""Activations: histogram, quint8, 0..127."""

default_fused_act_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=quint8
)
"""Activations: moving average, quint8, 0..255."""

default_fused_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    qscheme=per_tensor_symmetric,
    averaging_constant=1.0,
)
"""The same as ``default_weight_fake_quant``."""

default_fused_per_channel_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    qscheme=per_channel_symmetric,
    averaging_constant=1.0,
)
"""The same as ``default_per_channel_weight_fake_quant``."""

fused_wt_fake_quant_range_neg_127_to_127 = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-127,
    quant_max=127,
    dtype=qint8,
    qscheme=per_tensor_symmetric,
    eps=2**-12,
    averaging_constant=1.0,
)
"""Weights: qint8, symmetric, one scale, -127..127."""

fused_per_channel_wt_fake_quant_range_neg_127_to_127 = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-127,
    quant_max=127,
    dtype=qint8,
    qscheme=per_channel_symmetric,
    eps=2**-12,
    averaging_constant=1.0,
)
"""Weights: qint8, symmetric, one scale per output channel, -127..127."""
