"""The entry point, and what it refuses."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from octavo.lowering import elementwise, normalization, pooling  # noqa: F401  (register patterns)
from octavo.lowering.build import Lowering
from octavo.lowering.operators import operator_of
from octavo.lowering.report import KEY

__all__ = ["lower"]


def lower(graph: Any) -> GraphModule:
    """Turns a Q/DQ graph into one on Octavo's int8 kernels.

    A Q/DQ graph is what ``convert_pt2e`` makes: aten operators on floats, between ``quantize`` and
    ``dequantize`` operators that say how each tensor is rounded, with int8 weights. In the result
    modules of :mod:`octavo.nn` do the work and pass quantized tensors to each other; a ``Quantize``
    stands where floats enter, a ``DeQuantize`` where they leave. What no kernel computes stays
    float as it is; :func:`octavo.lowering.lowering_report` lists the operators, and why.

    Args:
        graph: a ``torch.fx.GraphModule`` made by Octavo's or torchao's ``convert_pt2e``, or an
            ``ExportedProgram`` of such. It is not changed; tensors that stay as they are, are
            shared with it.

    Returns:
        A graph module in evaluation mode with the same inputs and outputs. Its integers are those
        of the graph, or one step beside them where the graph's float32 sums are rounded otherwise;
        they are those of a model that was quantized module by module with the same parameters.
        Layers whose inputs are quantized when they run become dynamic modules. It refuses inputs of
        shapes that the graph was not exported for.

    Raises:
        TypeError: something else than a graph.
        ValueError: a graph without quantize operators, one that is prepared but not converted, or
            one in training mode.
    """
    module = _graph_module(graph)
    _check(module)
    result, report = Lowering(module).run()
    setattr(result, KEY, report)
    result.meta[KEY] = report
    return result


def _graph_module(graph: Any) -> GraphModule:
    if isinstance(graph, GraphModule):
        return graph
    if hasattr(graph, "graph_signature") and callable(getattr(graph, "module", None)):
        made: GraphModule = graph.module()
        return made
    raise TypeError(
        "lower: expected a torch.fx.GraphModule or an ExportedProgram, got "
        f"{type(graph).__name__}; make one with torch.export.export(model, example_inputs)"
        ".module(), prepare_pt2e and convert_pt2e"
    )


def _check(module: GraphModule) -> None:
    quantizes = False
    for node in module.graph.nodes:
        if node.op == "call_module" and hasattr(
            module.get_submodule(str(node.target)), "calculate_qparams"
        ):
            raise ValueError(
                f"lower: the graph still has observers ('{node.target}'): it is prepared, and not "
                "converted; calibrate it and run convert_pt2e first"
            )
        op = operator_of(node)
        if op is None:
            continue
        quantizes = quantizes or "quantize" in op.name
        trains = op.name == "batch_norm" and op.get("training") is True
        drops = "dropout" in op.name and op.get("train") is True and op.get("p") != 0
        if trains or drops:
            raise ValueError(
                f"lower: '{node.name}' ({op.name}) is in training mode, so the graph computes "
                "something else each time; export the model after model.eval(), or call "
                "move_exported_model_to_eval on it before convert_pt2e"
            )
    if not quantizes:
        raise ValueError(
            "lower: the graph has no quantize and dequantize operators; run prepare_pt2e, "
            "calibrate, and run convert_pt2e first"
        )
