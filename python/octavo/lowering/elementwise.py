"""Operations of two and more tensors: add, mul, cat."""

from __future__ import annotations

from torch.fx import Node

from octavo.lowering import modules
from octavo.lowering.constants import NoKernel
from octavo.lowering.functions import table_of
from octavo.lowering.patterns import Match, Plan, core
from octavo.lowering.weighted import conv_add

__all__: list[str] = []


@core("add")
def _add(match: Match) -> Plan:
    if match.op.get("alpha", 1) != 1:
        return table_of(match)
    fused = conv_add(match)
    if fused is not None:
        return fused
    x, y = _operands(match)
    if x is None or y is None:
        return table_of(match)
    match.same_dtype((x, y))
    module = modules.AddReLU() if match.is_relu else modules.Add()
    match.set_output(module)
    return match.plan(module, x, y, clamped=match.is_relu)


@core("mul")
def _mul(match: Match) -> Plan:
    x, y = _operands(match)
    if x is None or y is None or x is y:
        return table_of(match)
    match.same_dtype((x, y))
    module = modules.Mul()
    match.set_output(module)
    return match.plan(module, x, y)


def _operands(match: Match) -> tuple[Node | None, Node | None]:
    """Both operands where they are quantized. (None, None): a table may do it."""
    found = [match.op.get("self"), match.op.get("other")]
    quantized = [node for node in found if isinstance(node, Node) and node in match.view.exact]
    return (quantized[0], quantized[1]) if len(quantized) == 2 else (None, None)


@core("cat", "concat")
def _cat(match: Match) -> Plan:
    tensors = match.op.first
    if not isinstance(tensors, (list, tuple)):
        raise NoKernel("its tensors are no list")
    inputs = [match.input(tensor, f"input {i}") for i, tensor in enumerate(tensors)]
    match.same_dtype(inputs)
    module = modules.Cat(match.op.get("dim", 0))
    match.set_output(module)
    return match.plan(module, inputs)
