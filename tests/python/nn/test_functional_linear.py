"""octavo.nn.quantized.functional.linear: what the module computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import octavo
from module_support import generator, random_q, random_weight
from octavo.nn import quantized as nnq
from octavo.nn.quantized import functional as qF


@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8], ids=str)
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_same_as_the_module(dtype: Any, shape: tuple[int, ...], with_bias: bool) -> None:
    floats = torch.randn(shape, generator=generator(1))
    x = octavo.quantize_per_tensor(floats, 0.02, 3, dtype)
    weight = random_weight((5, 7), generator(2))
    bias = torch.randn(5) if with_bias else None
    module = nnq.Linear(7, 5, with_bias)
    module.set_weight_bias(weight, bias)
    module._set_output(0.05, 11, dtype)
    y = qF.linear(x, weight, bias, 0.05, 11)
    assert torch.equal(y.int_repr(), module(x).int_repr())
    assert (y.dtype, y.q_scale(), y.q_zero_point()) == (dtype, module.scale, 11)
    same_scale = qF.linear(x, weight, bias)
    assert (same_scale.q_scale(), same_scale.q_zero_point()) == (pytest.approx(x.q_scale()), 3)


def test_mistakes_are_named() -> None:
    x, weight = random_q((4, 7), generator(1)), random_weight((5, 7), generator(2))
    with pytest.raises(TypeError, match=r"functional\.linear: input must be a quantized tensor"):
        qF.linear(torch.ones(4, 7), weight)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"functional\.linear: weight must be a quantized tensor"):
        qF.linear(x, torch.ones(5, 7))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must have 2 dimensions"):
        qF.linear(x, random_weight((5, 7, 1), generator(2)))
    with pytest.raises(RuntimeError, match=r"functional\.linear: .*7"):
        qF.linear(random_q((4, 6), generator(1)), weight)
