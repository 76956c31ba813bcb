"""Modules that quantize their inputs on the way, under the names of
``torch.ao.nn.quantized.dynamic``."""

from octavo.nn.quantized.dynamic import modules
from octavo.nn.quantized.dynamic.modules import *  # noqa: F403
from octavo.nn.quantized.dynamic.modules import __all__ as _modules_all

__all__ = ["modules", *_modules_all]
