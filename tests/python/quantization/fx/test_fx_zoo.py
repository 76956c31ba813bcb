"""Graphs of many shapes from float to int8 and back from files."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

import octavo.quantization as tq
from fx_models import (
    ZOO,
    assert_no_redundant_pairs,
    batch,
    calibrated,
    calls,
    dequantizations,
    flat,
    sqnr,
    zoo_model,
)
from octavo.nn import quantized as nnq
from octavo.quantization.quantize_fx import convert_fx, prepare_fx

# Quantizations, dequantizations, decibels at least.
EXPECTED = {
    "residual": (1, 1, 30),
    "inverted": (1, 1, 30),
    "unet": (1, 2, 30),
    "squeeze_excite": (1, 1, 25),
    "dense_concat": (1, 1, 28),
    "shared": (1, 3, 30),
    "two_inputs": (2, 4, 35),
    "functions": (1, 1, 28),
    "recurrent": (3, 2, 35),
    "attention": (1, 1, 30),
    "fused_attention": (3, 2, 30),
    "masked_attention": (3, 3, 35),
    "by_hand": (1, 1, 28),
    "tied": (1, 3, 40),
    "joins": (2, 2, 32),
    "signal": (1, 1, 30),
}


@functools.cache
def quantized(name: str) -> tuple[Any, ...]:
    """Name, float model, prepared model, int8 model, shapes."""
    model, shapes = zoo_model(name)
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    calibrated(prepared, shapes)
    return name, model, prepared, convert_fx(prepared), shapes


@pytest.fixture(scope="module", params=list(ZOO))
def case(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    return quantized(request.param)


def test_int8_is_close_to_float(case: tuple[Any, ...]) -> None:
    name, model, prepared, int8, shapes = case
    inputs = batch(shapes, 3)
    with torch.no_grad():
        want = model(*inputs)
        assert torch.allclose(flat(copy.deepcopy(prepared)(*inputs)), flat(want), atol=1e-4)
        got = int8(*inputs)
    assert type(got) is type(want)
    assert sqnr(want, got) > EXPECTED[name][2]


def test_values_are_quantized_only_where_they_enter_int8(case: tuple[Any, ...]) -> None:
    name, _, _, int8, _ = case
    assert_no_redundant_pairs(int8)
    counts = len(calls(int8, nnq.Quantize)), len(dequantizations(int8))
    assert counts == EXPECTED[name][:2]


def test_batch_norms_are_folded(case: tuple[Any, ...]) -> None:
    name, _, prepared, int8, _ = case
    # After a concatenation; after a value that is used otherwise too.
    left = {"dense_concat": 1, "tied": 1}.get(name, 0)
    assert len(calls(prepared, nn.BatchNorm2d)) <= left
    kinds = (nn.BatchNorm2d, nn.Conv2d, nn.Linear)
    assert not [m for m in int8.modules() if type(m) in kinds]


def test_every_value_is_observed_once(case: tuple[Any, ...]) -> None:
    _, _, prepared, _, _ = case
    nodes = [n for n in prepared.graph.nodes if str(n.target).startswith("activation_post_process")]
    sources = [node.args[0] for node in nodes]
    assert len(set(sources)) == len(sources)
    assert not [n for n in nodes if str(n.args[0].target).startswith("activation_post_process")]
    observers = {n.target for n in nodes}
    present = {n for n, _ in prepared.named_children() if n.startswith("activation_post_process")}
    assert observers == present


@pytest.mark.parametrize(
    "name",
    [
        *("residual", "inverted", "unet", "squeeze_excite", "dense_concat", "functions"),
        *("by_hand", "tied", "signal"),
    ],
)
def test_any_batch_size(name: str) -> None:
    """Models that are int8 throughout give each sample the same bits in any batch."""
    _, _, _, int8, shapes = quantized(name)
    (x,) = batch(((5, *shapes[0][1:]),), 9)
    with torch.no_grad():
        whole = tree_leaves(int8(x))
        single = [tree_leaves(int8(x[i : i + 1])) for i in range(5)]
    for output, *parts in zip(whole, *single, strict=True):
        assert torch.equal(output, torch.cat(parts))


def test_copies_and_pickles(case: tuple[Any, ...]) -> None:
    _, _, prepared, int8, shapes = case
    inputs = batch(shapes, 3)
    with torch.no_grad():
        want = flat(int8(*inputs))
        for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
            assert torch.equal(flat(convert_fx(copied)(*inputs)), want)
        file = io.BytesIO()
        torch.save(int8, file)
        file.seek(0)
        for copied in (copy.deepcopy(int8), torch.load(file, weights_only=False)):
            assert torch.equal(flat(copied(*inputs)), want)
            assert isinstance(copied, fx.GraphModule)
            assert copied.quantization_report == int8.quantization_report


def test_state_dict(case: tuple[Any, ...]) -> None:
    """The int8 state goes into a model of other scales, and plain tensors are all it holds."""
    _, model, _, int8, shapes = case
    other = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    with torch.no_grad():
        other(*(7 * x + 1 for x in batch(shapes, 5)))
        fresh = convert_fx(other)
        inputs = batch(shapes, 3)
        assert not torch.equal(flat(fresh(*inputs)), flat(int8(*inputs)))
        file = io.BytesIO()
        torch.save(int8.state_dict(), file)
        file.seek(0)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(flat(fresh(*inputs)), flat(int8(*inputs)))


def test_arguments_stay_as_they_are(case: tuple[Any, ...]) -> None:
    name, model, prepared, int8, shapes = case
    untouched, _ = zoo_model(name)
    assert [type(m) for m in model.modules()] == [type(m) for m in untouched.modules()]
    assert not [m for m in model.modules() if hasattr(m, "qconfig")]
    assert not model.training
    again = convert_fx(prepared)
    inputs = batch(shapes, 3)
    with torch.no_grad():
        assert torch.equal(flat(again(*inputs)), flat(int8(*inputs)))


def test_uncalibrated_observers_are_named(case: tuple[Any, ...]) -> None:
    _, model, _, _, shapes = case
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    with pytest.raises(RuntimeError, match=r"activation_post_process_0' \(the output of '"):
        convert_fx(prepared)
