"""What is done to a float graph before it is annotated: in-place operations become plain ones, and
batch norms go into the layers before them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from octavo.quantization.pt2e.graph import (
    add_constant,
    argument,
    constant_value,
    is_constant,
    location,
    op_name,
    set_argument,
    set_constant,
    users_of,
)

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "LAYERS",
    "TRANSPOSED",
    "fold_batch_norms",
    "has_channels_second",
    "is_training_batch_norm",
    "make_functional",
    "remove_batch_count",
    "remove_unused",
]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, "linear")
BATCH_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")

_VIEWS_ARE_WRITTEN = ("get_attr", "placeholder")


def make_functional(model: GraphModule) -> None:
    """Replaces operations that write to their first argument (``relu_``) by those that do not
    (``relu``), and later uses of that argument by the result: what they read is the same.

    Left alone where the argument is a buffer or an input of the graph, or a view, so that the write
    reaches other tensors, and where the operator has no such form.
    """
    for node in list(model.graph.nodes):
        plain = _plain_form(node)
        if plain is None:
            continue
        written = node.args[0]
        if not isinstance(written, Node) or _has_aliases(written, node):
            continue
        node.target = plain
        later = False
        for other in list(model.graph.nodes):
            if other is node:
                later = True
            elif later and written in other.all_input_nodes:
                other.replace_input_with(written, node)
    model.recompile()


def _plain_form(node: Node) -> Any:
    """The overload without a write that an in-place operator has, or None."""
    name, target = op_name(node), node.target
    if not name.endswith("_") or name.startswith("_") or "::" in name:
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = str(getattr(target, "_overloadname", ""))
    plain = getattr(packet, overload, None)
    if plain is None:
        return None
    theirs = [(a.name, str(a.type)) for a in plain._schema.arguments]
    return plain if theirs == [(a.name, str(a.type)) for a in _schema(node).arguments] else None


def _schema(node: Node) -> Any:
    target: Any = node.target
    return target._schema


def _has_aliases(written: Node, by: Node) -> bool:
    """Whether other tensors than ``written`` may change when it is written to."""
    if written.op in _VIEWS_ARE_WRITTEN or _is_view(written):
        return True
    others = [user for user in written.users if user is not by and user.op == "call_function"]
    return any(_is_view(user) for user in others)


def _is_view(node: Node) -> bool:
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return True  # getitem, and what is unknown
    returns = _schema(node).returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns) or (
        op_name(node) in ("reshape", "flatten", "contiguous", "to", "dropout")
    )


def is_training_batch_norm(node: Node) -> bool:
    """Whether a node is a batch norm with the statistics of the batch."""
    return op_name(node) == "batch_norm" and bool(argument(node, "training"))


def fold_batch_norms(model: GraphModule) -> None:
    """Folds batch norms with running statistics into the convolution or linear layer before, where
    nothing else uses its result. The arithmetic is that of ``octavo.quantization.fuse_modules``.

    Raises:
        ValueError: a batch norm with the statistics of the batch.
    """
    for node in list(model.graph.nodes):
        if op_name(node) not in BATCH_NORMS:
            continue
        if is_training_batch_norm(node):
            raise ValueError(
                f"{location(node)}: the batch norm was exported in training mode; call "
                "model.eval() before torch.export.export, or move_exported_model_to_eval on the "
                "exported model (prepare_qat_pt2e takes it as it is)"
            )
        layer = node.args[0]
        if isinstance(layer, Node) and _can_fold(layer, node):
            _fold(model, layer, node)
    remove_unused(model)
    model.recompile()


def has_channels_second(layer: Node) -> bool:
    """Whether the second dimension of a layer's result is that of its output channels, along which
    a batch norm after it works. Not so in a sequence of features, or an unbatched signal.
    """
    rank = {"linear": 2, "conv1d": 3, "conv_transpose1d": 3}.get(op_name(layer))
    return rank in (None, getattr(layer.meta.get("val"), "ndim", rank))


def _can_fold(layer: Node, norm: Node) -> bool:
    name = op_name(layer)
    if name not in LAYERS or len(users_of(layer)) != 1:
        return False
    if not has_channels_second(layer):
        return False
    parts = [argument(layer, "weight"), argument(layer, "bias"), *norm.args[1:5]]
    if norm.args[3] is None or norm.args[4] is None:
        return False
    return all(part is None or (isinstance(part, Node) and is_constant(part)) for part in parts)


def _fold(model: GraphModule, layer: Node, norm: Node) -> None:
    weight_node, bias_node = argument(layer, "weight"), argument(layer, "bias")
    weight, gamma, beta, mean, variance, bias = (
        None if part is None else constant_value(model, part).detach()
        for part in (weight_node, *norm.args[1:5], bias_node)
    )
    name, statistics = op_name(layer), (mean, variance, argument(norm, "eps"), gamma, beta)
    fuse: Any = fuse_linear_bn_weights if name == "linear" else fuse_conv_bn_weights
    if name in TRANSPOSED and argument(layer, "groups") != 1:
        values = _grouped(weight, bias, *statistics, argument(layer, "groups"))
    elif name in TRANSPOSED:
        values = fuse(weight, bias, *statistics, True)
    else:
        values = fuse(weight, bias, *statistics)
    _give(model, layer, "weight", weight_node, values[0], norm)
    _give(model, layer, "bias", bias_node, values[1], norm)
    result = norm
    if op_name(norm) != "batch_norm":
        result = next(user for user in norm.users if user.args[1] == 0)
    result.replace_all_uses_with(layer)
    remove_batch_count(model, norm)


def remove_batch_count(model: GraphModule, norm: Node) -> None:
    """Erases what counts the batches of a batch norm in training, ``num_batches_tracked += 1``."""
    mean = norm.args[3]
    prefix = str(mean.target).rpartition(".")[0] if isinstance(mean, Node) else None
    for node in list(model.graph.nodes):
        counted = node.args[0] if op_name(node) == "add_" and not node.users else None
        if isinstance(counted, Node) and counted.target == f"{prefix}.num_batches_tracked":
            model.graph.erase_node(node)


def _grouped(
    weight: Any,
    bias: Tensor | None,
    mean: Any,
    variance: Any,
    eps: float,
    gamma: Tensor | None,
    beta: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Weights of transposed convolutions are [in, out / groups, ...]: the outputs of a group belong
    to its inputs only.
    """
    factor = torch.rsqrt(variance + eps)
    factor = factor if gamma is None else factor * gamma
    rows = weight.unflatten(0, (groups, -1))
    shape = (groups, 1, -1, *[1] * (weight.dim() - 2))
    centre = (torch.zeros_like(factor) if bias is None else bias) - mean
    shift = torch.zeros_like(factor) if beta is None else beta
    return (rows * factor.view(shape)).flatten(0, 1), centre * factor + shift


def _give(
    model: GraphModule, layer: Node, name: str, old: Node | None, value: Tensor, norm: Node
) -> None:
    """Makes ``value`` a layer's weight or bias."""
    value = value.detach()
    if old is not None and old.op == "get_attr" and len(old.users) == 1:
        set_constant(model, old, value)
        return
    with model.graph.inserting_before(layer):
        prefix = f"{norm.name}_folded_{name}_"
        set_argument(layer, name, add_constant(model, prefix, value, argument(layer, "weight")))


def remove_unused(model: GraphModule) -> None:
    """Erases constants, and calls without side effects, that nothing reads."""
    for node in reversed(list(model.graph.nodes)):
        if node.users or node.op not in ("get_attr", "call_function"):
            continue
        if node.op == "get_attr" or op_name(node) in ("getitem", *BATCH_NORMS) or _is_pure(node):
            model.graph.erase_node(node)


def _is_pure(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    checks = ("assert", "constrain", "guard")
    if schema is None or schema.is_mutable or node.is_impure():
        return False
    return not any(word in schema.name for word in checks)
