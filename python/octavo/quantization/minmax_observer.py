"""Observers that keep minimum and maximum, running or averaged, per tensor or per channel.

Users import these names from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import per_channel_affine, per_tensor_affine, quint8
from octavo.ops import direct
from octavo.quantization.observer_base import (
    UniformQuantizationObserverBase,
    _tensor_options,
)
from octavo.quantization.statistics import (
    kernels_see,
    mark_written,
    process_group,
    running_average,
)
from octavo.quantization.utils import DEFAULT_EPS, host_qparams, is_per_channel, is_per_tensor

__all__ = [
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
]


def require_per_tensor(cls: type, qscheme: Any) -> None:
    """Raises NotImplementedError unless the scheme is per tensor."""
    if not is_per_tensor(qscheme):
        raise NotImplementedError(
            f"{cls.__name__}: qscheme must be per_tensor_affine or per_tensor_symmetric, got "
            f"{qscheme}"
        )


class MinMaxObserver(UniformQuantizationObserverBase):
    """Keeps the smallest and the largest value ever seen.

    Args: as :class:`UniformQuantizationObserverBase`; ``qscheme`` per tensor only.

    Buffers: ``min_val`` and ``max_val``, float32 0-D, +inf and -inf until something finite is seen.
    Empty tensors leave them as they are. Source: ``torch.ao.quantization.observer.MinMaxObserver``.
    """

    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        dtype: Any = quint8,
        qscheme: Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        require_per_tensor(type(self), qscheme)
        super().__init__(
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            factory_kwargs=factory_kwargs,
            eps=eps,
            is_dynamic=is_dynamic,
            **kwargs,
        )
        options = _tensor_options(factory_kwargs)
        self.register_buffer("min_val", torch.tensor(torch.inf, **options))
        self.register_buffer("max_val", torch.tensor(-torch.inf, **options))

    def forward(self, x_orig: Any) -> Any:
        """Takes notice of a tensor of any shape and returns it."""
        if _observed(self, x_orig, None):
            return x_orig
        x = self._plain(x_orig, self.min_val)
        group = process_group()
        if x.numel() or group is not None:
            self._update(*self._extremes(x, group))
        return x_orig

    def _update(self, low: Tensor, high: Tensor) -> None:
        self.min_val.copy_(torch.minimum(low.to(self.min_val.device), self.min_val))
        self.max_val.copy_(torch.maximum(high.to(self.max_val.device), self.max_val))

    @property
    def is_calibrated(self) -> bool:
        """Whether a finite value was seen."""
        return math.isfinite(self.min_val.item()) and math.isfinite(self.max_val.item())

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale (float32 [1]) and zero point (integer [1]) of the interval.

        Before anything was seen: ([1.0], [0]) and a warning. Raises ValueError if only NaN and Inf
        were seen.
        """
        return self._calculate_qparams(self.min_val, self.max_val)

    def host_qparams(self) -> tuple[float, int]:
        """:meth:`calculate_qparams` in plain numbers and without a warning; (1.0, 0) before
        anything was seen.
        """
        low, high = self.min_val.item(), self.max_val.item()
        if not low <= high:
            return 1.0, 0
        return host_qparams(low, high, eps=self.eps.item(), **self._range())

    def reset_min_max_vals(self) -> None:
        """Forgets everything that was observed."""
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)
        self._set_nonfinite_count(0)


class MovingAverageMinMaxObserver(MinMaxObserver):
    """Keeps exponential moving averages of each tensor's minimum and maximum.

    The first tensor sets them; each later one moves them by ``averaging_constant`` of the
    difference.

    Args:
        averaging_constant: between 0 and 1; 1 forgets all but the last tensor, which is then what
            quantizing a module's input dynamically means.
        others: as :class:`MinMaxObserver`.

    Raises:
        NotImplementedError: ``is_dynamic`` with another constant than 1.

    Source: ``torch.ao.quantization.observer.MovingAverageMinMaxObserver``.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        dtype: Any = quint8,
        qscheme: Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        if is_dynamic and averaging_constant != 1:
            raise NotImplementedError(
                f"{type(self).__name__}: is_dynamic needs averaging_constant=1, got "
                f"{averaging_constant}"
            )
        super().__init__(
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            eps=eps,
            is_dynamic=is_dynamic,
            **kwargs,
        )
        self.averaging_constant = averaging_constant

    def _update(self, low: Tensor, high: Tensor) -> None:
        running_average(self.min_val, low, self.averaging_constant)
        running_average(self.max_val, high, self.averaging_constant)


class PerChannelMinMaxObserver(UniformQuantizationObserverBase):
    """Keeps the smallest and the largest value of each slice along an axis.

    Args:
        ch_axis: the channel axis, negative counts from the end.
        others: as :class:`UniformQuantizationObserverBase`; ``qscheme`` per channel only, no
            ``is_dynamic``.

    Buffers: ``min_val`` and ``max_val``, float32, empty until something is seen, then [channels].
    They take the size of a state dict that is loaded. Source:
    ``torch.ao.quantization.observer.PerChannelMinMaxObserver``.

    Raises:
        ValueError: when called, the tensor lacks the axis, or has another number of channels than
            before.
    """

    _renamed_keys: ClassVar[Mapping[str, str]] = {"min_vals": "min_val", "max_vals": "max_val"}

    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: Any = quint8,
        qscheme: Any = per_channel_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if not is_per_channel(qscheme):
            raise NotImplementedError(
                f"{name}: qscheme must be per_channel_affine, per_channel_symmetric or "
                f"per_channel_affine_float_qparams, got {qscheme}"
            )
        if is_dynamic:
            raise NotImplementedError(
                f"{name}: is_dynamic is not supported by per-channel observers"
            )
        super().__init__(
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            factory_kwargs=factory_kwargs,
            eps=eps,
            is_dynamic=is_dynamic,
            **kwargs,
        )
        options = _tensor_options(factory_kwargs)
        self.ch_axis = ch_axis
        self.register_buffer("min_val", torch.tensor([], **options))
        self.register_buffer("max_val", torch.tensor([], **options))

    def forward(self, x_orig: Any) -> Any:
        """Takes notice of a tensor that has the channel axis and returns it."""
        if _observed(self, x_orig, self.ch_axis):
            return x_orig
        x = self._plain(x_orig, self.min_val)
        group = process_group()
        if x.numel() == 0 and group is None:
            return x_orig
        low, high = self._extremes(self._channels_first(x), group, dim=1)
        if self.min_val.numel() == 0:
            self._resize(low.shape)
            self.min_val.fill_(torch.inf)
            self.max_val.fill_(-torch.inf)
        self._update(low, high)
        return x_orig

    def _channels_first(self, x: Tensor) -> Tensor:
        """``x`` as [channels, everything else]."""
        if not -x.dim() <= self.ch_axis < x.dim():
            raise ValueError(
                f"{self._label()}: ch_axis={self.ch_axis} needs a tensor with that axis, got "
                f"shape {tuple(x.shape)}"
            )
        channels = x.size(self.ch_axis)
        if self.min_val.numel() not in (0, channels):
            raise ValueError(
                f"{self._label()}: observed {self.min_val.numel()} channels along axis "
                f"{self.ch_axis} before, now shape {tuple(x.shape)}; use one observer for each "
                "tensor"
            )
        return x.movedim(self.ch_axis, 0).reshape(channels, -1)

    def _update(self, low: Tensor, high: Tensor) -> None:
        self.min_val.copy_(torch.minimum(low.to(self.min_val.device), self.min_val))
        self.max_val.copy_(torch.maximum(high.to(self.max_val.device), self.max_val))

    def _resize(self, shape: torch.Size) -> None:
        self.min_val.resize_(shape)
        self.max_val.resize_(shape)

    @property
    def is_calibrated(self) -> bool:
        """Whether a finite value was seen in every channel."""
        return self.min_val.numel() > 0 and bool(
            (torch.isfinite(self.min_val) & torch.isfinite(self.max_val)).all()
        )

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scales (float32 [channels]) and zero points ([channels]; float for
        per_channel_affine_float_qparams).

        Before anything was seen: ([1.0], [0]) and a warning. Raises ValueError if a channel saw
        only NaN and Inf.
        """
        return self._calculate_qparams(self.min_val, self.max_val)

    def _adapt_buffers(self, state_dict: Any, prefix: str) -> None:
        for name in ("min_val", "max_val"):
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and loaded.dim() <= 1:
                getattr(self, name).resize_(loaded.shape)

    def reset_min_max_vals(self) -> None:
        """Forgets everything that was observed, the number of channels too."""
        self._resize(torch.Size([0]))
        self._set_nonfinite_count(0)


class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """Keeps exponential moving averages of each channel's minimum and maximum.

    Args:
        averaging_constant: as :class:`MovingAverageMinMaxObserver`.
        others: as :class:`PerChannelMinMaxObserver`.

    Source: ``torch.ao.quantization.observer.MovingAveragePerChannelMinMaxObserver``.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = 0,
        dtype: Any = quint8,
        qscheme: Any = per_channel_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            ch_axis=ch_axis,
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            eps=eps,
            is_dynamic=is_dynamic,
            **kwargs,
        )
        self.averaging_constant = averaging_constant

    def _update(self, low: Tensor, high: Tensor) -> None:
        running_average(self.min_val, low, self.averaging_constant)
        running_average(self.max_val, high, self.averaging_constant)


# Whether they average. The classes themselves, not subclasses, which may observe in their own way.
AVERAGES: dict[type, bool] = {
    MinMaxObserver: False,
    PerChannelMinMaxObserver: False,
    MovingAverageMinMaxObserver: True,
    MovingAveragePerChannelMinMaxObserver: True,
}


def _observed(observer: Any, x: Any, axis: int | None) -> bool:
    """Takes notice of ``x`` in one call, or returns False with nothing changed: for other devices,
    dtypes and observers, for gaps in memory, the first tensor of a per-channel observer, whatever
    is wrong with ``x``, and where processes share statistics. Results are equal to the bit, but for
    the sign of zeros.
    """
    averages = AVERAGES.get(type(observer))
    if averages is None or not isinstance(x, Tensor) or not kernels_see(x):
        return False
    if process_group() is not None:
        return False
    low, high = observer._buffers["min_val"], observer._buffers["max_val"]
    constant = observer.averaging_constant if averages else None
    plain = x.detach() if type(x) is nn.Parameter else x
    others = direct.observe(plain, axis, low, high, constant)
    if others is None:
        return False
    mark_written((low, high))
    if others:
        observer._nonfinite += others
    return True
