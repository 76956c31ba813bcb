"""Direct entry points of look-ups: taken wherever they can be, with the bits of the ordinary way;
everything else, errors among it, is left to that."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

import octavo
from direct_support import ordinary, same
from embedding_support import DTYPES, call, lookups, table
from octavo.nn import quantized as nnq
from octavo.ops import EmbeddingWeight, direct
from octavo.ops.embedding import checked_embedding, checked_embedding_bag


def bag(weight: EmbeddingWeight, indices: Any, *rest: Any) -> Any:
    """``direct.embedding_bag`` with defaults."""
    defaults = (None, "sum", None, False, None)
    return direct.embedding_bag(weight._direct, indices, *rest, *defaults[len(rest) :])


@given(case=lookups())
def test_bags(isa: str, reading: str, case: dict[str, Any]) -> None:
    weight, arguments = call(case)
    got = direct.embedding_bag(weight._direct, *arguments)
    indices, offsets = arguments[:2]
    bags = len(case["bags"])
    one_dtype = offsets is None or offsets.dtype == indices.dtype
    assert (got is not None) == (one_dtype and bags > 0 and indices.numel() * case["columns"] > 0)
    wanted = checked_embedding_bag(weight, *arguments)
    if got is not None:
        same(got, wanted)
    module = nnq.EmbeddingBag(
        case["rows"],
        case["columns"],
        mode=case["mode"],
        include_last_offset=case["last"] and offsets is not None,
        _weight=weight,
        padding_idx=case["padding_idx"],
    )
    weights = arguments[3]
    same(module(indices, offsets, weights), wanted)
    same(module._forward(indices, offsets, weights), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3, 4), (1, 1, 1, 1, 2, 1, 3)])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_embedding(
    reading: str, dtype: Any, shape: tuple[int, ...], index_dtype: torch.dtype
) -> None:
    module = nnq.Embedding(11, 19, _weight=table(11, 19, dtype))
    indices = torch.randint(0, 11, shape, dtype=index_dtype)
    got = direct.embedding(module.weight()._direct, indices)
    assert got is not None
    same(got, checked_embedding(module.weight(), indices))
    same(module(indices), module._forward(indices))


def test_modules_go_this_way(monkeypatch: pytest.MonkeyPatch, reading: str) -> None:
    def fail(*args: Any) -> Any:
        raise AssertionError("the ordinary way was taken")

    monkeypatch.setattr(nnq.Embedding, "_forward", fail)
    monkeypatch.setattr(nnq.EmbeddingBag, "_forward", fail)
    indices, offsets = torch.tensor([1, 5, 2, 5]), torch.tensor([0, 3])
    module: Any = nnq.EmbeddingBag(6, 9, _weight=table(6, 9), padding_idx=-1)
    assert tuple(module(indices, offsets, torch.ones(4)).shape) == (2, 9)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(indices[None]), module(indices[None]))
    module.mode = "mean"
    wanted = checked_embedding_bag(module.weight(), indices[None], None, "mean", None, False, 5)
    same(module(indices[None]), wanted)
    module = nnq.Embedding(6, 9, _weight=table(6, 9))
    assert torch.equal(module(indices), module.weight().dequantize()[indices])


I64 = torch.tensor([[1, 2, 0], [2, 2, 1]])
FLAT = I64.flatten()
OFFSETS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    "arguments",
    [
        (I64.float(),),
        (I64.short(),),
        ([[1, 2]],),
        (I64.t(),),
        (I64[:, ::2],),
        (I64[None],),
        (FLAT,),
        (FLAT[:0], OFFSETS[:1]),
        (I64, OFFSETS),
        (FLAT, OFFSETS.int()),
        (FLAT, OFFSETS[None]),
        (FLAT, FLAT[::2]),
        (FLAT, OFFSETS[:0]),
        (FLAT, OFFSETS[:1], "sum", None, True),
        (I64, None, "min"),
        (I64, None, None),
        (I64, None, "mean", torch.ones(2, 3)),
        (I64, None, "sum", torch.ones(3, 2)),
        (I64, None, "sum", torch.ones(6)),
        (I64, None, "sum", torch.ones(2, 3).double()),
        (I64, None, "sum", torch.ones(3, 2).t()),
        (I64, None, "sum", torch.ones(2, 3, dtype=torch.complex64).conj().imag),
        (I64, None, "sum", [1.0]),
        (I64, None, "sum", None, 1),
        (I64, None, "sum", None, False, 3),
        (I64, None, "sum", None, False, -4),
        (I64, None, "sum", None, False, 1.0),
        # Values that the driver refuses.
        (torch.tensor([[0, 3]]),),
        (torch.tensor([[0, -1]]),),
        (torch.tensor([[2**40, 0]]),),
        (FLAT, torch.tensor([1, 2])),
        (FLAT, torch.tensor([0, 7])),
        (FLAT, torch.tensor([0, -1])),
        (FLAT, torch.tensor([0, 4, 2])),
        (FLAT, torch.tensor([0, 2**62])),
    ],
)
def test_what_is_left_to_the_ordinary_way(reading: str, arguments: tuple[Any, ...]) -> None:
    weight = table(3, 20)
    assert bag(weight, *arguments) is None


def test_look_ups_that_are_left_to_the_ordinary_way(reading: str) -> None:
    weight = table(3, 20)
    for indices in (I64.float(), I64.t(), I64[:0], I64 + 1, I64 - 1, I64[0, 0], "x", None):
        assert direct.embedding(weight._direct, indices) is None
    deep = FLAT[:1].reshape((1,) * 8)
    assert direct.embedding(weight._direct, deep) is None
    module = nnq.Embedding(3, 20, _weight=weight)
    assert tuple(module(deep).shape) == (1,) * 8 + (20,)
    with pytest.raises(IndexError, match="index 3 at position 1 is out of range"):
        module(I64 + 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:3],
        lambda t: list(t),
        lambda t: (t[0][:2], *t[1:]),
        lambda t: (t[0][:, :5], *t[1:]),
        lambda t: (t[0].t(), *t[1:]),
        lambda t: (t[0].char(), *t[1:]),
        lambda t: (t[0], t[1][:2], *t[2:]),
        lambda t: (t[0], t[1].t().contiguous().t(), *t[2:]),
        lambda t: (t[0], t[1][:, :1], *t[2:]),
        lambda t: (t[0], t[1].double(), *t[2:]),
        lambda t: (*t[:2], 19, t[3]),
        lambda t: (*t[:2], 20.0, t[3]),
        lambda t: (*t[:3], True),
        lambda t: (*t[:3], 0),
    ],
)
def test_what_is_no_table(reading: str, change: Any) -> None:
    parts = table(3, 20)._direct
    assert direct.embedding(parts, FLAT) is not None
    assert direct.embedding(change(parts), FLAT) is None
    assert direct.embedding_bag(change(parts), I64, None, "sum", None, False, None) is None


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_tracing_is_left_to_the_ordinary_way(reading: str) -> None:
    weight = table(3, 20)
    seen: list[Tensor | None] = []

    def function(x: Tensor) -> Tensor:
        seen.extend((direct.embedding(weight._direct, FLAT), bag(weight, I64)))
        return x + 1

    torch.jit.trace(function, torch.ones(1), check_trace=False)
    assert seen == [None, None]


def test_memory_that_moves(reading: str) -> None:
    module = nnq.EmbeddingBag(50, 33, _weight=table(50, 33))
    wanted = module(I64)
    before = module.weight().storage.data_ptr()
    module.weight().storage.share_memory_()
    assert module.weight().storage.data_ptr() != before
    same(module(I64), wanted)


def test_nothing_is_kept(reading: str) -> None:
    weight, indices = table(4, 16, octavo.quint4x2), FLAT.clone()
    objects = (weight.storage, weight._qparams, indices, OFFSETS)
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(20):
        bag(weight, indices, OFFSETS)
        direct.embedding(weight._direct, indices)
        direct.embedding(weight._direct, indices + 4)  # refused
    assert [sys.getrefcount(each) for each in objects] == before


def test_without_access_to_tensors() -> None:
    weight = table(3, 20)
    assert ordinary(lambda: bag(weight, I64)) is None
    assert ordinary(lambda: direct.embedding(weight._direct, I64)) is None
