"""Quantized modules and functions, under the names of ``torch.ao.nn.quantized``."""

from octavo.nn.quantized import dynamic, functional, modules
from octavo.nn.quantized.modules import *  # noqa: F403
from octavo.nn.quantized.modules import __all__ as _modules_all

__all__ = ["dynamic", "functional", "modules", *_modules_all]
