"""Names of the modules of a lowered graph: where they came from in the float model."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch.fx import Node

from octavo.lowering.graph_view import module_path
from octavo.lowering.operators import words

__all__ = ["module_names", "wanted_name"]

# Modules of torch that do one thing; a container's operators are named after the operator too.
_LEAF_FILES = words(
    "linear conv batchnorm normalization instancenorm pooling sparse dropout upsampling padding"
)
_ACTIVATION_CONTAINERS = ("MultiheadAttention",)


def wanted_name(node: Node) -> str:
    """The path of the module that a node comes from where that module does nothing else, else the
    path with the node's name."""
    path, kind = module_path(node)
    parts = kind.split(".")
    leaf = (
        parts[:3] == ["torch", "nn", "modules"]
        and len(parts) > 4
        and (
            parts[3] in _LEAF_FILES
            or (parts[3] == "activation" and parts[-1] not in _ACTIVATION_CONTAINERS)
        )
    )
    name = node.name.rstrip("_")
    if path and leaf:
        return path
    return f"{path}.{name}" if path else name


def module_names(wanted: Iterable[str], taken: Collection[str]) -> list[str]:
    """A name for each module: the wanted one, or one like it where that is taken, or where another
    name would lie inside of it.

    Args:
        taken: names of what else the graph has.
    """
    wanted = list(wanted)
    containers = {prefix for name in (*wanted, *taken) for prefix in _prefixes(name)}
    used, result = set(taken), []
    for name in wanted:
        new, i = name, 0
        while new in used or new in containers or any(p in used for p in _prefixes(new)):
            i += 1
            new = f"{name}_{i}"
        used.add(new)
        result.append(new)
    return result


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
