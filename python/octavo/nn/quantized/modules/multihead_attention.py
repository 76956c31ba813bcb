"""Statically quantized multi-head attention."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from octavo.nn import quantizable
from octavo.nn.quantized.modules.of_parts import MadeOfParts
from octavo.tensor import QTensor

__all__ = ["MultiheadAttention"]


class MultiheadAttention(MadeOfParts, quantizable.MultiheadAttention):
    """What ``convert`` makes of an observed :class:`octavo.nn.quantizable.MultiheadAttention`:
    projections on quantized tensors, attention between them in float.

    Arguments and shapes are those of that class. Query, key and value are quantized, and so are
    outputs and attention weights. Without ``need_weights`` attention is
    ``torch.nn.functional.scaled_dot_product_attention``.

    Raises: in ``forward``, as that class, and TypeError for float inputs.

    Source: ``torch.ao.nn.quantized.MultiheadAttention``, whose ``bias_k`` and ``bias_v`` are
    quantized and missing in state dicts.
    """

    _FLOAT_MODULE: ClassVar[Any] = quantizable.MultiheadAttention

    def _finish_parts(self) -> None:
        super()._finish_parts()
        self._take_float_parameters()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        for name, x in (("query", query), ("key", key), ("value", value)):
            if not isinstance(x, QTensor):
                raise self._activation_error(x, name)
        return super().forward(query, key, value, *args, **kwargs)

    def _get_name(self) -> str:
        return "QuantizedMultiheadAttention"
