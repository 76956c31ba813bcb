"""Operators of embedding tables.

A table is ``storage`` uint8 [rows, bytes], with two columns to a byte where ``nibbles``, and
``scales`` and ``zero_points`` float32 [rows].
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import quint4x2, quint8
from octavo.library._packed import Packed
from octavo.library._register import operator
from octavo.ops.embedding import EmbeddingWeight

__all__: list[str] = []


def _make(
    storage: Tensor, scales: Tensor, zero_points: Tensor, columns: int, nibbles: bool
) -> EmbeddingWeight:
    dtype = quint4x2 if nibbles else quint8
    return EmbeddingWeight(storage, scales, zero_points, columns, dtype)


_TABLE = Packed(
    "Tensor storage, Tensor scales, Tensor zero_points, int columns, bool nibbles", _make
)


def _rows(indices: Tensor, columns: int) -> Tensor:
    return indices.new_empty((*indices.shape, columns), dtype=torch.float32)


operator(
    f"embedding(Tensor indices, {_TABLE.schema}) -> Tensor", ops.embedding, _rows, packed=_TABLE
)


def _embedding_bag(
    table: EmbeddingWeight,
    indices: Tensor,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    rest = (per_sample_weights, include_last_offset, padding_idx)
    return ops.embedding_bag(table, indices, offsets, mode, *rest)


def _bags(
    indices: Tensor, offsets: Tensor | None, columns: int, include_last_offset: bool
) -> Tensor:
    if indices.dim() == 2:
        bags = indices.shape[0]
    else:
        torch._check(offsets is not None)  # type: ignore[no-untyped-call]
        assert offsets is not None
        bags = offsets.shape[0] - int(include_last_offset)
    return indices.new_empty((bags, columns), dtype=torch.float32)


operator(
    f"embedding_bag(Tensor indices, Tensor? offsets, {_TABLE.schema}, str mode, "
    "Tensor? per_sample_weights=None, bool include_last_offset=False, int? padding_idx=None) "
    "-> Tensor",
    _embedding_bag,
    _bags,
    packed=_TABLE,
)
