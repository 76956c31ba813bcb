"""Quantized forms of the fused modules of ``octavo.nn.intrinsic``."""

from octavo.nn.intrinsic.quantized import dynamic, modules
from octavo.nn.intrinsic.quantized.modules import *  # noqa: F403
from octavo.nn.intrinsic.quantized.modules import __all__ as _modules_all

__all__ = ["dynamic", "modules", *_modules_all]
