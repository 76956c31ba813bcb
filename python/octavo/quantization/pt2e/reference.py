"""The reference representation: integer arithmetic in place of floats between dequantize and
quantize.

The graph then shows, in operators of ``aten`` on plain integers, what Octavo's kernels compute
(*Numerics* in the README), with the same bits:

* linear layers and convolutions: ``clamp(zp + rne((float(acc) + bias / (sa * sw)) * (sa * sw /
  sy)))`` with ``acc`` the int32 sum of ``(a - za) * (w - zw)``; a ReLU or another clamp after them
  bounds the integers; a tensor ``b`` added in between adds ``float(b - zb) * (sb / sy)`` before
  the rounding;
* dynamically quantized linear layers: ``float(acc) * sa * sw + bias``;
* ``add``: ``clamp(zp + rne(float(a - za) * (sa / sy) + float(b - zb) * (sb / sy)))``;
* ``mul``: ``clamp(zp + rne(float((a - za) * (b - zb)) * (sa * sb / sy)))``;
* max pooling and operations that move values, with equal qparams on both sides: the integers;
* every other quantize and dequantize of 8 bits: its formula.

Source: the idea of ``torchao.quantization.pt2e.reference_representation_rewrite``, whose formulas
round biases and products to integers in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from octavo.quantization.pt2e.fold import CONVOLUTIONS, remove_unused
from octavo.quantization.pt2e.graph import (
    add_constant,
    argument,
    attribute,
    call,
    op_name,
    users_of,
)
from octavo.quantization.statistics import float32

__all__ = ["rewrite_with_integers"]

_QUANTIZE = "octavo::quantize_per_tensor"
_DEQUANTIZE = "octavo::dequantize_per_tensor"
_DEQUANTIZE_ROWS = "octavo::dequantize_per_token"
_DEQUANTIZE_CHANNELS = "octavo::dequantize_per_channel"
_CLAMPS = ("relu", "relu6", "hardtanh")
_LAYERS = (*CONVOLUTIONS, "linear")
_MOVES = (
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "flatten",
    "view",
    "reshape",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "expand",
    "contiguous",
    "clone",
    "detach",
    "pixel_shuffle",
    "pixel_unshuffle",
    "flip",
)
_EIGHT_BITS = (torch.uint8, torch.int8)

aten = torch.ops.aten


def rewrite_with_integers(model: GraphModule) -> None:
    """Rewrites a converted graph, in place."""
    for node in list(model.graph.nodes):
        if op_name(node) == _QUANTIZE and node.args[5] in _EIGHT_BITS:
            _Rewriter(model, node).rewrite_quantized()
    for node in list(model.graph.nodes):
        if op_name(node) == "linear" and op_name(node.args[0]) == _DEQUANTIZE_ROWS:
            _Rewriter(model, node).rewrite_dynamic()
    remove_unused(model)
    for node in list(model.graph.nodes):
        _expand(model, node)
    remove_unused(model)
    model.recompile()


def _qparams(node: Any) -> tuple[float, int] | None:
    """Scale and zero point of a tensor that was quantized with numbers to 8 bits, or None."""
    if (
        not isinstance(node, Node)
        or op_name(node) != _DEQUANTIZE
        or node.args[5] not in _EIGHT_BITS
    ):
        return None
    scale, zero_point = node.args[1:3]
    if not isinstance(scale, float) or not isinstance(zero_point, int):
        return None
    return scale, zero_point


class _Rewriter:
    """Rewrites what leads to one node, in front of it."""

    def __init__(self, model: GraphModule, node: Node) -> None:
        self.model, self.node = model, node

    def _add(self, target: Any, *args: Any) -> Node:
        return call(self.model, target, args, self.node)

    def _constant(self, prefix: str, value: Tensor) -> Node:
        like = next(n for n in self.node.all_input_nodes if "val" in n.meta)
        node = add_constant(self.model, prefix, value, like)
        return node

    def _integers(self, dequantized: Any) -> Node:
        """``q - zero_point`` as int32."""
        wide = self._add(aten.to.dtype, dequantized.args[0], torch.int32)
        zero_point = dequantized.args[2]
        return wide if zero_point == 0 else self._add(aten.sub.Tensor, wide, zero_point)

    def rewrite_quantized(self) -> None:
        """Rewrites the operator whose result the node quantizes, if it is one of those above."""
        result: Any = self.node.args[0]
        low, high = self.node.args[3:5]
        if not isinstance(result, Node):
            return
        with self.model.graph.inserting_before(self.node):
            if op_name(result) in _MOVES:
                new = self._moved(result)
            else:
                if op_name(result) in _CLAMPS and len(users_of(result)) == 1:
                    low, high = self._clamped(result, low, high)
                    result = result.args[0]
                new = self._computed(result, low, high)
        if new is not None:
            self.node.replace_all_uses_with(new)

    def _moved(self, move: Node) -> Node | None:
        source: Any = move.args[0]
        pair = _qparams(source)
        if pair is None or source.args[1:] != self.node.args[1:]:
            return None
        return self._add(move.target, source.args[0], *move.args[1:])

    def _clamped(self, clamp: Node, low: Any, high: Any) -> tuple[Any, Any]:
        """The range of integers after a clamp of the values: rounding keeps the order."""
        name = op_name(clamp)
        limits = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(name)
        if limits is None:
            limits = argument(clamp, "min_val"), argument(clamp, "max_val")
        bounds = [None if limit is None else self._quantized(limit) for limit in limits]
        low = low if bounds[0] is None else max(low, bounds[0])
        return low, high if bounds[1] is None else min(high, bounds[1])

    def _quantized(self, value: float) -> int:
        scale, zero_point, low, high, _ = self.node.args[1:6]
        arguments = (torch.tensor(float(value)), scale, zero_point, low, high, torch.int32)
        return int(torch.ops.octavo.quantize_per_tensor.default(*arguments))

    def _computed(self, result: Any, low: Any, high: Any) -> Node | None:
        name = op_name(result) if isinstance(result, Node) else ""
        if not name or len(users_of(result)) != 1:
            return None
        value = None
        if name in _LAYERS:
            value = self._layer(result)
        elif name in ("add", "mul"):
            value = self._binary(result)
        return None if value is None else self._rounded(value, low, high)

    def _rounded(self, value: Node, low: Any, high: Any) -> Node:
        """``clamp(zero_point + rne(value), low, high)``, stored."""
        zero_point, dtype = self.node.args[2], self.node.args[5]
        rounded = self._add(aten.round.default, value)
        bounded = self._add(aten.clamp.default, rounded, low - zero_point, high - zero_point)
        return self._add(aten.to.dtype, self._add(aten.add.Tensor, bounded, zero_point), dtype)

    def _binary(self, result: Node) -> Node | None:
        """Steps of the output, not yet rounded."""
        operands: Any = result.args[:2]
        if op_name(result) == "mul":
            return self._product(*operands)
        if argument(result, "alpha") != 1:
            return None
        parts = [self._steps(operand) for operand in operands]
        if parts[0] is None and parts[1] is None:
            return None
        for index, operand in enumerate(operands):
            fusable = isinstance(operand, Node) and op_name(operand) in _LAYERS
            if parts[index] is None and fusable and len(users_of(operand)) == 1:
                parts[index] = self._layer(operand)
        if parts[0] is None or parts[1] is None:
            return None
        return self._add(aten.add.Tensor, *parts)

    def _out_scale(self) -> float:
        scale: Any = self.node.args[1]
        return float(scale)

    def _steps(self, dequantized: Any) -> Node | None:
        pair, out = _qparams(dequantized), self._out_scale()
        if pair is None:
            return None
        integers = self._float(self._integers(dequantized))
        return self._add(aten.mul.Tensor, integers, float32(pair[0] / out))

    def _product(self, a: Any, b: Any) -> Node | None:
        pairs, out = (_qparams(a), _qparams(b)), self._out_scale()
        if pairs[0] is None or pairs[1] is None:
            return None
        product = self._float(self._add(aten.mul.Tensor, self._integers(a), self._integers(b)))
        scale = float32(float32(pairs[0][0] * pairs[1][0]) / out)
        return self._add(aten.mul.Tensor, product, scale)

    def _float(self, x: Node) -> Node:
        return self._add(aten.to.dtype, x, torch.float32)

    def _layer(self, layer: Node) -> Node | None:
        """Steps of the output, not yet rounded."""
        x, weight, bias = (argument(layer, name) for name in ("input", "weight", "bias"))
        pair, known = _qparams(x), self._weight(weight)
        values = self._bias(bias)
        if pair is None or known is None or values is None:
            return None
        out = torch.tensor(self.node.args[1], dtype=torch.float32)
        scale = known[1] * torch.tensor(pair[0], dtype=torch.float32)
        result = self._float(self._sums(layer, self._integers(x), known))
        if bias is not None:
            result = self._add(aten.add.Tensor, result, self._per_channel(layer, values / scale))
        return self._add(aten.mul.Tensor, result, self._per_channel(layer, scale / out))

    def rewrite_dynamic(self) -> None:
        """Rewrites a linear layer whose input is quantized by rows."""
        layer = self.node
        x, weight, bias = (argument(layer, name) for name in ("input", "weight", "bias"))
        known = self._weight(weight)
        if known is None:
            return
        with self.model.graph.inserting_before(layer):
            wide = self._add(aten.to.dtype, x.args[0], torch.int32)
            points = self._add(aten.to.dtype, x.args[2], torch.int32)
            rows = self._add(aten.sub.Tensor, wide, points)
            result = self._float(self._sums(layer, rows, known))
            result = self._add(aten.mul.Tensor, result, x.args[1])
            scales = self._constant("_scales_", known[1])
            result = self._add(aten.mul.Tensor, result, scales)
            if bias is not None:
                result = self._add(aten.add.Tensor, result, bias)
        layer.replace_all_uses_with(result)

    def _sums(self, layer: Node, x: Node, weight: tuple[Node, Tensor, Tensor]) -> Node:
        stored, _, points = weight
        wide = self._add(aten.to.dtype, stored, torch.int32)
        if bool(points.any()):
            shape = (-1, *[1] * (stored.meta["val"].ndim - 1))
            column = self._constant("_zero_points_", points.to(torch.int32).reshape(shape))
            wide = self._add(aten.sub.Tensor, wide, column)
        target: Any = layer.target
        names = [formal.name for formal in target._schema.arguments]
        # torch has no dilated convolution of integers; sums of integers are exact in float64.
        exact = op_name(layer) != "linear" and any(d != 1 for d in argument(layer, "dilation"))
        if exact:
            x, wide = (self._add(aten.to.dtype, part, torch.float64) for part in (x, wide))
        given = {"input": x, "weight": wide, "bias": None}
        args = [given[name] if name in given else argument(layer, name) for name in names]
        sums = self._add(target, *args)
        return self._add(aten.to.dtype, sums, torch.int32) if exact else sums

    def _per_channel(self, layer: Node, values: Tensor) -> Node:
        """A constant that broadcasts over a layer's result."""
        if op_name(layer) != "linear" and values.numel() > 1:
            values = values.reshape(-1, *[1] * (layer.meta["val"].ndim - 2))
        return self._constant("_factor_", values)

    def _weight(self, node: Any) -> tuple[Node, Tensor, Tensor] | None:
        """Stored integers, scales and zero points [channels] or [1] of a weight, or None."""
        if not isinstance(node, Node):
            return None
        if op_name(node) == _DEQUANTIZE and node.args[5] is torch.int8:
            pair = [torch.tensor([value]) for value in node.args[1:3]]
            return node.args[0], pair[0].to(torch.float32), pair[1]  # type: ignore[return-value]
        if op_name(node) != _DEQUANTIZE_CHANNELS or node.args[3] != 0:
            return None
        stored, scales, points, _, _, _, dtype = node.args
        if dtype is not torch.int8:
            return None
        tensors = [attribute(self.model, str(part.target)) for part in (scales, points)]  # type: ignore[union-attr]
        return stored, tensors[0], tensors[1]  # type: ignore[return-value]

    def _bias(self, node: Any) -> Tensor | None:
        """The values of a float bias, zeros if there is none, or None if they are not known."""
        if node is None:
            return torch.zeros(1)
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        value: Tensor = attribute(self.model, str(node.target)).detach()
        return value


def _expand(model: GraphModule, node: Node) -> None:
    """Writes a quantize or dequantize with numbers, or with scales per channel, as its formula."""
    name = op_name(node)
    with model.graph.inserting_before(node):
        rewriter = _Rewriter(model, node)
        if name == _QUANTIZE and isinstance(node.args[1], float) and node.args[5] in _EIGHT_BITS:
            inverse = float32(1.0 / node.args[1])
            scaled = rewriter._add(aten.mul.Tensor, node.args[0], inverse)
            known = rewriter._add(aten.nan_to_num.default, scaled, 0.0)
            new = rewriter._rounded(known, *node.args[3:5])
        elif _qparams(node) is not None and not node.kwargs:
            value = rewriter._float(rewriter._integers(node))
            new = rewriter._add(aten.mul.Tensor, value, node.args[1])
        elif name == _DEQUANTIZE_CHANNELS and not node.kwargs:
            shape = [1] * node.meta["val"].ndim
            axis: Any = node.args[3]
            shape[axis] = -1
            scales, points = (rewriter._add(aten.reshape.default, p, shape) for p in node.args[1:3])
            wide = rewriter._add(aten.to.dtype, node.args[0], torch.int64)
            value = rewriter._float(rewriter._add(aten.sub.Tensor, wide, points))
            new = rewriter._add(aten.mul.Tensor, value, scales)
        else:
            return
    node.replace_all_uses_with(new)
    model.graph.erase_node(node)
