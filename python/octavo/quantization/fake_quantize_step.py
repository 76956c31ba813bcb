"""A step of a fake-quantize module in one call, on float32 CPU tensors.

What the modules of :mod:`octavo.quantization.fake_quantize` do for any tensor in a dozen of torch's
operations (statistics, moving average, scale and zero point, rounding, what lies within the range)
takes two passes over the values here. Results are equal to the bit, but for the sign of zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from octavo.ops import direct
from octavo.quantization.minmax_observer import AVERAGES
from octavo.quantization.observer import FixedQParamsObserver
from octavo.quantization.statistics import kernels_see, mark_written, process_group
from octavo.quantization.utils import SYMMETRIC_SCHEMES, symmetric_zero_point

__all__ = ["fused_step", "graph_step", "observes_extremes", "straight_through"]

_zero_point_of = functools.lru_cache(maxsize=64)(symmetric_zero_point)


def observes_extremes(observer: nn.Module) -> bool:
    """Whether :func:`fused_step` can take the place of calling the observer."""
    return (
        type(observer) in AVERAGES
        and not observer._forward_hooks
        and not observer._forward_pre_hooks
    )


def fused_step(module: Any, x: Tensor, observes: bool, rounds: bool) -> Tensor | None:
    """What ``module`` returns for ``x``, or None, with nothing changed, where the step is not one
    that the kernels take: another device or dtype, gaps in memory, other observers, a tensor that
    is being traced, statistics that are shared among processes.

    Args:
        module: a FakeQuantize.
        observes: update the statistics of its observer, which :func:`observes_extremes`, and its
            scale and zero point.
        rounds: return ``x`` rounded, with a gradient; otherwise ``x`` itself.
    """
    if not kernels_see(x) or (observes and process_group() is not None):
        return None
    plain = x.detach() if type(x) is nn.Parameter else x
    keeps = rounds and x.requires_grad and torch.is_grad_enabled()
    mine = module._buffers
    axis = module.ch_axis if module.is_per_channel else None
    low, high = module.quant_min, module.quant_max
    scale, zero_point = mine["scale"], mine["zero_point"]
    rule = _rule(module._modules["activation_post_process"]) if observes else _NO_RULE
    done = direct.fake_quantize(
        plain, rounds, keeps, axis, scale, zero_point, low, high, observes, *rule
    )
    if done is None:
        return None
    out, inside, others = done
    if observes:
        mark_written((scale, zero_point, rule[0], rule[1]))
        if others:
            module.activation_post_process._nonfinite += others
    if out is None:
        return x
    return out if inside is None else straight_through(x, out, inside)


def graph_step(module: Any, x: Tensor) -> Tensor | None:
    """What ``module`` returns for ``x`` in a graph that ``torch.compile`` records, or None where it
    has no operators for it (and the graph ends there): another device or dtype, other observers,
    statistics that are shared among processes, or that have no size yet: a model with statistics
    for each channel has to run once before.
    """
    observer = module.activation_post_process
    fixed = isinstance(observer, FixedQParamsObserver)
    axis = module.ch_axis if module.is_per_channel else None
    count = 1 if axis is None else x.shape[axis]
    scale, zero_point = module.scale, module.zero_point
    if (
        x.dtype != torch.float32
        or x.device.type != "cpu"
        or zero_point.dtype != torch.int32
        or scale.numel() != count
        or not (fixed or (observes_extremes(observer) and observer.min_val.numel() == count))
        or process_group() is not None
    ):
        return None
    low, high = module.quant_min, module.quant_max
    if not fixed:
        middle = None
        if observer.qscheme in SYMMETRIC_SCHEMES:
            whole = (observer.quant_min, observer.quant_max, observer.dtype)
            middle = symmetric_zero_point(*whole, observer.has_customized_qrange)
        constant = observer.averaging_constant if AVERAGES[type(observer)] else None
        torch.ops.octavo.observe_extremes(
            x.detach(),
            module.observer_enabled,
            observer.min_val,
            observer.max_val,
            scale,
            zero_point,
            observer.eps,
            observer._nonfinite_in_graphs,
            axis,
            low,
            high,
            constant,
            observer.quant_min,
            observer.quant_max,
            middle,
        )
    # A copy: the next step writes to the scale, which this one's gradient must not depend on.
    rounded: Tensor = torch.ops.octavo.fake_quantize(
        x, module.fake_quant_enabled, scale.clone(), zero_point.clone(), axis, low, high
    )[0]
    return rounded


_NO_RULE = (None, None, None, None, None, None, None)


def _rule(observer: Any) -> tuple[Any, ...]:
    """How extremes become statistics and these scale and zero point, as the kernels take it."""
    buffers = observer._buffers
    low, high = observer.quant_min, observer.quant_max
    zero_point = None
    if observer.qscheme in SYMMETRIC_SCHEMES:
        customized = observer.has_customized_qrange
        zero_point = _zero_point_of(low, high, observer.dtype, customized)
    constant = observer.averaging_constant if AVERAGES[type(observer)] else None
    return buffers["min_val"], buffers["max_val"], buffers["eps"], constant, low, high, zero_point


def straight_through(x: Tensor, out: Tensor, inside: Tensor) -> Tensor:
    """``out`` as a function of ``x`` whose gradient is 1 where ``inside`` is, and 0 elsewhere."""
    result: Tensor = _StraightThrough.apply(x, (out, inside))  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    """Keeps one byte per value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: tuple[Tensor, Tensor]) -> Tensor:
        ctx.save_for_backward(values[1])
        return values[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        gradient = gradients[0]
        if kernels_see(gradient) and not gradient.requires_grad:
            result = direct.masked_gradient(gradient, inside)
            if result is not None:
                return result, None
        return gradient * inside, None
