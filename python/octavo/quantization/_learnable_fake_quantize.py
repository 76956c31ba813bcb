"""Fake-quantize whose scale and zero point are learned (learned step size quantization).

Users import ``LearnableFakeQuantize`` from :mod:`octavo.quantization.fake_quantize`; torch calls it
``torch.ao.quantization._learnable_fake_quantize._LearnableFakeQuantize``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.fake_quantize_base import FakeQuantizeBase
from octavo.quantization.fake_quantize_function import learnable_fake_quantize
from octavo.quantization.utils import DEFAULT_EPS, SYMMETRIC_SCHEMES, is_per_channel

__all__ = ["LearnableFakeQuantize"]


class LearnableFakeQuantize(FakeQuantizeBase):
    """Fake-quantize that learns its scale and zero point from their gradients.

    It starts with an observer's estimates (``enable_static_estimate``); after
    ``enable_param_learning()`` the optimizer moves ``scale`` and ``zero_point``.

    Args:
        observer: an observer class, or what its ``with_args`` returns.
        quant_min, quant_max, observer_kwargs: arguments for the observer.
        scale, zero_point: where to start without estimates.
        channel_len: number of channels for a per-channel observer; -1 for one scale.
        use_grad_scaling: divide the gradients of scale and zero point by
            ``sqrt(elements * quant_max)``, so that steps of scale and weights are of like size.

    Parameters: ``scale`` and ``zero_point``, float32, [1] or [channel_len]; they have gradients
    only while learning. With a symmetric scheme the zero point is held at 0. Buffers: those of
    :class:`FakeQuantizeBase`, ``static_enabled`` (which takes the place of ``observer_enabled``)
    and ``learning_enabled``, uint8 [1], and ``eps``.

    Raises:
        ValueError: an empty range, or one that does not fit the dtype; ``channel_len`` 0.

    Source: ``torch.ao.quantization._learnable_fake_quantize._LearnableFakeQuantize``.
    """

    static_enabled: Tensor
    learning_enabled: Tensor
    eps: Tensor

    def __init__(
        self,
        observer: Any,
        quant_min: int = 0,
        quant_max: int = 255,
        scale: float = 1.0,
        zero_point: float = 0.0,
        channel_len: int = -1,
        use_grad_scaling: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if quant_min >= quant_max:
            raise ValueError(
                f"LearnableFakeQuantize: quant_min must be less than quant_max, got {quant_min} "
                f"and {quant_max}"
            )
        if channel_len != -1 and channel_len < 1:
            raise ValueError(
                f"LearnableFakeQuantize: channel_len must be positive or -1, got {channel_len}"
            )
        self.quant_min, self.quant_max = quant_min, quant_max
        self.use_grad_scaling = use_grad_scaling
        length = 1 if channel_len == -1 else channel_len
        self.scale = nn.Parameter(torch.full((length,), float(scale)), False)
        self.zero_point = nn.Parameter(torch.full((length,), float(zero_point)), False)
        self.activation_post_process = observer(
            quant_min=quant_min, quant_max=quant_max, **observer_kwargs
        )
        self.dtype = self.activation_post_process.dtype
        self.qscheme = self.activation_post_process.qscheme
        self.ch_axis: int = getattr(self.activation_post_process, "ch_axis", -1)
        self.register_buffer("static_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("learning_enabled", torch.tensor([0], dtype=torch.uint8))
        self.register_buffer("eps", torch.tensor([DEFAULT_EPS]))
        self.bitwidth = (quant_max - quant_min + 1).bit_length() - 1

    @property
    def is_calibrated(self) -> bool:
        """Whether the scale was estimated, or is being learned."""
        return self._is_on("learning_enabled") or super().is_calibrated

    def enable_param_learning(self) -> LearnableFakeQuantize:
        """Learns scale and zero point from now on instead of estimating them. Returns itself."""
        self.toggle_qparam_learning(True).toggle_fake_quant(True).toggle_observer_update(False)
        return self

    def enable_static_estimate(self) -> None:
        """Estimates scale and zero point from now on instead of learning them."""
        self.toggle_qparam_learning(False).toggle_fake_quant(True).toggle_observer_update(True)

    def enable_static_observation(self) -> None:
        """Takes statistics and passes values on unrounded from now on."""
        self.toggle_qparam_learning(False).toggle_fake_quant(False).toggle_observer_update(True)

    def toggle_observer_update(self, enabled: bool = True) -> LearnableFakeQuantize:
        """Estimates scale and zero point, or not. Returns itself."""
        self.static_enabled.fill_(int(enabled))
        return self

    def enable_observer(self, enabled: bool = True) -> None:
        """The same as ``toggle_observer_update``."""
        self.toggle_observer_update(enabled)

    def toggle_qparam_learning(self, enabled: bool = True) -> LearnableFakeQuantize:
        """Gives scale and zero point gradients, or not. Returns itself."""
        self.learning_enabled.fill_(int(enabled))
        self.scale.requires_grad_(enabled)
        self.zero_point.requires_grad_(enabled)
        return self

    def toggle_fake_quant(self, enabled: bool = True) -> LearnableFakeQuantize:
        """Rounds, or not. Returns itself."""
        self.fake_quant_enabled.fill_(int(enabled))
        return self

    def observe_quant_params(self) -> None:
        """Prints scale and zero point."""
        print(f"LearnableFakeQuantize Scale: {self.scale.detach()}")
        print(f"LearnableFakeQuantize Zero Point: {self.zero_point.detach()}")

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale (at least ``eps``) and zero point, rounded to int64 within the range."""
        self._hold_positive()
        zero_point = self.zero_point.detach().round().clamp(self.quant_min, self.quant_max)
        return self.scale.detach(), zero_point.to(torch.int64)

    def _hold_positive(self) -> None:
        with torch.no_grad():
            self.scale.copy_(torch.maximum(self.scale, self.eps))

    def _take_qparams(self) -> None:
        """Takes over the observer's scale and zero point, if they are estimated."""
        if not self._is_on("static_enabled"):
            return
        scale, zero_point = self.activation_post_process.calculate_qparams()
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)

    def forward(self, X: Tensor) -> Tensor:
        """Estimates where enabled, then fake-quantizes ``X``."""
        if self._is_on("static_enabled"):
            self.activation_post_process(X.detach())
            self._take_qparams()
        else:
            self._hold_positive()
        if not self._is_on("fake_quant_enabled"):
            return X
        if self.qscheme in SYMMETRIC_SCHEMES:
            with torch.no_grad():
                self.zero_point.zero_()
        factor = (max(X.numel(), 1) * self.quant_max) ** -0.5 if self.use_grad_scaling else 1.0
        axis = self.ch_axis if is_per_channel(self.qscheme) else None
        return learnable_fake_quantize(
            X, self.scale, self.zero_point, axis, self.quant_min, self.quant_max, factor
        )


_LearnableFakeQuantize = LearnableFakeQuantize
