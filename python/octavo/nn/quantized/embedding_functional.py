"""Look-ups in quantized embedding tables, as functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from octavo import ops
from octavo.nn.quantized.modules.utils import relabel
from octavo.ops.embedding import EmbeddingWeight, padding_index

__all__ = ["embedding", "embedding_bag"]


def _check_weight(weight: Any) -> None:
    if not isinstance(weight, EmbeddingWeight):
        raise TypeError(
            f"weight must be an octavo.ops.EmbeddingWeight, got {type(weight).__name__}; "
            "EmbeddingWeight.from_float quantizes a float table"
        )


def embedding(input: Tensor, weight: EmbeddingWeight, padding_idx: int | None = None) -> Tensor:
    """Rows of a quantized table: float32 ``[*input.shape, columns]``.

    Args:
        input: indices, int32 or int64, any shape.
        weight: the table, :class:`octavo.ops.EmbeddingWeight`.
        padding_idx: checked; it does not change look-ups.

    Raises:
        TypeError: other dtypes.
        IndexError: an index that is not in the table.

    Source: ``torch.nn.functional.embedding``, ``torch.ops.quantized.embedding_byte`` and
    ``embedding_4bit``.
    """
    try:
        _check_weight(weight)
        padding_index(padding_idx, weight.shape[0])
        return ops.embedding(weight, input)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise relabel(error, "quantized.functional.embedding") from error


def embedding_bag(
    input: Tensor,
    weight: EmbeddingWeight,
    offsets: Tensor | None = None,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima of bags of rows of a quantized table.

    Args and raises: as :func:`octavo.ops.embedding_bag`.

    Source: ``torch.nn.functional.embedding_bag``,
    ``torch.ops.quantized.embedding_bag_byte_rowwise_offsets`` and ``_4bit_rowwise_offsets``.
    """
    try:
        _check_weight(weight)
        return ops.embedding_bag(
            weight, input, offsets, mode, per_sample_weights, include_last_offset, padding_idx
        )
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise relabel(error, "quantized.functional.embedding_bag") from error
