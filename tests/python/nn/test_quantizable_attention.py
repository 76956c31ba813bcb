"""nn.quantizable.MultiheadAttention and what convert makes of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.nn import quantizable as nnqa
from octavo.nn import quantized as nnq
from octavo.quantization.numeric_suite import sqnr
from quantization_support import assert_same_qparams, oracle, quietly

# 8 bits give an activation about 40 dB; projection, attention and projection follow one another.
STATIC_DB = 27.0
SIZE, HEADS, L, S, N = 16, 4, 5, 6, 3
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"bias": False, "batch_first": True},
    {"kdim": 12, "vdim": 20},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
)


class Net(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.quant_q, self.quant_k, self.quant_v = (tq.QuantStub() for _ in range(3))
        self.dequant = tq.DeQuantStub()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, **kwargs)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        inputs = self.quant_q(query), self.quant_k(key), self.quant_v(value)
        out, weights = self.attention(*inputs, **kwargs)
        return self.dequant(out), None if weights is None else self.dequant(weights)


def net(**kwargs: Any) -> Net:
    torch.manual_seed(0)
    model = Net(**kwargs).eval()
    if kwargs.get("bias", True):
        nn.init.normal_(model.attention.in_proj_bias, std=0.3)
        nn.init.normal_(model.attention.out_proj.bias, std=0.3)
    model.qconfig = tq.get_default_qconfig()
    return model


def inputs(case: dict[str, Any], seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((L, N, SIZE), (S, N, case.get("kdim", SIZE)), (S, N, case.get("vdim", SIZE)))
    made = (torch.randn(*shape, generator=generator) for shape in shapes)
    query, key, value = (x.transpose(0, 1) if case.get("batch_first") else x for x in made)
    return query, key, value


def converted(model: Net, *batches: Any) -> Any:
    prepared = tq.prepare(model)
    for batch in batches:
        prepared(*batch)
    return tq.convert(prepared)


def masks() -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    padding = torch.zeros(N, S, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.ones(L, S).triu(1).bool()
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(N * HEADS, L, S, generator=generator)},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "causal": {"attn_mask": causal, "is_causal": True},
        "per head": {"average_attn_weights": False},
        "no weights": {"need_weights": False},
        "no weights, padding": {"need_weights": False, "key_padding_mask": padding},
    }


# Not of one combination: with is_causal, torch's own module masks bias_k in one of its paths.
@pytest.mark.parametrize(
    ("case", "mask"),
    [
        pytest.param(case, mask, id=f"{case}-{mask}")
        for case in CASES
        for mask in masks()
        if not (case.get("add_bias_kv") and mask == "causal")
    ],
)
def test_near_float(case: dict[str, Any], mask: str) -> None:
    model, x, options = net(**case), inputs(case), masks()[mask]
    prepared = tq.prepare(model)
    if "attn_mask" in options and "key_padding_mask" in options:
        options["attn_mask"] = torch.zeros(L, S).masked_fill(options["attn_mask"], -torch.inf)
        padding = torch.zeros(N, S).masked_fill(options["key_padding_mask"], -torch.inf)
        options["key_padding_mask"] = padding
    expected = model(*x, **options)
    torch.testing.assert_close(prepared(*x, **options), expected)
    int8 = tq.convert(prepared)
    assert type(int8.attention) is nnq.MultiheadAttention
    got = int8(*x, **options)
    assert got[0].shape == expected[0].shape
    assert sqnr(expected[0], got[0]) > STATIC_DB
    assert (got[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        assert got[1].shape == expected[1].shape
        assert sqnr(expected[1], got[1]) > STATIC_DB


def test_without_a_batch() -> None:
    model, (query, key, value) = net(), inputs({})
    int8 = converted(model, (query, key, value))
    whole, weights = int8(query, key, value)
    alone, own = int8(query[:, 1], key[:, 1], value[:, 1])
    assert torch.equal(whole[:, 1], alone)
    assert torch.equal(weights[1], own)


def test_attention_weights_that_nobody_asked_for_are_calibrated() -> None:
    model, x = net(), inputs({})
    prepared = tq.prepare(model)
    assert prepared(*x, need_weights=False)[1] is None
    int8 = tq.convert(prepared)
    assert sqnr(model(*x)[1], int8(*x)[1]) > STATIC_DB
    a, b = int8(*x)[0], int8(*x, need_weights=False)[0]
    assert (a - b).abs().max() <= int8.attention.out_proj.scale * 1.001


def test_qparams_are_torchs() -> None:
    oracle()
    attention = net().attention
    theirs_in = copy.deepcopy(attention)
    theirs_in.qconfig = quietly(oracle().get_default_qconfig, "qnnpack")
    attention.qconfig = tq.get_default_qconfig("qnnpack")
    theirs = quietly(torch.ao.nn.quantizable.MultiheadAttention.from_float, theirs_in)
    ours = nnqa.MultiheadAttention.from_float(attention)
    for seed in range(2):
        x = inputs({}, seed)
        quietly(theirs, *x)
        ours(*x)
    mine, found = dict(ours.named_modules()), 0
    for name, module in theirs.named_modules():
        if name.endswith("activation_post_process") and "scaling" not in name:
            assert_same_qparams(mine[name], module)
            found += 1
    assert found == 6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training(case: dict[str, Any]) -> None:
    model, x = net(**case).train(), inputs(case)
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    for _ in range(3):
        out, weights = prepared(*x)
    # A bias of the keys adds the same to all scores of a query, so it has no gradient.
    (out.square().mean() + weights.square().mean()).backward()
    for name, parameter in prepared.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith("linear_K.bias") or parameter.grad.abs().sum() > 0, name
    prepared.eval().apply(tq.disable_observer)
    int8 = tq.convert(prepared)
    assert type(int8.attention) is nnq.MultiheadAttention
    trained, got = prepared(*x)[0], int8(*x)[0]
    assert (trained - got).abs().max() <= int8.attention.out_proj.scale * 1.001


@pytest.mark.parametrize("case", CASES, ids=str)
def test_copies_files_and_back_to_float(case: dict[str, Any]) -> None:
    model, x = net(**case), inputs(case)
    prepared = tq.prepare(model)
    prepared(*x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(prepared))(*x), prepared(*x))
    int8 = tq.convert(prepared)
    expected = int8(*x)
    arguments = dict(case)
    fresh = nnq.MultiheadAttention(SIZE, HEADS, **arguments)
    fresh.load_state_dict(int8.attention.state_dict())
    state = int8.attention.state_dict()
    assert all(type(value) is Tensor for value in state.values())
    other = copy.deepcopy(int8)
    other.attention = fresh
    loaded = tq.load_quantized(Net(**case), int8.state_dict())
    for again in (other, loaded, pickle.loads(pickle.dumps(int8)), copy.deepcopy(int8)):
        assert all(torch.equal(a, b) for a, b in zip(again(*x), expected, strict=True))
    back = int8.attention.dequantize()
    assert type(back) is nn.MultiheadAttention
    assert sqnr(model.attention(*x)[0], back(*x)[0]) > 35


def test_inputs_have_to_be_quantized() -> None:
    int8 = converted(net(), inputs({}))
    with pytest.raises(TypeError, match=r"MultiheadAttention 'attention': query must be a quant"):
        int8.attention(*inputs({}))
    q = octavo.quantize_per_tensor(torch.zeros(L, N, 3), 0.1, 0, octavo.quint8)
    with pytest.raises(RuntimeError, match="query must have shape"):
        int8.attention(q, q, q)


def test_sources() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.MultiheadAttention"):
        nnqa.MultiheadAttention.from_float(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no qconfig"):
        nnqa.MultiheadAttention.from_float(nn.MultiheadAttention(2, 1))
    with pytest.raises(NotImplementedError, match=r"quantizable.MultiheadAttention.from_float"):
        nnq.MultiheadAttention.from_float(nn.MultiheadAttention(2, 1))
    with pytest.raises(NotImplementedError, match=r"quantized.MultiheadAttention.from_observed"):
        nnqa.MultiheadAttention.from_observed(nn.MultiheadAttention(2, 1))
    for kind in (nnqa.MultiheadAttention, nnq.MultiheadAttention):
        for error in (ValueError, AssertionError):  # torch raises either
            with pytest.raises(error, match=r"^MultiheadAttention: .* divisible by num_heads"):
                kind(5, 2)


def test_what_was_not_calibrated_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"'attention.linear_Q' \(Linear\)"):
        tq.convert(tq.prepare(net()))


def test_inside_of_an_encoder_layer() -> None:
    """torch's fast path, which would read weights without running the modules, is not taken."""
    layer = nn.TransformerEncoderLayer(SIZE, HEADS, 32, dropout=0.0, batch_first=True).eval()
    layer.qconfig = tq.get_default_qconfig()
    prepared, x = tq.prepare(layer), torch.randn(2, 5, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(prepared(x), layer(x), atol=1e-5, rtol=1e-4)
    assert prepared.self_attn.linear_Q.activation_post_process.is_calibrated
