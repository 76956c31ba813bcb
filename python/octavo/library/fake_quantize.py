"""Operators of fake-quantize modules in compiled training: what a step of
:mod:`octavo.quantization.fake_quantize_step` does, in two operators.

Both take their switch as a tensor, which the kernels read: a graph does not depend on it, and
``disable_observer`` and the like act on compiled models too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from octavo.library._register import operator
from octavo.ops import direct
from octavo.ops._common import dense

__all__: list[str] = []


def _observe_extremes(
    x: Tensor,
    enabled: Tensor,
    min_val: Tensor,
    max_val: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    eps: Tensor,
    nonfinite_count: Tensor,
    axis: int | None,
    quant_min: int,
    quant_max: int,
    averaging_constant: float | None,
    observer_min: int,
    observer_max: int,
    symmetric_zero_point: int | None,
) -> None:
    if enabled.item() == 0 or x.numel() == 0:
        return
    rule = (averaging_constant, observer_min, observer_max, symmetric_zero_point)
    statistics = (min_val, max_val, eps)
    rounding = (axis, scale, zero_point, quant_min, quant_max)
    done = direct.fake_quantize(
        dense(x.detach()), False, False, *rounding, True, *statistics, *rule
    )
    if done is None:
        raise RuntimeError(
            "octavo::observe_extremes: expected float32 values on the CPU, and statistics, scale "
            f"and zero point of fitting sizes; got {x.dtype} on {x.device}, statistics of shape "
            f"{list(min_val.shape)} and a scale of shape {list(scale.shape)}"
        )
    nonfinite = done[2]
    if nonfinite:
        nonfinite_count += nonfinite


def _nothing() -> None:
    """It has no result."""


operator(
    "observe_extremes(Tensor x, Tensor enabled, Tensor(a!) min_val, Tensor(b!) max_val, "
    "Tensor(c!) scale, Tensor(d!) zero_point, Tensor eps, Tensor(e!) nonfinite_count, int? axis, "
    "int quant_min, int quant_max, "
    "float? averaging_constant, int observer_min, int observer_max, int? symmetric_zero_point) "
    "-> ()",
    _observe_extremes,
    _nothing,
)


def _fake_quantize(
    x: Tensor,
    enabled: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int | None,
    quant_min: int,
    quant_max: int,
) -> tuple[Tensor, Tensor]:
    x = dense(x.detach())
    if enabled.item() == 0 or x.numel() == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    rounding = (axis, scale, zero_point, quant_min, quant_max)
    done = direct.fake_quantize(x, True, True, *rounding, False, *(None,) * 7)
    if done is None:
        raise RuntimeError(
            "octavo::fake_quantize: expected float32 values on the CPU and a scale and zero point "
            f"of fitting sizes; got {x.dtype} on {x.device} and a scale of shape "
            f"{list(scale.shape)}"
        )
    out, inside, _ = done
    assert out is not None
    assert inside is not None
    return out, inside if inside.dtype == torch.bool else inside.view(torch.bool)


def _rounded_and_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    x = dense(x)
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _straight_through(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
    (inside,) = ctx.saved_tensors
    gradient = gradients[0]
    return (None if gradient is None else gradient * inside, *(None,) * 6)


operator(
    "fake_quantize(Tensor x, Tensor enabled, Tensor scale, Tensor zero_point, int? axis, "
    "int quant_min, int quant_max) -> (Tensor, Tensor)",
    _fake_quantize,
    _rounded_and_mask,
    (_straight_through, _save),
)
