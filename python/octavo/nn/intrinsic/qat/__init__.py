"""Fused modules of quantization-aware training, under the names of ``torch.ao.nn.intrinsic.qat``;
``octavo.quantization.prepare_qat`` makes them of what ``fuse_modules_qat`` fused."""

from octavo.nn.intrinsic.qat import modules
from octavo.nn.intrinsic.qat.modules import *  # noqa: F403
from octavo.nn.intrinsic.qat.modules import __all__ as _modules_all

__all__ = ["modules", *_modules_all]
