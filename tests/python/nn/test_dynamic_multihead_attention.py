"""Dynamically quantized MultiheadAttention: the attention itself against torch's, with float
projections in the place of the quantized ones, and the projections against Linear."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import octavo
from module_support import generator
from octavo.nn.quantized import dynamic as nnqd

OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "add_bias_kv": True, "batch_first": True},
    {"kdim": 6, "vdim": 10},
    {"kdim": 6, "vdim": 10, "bias": False, "batch_first": True},
]


def attention(seed: int = 0, embed_dim: int = 8, heads: int = 2, **options: Any) -> Any:
    module = nn.MultiheadAttention(embed_dim, heads, **options).eval()
    g = generator(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * embed_dim**-0.5)
    return module


def with_float_projections(module: Any) -> Any:
    """Octavo's module of a float one, its projections replaced by the float ones."""
    result: Any = nnqd.MultiheadAttention.from_float(module)
    result.split_projections_()
    bias = module.in_proj_bias
    biases = [None] * 3 if bias is None else bias.chunk(3)
    weights = (
        module.in_proj_weight.chunk(3)
        if module._qkv_same_embed_dim
        else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    )
    for name, weight, part in zip(("q", "k", "v"), weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=part is not None)
        linear.weight = nn.Parameter(weight)
        linear.bias = None if part is None else nn.Parameter(part)  # type: ignore[assignment]
        setattr(result, f"{name}_proj", linear)
    result.out_proj = module.out_proj
    return result


@settings(max_examples=120, deadline=None)
@given(
    options=st.sampled_from(OPTIONS),
    batch=st.sampled_from([None, 1, 2, 3]),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    need_weights=st.booleans(),
    average=st.booleans(),
    mask_kind=st.sampled_from(["none", "bool", "float", "per_head", "causal"]),
    padding=st.sampled_from(["none", "bool", "float"]),
    seed=st.integers(0, 100),
)
def test_attention_is_torchs(
    options: dict[str, Any],
    batch: int | None,
    lengths: tuple[int, int],
    need_weights: bool,
    average: bool,
    mask_kind: str,
    padding: str,
    seed: int,
) -> None:
    module = attention(seed, **options)
    ours = with_float_projections(module)
    g = generator(seed)
    target, source = lengths

    def tensor(length: int, size: int) -> Tensor:
        shape = [length, size] if batch is None else [length, batch, size]
        if batch is not None and module.batch_first:
            shape = [batch, length, size]
        return torch.randn(shape, generator=g)

    query = tensor(target, 8)
    key, value = tensor(source, module.kdim), tensor(source, module.vdim)
    mask = torch.rand(target, source, generator=g) < 0.3
    mask[:, 0] = False  # torch gives NaN for a row without any key
    masks: dict[str, Any] = {
        "none": None,
        "bool": mask,
        "float": torch.randn(target, source, generator=g),
        "per_head": torch.randn((batch or 1) * 2, target, source, generator=g),
        "causal": torch.ones(target, source, dtype=torch.bool).triu(1),
    }
    hidden = torch.rand((batch, source) if batch else (source,), generator=g) < 0.3
    hidden[..., 0] = False
    paddings: dict[str, Any] = {"none": None, "bool": hidden}
    paddings["float"] = torch.zeros(hidden.shape).masked_fill(hidden, -3.0)
    if padding == "bool" and masks[mask_kind] is not None and mask_kind in ("float", "per_head"):
        paddings["bool"] = paddings["float"]  # torch wants both of one kind
    if padding == "float" and mask_kind in ("bool", "causal"):
        paddings["float"] = hidden
    arguments = {
        "key_padding_mask": paddings[padding],
        "need_weights": need_weights,
        "attn_mask": masks[mask_kind],
        "average_attn_weights": average,
        "is_causal": mask_kind == "causal",
    }
    with torch.no_grad():
        want, want_weights = module(query, key, value, **arguments)
        got, got_weights = ours(query, key, value, **arguments)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (got_weights is None) == (want_weights is None)
    if need_weights:
        torch.testing.assert_close(got_weights, want_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("settings_", [{}, {"per_tensor": True, "reduce_range": True}])
def test_projections_are_linears(options: dict[str, Any], settings_: dict[str, bool]) -> None:
    module = attention(3, 32, 4, **options)
    ours: Any = nnqd.MultiheadAttention.from_float(module, **settings_)
    linear = nnqd.Linear.from_float(module.out_proj, **settings_)
    x = torch.randn(5, 32, generator=generator(1))
    assert torch.equal(ours.out_proj(x), linear(x))
    if ours.in_proj is not None:
        whole = ours.in_proj(x)
        bias = ours.in_proj_bias
        ours.split_projections_()
        parts = [ours.q_proj(x), ours.k_proj(x), ours.v_proj(x)]
        assert torch.equal(whole, torch.cat(parts, -1))
        assert bias is None if ours.in_proj_bias is None else torch.equal(bias, ours.in_proj_bias)
    for part in (ours.q_proj, ours.k_proj, ours.v_proj, ours.out_proj):
        assert part.per_tensor == part.reduce_range == bool(settings_)


@pytest.mark.parametrize("options", OPTIONS)
def test_is_near_the_float_module(options: dict[str, Any]) -> None:
    module = attention(4, 64, 4, **options)
    ours = nnqd.MultiheadAttention.from_float(module)
    query = torch.randn(6, 3, 64, generator=generator(2))
    key, value = (torch.randn(6, 3, size) for size in (module.kdim, module.vdim))
    want, got = module(query, key, value)[0], ours(query, key, value)[0]
    assert (got - want).norm() < 0.03 * want.norm()
    assert (ours(query.bfloat16(), key.bfloat16(), value.bfloat16())[0]).dtype == torch.bfloat16


def test_the_same_tensor_and_equal_tensors_give_the_same_bits() -> None:
    ours: Any = nnqd.MultiheadAttention.from_float(attention(5, 32, 4, batch_first=True))
    x = torch.randn(2, 7, 32, generator=generator(3))
    want = ours(x, x, x)[0]
    assert ours.in_proj is not None
    assert torch.equal(ours(x, x.clone(), x.clone())[0], want)
    assert ours.in_proj is None
    assert torch.equal(ours(x, x, x)[0], want)


@pytest.mark.parametrize("split", [(False, True), (True, False), (True, True), (False, False)])
def test_state_dicts_load_in_both_forms(split: tuple[bool, bool]) -> None:
    models = [nnqd.MultiheadAttention.from_float(attention(seed)) for seed in (6, 7)]
    for model, is_split in zip(models, split, strict=True):
        if is_split:
            model.split_projections_()
    first, second = models
    x = torch.randn(4, 2, 8, generator=generator(4))
    want = first(x, x, x)[0]
    second.load_state_dict(first.state_dict())
    assert (second.in_proj is None) == split[0]
    assert torch.equal(second(x, x, x)[0], want)
    assert torch.equal(copy.deepcopy(second)(x, x, x)[0], want)
    assert torch.equal(pickle.loads(pickle.dumps(second))(x, x, x)[0], want)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": torch.zeros(3, 2, 8, dtype=torch.int64)}, TypeError, "query must be a float"),
        (
            {"key": octavo.quantize_per_tensor(torch.zeros(3, 2, 8), 1.0, 0, octavo.quint8)},
            TypeError,
            "key must be a float tensor",
        ),
        ({"query": torch.zeros(3, 2, 7)}, RuntimeError, r"query must have shape \[length, 8\]"),
        ({"value": torch.zeros(4, 2, 8)}, RuntimeError, "key and value must have the same length"),
        ({"query": torch.zeros(3, 8)}, RuntimeError, "as many dimensions as query"),
        ({"query": torch.zeros(3, 1, 8)}, RuntimeError, "all three the same batch"),
        ({"attn_mask": torch.zeros(2, 2)}, RuntimeError, r"attn_mask must be .*\(3, 3\)"),
        ({"attn_mask": torch.zeros(3, 3).int()}, RuntimeError, "attn_mask must be a bool or float"),
        (
            {"key_padding_mask": torch.zeros(3, 2)},
            RuntimeError,
            r"padding_mask must .*\(2, 3\)",
        ),
        ({"is_causal": True}, RuntimeError, "give attn_mask too"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    ours = nnqd.MultiheadAttention.from_float(attention())
    x = torch.zeros(3, 2, 8)
    with pytest.raises(error, match=f"MultiheadAttention: .*{message}"):
        ours(**{"query": x, "key": x, "value": x} | arguments)


def test_wrong_sizes_and_modules() -> None:
    for wrong in ((8, 3), (0, 1), (8, 0)):
        with pytest.raises(AssertionError, match="divisible by num_heads") as caught:
            nnqd.MultiheadAttention(*wrong)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(ValueError, match="device must be the CPU"):
        nnqd.MultiheadAttention(8, 2, device="meta")
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.MultiheadAttention"):
        nnqd.MultiheadAttention.from_float(nn.Linear(2, 2))
    module = attention()
    nn.init.constant_(module.in_proj_weight, float("inf"))
    with pytest.raises(ValueError, match="NaN or Inf"):
        nnqd.MultiheadAttention.from_float(module)
