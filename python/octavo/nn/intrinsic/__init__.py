"""Float modules that stand for a fused sequence; ``octavo.quantization.fuse_modules`` makes them.

``octavo.nn.intrinsic.qat`` holds their forms in quantization-aware training,
``octavo.nn.intrinsic.quantized`` their int8 forms.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from octavo.nn.intrinsic import modules
from octavo.nn.intrinsic.modules import *  # noqa: F403
from octavo.nn.intrinsic.modules import __all__ as _modules_all
from octavo.nn.intrinsic.modules.fused import _FusedModule

__all__ = ["_FusedModule", "modules", *_modules_all]


def __getattr__(name: str) -> ModuleType:
    # The other forms import this package, so it loads them when somebody asks.
    if name in ("qat", "quantized"):
        return importlib.import_module(f"octavo.nn.intrinsic.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
