"""Attention as a module of quantized tensors."""

from __future__ import annotations

from octavo import ops
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.tensor import QTensor

__all__ = ["ScaledDotProductAttention"]


class ScaledDotProductAttention(QuantizedOutput):
    """``softmax(factor * q k^T) v`` on quantized tensors; :func:`octavo.ops.attention` says how it
    is rounded. ``torch.nn.functional.scaled_dot_product_attention`` without mask and dropout.
    Octavo's own.

    Args:
        scale, zero_point: of the output.
        factor: of the products; None for 1 / sqrt(size of a query).
        heads: how many heads lie side by side in a token: inputs and output are ``[batch, tokens,
            heads * size]``, as linear layers give and take them. None: they are ``[..., tokens,
            size]``.

    Shape: query ``[..., queries, size]``, key ``[..., keys, size]``, value ``[..., keys, value
    size]``, quint8 or qint8, each with one scale, the same leading dimensions; output ``[...,
    queries, value size]``, of the query's dtype unless the module was given another.

    Raises:
        TypeError: in ``forward``, for anything but 8-bit quantized tensors with one scale.
        ValueError: shapes that do not match, and what :func:`octavo.ops.attention` refuses.
    """

    def __init__(
        self,
        scale: float = 1.0,
        zero_point: int = 0,
        factor: float | None = None,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        self._set_output(scale, zero_point, None)
        self.factor, self.heads = factor, heads

    def _get_name(self) -> str:
        return "QuantizedScaledDotProductAttention"

    def extra_repr(self) -> str:
        options = f"factor={self.factor}, heads={self.heads}"
        return f"{options}, scale={self._scale}, zero_point={self._zero_point}"

    def forward(self, query: QTensor, key: QTensor, value: QTensor) -> QTensor:
        return self._attend(query, key, value, self.factor)

    def _attend(
        self, query: QTensor, key: QTensor, value: QTensor, factor: float | None
    ) -> QTensor:
        q = self._activation(query, "query")
        k, v = self._activation(key, "key"), self._activation(value, "value")
        qdtype = self._out_qdtype or query._qdtype
        try:
            out = ops.attention(
                q,
                query._scale,
                query._zero_point,
                k,
                key._scale,
                key._zero_point,
                v,
                value._scale,
                value._zero_point,
                self._scale,
                self._zero_point,
                qdtype,
                factor,
                self.heads,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, self._scale, self._zero_point, qdtype)
