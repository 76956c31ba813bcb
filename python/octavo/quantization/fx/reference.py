"""The reference form of a calibrated graph: float operations between explicit quantization and
dequantization, with weights that have the values of the int8 ones.

It says what the int8 model computes, but for the rounding of each operation, in terms that other
backends can be lowered from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from octavo.nn.quantized import Quantize
from octavo.nn.quantized.modules.utils import observed_float
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.quantization.fx.convert import Converter, is_observer
from octavo.quantization.fx.fuse import set_module
from octavo.quantization.fx.operations import FloatOperation
from octavo.quantization.swap import make_quantized
from octavo.quantization.units import OBSERVER_NAME, find_entry

__all__ = ["ReferenceConverter"]


class ReferenceConverter(Converter):
    """Makes the reference form: operations take and give floats, and what they give is quantized.

    Dynamic, weight-only and custom modules become what they become in the int8 model.
    """

    folds_constants = False

    def _observed(self, node: fx.Node) -> None:
        super()._observed(node)
        if node in self.observers:
            self.int_of(node)
            del self.floats[node]  # what takes it takes the rounded values

    def _own(self, node: fx.Node, module: nn.Module, table: Mapping[type, Any]) -> None:
        path = str(node.target)
        if path not in self.made:
            plain = self._rounded(path, module, table)
            self.made[path] = path, plain
            set_module(self.model, path, plain)
        self._quantized(node, self._call(node, path))

    def _operation(self, node: fx.Node, operation: FloatOperation) -> None:
        number = operation.kind.endswith("_scalar")
        self._quantized(node, self._call(node, str(node.target)), operation.many or number)

    def _keeps(self, node: fx.Node, module: nn.Module) -> None:
        self._quantized(node, self._call(node, str(node.target)))

    def _call(self, node: fx.Node, path: str) -> fx.Node:
        args = fx.node.map_arg(node.args, self.float_of)
        kwargs = fx.node.map_arg(node.kwargs, self.float_of)
        return self.graph.call_module(path, args, kwargs)

    def _quantized(self, node: fx.Node, value: fx.Node, stays: bool = False) -> None:
        """Quantizes what an operation gives: as its observer says, or as its input is, unless it
        ``stays`` float: tuples, and results of operations with a number.
        """
        self.floats[node] = value
        observers = [user for user in node.users if is_observer(user, self.model)]
        first = next(iter(node.all_input_nodes), None)
        before = None if first is None else self.ints.get(first)
        if observers:
            self.observers[node] = self.model.get_submodule(str(observers[0].target))
            self.int_of(node)
        elif before is not None and not stays and self._is_quantize(before):
            self.ints[node] = self.graph.call_module(str(before.target), (value,))
        else:
            return
        del self.floats[node]

    def _is_quantize(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            self.model.get_submodule(str(node.target)), Quantize
        )

    def _rounded(self, path: str, module: nn.Module, table: Mapping[type, Any]) -> nn.Module:
        """The float form of a layer, with the weight that the int8 one has, and its scales as
        ``weight_scale`` and ``weight_zero_point``; other modules as they are.
        """
        entry = find_entry(module, table)[0]
        target = None if entry is None else table[entry]
        if not (isinstance(target, type) and issubclass(target, PackedWeightModule)):
            return module
        module._modules[OBSERVER_NAME] = _AnyScale()
        int8: Any = make_quantized(module, path, table, {}, False, self.caller)
        del module._modules[OBSERVER_NAME]
        plain: Any = observed_float(module)
        layer = plain if isinstance(getattr(plain, "weight", None), Tensor) else plain[0]
        weight = int8.weight()
        layer.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
        scales, zero_points = int8._packed.scales, int8._packed.zero_points
        layer.register_buffer("weight_scale", scales.clone())
        layer.register_buffer("weight_zero_point", zero_points.clone())
        return plain  # type: ignore[no-any-return]


class _AnyScale(nn.Module):
    """The observer of an output whose scale does not matter."""

    dtype = torch.uint8

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.zeros(1, dtype=torch.int64)
