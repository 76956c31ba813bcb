"""Operations of two and more tensors: add, mul, cat."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from octavo.lowering import modules
from octavo.lowering.constants import NoKernel
from octavo.lowering.functions import table_of
from octavo.lowering.patterns import Match, Plan, core
from octavo.lowering.weighted import conv_add
from octavo.nn.quantized.modules.scalar import product_qparams, rounded, sum_qparams
from octavo.quantization.fx.operations import QAddScalar, QSubScalar

__all__: list[str] = []


@core("add")
def _add(match: Match) -> Plan:
    moved = _sum_with_number(match)
    if moved is not None:
        return moved
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


@core("sub", "rsub")
def _sub(match: Match) -> Plan:
    return _sum_with_number(match) or table_of(match)


def _sum_with_number(match: Match) -> Plan | None:
    """A sum or difference with a number whose output has the qparams that ``add_scalar`` derives
    from the input's: it is that function, which moves the zero point and rounds the number. None
    for any other.
    """
    x, number = match.op.get("self"), match.op.get("other")
    if not (isinstance(x, Node) and x in match.view.exact) or isinstance(number, bool):
        return None
    if not isinstance(number, (int, float)) or match.op.get("alpha", 1) != 1:
        return None
    given, wanted = match.view.exact[x], match.qparams
    if match.bounds is not None or given.qdtype is not wanted.qdtype:
        return None
    scale, zero_point = given.scale, given.zero_point
    module: Any
    args: tuple[Any, Any]
    if match.op.name == "rsub":
        scale, zero_point = product_qparams(scale, zero_point, given.qdtype, -1.0)
        module, args = QSubScalar(), (float(number), x)
    else:
        module, args = (QSubScalar if match.op.name == "sub" else QAddScalar)(), (x, float(number))
        number = -number if match.op.name == "sub" else number
    scale, zero_point, _ = sum_qparams(scale, zero_point, given.qdtype, number)
    if (rounded(scale), zero_point) != (wanted.scale, wanted.zero_point):
        return None
    module._qualified_name = match.path
    return match.plan(module, *args)


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
