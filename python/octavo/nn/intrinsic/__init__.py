"""Float modules that stand for a fused sequence; ``octavo.quantization.fuse_modules`` makes them.

``octavo.nn.intrinsic.qat`` holds their forms in quantization-aware training,
``octavo.nn.intrinsic.quantized`` their int8 forms.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from octavo.nn.intrinsic.modules.fused import (
    BNReLU2d,
    BNReLU3d,
    ConvAdd2d,
    ConvAddReLU2d,
    ConvBn1d,
    ConvBn2d,
    ConvBn3d,
    ConvBnHardtanh1d,
    ConvBnHardtanh2d,
    ConvBnHardtanh3d,
    ConvBnReLU1d,
    ConvBnReLU2d,
    ConvBnReLU3d,
    ConvHardtanh1d,
    ConvHardtanh2d,
    ConvHardtanh3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
    LinearBn1d,
    LinearLeakyReLU,
    LinearReLU,
    LinearTanh,
    _FusedModule,
)

__all__ = [
    "BNReLU2d",
    "BNReLU3d",
    "ConvAdd2d",
    "ConvAddReLU2d",
    "ConvBn1d",
    "ConvBn2d",
    "ConvBn3d",
    "ConvBnHardtanh1d",
    "ConvBnHardtanh2d",
    "ConvBnHardtanh3d",
    "ConvBnReLU1d",
    "ConvBnReLU2d",
    "ConvBnReLU3d",
    "ConvHardtanh1d",
    "ConvHardtanh2d",
    "ConvHardtanh3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "LinearBn1d",
    "LinearLeakyReLU",
    "LinearReLU",
    "LinearTanh",
    "_FusedModule",
]


def __getattr__(name: str) -> ModuleType:
    # The other forms import this package, so it loads them when somebody asks.
    if name in ("qat", "quantized"):
        return importlib.import_module(f"octavo.nn.intrinsic.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
