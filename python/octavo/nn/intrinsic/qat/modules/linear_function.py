"""Linear and LeakyReLU or Tanh of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn import intrinsic as nni
from octavo.nn.qat.modules.linear import Linear

__all__ = ["LinearLeakyReLU", "LinearTanh"]


class LinearLeakyReLU(Linear):
    """:class:`octavo.nn.qat.Linear`, then LeakyReLU. Octavo's own.

    Args:
        others: those of Linear.
        negative_slope: of LeakyReLU.
    """

    _FLOAT_MODULE: ClassVar[Any] = nni.LinearLeakyReLU

    def __init__(
        self,
        in_features: int,
        out_features: int,
        negative_slope: float,
        bias: bool = True,
        qconfig: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, qconfig, device, dtype)
        self.negative_slope = negative_slope

    @classmethod
    def _options_of(cls, mod: Any) -> dict[str, Any]:
        return {"negative_slope": mod[1].negative_slope}

    def forward(self, input: Tensor) -> Tensor:
        y = F.linear(input, self.weight_fake_quant(self.weight), self.bias)
        return F.leaky_relu(y, self.negative_slope)

    def to_float(self) -> Any:
        function = nn.LeakyReLU(self.negative_slope)
        return nni.LinearLeakyReLU(self._float_layer(), function).train(self.training)


class LinearTanh(Linear):
    """:class:`octavo.nn.qat.Linear`, then Tanh. Octavo's own."""

    _FLOAT_MODULE: ClassVar[Any] = nni.LinearTanh

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(F.linear(input, self.weight_fake_quant(self.weight), self.bias))

    def to_float(self) -> Any:
        return nni.LinearTanh(self._float_layer(), nn.Tanh()).train(self.training)
