"""octavo.nn.quantized.functional: torch.nn.functional for quantized tensors only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import octavo
from octavo.nn.quantized import functional as qF
from torch_oracle import torch_quantized

SAME: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "avg_pool2d": (
        lambda x: qF.avg_pool2d(x, 3, 2, 1, True, False, 5),
        lambda x: F.avg_pool2d(x, 3, 2, 1, True, False, 5),
    ),
    "adaptive_avg_pool2d": (
        lambda x: qF.adaptive_avg_pool2d(x, (2, None)),
        lambda x: F.adaptive_avg_pool2d(x, (2, None)),
    ),
    "avg_pool3d": (
        lambda x: qF.avg_pool3d(x.unsqueeze(0), 2, 1, 1, False, False),
        lambda x: F.avg_pool3d(x.unsqueeze(0), 2, 1, 1, False, False),
    ),
    "adaptive_avg_pool3d": (
        lambda x: qF.adaptive_avg_pool3d(x.unsqueeze(0), (2, None, 3)),
        lambda x: F.adaptive_avg_pool3d(x.unsqueeze(0), (2, None, 3)),
    ),
    "max_pool1d": (
        lambda x: qF.max_pool1d(x[0], 3, 2, 1),
        lambda x: F.max_pool1d(x[0], 3, 2, 1),
    ),
    "max_pool2d": (
        lambda x: qF.max_pool2d(x, 2, 1, 1, 2, True),
        lambda x: F.max_pool2d(x, 2, 1, 1, 2, True),
    ),
    "relu": (qF.relu, F.relu),
    "relu6": (qF.relu6, F.relu6),
    "hardtanh": (lambda x: qF.hardtanh(x, -0.5, 0.7), lambda x: F.hardtanh(x, -0.5, 0.7)),
    "clamp": (lambda x: qF.clamp(x, -0.5, 0.7), lambda x: torch.clamp(x, -0.5, 0.7)),
    "gelu": (lambda x: qF.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "hardsigmoid": (qF.hardsigmoid, F.hardsigmoid),
    "leaky_relu": (lambda x: qF.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    "sigmoid": (qF.sigmoid, F.sigmoid),
    "softmax": (lambda x: qF.softmax(x, 1), lambda x: F.softmax(x, 1)),
    "tanh": (qF.tanh, torch.tanh),
    "threshold": (lambda x: qF.threshold(x, 0.1, -1), lambda x: F.threshold(x, 0.1, -1)),
    "interpolate": (
        lambda x: qF.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=2),
    ),
    "upsample": (lambda x: qF.upsample(x, (9, 5)), lambda x: F.interpolate(x, (9, 5))),
    "upsample_bilinear": (
        lambda x: qF.upsample_bilinear(x, (9, 5)),
        lambda x: F.interpolate(x, (9, 5), mode="bilinear", align_corners=True),
    ),
    "upsample_nearest": (
        lambda x: qF.upsample_nearest(x, scale_factor=3),
        lambda x: F.interpolate(x, scale_factor=3),
    ),
}


def image(dtype: Any = octavo.quint8) -> octavo.QTensor:
    return octavo.quantize_per_tensor(torch.randn(2, 3, 6, 7), 0.05, 60, dtype)


def test_every_function_is_tested() -> None:
    convolutions = {"conv1d", "conv2d", "conv3d"}  # test_functional_conv.py
    transposed = {
        f"conv_transpose{rank}d" for rank in (1, 2, 3)
    }  # test_quantized_conv_transpose.py
    embeddings = {"embedding", "embedding_bag"}  # test_embedding.py
    elsewhere = convolutions | transposed | embeddings | {"linear"}  # test_functional_linear.py
    assert set(SAME) | elsewhere | WITH_QPARAMS == set(qF.__all__)


@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8], ids=str)
@pytest.mark.parametrize("name", SAME)
def test_same_as_torch_nn_functional(isa: str, name: str, dtype: Any) -> None:
    ours, theirs = SAME[name]
    x = image(dtype)
    before = x.clone()
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SAME)
def test_float_input_is_refused(name: str) -> None:
    shown = "interpolate" if name.startswith("upsample") else name
    with pytest.raises(
        TypeError, match=rf"quantized\.functional\.{shown}: .*got torch\.float32; .*QuantStub"
    ):
        SAME[name][0](torch.ones(2, 3, 6, 7))


def test_in_place() -> None:
    for function in (qF.relu, qF.relu6, qF.hardtanh):
        x = image()
        want = function(x)
        assert function(x, inplace=True) is x
        assert torch.equal(x, want)


def test_refusals_name_the_reason() -> None:
    with pytest.raises(TypeError, match="return_indices"):
        qF.max_pool2d(image(), 2, return_indices=True)
    with pytest.raises(TypeError, match=r"mode='bicubic'.*use mode='nearest' or mode='bilinear'"):
        qF.interpolate(image(), scale_factor=2, mode="bicubic")


OWN = {"relu", "relu6", "gelu", "sigmoid", "softmax", "tanh"}  # torch has no such function
WITH_QPARAMS = {"celu", "elu", "hardswish", "mish", "silu"}  # test_unary_and_normalization.py


@pytest.mark.parametrize("name", sorted((set(SAME) | WITH_QPARAMS) - OWN - {"mish", "silu"}))
def test_signature_is_that_of_torch(name: str) -> None:
    oracle = pytest.importorskip("torch.ao.nn.quantized.functional")

    def parameters(function: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(getattr(qF, name)) == parameters(getattr(oracle, name))


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d", "hardtanh", "clamp", "interpolate"])
def test_agrees_with_torch_to_one_step(name: str) -> None:
    pytest.importorskip("torch.ao.nn.quantized.functional")
    x = image()
    with torch_quantized() as torch_:
        theirs = torch_._make_per_tensor_quantized_tensor(x.int_repr(), 0.05, 60)
        want = SAME[name][1](theirs).int_repr()
    assert (SAME[name][0](x).int_repr().int() - want.int()).abs().max() <= 1
