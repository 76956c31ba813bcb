"""Modules of quantization-aware training, under the names of ``torch.ao.nn.qat``;
``octavo.quantization.prepare_qat`` makes them."""

from octavo.nn.qat import dynamic, modules
from octavo.nn.qat.modules import *  # noqa: F403
from octavo.nn.qat.modules import __all__ as _modules_all

__all__ = ["dynamic", "modules", *_modules_all]
