"""Quantized Embedding and EmbeddingBag: against the definition to the bit, against float tables and
torch's own operators, across instruction sets and threads; files, copies and errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

import octavo
from embedding_support import DTYPES, call, lookups, table
from module_support import generator, threads
from normalize_reference import fma
from octavo import backend, ops
from octavo.nn import quantized as nnq
from octavo.nn.quantized import functional as qF
from octavo.ops import EmbeddingWeight
from torch_oracle import torch_quantized


def definition(
    weight: EmbeddingWeight,
    bag: list[int],
    mode: str,
    weights: list[float] | None = None,
    padding_idx: int | None = None,
) -> Tensor:
    """One bag, every float operation rounded, in the documented order; ``fma`` is one operation."""
    q = weight.int_repr().float()
    scale, offset = weight.scales, -weight.zero_points * weight.scales
    keep = [i for i, index in enumerate(bag) if index != padding_idx]
    if not keep:
        return torch.zeros(weight.columns)
    rows = [bag[i] for i in keep]
    if mode == "max":
        return torch.stack([q[r] * scale[r] + offset[r] for r in rows]).amax(0)
    factors = torch.tensor([1.0 if weights is None else weights[i] for i in keep])
    if mode == "mean":
        factors = (torch.ones(()) / len(rows)).expand(len(rows))
    out = torch.zeros(weight.columns)
    for first in range(0, len(rows), 8):
        offsets = torch.zeros(())
        for r, w in list(zip(rows, factors, strict=True))[first : first + 8]:
            out = torch.from_numpy(fma(q[r].numpy(), (w * scale[r]).numpy(), out.numpy()))
            offsets = offsets + w * offset[r]
        out = out + offsets
    return out


@given(case=lookups())
def test_bags_equal_the_definition(isa: str, case: dict[str, Any]) -> None:
    weight, arguments = call(case)
    got = ops.embedding_bag(weight, *arguments)
    assert got.dtype == torch.float32
    assert tuple(got.shape) == (len(case["bags"]), case["columns"])
    for i, bag in enumerate(case["bags"]):
        weights = case["weights"][i] if case["weights"] is not None else None
        wanted = definition(weight, bag, case["mode"], weights, case["padding_idx"])
        assert torch.equal(got[i], wanted), i


@given(case=lookups().filter(lambda case: len(case["bags"]) > 0))
def test_bags_are_near_those_of_a_float_table(case: dict[str, Any]) -> None:
    weight, arguments = call(case)
    indices, offsets, mode, weights, last, padding_idx = arguments
    wanted = F.embedding_bag(
        indices.long(),
        weight.dequantize().double(),
        None if offsets is None else offsets.long(),
        mode=mode,
        per_sample_weights=None if weights is None else weights.double(),
        include_last_offset=last,
        padding_idx=padding_idx,
    )
    got = ops.embedding_bag(weight, *arguments)
    # 20 rows of values below 100 times weights up to 4, a few roundings each.
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=20 * 100 * 4 * 2**-22)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_embedding(isa: str, dtype: Any, shape: tuple[int, ...], index_dtype: torch.dtype) -> None:
    weight = table(11, 19, dtype)
    indices = torch.randint(0, 11, shape, dtype=index_dtype)
    values = weight.int_repr().float() * weight.scales[:, None]
    values = values + (-weight.zero_points * weight.scales)[:, None]
    module = nnq.Embedding(11, 19, _weight=weight)
    assert torch.equal(module(indices), values[indices.long()])
    assert torch.equal(qF.embedding(indices, weight), values[indices.long()])
    assert torch.equal(weight.dequantize(), values)


def test_strided_indices() -> None:
    weight = table(50, 20)
    indices = torch.randint(0, 50, (30, 8))
    turned = ops.embedding(weight, indices).transpose(0, 1)
    assert torch.equal(ops.embedding(weight, indices.T), turned)
    bags = ops.embedding_bag(weight, indices[:, ::2], mode="sum")
    assert torch.equal(bags, ops.embedding_bag(weight, indices[:, ::2].contiguous(), mode="sum"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_threads_and_isas_give_the_same_bits(dtype: Any, mode: str) -> None:
    weight = table(5000, 96, dtype)
    g = generator(1)
    offsets = torch.randint(0, 60, (300,), generator=g).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets])
    indices = torch.randint(0, 5000, (int(offsets[-1]) + 5,), generator=g)
    found = []
    for name in backend.supported():
        for count in (1, 2, 4):
            with backend.force(name), threads(count):
                found.append(ops.embedding_bag(weight, indices, offsets, mode))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert found[0].abs().max() > 0


def float_bag(mode: str = "sum", **options: Any) -> nn.EmbeddingBag:
    module = nn.EmbeddingBag(40, 24, mode=mode, **options)
    with torch.no_grad():
        module.weight.copy_(torch.randn(40, 24, generator=generator(2)))
    return module


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_obeys_mode_and_padding(mode: str) -> None:
    module = float_bag(mode, padding_idx=3, include_last_offset=True)
    quantized = nnq.EmbeddingBag.from_float(module)
    assert (quantized.mode, quantized.padding_idx, quantized.include_last_offset) == (mode, 3, True)
    indices, offsets = torch.tensor([3, 5, 9, 3, 3, 1]), torch.tensor([0, 3, 3, 5, 6])
    got, wanted = quantized(indices, offsets), module(indices, offsets)
    # Half a step of each row; scales are below 6 / 255.
    torch.testing.assert_close(got, wanted, rtol=0, atol=2 * 0.5 * 6 / 255)
    assert torch.equal(got[2], torch.zeros(24))


@pytest.mark.parametrize("dtype", ["quint8", "quint4x2"])
@pytest.mark.parametrize("rows", [1, 30])
def test_from_float_has_the_integers_of_torch(dtype: str, rows: int) -> None:
    module = nn.Embedding(rows, 20)
    module.weight.detach()[0] = 0.25  # a constant row
    module.qconfig = qconfig_of(dtype)
    ours = nnq.Embedding.from_float(module)
    with torch_quantized() as quantized:
        observer = quantized.ao.quantization.PerChannelMinMaxObserver(
            dtype=getattr(torch, dtype),
            qscheme=torch.per_channel_affine_float_qparams,
            ch_axis=0,
        )
        observer(module.weight)
        scales, zero_points = observer.calculate_qparams()
        theirs = torch.quantize_per_channel(
            module.weight.detach(), scales, zero_points, 0, getattr(torch, dtype)
        )
        assert torch.equal(ours.weight().scales, scales)
        assert torch.equal(ours.weight().zero_points, zero_points)
        loaded = nnq.Embedding(rows, 20)
        loaded.set_weight(theirs)
    assert loaded.dtype == ours.dtype == getattr(octavo, dtype)
    assert torch.equal(loaded.weight().storage, ours.weight().storage)


def qconfig_of(dtype: str) -> Any:
    from octavo import quantization as tq

    four = dtype == "quint4x2"
    return (
        tq.float_qparams_weight_only_qconfig_4bit if four else tq.float_qparams_weight_only_qconfig
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_near_torchs_operators(dtype: Any, weighted: bool) -> None:
    weight = table(60, 32, dtype)
    byte = dtype is octavo.quint8
    # torch's 4-bit rows have scale and offset in float16.
    offsets_of_rows = -weight.zero_points * weight.scales
    qparams = torch.stack([weight.scales, offsets_of_rows], 1)
    if not byte:
        qparams = qparams.half()
        rounded = qparams.float()
        weight = EmbeddingWeight(
            weight.storage, rounded[:, 0], -rounded[:, 1] / rounded[:, 0], 32, dtype
        )
    packed = torch.cat([weight.storage, qparams.contiguous().view(torch.uint8)], 1)
    indices = torch.randint(0, 60, (200,))
    offsets = torch.tensor([0, 17, 17, 90, 150])
    weights = torch.randn(200) if weighted else None
    name = f"embedding_bag_{'byte' if byte else '4bit'}_rowwise_offsets"
    operator = getattr(torch.ops.quantized, name, None)
    if operator is None:
        pytest.skip(f"this torch lacks its operator {name}")
    wanted = operator(packed, indices, offsets, False, 0, False, weights, None, False)
    got = ops.embedding_bag(weight, indices, offsets, "sum", weights)
    # 110 rows of values below 60 in float32, in another order and with fused multiply-add.
    torch.testing.assert_close(got, wanted, rtol=0, atol=110 * 60 * 4 * 2**-22)


def test_max_norm_is_applied_once() -> None:
    module = nn.Embedding(30, 16, max_norm=1.5)
    indices = torch.arange(30)
    quantized = nnq.Embedding.from_float(copy.deepcopy(module))
    wanted = module(indices)  # rescales the float module's rows
    torch.testing.assert_close(quantized(indices), wanted, rtol=0, atol=0.5 * 3 / 255)
    with pytest.raises(ValueError, match=r"max_norm must be None, got 1\.0"):
        nnq.Embedding(3, 4, max_norm=1.0)


@pytest.mark.parametrize("columns", [1, 2, 5, 8])
def test_four_bit_storage(columns: int) -> None:
    float_rows = torch.randn(6, columns, generator=generator(3))
    module = nn.Embedding.from_pretrained(float_rows)
    module.qconfig = qconfig_of("quint4x2")
    weight = nnq.Embedding.from_float(module).weight()
    q = weight.int_repr()
    assert tuple(q.shape) == (6, columns)
    assert int(q.max()) <= 15
    assert weight.storage.shape[1] == (columns + 1) // 2
    assert torch.equal(weight.storage[:, 0] & 15, q[:, 0])
    if columns > 1:
        assert torch.equal(weight.storage[:, 0] >> 4, q[:, 1])
    again = EmbeddingWeight.from_float(
        weight.dequantize(), weight.scales, weight.zero_points, octavo.quint4x2
    )
    assert torch.equal(again.storage, weight.storage)


# Files and copies.


def bag_module(dtype: Any) -> nnq.EmbeddingBag:
    return nnq.EmbeddingBag(20, 9, mode="mean", _weight=table(20, 9, dtype), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_state_dict_round_trip(dtype: Any) -> None:
    module = bag_module(dtype)
    state = module.state_dict()
    key = "weight_uint8" if dtype is octavo.quint8 else "weight_uint4x2"
    assert set(state) == {key, "weight_scale", "weight_zero_point"}
    assert all(type(value) is Tensor for value in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = nnq.EmbeddingBag(20, 9, mode="mean", dtype=dtype)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    indices = torch.randint(0, 20, (6, 5))
    assert torch.equal(fresh(indices), module(indices))
    state[key].zero_()
    assert not torch.equal(fresh(indices), torch.zeros(6, 9))  # loaded, not shared


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_and_pickles(dtype: Any) -> None:
    module = bag_module(dtype)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    ]
    indices = torch.randint(0, 20, (6, 5))
    for other in copies:
        assert other.mode == "mean"
        assert other.dtype is dtype
        assert torch.equal(other(indices), module(indices))


@pytest.mark.parametrize("strict", [True, False])
def test_checkpoints_of_other_kinds(strict: bool) -> None:
    module = bag_module(octavo.quint8)
    before = module.weight()
    with pytest.raises(RuntimeError, match="the checkpoint is a float one"):
        module.load_state_dict(nn.EmbeddingBag(20, 9).state_dict(), strict=strict)
    with pytest.raises(RuntimeError, match=r"make the module with dtype=octavo\.quint4x2"):
        module.load_state_dict(bag_module(octavo.quint4x2).state_dict(), strict=strict)
    bad = dict(bag_module(octavo.quint8).state_dict())
    bad["weight_scale"] = torch.zeros(20)
    with pytest.raises(RuntimeError, match="scales must be finite and > 0"):
        module.load_state_dict(bad, strict=strict)
    bad["weight_scale"] = torch.ones(19)
    with pytest.raises(RuntimeError, match=r"'weight_scale' must have shape \[20\]"):
        module.load_state_dict(bad, strict=strict)
    assert module.weight() is before


# Errors.


def named(module: Any) -> Any:
    module._qualified_name = "encoder.tokens"
    return module


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bad", [20, -1, 2**31 - 1])
def test_index_out_of_range(bad: int, index_dtype: torch.dtype) -> None:
    indices = torch.zeros((3, 4), dtype=index_dtype)
    indices[1, 2] = bad
    message = rf"'encoder.tokens': index {bad} at position 6 is out of range .* of 20 rows"
    with pytest.raises(IndexError, match=message):
        named(bag_module(octavo.quint8))(indices)
    with pytest.raises(IndexError, match=message):
        named(nnq.Embedding(20, 9))(indices)
    with pytest.raises(IndexError, match="table of 0 rows"):
        nnq.Embedding(0, 9)(torch.zeros(1, dtype=index_dtype))


I64 = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(4), None), TypeError, "input must be an int32 or int64 tensor, got torch.fl"),
        (([1, 2], None), TypeError, "input must be an int32 or int64 tensor, got list"),
        ((I64, None), ValueError, "offsets must say where each bag begins"),
        ((I64[None], I64), ValueError, "offsets must be None where input is 2-D"),
        ((I64[None, None], None), ValueError, "input must be 1-D or 2-D"),
        ((I64, I64[None]), ValueError, "offsets must be 1-D"),
        ((I64, I64.float()), TypeError, "offsets must be an int32 or int64 tensor"),
        ((I64, torch.tensor([1, 2])), ValueError, "offsets must begin with 0, got 1"),
        ((I64, torch.tensor([0, 3, 2])), ValueError, "got 2 at position 2 after 3"),
        ((I64, torch.tensor([0, 5])), ValueError, "number of indices, which is 4; got 5"),
        ((I64[None], None, torch.ones(4)), ValueError, "must have the shape of input"),
        ((I64[None], None, I64[None]), TypeError, "per_sample_weights must be a float tensor"),
        ((I64[None], None, None, I64), ValueError, "compressed_indices_mapping must be None"),
    ],
)
def test_bag_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    module = named(nnq.EmbeddingBag(20, 9, _weight=table(20, 9)))
    with pytest.raises(error, match=f"'encoder.tokens': .*{message}"):
        module(*arguments)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="per_sample_weights needs mode='sum', got 'mean'"):
        bag_module(octavo.quint8)(I64[None], None, torch.ones(1, 4))
    with pytest.raises(ValueError, match="mode must be"):
        nnq.EmbeddingBag(3, 4, mode="min")
    with pytest.raises(ValueError, match="padding_idx must be within the 3 rows"):
        nnq.Embedding(3, 4, padding_idx=3)
    assert nnq.Embedding(3, 4, padding_idx=-1).padding_idx == 2
    with pytest.raises(TypeError, match=r"quint8 or octavo\.quint4x2, got octavo\.qint8"):
        nnq.Embedding(3, 4, dtype=octavo.qint8)
    with pytest.raises(ValueError, match=r"weight must have shape \[3, 4\], got \[3, 5\]"):
        nnq.Embedding(3, 4, _weight=table(3, 5))
    with pytest.raises(TypeError, match=r"weight must be an octavo\.ops\.EmbeddingWeight"):
        nnq.Embedding(3, 4).set_weight(torch.zeros(3, 4))
    with pytest.raises(TypeError, match=r"EmbeddingWeight\.from_float quantizes a float table"):
        qF.embedding(I64, torch.zeros(3, 4))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=r"functional.embedding_bag: index 9 at position 0"):
        qF.embedding_bag(torch.tensor([[9]]), table(3, 4))
    full = torch.full((2, 2), 255, dtype=torch.uint8)
    with pytest.raises(ValueError, match="0 in the upper half"):
        EmbeddingWeight(full, torch.ones(2), torch.zeros(2), 3, octavo.quint4x2)


def test_from_float_errors() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.EmbeddingBag"):
        nnq.EmbeddingBag.from_float(nn.Embedding(3, 4))
    module = nn.Embedding(3, 4)
    module.weight.detach()[1, 2] = float("nan")
    with pytest.raises(ValueError, match="the float weight holds 1 NaN or Inf among 12 values"):
        nnq.Embedding.from_float(module)
    from octavo import quantization as tq

    module = nn.Embedding(3, 4)
    module.qconfig = tq.get_default_qconfig()
    with pytest.raises(ValueError, match="float_qparams_weight_only_qconfig"):
        nnq.Embedding.from_float(module)
    with pytest.raises(ValueError, match="meta device"):
        nnq.Embedding.from_float(nn.Embedding(3, 4, device="meta"))
    assert tuple(nnq.Embedding.from_float(nn.Embedding(0, 4))(I64[:0]).shape) == (0, 4)
