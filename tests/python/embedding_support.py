"""Embedding tables, and arguments of look-ups in them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

import octavo
from module_support import generator
from octavo.ops import EmbeddingWeight

DTYPES = (octavo.quint8, octavo.quint4x2)
COLUMNS = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 257])


def table(rows: int, columns: int, dtype: Any = octavo.quint8, seed: int = 0) -> EmbeddingWeight:
    g = generator(seed)
    width = (columns + 1) // 2 if dtype is octavo.quint4x2 else columns
    storage = torch.randint(0, 256, (rows, width), dtype=torch.uint8, generator=g)
    if dtype is octavo.quint4x2 and columns % 2:
        storage[:, -1] &= 15
    scales = torch.rand(rows, generator=g) * 0.2 + 1e-3
    zero_points = torch.randn(rows, generator=g) * 20
    return EmbeddingWeight(storage, scales, zero_points, columns, dtype)


@st.composite
def lookups(draw: Any) -> dict[str, Any]:
    """All arguments of an embedding bag, in all their forms."""
    rows = draw(st.integers(1, 30))
    index = st.integers(0, rows - 1)
    mode = draw(st.sampled_from(["sum", "mean", "max"]))
    if draw(st.booleans()):
        length, count = draw(st.integers(0, 20)), draw(st.integers(0, 5))
        bags = [draw(st.lists(index, min_size=length, max_size=length)) for _ in range(count)]
        shape: tuple[int, ...] = (count, length)
    else:
        bags = draw(st.lists(st.lists(index, max_size=20), max_size=6))
        shape = (sum(map(len, bags)),)
    values = st.floats(-4, 4, width=32)
    weights = None
    if mode == "sum" and draw(st.booleans()):
        weights = [draw(st.lists(values, min_size=len(b), max_size=len(b))) for b in bags]
    return {
        "rows": rows,
        "columns": draw(COLUMNS),
        "dtype": draw(st.sampled_from(DTYPES)),
        "bags": bags,
        "shape": shape,
        "mode": mode,
        "weights": weights,
        "padding_idx": draw(st.none() | index),
        "last": draw(st.booleans()),
        "index_dtype": draw(st.sampled_from([torch.int32, torch.int64])),
        "offset_dtype": draw(st.sampled_from([torch.int32, torch.int64])),
        "seed": draw(st.integers(0, 100)),
    }


def call(case: dict[str, Any]) -> tuple[EmbeddingWeight, list[Any]]:
    """The table and the arguments of ``ops.embedding_bag`` after it."""
    weight = table(case["rows"], case["columns"], case["dtype"], case["seed"])
    flat = [index for bag in case["bags"] for index in bag]
    indices = torch.tensor(flat, dtype=case["index_dtype"]).reshape(case["shape"])
    offsets, last = None, False
    if indices.dim() == 1:
        last = case["last"]
        starts = [0]
        for bag in case["bags"]:
            starts.append(starts[-1] + len(bag))
        offsets = torch.tensor(starts if last else starts[:-1], dtype=case["offset_dtype"])
    weights = None
    if case["weights"] is not None:
        weights = torch.tensor([w for bag in case["weights"] for w in bag]).reshape(case["shape"])
    return weight, [indices, offsets, case["mode"], weights, last, case["padding_idx"]]
