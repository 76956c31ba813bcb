"""Scaled dot-product attention on quantized tensors: against float64, on every ISA, as a module and
in graphs. What each kernel computes is compared with the reference in `tests/cpp`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from module_support import generator, random_q, threads
from octavo import QTensor, ops
from octavo.lowering import lowering_report
from octavo.nn import quantized as nnq
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)


def inputs(
    shape: tuple[int, ...], keys: int, values: int, dtype: str = "quint8", seed: int = 0
) -> tuple[QTensor, QTensor, QTensor]:
    g = generator(seed)
    zero = 3 if dtype == "qint8" else 117
    k, v = (*shape[:-2], keys, shape[-1]), (*shape[:-2], keys, values)
    return (
        random_q(shape, g, 0.021, zero, dtype),
        random_q(k, g, 0.013, zero - 9, dtype),
        random_q(v, g, 0.017, zero + 2, dtype),
    )


def exact(q: QTensor, k: QTensor, v: QTensor, factor: float | None = None) -> Tensor:
    """In float64."""
    doubles = [x.dequantize().double() for x in (q, k, v)]
    size = q.shape[-1]
    scale = 1 / math.sqrt(size) if factor is None else factor
    return torch.softmax(doubles[0] @ doubles[1].transpose(-2, -1) * scale, -1) @ doubles[2]


def steps_off(got: QTensor, want: Tensor) -> float:
    """How far integers are from the exact result, in steps, where they are not saturated."""
    ints = got.int_repr().double()
    lo, hi = (0, 255) if got.int_repr().dtype == torch.uint8 else (-128, 127)
    exact_steps = (want / got.q_scale() + got.q_zero_point()).clamp(lo, hi)
    return float((ints - exact_steps).abs().max())


@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize(
    ("shape", "keys", "values"),
    [
        ((2, 3, 16, 64), 16, 64),
        ((2, 3, 1, 64), 33, 64),
        ((1, 2, 130, 20), 7, 12),
        ((5, 9, 32), 129, 3),
        ((4, 6), 5, 6),
        ((2, 2, 2, 3, 8), 4, 8),
        ((1, 1, 3, 1), 1, 1),
    ],
)
def test_is_within_a_rounding_of_exact(
    shape: tuple[int, ...], keys: int, values: int, dtype: str
) -> None:
    q, k, v = inputs(shape, keys, values, dtype)
    module = nnq.ScaledDotProductAttention(0.011, 5)
    got = module(q, k, v)
    want = exact(q, k, v)
    assert got.shape == want.shape
    assert steps_off(got, want) < 0.51


@pytest.mark.parametrize("factor", [1e-3, 0.5, 4.0])
def test_factor(factor: float) -> None:
    q, k, v = inputs((1, 2, 9, 16), 40, 16)
    got = nnq.ScaledDotProductAttention(0.02, 128, factor)(q, k, v)
    assert steps_off(got, exact(q, k, v, factor)) < 0.55


def test_long_flat_tails_count() -> None:
    """Of 2000 keys one stands out; the others have more weight together."""
    q = octavo.quantize_per_tensor(torch.ones(1, 1), 1.0, 0, octavo.quint8)
    one, tail = torch.full((1, 1), 7.0), torch.zeros(1999, 1)
    k = octavo.quantize_per_tensor(torch.cat([one, tail]), 1.0, 0, octavo.quint8)
    v = octavo.quantize_per_tensor(torch.cat([one * 0, tail + 1]), 1.0, 0, octavo.quint8)
    got = nnq.ScaledDotProductAttention(1 / 255, 0, 1.0)(q, k, v)
    assert steps_off(got, exact(q, k, v, 1.0)) < 1.01


def by_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def test_heads_side_by_side() -> None:
    q, k, v = inputs((2, 10, 24), 13, 48)
    module = nnq.ScaledDotProductAttention(0.011, 5, heads=4)
    got = module(q, k, v)
    apart = nnq.ScaledDotProductAttention(0.011, 5)(*(by_heads(x, 4) for x in (q, k, v)))
    assert got.shape == (2, 10, 48)
    assert torch.equal(got.int_repr(), apart.int_repr().transpose(1, 2).reshape(2, 10, 48))


def test_any_strides() -> None:
    q, k, v = inputs((2, 3, 6, 8), 5, 7)
    module = nnq.ScaledDotProductAttention(0.011, 5)
    want = module(q, k, v).int_repr()
    twisted = [
        QTensor.from_int_repr(
            x.int_repr().permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
            x.q_scale(),
            x.q_zero_point(),
        )
        for x in (q, k, v)
    ]
    assert torch.equal(module(*twisted).int_repr(), want)


def test_same_bits_on_every_isa_and_any_number_of_threads() -> None:
    q, k, v = inputs((2, 4, 70, 40), 90, 24)
    module = nnq.ScaledDotProductAttention(0.011, 5)
    want = module(q, k, v).int_repr()
    for isa in octavo.backend.supported():
        octavo.backend.force(isa)
        try:
            assert torch.equal(module(q, k, v).int_repr(), want), isa
        finally:
            octavo.backend.force(None)
    for count in (1, 2, 3):
        with threads(count):
            assert torch.equal(module(q, k, v).int_repr(), want)


def test_batch_composition_does_not_matter() -> None:
    q, k, v = inputs((3, 2, 5, 8), 6, 8)
    module = nnq.ScaledDotProductAttention(0.011, 5)
    whole = module(q, k, v).int_repr()
    for i in range(3):
        assert torch.equal(module(q[i : i + 1], k[i : i + 1], v[i : i + 1]).int_repr()[0], whole[i])


def test_output_dtype_and_empty() -> None:
    q, k, v = inputs((2, 3, 8), 4, 8)
    module = nnq.ScaledDotProductAttention(0.02, 0)
    module._set_output(0.02, 0, octavo.qint8)
    assert module(q, k, v).dtype is octavo.qint8
    assert module(q[:, :0], k, v).shape == (2, 0, 8)
    assert module(q[:0], k[:0], v[:0]).shape == (0, 3, 8)


def test_refusals() -> None:
    q, k, v = inputs((2, 3, 8), 4, 8)
    module = nnq.ScaledDotProductAttention(0.02, 0)
    module._qualified_name = "encoder.attention"
    with pytest.raises(TypeError, match=r"'encoder\.attention': key must be a quantized tensor"):
        module(q, k.dequantize(), v)
    with pytest.raises(ValueError, match=r"encoder\.attention.*do not match"):
        module(q, k[:, :2], v)
    with pytest.raises(ValueError, match="key has 0 tokens"):
        module(q, k[:, :0], v[:, :0])
    with pytest.raises(ValueError, match="do not divide"):
        nnq.ScaledDotProductAttention(heads=3)(q, k, v)
    with pytest.raises(ValueError, match="need 3 dimensions"):
        nnq.ScaledDotProductAttention(heads=2)(q[0], k[0], v[0])
    with pytest.raises(ValueError, match="scale is -1"):
        nnq.ScaledDotProductAttention(factor=-1.0)(q, k, v)
    ints = [(x.int_repr(), x.q_scale(), x.q_zero_point()) for x in (q, k, v)]
    with pytest.raises(TypeError, match="attention: key"):
        ops.attention(*ints[0], k.dequantize(), 0.1, 0, *ints[2], 0.1, 0, octavo.quint8)


def test_state_dict() -> None:
    module, other = nnq.ScaledDotProductAttention(0.02, 7), nnq.ScaledDotProductAttention()
    other.load_state_dict(module.state_dict())
    assert (other.scale, other.zero_point) == (module.scale, module.zero_point)


class Attention(nn.Module):
    """Self-attention as models write it."""

    def __init__(self, width: int = 32, heads: int = 4, **options: Any) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.options = heads, options

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*parts, **self.options)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def lowered(model: nn.Module, x: Tensor, **export: Any) -> tuple[Any, Any]:
    """The Q/DQ graph and what becomes of it."""
    graph = torch.export.export(model.eval(), (x,), **export).module()
    config = get_default_octavo_quantization_config()
    prepared: Any = prepare_pt2e(graph, OctavoQuantizer().set_global(config))
    prepared(x)
    converted = convert_pt2e(prepared)
    return converted, octavo.lower(converted)


def tokens(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(3))


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}])
def test_lowered(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Attention(**options), tokens(2, 11, 32)
    reference, int8 = lowered(model, x)
    modules = [type(module) for module in int8.modules()]
    (attention,) = [m for m in int8.modules() if isinstance(m, nnq.ScaledDotProductAttention)]
    assert attention.heads == 4
    assert modules.count(nnq.DeQuantize) == modules.count(nnq.Quantize) == 1
    assert not lowering_report(int8).left_float
    want, got = reference(x), int8(x)
    step = float((want.unique().diff()).min())
    assert float((want - got).abs().max()) <= 1.01 * step * 2
    program = torch.export.export(int8, (x,))
    assert torch.equal(program.module()(x), got)
    compiled = torch.compile(int8, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), got)


def test_lowered_with_dynamic_shapes() -> None:
    torch.manual_seed(0)
    model, x = Attention(), tokens(2, 11, 32)
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}}
    _, int8 = lowered(model, x, dynamic_shapes=shapes)
    assert any(isinstance(module, nnq.ScaledDotProductAttention) for module in int8.modules())
    y = tokens(3, 5, 32)
    parts = [int8(y[i : i + 1]) for i in range(3)]
    assert torch.equal(int8(y), torch.cat(parts))


class Peeking(Attention):
    """What stands between attention and its layers is read by another layer too."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        width = 32 if at in ("projected", "flat") else 8
        self.other = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        projected = [layer(x) for layer in (self.query, self.key, self.value)]
        apart = [part.view(*x.shape[:2], self.heads, -1) for part in projected]
        turned = [part.transpose(1, 2) for part in apart]
        mixed = F.scaled_dot_product_attention(*turned)
        back = mixed.transpose(1, 2)
        flat = back.contiguous().flatten(2)
        seen = {
            "projected": projected[1],
            "apart": apart[1],
            "turned": turned[1],
            "mixed": mixed,
            "back": back,
            "flat": flat,
        }
        return self.output(flat), self.other(seen[self.at])


@pytest.mark.parametrize("at", ["projected", "apart", "turned", "mixed", "back", "flat"])
def test_views_that_are_read_elsewhere(at: str) -> None:
    torch.manual_seed(0)
    model, x = Peeking(at), tokens(2, 11, 32)
    reference, int8 = lowered(model, x)
    for want, got in zip(reference(x), int8(x), strict=True):
        assert got.shape == want.shape
        assert torch.allclose(want, got, atol=0.02)
    (attention,) = [m for m in int8.modules() if isinstance(m, nnq.ScaledDotProductAttention)]
    assert (attention.heads == 4) == (at in ("projected", "flat"))


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": torch.ones(11, 11).tril().bool()}]
)
def test_masked_scores_stay_float(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Attention(**options), tokens(2, 11, 32)
    reference, int8 = lowered(model, x)
    (row,) = lowering_report(int8).left_float
    assert row.op == "scaled_dot_product_attention"
    assert "masked" in row.reason
    assert torch.allclose(int8(x), reference(x), atol=0.02)
