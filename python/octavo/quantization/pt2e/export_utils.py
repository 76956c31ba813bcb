"""Training and evaluation mode of exported graphs.

A graph has its mode written into the calls of dropout and batch norm, so ``model.train()`` of a
plain exported graph changes nothing (and raises). These functions rewrite those calls.
"""

from __future__ import annotations

import types
from typing import Any

from torch import nn
from torch.fx import GraphModule

from octavo.quantization.pt2e.graph import argument, copy_graph_module, op_name, set_argument

__all__ = [
    "QuantizedGraphModule",
    "allow_exported_model_train_eval",
    "check_is_exported",
    "model_is_exported",
    "move_exported_model_to_eval",
    "move_exported_model_to_train",
    "own_copy",
]

# Operators that behave differently in training, and the argument that says so.
_MODE_ARGUMENTS = {
    "dropout": "train",
    "dropout_": "train",
    "feature_dropout": "train",
    "alpha_dropout": "train",
    "feature_alpha_dropout": "train",
    "batch_norm": "training",
}


def model_is_exported(model: nn.Module) -> bool:
    """Whether a module is a graph that torch.export made: one whose nodes know their values.

    Source: ``torchao.quantization.pt2e.export_utils.model_is_exported``.
    """
    return isinstance(model, GraphModule) and any("val" in n.meta for n in model.graph.nodes)


def check_is_exported(model: Any, caller: str) -> None:
    """Raises TypeError, saying what to call, unless ``model`` is an exported graph."""
    if isinstance(model, GraphModule) and model_is_exported(model):
        return
    how = "torch.export.export(model.eval(), example_inputs).module()"
    if type(model).__name__ == "ExportedProgram":
        raise TypeError(f"{caller}: model is an ExportedProgram; give it model.module()")
    kind = "a torch.fx graph" if isinstance(model, GraphModule) else f"a {type(model).__name__}"
    raise TypeError(f"{caller}: model must be a graph from torch.export, got {kind}; use {how}")


def move_exported_model_to_eval(model: GraphModule) -> GraphModule:
    """Puts dropout and batch norms of an exported graph into evaluation mode, in place.

    Source: ``torchao.quantization.pt2e.move_exported_model_to_eval``.
    """
    return _move(model, False)


def move_exported_model_to_train(model: GraphModule) -> GraphModule:
    """Puts dropout and batch norms of an exported graph into training mode, in place.

    Source: ``torchao.quantization.pt2e.move_exported_model_to_train``.
    """
    return _move(model, True)


def _move(model: GraphModule, training: bool) -> GraphModule:
    changed = False
    for node in model.graph.nodes:
        name = _MODE_ARGUMENTS.get(op_name(node))
        if name is not None and argument(node, name) is not training:
            if op_name(node) == "batch_norm" and argument(node, "running_mean") is None:
                continue  # it has no other statistics than the batch's
            set_argument(node, name, training)
            changed = True
    if changed:
        model.recompile()
    for module in model.modules():
        module.training = training
    return model


class QuantizedGraphModule(GraphModule):
    """A graph that ``prepare_pt2e``, ``prepare_qat_pt2e`` or ``convert_pt2e`` returned: ``train()``
    and ``eval()`` change the mode of dropout and batch norms.
    """

    def train(self, mode: bool = True) -> QuantizedGraphModule:
        _move(self, mode)
        return self

    def eval(self) -> QuantizedGraphModule:
        return self.train(False)


def own_copy(model: GraphModule) -> QuantizedGraphModule:
    """:func:`copy_graph_module` with ``train()`` and ``eval()``."""
    result = copy_graph_module(model, QuantizedGraphModule)
    assert isinstance(result, QuantizedGraphModule)
    return result


def allow_exported_model_train_eval(model: GraphModule) -> GraphModule:
    """Makes ``model.train()`` and ``model.eval()`` of an exported graph change the mode of dropout
    and batch norms. Other code that depends on the mode is as it was when exported.

    Source: ``torchao.quantization.pt2e.allow_exported_model_train_eval``.
    """

    def train(self: GraphModule, mode: bool = True) -> GraphModule:
        return _move(self, mode)

    def evaluate(self: GraphModule) -> GraphModule:
        return _move(self, False)

    model.train = types.MethodType(train, model)  # type: ignore[method-assign]
    model.eval = types.MethodType(evaluate, model)  # type: ignore[method-assign]
    return model
