"""The kinds of quantization, as numbers."""

from __future__ import annotations

import enum

__all__ = ["QuantType"]


class QuantType(enum.IntEnum):
    """What is quantized, and when.

    Source: ``torch.ao.quantization.QuantType``.
    """

    DYNAMIC = 0
    STATIC = 1
    QAT = 2
    WEIGHT_ONLY = 3
