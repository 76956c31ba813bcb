"""Observers that only graphs have: qparams taken from other observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from octavo.dtypes import QDType, per_tensor_affine
from octavo.quantization.observer_base import ObserverBase
from octavo.quantization.utils import dtype_limits, is_per_channel

__all__ = ["DerivedObserverOrFakeQuantize", "ReusedObserver", "is_observer"]


class DerivedObserverOrFakeQuantize(ObserverBase):
    """Answers with qparams that a function computes from other observers; made from a
    :class:`~octavo.quantization.quantizer.DerivedQuantizationSpec`.

    Args:
        dtype: integer dtype of the quantized tensor.
        obs_or_fqs: the other observers.
        derive_qparams_fn: takes them, returns scale and zero point tensors.
        quant_min, quant_max: range of the integers; default: all of ``dtype``.
        qscheme, ch_axis: as observers have them.

    Source: ``torchao.quantization.pt2e.DerivedObserverOrFakeQuantize``.
    """

    _keeps_statistics = False

    def __init__(
        self,
        dtype: Any,
        obs_or_fqs: list[Any],
        derive_qparams_fn: Callable[[list[Any]], tuple[Tensor, Tensor]],
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: Any = None,
        ch_axis: int | None = None,
    ) -> None:
        super().__init__(dtype)
        lo, hi, _ = dtype_limits(self.dtype)
        # A tuple: these are registered where they observe.
        self.obs_or_fqs = tuple(obs_or_fqs)
        self.derive_qparams_fn = derive_qparams_fn
        self.quant_min = lo if quant_min is None else quant_min
        self.quant_max = hi if quant_max is None else quant_max
        self.qscheme = per_tensor_affine if qscheme is None else qscheme
        self.ch_axis = ch_axis
        if is_per_channel(self.qscheme) and ch_axis is None:
            raise ValueError("DerivedObserverOrFakeQuantize: per-channel schemes need ch_axis")

    def forward(self, x: Tensor) -> Tensor:
        """Returns its argument."""
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """What the function gives."""
        return self.derive_qparams_fn(list(self.obs_or_fqs))

    @property
    def is_calibrated(self) -> bool:
        """Whether all observers that it derives from are."""
        return all(getattr(o, "is_calibrated", True) for o in self.obs_or_fqs)


class ReusedObserver(nn.Module):
    """Marks a tensor as quantized with the qparams of another, whose observer it does not feed.

    ``observer`` is that one. Forward returns its argument: the values come from a tensor that has
    been observed, or rounded, already.
    """

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        self._source = (observer,)  # not registered: its state belongs to the other place

    @property
    def observer(self) -> Any:
        return self._source[0]

    def forward(self, x: Tensor) -> Tensor:
        return x


def is_observer(module: object) -> bool:
    """Whether a module of a prepared graph observes or fake-quantizes: Octavo's, torch's, a user's
    or a mark.
    """
    if isinstance(module, ReusedObserver):
        return True
    return isinstance(module, nn.Module) and callable(getattr(module, "calculate_qparams", None))


def full_range(dtype: Any, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
    """A range of integers with what was left out taken from the dtype."""
    lo, hi, _ = dtype_limits(dtype)
    return (lo if quant_min is None else quant_min, hi if quant_max is None else quant_max)


def torch_dtype(dtype: Any) -> torch.dtype:
    """The torch dtype that stores ``dtype``."""
    return dtype.storage if isinstance(dtype, QDType) else dtype
