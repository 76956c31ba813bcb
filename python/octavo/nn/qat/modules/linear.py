"""Fully connected layer of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn.qat.modules.base import QATModule

__all__ = ["Linear", "linear_arguments"]


def linear_arguments(layer: Any) -> dict[str, Any]:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
    }


class Linear(QATModule, nn.Linear):
    """:class:`torch.nn.Linear` with a fake-quantized weight.

    Args: those of ``torch.nn.Linear``, and
        qconfig: its ``weight()`` makes ``weight_fake_quant``.

    Shape: input ``[*, in_features]``, output ``[*, out_features]``, float.

    Raises:
        ValueError: a qconfig that is none.

    Source: ``torch.ao.nn.qat.Linear``.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.Linear
    _LAYER = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        qconfig: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_qconfig(qconfig)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        return linear_arguments(layer)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight_fake_quant(self.weight), self.bias)
