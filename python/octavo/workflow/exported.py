"""Capture by torch.export: models whose Python code torch.fx cannot follow, such as those of the
transformers package. What runs for the calibration data is written down as a graph of operators.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from octavo.lowering.lower import lower
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize
from octavo.quantization.fold import copy_model
from octavo.quantization.pt2e.observers import is_observer
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.stubs import QuantStub
from octavo.quantization.units import canonical_type
from octavo.workflow.calibrate import Batch
from octavo.workflow.calls import CallForm
from octavo.workflow.capture import Capture, Captured, CaptureError, Configs
from octavo.workflow.config import DynamicQuantConfig, StaticQuantConfig
from octavo.workflow.dynamic import dynamic_spec
from octavo.workflow.exported_model import (
    ExportedModel,
    InputGuards,
    flat_graph,
    range_conditions,
    result_template,
    symbols,
)
from octavo.workflow.fusing import same_outputs
from octavo.workflow.graph import NOTHING, described, made
from octavo.workflow.graph_quantizer import ModuleQuantizer
from octavo.workflow.graph_rows import describe_rows
from octavo.workflow.ranges import ranges_of, set_ranges
from octavo.workflow.taps import tapped, unobserved

__all__ = ["ExportCapture", "exported_program", "short", "varying"]

_LONGEST = 400
"""How many characters of torch.export's messages are told."""


class ExportCapture(Capture):
    """Exports the model with ``torch.export``, quantizes the graph with
    :mod:`octavo.quantization.quantize_pt2e`, and lowers it with :func:`octavo.lower`.

    The first dimension of every tensor may vary in the result where the model permits, and so may
    those that vary in the calibration data, and the second one of tokens (integers, ``[N, T]``) and
    of what has their shape. Arguments that are no tensors keep the values that they have in the
    calibration data.
    """

    name = "export"
    restores_int8 = True
    quantizes_dynamically = True

    def capture(
        self, model: nn.Module, configs: Configs, example: Batch, others: Sequence[Batch] = ()
    ) -> Captured:
        """See :meth:`Capture.capture`."""
        if any(issubclass(canonical_type(module), QuantStub) for module in model.modules()):
            raise CaptureError("the model has QuantStubs of its own, so it is not exported")
        _check_dynamic(model, configs)
        found = _explored(model, example, others)
        prepared = _prepared(found.program, configs)
        rules = _rules(configs)
        recipe = {
            "capture": self.name,
            "rules": rules,
            "example": described(found.bound),
            "varying": found.varying,
            "ones": found.ones,
        }
        notes = [found.note] if found.note else []
        reference = found.model.with_graph(unobserved(prepared))
        return Captured(found.model.with_graph(prepared), reference, recipe, notes=notes)

    def convert(self, captured: Captured) -> nn.Module:
        """See :meth:`Capture.convert`."""
        model: Any = captured.prepared
        prepared: GraphModule = model.graph
        captured.recipe["ranges"] = ranges_of(prepared)
        converted, int8 = _lowered(prepared)
        float_graph = unobserved(prepared)
        captured.reference = model.with_graph(tapped(float_graph, int8))
        result: ExportedModel = model.with_graph(int8)
        describe_rows(result, converted, captured)
        return result

    def restore(self, model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
        """See :meth:`Capture.restore`."""
        model = copy_model(model).eval()
        form, bound = CallForm(model.forward), made(recipe["example"])
        try:
            program = exported_program(model, *form.call(bound), recipe["varying"])
        except Exception as error:
            raise CaptureError(short(error)) from error
        prepared = _prepared(program, _expanded(model, recipe["rules"]))
        set_ranges(prepared, recipe["ranges"])
        _, int8 = _lowered(prepared)
        return _wrapped(program, form, bound, recipe["ones"]).with_graph(int8)


def _lowered(prepared: GraphModule) -> tuple[GraphModule, GraphModule]:
    """The Q/DQ graph of a prepared one, and that one lowered.

    Raises:
        RuntimeError: there is nothing to quantize.
    """
    converted = convert_pt2e(prepared)
    int8 = lower(converted)
    borders = (Quantize, DeQuantize)
    kinds = [type(m) for m in int8.modules() if isinstance(m, QuantizedModule)]
    if all(kind in borders for kind in kinds):
        raise RuntimeError(NOTHING)
    return converted, int8


def _prepared(program: Any, configs: Configs) -> GraphModule:
    try:
        prepared = prepare_pt2e(flat_graph(program), ModuleQuantizer(configs))
    except (RuntimeError, TypeError, ValueError) as error:
        raise CaptureError(short(error)) from error
    if not any(is_observer(module) for module in prepared.children()):
        raise CaptureError(NOTHING)
    return prepared


def _check_dynamic(model: nn.Module, configs: Configs) -> None:
    """Raises CaptureError where modules are to be quantized dynamically that graphs have not."""
    whole = configs[""]
    spec = {} if whole is None else dynamic_spec(model, configs, whole)
    for name in spec:
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise CaptureError(
                f"the config quantizes '{name}' dynamically, a {type(module).__name__}; in graphs "
                "of torch.export only linear layers are"
            )


# Finding a graph.


@dataclass
class _Found:
    """A graph that computes what the model does.

    Attributes:
        program: from torch.export.
        model: the float graph, called as the model.
        bound: the arguments that it was exported with.
        varying: of each leaf of these the dimensions that may vary, None for what is no tensor.
        ones: the sizes that may be 1, by input and dimension.
        note: what users should know, or "".
    """

    program: Any
    model: ExportedModel
    bound: dict[str, Any]
    varying: list[list[int] | None]
    ones: list[str]
    note: str = ""


def _explored(model: nn.Module, example: Batch, others: Sequence[Batch]) -> _Found:
    """Exports a model with as many sizes that may vary as it permits.

    Raises:
        CaptureError: it cannot be exported, or computes something else then.
    """
    form = CallForm(model.forward)
    calls = [form.bind(batch.args, batch.kwargs) for batch in (example, *others)]
    free = varying(calls)
    best = max(calls, key=lambda call: _larger_than_one(call, free))
    fixed: list[list[int] | None] = [None if dims is None else [] for dims in free]
    attempts = [(best, free), (calls[0], fixed)]
    if _larger_than_one(best, free) < sum(len(dims or ()) for dims in free):
        attempts.insert(0, (_doubled(best), free))
    reason = ""
    for bound, dims in attempts:
        try:
            program = exported_program(model, *form.call(bound), dims)
            ones = _ones(program, model, form, bound)
            found = _Found(program, _wrapped(program, form, bound, ones), bound, dims, ones)
        except Exception as error:  # of many kinds
            reason = reason or short(error)
            continue
        if not same_outputs(found.model, example, example.run(model)):
            reason = reason or "the exported graph computes something else than the model"
            continue
        if not symbols(program, bound):
            found.note = "the int8 model takes inputs of one shape, that of the calibration data"
        return found
    raise CaptureError(reason)


def varying(calls: Sequence[Mapping[str, Any]]) -> list[list[int] | None]:
    """The dimensions that may vary, for each leaf of the arguments: the first one; those that
    differ between calls; and the second one where tokens (integers, two dimensions) have the same
    first two sizes. None for what is no tensor.
    """
    leaves, form = pytree.tree_flatten(dict(calls[0]))
    alike = [pytree.tree_flatten(dict(call)) for call in calls[1:]]
    others = [found for found, spec in alike if spec == form]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    tokens = {tuple(x.shape) for x in tensors if x.dim() == 2 and not x.is_floating_point()}
    result: list[list[int] | None] = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            result.append(None)
            continue
        shapes = [x[index].shape for x in others if isinstance(x[index], Tensor)]
        same_rank = [shape for shape in shapes if len(shape) == leaf.dim()]
        dims = {d for d in range(leaf.dim()) if any(s[d] != leaf.shape[d] for s in same_rank)}
        dims |= {0} if leaf.dim() else set()
        dims |= {1} if tuple(leaf.shape[:2]) in tokens else set()
        result.append(sorted(dims))
    return result


def _larger_than_one(bound: Mapping[str, Any], free: Sequence[list[int] | None]) -> int:
    """How many of the dimensions that may vary are larger than 1; torch.export fixes others."""
    leaves = pytree.tree_leaves(dict(bound))
    return sum(
        leaf.shape[dim] > 1 for leaf, dims in zip(leaves, free, strict=False) for dim in dims or ()
    )


def _doubled(bound: dict[str, Any]) -> dict[str, Any]:
    """A batch of one as one of two."""
    doubled: dict[str, Any] = pytree.tree_map(
        lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.shape[:1] == (1,) else x, bound
    )
    return doubled


def exported_program(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    free: Sequence[list[int] | None],
) -> Any:
    """``torch.export.export`` of a model.

    Args:
        args, kwargs: the arguments of a call, with all parameters of the model in their order.
        free: of each leaf of these the dimensions that may vary where the model permits, None for
            what is no tensor.
    """
    auto: Any = torch.export.Dim.AUTO
    combined = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    leaves, form = pytree.tree_flatten(combined)
    specs = [
        dict.fromkeys((d for d in dims or () if leaf.shape[d] > 1), auto) or None
        for leaf, dims in zip(leaves, free, strict=True)
    ]
    # With nothing to vary torch also takes models with **kwargs, whose sizes it cannot name.
    shapes = pytree.tree_unflatten(specs, form) if any(specs) else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, dict(kwargs), dynamic_shapes=shapes, strict=False)


def _wrapped(
    program: Any, form: CallForm, bound: Mapping[str, Any], ones: Sequence[str]
) -> ExportedModel:
    """The float graph of a program, called as the model."""
    found = symbols(program, bound)
    small = {symbol: all(_place(p) in ones for p in places) for symbol, places in found.items()}
    conditions = [*getattr(program, "_guards_code", ()), *range_conditions(program, found, small)]
    guards = InputGuards(bound, conditions)
    return ExportedModel(flat_graph(program), form, guards, result_template(program))


def _place(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def _ones(program: Any, model: nn.Module, form: CallForm, bound: dict[str, Any]) -> list[str]:
    """The sizes with which the graph computes what the model does if they are 1. torch.export says
    nothing of these: the model's code may take another path for them.
    """
    groups: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for places in symbols(program, bound).values():
        dim, size = places[0][1], _size(bound, places[0])
        groups.setdefault((dim, size), []).extend(places)  # a batch has one size in all arguments
    graph = flat_graph(program)
    result = []
    for places in groups.values():
        small = _shrunk(bound, places)
        try:
            wanted = Batch(*form.call(small)).run(model)
            batch = Batch(tuple(pytree.tree_leaves(small)), {})
            fits = same_outputs(graph, batch, wanted)
        except Exception:  # the model itself refuses it
            fits = False
        if fits and _numbers(batch.run(graph)) != _numbers(wanted):
            raise CaptureError("the model returns numbers that torch.export takes for constants")
        if fits:
            result += [_place(place) for place in places]
    return result


def _numbers(result: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, (int, float))]


def _size(bound: dict[str, Any], place: tuple[str, int]) -> int:
    leaves, _ = pytree.tree_flatten_with_path(bound)
    return next(
        int(x.shape[place[1]]) for path, x in leaves if f"L{pytree.keystr(path)}" == place[0]
    )


def _shrunk(bound: dict[str, Any], places: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Arguments with sizes of 1 in some dimensions."""
    leaves, form = pytree.tree_flatten_with_path(bound)
    names = [f"L{pytree.keystr(path)}" for path, _ in leaves]
    values = [leaf for _, leaf in leaves]
    for name, dim in places:
        index = names.index(name)
        values[index] = values[index].narrow(dim, 0, 1)
    shrunk: dict[str, Any] = pytree.tree_unflatten(values, form)
    return shrunk


def short(error: Exception) -> str:
    """An exception in one line, cut where torch.export goes on for pages."""
    text = f"{type(error).__name__}: {error}".strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    joined = " ".join(lines)
    return joined if len(joined) <= _LONGEST else f"{joined[:_LONGEST]} ..."


# Rules of modules in files.


def _rules(configs: Configs) -> dict[str, dict[str, Any] | None]:
    """The settings of the model, "", and of those modules whose config is not that of the module
    they are in; None for float.
    """
    rules: dict[str, dict[str, Any] | None] = {}
    for name, config in configs.items():
        if name and configs[name.rpartition(".")[0]] is config:
            continue
        kind = "dynamic" if isinstance(config, DynamicQuantConfig) else "static"
        rules[name] = None if config is None else {kind: config.settings}
    return rules


def _expanded(model: nn.Module, rules: Mapping[str, Any]) -> Configs:
    """The configs of all modules from what :func:`_rules` gave."""
    made_of: dict[str, Any] = {}
    for name, rule in rules.items():
        made_of[name] = None
        for kind, settings in (rule or {}).items():
            cls = DynamicQuantConfig if kind == "dynamic" else StaticQuantConfig
            made_of[name] = cls(**settings)
    configs: dict[str, Any] = {}
    for name, _ in model.named_modules(remove_duplicate=False):
        configs[name] = made_of[name] if name in made_of else configs[name.rpartition(".")[0]]
    return configs
