"""Linear and batch norm of quantization-aware training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn import intrinsic as nni
from octavo.nn.intrinsic.qat.modules.batch_norm import WithBatchNorm
from octavo.nn.qat.modules.linear import linear_arguments

__all__ = ["LinearBn1d"]


class LinearBn1d(WithBatchNorm, nn.Linear):
    """Linear and BatchNorm1d with a fake-quantized weight, see
    :mod:`octavo.nn.intrinsic.qat.modules.batch_norm`.

    Args:
        others: those of ``torch.nn.Linear``; ``eps`` and ``momentum`` of the batch norm.
        freeze_bn: see :meth:`freeze_bn_stats`.
        qconfig: its ``weight()`` makes ``weight_fake_quant``.

    Shape: input ``[N, in_features]``, output ``[N, out_features]``, float.

    Raises:
        ValueError: a qconfig that is none; in ``forward``, an input that is not 2-D, where the
            batch norm would not normalize what Linear gives.

    Source: ``torch.ao.nn.intrinsic.qat.LinearBn1d``. Differences: gamma may be 0.
    """

    _FLOAT_MODULE = nni.LinearBn1d
    _LAYER = nn.Linear
    _BN = nn.BatchNorm1d

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        freeze_bn: bool = False,
        qconfig: Any = None,
        *,
        device: Any = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device)
        self._set_qconfig(qconfig)
        self._set_batch_norm(out_features, eps, momentum, freeze_bn, device)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        return linear_arguments(layer)

    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def forward(self, input: Tensor) -> Tensor:
        return self._normalized(input)
