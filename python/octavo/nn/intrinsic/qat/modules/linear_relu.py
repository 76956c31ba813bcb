"""Linear and ReLU of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn import intrinsic as nni
from octavo.nn.qat.modules.linear import Linear

__all__ = ["LinearReLU"]


class LinearReLU(Linear):
    """:class:`octavo.nn.qat.Linear`, then ReLU.

    Source: ``torch.ao.nn.intrinsic.qat.LinearReLU``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.LinearReLU

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(F.linear(input, self.weight_fake_quant(self.weight), self.bias))

    def to_float(self) -> Any:
        return nni.LinearReLU(self._float_layer(), nn.ReLU()).train(self.training)
