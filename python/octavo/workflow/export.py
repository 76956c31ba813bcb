"""Int8 models as programs of torch.export, which run without the code of the model.

program = octavo.export(int8, (x,), "model.pt2")

import octavo, torch                       # where it is used
run = torch.export.load("model.pt2").module()
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from octavo.lowering.input_shapes import InputShapes
from octavo.quantization.dataflow import tensors_in
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.pt2e.observers import is_observer
from octavo.tensor import QTensor
from octavo.workflow.calibrate import Batch
from octavo.workflow.exported import exported_program, short, varying
from octavo.workflow.exported_model import ExportedModel

__all__ = ["export"]

_SUFFIX = ".pt2"


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Any:
    """A converted model as a ``torch.export.ExportedProgram``, and as a file of one.

    The graph has plain tensors and operators ``torch.ops.octavo.*`` only: int8 weights are int8
    tensors in it, which are packed for the CPU where it runs. Where a file is loaded, ``import
    octavo`` comes before ``torch.export.load``.

    Args:
        model: an int8 model in eval mode, from :func:`octavo.quantize`, :func:`octavo.convert`,
            ``octavo.quantization`` in eager mode, FX or PT2E, or :func:`octavo.lower`. Float models
            can be exported too.
        example_inputs: the arguments of one call: a tensor, a tuple of them, or a dict of keyword
            arguments. The program is called in this form.
        path: where to write it, with the suffix ``.pt2``; default: nowhere.
        dynamic_shapes: which sizes may vary, as ``torch.export.export`` takes it. Default: where
            the model permits, the first dimension of every tensor and the second one of tokens
            (integers, ``[N, T]``); of models captured by ``"export"`` those that may vary in them.
            ``{}`` fixes all sizes.

    Returns:
        The program. It was run with the example: its results are those of the model, to the bit.
        Results of classes that a new process may not know (``ModelOutput`` of transformers) are
        dicts in it.

    Raises:
        TypeError: something else than a module; a model that returns quantized tensors.
        ValueError: a prepared model, or one in training mode; example inputs with which it fails;
            a path with another suffix.
        RuntimeError: torch.export refuses the model, with the reason; the program computes
            something else.

    Source: ``torch.export.export`` and ``save``. Neural Compressor's ``export`` captures float
    models before they are quantized, which :func:`octavo.prepare` does by itself.
    """
    args, kwargs = _call(example_inputs)
    wanted = _checked(model, args, kwargs, path)
    plain = _Exportable(model)
    try:
        if dynamic_shapes is None:
            program = exported_program(plain, args, kwargs, _free(model, plain, args, kwargs))
        else:
            with torch.no_grad():
                program = torch.export.export(
                    plain, args, kwargs, dynamic_shapes=dynamic_shapes or None, strict=False
                )
    except Exception as error:  # of many kinds
        raise RuntimeError(
            f"export: torch.export cannot export the {type(model).__name__}: {short(error)}"
        ) from error
    _check_program(program, args, kwargs, wanted)
    if path is not None:
        torch.export.save(program, Path(path))
    return program


def _call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _checked(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: Any) -> Any:
    """What the model returns, if it can be exported."""
    if not isinstance(model, nn.Module):
        hint = "; octavo.quantize() returns (model, report)"
        raise TypeError(
            f"export: model must be a torch.nn.Module, got {type(model).__name__}"
            f"{hint if hasattr(model, 'report') or isinstance(model, tuple) else ''}"
        )
    if any(_is_activation_post_process(m) or is_observer(m) for m in model.modules()):
        raise ValueError(
            "export: the model is prepared and not converted: it still has observers; calibrate "
            "it and run convert() first"
        )
    if model.training:
        raise ValueError("export: the model is in training mode; call model.eval() first")
    if path is not None and Path(path).suffix != _SUFFIX:
        raise ValueError(f"export: path must have the suffix {_SUFFIX}, got {os.fspath(path)!r}")
    try:
        wanted = _plain(Batch(args, kwargs).run(model))
    except Exception as error:
        raise ValueError(
            f"export: the model fails on example_inputs: {type(error).__name__}: {error}; give a "
            "tensor, a tuple of the arguments, or a dict of keyword arguments"
        ) from error
    if any(isinstance(x, QTensor) for x in tensors_in(wanted)):
        raise TypeError(
            "export: the model returns a quantized tensor, which cannot leave a graph; dequantize "
            "its result, with a DeQuantStub or .dequantize()"
        )
    return wanted


class _Exportable(nn.Module):
    """A model with its own parameters' names whose results are plain."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

        def forward(self: _Exportable, *args: Any, **kwargs: Any) -> Any:
            return _plain(self.model(*args, **kwargs))

        if isinstance(model, ExportedModel):
            signature = model.form.signature()
        else:
            signature = inspect.signature(model.forward)
        parameters = list(signature.parameters.values())
        kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
        if parameters and parameters[0].kind is inspect.Parameter.POSITIONAL_ONLY:
            kind = inspect.Parameter.POSITIONAL_ONLY
        own = inspect.Parameter("_exportable", kind)
        forward.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
        self.forward = types.MethodType(forward, self)
        self.training = False


def _plain(value: Any) -> Any:
    """A result with mappings of all kinds as dicts, and tuples with names as tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _free(
    model: nn.Module, plain: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[list[int] | None]:
    """The dimensions that may vary, of each leaf of the arguments."""
    given = inspect.signature(plain.forward).bind(*args, **kwargs).arguments
    shapes = getattr(getattr(model, "graph", None), "input_shapes", None)
    if not isinstance(model, ExportedModel) or not isinstance(shapes, InputShapes):
        return varying([given])
    everything, _ = pytree.tree_flatten_with_path(model.form.bind(args, kwargs))
    known = {
        pytree.keystr(path): shape
        for (path, _), shape in zip(everything, shapes.shapes, strict=True)
    }
    leaves, _ = pytree.tree_flatten_with_path(dict(given))
    free: list[list[int] | None] = []
    for path, leaf in leaves:
        sizes = known.get(pytree.keystr(path)) or ()
        dims = [dim for dim, size in enumerate(sizes) if not isinstance(size, int)]
        free.append(dims if isinstance(leaf, Tensor) else None)
    return free


def _check_program(program: Any, args: Any, kwargs: Any, wanted: Any) -> None:
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, QTensor):
                raise RuntimeError(f"export: a quantized tensor is left in the graph, at {node}")
    got = Batch(args, kwargs).run(program.module())
    mine, theirs = list(tensors_in(got)), list(tensors_in(wanted))
    same = len(mine) == len(theirs) and all(
        a.dtype == b.dtype and a.shape == b.shape and bool(torch.allclose(a, b, 0, 0, True))
        for a, b in zip(mine, theirs, strict=True)
    )
    if not same:
        raise RuntimeError(
            "export: the program computes something else than the model for example_inputs; does "
            "the model's code depend on the values of tensors, or on random numbers?"
        )
