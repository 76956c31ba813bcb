"""Operations with two tensors that become one with what surrounds them: addition and ReLU,
convolution and addition.
"""

from __future__ import annotations

import operator
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from octavo.nn import intrinsic as nni
from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fuse_modules import place_hooks, take_hooks
from octavo.quantization.fx.fuse import free_name, own_module, set_module
from octavo.quantization.fx.kinds import ADD, MUL, RELU, Kind, kind_of
from octavo.quantization.fx.operations import FloatOperation
from octavo.quantization.fx.origins import origin_of, qconfig_of, set_origin
from octavo.quantization.fx.values import Value
from octavo.quantization.qconfig_mapping import QConfigMapping

__all__ = ["merge_additions"]

Values = MutableMapping[fx.Node, Value]


def merge_additions(
    model: fx.GraphModule,
    values: Values,
    mapping: QConfigMapping,
    backend: BackendConfig,
    is_qat: bool,
) -> None:
    """Makes ``relu(x + y)`` and ``relu(x * y)`` one module each, and, where the backend has it and
    the model is not trained, ``conv(x) + y`` and ``relu(conv(x) + y)``, in place.
    """
    for node in list(model.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        if (node.target in ADD or node.target in MUL) and _is_binary(node, model, values):
            relu = _relu_after(node, model, mapping, backend)
            if not is_qat and node.target in ADD:
                whole = nni.ConvAdd2d if relu is None else nni.ConvAddReLU2d
                conv = _convolution_in(node, model, values, mapping)
                if conv is not None and backend.config_of(whole) is not None:
                    _merge_convolution(model, values, conv, node, relu)
                    continue
            if relu is not None:
                _merge_relu(model, values, node, relu)


def _is_binary(node: fx.Node, model: nn.Module, values: Values) -> bool:
    return kind_of(node, model, values) is Kind.OWN and len(node.args) == 2


def _relu_after(
    node: fx.Node, model: nn.Module, mapping: QConfigMapping, backend: BackendConfig
) -> fx.Node | None:
    """The ReLU that alone uses what an addition gives, if both are quantized and the backend has
    the pair.
    """
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    if user.op == "call_module":
        is_relu = type(model.get_submodule(str(user.target))) is nn.ReLU
    else:
        is_relu = user.op in ("call_function", "call_method") and user.target in RELU
    if not is_relu or any(qconfig_of(origin_of(part), mapping) is None for part in (node, user)):
        return None
    function = operator.add if node.target in ADD else operator.mul
    names = [(first, second) for first in (node.target, function) for second in (nn.ReLU, F.relu)]
    return user if any(backend.config_of(name) is not None for name in names) else None


def _convolution_in(
    node: fx.Node, model: nn.Module, values: Values, mapping: QConfigMapping
) -> fx.Node | None:
    """The convolution whose result an addition alone uses: the first operand, or else the second.

    The other operand has the same shape, and depends on what the convolution depends on, so that
    both grow alike with the batch.
    """
    if qconfig_of(origin_of(node), mapping) is None:
        return None
    first, second = node.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    for conv, other in ((first, second), (second, first)):
        if conv.op != "call_module" or conv is other or len(conv.users) != 1:
            continue
        if type(model.get_submodule(str(conv.target))) is not nn.Conv2d:
            continue
        same_shape = (
            values[conv].shape == values[other].shape and len(values[conv].shape or ()) == 4
        )
        quantized = qconfig_of(origin_of(conv), mapping) is not None
        if same_shape and quantized and _inputs(conv) & _inputs(other):
            return conv
    return None


def _inputs(node: fx.Node) -> set[fx.Node]:
    """The placeholders that a node depends on."""
    seen, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return {found for found in seen if found.op == "placeholder"}


def _merge_relu(model: fx.GraphModule, values: Values, node: fx.Node, relu: fx.Node) -> None:
    kind = "add" if node.target in ADD else "mul"
    target = operator.add if kind == "add" else operator.mul
    name = free_name(model, f"{kind}_relu")
    model.add_module(name, FloatOperation(kind, target, relu=True))
    _replace(model, values, (node, relu), name, node.args, node)


def _merge_convolution(
    model: fx.GraphModule, values: Values, conv: fx.Node, node: fx.Node, relu: fx.Node | None
) -> None:
    if sum(other.target == conv.target for other in model.graph.nodes) > 1:
        own_module(model, [conv])
    module: Any = model.get_submodule(str(conv.target))
    hooks = take_hooks(module)
    whole: Any
    if relu is None:
        whole = nni.ConvAdd2d(module, operator.add)
    else:
        whole = nni.ConvAddReLU2d(module, operator.add, torch.relu)
    place_hooks(whole, [module, nn.Identity()], [hooks, take_hooks(nn.Identity())], "prepare_fx")
    whole.train(module.training)
    set_module(model, str(conv.target), whole)
    other = node.args[1] if node.args[0] is conv else node.args[0]
    parts = (conv, node) if relu is None else (conv, node, relu)
    _replace(model, values, parts, str(conv.target), (conv.args[0], other), conv)


def _replace(
    model: fx.GraphModule,
    values: Values,
    parts: tuple[fx.Node, ...],
    target: str,
    args: tuple[Any, ...],
    source: fx.Node,
) -> None:
    """Puts one call of a module in the place of the last of ``parts``; it comes from where
    ``source`` came from.
    """
    with model.graph.inserting_before(parts[-1]):
        new = model.graph.call_module(target, args)
    set_origin(new, origin_of(source), type(model.get_submodule(target)))
    values[new] = values[parts[-1]]
    parts[-1].replace_all_uses_with(new)
    for node in reversed(parts):
        model.graph.erase_node(node)
