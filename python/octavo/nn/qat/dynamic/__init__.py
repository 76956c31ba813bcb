"""Training for dynamic quantization, under the names of ``torch.ao.nn.qat.dynamic``."""

from octavo.nn.qat.dynamic import modules
from octavo.nn.qat.dynamic.modules import Linear

__all__ = ["Linear", "modules"]
