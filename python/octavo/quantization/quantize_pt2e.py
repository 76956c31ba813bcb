"""Quantization of models that nobody edited, over graphs from ``torch.export``.

::

    graph = torch.export.export(model.eval(), example_inputs).module()
    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    prepared = prepare_pt2e(graph, quantizer)
    for batch in calibration_data:
        prepared(batch)
    quantized = convert_pt2e(prepared)

The result computes with floats between quantize and dequantize operators (``torch.ops.octavo``, see
:mod:`octavo.library.decomposed`), its weights are int8: the numbers that an int8 kernel has to
reproduce, in the form that ``octavo.lower`` and other backends read. Names, arguments and the form
of the graph are those of ``torchao.quantization.pt2e.quantize_pt2e``. Differences:

* Graphs that are passed in are left as they are; results share parameters with them.
* In-place operations of the graph (``relu_``) become plain ones where that is the same, and core
  operators of decomposed graphs (``addmm``, ``convolution``) the layers that they come from.
* ``train()`` and ``eval()`` of the results work, as with ``allow_exported_model_train_eval``.
* ``convert_pt2e`` raises where nothing was observed, with the node and the module it is in.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch.fx import GraphModule

from octavo.quantization.pt2e.convert import (
    duplicate_dequantize,
    fold_quantized_constants,
    remove_repeated_pairs,
    replace_observers,
)
from octavo.quantization.pt2e.export_utils import (
    allow_exported_model_train_eval,
    check_is_exported,
    model_is_exported,
    move_exported_model_to_eval,
    move_exported_model_to_train,
    own_copy,
)
from octavo.quantization.pt2e.fold import fold_batch_norms, make_functional, remove_unused
from octavo.quantization.pt2e.observers import is_observer
from octavo.quantization.pt2e.prepare import collect_specs, insert_observers, make_observers
from octavo.quantization.pt2e.qat import fold_trained_batch_norms, simulate_batch_norms
from octavo.quantization.pt2e.recompose import recompose
from octavo.quantization.pt2e.reference import rewrite_with_integers
from octavo.quantization.quantizer.quantizer import Q_ANNOTATION_KEY, Quantizer

__all__ = [
    "allow_exported_model_train_eval",
    "convert_pt2e",
    "model_is_exported",
    "move_exported_model_to_eval",
    "move_exported_model_to_train",
    "prepare_pt2e",
    "prepare_qat_pt2e",
]


def prepare_pt2e(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Inserts observers where a quantizer wants them, for calibration.

    Batch norms go into the layers before them first.

    Args:
        model: a graph, ``torch.export.export(model.eval(), example_inputs).module()``.
        quantizer: says which tensors are quantized, and how.

    Returns:
        A graph module to call with calibration data; see the module's differences to torchao.

    Raises:
        TypeError: a model that is no exported graph; a quantizer that is none; annotations of other
            classes.
        ValueError: a graph that is prepared already, or was exported in training mode; annotations
            that contradict the graph.

    Source: ``torchao.quantization.pt2e.quantize_pt2e.prepare_pt2e``.
    """
    prepared = _start(model, quantizer, "prepare_pt2e")
    fold_batch_norms(prepared)
    return _annotate_and_insert(prepared, quantizer, is_qat=False)


def prepare_qat_pt2e(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Inserts fake-quantize modules where a quantizer wants them, for training.

    Layers with a batch norm after them train with the folded weight, rounded, as
    :mod:`octavo.nn.intrinsic.qat` does it; ``convert_pt2e`` folds them.

    Args:
        model: a graph, exported in training or evaluation mode. The result has its mode;
            ``train()`` and ``eval()`` change it.
        quantizer: as :func:`prepare_pt2e`, with fake-quantize modules in its specs.

    Raises:
        TypeError, ValueError: as :func:`prepare_pt2e`.

    Source: ``torchao.quantization.pt2e.quantize_pt2e.prepare_qat_pt2e``.
    """
    prepared = _start(model, quantizer, "prepare_qat_pt2e")
    return _annotate_and_insert(prepared, quantizer, is_qat=True)


def _start(model: GraphModule, quantizer: Quantizer, caller: str) -> GraphModule:
    check_is_exported(model, caller)
    for name in ("annotate", "validate", "transform_for_annotation"):
        if not callable(getattr(quantizer, name, None)) or isinstance(quantizer, type):
            raise TypeError(
                f"{caller}: quantizer must be an instance of a Quantizer, such as "
                f"OctavoQuantizer(), got {quantizer!r}"
            )
    observed = [name for name, module in model.named_children() if is_observer(module)]
    if observed:
        raise ValueError(
            f"{caller}: the graph has observers already ('{observed[0]}'); prepare the graph that "
            "torch.export made"
        )
    result = own_copy(model)
    recompose(result)
    make_functional(result)
    return result


def _annotate_and_insert(model: GraphModule, quantizer: Quantizer, is_qat: bool) -> GraphModule:
    for node in model.graph.nodes:
        node.meta.pop(Q_ANNOTATION_KEY, None)  # of an earlier call
    model = quantizer.transform_for_annotation(model)
    quantizer.annotate(model)
    quantizer.validate(model)
    if is_qat:
        simulate_batch_norms(model)
    specs = collect_specs(model)
    observers = make_observers(specs, is_qat)
    callback: Any = getattr(quantizer, "prepare_obs_or_fq_callback", None)
    if callback is not None:
        callback(model, observers)
    device = next((t.device for t in chain(model.parameters(), model.buffers())), None)
    for observer in observers.values():
        if device is not None:
            observer.to(device)
    insert_observers(model, specs, observers)
    model.graph.lint()
    return model


def convert_pt2e(
    model: GraphModule, use_reference_representation: bool = False, fold_quantize: bool = True
) -> GraphModule:
    """Turns a calibrated or trained graph into one with quantize and dequantize operators.

    Args:
        model: what :func:`prepare_pt2e` or :func:`prepare_qat_pt2e` returned; it is left as it is.
        use_reference_representation: compute with integers, as Octavo's kernels do, see
            :mod:`octavo.quantization.pt2e.reference`. Needs ``fold_quantize``.
        fold_quantize: store weights as integers; else as floats with a quantize operator.

    Returns:
        A graph module. Each consumer of a quantized tensor has a dequantize of its own.

    Raises:
        TypeError: a model that is no exported graph.
        ValueError: a graph without observers; an observer that saw nothing, or nothing finite.

    Source: ``torchao.quantization.pt2e.quantize_pt2e.convert_pt2e``.
    """
    check_is_exported(model, "convert_pt2e")
    for name, value in (
        ("use_reference_representation", use_reference_representation),
        ("fold_quantize", fold_quantize),
    ):
        if not isinstance(value, bool):
            raise ValueError(f"convert_pt2e: {name} must be a bool, got {value!r}")
    if use_reference_representation and not fold_quantize:
        raise ValueError(
            "convert_pt2e: the reference representation stores weights as integers; leave "
            "fold_quantize True"
        )
    if not any(is_observer(module) for module in model.children()):
        raise ValueError(
            "convert_pt2e: the graph has no observers; give it what prepare_pt2e returned. If that "
            "is what it was, the quantizer annotated no node: set_global(...) a config on it"
        )
    result = own_copy(model)
    fold_trained_batch_norms(result)
    replace_observers(result)
    remove_repeated_pairs(result)
    remove_unused(result)
    duplicate_dequantize(result)
    if fold_quantize:
        fold_quantized_constants(result)
    if use_reference_representation:
        rewrite_with_integers(result)
    remove_unused(result)
    for node in result.graph.nodes:
        node.meta.pop(Q_ANNOTATION_KEY, None)
    result.graph.lint()
    return own_copy(result)
