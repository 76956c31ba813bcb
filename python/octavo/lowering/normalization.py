"""Normalizations: batch norms that stand alone, and those by the statistics of the input."""

from __future__ import annotations

from typing import Any

import torch

from octavo.lowering.constants import NoKernel
from octavo.lowering.patterns import Match, Plan, core
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import modules as nnq

__all__: list[str] = []

_BATCH_NORM = {2: nnq.BatchNorm1d, 3: nnq.BatchNorm1d, 4: nnq.BatchNorm2d, 5: nnq.BatchNorm3d}
_BATCH_NORM_RELU = {4: nniq.BNReLU2d, 5: nniq.BNReLU3d}
_INSTANCE_NORM = {3: nnq.InstanceNorm1d, 4: nnq.InstanceNorm2d, 5: nnq.InstanceNorm3d}


def _rank(match: Match) -> int:
    shape = getattr(match.node.meta.get("val"), "shape", None)
    if shape is None:
        raise NoKernel("the graph does not say how many dimensions its input has")
    return len(shape)


def _fill(match: Match, module: Any, channels: int, **values: Any) -> None:
    """Gives a module its float parameters, constants of the graph."""
    for name, value in values.items():
        tensor = match.view.constants.floats(value, name)
        if tensor is not None:
            try:
                module._set_parameter(name, tensor, (channels,))
            except (TypeError, ValueError) as error:
                raise NoKernel(str(error)) from error
    match.set_output(module)


@core("batch_norm")
def _batch_norm(match: Match) -> Plan:
    op = match.op
    x = match.input(op.get("input"))
    mean = match.view.constants.floats(op.get("running_mean"), "running mean")
    if mean is None or op.get("running_var") is None:
        raise NoKernel("it has no running statistics")
    rank, channels = _rank(match), mean.numel()
    kind = (_BATCH_NORM_RELU if match.is_relu else {}).get(rank, _BATCH_NORM.get(rank))
    if kind is None:
        raise NoKernel(f"its input has {rank} dimensions")
    module = kind(channels, float(op.get("eps", 1e-5)))
    _fill(
        match,
        module,
        channels,
        weight=op.get("weight"),
        bias=op.get("bias"),
        running_mean=op.get("running_mean"),
        running_var=op.get("running_var"),
    )
    return match.plan(module, x, clamped=match.is_relu and rank in _BATCH_NORM_RELU)


@core("layer_norm")
def _layer_norm(match: Match) -> Plan:
    op = match.op
    x = match.input(op.get("input"))
    shape = op.get("normalized_shape")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(size, int) for size in shape):
        raise NoKernel("its normalized shape is not known before it runs")
    floats = match.view.constants.floats
    weight, bias = floats(op.get("weight"), "weight"), floats(op.get("bias"), "bias")
    module = nnq.LayerNorm(shape, weight, bias, 1.0, 0, float(op.get("eps", 1e-5)))
    match.set_output(module)
    return match.plan(module, x)


@core("group_norm")
def _group_norm(match: Match) -> Plan:
    op = match.op
    x = match.input(op.get("input"))
    floats = match.view.constants.floats
    weight, bias = floats(op.get("weight"), "weight"), floats(op.get("bias"), "bias")
    channels = _channels(match, weight if weight is not None else bias)
    groups = int(op.get("num_groups"))
    module = nnq.GroupNorm(groups, channels, weight, bias, 1.0, 0, float(op.get("eps", 1e-5)))
    match.set_output(module)
    return match.plan(module, x)


@core("instance_norm")
def _instance_norm(match: Match) -> Plan:
    op = match.op
    x = match.input(op.get("input"))
    if not op.get("use_input_stats", True):
        raise NoKernel("it normalizes by running statistics")
    kind = _INSTANCE_NORM.get(_rank(match))
    if kind is None:
        raise NoKernel("its input has no batch dimension")
    floats = match.view.constants.floats
    weight, bias = floats(op.get("weight"), "weight"), floats(op.get("bias"), "bias")
    channels = _channels(match, weight if weight is not None else bias)
    module = kind(channels, weight, bias, 1.0, 0, float(op.get("eps", 1e-5)))
    match.set_output(module)
    return match.plan(module, x)


def _channels(match: Match, parameter: torch.Tensor | None) -> int:
    if parameter is not None:
        return parameter.numel()
    shape: Any = getattr(match.node.meta.get("val"), "shape", ())
    if len(shape) < 2 or not isinstance(shape[1], int):
        raise NoKernel("the graph does not say how many channels its input has")
    return shape[1]


@core("prelu", "_prelu_kernel")
def _prelu(match: Match) -> Plan:
    x = match.input(match.op.first)
    weight = match.view.constants.floats(match.op.get("weight"), "weight")
    assert weight is not None
    slopes = weight.reshape(-1)
    module = nnq.PReLU(1.0, 0, slopes.numel())
    _fill(match, module, slopes.numel())
    module.weight = slopes.float().contiguous().clone()
    return match.plan(module, x)
