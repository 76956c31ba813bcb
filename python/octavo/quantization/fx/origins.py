"""Where a node of a graph comes from, and the QConfig that applies to it there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from octavo.quantization.qconfig import check_qconfig
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.units import canonical_type

__all__ = ["Origin", "note_origins", "origin_of", "qconfig_of", "set_origin"]

_KEY = "octavo_origin"
_NOTHING = object()


@dataclass(frozen=True)
class Origin:
    """Where a node comes from.

    Attributes:
        path: of the module that is called, or that the call of a function is in.
        containers: classes of the modules around it, the innermost first; for a function that is
            the module it is called in.
        types: what it is, the most specific first: a class, a function, or the name of a method.
        orders: for each of ``types``, path of the module it is directly in, and how many of that
            type were called there before.
        is_module: whether a module is called.
    """

    path: str
    containers: tuple[type, ...]
    types: tuple[Any, ...]
    orders: tuple[tuple[str, int], ...]
    is_module: bool


def origin_of(node: fx.Node) -> Origin:
    origin: Origin = node.meta[_KEY]
    return origin


def set_origin(node: fx.Node, origin: Origin, first_type: Any = None) -> None:
    """Notes where a node comes from that replaces others; ``first_type`` is what it is now."""
    if first_type is not None:
        origin = replace(
            origin,
            types=(first_type, *origin.types),
            orders=(("", -1), *origin.orders),
        )
    node.meta[_KEY] = origin


def note_origins(graph: fx.Graph, model: nn.Module, scopes: Mapping[str, tuple[str, Any]]) -> None:
    """Notes for each node of a freshly traced graph where it comes from."""
    seen: Counter[tuple[str, Any]] = Counter()
    for node in graph.nodes:
        scope = scopes.get(node.name, ("", None))[0]
        if node.op == "call_module":
            path, inside = str(node.target), str(node.target).rpartition(".")[0]
            module = model.get_submodule(path)
            known = canonical_type(module)
            types: tuple[Any, ...] = tuple(
                base for base in known.__mro__ if base not in (nn.Module, object)
            )
        else:
            path = inside = scope
            types = (node.target,) if node.op in ("call_function", "call_method") else ()
        containers = tuple(_classes_around(model, inside))
        orders = []
        for kind in types:
            orders.append((inside, seen[inside, kind]))
        for kind in types:
            seen[inside, kind] += 1
        node.meta[_KEY] = Origin(path, containers, types, tuple(orders), node.op == "call_module")


def _classes_around(model: nn.Module, path: str) -> list[type]:
    """Classes of a module and of those around it, the innermost first."""
    result: list[type] = []
    while True:
        result.append(canonical_type(model.get_submodule(path)))
        if not path:
            return result
        path = path.rpartition(".")[0]


def qconfig_of(origin: Origin, mapping: QConfigMapping) -> Any:
    """What a mapping says for a node.

    Rising priority: global; object type (of the modules around, from the outermost; of the
    function or module itself; for a function, the module it is in); regular expression; name of the
    module or one around it; order of an object type in a module.
    """
    result = _by_type(origin, mapping)
    for pattern, qconfig in mapping.module_name_regex_qconfigs.items():
        if re.match(pattern, origin.path):
            result = qconfig
            break
    result = _by_name(origin.path, mapping, result)
    for kind, (inside, index) in zip(origin.types, origin.orders, strict=True):
        rules = mapping.module_name_object_type_order_qconfigs
        found = rules.get((inside, kind, index), _NOTHING)
        if found is not _NOTHING:
            result = found
            break
    check_qconfig(result, origin.path)
    return result


def _by_type(origin: Origin, mapping: QConfigMapping) -> Any:
    rules: Mapping[Any, Any] = mapping.object_type_qconfigs
    candidates = list(origin.types)
    around = list(origin.containers)
    if not origin.is_module and around:
        candidates.insert(0, around.pop(0))
    for kind in (*candidates, *around):
        if kind in rules:
            return rules[kind]
    return mapping.global_qconfig


def _by_name(path: str, mapping: QConfigMapping, otherwise: Any) -> Any:
    rules = mapping.module_name_qconfigs
    while True:
        if path in rules:
            return rules[path]
        if not path:
            return otherwise
        path = path.rpartition(".")[0]
