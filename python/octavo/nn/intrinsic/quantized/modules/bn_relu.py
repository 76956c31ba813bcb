"""Quantized batch norm + ReLU."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo.nn.quantized.modules.batchnorm import BatchNorm2d, BatchNorm3d
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["BNReLU2d", "BNReLU3d"]


def _batch_norm_of(cls: Any, mod: Any) -> Any:
    if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
        bn, relu = mod[0], mod[1]
        if isinstance(bn, cls._FLOAT_MODULE) and isinstance(relu, nn.ReLU):
            return bn
    raise TypeError(
        f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.{cls.__name__}, a "
        f"{cls._FLOAT_MODULE.__name__} and a ReLU"
    )


class BNReLU2d(BatchNorm2d):
    """:class:`octavo.nn.quantized.BatchNorm2d` and ReLU in one: the output is clamped at its zero
    point.

    Source: ``torch.ao.nn.intrinsic.quantized.BNReLU2d``.
    """

    _relu = True

    @classmethod
    def _checked_float(cls, mod: Any) -> Any:
        return _batch_norm_of(cls, mod)


class BNReLU3d(BatchNorm3d):
    """:class:`BNReLU2d` of [N, C, D, H, W].

    Source: ``torch.ao.nn.intrinsic.quantized.BNReLU3d``.
    """

    _relu = True

    @classmethod
    def _checked_float(cls, mod: Any) -> Any:
        return _batch_norm_of(cls, mod)
