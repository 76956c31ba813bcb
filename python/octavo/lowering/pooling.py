"""Means over windows and interpolation: they keep scale and zero point of their input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from octavo.lowering.constants import NoKernel
from octavo.lowering.patterns import Match, Plan, core

__all__: list[str] = []

_POOLS: dict[str, Any] = {
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "avg_pool3d": F.avg_pool3d,
}
_ADAPTIVE: dict[str, Any] = {
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_avg_pool3d": F.adaptive_avg_pool3d,
}
_MODES = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
}
_AVG_OPTIONS = {
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}


def _kept(match: Match) -> Any:
    """The input, with the output's scale and zero point."""
    x = match.input(match.op.first)
    match.same_grid(x)
    return x


@core(*_POOLS)
def _avg_pool(match: Match) -> Plan:
    x, op = _kept(match), match.op
    stride = op.get("stride") or op.get("kernel_size")
    options = {
        key: op.get(key, value) for key, value in _AVG_OPTIONS.items() if key in op.arguments
    }
    return match.plan(_POOLS[op.name], x, op.get("kernel_size"), stride, **options)


@core(*_ADAPTIVE, "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg_pool(match: Match) -> Plan:
    x = _kept(match)
    return match.plan(_ADAPTIVE[match.op.name.removeprefix("_")], x, match.op.get("output_size"))


@core("mean")
def _mean(match: Match) -> Plan:
    x, op = _kept(match), match.op
    if op.get("dtype") not in (None, torch.float32):
        raise NoKernel(f"its result is {op.get('dtype')}")
    dims = op.get("dim")
    if isinstance(dims, (list, tuple)):
        dims = tuple(dims)
    return match.plan(torch.mean, x, dims, bool(op.get("keepdim", False)))


@core(*_MODES)
def _upsample(match: Match) -> Plan:
    x, op = _kept(match), match.op
    size, factors = op.get("output_size"), op.get("scale_factors")
    if size is not None:
        factors = None
    elif factors is None:
        raise NoKernel("its size is not given")
    return match.plan(
        F.interpolate,
        x,
        size=size,
        scale_factor=factors,
        mode=_MODES[op.name],
        align_corners=bool(op.get("align_corners")),
    )
