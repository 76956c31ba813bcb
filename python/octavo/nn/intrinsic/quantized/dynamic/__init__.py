"""Dynamically quantized forms of the fused modules of ``octavo.nn.intrinsic``."""

from octavo.nn.intrinsic.quantized.dynamic import modules
from octavo.nn.intrinsic.quantized.dynamic.modules import *  # noqa: F403
from octavo.nn.intrinsic.quantized.dynamic.modules import __all__ as _modules_all

__all__ = ["modules", *_modules_all]
